"""Patches with what they recover, and whether the model prefers each prompt's own answer at all."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Self, get_args

import numpy as np

from lit_narrative.circuits.bridge import WHOLE
from lit_narrative.circuits.tables import read_arrays, read_rows, write_arrays, write_rows
from lit_narrative.files import write_json

ALL = "all"
Direction = Literal["denoise", "noise"]


@dataclass(frozen=True)
class Patch:
    """Effect of one patch, over the pairs.

    Attributes:
        direction: denoise or noise.
        site: short name of the activation.
        layer: of the block.
        head: None in the stream.
        place: name of the position; ``all`` where the whole row is patched.
        logit_diff: mean logit difference (clean answer less corrupt answer) of the patched run.
        recovery: how far it went from the run's own mean towards the other run's: 0 nothing, 1 all the way; None where
            the two runs do not differ.
        flip_rate: of the pairs that the model tells apart, the share whose patched run prefers the other run's answer;
            None without such pairs.
    """

    direction: Direction
    site: str
    layer: int
    head: int | None
    place: str
    logit_diff: float
    recovery: float | None
    flip_rate: float | None


@dataclass(frozen=True, eq=False)
class Patching:
    """All patches.

    Attributes:
        patches: one for each direction and cell.
        logit_diffs: (patches, pairs) float32, each pair's logit difference under each patch.
        clean: (pairs,) float32, of the clean runs.
        corrupt: (pairs,) float32, of the corrupt runs.
    """

    patches: tuple[Patch, ...]
    logit_diffs: np.ndarray
    clean: np.ndarray
    corrupt: np.ndarray

    def top(self, count: int = 5, direction: Direction = "denoise", site: str | None = None) -> list[Patch]:
        """The patches that recover most."""
        patches = [patch for patch in self.patches if patch.direction == direction and site in (None, patch.site)]
        return sorted(patches, key=lambda patch: -(patch.recovery or 0.0))[:count]

    @property
    def weak(self) -> bool:
        """Whether the model does not prefer each prompt's own answer, so that recovery says little about right ones."""
        return low_confidence(float(self.clean.mean()), float(self.corrupt.mean()))

    @property
    def directions(self) -> list[Direction]:
        """The directions that were patched, denoise first."""
        return [name for name in get_args(Direction) if any(patch.direction == name for patch in self.patches)]

    def parts(self) -> list[Patch]:
        """The patch of every site within a block that recovers most (denoise), if the two runs differ.

        The stream is left out: whatever the model does, at some position it carries the whole answer.
        """
        sites = dict.fromkeys(patch.site for patch in self.patches if patch.site not in WHOLE)
        return [patch for site in sites for patch in self.top(1, site=site) if patch.recovery is not None]

    def grid(self, site: str, direction: Direction = "denoise") -> tuple[np.ndarray, list[int], list[str]]:
        """Recovery (layers, positions or heads) of a site, its layers, and names of its columns; NaN for None."""
        patches = [patch for patch in self.patches if (patch.site, patch.direction) == (site, direction)]
        layers = sorted({patch.layer for patch in patches})
        names = list(dict.fromkeys(_column(patch) for patch in patches))
        values = np.full((len(layers), len(names)), np.nan)
        for patch in patches:
            if patch.recovery is not None:
                values[layers.index(patch.layer), names.index(_column(patch))] = patch.recovery
        return values, layers, names

    def save(self, folder: str | Path) -> Path:
        """Write patching.csv, patching.safetensors and patching.json (the best patches)."""
        folder = Path(folder)
        write_rows(folder / "patching.csv", Patch, self.patches)
        arrays = {"logit_diffs": self.logit_diffs, "clean": self.clean, "corrupt": self.corrupt}
        write_arrays(folder / "patching.safetensors", arrays)
        top = {f"{direction}_top": [asdict(p) for p in self.top(10, direction)] for direction in get_args(Direction)}
        means = {"clean": float(self.clean.mean()), "corrupt": float(self.corrupt.mean())}
        write_json(folder / "patching.json", {"pairs": len(self.clean), "logit_diff": means, **top})
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what `save` wrote."""
        arrays = read_arrays(Path(folder, "patching.safetensors"))
        return cls(read_rows(Path(folder, "patching.csv"), Patch), **arrays)


def _column(patch: Patch) -> str:
    if patch.head is None:
        return patch.place
    return f"h{patch.head}" if patch.place == ALL else f"h{patch.head} {patch.place}"


def low_confidence(clean: float, corrupt: float) -> bool:
    """Whether mean leads of the clean answer say that the model does not prefer each prompt's own answer."""
    return clean <= 0 or corrupt >= 0
