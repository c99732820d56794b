"""Activation patching: which activations carry what tells two prompts apart.

A run on one prompt of a contrast pair gets one activation of the run on the other prompt (Meng et al. 2022, Wang et al.
2022, https://arxiv.org/abs/2211.00593). ``denoise`` puts clean activations into the corrupt run, ``noise`` corrupt ones
into the clean run. Many patches run as the rows of one batch, which is what makes the sweep fast.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from lit_narrative.circuits.bridge import Shape, check_layers, shape
from lit_narrative.circuits.contrasts import Contrasts, Side
from lit_narrative.circuits.patches import HEADS, SITES, Direction, Patch, Patching, PatchingSettings
from lit_narrative.circuits.positions import Places
from lit_narrative.circuits.sweep import Edit, Progress, capture, sweep

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

ALL = "all"
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
