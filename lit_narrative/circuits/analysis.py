"""The descriptor of a circuit analysis: everything about one analysis in one module, under the name ``ANALYSIS``.

A module of ``circuits/analyses`` that defines ``ANALYSIS`` is an analysis of the package. A module of another package
is one too, named by its path in YAML: ``extra: {my.package.norms: {}}`` of ``CircuitAnalysis``. docs/circuits.md shows
a whole module.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, TypeVar

from markupsafe import Markup

from lit_narrative.circuits.data import AnalysisData
from lit_narrative.circuits.hooks import Progress
from lit_narrative.circuits.results import CircuitResults, Models, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from transformer_lens.model_bridge import TransformerBridge


Layers = Literal["all"] | Sequence[int]
Metrics = dict[str, float]
"""Numbers of an analysis by name, such as ``id_test/accuracy``; logged as ``circuits/<analysis>/<name>``."""


@dataclass(frozen=True)
class AnalysisSettings:
    """Settings of an analysis: a subclass is a frozen dataclass whose fields have defaults and are checked."""

    def within(self, layers: Layers) -> Self:
        """The same for some layers, where there is a field ``layers`` and it says ``all``."""
        return replace(self, layers=layers) if getattr(self, "layers", None) == "all" else self  # type: ignore[call-arg]

    def tiny(self) -> Self:
        """The same with hardly any work, for a dry run (``fast_dev_run``)."""
        return self


Settings = TypeVar("Settings", bound=AnalysisSettings)


@dataclass(frozen=True, eq=False)
class AnalysisJob:
    """What an analysis works on.

    Attributes:
        bridge: the model; a copy, so that hooks and edits reach no one else.
        data: rows and pairs of every split.
        settings: of all analyses, by their YAML key.
    """

    bridge: "TransformerBridge"
    data: AnalysisData
    settings: Mapping[str, AnalysisSettings]

    def settings_of(self, kind: type[Settings]) -> Settings:
        """The settings of a class."""
        return next(settings for settings in self.settings.values() if isinstance(settings, kind))


@dataclass(frozen=True)
class About:
    """An analysis in words.

    Attributes:
        title: heading of its section.
        question: what the analysis asks of the model; may hold ``{words}`` to be filled in.
        reading: how to read the figures; the same.
        words: of the analysis' settings as the manifest holds them (possibly empty), what to fill in.
    """

    title: str
    question: str
    reading: str
    words: Callable[[Mapping[str, Any]], Mapping[str, str]] | None = None

    def filled(self, settings: Mapping[str, Any]) -> "About":
        """The same with the words that the settings make true."""
        words = {} if self.words is None else self.words(settings)
        return About(self.title, self.question.format(**words), self.reading.format(**words))


class Sketch(NamedTuple):
    """A figure to be drawn.

    Attributes:
        name: of its file, without suffix; unique over all analyses.
        title: its caption.
        draw: makes the figure, with matplotlib's default style in force (`figures.canvas` has panels and colours).
    """

    name: str
    title: str
    draw: "Callable[[], Figure]"


@dataclass(frozen=True, eq=False)
class Analysis:
    """The descriptor of an analysis. Only ``name``, ``about`` and ``run`` are required.

    What it writes lies in the folder of all analyses, so files and metrics need names of their own. All text that is
    returned is escaped where it is shown; only ``details`` returns HTML.

    Attributes:
        name: a Python identifier: the analysis in ``analyses`` of the callback and in manifest.json, the prefix of its
            metrics, the anchor of its section.
        about: the section's heading, question and reading.
        run: (job, folder, progress) -> metrics. Does the work and writes the tables and arrays into the folder. Called
            with gradients allowed and a random state of its own. A `UserError` fails this analysis alone; NaN and
            infinite metrics are logged, and left out of the manifest.
        settings: settings classes by YAML key under ``settings``: one class under the analysis' own name, or none.
        paired: whether it needs contrast pairs (``data.pairs``, ``data.contrasts(split)``).
        meanings: what each metric says, for reports that show metrics alone: by its name, a split's replaced by a star
            (``*/accuracy``).
        check: (job) tries what the model or the rows may lack, before the first analysis begins and before training.

    Raises:
                UserError: something is lacking.
        tables: what ``run`` leaves on disk, to be read again for pages and comparisons. An analysis has a section in a
            page only where one of its tables is there.
        draw: (models) -> figures. One model has the name "" and is alone in its panels; two, by name, are drawn side by
            side on the comparison page. `results.shared` gives what all models have.
        findings: (results) -> sentences for the section; called only where a table is there.
        details: (results) -> HTML for the end of the section.
        warnings: (results) -> sentences for the top of the page: what to know before believing any number.
        low_confidence: (folder) -> splits that the model hardly answers by the rule, as far as this analysis saw it.
        changes: (old, new) -> entries of comparison.json by key, whatever both models have; the key is the analysis'
            name. Both results are narrowed to the splits and analyses that can be compared.
        change_findings: (content of comparison.json) -> sentences for the section of the comparison page.
        order: place among the sections of a page and among the defaults of ``analyses``; ours are 10 to 80.
    """

    name: str
    about: About
    run: Callable[[AnalysisJob, Path, Progress | None], Metrics]
    settings: Mapping[str, type[AnalysisSettings]] = field(default_factory=dict)
    paired: bool = False
    meanings: Mapping[str, str] = field(default_factory=dict)
    check: Callable[[AnalysisJob], object] = lambda job: None
    tables: Sequence[Table[Any]] = ()
    draw: Callable[[Models], Iterable[Sketch]] = lambda models: ()
    findings: Callable[[CircuitResults], Iterable[str]] = lambda results: ()
    details: Callable[[CircuitResults], Markup] = lambda results: Markup()
    warnings: Callable[[CircuitResults], Iterable[str]] = lambda results: ()
    low_confidence: Callable[[Path], Iterable[str]] = lambda folder: ()
    changes: Callable[[CircuitResults, CircuitResults], Mapping[str, Any]] = lambda old, new: {}
    change_findings: Callable[[Mapping[str, Any]], Iterable[str]] = lambda changes: ()
    order: int = 100
