"""Activation patching: which activations carry what tells two prompts apart.

A run on one prompt of a contrast pair gets one activation of the run on the other prompt (Meng et al. 2022, Wang et al.
2022, https://arxiv.org/abs/2211.00593). ``denoise`` puts clean activations into the corrupt run, ``noise`` corrupt ones
into the clean run. Many patches run as the rows of one batch, which is what makes the sweep fast.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Self, get_args

import numpy as np
import torch
from torch import Tensor

from lit_narrative.circuits.bridge import HEADS, SITES, WHOLE, Shape, check_layers, shape
from lit_narrative.circuits.contrasts import Contrasts, Side
from lit_narrative.circuits.hooks import Edit, Progress, capture, sweep
from lit_narrative.circuits.inputs import Places
from lit_narrative.circuits.tables import read_arrays, read_rows, write_arrays, write_rows
from lit_narrative.errors import UserError, check_least, did_you_mean
from lit_narrative.files import write_json

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


ALL = "all"
Direction = Literal["denoise", "noise"]
SIDES: dict[Direction, tuple[Side, Side]] = {"denoise": ("corrupt", "clean"), "noise": ("clean", "corrupt")}
"""The run that is patched, and the one that the activations come from."""


class Cell(NamedTuple):
    """One patch; ``head`` is None in the streams, ``place`` None where the whole row is patched."""

    site: str
    layer: int
    head: int | None
    place: int | None

    @property
    def hook(self) -> str:
        """The hook's name."""
        return f"blocks.{self.layer}.{SITES[self.site]}"

    def edit(self, source: Tensor, columns: Tensor) -> Edit:
        """Put the source (n, T, …) into a run, at a place given by its columns (n, P)."""
        rows, place, head = torch.arange(len(source)), self.place, self.head

        def change(own: Tensor) -> None:
            if self.site == "pattern":
                own[:, head] = source[:, head]
            elif place is None:
                own[:, :, head] = source[:, :, head]
            else:
                where = (rows, columns[:, place]) if head is None else (rows, columns[:, place], head)
                own[where] = source[where]

        return self.hook, change


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


def patch(
    bridge: "TransformerBridge",
    contrasts: Contrasts,
    settings: PatchingSettings | None = None,
    progress: Progress | None = None,
) -> Patching:
    """Patch every cell that the settings name, in both directions if they say so.

    Args:
        bridge: the model.
        contrasts: the pairs; the first ``max_pairs`` are used.
        settings: what is patched.
        progress: called with (patches done, of how many).

    Raises:
        UserError: A layer or the name of a place does not exist.
    """
    settings = settings or PatchingSettings()
    pairs = contrasts.first(settings.max_pairs)
    places = pairs.columns() if settings.places == "columns" else pairs.places
    places = places if isinstance(settings.places, str) else places.pick(settings.places)
    chosen = cells(settings, check_layers(bridge, settings.layers), shape(bridge), len(places.names))
    names = list(dict.fromkeys(cell.hook for cell in chosen))
    sides: tuple[Side, Side] = ("clean", "corrupt")
    runs = {side: capture(bridge, pairs.questions(side), names) for side in sides}
    base = {side: scores.logit_diff for side, (scores, _) in runs.items()}
    found, values = [], []
    for turn, direction in enumerate(settings.directions):
        into, source = SIDES[direction]
        edits = [cell.edit(runs[source][1][cell.hook], places.columns) for cell in chosen]
        report = _shifted(progress, turn * len(chosen), len(settings.directions) * len(chosen))
        own = sweep(bridge, pairs.questions(into), edits, settings.batch_size, report).logit_diff
        values.append(own)
        for cell, row in zip(chosen, own, strict=True):
            found.append(_patch(direction, cell, places, row, base[into], base[source]))
    return Patching(tuple(found), *(x.cpu().numpy() for x in (torch.cat(values), base["clean"], base["corrupt"])))


def cells(settings: PatchingSettings, layers: Sequence[int], sizes: Shape, places: int) -> list[Cell]:
    """The cells of a sweep, site by site."""
    chosen: list[Cell] = []
    for site in settings.sites:
        heads: Sequence[int | None] = [None]
        if site in HEADS:
            heads = range(sizes.kv_heads if site in ("k", "v") else sizes.heads)
        whole = site == "pattern" or (site in HEADS and not settings.heads_by_place)
        where: Sequence[int | None] = [None] if whole else range(places)
        chosen += [Cell(site, layer, head, place) for layer in layers for head in heads for place in where]
    return chosen


def _patch(direction: Direction, cell: Cell, places: Places, own: Tensor, base: Tensor, other: Tensor) -> Patch:
    """Figures of one cell from (pairs,) logit differences: its own, of the unpatched run and of the other run."""
    gap = (other.mean() - base.mean()).item()
    told = (base.sign() * other.sign()) < 0
    flips = (own.sign() == other.sign())[told]
    return Patch(
        direction,
        cell.site,
        cell.layer,
        cell.head,
        ALL if cell.place is None else places.names[cell.place],
        own.mean().item(),
        (own.mean() - base.mean()).item() / gap if gap else None,
        flips.float().mean().item() if len(flips) else None,
    )


def _shifted(progress: Progress | None, start: int, total: int) -> Progress | None:
    return None if progress is None else lambda done, _: progress(start + done, total)


def answers_weakly(clean: float, corrupt: float) -> bool:
    """Whether mean leads of the clean answer say that the model does not prefer each prompt's own answer."""
    return clean <= 0 or corrupt >= 0


def _column(patch: Patch) -> str:
    if patch.head is None:
        return patch.place
    return f"h{patch.head}" if patch.place == "all" else f"h{patch.head} {patch.place}"
