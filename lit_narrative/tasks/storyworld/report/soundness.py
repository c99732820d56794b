"""Soundness on the page: how many worlds work as stories, where the others fail, and how various they are."""

from collections.abc import Sequence
from dataclasses import dataclass

from lit_narrative.report.charts import Dot, dot_chart
from lit_narrative.report.format import number, percent
from lit_narrative.report.intervals import share_interval
from lit_narrative.report.page import Figure, Key, Section, render
from lit_narrative.tasks.storyworld.report.outcome import sound_sentence
from lit_narrative.tasks.storyworld.report.run import Run, Soundness

STAGES = {
    "parses": ("parses", "the text is JSON and holds encounters"),
    "no_error": (
        "no error",
        "and every part has its form, every name is declared, every reference leads on",
    ),
    "two_endings": ("two endings", "and random plays meet two different endings"),
    "live_gate": ("a live gate", "and some option is met both open and closed"),
    "sound": ("sound", "and no play comes to a dead end"),
}
"""Stages of the funnel: what the page calls each, and what it asks for beside those above it."""


@dataclass(frozen=True, slots=True)
class Column:
    """A set of texts: its name, its colour role, what was measured of it."""

    name: str
    tone: str
    found: Soundness

    def share(self, stage: str) -> str:
        """The share that passes a stage."""
        return percent(self.found.funnel.get(stage))

    def interval(self, stage: str) -> str:
        """Its 95 % Wilson interval, short enough for three of them to stand side by side on a phone."""
        share = self.found.funnel.get(stage)
        if share is None:
            return ""
        low, high = share_interval(share, self.found.n)
        return f"{percent(low).removesuffix('%')}–{percent(high)}"


def soundness(run: Run) -> Section:
    """Show the funnel of soundness of the corpus and of both policies, beside the variety and size of their worlds."""
    columns = columns_of(run)
    chart = None
    if columns:
        rows = [
            (label, [Dot(one.name, one.found.funnel[stage], one.tone) for one in columns if stage in one.found.funnel])
            for stage, (label, _) in STAGES.items()
        ]
        keys = [Key(one.name, one.tone, "dot") for one in columns]
        chart = Figure("Share of texts that pass each stage and those above it", dot_chart("Funnel", rows), "", keys)
    body = render(__name__, "soundness.html", verdict=verdict(run), columns=columns, stages=STAGES, chart=chart)
    return Section("soundness", "Do the worlds work?", body)


def columns_of(run: Run) -> Sequence[Column]:
    """What was measured of the corpus, SFT and the final policy; nothing of runs of earlier releases."""
    levels = [("corpus", "corpus", run.corpus), ("SFT", "sft", run.before.outcome.level)]
    levels.append(("final", "final", run.after.outcome.level))
    return [
        Column(name, tone, level.soundness) for name, tone, level in levels if level is not None and level.soundness
    ]


def verdict(run: Run) -> list[str]:
    """Return what came of soundness as sentences."""
    before, after = run.before.outcome.level.soundness, run.after.outcome.level.soundness
    if before is None or after is None:
        return ["This run was made by an earlier release, which did not measure whether its worlds are sound."]
    named = {"before": before, "after": after} | ({"in the corpus": run.corpus.soundness} if run.corpus else {})
    known = {name: found for name, found in named.items() if found is not None}
    shapes = ", ".join(f"{number(found.effective_shapes, 0)} {name}" for name, found in known.items())
    sizes = ", ".join(f"{number(found.encounters, 1)} {name}" for name, found in known.items())
    return [
        sound_sentence(before, after),
        f"Effective number of shapes: {shapes}. Encounters a world: {sizes}.",
    ]
