"""A task of texts and the vectors that they describe: what a tiny model holds at the end of each."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lit_narrative.datamodules.base import Split
from lit_narrative.lm.vectors.reconstructor import Reconstructor, ReconstructorSettings
from lit_narrative.modules.reconstructor import ReconstructorModule
from lit_narrative.rl.rewards.base import Reconstruct
from lit_narrative.rl.rewards.reconstruction import ReconstructionReward, ReconstructionSettings
from lit_narrative.views import Described, Prompt, Rollout
from tests.helpers import TinyTask, tiny_lm, tokenizer

NAMES = ("salt", "tide", "lantern", "name", "count")
LAYER = 2


def subject(**other: Any) -> Any:
    """The model whose states are described."""
    return tiny_lm("gpt2", layers=3, scale=3.0, **other)


def folder(where: Path, **other: Any) -> str:
    """A model with its tokenizer as a folder, for ``model=``."""
    subject(**other).save_pretrained(where / "subject")
    tokenizer().save_pretrained(where / "subject")
    return str(where / "subject")


def texts(split: Split, rows: int) -> list[str]:
    start = {"train": 0, "val": 1000, "test": 2000}[split]
    return [f"{NAMES[n % 5]} {NAMES[n // 5 % 5]} {n % 7}" for n in range(start, start + rows)]


class Describing(TinyTask):
    """Texts, and the states that the subject ends each with."""

    template: str | None = None

    def __init__(self, rows: int = 40, **kwargs: Any) -> None:
        super().__init__(rows, **{"batch_size": 8, "eval_batch_size": 16, **kwargs})

    @property
    def critic_template(self) -> str | None:
        return self.template

    def described(self, split: Split) -> list[Described]:
        rows = texts(split, self.rows)
        return [Described(text, vector) for text, vector in zip(rows, vectors(rows), strict=True)]


def vectors(rows: Sequence[str]) -> np.ndarray:
    plain = ReconstructorSettings(layer=LAYER, head="none", template="{explanation}")
    return Reconstructor(subject(), tokenizer(), plain).reconstruct(rows).numpy()


def module(where: Path, critic: dict[str, Any] | None = None, **settings: Any) -> ReconstructorModule:
    """A module that starts from another model of the same size."""
    given = {"layer": LAYER, **(critic or {})}
    return ReconstructorModule(**{"model": folder(where, seed=5), "critic": given, "lr": 3e-3, **settings})


def critic(where: Path, **settings: Any) -> str:
    """The checkpoint of a critic that has learned nothing yet."""
    lm = subject(seed=settings.pop("seed", 5))
    Reconstructor(lm, tokenizer(), ReconstructorSettings(**{"layer": LAYER, **settings})).save(where / "critic.ckpt")
    return str(where / "critic.ckpt")


def actor(where: Path) -> str:
    """A policy that ends about every sixth token, as a folder."""
    lm, end = subject(seed=9), tokenizer().eos_token_id
    with torch.no_grad():
        lm.transformer.ln_f.bias.fill_(0.25)
        lm.transformer.wte.weight[end] = 1.0
    lm.save_pretrained(where / "actor")
    tokenizer().save_pretrained(where / "actor")
    return str(where / "actor")


def words(text: str) -> str | None:
    """Every answer of letters is an explanation."""
    return text.strip() or None


class Explaining(Describing):
    """Prompts whose vectors are to be explained; it counts the critics that it is given."""

    def __init__(self, checkpoint: str, settings: dict[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.reward = ReconstructionReward(checkpoint, words, ReconstructionSettings(**(settings or {})))
        self.rewards = {"reconstruction": self.reward}
        self.versions: list[int] = []
        self.reconstruct: Reconstruct | None = None

    def prompts(self, split: Split) -> list[Prompt]:
        rows = enumerate(self.described(split))
        return [Prompt("salt", {"index": number, "target": row.vector}) for number, row in rows]

    def update_critic(self, reconstruct: Reconstruct, version: int) -> None:
        self.versions.append(version)
        self.reconstruct = reconstruct


def rollout(text: str, target: Any = None, finished: bool = True, group: int = 0, **columns: Any) -> Rollout:
    """A completion of the task."""
    ids = torch.tensor(tokenizer()(text)["input_ids"])
    given = {"index": group, **columns} | ({} if target is None else {"target": np.asarray(target, np.float32)})
    return Rollout(torch.tensor([3]), ids, torch.zeros(len(ids)), finished, text, "salt", given, group)
