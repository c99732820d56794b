"""Samples, judged and written."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_narrative.callbacks.evaluation import Verifiers, summarise
from lit_narrative.datamodules.storyworld import StoryworldData
from lit_narrative.datamodules.task import Task
from lit_narrative.errors import UserError
from lit_narrative.lm.sampler import SamplingParams
from lit_narrative.modules.grpo import GRPOModule
from lit_narrative.modules.sae import SAEModule
from lit_narrative.modules.sft import SFTModule
from lit_narrative.tasks.storyworld.verifiers.base import SIX
from lit_narrative.views import Rollout, Verdict
from tests.helpers import TinyTask, fit, sizes, tiny_lm, tokenizer, tokenizer_folder, trainer
from tests.rewards import LowTokens

ROW = {"prompt", "text", "reward", "components", "issues", "finished", "tokens"}


def writer(**settings: Any) -> SFTModule:
    made = SFTModule(sizes(), **{"sampling": SamplingParams(8), **settings})
    made.set_model(tiny_lm(scale=4), tokenizer())
    return made


def rows(folder: Path, stage: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "samples" / f"{stage}.jsonl").read_text().splitlines()]


def summary(folder: Path, stage: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "verifiers" / f"{stage}.json").read_text())
    return found


def test_samples_of_a_task_are_judged_written_and_logged(tmp_path: Path) -> None:
    (metrics,) = trainer(tmp_path, Verifiers(samples=6)).test(writer(), TinyTask(rows=8), verbose=False)
    samples, found = rows(tmp_path, "test"), summary(tmp_path, "test")
    assert len(samples) == 6
    assert all(set(row) == ROW for row in samples)
    assert [row["prompt"] for row in samples] == [row.text for row in TinyTask().prompts("test")][:6]
    assert found["n"] == 6
    assert found["reward"] == pytest.approx(sum(row["reward"] for row in samples) / 6)
    assert metrics["test/verifiers"] == pytest.approx(found["reward"])
    assert metrics["test/valid_json"] == pytest.approx(found["valid_json"])
    assert metrics["test/unique"] == found["unique"] == len({row["text"] for row in samples}) / 6
    assert metrics["test/components/lower"] == pytest.approx(found["components"]["lower"])
    references = [row.columns["reference"] for row in TinyTask().prompts("test")][:6]
    lower = [sum(letter.islower() for letter in text) / len(text) for text in references]
    assert found["corpus"]["reward"] == pytest.approx(sum(lower) / 6)


def test_the_summary_of_storyworlds_has_the_documented_keys(policy: Path, tmp_path: Path) -> None:
    module = SFTModule(model=str(policy), sampling=SamplingParams(128))
    data = StoryworldData(train_size=16, test_size=16, eval_batch_size=16)
    (metrics,) = trainer(tmp_path, Verifiers(samples=16)).test(module, data, verbose=False)
    found, samples = summary(tmp_path, "test"), rows(tmp_path, "test")
    keys = {"n", "reward", "reward_ci", "original_total", "valid_json", "components", "unique", "unique_names"}
    keys |= {"unique_skeleton", "effective_shapes", "commonest_shape", "encounters", "adherence", "funnel"}
    keys |= {"parses", "no_error", "two_endings", "no_dead_end", "live_gate", "playable", "sound"}
    assert set(found) == keys | {"corpus", "seed"}
    assert set(found["corpus"]) == keys
    assert found["corpus"]["adherence"] == 1
    funnel = list(found["corpus"]["funnel"].values())
    assert list(found["funnel"]) == ["parses", "no_error", "two_endings", "live_gate", "sound"]
    assert funnel == sorted(funnel, reverse=True)
    assert funnel[0] == 1 and funnel[-1] == found["corpus"]["sound"]
    logged = keys - {"n", "reward", "reward_ci", "components", "funnel"} | {"verifiers"}
    assert {f"test/{name}" for name in logged} <= set(metrics)
    assert set(found["components"]) == set(found["corpus"]["components"]) == set(SIX)
    low, high = found["reward_ci"]
    assert low <= found["reward"] <= high
    assert found["corpus"]["valid_json"] == 1
    assert any(row["issues"] for row in samples)
    assert set(next(row for row in samples if row["issues"])["issues"][0]) == {"path", "message", "severity"}


def test_every_run_sees_the_same_prompts_and_streams(tmp_path: Path) -> None:
    for name, seed, batch in (("one", 3, 4), ("again", 3, 1), ("other", 4, 4)):
        folder = tmp_path / name
        trainer(folder, Verifiers(8, seed)).test(writer(), TinyTask(rows=8, batch_size=batch), verbose=False)
    assert rows(tmp_path / "again", "test") == rows(tmp_path / "one", "test")
    assert summary(tmp_path / "again", "test") == summary(tmp_path / "one", "test")
    assert rows(tmp_path / "other", "test") != rows(tmp_path / "one", "test")
    assert summary(tmp_path / "other", "test")["seed"] == 4


def test_validation_judges_too_but_not_while_checking_sanity(tmp_path: Path) -> None:
    module = SFTModule(sizes(), tokenizer_folder(tmp_path), sampling=SamplingParams(8))
    settings: dict[str, Any] = {"max_epochs": 1, "limit_val_batches": 1}
    runner = fit(module, TinyTask(), tmp_path, Verifiers(4), **settings, num_sanity_val_steps=1)
    assert {"val/verifiers", "val/unique", "val/loss"} <= set(runner.callback_metrics)
    assert summary(tmp_path, "val")["n"] == 4
    elsewhere = tmp_path / "sanity"
    fit(module, TinyTask(), elsewhere, Verifiers(4), max_steps=0, limit_val_batches=1, num_sanity_val_steps=1)
    assert not list(elsewhere.rglob("*.json*"))


def test_prompts_beyond_the_samples_and_samples_beyond_the_prompts(tmp_path: Path) -> None:
    trainer(tmp_path, Verifiers(100)).test(writer(), TinyTask(rows=5), verbose=False)
    assert summary(tmp_path, "test")["n"] == 5


def test_a_prediction_is_judged_once(tmp_path: Path) -> None:
    judge = Verifiers()
    for _ in range(2):
        predicted = trainer(tmp_path, judge).predict(writer(), TinyTask(rows=6))
    assert [row["text"] for row in rows(tmp_path, "predict")] == [r.text for batch in predicted or [] for r in batch]
    assert summary(tmp_path, "predict")["n"] == 6


def test_a_dry_run_leaves_nothing(tmp_path: Path) -> None:
    (metrics,) = trainer(tmp_path, Verifiers(6), fast_dev_run=True).test(writer(), TinyTask(), verbose=False)
    assert "test/verifiers" in metrics
    assert not list(tmp_path.iterdir())


def test_a_policy_in_rl_is_judged_in_evaluation_mode(tmp_path: Path) -> None:
    module = GRPOModule({"low": 1.0}, sampling=SamplingParams(8))
    module.set_model(tiny_lm("gpt2", dropout=0.5, scale=4), tokenizer())
    found = []
    for name in ("one", "two"):
        module.train()
        trainer(tmp_path / name, Verifiers(4)).test(module, TinyTask(), verbose=False)
        found.append(rows(tmp_path / name, "test"))
    assert found[0] == found[1]


def test_a_module_that_writes_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Verifiers needs a module that writes text; SAEModule does not"):
        fit(SAEModule(), TinyTask(), tmp_path, Verifiers(), max_steps=1)  # type: ignore[arg-type]


def test_a_task_that_judges_nothing_is_refused_before_training(tmp_path: Path) -> None:
    class Unjudged(TinyTask):
        verify = Task.verify

    with pytest.raises(UserError, match="callback Verifiers: Unjudged has no verifiers; override its method `verify`"):
        trainer(tmp_path, Verifiers(), max_epochs=1).fit(writer(), Unjudged())


def test_a_further_reward_is_a_component_that_does_not_count(tmp_path: Path) -> None:
    for name, rewards in (("plain", []), ("more", ["low"])):
        trainer(tmp_path / name, Verifiers(6, rewards=rewards)).test(writer(), TinyTask(), verbose=False)
    plain, more = rows(tmp_path / "plain", "test"), rows(tmp_path / "more", "test")
    assert [row["reward"] for row in more] == [row["reward"] for row in plain]
    assert all(0 <= row["components"].pop("low") <= 1 for row in more)
    assert more == plain
    assert set(summary(tmp_path / "more", "test")["components"]) == {"lower", "low"}


class Broken(LowTokens):
    name = "broken"

    def __call__(self, rollouts: Sequence[Rollout]) -> list[float | None]:
        raise ConnectionError("the judge is away")


def test_a_further_reward_that_fails_costs_its_scores_and_not_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer(tmp_path, Verifiers(4, rewards=["broken"])).test(writer(), TinyTask(rewards=[Broken()]), verbose=False)
    assert summary(tmp_path, "test")["components"]["broken"] == 0
    assert "'broken': 4 of 4 completions have no score; first cause: ConnectionError: the judge is away" in caplog.text


class Lower(LowTokens):
    name = "lower"


def test_a_reward_under_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    judge = Verifiers(4, rewards=["lower"])
    with pytest.raises(UserError, match="there is a score 'lower' already"):
        trainer(tmp_path, judge).test(writer(), TinyTask(rewards=[Lower()]), verbose=False)


def test_no_samples_are_refused() -> None:
    with pytest.raises(UserError, match="samples=0 must be at least 1"):
        Verifiers(samples=0)


def test_means_and_interval_by_hand() -> None:
    verdicts = [
        Verdict(1.0, {"a": 1.0}, True, extra={"original_total": 0.5}),
        Verdict(0.0, {"a": 0.0}, False, extra={"original_total": 0.0}),
        Verdict(0.5, {"a": 0.5}, True, extra={"original_total": 1.0}),
    ]
    margin = 1.96 * 0.5 / 3**0.5
    found = summarise(verdicts)
    assert found.pop("reward_ci") == pytest.approx([0.5 - margin, 0.5 + margin])
    assert found == {
        "n": 3,
        "reward": 0.5,
        "valid_json": pytest.approx(2 / 3),
        "components": {"a": 0.5},
        "original_total": 0.5,
    }
    assert summarise(verdicts[:1])["reward_ci"] == [1, 1]
    assert torch.tensor(found["reward"]) == 0.5
