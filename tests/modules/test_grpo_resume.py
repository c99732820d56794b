"""A module that comes from somewhere, and checkpoints that do not fit: what a GRPO run makes of them."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from lit_narrative.errors import UserError
from lit_narrative.lm.load import Lora
from lit_narrative.lm.sampler import SamplingParams
from lit_narrative.modules.grpo import GRPOModule
from lit_narrative.rl.loss_settings import LossSettings
from lit_narrative.rl.reference import ReferenceSettings
from lit_narrative.rl.rewards.runner import ScoringSettings
from lit_narrative.views import Prompt, Rollout
from tests.helpers import Recorder, TinyTask, fit, grpo, others_slow, trainer, weights
from tests.rewards import LowTokens
from tests.runs.jobs import difference
from tests.runs.processes import two_processes

FOLLOWS = ReferenceSettings(sync_ref_model=True, ref_model_sync_steps=2)


def policy(folder: Path, **settings: Any) -> GRPOModule:
    given: dict[str, Any] = {"num_generations": 4, "micro_batch_size": 4, "sampling": SamplingParams(8), "lr": 2e-2}
    return grpo(folder, **{**given, **settings})


def run(folder: Path, module: GRPOModule, ckpt_path: Path | None = None, told: bool = False, **options: Any) -> Trainer:
    """Two rollout batches an epoch of four micro-batches each, a checkpoint after every step and a last one."""
    seed_everything(0, verbose=False)
    data, callbacks = options.pop("data", TinyTask()), options.pop("callbacks", [])
    steps = ModelCheckpoint(folder / "checkpoints", save_top_k=-1, every_n_train_steps=1)
    last = ModelCheckpoint(folder / "checkpoints", save_top_k=0, save_last=True)
    given: dict[str, Any] = {"accumulate_grad_batches": 2, "max_epochs": 1, "enable_checkpointing": True}
    runner = trainer(folder, steps, last, *callbacks, **{**given, **options})
    if told:  # as the command line does, before anything is built
        runner.ckpt_path = str(ckpt_path)
    runner.fit(module, data, ckpt_path=ckpt_path)
    return runner


def checkpoint(folder: Path, step: int) -> Path:
    (path,) = (folder / "checkpoints").glob(f"*step={step}.ckpt")
    return path


@pytest.mark.parametrize("lora", [None, Lora(r=2)], ids=["full", "lora"])
def test_a_module_that_was_validated_first_gets_its_reference(lora: Lora | None, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"lora": lora, "reference": FOLLOWS}
    expected, found = Recorder(), Recorder()
    fit(policy(tmp_path, **settings), TinyTask(rows=4), tmp_path, expected, max_epochs=3)
    module = policy(tmp_path, **settings)
    seed_everything(0, verbose=False)
    trainer(tmp_path, limit_val_batches=1).validate(module, TinyTask(rows=4), verbose=False)
    fit(module, TinyTask(rows=4), tmp_path, found, max_epochs=3)
    for one, other in zip(expected.batches, found.batches, strict=True):
        torch.testing.assert_close(one.reference, other.reference, atol=1e-5, rtol=0)


def test_a_module_that_was_loaded_learns_with_itself_as_the_reference(tmp_path: Path) -> None:
    run(tmp_path, policy(tmp_path))
    module = GRPOModule.load_from_checkpoint(checkpoint(tmp_path, 4))
    start = weights(module.lm)
    fit(module, TinyTask(rows=4), tmp_path, max_epochs=1)
    assert all(torch.equal(value, start[name]) for name, value in weights(module.reference).items())


@pytest.mark.parametrize("told", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["command line", "script"])
@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ({"loss": LossSettings(beta=0.0)}, {}, "holds no reference policy"),
        (
            {"loss": LossSettings(beta=0.0), "lora": Lora(r=2)},
            {"lora": Lora(r=2), "reference": ReferenceSettings("copy")},
            "holds no reference policy",
        ),
        (
            {"lora": Lora(r=2)},
            {"lora": Lora(r=2), "reference": FOLLOWS},
            "holds no reference policy",
        ),
        ({}, {"advantage": "gae"}, "do not agree on a value head"),
        ({"advantage": "gae"}, {}, "do not agree on a value head"),
    ],
)
def test_a_checkpoint_without_what_a_run_needs_is_refused(
    before: dict[str, Any], after: dict[str, Any], message: str, told: bool, tmp_path: Path
) -> None:
    run(tmp_path, policy(tmp_path, **before), max_steps=1)
    with pytest.raises(UserError, match=message):
        run(tmp_path / "resumed", policy(tmp_path, **after), checkpoint(tmp_path, 1), told)


@pytest.mark.parametrize("told", [True, False], ids=["command line", "script"])
def test_a_reference_that_is_no_longer_asked_for_is_left_out(told: bool, tmp_path: Path) -> None:
    run(tmp_path, policy(tmp_path), max_steps=1)
    module = policy(tmp_path, loss=LossSettings(beta=0.0))
    assert run(tmp_path / "resumed", module, checkpoint(tmp_path, 1), told).global_step == 4
    assert "reference" not in dict(module.named_modules())


RESUMED: dict[str, dict[str, Any]] = {
    "copy": {"reference": FOLLOWS},
    "adapters": {"lora": Lora(r=2), "reference": FOLLOWS},
    "gae": {"advantage": "gae"},
}
WAYS = [f"{name} {way}" for name in RESUMED for way in ("command line", "script")]


@pytest.mark.parametrize("case", others_slow(WAYS, {"copy command line", "adapters script", "gae command line"}))
def test_a_run_goes_on_with_its_reference_however_it_is_resumed(case: str, tmp_path: Path) -> None:
    name, _, way = case.partition(" ")
    settings, told = RESUMED[name], way == "command line"
    run(tmp_path / "whole", policy(tmp_path, **settings))
    run(tmp_path / "resumed", policy(tmp_path, **settings), checkpoint(tmp_path / "whole", 3), told)
    found = [
        torch.load(checkpoint(tmp_path / name, 4), weights_only=True)["state_dict"] for name in ("whole", "resumed")
    ]
    assert difference(*found) < 1e-6


def test_a_step_that_was_saved_half_way_begins_again(tmp_path: Path) -> None:
    """Validation after each third micro-batch falls between the two of a step."""
    run(tmp_path / "whole", policy(tmp_path))
    saver = ModelCheckpoint(tmp_path / "half", save_top_k=-1, every_n_epochs=1, save_on_train_epoch_end=False)
    options: dict[str, Any] = {"val_check_interval": 3, "limit_val_batches": 1, "max_epochs": 1}
    runner = trainer(tmp_path, saver, accumulate_grad_batches=2, enable_checkpointing=True, **options)
    seed_everything(0, verbose=False)
    runner.fit(policy(tmp_path), TinyTask())
    half = min((tmp_path / "half").iterdir(), key=lambda path: path.stat().st_mtime)
    progress = torch.load(half, weights_only=True)["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]
    assert progress["ready"] == 3
    run(tmp_path / "resumed", policy(tmp_path), half)
    found = [
        torch.load(checkpoint(tmp_path / name, 4), weights_only=True)["state_dict"] for name in ("whole", "resumed")
    ]
    assert difference(*found) < 1e-6


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        ({"micro_batch_size": 2}, {}, "micro-batches of a rollout batch 4 -> 8"),
        ({"num_generations": 8}, {}, "model.num_generations 4 -> 8"),
        ({}, {"accumulate_grad_batches": 4}, "trainer.accumulate_grad_batches 2 -> 4"),
        ({"num_iterations": 2}, {}, "model.num_iterations 1 -> 2"),
    ],
)
def test_sizes_may_not_change_in_the_middle_of_a_cycle(
    settings: dict[str, Any], options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    run(tmp_path, policy(tmp_path), max_steps=1)
    with pytest.raises(UserError, match=f"resumed in the middle of a cycle with other sizes .*{message}"):
        run(tmp_path / "resumed", policy(tmp_path, **settings), checkpoint(tmp_path, 1), **options)


class StopAt(Recorder):
    """Ends the run after a micro-batch."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        trainer.should_stop = batch_idx == 3


