"""What every recipe's folder has is read by one reader, whatever the task."""

from pathlib import Path

import pytest

from lit_narrative.errors import UserError
from lit_narrative.files import write_json, write_text
from lit_narrative.report.run_folder import read_command, read_run_folder, versions

TEST = "test_*/figures.json"


def job(folder: Path, name: str, finished: float | None, seconds: float = 1.0) -> None:
    write_json(folder / name / "job.json", {"digest": "0", "finished": finished, "seconds": seconds})


def test_jobs_of_a_folder_without_seeds_come_in_the_order_in_which_they_finished(tmp_path: Path) -> None:
    for name, finished in (("b", 1.0), ("a", 2.0), ("running", None)):
        job(tmp_path, name, finished, seconds=10 * (finished or 0))
    folder = read_run_folder(tmp_path, TEST)
    (seed,) = folder.seeds
    assert (seed.path, seed.prefix, folder.command) == (tmp_path, "", "")
    assert list(folder.seconds.items()) == [("b", 10.0), ("a", 20.0)]
    names = [path.name for path in seed.in_order(tmp_path / name for name in ("running", "a", "by_hand", "b"))]
    assert names == ["b", "a", "by_hand", "running"]


def test_seeds_come_by_number_and_those_without_figures_are_left_out(tmp_path: Path) -> None:
    for number in (10, 9, 3):
        job(tmp_path / f"seed_{number}", "fit", 1.0)
        if number != 3:
            write_text(tmp_path / f"seed_{number}" / "test_fit" / "figures.json", "{}")
    (tmp_path / "seed_other").mkdir()
    write_json(tmp_path / "recipe.json", {"recipe": "mine.yaml", "seeds": [3, 9, 10], "set": ["all.x=1"]})
    folder = read_run_folder(tmp_path, TEST)
    assert [(seed.name, seed.prefix) for seed in folder.seeds] == [("seed 9", "seed_9/"), ("seed 10", "seed_10/")]
    assert folder.seconds == {"seed_9/fit": 1.0, "seed_10/fit": 1.0}
    assert folder.command == f"lit-narrative run mine.yaml --out {tmp_path} --seed 9 10 --set all.x=1"
    command = f"lit-narrative run mine.yaml --out {tmp_path} --seed 9 --set all.x=1"
    assert read_command(tmp_path / "seed_9") == command  # its recipe's note lies beside it


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no folder '.*nowhere'"):
        read_run_folder(tmp_path / "nowhere", TEST)


def test_versions_are_those_installed() -> None:
    import numpy as np

    assert versions()["numpy"] == np.__version__ and versions().keys() >= {"lit-narrative", "python"}
