"""Sampling by a grammar: every text keeps to it, and the mask is part of the distribution wherever it is scored."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from jsonschema import Draft202012Validator
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import PreTrainedTokenizerFast

from lit_narrative.errors import UserError
from lit_narrative.lm.grammar import join_masks, read_grammar, unpack
from lit_narrative.lm.load import Lora, add_lora, build_lm, scratch_config
from lit_narrative.lm.logprobs import completion_batch, score_completions, to_rows
from lit_narrative.lm.sampler import LoopSampler, Request, SamplingParams
from lit_narrative.lm.tokenizer import TrainedTokenizer, encode_prompt, train_tokenizer
from lit_narrative.rl.batch import RolloutBatch
from lit_narrative.steering.baselines import Unsteered
from lit_narrative.steering.sampler import SteeredSampler
from lit_narrative.views import Prompt, Rollout
from tests.helpers import ARCHITECTURES, TEXTS, Recorder, TinyTask, fit, grpo, requests, sizes, tiny_lm, tokenizer

TALE = str(Path(__file__).parents[1] / "data" / "grammars" / "tale.json")
PARAMS = SamplingParams(40, temperature=0.9, grammar=TALE)


def sample(lm: nn.Module, params: SamplingParams = PARAMS, rows: int = 256, group: int = 4) -> list[Rollout]:
    return LoopSampler(rows).sample(lm, tokenizer(), requests(group=group), params)


def adapted(architecture: str) -> nn.Module:
    lm = add_lora(tiny_lm(architecture, scale=3), Lora(r=2))
    for name, parameter in lm.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    return lm.eval()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_text_keeps_to_the_grammar(architecture: str) -> None:
    validator = Draft202012Validator(json.loads(read_grammar(TALE)))
    rollouts = sample(tiny_lm(architecture, scale=3), group=16)
    assert all(rollout.finished for rollout in rollouts)
    for rollout in rollouts:
        validator.validate(json.loads(rollout.text))
    assert len({rollout.text for rollout in rollouts}) > 16  # it says where a text may go, and not which one it is


@pytest.mark.parametrize("kind", [*ARCHITECTURES, "adapters"])
def test_logprobs_are_those_of_scoring(kind: str) -> None:
    """Invariant 1 with a mask: log-probabilities and entropies are those of the masked distribution on both sides."""
    lm = adapted("llama") if kind == "adapters" else tiny_lm(kind, scale=3)
    batch = RolloutBatch.of(sample(lm))
    scores = score_completions(lm, batch.batch, temperature=0.9, entropy=True)
    found = to_rows(scores.logprobs, batch.mask)
    torch.testing.assert_close(found, batch.old, atol=1e-5, rtol=0)
    free = score_completions(lm, batch.batch._replace(masks=None), temperature=0.9).logprobs
    assert float((scores.logprobs - free).min()) >= -1e-5  # what is left out only makes the rest more likely
    assert float((scores.logprobs - free).max()) > 1


def test_gradients_are_those_of_the_masked_softmax() -> None:
    lm = tiny_lm("llama", scale=3).double()
    rollouts = sample(tiny_lm("llama", scale=3), group=2)
    batch = RolloutBatch.of(rollouts).batch
    scores = score_completions(lm, batch, temperature=0.9, entropy=True)
    (scores.logprobs.sum() + 0.3 * scores.entropy.sum()).backward()  # type: ignore[union-attr]
    found = {name: parameter.grad.clone() for name, parameter in lm.named_parameters() if parameter.grad is not None}
    lm.zero_grad()
    logits = lm(input_ids=batch.ids, use_cache=False).logits[:, :-1][batch.targets[:, 1:]] / 0.9
    allowed = unpack(batch.allowed, logits.shape[-1])  # type: ignore[arg-type]
    logprobs = logits.masked_fill(~allowed, -torch.inf).log_softmax(-1)
    entropy = -(logprobs.exp() * logprobs.masked_fill(~allowed, 0)).sum(-1)
    chosen = logprobs.gather(-1, batch.ids[batch.targets][:, None]).squeeze(-1)
    torch.testing.assert_close(scores.logprobs, chosen)
    torch.testing.assert_close(scores.entropy, entropy)
    (chosen.sum() + 0.3 * entropy.sum()).backward()
    for name, parameter in lm.named_parameters():
        # Rotary positions are computed in float32, whatever the model's precision.
        torch.testing.assert_close(found[name], parameter.grad, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_completion_does_not_depend_on_its_company(architecture: str) -> None:
    """Invariant 5: texts end at different steps, and leave the batch with their parsers."""
    lm = tiny_lm(architecture, scale=3)
    together, apart = sample(lm), sample(lm, rows=4)
    assert [r.completion_ids.tolist() for r in together] == [r.completion_ids.tolist() for r in apart]
    assert len({len(r.completion_ids) for r in together}) > 2
    both = [RolloutBatch.of(rollouts).batch for rollouts in (together, apart)]
    torch.testing.assert_close(*(unpack(batch.allowed, 300) for batch in both))  # type: ignore[arg-type]


def test_a_batch_in_progress_survives_a_checkpoint() -> None:
    batch = RolloutBatch.of(sample(tiny_lm()))
    file = io.BytesIO()
    torch.save(batch.as_dict(), file)
    file.seek(0)
    read = RolloutBatch.from_dict(torch.load(file, weights_only=True))
    part = torch.tensor([5, 2])
    expected, found = batch.select(part).batch.allowed, read.select(part).batch.allowed
    assert found is not None
    torch.testing.assert_close(found, expected)


def test_each_prompt_brings_its_own() -> None:
    def schema(name: str) -> dict[str, object]:
        return {**json.loads(read_grammar(TALE)), "properties": {"name": {"const": name}}, "required": ["name"]}

    names = ["salt", "tide", "salt"]
    asked = [
        Request(Prompt("A", {"grammar": schema(name)}), encode_prompt(tokenizer(), "A"), [2 * n, 2 * n + 1])
        for n, name in enumerate(names)
    ]
    rollouts = LoopSampler().sample(tiny_lm(), tokenizer(), asked, replace(PARAMS, grammar="prompt"))
    assert [rollout.text for rollout in rollouts] == [f'{{"name":"{name}"}}' for name in names for _ in range(2)]
    with pytest.raises(UserError, match=r"column `grammar` holds None, and not a JSON Schema"):
        LoopSampler().sample(tiny_lm(), tokenizer(), requests(), replace(PARAMS, grammar="prompt"))


def test_completions_with_and_without_a_grammar_are_not_mixed() -> None:
    lm = tiny_lm()
    plain = sample(lm, replace(PARAMS, grammar=None))
    assert plain[0].masks is None and join_masks([None]) is None
    with pytest.raises(UserError, match="sample all of them alike"):
        RolloutBatch.of([plain[0], sample(lm)[0]])


def test_a_tokenizer_that_splits_at_words_writes_by_the_same_grammar() -> None:
    words = train_tokenizer(TEXTS, TrainedTokenizer(300, split_words=True))
    lm = build_lm(scratch_config(sizes(), len(words), words.eos_token_id)).eval()
    asked = [Request(Prompt("A"), encode_prompt(words, "A"), [0, 1, 2])]
    for rollout in LoopSampler().sample(lm, words, asked, PARAMS):
        Draft202012Validator(json.loads(read_grammar(TALE))).validate(json.loads(rollout.text))


BAD = {
    "no file": ("absent.json", None, r"no file 'absent.json'.*or one of: storyworld, prompt"),
    "no JSON": ("bad.json", "{", r"bad.json"),
    "a list": ("bad.json", "[]", r"not a JSON Schema, an object"),
    "no type": ("bad.json", '{"type": "tale"}', r"cannot be used"),
    "contradiction": ("bad.json", '{"type": "integer", "minimum": 3, "maximum": 1}', r"cannot be used"),
    "never ends": (
        "bad.json",
        '{"type": "array", "minItems": 60, "items": {"type": "integer"}}',
        r"ends within model.sampling.max_new_tokens=40 tokens; raise that",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_grammar_that_cannot_be_used_is_one_clear_error(name: str, tmp_path: Path) -> None:
    file, text, message = BAD[name]
    if text is not None:
        (tmp_path / file).write_text(text)
    with pytest.raises(UserError, match=message):
        sample(tiny_lm(), replace(PARAMS, grammar=str(tmp_path / file) if text is not None else file))


def test_a_tokenizer_that_lacks_the_signs_is_told_where() -> None:
    vocabulary = {"<end>": 0, "A": 1, '"': 2, "{": 3, "salt": 4}
    lm = build_lm(scratch_config(sizes(), len(vocabulary), 0)).eval()
    kinds = {
        r"""cannot be written with this tokenizer: behind .* it has no token""": models.BPE(vocabulary, []),
        "of kind WordLevel": models.WordLevel(vocabulary, unk_token="A"),
    }
    for message, kind in kinds.items():
        plain = Tokenizer(kind)
        plain.pre_tokenizer, plain.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        given = PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="<end>")
        with pytest.raises(UserError, match=message):
            LoopSampler().sample(lm, given, [Request(Prompt("A"), [1], [0])], PARAMS)


def test_steered_sampling_refuses_it() -> None:
    with pytest.raises(UserError, match="not known to steered sampling"):
        SteeredSampler(Unsteered()).sample(tiny_lm(), tokenizer(), requests(), PARAMS)


def test_scoring_without_a_batch_of_masks_is_as_ever() -> None:
    batch = completion_batch([[5, 6]], [[7, 8, 1]])
    assert batch.allowed is None
    assert score_completions(tiny_lm(), batch).logprobs.shape == (3,)


def test_a_run_is_refused_before_its_first_step(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("[]")
    params = SamplingParams(12, grammar=str(tmp_path / "bad.json"))
    seen = Recorder()
    with pytest.raises(UserError, match="not a JSON Schema"):
        fit(grpo(tmp_path, sampling=params), TinyTask(), tmp_path, seen, max_steps=1)
    assert not seen.batches
