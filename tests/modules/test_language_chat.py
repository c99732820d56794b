"""Runs with a chat template: what is refused before the first step, where completions end, and what is kept of it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast

from lit_narrative.callbacks.evaluation import Verifiers, sample_row
from lit_narrative.callbacks.writers import RolloutWriter
from lit_narrative.datamodules.base import Split
from lit_narrative.datamodules.rejection_sampling import RejectionSampling, best_texts
from lit_narrative.errors import UserError
from lit_narrative.lm.checkpoint import export_model
from lit_narrative.lm.load import Lora, end_ids
from lit_narrative.lm.sampler import SamplingParams
from lit_narrative.modules.grpo import GRPOModule
from lit_narrative.modules.sft import SFTModule
from lit_narrative.views import Example, Prompt, Rollout, Verdict
from tests.helpers import TEXTS, Recorder, TinyTask, fit, tiny_lm, tokenizer, trainer
from tests.lm.chat_templates import EARLIER, QUESTION, SYSTEM, TEMPLATES, Template, chatty
from tests.lm.test_chat import NEEDS_SYSTEM

SOME = SamplingParams(24)


class Talks(TinyTask):
    """Conversations: prompts with a system turn, others with several turns."""

    def examples(self, split: Split) -> list[Example]:
        prompts = [[SYSTEM, QUESTION], [*EARLIER, QUESTION]] * 4
        return [Example(prompt, TEXTS[n]) for n, prompt in enumerate(prompts)]


def folder_of(path: Path, template: Template | str, **generation: Any) -> str:
    """A tiny model with a chat template, as a folder."""
    words = chatty(template)
    lm = tiny_lm(vocabulary=len(words), positions=256, scale=4)
    lm.save_pretrained(path)
    words.save_pretrained(path)
    if generation:
        GenerationConfig(**generation).to_json_file(path / "generation_config.json")
    return str(path)


@pytest.mark.parametrize(
    ("template", "task", "says"),
    [
        ("", TinyTask, r"model\.chat=true, but the tokenizer has no chat template"),
        (NEEDS_SYSTEM, TinyTask, r"the roles user \(A system prompt is required\)"),
        (TEMPLATES["Gemma"], Talks, r"the roles system, user.* \(System role not supported\)"),
    ],
    ids=["no template", "demands a system turn", "refuses one"],
)
@pytest.mark.parametrize("kind", [SFTModule, GRPOModule])
def test_what_a_template_does_not_take_ends_a_run_before_its_first_step(
    kind: Any, template: Any, task: type[TinyTask], says: str, tmp_path: Path
) -> None:
    rewards = {"rewards": {"low": 1.0}} if kind is GRPOModule else {"long_examples": "truncate"}
    module = kind(model=folder_of(tmp_path / "model", template), chat=True, sampling=SOME, **rewards)
    seen = Recorder()
    with pytest.raises(UserError, match=says):
        fit(module, task(), tmp_path, seen, max_steps=1)
    assert not seen.batches


@pytest.mark.parametrize("name", ["Gemma", "Phi-3"])
def test_a_completion_ends_with_its_turn(name: str, tmp_path: Path) -> None:
    """Whatever the model samples, nothing stands behind the token that the template ends a turn with."""
    template = TEMPLATES[name]
    module = SFTModule(folder_of(tmp_path / "model", template), chat=True, sampling=SamplingParams(100))
    module.set_model(*module.source.build())
    end, eos = module.tokenizer.convert_tokens_to_ids([template.end, template.eos])
    assert set(end_ids(module.lm, module.tokenizer)) == {eos, 1, end} and end != eos
    rows = [rollout.completion_ids.tolist() for rollout in module.generate([Prompt("Write.")], samples=24)]
    assert any(end in row for row in rows)
    assert all(end not in row[:-1] for row in rows)


def test_the_mark_that_ends_a_turn_is_none_of_the_text_where_it_is_an_ordinary_token(tmp_path: Path) -> None:
    """As ChatML's often is in fine-tuned models: the tokenizer decodes it, and rewards would read it."""
    words = PreTrainedTokenizerFast(tokenizer_object=tokenizer().backend_tokenizer, eos_token="<|end|>")
    words.add_tokens(["<|im_start|>", "<|im_end|>"])
    words.chat_template = TEMPLATES["ChatML"].text
    module = SFTModule(chat=True, sampling=SamplingParams(100))
    module.set_model(tiny_lm(vocabulary=len(words), positions=256, scale=4), words)
    (end,) = words.convert_tokens_to_ids(["<|im_end|>"])
    ended = [row for row in module.generate([Prompt("Write.")], samples=24) if row.completion_ids[-1] == end]
    assert ended and all(row.finished and "<|im_end|>" not in row.text for row in ended)


