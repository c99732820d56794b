"""Activation patching: which activations carry what tells two prompts apart.

A run on one prompt of a contrast pair gets one activation of the run on the other prompt (Meng et al. 2022, Wang et al.
2022, https://arxiv.org/abs/2211.00593). ``denoise`` puts clean activations into the corrupt run, ``noise`` corrupt ones
into the clean run. Many patches run as the rows of one batch, which is what makes them fast.

Recovery of a patch is (m − m_run) / (m_other − m_run), m the mean logit difference: 0 changes nothing, 1 takes the run
all the way to the other one.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, get_args

import torch
from torch import Tensor

from lit_narrative.circuits.analyses import ablation
from lit_narrative.circuits.analysis import (
    SPLITS,
    About,
    Analysis,
    AnalysisJob,
    AnalysisSettings,
    CircuitResults,
    Layers,
    Metrics,
    Models,
    Sketch,
    Table,
    shared,
)
from lit_narrative.circuits.bridge import HEADS, SITES, Shape, check_layers, shape
from lit_narrative.circuits.contrasts import Contrasts, Side
from lit_narrative.circuits.figures.heat_maps import draw_patching
from lit_narrative.circuits.hooks import Edit, Progress, batched_interventions, capture, shifted
from lit_narrative.circuits.inputs import Positions
from lit_narrative.circuits.records.patching import ALL, Direction, Patch, Patching, low_confidence
from lit_narrative.circuits.report.findings import change, largest_changes, name_changes
from lit_narrative.errors import UserError, check_least, did_you_mean
from lit_narrative.report.format import number
from lit_narrative.report.records import read_record

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


SIDES: dict[Direction, tuple[Side, Side]] = {"denoise": ("corrupt", "clean"), "noise": ("clean", "corrupt")}
"""The run that is patched, and the one that the activations come from."""


class Cell(NamedTuple):
    """One patch; ``head`` is None in the stream, ``position`` (an index) None where the whole row is patched."""

    site: str
    layer: int
    head: int | None
    position: int | None

    @property
    def hook(self) -> str:
        """The hook's name."""
        return f"blocks.{self.layer}.{SITES[self.site]}"

    def edit(self, source: Tensor, columns: Tensor) -> Edit:
        """Put the source (n, T, …) into a run, at a position given by its columns (n, P)."""
        rows, position, head = torch.arange(len(source)), self.position, self.head

        def change(activation: Tensor) -> None:
            if self.site == "pattern":
                activation[:, head] = source[:, head]
            elif position is None:
                activation[:, :, head] = source[:, :, head]
            else:
                at = (rows, columns[:, position]) if head is None else (rows, columns[:, position], head)
                activation[at] = source[at]

        return self.hook, change


