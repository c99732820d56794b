"""What the card game shows: SFT learns its rules and their sentences, and not what the sentences mean."""

import json
from pathlib import Path
from typing import Any

import pytest

from lit_narrative.cli import main

QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu"]


def losses(folder: Path) -> list[float]:
    from lit_narrative.jobs.folder import read_table

    return [float(row["loss"]) for row in read_table(folder / "metrics.csv") if "loss" in row]


def test_sixty_steps_learn_something(tmp_path: Path) -> None:
    few = ["--trainer.max_steps=60", "--trainer.val_check_interval=60", "--trainer.log_every_n_steps=1"]
    small = ["--data.train_size=4000", "--data.batch_size=64", "--model.warmup_steps=10"]
    main(["fit", "--config", "cards/sft", *QUIET, *few, *small, f"--trainer.default_root_dir={tmp_path}"])
    found = losses(tmp_path)
    assert len(found) == 60
    assert sum(found[-5:]) / 5 <= 0.65 * found[0]
    assert all(loss == loss for loss in found)
    assert (tmp_path / "checkpoints" / "last.ckpt").exists()
    assert json.loads((tmp_path / "eval" / "val.json").read_text())["splits"]["val"]["n"] == 300


def trained(folder: Path, seed: int) -> dict[str, Any]:
    """The shipped configuration as it is, tested on every set."""
    where = [*QUIET, f"--trainer.default_root_dir={folder}", f"--seed_everything={seed}"]
    main(["fit", "--config", "cards/sft", *where])
    main(["test", "--config", "cards/sft", *where, f"--ckpt_path={folder / 'checkpoints' / 'last.ckpt'}"])
    found: dict[str, Any] = json.loads((folder / "eval" / "test.json").read_text())
    return found


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sft_learns_its_rules_by_their_sentences(seed: int, tmp_path: Path) -> None:
    found = trained(tmp_path, seed)
    splits, gaps = found["splits"], found["gaps"]
    assert splits["id_test"]["accuracy"] >= 0.97
    assert splits["id_test"]["trace_exact"] >= 0.9
    assert gaps["new_colors"] >= 0.5
    assert gaps["paraphrase"] >= 0.4
    assert splits["classification"]["format_validity"] <= 0.1
    assert splits["new_colors"]["rule_substitution"]["red_minus_blue"]["all"] >= 0.8
