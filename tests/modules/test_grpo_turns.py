"""Reinforcement learning in turns: a card game that answers, a world that is played, and what is logged."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_narrative.callbacks.evaluation import Verifiers
from lit_narrative.datamodules.cards import CardsData
from lit_narrative.datamodules.storyworld import StoryworldData
from lit_narrative.errors import UserError
from lit_narrative.lm.load import ScratchModel, add_end_id
from lit_narrative.lm.sampler import SamplingParams
from lit_narrative.lm.tokenizer import TrainedTokenizer
from lit_narrative.lm.turns import TurnSettings
from lit_narrative.modules.grpo import GRPOModule
from lit_narrative.modules.sft import SFTModule
from lit_narrative.modules.steering import SteeringModule
from lit_narrative.tasks.cards.prompts import MISSING, WRONG
from lit_narrative.tasks.storyworld.simulator.playing import PlaySettings
from tests.helpers import Recorder, TinyTask, fit, grpo, tiny_lm, tokenizer, trainer

NARROW = ScratchModel("llama", hidden_size=16, layers=1, heads=2, positions=320, seed=0)


class Short(GRPOModule):
    """Every eighth token ends a text, so that a policy that knows nothing ends its turns."""

    def set_model(self, lm: Any, tokenizer: Any) -> None:
        super().set_model(lm, tokenizer)
        for token in range(0, len(tokenizer), 8):
            add_end_id(lm, token)


def test_a_policy_answers_again_after_the_feedback_of_the_card_game(tmp_path: Path) -> None:
    module, seen = (
        Short(
            rewards={"correct": 1.0, "format": 0.1},
            model=NARROW,
            tokenizer=TrainedTokenizer(600, kind="words"),
            num_generations=4,
            micro_batch_size=4,
            sampling=SamplingParams(16),
            turns=TurnSettings("revise", most=3, observation_tokens=16),
        ),
        Recorder(),
    )
    fit(module, CardsData(prompt_size=4, batch_size=4), tmp_path, seen, max_epochs=1, accumulate_grad_batches=2)
    assert module.scored is not None
    rollouts, metrics = module.scored.rollouts, seen.metrics[-1]
    assert {len(rollout.turns) for rollout in rollouts} >= {1, 2}
    assert {turn.observation for rollout in rollouts for turn in rollout.turns} <= {WRONG, MISSING}
    assert metrics["turns/mean"] == pytest.approx(sum(1 + len(r.turns) for r in rollouts) / 16)
    assert metrics["turns/untaken"] == 0
    assert metrics["completions/mean_length"] == pytest.approx(sum(len(r.completion_ids) for r in rollouts) / 16)
    read = sum(len(r.prompt_ids) + sum(len(turn.ids) for turn in r.turns) for r in rollouts)
    assert metrics["num_tokens"] == read + sum(len(r.completion_ids) for r in rollouts)
    assert seen.batches[0].totals.max_completion_length == 3 * 16
    assert sum(int(batch.mask.sum()) for batch in seen.batches) == sum(len(r.completion_ids) for r in rollouts)


def test_a_policy_plays_worlds_by_numbers(tmp_path: Path) -> None:
    (tmp_path / "number.json").write_text(json.dumps({"enum": [1, 2, 3]}))
    data = StoryworldData(train_size=8, val_size=4, test_size=4, batch_size=4, play=PlaySettings())
    settings: dict[str, Any] = {
        "rewards": {"play": 1.0},
        "model": ScratchModel("llama", hidden_size=16, layers=1, heads=2, positions=640, seed=0),
        "tokenizer": TrainedTokenizer(600, sample=100),
        "num_generations": 4,
        "sampling": SamplingParams(3, grammar=str(tmp_path / "number.json")),
        "turns": TurnSettings("play", most=6, observation_tokens=90),
    }
    module, seen = GRPOModule(**settings), Recorder()
    fit(module, data, tmp_path, seen, max_epochs=1, limit_train_batches=1, max_steps=1)
    assert module.scored is not None
    assert max(len(rollout.turns) for rollout in module.scored.rollouts) >= 2
    assert all(text in "123" for rollout in module.scored.rollouts for text in rollout.texts)
    assert set(module.scored.rewards["play"].tolist()) == {0.0, 1.0}
    (metrics,) = trainer(tmp_path, Verifiers(samples=4)).test(module, data, verbose=False)
    assert 0 <= metrics["test/turns/1/ended"] <= metrics["test/turns/6/ended"] == metrics["test/verifiers"]


def test_the_texts_after_each_turn_are_judged_and_samples_hold_them(tmp_path: Path) -> None:
    module = SFTModule(NARROW, sampling=SamplingParams(8), turns=TurnSettings("critic", 2, 24))
    lm = tiny_lm(scale=4, positions=256)
    for token in range(0, 300, 8):
        add_end_id(lm, token)
    module.set_model(lm, tokenizer())
    (metrics,) = trainer(tmp_path, Verifiers(samples=8)).test(module, TinyTask(rows=8), verbose=False)
    rows = [json.loads(line) for line in (tmp_path / "samples" / "test.jsonl").read_text().splitlines()]
    first, second = json.loads((tmp_path / "verifiers" / "test.json").read_text())["turns"]
    again = [row for row in rows if "turns" in row]
    assert 0 < len(again) < 8 and second["written"] == len(again) / 8 and first["written"] == 1
    earlier = [row["turns"][0]["text"] if "turns" in row else row["text"] for row in rows]

    def lower(text: str) -> float:
        return sum(letter.islower() for letter in text) / max(len(text), 1)

    assert first["reward"] == pytest.approx(sum(map(lower, earlier)) / 8)
    assert second["reward"] == pytest.approx(sum(lower(row["text"]) for row in rows) / 8)
    assert metrics["test/verifiers"] == pytest.approx(second["reward"])
    assert all(row["turns"][0]["observation"].startswith("No: ") for row in again)


def test_turns_are_refused_where_they_cannot_be_taken(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.turns is not known to steered sampling"):
        SteeringModule(model=NARROW, turns=TurnSettings("critic"))
    module = grpo(tmp_path, turns=TurnSettings("critic", 2, 16), sampling=SamplingParams(8))
    assert module.environment is None  # outside of a Trainer, until one is set
    module.set_model(tiny_lm(), tokenizer())
    assert not any(rollout.turns for rollout in module.generate("A", samples=8))
    module.environment = lambda rollouts: ["No."] * len(rollouts)
    for token in range(0, 300, 4):
        add_end_id(module.lm, token)
    assert any(rollout.turns for rollout in module.generate("A", samples=8))
    assert torch.is_grad_enabled()
