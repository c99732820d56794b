"""Linear probes: what can be read off a model's activations by a linear rule, here and on other distributions.

Each probe is fitted on three quarters of one split and judged on the rest of it and on every other split, beside a
control: the same probe fitted to shuffled targets (Hewitt and Liang 2019, https://arxiv.org/abs/1909.03368).
"""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lit_narrative.circuits.analysis import (
    About,
    Analysis,
    AnalysisJob,
    CircuitResults,
    Metrics,
    Models,
    Sketch,
    Table,
    shared,
)
from lit_narrative.circuits.bridge import STREAM, check_layers
from lit_narrative.circuits.data import probe_targets
from lit_narrative.circuits.figures.probes import draw_probes
from lit_narrative.circuits.hooks import Progress, capture
from lit_narrative.circuits.inputs import AnalysisInputs
from lit_narrative.circuits.linear_probe import LabelledRows, LinearProbe, ProbeSettings
from lit_narrative.circuits.records.probes import HELD_OUT, ProbeRow, Probes
from lit_narrative.circuits.report.findings import NAMED, change, largest_changes, name_changes
from lit_narrative.errors import UserError
from lit_narrative.report.format import number, percent

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


class Where(NamedTuple):
    """Where activations were taken; ``place`` is the name of a position."""

    site: str
    layer: int
    place: str


Features = dict[Where, np.ndarray]
"""Activations (n, d) by where they were taken."""
GAIN = 0.1
"""A probe is called better than its controls if it is by more than this."""


def gather(bridge: "TransformerBridge", inputs: AnalysisInputs, settings: ProbeSettings | None = None) -> Features:
    """Activations of the rows at the settings' sites, layers and positions; NaN in rows that lack the position.

    Raises:
        UserError: a layer or position does not exist.
    """
    settings = settings or ProbeSettings()
    if inputs.positions is None:
        raise UserError("the rows have no named positions to probe")
    positions = inputs.positions.pick(settings.places)
    hooks = {
        (site, layer): f"blocks.{layer}.{STREAM[site]}"
        for layer in check_layers(bridge, settings.layers)
        for site in settings.sites
    }
    _, kept = capture(bridge, inputs, hooks.values(), settings.batch_size)
    return {
        Where(site, layer, name): _at(kept[hook], positions.columns[:, index])
        for (site, layer), hook in hooks.items()
        for index, name in enumerate(positions.names)
    }


def _at(activation: Tensor, columns: Tensor) -> np.ndarray:
    """The vectors (n, d) at each row's own column; NaN where there is none."""
    vectors = activation[torch.arange(len(activation)), columns].cpu().numpy()
    vectors[columns.numpy() < 0] = np.nan
    return vectors


def fit_probes(
    features: Mapping[str, Features],
    targets: Mapping[str, Mapping[str, np.ndarray]],
    fit_on: str,
    settings: ProbeSettings | None = None,
    progress: Progress | None = None,
) -> Probes:
    """Fit a probe for every target at every site, layer and position, and judge it on every split.

    Args:
        features: of each split, see `gather`.
        targets: of each split, (n,) values by name. Floating point numbers are predicted by ridge regression, all else
            are classes of a logistic regression. Rows whose value is NaN or "", or that lack the position, are left
            out.
        fit_on: the split that probes are fitted on; its held-out rows are listed as ``<name>_heldout``.
        settings: how.
        progress: called with (probes fitted, of how many).

    Raises:
        UserError: there is no such split.
    """
    settings = settings or ProbeSettings()
    if fit_on not in features:
        raise UserError(f"probes: no split {fit_on!r} to fit on; there are: {', '.join(features)}")
    rows: list[ProbeRow] = []
    weights: dict[str, np.ndarray] = {}
    skipped: list[str] = []
    jobs = [(target, where) for target in targets[fit_on] for where in features[fit_on]]
    for done, (target, where) in enumerate(jobs, 1):
        sets = {split: LabelledRows.known(features[split][where], targets[split][target]) for split in features}
        probe = LinearProbe.fit(sets.pop(fit_on), settings)
        name = f"{target}.{where.site}.{where.layer}.{where.place}"
        if probe is None:
            skipped.append(name)
        else:
            sets = {f"{fit_on}{HELD_OUT}": probe.heldout, **sets}
            rows += _rows(probe, target, where, sets)
            weights |= {f"{name}.{part}": array for part, array in probe.weights().items()}
        if progress is not None:
            progress(done, len(jobs))
    return Probes(tuple(rows), weights, tuple(skipped))


def _rows(probe: LinearProbe, target: str, where: Where, sets: Mapping[str, LabelledRows]) -> Iterator[ProbeRow]:
    for split, data in sets.items():
        if len(data.y):
            kind = "number" if data.numeric else "class"
            yield ProbeRow(target, kind, *where, split, len(data.y), **probe.judge(split, data))


TABLE = Table("probes.csv", Probes.load, keep=Probes.of_splits)


