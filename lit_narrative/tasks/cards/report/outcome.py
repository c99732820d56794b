"""The outcome of a cards run: accuracy of each policy on each set, and the changes of each arm."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from lit_narrative.report.charts import Dot, dot_chart
from lit_narrative.report.format import percent, signed
from lit_narrative.report.page import Figure, Key, Section, render
from lit_narrative.tasks.cards.report.changes import Comparison, compare, verdict
from lit_narrative.tasks.cards.report.run import (
    BASE,
    REFERENCE_SPLIT,
    SETS,
    CardsRun,
    Policy,
    Scores,
    SeedRun,
    title,
    trained,
)

TONES = {"sft": "sft", "more": "validation", "grpo_id": "other", "grpo": "final"}
"""Colour role of each policy of the shipped recipe; others are drawn plain."""

KINDS = {
    "id": "known rules",
    "paraphrase": "rewordings",
    "new_colors": "other colours",
    "compositional": "colour and value",
    "length_shift": "longer hands",
    "classification": "labels",
}
"""What the kinds of a mixture are called."""


def meaning(policy: Policy) -> str:
    """What a policy is, by its training; empty where that is not in the folder."""
    if policy.training is None:
        return ""
    kinds = [KINDS.get(kind, kind) for kind, weight in policy.training.mix.items() if weight]
    on = " and ".join([", ".join(kinds[:-1]), kinds[-1]] if len(kinds) > 1 else kinds)
    start = "" if policy.name == BASE else "continues: "
    match policy.training.module:
        case "SFTModule":
            return f"{start}imitates worked answers on {on}"
        case "GRPOModule":
            return f"{start}reinforcement on {on}"
        case other:
            return f"{start}{other} on {on}"


def tone(policy: str) -> str:
    """Colour role of a policy."""
    return TONES.get(policy, "plain")


def headline(run: CardsRun) -> Section:
    """Say in a few sentences what was measured and what came of it."""
    tones = {name: tone(name) for name in (BASE, *run.policies)}
    tiles = [_tile(run, name) for name in run.policies]
    several = len(run.seeds) > 1
    body = render(__name__, "headline.html", sentences=sentences(run), tones=tones, tiles=tiles, several=several)
    return Section("outcome", "What came of it", body)


def sentences(run: CardsRun) -> list[tuple[str, str]]:
    """The outcome for someone who has not seen such a run: each policy with a sentence on it."""
    lines = [(BASE, _of_base(run))]
    for arm in run.arms:
        comparisons = compare(run, arm)
        lines.append((arm, _summed_up(comparisons) if comparisons else "there is nothing to compare it with."))
    return lines


def _of_base(run: CardsRun) -> str:
    reference = run.scores(BASE, REFERENCE_SPLIT)
    if not reference:
        return f"not tested on '{REFERENCE_SPLIT}'."
    several = len(run.seeds) > 1
    each = ", ".join(_with_interval(scores, f"{seed}, " if several else "") for seed, scores in reference)
    away = [
        fmean(scores.accuracy for _, scores in run.scores(BASE, split))
        for split in run.sets
        if split != REFERENCE_SPLIT
    ]
    shifted = f" On the other sets: {percent(min(away))} to {percent(max(away))}." if away else ""
    return f"right on {each} of new hands under the known rules.{shifted}"


def _with_interval(scores: Scores, seed: str) -> str:
    low, high = scores.interval
    return f"{percent(scores.accuracy, 1)} ({seed}95% interval {percent(low, 1)} to {percent(high, 1)})"


def _summed_up(comparisons: Sequence[Comparison]) -> str:
    """Gather the sets that share a verdict."""
    grouped: dict[str, list[str]] = {}
    for comparison in comparisons:
        change = f" ({signed(comparison.mean, 2)})" if comparison.direction in {"rise", "fall"} else ""
        grouped.setdefault(verdict(comparison), []).append(title(comparison.split) + change)
    # Rises first, then falls, then the rest; False sorts before True.
    order = sorted(grouped, key=lambda words: (not words.startswith("rose"), not words.startswith("fell")))
    return " ".join(f"{', '.join(grouped[words])}: {words}." for words in order)


def _tile(run: CardsRun, name: str) -> dict[str, Any]:
    reference = [scores.accuracy for _, scores in run.scores(name, REFERENCE_SPLIT)]
    away = [scores.accuracy for split in run.sets if split != REFERENCE_SPLIT for _, scores in run.scores(name, split)]
    return {
        "name": name,
        "tone": tone(name),
        "meaning": meaning(run.of(name)[0][1]),
        "reference": fmean(reference) if reference else None,
        "away": fmean(away) if away else None,
    }


def accuracies(run: CardsRun) -> Section:
    """Draw and list every policy's accuracy on every set, beside the majority's share."""
    groups = [_group(run, split) for split in run.sets]
    figures = [_figure(run, split) for split in run.sets]
    keys = [
        Key("right, one dot a seed, with its 95% interval", "plain", "dot"),
        Key("one constant answer", "corpus", "ring"),
    ]
    body = render(
        __name__,
        "accuracies.html",
        groups=groups,
        figures=figures,
        legend_keys=keys,
        seeds=run.seeds,
        several=len(run.seeds) > 1,
        same_prompts=len({_prompts(seed) for seed in run.seeds}) == 1,
    )
    return Section("accuracy", "How often right, set by set", body)


def _prompts(seed: SeedRun) -> tuple[str, ...]:
    """All prompts that a seed's policies were tested on."""
    policy = next(iter(seed.policies.values()))
    return tuple(answer.prompt for answers in policy.answers.values() for answer in answers)


