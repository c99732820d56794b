"""Features of the SAE on the states of the played worlds, cycle by cycle."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lit_narrative.report.charts import Frame, Line, histogram, line_chart
from lit_narrative.report.format import clip
from lit_narrative.report.page import Figure, Key, Section, render
from lit_narrative.tasks.storyworld.report.run import Cycle, Feature, Run, TopState

SHOWN_FEATURES = 12
"""Rows of a feature table."""
SHOWN_STATES = 3
"""States shown of a feature."""
READOUTS = {
    "sae": "SAE features",
    "raw": "raw state",
    "permuted": "permuted labels",
    "random_encoder": "random encoder",
    "random_decoder": "random decoder",
}
"""What the read-out is trained on: permuted labels are what chance looks like, the last two SAEs with a random part."""


@dataclass(frozen=True, slots=True)
class Trend:
    """A chart over the cycles: its heading, how to read it, and (measure, name, tone) of each curve."""

    title: str
    note: str
    curves: Sequence[tuple[str, str, str]]
    low: float | None = None
    high: float | None = None


TRENDS = (
    Trend(
        "Explained variance",
        "How much of the states the SAE reproduces; 1 is all. The gap says how far it generalises.",
        [
            ("explained_variance", "own states", "final"),
            ("explained_variance_heldout", "worlds not seen", "validation"),
        ],
        high=1.02,
    ),
    Trend("L0", "Latents active in a state, on average.", [("l0", "active latents", "final")], low=0),
    Trend("Dead latents", "Share that is never active.", [("dead_fraction", "share", "final")], low=0, high=1.02),
    Trend(
        "Reading off a locked option",
        "Area under the ROC curve (AUC), on worlds not used to fit: 0.5 is guessing, 1 is always right.",
        [(key, READOUTS[key], tone) for key, tone in (("sae", "final"), ("raw", "validation"), ("permuted", "corpus"))],
        high=1.02,
    ),
)
"""What is drawn over the cycles."""


def verdict(cycle: Cycle) -> str:
    """Say whether a cycle's features tell anything about the affordances."""
    about = f"“{clip(cycle.targets, 120)}”" if cycle.targets else "the open options"
    if not cycle.significant:
        return f"None found: no feature tells {about} better than it would in worlds shuffled at random."
    noun = "feature tells" if cycle.significant == 1 else "features tell"
    return f"{cycle.significant} {noun} {about} better than chance allows."


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
    trends = [figure for trend in TRENDS if (figure := _trend(trend, cycles)) is not None]
    # Runs of earlier releases have no controls.
    shown = {k: n for k, n in READOUTS.items() if "random" not in k or any(k in cycle.readout for cycle in cycles)}
    residual = any(cycle.view == "activations" for cycle in cycles)
    body = render(
        __name__, "features.html", cycles=cycles, parts=parts, trends=trends, readouts=shown, residual=residual
    )
    return Section("features", "What the SAE saw", body)


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
        # The margin puts a share on an edge, such as 0.01, into the bin that its name ends with.
        decade = math.log10(share) - 1e-9 if share > 0 else -math.inf
        counts[0 if share <= 0 else 1 + sum(decade > edge for edge in edges[:-1])] += 1
    return counts, ["dead", "≤0.003", "≤0.01", "≤0.03", "≤0.1", "≤0.3", "≤1"]


def _part(cycle: Cycle) -> Part:
    # Significant ones first, then by q; a feature that was not tested comes last.
    shown = sorted(cycle.features, key=lambda f: (not f.significant, 1.0 if f.q is None else f.q))[:SHOWN_FEATURES]
    chart = histogram(
        "Latents by density", *density_bins(cycle.density), Frame(x_label="share of states in which a latent is active")
    )
    return Part(
        cycle,
        [_shortened(feature) for feature in shown],
        verdict(cycle),
        Figure("How often the latents are active", chart),
    )


def _shortened(feature: Feature) -> Feature:
    return replace(feature, top_states=tuple(map(_shortened_state, feature.top_states[:SHOWN_STATES])))


def _shortened_state(state: TopState) -> TopState:
    return replace(
        state,
        encounter=clip(state.encounter, 40),
        text=clip(state.text, 160),
        open=_names(state.open),
        closed=_names(state.closed),
    )


def _names(options: Sequence[str]) -> tuple[str, ...]:
    return tuple(clip(option, 50) for option in options[:6])


def _trend(trend: Trend, cycles: Sequence[Cycle]) -> Figure | None:
    """Draw a trend, or nothing where no cycle has measured it."""
    lines = [
        Line(name, points, tone, marked=True) for key, name, tone in trend.curves if (points := _over(cycles, key))
    ]
    if not lines:
        return None
    # A single curve is named by the heading.
    keys = [Key(line.name, line.tone, "dot") for line in lines] if len(lines) > 1 else []
    frame = Frame(height=170, low=trend.low, high=trend.high, x_label="cycle")
    return Figure(trend.title, line_chart(trend.title, lines, (), frame), trend.note, keys)


def _over(cycles: Sequence[Cycle], key: str) -> list[tuple[float, float]]:
    measured = [(float(cycle.number), {**cycle.metrics, **cycle.readout}) for cycle in cycles]
    return [(number, values[key]) for number, values in measured if key in values]
