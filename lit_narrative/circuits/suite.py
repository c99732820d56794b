"""The suite: the analyses of the folder ``analyses`` and of other packages, the settings of all, and their work."""

import importlib
import pkgutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, make_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from lit_narrative.circuits import analyses as folder_of_analyses
from lit_narrative.circuits.analysis import Analysis, AnalysisJob, AnalysisSettings, CircuitResults, Layers
from lit_narrative.circuits.inputs import ask_all
from lit_narrative.errors import UserError, did_you_mean
from lit_narrative.lookup import import_named


def _list_folder() -> dict[str, Analysis]:
    """Every module of the folder that defines ``ANALYSIS``; the others hold parts of one."""
    names = [info.name for info in pkgutil.iter_modules(folder_of_analyses.__path__)]
    # Every analysis is imported here; what takes seconds (transformer_lens, matplotlib) they import where they use it.
    modules = [importlib.import_module(f"{folder_of_analyses.__name__}.{name}") for name in names]
    described = [module.ANALYSIS for module in modules if "ANALYSIS" in vars(module)]
    return {analysis.name: analysis for analysis in sorted(described, key=lambda analysis: analysis.order)}


ANALYSES = _list_folder()
"""The analyses of the package by name, in the order of a page."""
TIMED = 8
"""Rows that are read to time one."""
UNCOUNTED = "probes and autoencoders are fitted on top of that"


@dataclass(frozen=True)
class SettingsGroups:
    """Settings of several analyses: one field for each YAML key."""

    def groups(self) -> dict[str, AnalysisSettings]:
        """The settings by key."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def within(self, layers: Layers) -> Self:
        """The same for some layers, where an analysis does not name its own."""
        return replace(self, **{key: settings.within(layers) for key, settings in self.groups().items()})

    def tiny(self) -> Self:
        """The same with hardly any work, to try whether it runs."""
        return replace(self, **{key: settings.tiny() for key, settings in self.groups().items()})


def _settings_class(described: Iterable[Analysis]) -> type[SettingsGroups]:
    """A dataclass of the settings of some analyses, typed and documented, so that the command line can show them."""
    kinds = {key: kind for analysis in described for key, kind in analysis.settings.items()}
    lines = [f"    {key}: {(kind.__doc__ or '').splitlines()[0]}" for key, kind in kinds.items()]
    documentation = "\n".join(["Settings of each analysis.", "", "Args:", *lines])
    parameters = [(key, kind, field(default_factory=kind)) for key, kind in kinds.items()]
    space = {"__doc__": documentation, "__module__": __name__}  # pickle looks the class up where it says it is
    return make_dataclass("CircuitSettings", parameters, bases=(SettingsGroups,), frozen=True, namespace=space)


if TYPE_CHECKING:
    CircuitSettings = Any  # its fields are the analyses of the folder, which a type checker does not see
else:
    CircuitSettings = _settings_class(ANALYSES.values())


def load_extra(paths: Iterable[str]) -> dict[str, Analysis]:
    """The analyses of other packages, by the paths of their modules.

    Raises:
        UserError: there is no such module, it defines no ``ANALYSIS``, or its name is taken.
    """
    extra: dict[str, Analysis] = {}
    taken = {*ANALYSES, *(key for analysis in ANALYSES.values() for key in analysis.settings)}
    for path in paths:
        analysis = getattr(import_named(path, f"circuit analysis '{path}'"), "ANALYSIS", None)
        if not isinstance(analysis, Analysis):
            raise UserError(f"circuit analysis '{path}': the module defines no ANALYSIS (circuits.analysis.Analysis)")
        if not analysis.name.isidentifier() or analysis.name in taken or set(analysis.settings) - {analysis.name}:
            raise UserError(
                f"circuit analysis '{path}' has the name '{analysis.name}'; it must be an identifier that no other "
                "analysis has, and the only key of its settings"
            )
        taken.add(analysis.name)
        extra[path] = analysis
    return extra


def join_settings(
    settings: SettingsGroups, extra: Mapping[str, Analysis], values: Mapping[str, Mapping[str, Any]]
) -> SettingsGroups:
    """The settings of our analyses and of those of other packages.

    Args:
        settings: of ours.
        extra: analyses by path (`load_extra`).
        values: their settings by path, field by field.

    Raises:
        UserError: there is no such field.
    """
    built: dict[str, AnalysisSettings] = {}
    for path, analysis in extra.items():
        kind = analysis.settings.get(analysis.name, AnalysisSettings)
        known = [field.name for field in fields(kind)]
        for name in values[path]:
            if name not in known:
                listed = ", ".join(known) or "none"
                raise UserError(f"extra.{path}: no setting '{name}'{did_you_mean(name, known)}; there are: {listed}")
        if analysis.settings:
            built[analysis.name] = kind(**values[path])
    joined = _settings_class([*ANALYSES.values(), *extra.values()])
    return joined(**settings.groups(), **built) if extra else settings  # type: ignore[arg-type]


def load_results(folder: str | Path, extra: Iterable[Analysis] = ()) -> CircuitResults:
    """Read a folder that ``CircuitAnalysis`` wrote: the tables of our analyses, and of some of other packages.

    Raises:
        UserError: there is no such folder, or a file in it is not what it should be.
    """
    return CircuitResults.load(folder, [*ANALYSES.values(), *extra])


def read_low_confidence(folder: Path) -> frozenset[str]:
    """The splits of a folder that the analysed model hardly answers by the rule.

    Raises:
        UserError: a file is not what it should be.
    """
    return frozenset(split for analysis in ANALYSES.values() for split in analysis.low_confidence(folder))


def estimate(analyses: Iterable[Analysis], job: AnalysisJob) -> str:
    """What the analyses will take, in one line: all of them, and each that reads many rows, the longest first."""
    rows = {analysis.name: analysis.work(job) for analysis in analyses}
    inputs = job.data.inputs[job.data.reference_split].rows(slice(0, TIMED))
    begun = time.perf_counter()
    ask_all(job.bridge, inputs, TIMED)
    each = (time.perf_counter() - begun) / len(inputs)
    largest = sorted((name for name in rows if rows[name]), key=lambda name: -rows[name])
    named = ", ".join(f"{name} {duration(rows[name] * each)}" for name in largest)
    total = sum(rows.values())
    time_taken = f"{duration(total * each)} at {each:.2g} s a row"
    return f"the model reads about {total:,} rows, in {time_taken} ({named}); {UNCOUNTED}"


def duration(seconds: float) -> str:
    """Seconds in words: ``40 s``, ``12 min`` or ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
