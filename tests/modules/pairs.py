"""Texts of two habits of writing about the same things, in pairs."""

from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from lit_narrative.datamodules.base import Split, TaskDataModule
from lit_narrative.lm.sentence_encoder import StaticEncoder
from lit_narrative.modules.similarity import SimilarityModule
from lit_narrative.views import Pair
from tests.helpers import trainer

THINGS = ["wave", "tide", "harbour", "gull", "anchor", "oak", "moss", "fern", "street", "lamp", "bell", "bridge"]
HABITS = {"plain": ["and", "then", "so", "but"], "ornate": ["whereas", "upon", "whilst", "thereof"]}
SEEDS = {"train": 0, "val": 1, "test": 2}
SMALL: dict[str, Any] = {"encoder": StaticEncoder(width=16, vocab_size=300), "lr": 1e-2}


def text(habit: str, rng: np.random.Generator, words: int = 24) -> str:
    """Things and words of a habit in turn."""
    pairs = ((rng.choice(THINGS), rng.choice(HABITS[habit])) for _ in range(words // 2))
    return " ".join(str(word) for pair in pairs for word in pair)


class Habits(TaskDataModule):
    """Pairs of one habit (score 1) and of two (score 0), or all of one score; without labels where it says so."""

    def __init__(self, rows: int = 128, words: int = 24, score: float | None = None, labels: bool = True) -> None:
        super().__init__(batch_size=16, eval_batch_size=64)
        self.rows, self.words, self.score, self.labels = rows, words, score, labels

    def pairs(self, split: Split) -> list[Pair]:
        rng, found = np.random.default_rng(SEEDS[split]), []
        for number in range(self.rows):
            first, second = rng.choice(list(HABITS), 2)
            score = float(first == second) if self.score is None else self.score
            meta = {"author": str(first), "author2": str(second), "title": f"{first} {number % 5}"}
            labels = (str(first), str(second)) if self.labels else None
            found.append(Pair(text(first, rng, self.words), text(second, rng, self.words), score, meta, labels))
        return found


def train(
    folder: Path, data: Habits, epochs: int = 5, **settings: Any
) -> tuple[SimilarityModule, dict[str, float], Path]:
    """Train quietly; the module, what it measured on held-out pairs, and its checkpoint."""
    seed_everything(0, verbose=False)
    module = SimilarityModule(**{**SMALL, **settings})
    callbacks = [
        ModelCheckpoint(folder / "checkpoints", save_last=True, save_top_k=0),
        EarlyStopping("val/spearman", mode="max", patience=3, min_delta=0.003),
    ]
    run = trainer(folder, *callbacks, max_epochs=epochs, enable_checkpointing=True, limit_val_batches=1.0)
    run.fit(module, data)
    measured = {name: float(value) for name, value in run.callback_metrics.items()}
    return module, measured, folder / "checkpoints" / "last.ckpt"