@pytest.mark.parametrize("lora", [None, Lora(r=2)])
def test_conversations_are_trained_sampled_and_exported(lora: Lora | None, tmp_path: Path, recwarn: Any) -> None:
    settings = {"do_sample": False, "temperature": 0.6, "top_p": 0.9, "eos_token_id": [1]}
    model = folder_of(tmp_path / "model", TEMPLATES["ChatML"], **settings)
    module = SFTModule(model, chat=True, sampling=SOME, lora=lora, dtype="bfloat16")
    seen = Recorder()
    runner = fit(module, Talks(), tmp_path, seen, max_steps=2)
    (end,) = module.tokenizer.convert_tokens_to_ids(["<|im_end|>"])
    assert all((batch.ids[batch.targets] == end).sum() == len(batch.ids) for batch in seen.batches)
    runner.save_checkpoint(tmp_path / "last.ckpt")
    again = SFTModule.load_from_checkpoint(tmp_path / "last.ckpt")
    assert not [str(warning.message) for warning in recwarn if "not in the checkpoint" in str(warning.message)]
    batches = trainer(tmp_path).predict(again, Talks())
    assert batches is not None
    rollouts: list[Rollout] = [rollout for batch in batches for rollout in batch]
    assert list(rollouts[0].messages) == [SYSTEM, QUESTION]
    assert rollouts[0].prompt == f"{SYSTEM['content']}\n\n{QUESTION['content']}"

    out = export_model(tmp_path / "last.ckpt", tmp_path / "out")
    written = json.loads((out / "generation_config.json").read_text())
    assert {name: written[name] for name in settings} == {**settings, "eos_token_id": [1, end]}
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
    assert json.loads((out / "config.json").read_text())["eos_token_id"] == 1
    words = AutoTokenizer.from_pretrained(out)
    assert words.pad_token is None and words.chat_template == module.tokenizer.chat_template
    # What was judged can be imitated: the conversation comes back.
    verdict = Verdict(0.5, {}, True)
    row = sample_row(rollouts[0], verdict) | {"finished": True}
    (tmp_path / "predict.jsonl").write_text(json.dumps(row) + "\n")
    (example,) = best_texts(RejectionSampling(str(tmp_path / "predict.jsonl"), share=1))
    assert example.prompt == [SYSTEM, QUESTION] and example.completion == rollouts[0].text


class Judged(Talks):
    """Judges answers to conversations only."""

    def verify(self, rollouts: Sequence[Rollout]) -> list[Verdict]:
        assert all(rollout.messages for rollout in rollouts)
        return super().verify(rollouts)


def test_grpo_learns_from_conversations(tmp_path: Path) -> None:
    module = GRPOModule(
        model=folder_of(tmp_path / "model", TEMPLATES["Llama-3"]),
        chat=True,
        sampling=SOME,
        rewards={"low": 1.0},
        num_generations=2,
    )
    seen = Recorder()
    fit(module, Judged(), tmp_path, seen, Verifiers(samples=2), RolloutWriter(), max_epochs=1, limit_train_batches=1)
    rows = [json.loads(line) for line in (tmp_path / "rollouts" / "cycle_000.jsonl").read_text().splitlines()]
    assert {len(row["messages"]) for row in rows} == {2, 3}
    assert seen.losses and seen.metrics[-1]["completions/mean_length"] > 0
