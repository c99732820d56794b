"""What is different between two folders of analyses: the same questions asked of an old and of a new model."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from lit_narrative.circuits.analyses.ablation import compare, overlap
from lit_narrative.circuits.analyses.probes import ProbeRow, Probes
from lit_narrative.circuits.results import CircuitResults
from lit_narrative.circuits.tables import read_arrays
from lit_narrative.errors import UserError
from lit_narrative.sae.metrics import match_features

TOP = 0.1
"""Share of a model's edges that count as its circuit when two are compared."""
MOVED = 5
"""Probes and patches that are named as those that changed most."""
MATCHED = 4096
"""Features of a larger dictionary are not matched: the optimal assignment takes cubic time."""


@dataclass(frozen=True, eq=False)
class Comparable:
    """What two folders have in common, and what is left out since they have not.

    Attributes:
        old: results of the old model.
        new: results of the new one, of the same analyses and splits.
        left_out: why something is not compared, in words.
    """

    old: CircuitResults
    new: CircuitResults
    left_out: tuple[str, ...]


def list_changes(common: Comparable) -> dict[str, Any]:
    """What is different, in figures.

    Returns:
        ``left_out``; ``figures`` of both, with the change; ``important_parts`` and ``circuits``, for each split whether
        both rely on the same parts and edges (`importance.Overlap`, the new model first); ``faithfulness`` of both;
        ``probes`` and ``patching``, what changed most on each split; ``sae``, for each hook how alike the features'
        directions are (mean cosine of matched ones, and of matched directions at random), and the kinds of each split.
    """
    old, new = common.old, common.new
    return {
        "old": _identity(old),
        "new": _identity(new),
        "left_out": list(common.left_out),
        "figures": _figures(old, new),
        "important_parts": _important_parts(old, new),
        "circuits": _circuits(old, new),
        "faithfulness": _faithfulness(old, new),
        "probes": _probes(old.probes, new.probes),
        "patching": {split: _patches(old, new, split) for split in new.patching},
        "sae": {hook: _features(old, new, hook) for hook in new.features if hook in old.features},
    }


def _identity(results: CircuitResults) -> dict[str, Any]:
    return {key: results.manifest.get(key) for key in ("checkpoint", "step", "seed")}


def _figures(old: CircuitResults, new: CircuitResults) -> dict[str, dict[str, float]]:
    before, after = (own.manifest.get("figures", {}) for own in (old, new))
    return {
        name: {"old": before[name], "new": value, "change": value - before[name]}
        for name, value in after.items()
        if name in before
    }


def _important_parts(old: CircuitResults, new: CircuitResults) -> dict[str, Any]:
    if old.ablation is None or new.ablation is None:
        return {}
    return {
        base.split: asdict(compare(new.ablation, base.split, old.ablation, base.split)) for base in new.ablation.bases
    }


def _circuits(old: CircuitResults, new: CircuitResults) -> dict[str, Any]:
    found = {}
    for split, scores in new.edges.items():
        if split in old.edges:
            a, b = scores.magnitudes(), old.edges[split].magnitudes()
            found[split] = asdict(overlap(a, b, max(1, round(TOP * len(a))), ("new", "old")))
    return found


def _faithfulness(old: CircuitResults, new: CircuitResults) -> dict[str, Any]:
    return {
        split: {
            name: {"cpr": curve.cpr, "cmd": curve.cmd, "random_cpr": curve.random_cpr, "full": curve.full}
            for name, curve in (("old", old.faithfulness[split]), ("new", new_curve))
        }
        for split, new_curve in new.faithfulness.items()
        if split in old.faithfulness
    }


def _probes(old: Probes | None, new: Probes | None) -> dict[str, list[dict[str, Any]]]:
    """By split, the probes whose scores changed most."""
    if old is None or new is None:
        return {}
    before = {_key(row): row.score for row in old.rows}
    moved: dict[str, list[dict[str, Any]]] = {}
    for row in new.rows:
        if _key(row) in before:
            target, site, layer, place, split = _key(row)
            where = {"target": target, "site": site, "layer": layer, "place": place}
            moved.setdefault(split, []).append({**where, **_change(before[_key(row)], row.score)})
    return {split: _most(own) for split, own in moved.items()}


def _key(row: ProbeRow) -> tuple[str, str, int, str, str]:
    return row.target, row.site, row.layer, row.place, row.split


def _change(old: float, new: float) -> dict[str, float]:
    return {"old": old, "new": new, "change": new - old}


def _most(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: -abs(row["change"]))[:MOVED]


def _patches(old: CircuitResults, new: CircuitResults, split: str) -> list[dict[str, Any]]:
    """The patches whose recovery changed most."""
    before = (
        {
            (patch.direction, patch.site, patch.layer, patch.head, patch.place): patch.recovery
            for patch in old.patching[split].patches
        }
        if split in old.patching
        else {}
    )
    rows = []
    for patch in new.patching[split].patches:
        where = {name: getattr(patch, name) for name in ("direction", "site", "layer", "head", "place")}
        then = before.get(tuple(where.values()))  # type: ignore[arg-type]
        if then is not None and patch.recovery is not None:
            rows.append({**where, **_change(then, patch.recovery)})
    return _most(rows)


