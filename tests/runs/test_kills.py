"""The cycle on storyworlds, and a recipe, killed everywhere and at random: all of it resumes to the same run."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from lit_narrative.cli.main import main
from tests.kills import HOOKS, SETTINGS, arguments, differences, files, fit, rows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

CYCLE = """
seed_everything: 0
trainer:
  accelerator: cpu
  max_epochs: 3
  limit_train_batches: 4
  accumulate_grad_batches: 2
  num_sanity_val_steps: 0
  log_every_n_steps: 1
  gradient_clip_val: 1.0
  enable_progress_bar: false
  enable_model_summary: false
  callbacks:
    - class_path: SAERefresh
      init_args: {sae: {d_sae: 16, k: 4}, worlds: 8, plays_per_world: 1, steps: 10, min_worlds: 2, threshold: 0.1}
    - class_path: Verifiers
      init_args: {samples: 4}
    - class_path: CollapseMonitor
    - class_path: SampleTable
      init_args: {rows: 4, every_n_rollout_batches: 1}
    - class_path: RolloutWriter
    - class_path: tests.kills.Diary
    - class_path: ModelCheckpoint
      init_args: {save_last: true, save_top_k: 0, every_n_train_steps: 1}
model:
  class_path: GRPOModule
  init_args:
    rewards: {valid_json: 0.4, schema: 0.3, endings: 0.2, feature_quality: 0.1}
    num_generations: 4
    micro_batch_size: 4
    sampling: {max_new_tokens: 128}
    lr: 1.0e-4
data:
  class_path: StoryworldData
  init_args: {train_size: 16, val_size: 8, test_size: 8, state_worlds: 8, batch_size: 4}
"""
"""Three cycles of two optimizer steps on one rollout batch; a checkpoint after every step."""

RECIPE = """
out: {out}
seeds: [0]
threads: 1
jobs:
  - {{name: first, command: fit, config: {settings}}}
  - name: second
    command: fit
    config: {settings}
    overrides: {{model.init_args.model: "${{jobs.first.ckpt}}", model.init_args.tokenizer: null}}
"""
IN_STEPS = ("on_train_batch_start", "on_before_optimizer_step")
POINTS = [
    *((hook, step) for hook in IN_STEPS for step in range(6)),
    *(("on_train_epoch_start", step) for step in (0, 2, 4)),
    *((hook, step) for hook in HOOKS if "validation" in hook or hook == "on_train_epoch_end" for step in (2, 4, 6)),
    ("on_train_end", 6),
]
"""Every hook and step that there is."""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, policy: Path) -> Path:
    path = tmp_path_factory.mktemp("settings") / "cycle.yaml"
    path.write_text(CYCLE.replace("    rewards:", f"    model: {policy}\n    rewards:"))
    return path


@pytest.fixture(scope="module")
def whole(settings: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A cycle that nothing interrupts, and the seconds that it took."""
    folder, since = tmp_path_factory.mktemp("whole"), time.monotonic()
    assert fit(settings, folder) == 0
    assert len([row for row in rows(folder) if "reward" in row]) == 6
    assert {f"sae/cycle_00{n}/features.json" for n in range(3)} <= files(folder).keys()
    return folder, time.monotonic() - since


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A folder on a file system that is not the run folder's."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


def test_a_cycle_may_die_in_every_hook_of_every_step(
    settings: Path,
    whole: tuple[Path, float],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    for hook, step in POINTS:
        folder = tmp_path / f"{hook}_{step}"
        assert fit(settings, folder, kill=(hook, step)) == -signal.SIGKILL, (hook, step)
        assert fit(settings, folder) == 0
        assert differences(whole[0], folder) == [], (hook, step)
    record_property("kills", len(POINTS))


@pytest.mark.parametrize("saving", [False, True])
def test_a_cycle_may_die_at_any_time(
    settings: Path,
    whole: tuple[Path, float],
    tmp_path: Path,
    saving: bool,
    elsewhere: Path,
    record_property: Callable[[str, object], None],
) -> None:
    rng = random.Random(int(saving))
    runs, kills = (2, 5) if saving else (6, 5)
    killed = 0
    for run in range(runs):
        folder = tmp_path / str(run)
        for _ in range(kills):
            killed += kill_fit(settings, folder, rng.uniform(0, whole[1] / 2), saving, elsewhere)
        assert fit(settings, folder) == 0
        assert differences(whole[0], folder) == [], run
    record_property("kills", killed)
    assert killed >= runs * kills * 0.6  # a run may have ended before


def kill_fit(settings: Path, folder: Path, seconds: float, saving: bool, elsewhere: Path) -> bool:
    """Start a fit, or resume it, and kill it after a time, or in the first save from then on; whether it was alive."""
    process = multiprocessing.get_context("fork").Process(
        target=partial(run_elsewhere, elsewhere, arguments(settings, folder))
    )
    process.start()
    process.join(seconds)
    while saving and process.is_alive() and not any((folder / "checkpoints").glob(".last.ckpt.*")):
        time.sleep(0.0002)
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


def run_elsewhere(folder: Path, args: list[str]) -> None:
    """Run the command with its folder for temporary files on another file system."""
    os.environ["TMPDIR"], tempfile.tempdir = str(folder), None
    main(args)


def test_a_recipe_may_die_or_be_ended_at_any_time(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(SETTINGS)
    for name in ("whole", "killed"):
        text = RECIPE.format(out=tmp_path / name, settings=tmp_path / "job.yaml")
        (tmp_path / f"{name}.yaml").write_text(text)
    since = time.monotonic()
    assert run_recipe(tmp_path / "whole.yaml") == 0
    seconds, rng = time.monotonic() - since, random.Random(0)
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGKILL, signal.SIGTERM):
        code = run_recipe(tmp_path / "killed.yaml", rng.uniform(0, seconds), number)
        assert code in (0, -number, 128 + number), code
    assert run_recipe(tmp_path / "killed.yaml") == 0
    for job in ("first", "second"):
        assert differences(tmp_path / "whole" / "seed_0" / job, tmp_path / "killed" / "seed_0" / job) == [], job


def run_recipe(recipe: Path, seconds: float = 300, number: int = signal.SIGKILL) -> int:
    """The exit code of ``lit-narrative run``, which is sent a signal after a time."""
    process = subprocess.Popen([sys.executable, "-m", "lit_narrative", "run", str(recipe)])
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(number)
        return process.wait(60)
