"""Writers of rollouts, samples and predictions, and the monitor of collapse."""

import csv
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import wandb
from lightning.pytorch.loggers import WandbLogger

from lit_narrative.callbacks.base import RolloutCallback
from lit_narrative.callbacks.monitors import CollapseMonitor
from lit_narrative.callbacks.writers import PredictionWriter, RolloutWriter, SampleTable
from lit_narrative.errors import UserError
from lit_narrative.lm.sampler import SamplingParams
from lit_narrative.modules.grpo import GRPOModule
from lit_narrative.modules.sft import SFTModule
from lit_narrative.views import Rollout, ScoredRollouts
from tests.helpers import Recorder, TinyTask, fit, grpo, sizes, tiny_lm, tokenizer, tokenizer_folder, trainer
from tests.rewards import LowTokens

COLUMNS = ["prompt", "text", "reward", "rewards/low", "advantage", "finished"]


def policy(folder: Path, **settings: Any) -> GRPOModule:
    """Two windows of eight completions an epoch, four steps each."""
    given: dict[str, Any] = {"num_generations": 2, "micro_batch_size": 2, "sampling": SamplingParams(6)}
    return grpo(folder, **{**given, **settings})


def run(folder: Path, *callbacks: Any, rewards: Sequence[Any] = (LowTokens(),), **options: Any) -> Any:
    return fit(policy(folder), TinyTask(rows=8, rewards=rewards), folder, *callbacks, **{"max_epochs": 2, **options})


class Windows(RolloutCallback):
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.given: list[ScoredRollouts] = []

    def on_rollouts(self, trainer: Any, module: GRPOModule, scored: ScoredRollouts) -> None:
        self.given.append(scored)


def test_every_window_is_handed_on_once(tmp_path: Path) -> None:
    windows = Windows()
    run(tmp_path, windows)
    assert [(scored.epoch, scored.number) for scored in windows.given] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert {len(scored.rollouts) for scored in windows.given} == {8}
    run(tmp_path, windows)
    assert len(windows.given) == 8


def test_a_module_without_rollouts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"CollapseMonitor needs a module with rollouts.*; SFTModule has none"):
        fit(SFTModule(sizes(), tokenizer_folder(tmp_path)), TinyTask(), tmp_path, CollapseMonitor(), max_steps=1)


def test_all_rollouts_of_a_cycle_are_written(tmp_path: Path) -> None:
    windows = Windows()
    run(tmp_path, windows, RolloutWriter())
    files = sorted((tmp_path / "rollouts").iterdir())
    assert [file.name for file in files] == ["cycle_000.jsonl", "cycle_001.jsonl"]
    rows = [json.loads(line) for line in files[1].read_text().splitlines()]
    assert [list(row) for row in rows] == [["window", *COLUMNS]] * 16
    assert [row["window"] for row in rows] == [0] * 8 + [1] * 8
    expected = [rollout.text for scored in windows.given[2:] for rollout in scored.rollouts]
    assert [row["text"] for row in rows] == expected
    for group in range(0, 16, 2):
        assert sum(row["advantage"] for row in rows[group : group + 2]) == pytest.approx(0, abs=1e-4)


def test_a_cycle_in_progress_is_kept(tmp_path: Path) -> None:
    writer, other = RolloutWriter(), RolloutWriter()
    assert writer.state_dict() == {"rows": []}
    run(tmp_path, writer, max_epochs=1)
    other.load_state_dict(writer.state_dict())
    assert len(other.state_dict()["rows"]) == 16


class Mute:
    """A reward that cannot score anything."""

    name = "low"

    def __call__(self, rollouts: Sequence[Rollout]) -> list[float | None]:
        return [None] * len(rollouts)


def test_what_was_not_scored_is_written_as_null(tmp_path: Path) -> None:
    run(tmp_path, RolloutWriter(), rewards=[Mute()], max_epochs=1)
    row = json.loads((tmp_path / "rollouts" / "cycle_000.jsonl").read_text().splitlines()[0])
    assert (row["reward"], row["rewards/low"], row["advantage"]) == (None, None, 0)


def table(folder: Path) -> list[list[str]]:
    with (folder / "samples" / "train.csv").open(newline="") as file:
        return list(csv.reader(file))


def test_a_few_rollouts_are_shown_as_a_table(tmp_path: Path) -> None:
    windows = Windows()
    run(tmp_path, windows, SampleTable(rows=3, every_n_rollout_batches=2))
    header, *rows = table(tmp_path)
    assert header == ["step", *COLUMNS]
    assert [row[0] for row in rows] == ["9"] * 3
    assert [row[2] for row in rows] == [rollout.text for rollout in windows.given[2].rollouts[:3]]


