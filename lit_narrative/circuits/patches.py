"""What activation patching is asked for, and what comes of it: a table of patches, and every pair's figures."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Self, get_args

import numpy as np

from lit_narrative.circuits.tables import read_arrays, read_rows, write_arrays, write_rows
from lit_narrative.errors import UserError, check_least, did_you_mean
from lit_narrative.files import write_json

Direction = Literal["denoise", "noise"]
STREAM = {"resid_pre": "hook_resid_pre", "resid_mid": "hook_resid_mid", "resid_post": "hook_resid_post"}
WHOLE = tuple(STREAM)
"""The stream itself, which holds all that lies before: at the place where two prompts differ it is the other run."""
STREAM |= {"attn_out": "hook_attn_out", "mlp_out": "hook_mlp_out"}
HEADS = {"z": "attn.hook_z", "q": "attn.hook_q", "k": "attn.hook_k", "v": "attn.hook_v", "pattern": "attn.hook_pattern"}
SITES = STREAM | HEADS
"""Places in a block by their short names; those in ``HEADS`` are patched one head at a time."""


def answers_weakly(clean: float, corrupt: float) -> bool:
    """Whether mean leads of the clean answer say that the model does not prefer each prompt's own answer."""
    return clean <= 0 or corrupt >= 0


@dataclass(frozen=True)
class PatchingSettings:
    """What is patched.

    Args:
        sites: of ``SITES``; streams are patched by layer and place, heads by layer and head.
        layers: some of them, or all.
        directions: denoise, noise, or both.
        places: names of columns (``answer`` …), ``named`` for all that every pair has, or ``columns`` for every column
            by its number (of pairs of one length: they are counted from the left of the longest).
        heads_by_place: patch heads place by place instead of at all of them together (not the pattern).
        max_pairs: pairs used at most.
        batch_size: rows (pairs times patches) of one forward pass.
    """

    sites: Sequence[str] = ("resid_pre", "attn_out", "mlp_out", "z")
    layers: Literal["all"] | Sequence[int] = "all"
    directions: Sequence[Direction] = ("denoise", "noise")
    places: Literal["named", "columns"] | Sequence[str] = "named"
    heads_by_place: bool = False
    max_pairs: int = 32
    batch_size: int = 512

    def __post_init__(self) -> None:
        check_least("patching.max_pairs", self.max_pairs, 1)
        check_least("patching.batch_size", self.batch_size, 1)
        for key, known in (("sites", tuple(SITES)), ("directions", get_args(Direction))):
            for name in getattr(self, key):
                if name not in known:
                    near = did_you_mean(name, known)
                    raise UserError(f"patching.{key}: no {name!r}{near}; choose from {', '.join(known)}")


@dataclass(frozen=True)
class Patch:
    """What one patch does, over the pairs.

    Attributes:
        direction: denoise or noise.
        site: short name of the place in the block.
        layer: of the block.
        head: None in the streams.
        place: name of the column; ``all`` where the whole row is patched.
        logit_diff: mean logit difference (clean answer less corrupt answer) of the patched run.
        recovery: how far it went from the run's own mean towards the other run's: 0 nothing, 1 all the way; None where
            the two runs do not differ.
        flip_rate: share of the pairs told apart by the model whose patched run prefers the other run's answer; None
            without such pairs.
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
    """A sweep of patches.

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
        own = [patch for patch in self.patches if patch.direction == direction and site in (None, patch.site)]
        return sorted(own, key=lambda patch: -(patch.recovery or 0.0))[:count]

    @property
    def weak(self) -> bool:
        """Whether the model does not prefer each prompt's own answer, so that recovery says little about right ones."""
        return answers_weakly(float(self.clean.mean()), float(self.corrupt.mean()))

    def parts(self) -> list[Patch]:
        """Of every site within a block the patch that recovers most (denoise), if the two runs differ.

        The stream is left out: whatever the model does, there is a place where it takes the whole answer along.
        """
        sites = dict.fromkeys(patch.site for patch in self.patches if patch.site not in WHOLE)
        return [patch for site in sites for patch in self.top(1, site=site) if patch.recovery is not None]

    def grid(self, site: str, direction: Direction = "denoise") -> tuple[np.ndarray, list[int], list[str]]:
        """Recovery (layers, places or heads) of a site, its layers, and the names of its columns; NaN for None."""
        own = [patch for patch in self.patches if (patch.site, patch.direction) == (site, direction)]
        layers = sorted({patch.layer for patch in own})
        names = list(dict.fromkeys(_column(patch) for patch in own))
        values = np.full((len(layers), len(names)), np.nan)
        for patch in own:
            if patch.recovery is not None:
                values[layers.index(patch.layer), names.index(_column(patch))] = patch.recovery
        return values, layers, names

    def save(self, folder: str | Path) -> Path:
        """Write patching.csv, patching.safetensors and patching.json (what there is, in short)."""
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
    return f"h{patch.head}" if patch.place == "all" else f"h{patch.head} {patch.place}"
