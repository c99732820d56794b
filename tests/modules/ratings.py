"""Short texts of a small grammar, rated by how much of them is about the sea."""

from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_narrative.datamodules.base import Split, TaskDataModule
from lit_narrative.lm.sentence_encoder import StaticEncoder
from lit_narrative.modules.reward import RewardModule
from lit_narrative.rl.rewards.base import Reward
from lit_narrative.rl.rewards.loading import import_reward
from lit_narrative.views import Prompt, Scored

TOPICS = {
    "sea": ["wave", "tide", "harbour", "gull", "anchor", "salt"],
    "wood": ["oak", "moss", "fern", "root", "bark", "thicket"],
    "town": ["street", "lamp", "market", "bridge", "tower", "bell"],
}
SEEDS = {"train": 0, "val": 1, "test": 2}


def share(text: str) -> float:
    """Share of words about the sea: what a rating means."""
    words = text.split()
    return sum(word in TOPICS["sea"] for word in words) / max(len(words), 1)


def texts(count: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        main, own = rng.choice(list(TOPICS)), rng.uniform(0, 0.8)
        topics = [main if rng.random() < own else rng.choice(list(TOPICS)) for _ in range(10)]
        found.append(" ".join(str(rng.choice(TOPICS[topic])) for topic in topics))
    return found


class Ratings(TaskDataModule):
    """300 rated texts (noise .1), or preferences of as many pairs, or both."""

    def __init__(self, rows: int = 300, noise: float = 0.1, kind: str = "ratings", scale: float = 1.0) -> None:
        super().__init__(batch_size=16, eval_batch_size=64)
        self.rows, self.noise, self.kind, self.scale = rows, noise, kind, scale

    def scored(self, split: Split) -> list[Scored]:
        """Held-out ratings and preferences have no noise."""
        rng = np.random.default_rng([SEEDS[split], 1])
        noise = self.noise if split == "train" else 0.0
        made = texts(2 * self.rows, SEEDS[split])
        rated = [(text, self.scale * (share(text) + rng.normal(0, noise))) for text in made]
        rows = [Scored(text, score) for text, score in rated[: self.rows]]
        ordered = [sorted(pair, key=lambda row: -row[1]) for pair in zip(rated[::2], rated[1::2], strict=True)]
        pairs = [Scored(a[0], 1.0, b[0]) for a, b in ordered if a[1] > b[1]]
        return {"ratings": rows, "preferences": pairs, "both": rows + pairs}[self.kind]

    def prompts(self, split: Split) -> list[Prompt]:
        return [Prompt(name) for name in ("wave", "oak", "street", "bell") * 4]

    def reward_functions(self, names: Any) -> dict[str, Reward]:
        return {name: import_reward(name) for name in names}  # type: ignore[misc]


def train(
    folder: Path, data: Ratings, epochs: int = 20, **settings: Any
) -> tuple[RewardModule, dict[str, float], Path]:
    """Train quietly; the module, what it measured on held-out rows, and its checkpoint."""
    seed_everything(0, verbose=False)
    module = RewardModule(**settings)
    saver = ModelCheckpoint(folder / "checkpoints", save_last=True, save_top_k=0)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 1}
    trainer = Trainer(default_root_dir=folder, accelerator="cpu", max_epochs=epochs, callbacks=[saver], **quiet)
    trainer.fit(module, data)
    measured = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return module, measured, folder / "checkpoints" / "last.ckpt"


def learned(folder: Path) -> str:
    """The checkpoint of a small reward model of `Ratings`, trained in a second."""
    settings = {"encoder": StaticEncoder(width=32, vocab_size=400), "hidden": [16], "dropout": 0.0, "lr": 1e-2}
    return str(train(folder, Ratings(), epochs=8, **settings)[2])
