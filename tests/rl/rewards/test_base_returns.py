"""One door for all callers of a reward: docs/rewards.md tells what each makes of what a reward returns."""

import json
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from lit_narrative.callbacks.evaluation import Verifiers
from lit_narrative.errors import UserError
from lit_narrative.lm.sampler import LoopSampler, SamplingParams
from lit_narrative.modules.grpo import GRPOModule
from lit_narrative.modules.sft import SFTModule
from lit_narrative.rl.best_of import BestOf
from lit_narrative.rl.rewards.base import ask
from lit_narrative.rl.rewards.runner import RewardRunner, ScoringSettings
from lit_narrative.views import Rollout
from tests.helpers import (
    PROMPTS,
    Recorder,
    TinyTask,
    fit,
    requests,
    sizes,
    tiny_lm,
    tokenizer,
    tokenizer_folder,
    trainer,
)
from tests.paths import ROOT
from tests.rl.rewards.reward_returns import OTHER, REWARDS, Returned
from tests.rl.rewards.reward_zoo import rollouts

PAGE = (ROOT / "docs" / "rewards.md").read_text(encoding="utf-8")
SHORT = SamplingParams(4)
STOPS, LOST, ALL_LOST = "stops", "no score", "no scores"
Callers = dict[str, Callable[[Sequence[Returned], Path], dict[str, str]]]


def outcome(first: float | None, second: float | None) -> str:
    """Of a rollout that got `FIRST` in some form, and of one that got `OTHER`."""
    missing = [score is None or math.isnan(score) for score in (first, second)]
    if all(missing):
        return ALL_LOST
    assert second in (OTHER, 0.0)
    return LOST if missing[0] else f"{first:g}"


def grpo(rewards: Sequence[Returned], folder: Path) -> dict[str, str]:
    given = {"tokenizer": tokenizer_folder(folder), "sampling": SamplingParams(2), "num_generations": 2}
    module = GRPOModule({reward.name: 1.0 for reward in rewards}, model=sizes(), **given)  # type: ignore[arg-type]
    fit(module, TinyTask(rewards=rewards), folder, max_steps=1)
    assert module.scored is not None
    return {r.form: outcome(*module.scored.rewards[r.name][:2].tolist()) for r in rewards}


def verifiers(rewards: Sequence[Returned], folder: Path) -> dict[str, str]:
    module = SFTModule(sizes(), sampling=SamplingParams(2))
    module.set_model(tiny_lm(), tokenizer())
    judge = Verifiers(2, rewards=[reward.name for reward in rewards])
    trainer(folder, judge).test(module, TinyTask(rewards=rewards), verbose=False)
    lines = (folder / "samples" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    first, second = (json.loads(line)["components"] for line in lines)
    # What is lost counts as 0 there, which `FIRST` is in no form.
    return {
        r.form: outcome(first[r.name] or None, second[r.name] if any((first[r.name], second[r.name])) else None)
        for r in rewards
    }


def best_of(rewards: Sequence[Returned], folder: Path) -> dict[str, str]:
    """By which of two samples is kept: `FIRST` is the score of the first prompt's first, and the second's last."""
    sampler, lm, wanted = LoopSampler(), tiny_lm(scale=4), requests(PROMPTS[:2], group=1)
    first = [rollout.text for rollout in sampler.sample(lm, tokenizer(), wanted, SHORT)]
    kept = {r.form: BestOf(sampler, 2, r).sample(lm, tokenizer(), wanted, SHORT) for r in rewards}
    by_kept = {(True, False): "chosen", (False, True): LOST, (True, True): ALL_LOST}
    return {form: by_kept[both[0].text == first[0], both[1].text == first[1]] for form, both in kept.items()}


def workers(rewards: Sequence[Returned], folder: Path) -> dict[str, str]:
    with RewardRunner({r.name: r for r in rewards}, ScoringSettings(workers=1)) as runner:
        columns = runner.score(rollouts("a", "b")).values.T.tolist()
    return {r.form: outcome(*column) for r, column in zip(rewards, columns, strict=True)}


CALLERS: Callers = {"GRPO": grpo, "`Verifiers`": verifiers, "`BestOf`": best_of}


def told() -> dict[str, dict[str, str]]:
    """The page's table: caller -> what is returned -> outcome."""
    part = PAGE.split("## What a reward may return\n")[1].split("\n## ")[0]
    head, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if line.startswith("|")
    ]
    return {caller: {row[0]: row[number] for row in rows} for number, caller in enumerate(head) if number}


def found(caller: str, folder: Path) -> dict[str, str]:
    """What a caller makes of every form: those that stop a run one by one, the others side by side."""
    stop = {reward.form for reward in REWARDS if told()["GRPO"][reward.form] == STOPS}
    result = CALLERS[caller]([reward for reward in REWARDS if reward.form not in stop], folder)
    for reward in REWARDS:
        if reward.form in stop:
            with pytest.raises(UserError, match=f"'{reward.name}'|no key"):
                CALLERS[caller]([reward], folder)
            result[reward.form] = STOPS
    return {reward.form: result[reward.form] for reward in REWARDS}


@pytest.mark.parametrize("caller", CALLERS)
def test_the_page_tells_what_each_caller_makes_of_it(caller: str, tmp_path: Path) -> None:
    assert found(caller, tmp_path) == told()[caller]


@pytest.mark.slow
def test_worker_processes_make_the_same_of_it(tmp_path: Path) -> None:
    CALLERS["workers"] = workers
    assert found("workers", tmp_path) == told()["GRPO"]


def test_no_warning_for_what_is_taken() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for reward in REWARDS:
            if told()["GRPO"][reward.form] not in (STOPS, ALL_LOST, LOST):
                assert all(isinstance(score, float) for score in ask("r", reward, rollouts("a", "b")))


@dataclass
class Judge:
    name: str = "judge"

    async def score(self, rollout: Rollout) -> float:
        return 0.5


def test_an_asynchronous_judge_of_samples_is_refused_before_training(tmp_path: Path) -> None:
    seen = Recorder()
    with pytest.raises(UserError, match="'judge' waits for others, and cannot judge samples"):
        fit(
            SFTModule(sizes(), tokenizer_folder(tmp_path)),
            TinyTask(rewards=[Judge()]),
            tmp_path,
            Verifiers(rewards=["judge"]),
            seen,
        )  # type: ignore[list-item]
    assert not seen.losses
