"""A run folder belongs to one run at a time, and a checkpoint that was cut off is told from a whole one."""

import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from lit_narrative.cli.faults import REMEDIES
from lit_narrative.cli.folder import check_whole, locked, whole_checkpoints
from lit_narrative.cli.recipes.process import clear, resumes_from, status_path
from lit_narrative.cli.recipes.recipe import Job, Recipe
from lit_narrative.errors import UserError
from lit_narrative.files import write_json
from tests.kills import SETTINGS, fit


def hold(folder: Path, ready: Any) -> None:
    with locked(folder, "fit"):
        ready.set()
        time.sleep(60)


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Any]:
    """Another process that is at work in ``tmp_path / "run"``."""
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=hold, args=(tmp_path / "run", ready))
    process.start()
    assert ready.wait(30)
    yield process
    process.kill()
    process.join()


def test_a_folder_that_another_run_works_in_is_refused(tmp_path: Path, holder: Any) -> None:
    with pytest.raises(UserError, match="another process is at work in"), locked(tmp_path / "run", "fit"):
        pass
    with locked(tmp_path / "run", "test"):  # the test of a run may go on beside its training
        pass


def test_a_dead_run_holds_nothing(tmp_path: Path, holder: Any) -> None:
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    with locked(tmp_path / "run", "fit"):
        pass


def test_a_recipe_does_not_clear_a_folder_in_use(tmp_path: Path, holder: Any) -> None:
    job = Job("run", "fit")
    plan = Recipe(tmp_path, (job,))
    write_json(status_path(plan, job), {"digest": "another", "finished": None})
    with pytest.raises(UserError, match="another process is at work in"):
        clear(plan, job)
    assert (tmp_path / "run").is_dir()


def test_a_fit_refuses_a_folder_in_use_before_any_work(tmp_path: Path, holder: Any) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(SETTINGS)
    assert fit(config, tmp_path / "run") == 2
    assert {path.name for path in (tmp_path / "run").iterdir()} == {".fit.lock"}


class RemoveFolder(Callback):
    """What a hasty person does."""

    def on_before_optimizer_step(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == 2:
            shutil.rmtree(trainer.default_root_dir)


def test_a_run_whose_folder_is_removed_ends_with_an_error(tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(SETTINGS.replace("tests.kills.Diary", "tests.cli.test_folder.RemoveFolder"))
    assert fit(config, tmp_path / "run") == 2


# --- checkpoints that were cut off ------------------------------------------------------------------------------------


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    """A run's folder of two whole checkpoints and a last one that lost its end."""
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    for number, name in enumerate(("step=1.ckpt", "step=2.ckpt", "last.ckpt")):
        torch.save({"weights": torch.zeros(1000)}, folder / name)
        os.utime(folder / name, (number, number))
    (folder / "last.ckpt").write_bytes((folder / "last.ckpt").read_bytes()[:2000])
    return folder


@pytest.mark.parametrize("named", [True, False], ids=["by its path", "as last"])
def test_a_checkpoint_that_was_cut_off_is_named_with_the_last_whole_one(checkpoints: Path, named: bool) -> None:
    last = checkpoints / "last.ckpt"
    with pytest.raises(UserError, match=r"last.ckpt' is damaged.*'.*step=2.ckpt'"):
        check_whole(checkpoints.parent, str(last) if named else "last")
    check_whole(checkpoints.parent, str(checkpoints / "step=1.ckpt"))


def test_an_empty_checkpoint_without_another_means_to_start_over(tmp_path: Path) -> None:
    last = tmp_path / "checkpoints" / "last.ckpt"
    last.parent.mkdir()
    last.touch()
    with pytest.raises(UserError, match="no whole one beside it"):
        check_whole(tmp_path, str(last))
    assert whole_checkpoints(tmp_path) == []


def test_a_recipe_goes_on_from_the_last_whole_checkpoint(checkpoints: Path) -> None:
    job = Job("run", "fit")
    plan = Recipe(checkpoints.parent.parent, (job,))
    write_json(status_path(plan, job), {"digest": "same", "finished": None})
    assert resumes_from(plan, job, "same") == checkpoints / "step=2.ckpt"
    for path in checkpoints.iterdir():
        path.write_bytes(b"")
    assert resumes_from(plan, job, "same") is None  # it starts over, and not again and again


def test_a_link_in_the_place_of_a_lock_is_refused_and_what_it_names_stays(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / ".fit.lock").symlink_to(tmp_path / "mine.txt")
    with pytest.raises(OSError, match="symbolic links") as error, locked(tmp_path, "fit"):
        pass
    assert error.value.errno in REMEDIES
    assert (tmp_path / "mine.txt").read_text() == "mine"
