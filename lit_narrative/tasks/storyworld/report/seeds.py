"""Several seeds of a storyworld run: each seed's outcome, and the mean with an interval over the seeds.

Each seed trains and tests other models, so that the seeds are independent: their means have an interval by
Student's t. It says what another seed would give, which no interval over the texts of one seed can.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import lit_narrative
from lit_narrative.report.charts import Dot, dot_chart
from lit_narrative.report.format import number, signed
from lit_narrative.report.intervals import Interval, student
from lit_narrative.report.page import Figure, Section, render
from lit_narrative.tasks.storyworld.report.outcome import axis_around, direction, signed_interval
from lit_narrative.tasks.storyworld.report.run import Outcome, Run
from lit_narrative.tasks.storyworld.report.summary import summarise

TITLES = {
    "sound": "Sound worlds",
    "sound_after_one_turn": "Sound worlds after one turn",
    "playable": "Playable worlds",
    "effective_shapes": "Effective number of shapes",
    "encounters": "Encounters a world",
    "adherence": "Adherence to the prompt",
    "reward": "Strict score",
    "original_total": "Lenient total",
    "valid_json": "Valid JSON",
    "unique": "Distinct worlds, as text",
    "unique_names": "Distinct worlds, names removed",
    "unique_skeleton": "Distinct worlds, skeleton",
}
"""What the page calls the measures; components are called by their names."""


@dataclass(frozen=True, slots=True)
class Measure:
    """One measure under each seed that has it: (SFT, final) by the seed's name, at least one."""

    title: str
    seeds: Mapping[str, tuple[float, float]]

    @property
    def before(self) -> tuple[float, Interval | None]:
        """Mean of the SFT models, with its interval."""
        return _mean([before for before, _ in self.seeds.values()])

    @property
    def after(self) -> tuple[float, Interval | None]:
        """Mean of the final models, with its interval."""
        return _mean([after for _, after in self.seeds.values()])

    @property
    def change(self) -> tuple[float, Interval | None]:
        """Mean of final less SFT, seed by seed, with its interval: narrower than that of two independent means."""
        return _mean([after - before for before, after in self.seeds.values()])


def _mean(values: Sequence[float]) -> tuple[float, Interval | None]:
    """The mean over seeds and its 95 % interval, None of a single seed."""
    return fmean(values), student(values)


def measures(runs: Mapping[str, Run]) -> dict[str, Measure]:
    """Return what both tests have measured under at least one seed.

    Args:
        runs: by the seed's name, at least one.
    """
    values: dict[str, dict[str, tuple[float, float]]] = {}
    for seed, run in runs.items():
        before, after = _values(run.before.outcome), _values(run.after.outcome)
        for name in before.keys() & after:
            values.setdefault(name, {})[seed] = (before[name], after[name])
    # Totals and shares first, then components in the order in which a test lists them.
    order = [*TITLES, *dict.fromkeys(name for run in runs.values() for name in _values(run.after.outcome))]
    return {
        name: Measure(TITLES.get(name, name.removeprefix("components/")), values[name])
        for name in dict.fromkeys(order)
        if name in values
    }


def _values(outcome: Outcome) -> dict[str, float]:
    level, found = outcome.level, outcome.level.soundness
    sound: dict[str, float | None] = {}
    if found is not None:
        sound = {"sound": found.sound, "playable": found.playable, "effective_shapes": found.effective_shapes}
        sound |= {"encounters": found.encounters, "adherence": found.adherence}
    if outcome.turns:
        sound["sound_after_one_turn"] = outcome.turns[0].sound
    named = {
        **sound,
        "reward": level.reward,
        "original_total": level.original_total,
        "valid_json": outcome.valid_json,
        "unique": outcome.unique,
        "unique_names": outcome.unique_names,
        "unique_skeleton": outcome.unique_skeleton,
        **{f"components/{name}": value for name, value in level.components.items()},
    }
    return {name: value for name, value in named.items() if value is not None}


def over_seeds(runs: Mapping[str, Run]) -> Section:
    """Say what RL changed over all seeds."""
    score = measures(runs)["reward"]
    rows = [
        (seed, [Dot("SFT", before, "sft"), Dot("final", after, "final")])
        for seed, (before, after) in score.seeds.items()
    ]
    rows.append(("mean", [Dot("SFT", *_dot(score.before, "sft")), Dot("final", *_dot(score.after, "final"))]))
    chart = dot_chart("Mean strict score by seed", rows, axis_around(rows), gutter=64)
    note = "A row a seed, the means with their 95% intervals over seeds."
    body = render(__name__, "over_seeds.html", sentences=verdict(runs), chart=Figure("Strict score", chart, note))
    return Section("outcome", "What changed", body)


def _dot(mean: tuple[float, Interval | None], tone: str) -> tuple[float, str, Interval | None]:
    return mean[0], tone, mean[1]


def verdict(runs: Mapping[str, Run]) -> list[str]:
    """Return the outcome over seeds as sentences for someone who has not seen such a run."""
    score = measures(runs)["reward"]
    (before, _), (after, _), (change, interval) = score.before, score.after, score.change
    means = f"from {number(before)} to {number(after)} ({signed(change)}"
    if interval is None:
        return [f"One seed has been tested: the strict score went {means}). Another seed may come out otherwise."]
    word = direction(*interval, "rose", "fell", "did not change measurably")
    first = (
        f"Over {len(score.seeds)} seeds the mean strict score {word}: {means}; 95% interval of the change over seeds "
        f"{signed_interval(interval)})."
    )
    # A sign count needs no assumption, and tells one lucky seed from a rise everywhere.
    up = sum(final > sft for sft, final in score.seeds.values())
    return [first, f"It is higher after RL under {up} of {len(score.seeds)} seeds.", *_beside_corpus(runs, score)]


def _beside_corpus(runs: Mapping[str, Run], score: Measure) -> list[str]:
    levels = [run.corpus.reward for run in runs.values() if run.corpus is not None]
    interval = score.after[1]
    # A mean corpus over some of the seeds would be compared with models of all of them.
    if len(levels) < len(runs) or interval is None:
        return []
    corpus = fmean(levels)
    word = direction(interval[0] - corpus, interval[1] - corpus, "above", "still below", "level with")
    return [
        f"The final models are {word} the corpus they learned from, whose worlds score {number(corpus)} on average."
    ]


def seed_table(runs: Mapping[str, Run]) -> Section:
    """List every measure under every seed, its mean, and the mean's interval over seeds."""
    pages = {seed: f"{seed.replace(' ', '_')}/report.html" for seed in runs}
    body = render(__name__, "seeds.html", measures=measures(runs), pages=pages)
    return Section("seeds", "Seed by seed", body)


def summarise_seeds(runs: Mapping[str, Run]) -> dict[str, Any]:
    """Return the content of ``summary.json`` of several seeds.

    ``seeds`` holds each seed's summary by number; ``over_seeds`` the mean of each measure over the seeds, of SFT,
    of the final model and of the change, with 95 % intervals by Student's t (null of a single seed).
    """
    return {
        "made_by": f"lit-narrative {lit_narrative.__version__}",
        "task": "storyworld",
        "mode": "strict",
        "prompts": "held-out",
        "seeds": {seed.removeprefix("seed "): summarise(run) for seed, run in runs.items()},
        "over_seeds": {
            name: {"sft": _summary(one.before), "final": _summary(one.after), "change": _summary(one.change)}
            for name, one in measures(runs).items()
        },
    }


def _summary(mean: tuple[float, Interval | None]) -> dict[str, Any]:
    return {"mean": mean[0], "interval": None if mean[1] is None else list(mean[1])}
