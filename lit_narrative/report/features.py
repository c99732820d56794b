"""What the SAE found in the states of the played worlds, cycle by cycle."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lit_narrative.report.charts import Frame, Line, histogram, line_chart
from lit_narrative.report.records import Cycle, Feature, Run
from lit_narrative.report.section import Figure, Key, Section, render
from lit_narrative.report.wording import clip

SHOWN_FEATURES = 12
"""Rows of a feature table."""
SHOWN_STATES = 3
"""States shown of a feature."""

READOUTS = {"sae": "SAE features", "raw": "raw state", "permuted": "permuted labels"}
"""What the read-out is trained on; the last is what chance looks like."""

_TONES = {"sae": "final", "raw": "validation", "permuted": "corpus"}


@dataclass(frozen=True, slots=True)
class Part:
    """One cycle as the page shows it."""

    cycle: Cycle
    features: Sequence[Feature]
    verdict: str
    density: Figure


def sae(run: Run) -> Section:
    """Show the measures over the cycles, then each cycle's densities and features, the last cycle first."""
    cycles = [cycle for job in run.jobs.values() for cycle in job.cycles]
    parts = [_part(cycle) for cycle in reversed(cycles)]
    body = render("features.html", cycles=cycles, parts=parts, trends=_trends(cycles), readouts=READOUTS)
    return Section("features", "What the SAE saw", body)


def verdict(cycle: Cycle) -> str:
    """Say whether a cycle's features tell anything about the affordances."""
    about = f"“{clip(cycle.targets, 120)}”" if cycle.targets else "the open options"
    if not cycle.significant:
        return f"None found: no feature tells {about} better than it would in worlds shuffled at random."
    noun = "feature tells" if cycle.significant == 1 else "features tell"
    return f"{cycle.significant} {noun} {about} better than chance allows."


def density_bins(density: Sequence[float]) -> tuple[list[int], list[str]]:
    """Count latents by the decade half of their density, the dead ones first.

    Args:
        density: for each latent, the share of states in which it is active.

    Returns:
        Counts and the name of each bin: ``dead``, then from 0.001 (and less) to 1 in half decades.
    """
    edges = [-3 + 0.5 * index for index in range(1, 7)]
    counts = [0] * (len(edges) + 1)
    for share in density:
        place = 0 if share <= 0 else 1 + next(i for i, edge in enumerate(edges) if math.log10(share) <= edge + 1e-9)
        counts[place] += 1
    return counts, ["dead", "≤0.003", "≤0.01", "≤0.03", "≤0.1", "≤0.3", "≤1"]


def _part(cycle: Cycle) -> Part:
    shown = sorted(cycle.features, key=lambda f: (not f.significant, 1.0 if f.q is None else f.q))[:SHOWN_FEATURES]
    chart = histogram("Latents by density", *density_bins(cycle.density), Frame(x_label="share of states in which a latent is active"))
    return Part(cycle, [_shortened(feature) for feature in shown], verdict(cycle), Figure("How often the latents are active", chart))


def _shortened(feature: Feature) -> Feature:
    from dataclasses import replace

    states = tuple(
        replace(state, text=clip(state.text, 160), encounter=clip(state.encounter, 40), open=_names(state.open),
                closed=_names(state.closed))
        for state in feature.top_states[:SHOWN_STATES]
    )  # fmt: skip
    return replace(feature, top_states=states)


def _names(options: Sequence[str]) -> tuple[str, ...]:
    return tuple(clip(option, 50) for option in options[:6])


def _trends(cycles: Sequence[Cycle]) -> list[Figure]:
    """Draw explained variance, L0, dead share and the read-outs over the cycles."""
    explained = [("explained_variance", "own states", "final"), ("explained_variance_heldout", "worlds not seen", "validation")]
    drawn = [
        _over_cycles("Explained variance", [(name, _metric(cycles, key), tone) for key, name, tone in explained],
                     "How much of the states the SAE reproduces; 1 is all. The gap says how far it generalises.", 1.02),
        _over_cycles("L0", [("active latents", _metric(cycles, "l0"), "final")], "Latents active in a state, on average.",
                     low=0),
        _over_cycles("Dead latents", [("share", _metric(cycles, "dead_fraction"), "final")],
                     "Share of latents that are never active.", 1.02, 0),
        _over_cycles("Reading off a locked option", [(READOUTS[key], _readout(cycles, key), _TONES[key]) for key in READOUTS],
                     "Area under the ROC curve, on worlds not used to fit: 0.5 is guessing, 1 is always right.", 1.02),
    ]  # fmt: skip
    return [figure for figure in drawn if figure is not None]


def _over_cycles(
    title: str, curves: Sequence[tuple[str, Sequence[tuple[float, float]], str]], note: str,
    high: float | None = None, low: float | None = None,
) -> Figure | None:  # fmt: skip
    found = [(name, points, tone) for name, points, tone in curves if points]
    if not found:
        return None
    lines = [Line(name, points, tone, marked=True) for name, points, tone in found]
    keys = [Key(name, tone, "dot") for name, _, tone in found] if len(found) > 1 else []
    return Figure(title, line_chart(title, lines, (), Frame(height=170, high=high, low=low, x_label="cycle")), note, keys)


def _metric(cycles: Sequence[Cycle], key: str) -> list[tuple[float, float]]:
    return [(float(cycle.number), cycle.metrics[key]) for cycle in cycles if key in cycle.metrics]


def _readout(cycles: Sequence[Cycle], key: str) -> list[tuple[float, float]]:
    return [(float(cycle.number), cycle.readout[key]) for cycle in cycles if key in cycle.readout]