def _features(old: CircuitResults, new: CircuitResults, hook: str) -> dict[str, Any]:
    splits = dict.fromkeys(row.split for row in new.features[hook].rows)
    kinds = {
        split: {"old": old.features[hook].counts(split), "new": new.features[hook].counts(split)} for split in splits
    }
    return {"kinds": kinds, **dict(_likeness(old, new, hook))}


def _likeness(old: CircuitResults, new: CircuitResults, hook: str) -> Iterator[tuple[str, float]]:
    """Mean cosine of the matched decoder directions, and of a match with as many random directions."""
    weights = [read_arrays(own.folder / "sae" / hook / "sae_weights.safetensors")["W_dec"] for own in (old, new)]
    if weights[0].shape == weights[1].shape and len(weights[0]) <= MATCHED:
        noise = np.random.default_rng(0).standard_normal(weights[0].shape)
        yield "matched_cosine", match_features(*weights).mean_cosine
        yield "matched_cosine_of_random", match_features(weights[0], noise).mean_cosine


TABLES = {
    "probes": ("probes",),
    "patching": ("patching",),
    "ablation": ("ablation",),
    "attribution": ("edges", "nodes", "faithfulness"),
    "acdc": ("pruned", "criteria"),
    "lens": ("lens", "direct"),
    "attention": ("attention",),
    "sae": ("features", "patterns", "effects"),
}
"""Tables of each analysis."""
SETTINGS = {"attribution": ("attribution", "faithfulness")}
"""Analyses whose settings do not simply have their name."""


def find_common(old: CircuitResults, new: CircuitResults) -> Comparable:
    """Take what two folders have in common: analyses with the same settings, on splits with the same rows.

    Raises:
        UserError: the models are of different shape, the home splits differ, or nothing is in common.
    """
    for key, what in (("model", "models of the same shape"), ("home", "the same home split")):
        ours, theirs = new.manifest.get(key), old.manifest.get(key)
        if ours != theirs:
            raise UserError(
                f"'{old.folder}' and '{new.folder}' cannot be compared: it takes {what}, "
                f"but {key} is {theirs} in the first and {ours} in the second"
            )
    splits, analyses, left_out = [], [], []
    for split in dict.fromkeys([*old.splits, *new.splits]):
        if split not in old.splits or split not in new.splits:
            left_out.append(f"{split}: only one of the two was asked on this split")
        elif old.manifest["splits"][split] != new.manifest["splits"][split]:
            left_out.append(f"{split}: the two were not asked the same rows or pairs")
        else:
            splits.append(split)
    for name in TABLES:
        done = [_done(own, name) for own in (old, new)]
        if any(done) and not all(done):
            left_out.append(f"{name}: only one of the two has this analysis")
        elif all(done) and (differing := _settings_that_differ(old, new, name)):
            left_out.append(f"{name}: done with different settings ({', '.join(differing)})")
        elif all(done):
            analyses.append(name)
    if old.manifest["home"] not in splits or not analyses:
        reasons = "; ".join(left_out)
        raise UserError(f"'{old.folder}' and '{new.folder}' have nothing to compare: {reasons}")
    return Comparable(_narrow(old, splits, analyses), _narrow(new, splits, analyses), tuple(left_out))


def _done(results: CircuitResults, analysis: str) -> bool:
    return any(bool(getattr(results, table)) for table in TABLES[analysis])


def _settings_that_differ(old: CircuitResults, new: CircuitResults, analysis: str) -> list[str]:
    names = []
    for group in SETTINGS.get(analysis, (analysis,)):
        a, b = (own.manifest.get("settings", {}).get(group, {}) for own in (old, new))
        names += [f"{group}.{key}" for key in dict.fromkeys([*a, *b]) if a.get(key) != b.get(key)]
    return names


def _narrow(results: CircuitResults, splits: list[str], analyses: list[str]) -> CircuitResults:
    """The same with some splits and analyses only."""
    kept: dict[str, Any] = {}
    for analysis, tables in TABLES.items():
        for table in tables:
            own = getattr(results, table)
            if isinstance(own, Mapping):
                names = own if analysis == "sae" else splits
                kept[table] = {name: own[name] for name in names if name in own and analysis in analyses}
            else:
                kept[table] = own if analysis in analyses else None
    home = results.manifest["home"]
    if probes := kept["probes"]:
        known = {*splits, f"{home}_heldout"}
        kept["probes"] = replace(probes, rows=tuple(row for row in probes.rows if row.split in known))
    if ablation := kept["ablation"]:
        rows, bases = (tuple(row for row in own if row.split in splits) for own in (ablation.rows, ablation.bases))
        kept["ablation"] = replace(ablation, rows=rows, bases=bases)
    return replace(results, **kept)
