"""Completions in turns: one sequence, of which the policy's own tokens alone are the completion."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lit_narrative.errors import UserError
from lit_narrative.lm.chat import chat_prompt, turn_end
from lit_narrative.lm.encoding import PromptReader, example_ids
from lit_narrative.lm.grammar import unpack
from lit_narrative.lm.load import Lora, add_end_id, add_lora
from lit_narrative.lm.logprobs import score_completions, to_rows
from lit_narrative.lm.sampler import LoopSampler, Request, SamplingParams
from lit_narrative.lm.tokenizer import encode_completion, encode_prompt
from lit_narrative.lm.turns import Environment, TurnSampler, TurnSettings, observation_ids
from lit_narrative.rl.batch import RolloutBatch
from lit_narrative.views import Example, Prompt, Rollout, Turn
from tests.helpers import ARCHITECTURES, PROMPTS, TEXTS, TinyTask, critic, fit, grpo, requests, tiny_lm, tokenizer
from tests.lm.chat_templates import TEMPLATES, chatty

TALE = str(Path(__file__).parents[1] / "data" / "grammars" / "tale.json")
GRAMMARS = {"free": None, "grammar": TALE}
TURNS = TurnSettings("critic", 3, 24)


def model(kind: str) -> nn.Module:
    """A tiny model for which every eighth token ends a text, so that turns end by themselves."""
    lm: nn.Module = tiny_lm("llama" if kind == "adapters" else kind, scale=3, positions=256)
    for token in range(0, 300, 8):
        add_end_id(lm, token)
    if kind == "adapters":
        lm = add_lora(lm, Lora(r=2))
        for name, parameter in lm.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    return lm.eval()


def sample(
    lm: nn.Module,
    grammar: str | None = None,
    rows: int = 256,
    environment: Environment = critic,
    turns: TurnSettings = TURNS,
    asked: Sequence[Request] = (),
    length: int = 40,
) -> list[Rollout]:
    params = SamplingParams(length, temperature=0.9, grammar=grammar)
    sampler = TurnSampler(LoopSampler(rows), environment, turns)
    return sampler.sample(lm, tokenizer(), asked or requests(group=4), params)


@pytest.mark.parametrize("grammar", GRAMMARS)
@pytest.mark.parametrize("kind", [*ARCHITECTURES, "adapters"])
def test_logprobs_of_all_turns_are_those_of_scoring(kind: str, grammar: str) -> None:
    """Invariant 1, with prompts that a group shares, observations of unequal length, and a mask for each turn."""
    lm = model(kind)
    rollouts = sample(lm, GRAMMARS[grammar])
    assert {len(rollout.turns) for rollout in rollouts} == {0, 1, 2}
    batch = RolloutBatch.of(rollouts)
    scores = score_completions(lm, batch.batch, temperature=0.9, entropy=True)
    torch.testing.assert_close(to_rows(scores.logprobs, batch.mask), batch.old, atol=1e-5, rtol=0)
    for row, rollout in enumerate(rollouts):
        alone = score_completions(lm, RolloutBatch.of([rollout]).batch, temperature=0.9)
        torch.testing.assert_close(alone.logprobs, batch.old[row][batch.mask[row]], atol=1e-5, rtol=0)


@pytest.mark.parametrize("grammar", GRAMMARS)
def test_turns_are_one_sequence_of_which_observations_are_no_part_of_the_completion(grammar: str) -> None:
    rollouts = sample(model("llama"), GRAMMARS[grammar])
    batch = RolloutBatch.of(rollouts)
    for row, rollout in enumerate(rollouts):
        ids, left = rollout.prompt_ids.tolist(), rollout.completion_ids.tolist()
        learned = [False] * len(ids)
        for turn, text in zip(rollout.turns, rollout.texts, strict=False):
            assert turn.text == text and turn.observation == f"No: {len(text)}.\n"
            assert list(turn.ids) == observation_ids(tokenizer(), turn.observation, chat=False)
            ids += [*left[: turn.length], *turn.ids]
            learned += [True] * turn.length + [False] * len(turn.ids)
            left = left[turn.length :]
        assert left == rollout.last_ids.tolist()
        ids, learned = [*ids, *left], [*learned, *[True] * len(left)]
        assert batch.batch.ids[row, : len(ids)].tolist() == ids
        assert batch.batch.targets[row].nonzero().flatten().tolist() == [n for n, one in enumerate(learned) if one]
        assert batch.mask[row].sum() == len(rollout.completion_ids) == len(rollout.logprobs)
        assert tokenizer().decode(rollout.last_ids, skip_special_tokens=True) == rollout.text


@pytest.mark.parametrize("grammar", GRAMMARS)
def test_a_completion_does_not_depend_on_its_company(grammar: str) -> None:
    """Invariant 5."""
    lm = model("llama")
    together, apart = (sample(lm, GRAMMARS[grammar], rows) for rows in (256, 3))
    assert [r.completion_ids.tolist() for r in together] == [r.completion_ids.tolist() for r in apart]
    assert [r.turns for r in together] == [r.turns for r in apart]
    alone = sample(lm, GRAMMARS[grammar], asked=requests(PROMPTS[1:2], group=4))
    assert [r.texts for r in together[4:8]] == [r.texts for r in alone]
    if grammar == "grammar":
        masks = [RolloutBatch.of(rollouts).batch.allowed for rollouts in (together, apart)]
        torch.testing.assert_close(*(unpack(mask, 300) for mask in masks if mask is not None))


def test_the_first_turn_is_the_one_without_an_environment() -> None:
    lm = model("llama")
    plain = LoopSampler().sample(lm, tokenizer(), requests(group=4), SamplingParams(40, temperature=0.9))
    assert [r.texts[0] for r in sample(lm)] == [r.text for r in plain]
    silent = sample(lm, environment=lambda rollouts: [None] * len(rollouts))
    assert [r.completion_ids.tolist() for r in silent] == [r.completion_ids.tolist() for r in plain]


def test_turns_end_where_the_environment_is_content_or_the_text_was_cut_off() -> None:
    seen: list[list[str]] = []

    def stubborn(rollouts: Sequence[Rollout]) -> list[str | None]:
        seen.append([rollout.text for rollout in rollouts])
        return ["More. " for _ in rollouts]

    rollouts = sample(model("llama"), environment=stubborn, turns=TurnSettings("critic", 2, 24), length=6)
    (asked,) = seen  # the last turn is not answered
    assert {len(rollout.turns) for rollout in rollouts} == {0, 1}
    cut = [rollout for rollout in rollouts if not rollout.turns]
    assert cut and not any(rollout.finished or rollout.untaken for rollout in cut)
    assert len(asked) == len(rollouts) - len(cut)


def test_an_observation_that_is_too_long_is_counted_and_no_turn_is_taken() -> None:
    rollouts = sample(model("llama"), environment=lambda rollouts: ["No. " * 40 for _ in rollouts])
    long = [rollout for rollout in rollouts if rollout.untaken]
    assert long and all(not rollout.turns and rollout.finished for rollout in long)
    assert RolloutBatch.of(rollouts).mask.sum() == sum(len(rollout.completion_ids) for rollout in rollouts)


def test_a_batch_in_progress_survives_a_checkpoint() -> None:
    batch = RolloutBatch.of(sample(model("llama"), TALE))
    file = io.BytesIO()
    torch.save(batch.as_dict(), file)
    file.seek(0)
    read = RolloutBatch.from_dict(torch.load(file, weights_only=True)).select(torch.tensor([5, 2]))
    lm = model("llama")
    found = to_rows(score_completions(lm, read.batch, temperature=0.9).logprobs, read.mask)
    torch.testing.assert_close(found, read.old, atol=1e-5, rtol=0)


def test_examples_stand_as_rollouts_do() -> None:
    turns = (Turn(TEXTS[0], "No."), Turn(TEXTS[1], "Nor that.\n"))
    (prompt,), (completion,) = example_ids([Example("A", TEXTS[2], turns=turns)], tokenizer(), chat=False)
    expected = encode_prompt(tokenizer(), "A")
    for turn in turns:
        expected += [*encode_completion(tokenizer(), turn.text), *observation_ids(tokenizer(), turn.observation, False)]
    assert prompt == expected
    assert completion == encode_completion(tokenizer(), TEXTS[2])


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_chat_reads_an_observation_as_a_users_turn(name: str) -> None:
    """The template's own tokens of the whole conversation, the end of the answer included once."""
    chat = chatty(TEMPLATES[name])
    conversation = [
        {"role": "user", "content": "Write."},
        {"role": "assistant", "content": TEXTS[0]},
        {"role": "user", "content": "No."},
    ]
    row = Example("Write.", TEXTS[1], turns=(Turn(TEXTS[0], "No."),))
    (prompt,), (completion,) = example_ids([row], chat, chat=True)
    # Qwen3's leaves the thoughts out of earlier answers; a policy reads what it wrote.
    assert chat.decode(prompt).replace("<think>\n\n</think>\n\n", "") == chat.decode(chat_prompt(chat, conversation))
    assert name == "Qwen3" or prompt == chat_prompt(chat, conversation)
    assert turn_end(chat) in completion


