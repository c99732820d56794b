"""What each layer would answer by the logit lens, and what each part adds to the answer directly."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from lit_narrative.circuits.tables import read_arrays, read_rows, write_arrays, write_rows
from lit_narrative.files import read_json, write_json


@dataclass(frozen=True)
class LensRow:
    """The residual stream before a layer, read as if it were the last.

    Attributes:
        layer: the layer that follows; the number of layers for the end of the stream.
        accuracy: share of scored tokens whose right token has the largest logit.
        logprob: mean log-probability of the answer, in nats.
        logit_diff: mean lead of the answer over the distractor (over the best other token, if there is none).
        rank: mean number of tokens with a larger logit than the answer's.
        kl: mean divergence of the final distribution from this one, in nats.
    """

    layer: int
    accuracy: float
    logprob: float
    logit_diff: float
    rank: float
    kl: float


@dataclass(frozen=True)
class Lens:
    """The logit lens of all layers."""

    rows: tuple[LensRow, ...]

    def save(self, folder: str | Path) -> Path:
        """Write lens.csv."""
        write_rows(Path(folder, "lens.csv"), LensRow, self.rows)
        return Path(folder)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what `save` wrote."""
        return cls(read_rows(Path(folder, "lens.csv"), LensRow))


@dataclass(frozen=True, eq=False)
class Direct:
    """Direct contributions to the logit difference: they add up to it.

    Attributes:
        parts: ``input``, every head and MLP, and ``bias`` (biases of attentions, last norm and output).
        values: (P, M) float32, over the M scored tokens.
        logit_diff: (M,) float32, of the model.
    """

    parts: tuple[str, ...]
    values: np.ndarray
    logit_diff: np.ndarray

    def ranked(self) -> list[tuple[str, float]]:
        """Parts with their mean contributions, the largest magnitude first."""
        means = zip(self.parts, self.values.mean(1).tolist(), strict=True)
        return sorted(means, key=lambda item: -abs(item[1]))

    def save(self, folder: str | Path) -> Path:
        """Write direct.json (means) and direct.safetensors."""
        folder = Path(folder)
        means = dict(zip(self.parts, self.values.mean(1).tolist(), strict=True))
        write_json(folder / "direct.json", {"parts": means, "logit_diff": float(self.logit_diff.mean())})
        write_arrays(folder / "direct.safetensors", {"values": self.values, "logit_diff": self.logit_diff})
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what `save` wrote."""
        parts = tuple(read_json(Path(folder, "direct.json"))["parts"])
        return cls(parts, **read_arrays(Path(folder, "direct.safetensors")))
