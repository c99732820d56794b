"""A task of texts and the vectors that they describe: what a tiny model holds at the end of each."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lit_narrative.datamodules.base import Split
from lit_narrative.lm.reconstructor import Reconstructor, ReconstructorSettings
from lit_narrative.modules.reconstructor import ReconstructorModule
from lit_narrative.views import Described
from tests.helpers import TinyTask, sizes, tiny_lm, tokenizer

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


__all__ = ["Describing", "folder", "module", "sizes", "subject", "texts", "vectors"]
