"""What two folders of analyses have in common, and so can be compared."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from lit_narrative.circuits.results import CircuitResults
from lit_narrative.errors import UserError

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