def _figure(run: CardsRun, split: str) -> Figure:
    # Seeds may be asked other prompts; the strictest of their constant answers is drawn.
    majority = max(scores.majority for name in run.policies for _, scores in run.scores(name, split))
    # First, so that the rings lie behind the dots.
    constant = Dot("one constant answer", majority, "corpus", hollow=True)
    rows = [(name, [constant, *_dots(run, name, split)]) for name in run.policies]
    chart = dot_chart(f"Accuracy on {split}", rows, gutter=72, apart=5)
    return Figure(title(split), chart, SETS.get(split, ("", ""))[1])


def _dots(run: CardsRun, name: str, split: str) -> list[Dot]:
    return [Dot(seed, scores.accuracy, tone(name), scores.interval) for seed, scores in run.scores(name, split)]


def _group(run: CardsRun, split: str) -> dict[str, Any]:
    """A set with a row for each policy."""
    rows = [_row(run, name, split) for name in run.policies if run.scores(name, split)]
    return {"split": split, "title": title(split), "meaning": SETS.get(split, ("", ""))[1], "rows": rows}


def _row(run: CardsRun, name: str, split: str) -> dict[str, Any]:
    scored = run.scores(name, split)
    by_seed = dict(scored)
    reference = dict(run.scores(name, REFERENCE_SPLIT))
    gaps = [
        reference[seed].accuracy - scores.accuracy
        for seed, scores in scored
        if seed in reference and split != REFERENCE_SPLIT
    ]
    policy: Policy = run.of(name)[0][1]
    return {
        "name": name,
        "tone": tone(name),
        "trained": trained(policy, split),
        "seeds": [by_seed.get(seed.name) for seed in run.seeds],
        "n": max(scores.n for _, scores in scored),
        "mean": fmean(scores.accuracy for _, scores in scored),
        "majority": mean([scores.majority for _, scores in scored]),
        "lift": mean([scores.lift for _, scores in scored]),
        "gap": mean(gaps),
    }


def mean(values: Sequence[float | None]) -> float | None:
    """The mean of what was measured; None if nothing was."""
    there = [value for value in values if value is not None]
    return fmean(there) if there else None


def changes(run: CardsRun) -> Section:
    """Say what each arm changed against the base, on the same prompts."""
    compared = {arm: compare(run, arm) for arm in run.arms}
    arms = [
        (arm, _mixture(run.of(arm)[0][1]), [_change(run, arm, one) for one in comparisons])
        for arm, comparisons in compared.items()
    ]
    figures = {arm: _change_figure(comparisons, arm) for arm, comparisons in compared.items() if comparisons}
    meanings = {arm: meaning(run.of(arm)[0][1]) for arm in run.arms}
    body = render(
        __name__, "changes.html", arms=arms, figures=figures, base=BASE, meanings=meanings, several=len(run.seeds) > 1
    )
    return Section("changes", f"What each arm changed against {BASE}", body)


def _mixture(policy: Policy) -> str:
    """What a policy was trained on, in words."""
    # Weights need not sum to 1, and a mixture of zeros is not divided by.
    whole = sum(policy.mix.values()) or 1.0
    shares = ", ".join(f"{kind} {percent(weight / whole)}" for kind, weight in policy.mix.items())
    out = f"; held out of every mixture: {', '.join(policy.held_out)}" if policy.held_out else ""
    return f"Trained on {shares}{out}."


def _change(run: CardsRun, arm: str, comparison: Comparison) -> dict[str, Any]:
    before = [scores for _, scores in run.scores(BASE, comparison.split)]
    after = [scores for _, scores in run.scores(arm, comparison.split)]
    return {
        "title": title(comparison.split),
        "trained": trained(run.of(arm)[0][1], comparison.split),
        "comparison": comparison,
        "verdict": verdict(comparison),
        "lift": (mean([one.lift for one in before]), mean([one.lift for one in after])),
        "nonzero": (mean([one.accuracy_nonzero for one in before]), mean([one.accuracy_nonzero for one in after])),
        "zero": (mean([one.answered_zero for one in before]), mean([one.answered_zero for one in after])),
    }


def _change_figure(comparisons: Sequence[Comparison], arm: str) -> Figure:
    rows = [
        (title(one.split), [Dot(change.seed, change.value, tone(arm), change.interval) for change in one.changes])
        for one in comparisons
    ]
    bounds = [bound for one in comparisons for change in one.changes for bound in change.interval]
    # A tenth to either side at least: by its own extremes a tiny change would fill the chart.
    ends = min(-0.1, *bounds), max(0.1, *bounds)
    note = "One dot a seed, with its 95% interval; the dashed line is no change."
    return Figure(f"{arm}: change in accuracy", dot_chart(f"Change by {arm}", rows, ends, 150, mark=0, apart=5), note)