@dataclass(frozen=True)
class PatchingSettings(AnalysisSettings):
    """Activations that are patched.

    Args:
        sites: of ``SITES``; the stream is patched by layer and position, heads by layer and head.
        layers: some of them, or all.
        directions: denoise, noise, or both.
        places: names of positions (``answer`` …), ``named`` for all that every pair has, or ``columns`` for every
            column by its number, counted from the left of the longest pair.
        heads_by_place: patch heads position by position instead of at all of them together (not the pattern).
        max_pairs: pairs used at most.
        batch_size: rows (pairs times patches) of one forward pass.
    """

    sites: Sequence[str] = ("resid_pre", "attn_out", "mlp_out", "z")
    layers: Layers = "all"
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

    def tiny(self) -> Self:
        """One position alone."""
        return replace(self, places=("answer",))


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
        UserError: a layer or the name of a position does not exist.
    """
    settings = settings or PatchingSettings()
    pairs = contrasts.first(settings.max_pairs)
    positions = _positions(pairs, settings)
    chosen = cells(settings, check_layers(bridge, settings.layers), shape(bridge), len(positions.names))
    hooks = list(dict.fromkeys(cell.hook for cell in chosen))
    sides: tuple[Side, Side] = ("clean", "corrupt")
    # Both sides are captured once; every patch afterwards is an edit of a batch.
    runs = {side: capture(bridge, pairs.inputs(side), hooks) for side in sides}
    base = {side: scores.logit_diff for side, (scores, _) in runs.items()}
    patches, values = [], []
    for turn, direction in enumerate(settings.directions):
        into, source = SIDES[direction]
        edits = [cell.edit(runs[source][1][cell.hook], positions.columns) for cell in chosen]
        report = shifted(progress, turn * len(chosen), len(settings.directions) * len(chosen))
        patched = batched_interventions(bridge, pairs.inputs(into), edits, settings.batch_size, report).logit_diff
        values.append(patched)
        for cell, row in zip(chosen, patched, strict=True):
            patches.append(_patch(direction, cell, positions, row, base[into], base[source]))
    return Patching(tuple(patches), *(x.cpu().numpy() for x in (torch.cat(values), base["clean"], base["corrupt"])))


def _positions(pairs: Contrasts, settings: PatchingSettings) -> Positions:
    if settings.places == "columns":
        return pairs.columns()
    return pairs.positions if isinstance(settings.places, str) else pairs.positions.pick(settings.places)


def cells(settings: PatchingSettings, layers: Sequence[int], sizes: Shape, positions: int) -> list[Cell]:
    """The cells to patch, site by site."""
    chosen: list[Cell] = []
    for site in settings.sites:
        heads: Sequence[int | None] = [None]
        if site in HEADS:  # with grouped queries, keys and values are fewer than heads
            heads = range(sizes.kv_heads if site in ("k", "v") else sizes.heads)
        whole = site == "pattern" or (site in HEADS and not settings.heads_by_place)
        where: Sequence[int | None] = [None] if whole else range(positions)
        chosen += [Cell(site, layer, head, position) for layer in layers for head in heads for position in where]
    return chosen


def _patch(
    direction: Direction, cell: Cell, positions: Positions, patched: Tensor, base: Tensor, other: Tensor
) -> Patch:
    """Effect of one cell from (pairs,) logit differences: of the patched run, the unpatched run and the other run."""
    gap = (other.mean() - base.mean()).item()
    # A flip means something only where the two runs prefer different answers to begin with.
    told_apart = (base.sign() * other.sign()) < 0
    flips = (patched.sign() == other.sign())[told_apart]
    return Patch(
        direction,
        cell.site,
        cell.layer,
        cell.head,
        ALL if cell.position is None else positions.names[cell.position],
        patched.mean().item(),
        # A ratio of means: a mean of ratios would be ruled by the pairs that the model hardly tells apart.
        (patched.mean() - base.mean()).item() / gap if gap else None,
        flips.float().mean().item() if len(flips) else None,
    )


TABLE = Table("patching.csv", Patching.load, SPLITS)


def _run(job: AnalysisJob, folder: Path, progress: Progress | None) -> Metrics:
    """Patches between the prompts of each split's pairs."""
    metrics: Metrics = {}
    for split in job.data.pairs:
        result = patch(job.bridge, job.data.contrasts(split), job.settings_of(PatchingSettings), progress)
        result.save(folder / split)
        if recoveries := [item.recovery for item in result.parts() if item.recovery is not None]:
            metrics[f"{split}/recovery"] = max(recoveries)
    return metrics


def _check(job: AnalysisJob) -> None:
    settings = job.settings_of(PatchingSettings)
    check_layers(job.bridge, settings.layers)
    for split in job.data.pairs if not isinstance(settings.places, str) else ():
        job.data.contrasts(split).positions.pick(settings.places)


def _work(job: AnalysisJob) -> int:
    """The unchanged runs, and for each patch the layers from its own on."""
    settings, rows = job.settings_of(PatchingSettings), 0.0
    layers, sizes = check_layers(job.bridge, settings.layers), shape(job.bridge)
    for split in job.data.pairs:
        pairs = job.data.contrasts(split).first(settings.max_pairs)
        chosen = cells(settings, layers, sizes, len(_positions(pairs, settings).names))
        whole = sum(1 - cell.layer / sizes.layers for cell in chosen)
        rows += (2 + len(settings.directions) * (2 + whole)) * len(pairs)
    return round(rows)


def _draw(models: Models) -> Iterator[Sketch]:
    for split, by_model in shared(models, TABLE).items():
        yield Sketch(f"patching_{split}", f"Recovery by patch on {split}", partial(draw_patching, by_model))