def test_special_tokens_in_an_observation_are_text() -> None:
    end = tokenizer().eos_token
    ids = observation_ids(tokenizer(), f"no encounter '{end}'", chat=False)
    assert tokenizer().eos_token_id not in ids
    assert tokenizer().decode(ids) == "no encounter ' '"


def test_turns_that_do_not_fit_are_refused_beforehand(tmp_path: Path) -> None:
    reader = PromptReader(tokenizer(), 128, 40, turns=TurnSettings("critic", 2, 16))
    assert reader.limit == 128 - 2 * 40 - 16
    with pytest.raises(UserError, match=r"max_new_tokens=40 in model.turns.most=3 turns, .*tokens=16 between them"):
        PromptReader(tokenizer(), 128, 40, turns=TurnSettings("critic", 3, 16))
    with pytest.raises(UserError, match=r"128 positions are left by sampling.max_new_tokens=40 in model.turns.most=2"):
        reader.encode(["A tide. " * 40])
    for bad in ({"most": 1}, {"observation_tokens": 0}):
        with pytest.raises(UserError, match=f"model.turns.{next(iter(bad))}"):
            TurnSettings("critic", **bad)
    settings: dict[str, Any] = {"num_generations": 2, "sampling": SamplingParams(60), "turns": TurnSettings("critic")}
    with pytest.raises(UserError, match=r"model.turns.most=2 turns.*leaves no room"):
        fit(grpo(tmp_path, **settings), TinyTask(), tmp_path, max_steps=1)
    with pytest.raises(UserError, match=r"model.turns.environment of TinyTask.*'critic'"):
        fit(grpo(tmp_path, **{**settings, "turns": TurnSettings("critics")}), TinyTask(), tmp_path, max_steps=1)


def test_vectors_and_turns_are_not_mixed() -> None:
    asked = [Request(Prompt("A", injection=torch.zeros(4).numpy()), [5], [0])]
    with pytest.raises(UserError, match=r"model.turns is not known to prompts with vectors"):
        sample(model("llama"), asked=asked)
