"""Two folders of analyses compared: the same rows, an old and a new model."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from lit_narrative.circuits.analysis import Analysis, CircuitResults
from lit_narrative.circuits.report.findings import change
from lit_narrative.errors import UserError


@dataclass(frozen=True, eq=False)
class Comparable:
    """What two folders have in common, and what is left out because they have not.

    Attributes:
        old: results of the old model.
        new: results of the new one, of the same analyses and splits.
        left_out: why something is not compared, in words.
    """

    old: CircuitResults
    new: CircuitResults
    left_out: tuple[str, ...]


def list_changes(common: Comparable) -> dict[str, Any]:
    """What is different, in numbers: the content of comparison.json.

    Returns:
        ``old`` and ``new``: whose models they are; ``left_out``; ``figures``: the metrics of both, with the change; and
        the entries of each analysis (`Analysis.changes`).
    """
    old, new = common.old, common.new
    changes: dict[str, Any] = {
        "old": _identity(old),
        "new": _identity(new),
        "left_out": list(common.left_out),
        "figures": _metrics(old, new),
    }
    for analysis in new.analyses:  # also those that neither did: their entries are there, and empty
        changes |= analysis.changes(old, new)
    return changes


def _identity(results: CircuitResults) -> dict[str, Any]:
    return {key: results.manifest.get(key) for key in ("checkpoint", "step", "seed")}


def _metrics(old: CircuitResults, new: CircuitResults) -> dict[str, dict[str, float]]:
    before, after = (results.manifest.get("figures", {}) for results in (old, new))
    return {name: change(before[name], value) for name, value in after.items() if name in before}


def find_common(old: CircuitResults, new: CircuitResults) -> Comparable:
    """Take what two folders have in common: analyses with the same settings, on splits with the same rows.

    Raises:
        UserError: the models are of different shape, the reference splits differ, or nothing is in common.
    """
    for key, what in (("model", "models of the same shape"), ("home", "the same reference split")):
        first, second = old.manifest.get(key), new.manifest.get(key)
        if first != second:
            raise UserError(
                f"'{old.folder}' and '{new.folder}' cannot be compared: it takes {what}, "
                f"but {key} is {first} in the first and {second} in the second"
            )
    splits, left_out = _common_splits(old, new)
    analyses, reasons = _common_analyses(old, new)
    left_out += reasons
    if old.reference_split not in splits or not analyses:
        raise UserError(f"'{old.folder}' and '{new.folder}' have nothing to compare: {'; '.join(left_out)}")
    return Comparable(_narrow(old, splits, analyses), _narrow(new, splits, analyses), tuple(left_out))


def _common_splits(old: CircuitResults, new: CircuitResults) -> tuple[list[str], list[str]]:
    """The splits on which both had the same rows and pairs, and why the others are left out."""
    splits, left_out = [], []
    for split in dict.fromkeys([*old.splits, *new.splits]):
        if split not in old.splits or split not in new.splits:
            left_out.append(f"{split}: only one of the two was asked on this split")
        elif old.manifest["splits"][split] != new.manifest["splits"][split]:  # counts, and a checksum of the texts
            left_out.append(f"{split}: the two were not asked the same rows or pairs")
        else:
            splits.append(split)
    return splits, left_out


def _common_analyses(old: CircuitResults, new: CircuitResults) -> tuple[list[Analysis], list[str]]:
    """The analyses that both did with the same settings, and why the others are left out."""
    analyses, left_out = [], []
    for analysis in new.analyses:
        done = [results.has(analysis) for results in (old, new)]
        if any(done) and not all(done):
            left_out.append(f"{analysis.name}: only one of the two has this analysis")
        elif all(done) and (differing := _settings_that_differ(old, new, analysis)):
            left_out.append(f"{analysis.name}: done with different settings ({', '.join(differing)})")
        elif all(done):
            analyses.append(analysis)
    return analyses, left_out + _unknown(old, new)


def _unknown(old: CircuitResults, new: CircuitResults) -> list[str]:
    """Analyses of other packages in either folder whose modules were not named here."""
    known = {analysis.name for analysis in new.analyses}
    paths: dict[str, str] = old.manifest.get("extra", {}) | new.manifest.get("extra", {})
    return [
        f"{name}: an analysis of another package, compared only where its module is named (`--extra {path}`)"
        for name, path in paths.items()
        if name not in known
    ]


def _settings_that_differ(old: CircuitResults, new: CircuitResults, analysis: Analysis) -> list[str]:
    # A setting that one folder lacks was not there when it was written, which counts as different.
    names = []
    for group in analysis.settings:
        a, b = (results.manifest.get("settings", {}).get(group, {}) for results in (old, new))
        names += [f"{group}.{key}" for key in dict.fromkeys([*a, *b]) if a.get(key) != b.get(key)]
    return names


def _narrow(results: CircuitResults, splits: list[str], analyses: Iterable[Analysis]) -> CircuitResults:
    """The same with some splits and analyses only."""
    tables = {table: table.narrow(results.each(table), splits) for analysis in analyses for table in analysis.tables}
    return replace(results, tables=tables)