def _findings(results: CircuitResults) -> Iterator[str]:
    """For each split, what the two runs answer, and the best patch of each site within the blocks."""
    weak = {*ablation.weak_splits(results), *(split for split, table in results.each(TABLE).items() if table.weak)}
    for split, table in results.each(TABLE).items():
        named = "; ".join(
            f"{name_patch(patch.site, patch.layer, patch.head, patch.place)} {number(patch.recovery, 2)}"
            for patch in table.parts()
        )
        yield (
            f"{split} ({len(table.clean)} pairs): the answer's mean lead is {number(float(table.clean.mean()), 1)} on "
            f"clean and {number(float(table.corrupt.mean()), 1)} on corrupt prompts. Most recovery of each part of "
            f"a block (denoise): {named or 'none'}."
            f"{' The model hardly answers by the rule here: recovery is not to be trusted.' if split in weak else ''}"
        )


def name_patch(site: str, layer: int, head: int | None, place: str) -> str:
    """A patch in words: ``resid_pre 0 at answer``, or ``z of a0.h1``."""
    part = f"{site} {layer}" if head is None else f"{site} of a{layer}.h{head}"
    return part if site in HEADS and place == ALL else f"{part} at {place}"


def _warnings(results: CircuitResults) -> Iterator[str]:
    for split, table in results.each(TABLE).items():
        if table.weak:
            clean, corrupt = float(table.clean.mean()), float(table.corrupt.mean())
            yield (
                f"On {split} the model does not tell the two prompts of a pair apart as it should (the clean answer's "
                f"mean lead is {number(clean, 1)} on clean and {number(corrupt, 1)} on corrupt prompts): recovery and "
                "edges there say little about right answers."
            )


def _low_confidence(folder: Path) -> Iterator[str]:
    for path in folder.glob("*/patching.json"):
        leads = read_record(path).child("logit_diff")
        if low_confidence(leads.number("clean"), leads.number("corrupt")):
            yield path.parent.name


def _changes(old: CircuitResults, new: CircuitResults) -> dict[str, Any]:
    """For each split, the patches whose recovery changed most."""
    tables = old.each(TABLE).items()
    before = {split: {_key(patch): patch.recovery for patch in table.patches} for split, table in tables}
    return {"patching": {split: _moved(before.get(split, {}), table) for split, table in new.each(TABLE).items()}}


Key = tuple[str, str, int, int | None, str]


def _key(patch: Patch) -> Key:
    return patch.direction, patch.site, patch.layer, patch.head, patch.place


def _moved(before: Mapping[Key, float | None], table: Patching) -> list[dict[str, Any]]:
    rows = []
    for patch in table.patches:
        then = before.get(_key(patch))
        if then is not None and patch.recovery is not None:
            where = dict(zip(("direction", "site", "layer", "head", "place"), _key(patch), strict=True))
            rows.append({**where, **change(then, patch.recovery)})
    return largest_changes(rows)


def _change_findings(changes: Mapping[str, Any]) -> Iterator[str]:
    for split, rows in changes["patching"].items():
        yield f"{split}: recoveries that moved most: {name_changes(rows, _name_row)}."


def _name_row(row: Mapping[str, Any]) -> str:
    return f"{row['direction']} {name_patch(row['site'], row['layer'], row['head'], row['place'])}"


PATCHED = {
    "named": "Only positions that all pairs have are patched.",
    "columns": "Every column is patched; columns are counted from the end, where the two prompts are aligned.",
}


def _words(settings: Mapping[str, Any]) -> dict[str, str]:
    places = settings.get("places", "named")
    named = places if isinstance(places, str) else ", ".join(places)
    return {"positions": PATCHED.get(named, f"Only these positions are patched: {named}.")}


ANALYSIS = Analysis(
    "patching",
    About(
        "Activation patching",
        "Which activations carry what tells two prompts apart? Each run on one prompt of a pair gets one activation of "
        "the run on the other prompt. “denoise” puts clean activations into the corrupt run and asks what is enough; "
        "“noise” puts corrupt ones into the clean run and asks what is needed.",
        "Recovery 0 changes nothing; 1 takes the answer's lead all the way to the other run's; below 0 it moves the "
        "wrong way. “changed” is the word in which the two prompts differ, “answer” the position that the answer "
        "follows; where they differ in no other word, the stream before layer 0 at “changed” is 1 by construction. "
        "{positions}",
        _words,
    ),
    _run,
    settings={"patching": PatchingSettings},
    paired=True,
    meanings={"*/recovery": "share of the answer's lead that one patched part of a block brings back, at best"},
    check=_check,
    work=_work,
    tables=(TABLE,),
    draw=_draw,
    findings=_findings,
    warnings=_warnings,
    low_confidence=_low_confidence,
    changes=_changes,
    change_findings=_change_findings,
    order=20,
)