# Of two rollout batches of four micro-batches, or of the first one; saved with the last step, and when the epoch ends.
@pytest.mark.parametrize("point", ["step", "epoch_end"])
@pytest.mark.parametrize("limit", [1.0, 4])
@pytest.mark.parametrize(
    ("micro_batch_size", "batch_size", "steps"),
    [(8, 4, 2), *(pytest.param(*sizes, marks=pytest.mark.slow) for sizes in ((2, 4, 8), (4, 8, 4)))],
)
def test_they_may_between_cycles(
    point: str, limit: float, micro_batch_size: int, batch_size: int, steps: int, tmp_path: Path
) -> None:
    first = run(tmp_path, policy(tmp_path), limit_train_batches=limit)
    path = checkpoint(tmp_path, first.global_step) if point == "step" else tmp_path / "checkpoints" / "last.ckpt"
    module, data = policy(tmp_path, micro_batch_size=micro_batch_size), TinyTask(batch_size=batch_size)
    resumed = run(tmp_path / "resumed", module, path, data=data, max_epochs=2)
    assert resumed.global_step == first.global_step + steps


def test_they_may_after_a_cycle_that_was_ended_early(tmp_path: Path) -> None:
    run(tmp_path, policy(tmp_path), callbacks=[StopAt()])
    module = policy(tmp_path, micro_batch_size=8)
    assert run(tmp_path / "resumed", module, tmp_path / "checkpoints" / "last.ckpt", max_epochs=2).global_step == 2 + 2