def _run(job: AnalysisJob, folder: Path, progress: Progress | None) -> Metrics:
    """Probes fitted on the reference split and judged on every split."""
    settings, reference = job.settings_of(ProbeSettings), job.data.reference_split
    targets = probe_targets(job.data)
    features = {split: gather(job.bridge, inputs, settings) for split, inputs in job.data.inputs.items()}
    probes = fit_probes(features, targets, reference, settings, progress)
    probes.save(folder)
    best = [probes.of(target, f"{reference}{HELD_OUT}") for target in targets[reference]]
    gains = [max(row.selectivity for row in rows if row.selectivity is not None) for rows in best if rows]
    return {"selectivity": float(np.mean(gains))} if settings.controls and gains else {}


def _check(job: AnalysisJob) -> None:
    settings = job.settings_of(ProbeSettings)
    check_layers(job.bridge, settings.layers)
    for inputs in job.data.inputs.values():
        if inputs.positions is not None:
            inputs.positions.pick(settings.places)


def _draw(models: Models) -> Iterator[Sketch]:
    for probes in shared(models, TABLE).values():
        for split in dict.fromkeys(row.split for table in probes.values() for row in table.rows):
            yield Sketch(f"probes_{split}", f"Probes on {split}", partial(draw_probes, probes, split))


def _gain(row: ProbeRow) -> float:
    """How much better a probe is than its control and than the commonest class."""
    return row.score - max(row.control or 0.0, row.majority or 0.0)


def _findings(results: CircuitResults) -> Iterator[str]:
    """For each split, which targets are read better than by control and majority."""
    probes = results.one(TABLE)
    assert probes is not None
    bars = "its control and the commonest answer"
    bars = bars if any(row.control is not None for row in probes.rows) else "the commonest answer (there is no control)"
    for split in dict.fromkeys(row.split for row in probes.rows):
        rows = [row for row in probes.rows if row.split == split]
        best = {row.target: row for row in sorted(rows, key=_gain)}  # the last of a target is its best
        read = sorted((row for row in best.values() if _gain(row) > GAIN), key=lambda row: -_gain(row))
        if not read:
            yield f"{split}: no probe beats {bars} by more than {GAIN}."
            continue
        named = "; ".join(
            f"{row.target} {number(row.score, 2)} (control {number(row.control, 2)}"
            f"{'' if row.majority is None else f', majority {number(row.majority, 2)}'}; {row.site} {row.layer})"
            for row in read[:NAMED]
        )
        yield (
            f"{split} ({rows[0].n} rows): {len(read)} of {len(best)} targets are read better than by "
            f"{bars} by more than {GAIN}; first {named}."
        )
    if probes.skipped:
        yield f"{len(probes.skipped)} probes were not fitted: targets all equal, or too few rows."


def _changes(old: CircuitResults, new: CircuitResults) -> dict[str, Any]:
    """By split, the probes whose scores changed most."""
    before, after = old.one(TABLE), new.one(TABLE)
    if before is None or after is None:
        return {"probes": {}}
    scores = {(row.target, row.site, row.layer, row.place, row.split): row.score for row in before.rows}
    moved: dict[str, list[dict[str, Any]]] = {}
    for row in after.rows:
        where = {"target": row.target, "site": row.site, "layer": row.layer, "place": row.place}
        then = scores.get((row.target, row.site, row.layer, row.place, row.split))
        if then is not None:
            moved.setdefault(row.split, []).append({**where, **change(then, row.score)})
    return {"probes": {split: largest_changes(rows) for split, rows in moved.items()}}


def _change_findings(changes: Mapping[str, Any]) -> Iterator[str]:
    for split, rows in changes["probes"].items():
        named = name_changes(rows, lambda row: f"{row['target']} ({row['site']} {row['layer']} at {row['place']})")
        yield f"{split}: scores that moved most: {named}."


CONTROLS = " and the control: the same probe fitted to shuffled targets (last panel, score less control)"


def _words(settings: Mapping[str, Any]) -> dict[str, str]:
    control = CONTROLS if settings.get("controls", 1) else "; there is no control, and the last panel is empty"
    return {"fitted": percent(1 - settings["test_size"]) if "test_size" in settings else "a part", "control": control}


ANALYSIS = Analysis(
    "probes",
    About(
        "Linear probes",
        "What can be read off the model's activations by a linear rule, and does the same rule hold on other splits? "
        "Every probe is fitted on {fitted} of the reference split and judged on the rest of it and on all others.",
        "A score is accuracy for a class and R², cut to 0..1, for a number. It counts only beside the share of the "
        "commonest class (first column){control}. What can be read off need not be used by the model. Columns are "
        "sites before (pre) and after (post) each layer, at a named position.",
        _words,
    ),
    _run,
    settings={"probes": ProbeSettings},
    meanings={"selectivity": "how much better the best linear probes do than with shuffled labels"},
    check=_check,
    work=lambda job: sum(map(len, job.data.inputs.values())),
    tables=(TABLE,),
    draw=_draw,
    findings=_findings,
    changes=_changes,
    change_findings=_change_findings,
    order=10,
)