def test_the_table_counts_windows_over_a_kill(tmp_path: Path) -> None:
    before, after = SampleTable(every_n_rollout_batches=3), SampleTable(every_n_rollout_batches=3)
    run(tmp_path, before, max_epochs=1)
    after.load_state_dict(before.state_dict())
    run(tmp_path / "after", after, max_epochs=1)
    first = Windows()
    run(tmp_path / "plain", first, max_epochs=1)
    assert table(tmp_path / "after")[1][2] == first.given[1].rollouts[0].text


@pytest.mark.parametrize("settings", [{"rows": 0}, {"every_n_rollout_batches": 0}])
def test_an_empty_table_is_refused(settings: dict[str, int]) -> None:
    with pytest.raises(UserError, match="must be 1 or more"):
        SampleTable(**settings)


def test_the_former_name_of_its_interval_is_accepted(caplog: pytest.LogCaptureFixture) -> None:
    assert SampleTable(every_n_windows=3).every_n_rollout_batches == 3
    assert "every_n_windows is now every_n_rollout_batches" in caplog.text


class Counted(TinyTask):
    def quick_shares(self, rollouts: Sequence[Rollout]) -> dict[str, float]:
        return {"short": sum(len(rollout.text) < 5 for rollout in rollouts) / len(rollouts)}


def test_variety_is_logged_and_what_a_task_says_of_rollouts_at_little_cost(tmp_path: Path) -> None:
    windows, seen, data = Windows(), Recorder(), Counted(rows=8, rewards=[LowTokens()])
    fit(policy(tmp_path), data, tmp_path, windows, CollapseMonitor(), seen, max_epochs=1)
    texts = [rollout.text for rollout in windows.given[0].rollouts]
    assert seen.metrics[0]["completions/unique"] == pytest.approx(len(set(texts)) / 8)
    assert seen.metrics[0]["train/short"] == pytest.approx(sum(len(text) < 5 for text in texts) / 8)


@pytest.mark.parametrize(("stop", "windows"), [(True, 3), (False, 6)])
def test_a_collapse_warns_once_and_stops_on_demand(
    stop: bool, windows: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Every share is below a bound above one."""
    seen = Windows()
    monitor = CollapseMonitor(min_unique=1.1, stop=stop, patience=3)
    with caplog.at_level(logging.WARNING, "lit_narrative"):
        run(tmp_path, seen, monitor, max_epochs=3, accumulate_grad_batches=4)
    assert len(seen.given) == windows
    messages = [record.getMessage() for record in caplog.records]
    assert sum("the policy collapses" in message for message in messages) == 1
    assert any("stopping: 3 rollout batches in a row" in message for message in messages) is stop


def test_no_collapse_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "lit_narrative"):
        run(tmp_path, CollapseMonitor(min_unique=0.0, stop=True, patience=1))
    assert not [record for record in caplog.records if "collapse" in record.getMessage()]


def test_patience_outlives_a_kill(tmp_path: Path) -> None:
    before, after = (CollapseMonitor(min_unique=1.1, stop=True, patience=3) for _ in range(2))
    run(tmp_path, before, max_epochs=1)
    after.load_state_dict(before.state_dict())
    seen = Windows()
    run(tmp_path, seen, after, max_epochs=3)
    assert len(seen.given) == 1


@pytest.mark.usefixtures("fresh_wandb")
def test_wandb_gets_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    windows, logger = Windows(), WandbLogger(save_dir=tmp_path, project="tests", offline=True)
    try:
        run(tmp_path, windows, SampleTable(rows=3), logger=logger, max_epochs=1)
    finally:
        wandb.finish()
    (file,) = tmp_path.glob("wandb/offline-run-*/files/media/table/samples/train_*.table.json")
    stored = json.loads(file.read_text())
    assert stored["columns"] == ["step", *COLUMNS]
    assert [row[2] for row in stored["data"]] == [r.text for r in windows.given[0].rollouts[:3]]
    assert [row[3] for row in stored["data"]] == pytest.approx(windows.given[0].totals[:3].tolist())


def writer() -> SFTModule:
    made = SFTModule(sizes(), sampling=SamplingParams(8))
    made.set_model(tiny_lm(scale=4), tokenizer())
    return made


def test_predictions_are_written_in_order(tmp_path: Path) -> None:
    predicted = trainer(tmp_path, PredictionWriter()).predict(writer(), TinyTask(rows=6))
    rollouts = [rollout for batch in predicted or [] for rollout in batch]
    lines = (tmp_path / "samples" / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {
            "prompt": rollout.prompt,
            "index": number,
            "text": rollout.text,
            "finished": rollout.finished,
            "logprob": pytest.approx(float(rollout.logprobs.sum())),
            "tokens": len(rollout.completion_ids),
        }
        for number, rollout in enumerate(rollouts)
    ]
    assert len(lines) == 6


def test_a_dry_run_leaves_nothing(tmp_path: Path) -> None:
    trainer(tmp_path, PredictionWriter(), fast_dev_run=True).predict(writer(), TinyTask())
    assert not list(tmp_path.iterdir())