def on_each_of_two(folder: Path) -> None:
    """Each process samples for two prompts: as many completions as one process for four."""
    shared: dict[str, Any] = {"devices": 2, "strategy": "ddp", "accumulate_grad_batches": 1}
    last = folder / "one" / "checkpoints" / "last.ckpt"
    assert run(folder / "2", policy(folder), last, data=TinyTask(batch_size=2), max_epochs=2, **shared).global_step == 8
    run(folder / "both", policy(folder), data=TinyTask(batch_size=2), **shared)


@pytest.mark.slow
@pytest.mark.ddp
def test_the_number_of_processes_may_change_between_cycles(tmp_path: Path) -> None:
    run(tmp_path / "one", policy(tmp_path))
    two_processes(on_each_of_two, tmp_path)
    last = tmp_path / "both" / "checkpoints" / "last.ckpt"
    assert run(tmp_path / "resumed", policy(tmp_path), last, max_epochs=2).global_step == 8


def test_a_share_of_the_batches_may_not_split_a_rollout_batch(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"limit_train_batches=0\.4 ends a cycle within a rollout batch of 4 micro-batches"
    ):
        run(tmp_path, policy(tmp_path), limit_train_batches=0.4)
    assert run(tmp_path, policy(tmp_path), limit_train_batches=0.5).global_step == 2


class Flaky(LowTokens):
    """Fails in the second rollout batch."""

    name = "flaky"
    calls = 0

    def __call__(self, rollouts: Sequence[Rollout]) -> list[float | None]:
        self.calls += 1
        if self.calls == 2:
            raise ValueError("no answer")
        return super().__call__(rollouts)


def test_what_a_step_has_no_value_for_is_not_the_one_before(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, name="csv", version=0)
    module = policy(tmp_path, rewards={"low": 1.0, "flaky": 1.0}, micro_batch_size=16)
    data = TinyTask(rows=12, rewards=[LowTokens(), Flaky()])
    fit(module, data, tmp_path, max_epochs=1, logger=logger, log_every_n_steps=1)
    with (tmp_path / "csv" / "version_0" / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["loss"]]
    assert [float(row["rewards/flaky/failures"]) for row in rows] == [0, 16, 0]
    assert [row["rewards/flaky/mean"] == "nan" for row in rows] == [False, True, False]
    assert [row["rewards/low/mean"] == "nan" for row in rows] == [False] * 3


def test_prompts_without_a_number_get_one(tmp_path: Path) -> None:
    class Unnumbered(TinyTask):
        def prompts(self, split: Any) -> list[Any]:
            return [type(row)(row.text, {}) for row in super().prompts(split)]

    found = []
    for task in (TinyTask, Unnumbered):
        module = policy(tmp_path, micro_batch_size=16)
        fit(module, task(rows=8), tmp_path, max_epochs=1)
        assert module.scored is not None
        found.append([rollout.text for rollout in module.scored.rollouts])
    assert found[0] == found[1]


@pytest.mark.parametrize("number", ["first", -1, 1.5, True, None])
def test_a_column_of_another_meaning_that_is_called_index_is_refused(number: Any, tmp_path: Path) -> None:
    class Named(TinyTask):
        def prompts(self, split: Any) -> list[Any]:
            return [type(row)(row.text, {"index": number}) for row in super().prompts(split)]

    with pytest.raises(UserError, match=f"has index={number!r} among its columns.*give the column another name"):
        fit(policy(tmp_path), Named(rows=8), tmp_path, max_steps=1)
    prompt = Prompt("The mill", {"index": number})
    with pytest.raises(UserError, match="give the column another name"):
        policy(tmp_path).generate([prompt])


def test_loaders_in_place_of_a_task_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"GRPOModule reads a task, not loaders; give one as Trainer\.fit"):
        trainer(tmp_path, max_steps=1).fit(policy(tmp_path), DataLoader([1, 2]))


def test_a_fault_ends_the_workers(tmp_path: Path) -> None:
    import multiprocessing

    class Stops(Recorder):
        def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
            raise RuntimeError("stop")

    before = set(multiprocessing.active_children())
    module = policy(tmp_path, scoring=ScoringSettings(workers=1))
    with pytest.raises(RuntimeError, match="stop"):
        fit(module, TinyTask(), tmp_path, Stops(), max_steps=1, accumulate_grad_batches=4)
    assert set(multiprocessing.active_children()) <= before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rewards": {"low": float("nan")}}, r"the weight of 'low' is nan"),
        ({"lora": Lora(dropout=0.1)}, r"model\.lora\.dropout=0\.1: dropout is off in RL"),
        ({"advantage": "gae", "dynamic_sampling": 1}, r"dynamic_sampling looks at groups"),
        (
            {"multi_objective_aggregation": "normalize_then_sum", "scale_rewards": "batch"},
            r"without model\.scale_rewards",
        ),
    ],
)
def test_settings_that_would_be_ignored_are_refused(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        policy(tmp_path, **settings)
