"""The reward model of verse through the command line: the task's bars on poems that it was not trained on."""

import csv
from pathlib import Path

import numpy as np
import pytest

from lit_narrative.cli.main import main
from lit_narrative.rl.rewards.learned import LearnedReward
from lit_narrative.tasks.poetry.grammar import content_share, verse
from lit_narrative.tasks.poetry.topics import TOPICS

QUIET = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reward")
    rare = ["--trainer.check_val_every_n_epoch=20", f"--trainer.default_root_dir={folder}"]
    main(["fit", "--config", "poetry/reward", *QUIET, *rare])
    return folder


def test_pairs_of_new_poems_are_put_in_order(run: Path) -> None:
    with (run / "metrics.csv").open() as file:
        (row,) = [row for row in csv.DictReader(file) if row["val/pair_accuracy"]]
    assert float(row["val/pair_accuracy"]) >= 0.85
    assert float(row["val/pearson"]) >= 0.9


def test_best_of_sixteen(run: Path) -> None:
    """At least 2.5 times the mean share, and 80 % of what the best choice would have."""
    ocean = TOPICS["ocean"].words
    groups = [[verse(5, "test", 16 * group + place).text for place in range(16)] for group in range(40)]
    shares = np.array([[content_share(text, ocean) for text in texts] for texts in groups])
    reward = LearnedReward(str(run / "checkpoints" / "last.ckpt"))
    chosen = [int(np.argmax(reward.rate(texts))) for texts in groups]
    reached = shares[np.arange(len(groups)), chosen].mean()
    assert reached >= 2.5 * shares.mean()
    assert reached >= 0.8 * shares.max(1).mean()
