"""The outcome in figures and plain words: what changed, whether it was earned, component by component."""

from collections.abc import Sequence

from lit_narrative.report.charts import Dot, dot_chart
from lit_narrative.report.format import number, percent, signed
from lit_narrative.report.intervals import share_change_interval, share_interval
from lit_narrative.report.page import Figure, Key, Section, render
from lit_narrative.report.svg import padded
from lit_narrative.tasks.storyworld.report.run import Level, Outcome, Run, Soundness
from lit_narrative.tasks.storyworld.report.summary import difference_interval

MEANING = {
    "valid_json": "the text parses as JSON",
    "schema": "the required parts are there and every reference leads somewhere",
    "structure": "enough characters, and enough encounters that can be reached and from which an ending can be",
    "effects": "options change enough different declared variables",
    "secrets": "some options, not too many, are now open and now closed when plays come to them",
    "endings": "enough different endings can be reached",
    "feature_quality": "the SAE explains the world's states, sparsely, and its features know which options are open",
}
"""The components that come with the package; others are shown by name alone."""


def headline(run: Run) -> Section:
    """Say what RL changed, with intervals."""
    before, after = run.before.outcome, run.after.outcome
    gain = (after.level.reward - before.level.reward, difference_interval(before, after))
    tiles = [
        *_sound_tile(before.level.soundness, after.level.soundness),
        ("Strict score", "mean over all samples, 0 to 1", number(before.level.reward), number(after.level.reward),
         f"{signed(gain[0])}, interval {signed_interval(gain[1])}"),
        ("Valid JSON", "share of texts that parse", percent(before.valid_json), percent(after.valid_json),
         f"interval now {percent_interval(share_interval(after.valid_json, after.n))}"),
        ("Distinct worlds", "share of texts that differ", percent(before.unique), percent(after.unique),
         "no two alike" if after.unique == 1 else "as text; see below for structure"),
    ]  # fmt: skip
    rows = [("SFT", [_reward_dot("SFT", "sft", before)]), ("final", [_reward_dot("final", "final", after)])]
    if run.corpus is not None:
        rows.insert(0, ("corpus", [Dot("mean", run.corpus.reward, "corpus")]))
    figure = Figure(
        "Strict score",
        dot_chart("Mean strict score", rows, axis_around(rows), gutter=64),
        "Bars are 95% intervals of the mean. The corpus is what SFT imitates; its worlds are all scored.",
    )
    body = render(__name__, "headline.html", sentences=verdict(run), tiles=tiles, chart=figure, n=after.n)
    return Section("outcome", "What changed", body)


def _sound_tile(before: Soundness | None, after: Soundness | None) -> list[tuple[str, str, str, str, str]]:
    if before is None or after is None:
        return []
    now = percent_interval(share_interval(after.sound, after.n))
    variety = f"now {number(after.effective_shapes, 0)} shapes, {number(after.encounters, 1)} encounters a world"
    return [("Sound worlds", "share that can be played as stories", percent(before.sound), percent(after.sound),
             f"interval now {now}; {variety}")]  # fmt: skip


def verdict(run: Run) -> list[str]:
    """Return the outcome as sentences for someone who has not seen such a run."""
    before, after = run.before.outcome, run.after.outcome
    low, high = difference_interval(before, after)
    gain = after.level.reward - before.level.reward
    word = direction(low, high, "rose", "fell", "did not change measurably")
    first = (
        f"From the SFT model to the final one, the strict score {word}: from {number(before.level.reward)} to "
        f"{number(after.level.reward)} ({signed(gain)}; 95% interval of the change {signed_interval((low, high))})."
    )
    old, new = before.level.soundness, after.level.soundness
    headline = [sound_sentence(old, new)] if old is not None and new is not None else []
    turns = [turns_sentence(name, one) for name, one in (("SFT", before), ("final", after)) if len(one.turns) > 1]
    return [*headline, first, *turns, _beside_corpus(run.corpus, after), _validity(before, after)]


def turns_sentence(name: str, outcome: Outcome) -> str:
    """Return what further turns made of a model's texts."""
    first, last = outcome.turns[0], outcome.turns[-1]
    assert last.gain is not None and last.gain_ci is not None
    word = direction(*last.gain_ci, "more", "fewer", "no measurable change")
    return (
        f"Of the {name} model's worlds {percent(first.sound)} are sound after one turn (95% interval "
        f"{percent_interval(first.sound_ci)}) and {percent(last.sound)} after {len(outcome.turns)} "
        f"({percent_interval(last.sound_ci)}): {word} ({signed(last.gain)}; 95% interval over the same texts "
        f"{signed_interval(last.gain_ci)}); {percent(last.written)} were written again."
    )


def sound_sentence(before: Soundness, after: Soundness) -> str:
    """Return what became of the share of sound worlds."""
    interval = percent_interval(share_interval(after.sound, after.n))
    moved = _share_moved("sound worlds", (before.sound, after.sound), (before.n, after.n))
    return f"{moved} (95% interval {interval})."


def _share_moved(what: str, shares: tuple[float, float], n: tuple[int, int]) -> str:
    """Return whether a share, before and after, moved by more than chance."""
    old, new = map(share_interval, shares, n)
    word = direction(*share_change_interval(old, new, shares), "rose", "fell", "kept its level, within chance,")
    return f"The share of {what} {word} from {percent(shares[0])} to {percent(shares[1])}"


def _beside_corpus(corpus: Level | None, after: Outcome) -> str:
    if corpus is None:
        return "How the corpus itself scores was not measured, so there is no saying whether the model passed it."
    # The corpus has no interval: it is a fixed set, and all of it is scored.
    low, high = (bound - corpus.reward for bound in after.reward_ci)
    word = direction(low, high, "above", "still below", "level with")
    return f"That is {word} the corpus it learned from, whose worlds score {number(corpus.reward)} on average."


def _validity(before: Outcome, after: Outcome) -> str:
    shares = before.valid_json, after.valid_json
    return f"{_share_moved('texts that are valid JSON', shares, (before.n, after.n))}."


def honesty(run: Run) -> Section:
    """Set the strict total beside the lenient one, which can be earned by cheating."""
    before, after = run.before.outcome, run.after.outcome
    levels = [("corpus", run.corpus), ("SFT", before.level), ("final", after.level)]
    rows = [(name, _totals(level)) for name, level in levels if level is not None]
    keys = [Key("strict total", "plain", "dot"), Key("lenient total", "plain", "ring")]
    note = "Both totals are measured on the same samples."
    figure = Figure(
        "Strict and lenient total",
        dot_chart("Strict and lenient total", rows, axis_around(rows), gutter=64),
        note,
        keys,
    )
    return Section(
        "honesty", "Was the score earned?", render(__name__, "honesty.html", verdict=honesty_verdict(run), chart=figure)
    )


def honesty_verdict(run: Run) -> str:
    """Say what the two totals together tell, and what plays of the same worlds say to that."""
    found = run.before.outcome.level.soundness, run.after.outcome.level.soundness
    return " ".join([_by_totals(run), *([] if None in found else [_by_play(*found)])])  # type: ignore[arg-type]


def _by_play(before: Soundness, after: Soundness) -> str:
    shares = (before.playable, after.playable)
    old, new = share_interval(before.playable, before.n), share_interval(after.playable, after.n)
    low, high = share_change_interval(old, new, shares)
    change = f"from {percent(before.playable)} to {percent(after.playable)}"
    answer = direction(
        low,
        high,
        f"worlds that work became more, {change}: that much of the score was earned.",
        f"worlds that work became fewer, {change}: a gain of the totals was not earned.",
        f"worlds that work did not become measurably more ({change}): a gain of the totals is partial credit.",
    )
    return f"By seeded plays, which meet two endings and no dead end of a world without errors, {answer}"


def _by_totals(run: Run) -> str:
    """Say what the two totals together tell.

    The lenient total's interval is not known; the strict one's, over the same samples, stands in for it.
    """
    before, after = run.before.outcome, run.after.outcome
    if before.level.original_total is None or after.level.original_total is None:
        return "The lenient total was not measured in this run, so the two cannot be compared."
    lenient = after.level.original_total - before.level.original_total
    low, high = difference_interval(before, after)
    changes = f"(strict {signed(after.level.reward - before.level.reward)}, lenient {signed(lenient)})"
    if low > 0:
        return f"The strict total rose {changes}: the worlds got better by the rules that are hard to cheat."
    # A rise by more than the half-width of the strict change is taken for one.
    if lenient > (high - low) / 2:
        return (
            f"Only the lenient total rose {changes}. That is what reward hacking looks like: "
            "the texts imitate the signs of a good world without being one."
        )
    if high < 0:
        return f"The strict total fell {changes}: the worlds got worse."
    return f"Neither total changed measurably {changes}."


def components(run: Run) -> Section:
    """Compare corpus, SFT and final component by component."""
    before, after = run.before.outcome.level.components, run.after.outcome.level.components
    corpus = run.corpus.components if run.corpus is not None else {}
    names = list(dict.fromkeys([*before, *after]))
    rows = [
        {
            "name": name,
            "meaning": MEANING.get(name, ""),
            "corpus": corpus.get(name),
            "before": before.get(name),
            "after": after.get(name),
            "change": after[name] - before[name] if name in before and name in after else None,
        }
        for name in names
    ]
    sources = [("corpus", "corpus", corpus), ("SFT", "sft", before), ("final", "final", after)]
    dots = [(name, [Dot(who, values[name], tone) for who, tone, values in sources if name in values]) for name in names]
    keys = [Key(who, tone, "dot") for who, tone, values in sources if values]
    figure = Figure("Component by component", dot_chart("Mean of each component", dots), "", keys)
    return Section(
        "components", "What the score is made of", render(__name__, "components.html", rows=rows, chart=figure)
    )


def variety(run: Run) -> Section:
    """Show the unique share at three levels."""
    before, after = run.before.outcome, run.after.outcome
    rows = [
        ("as text", "no two texts are the same, letter by letter", before.unique, after.unique),
        ("names removed", "still different when characters are renamed", before.unique_names, after.unique_names),
        ("skeleton", "still different without names, texts and numbers: the bare structure",
         before.unique_skeleton, after.unique_skeleton),
    ]  # fmt: skip
    body = render(__name__, "variety.html", rows=rows, verdict=_variety_verdict(before, after), n=after.n)
    return Section("variety", "Did the variety survive?", body)


def _variety_verdict(before: Outcome, after: Outcome) -> str:
    if before.unique_skeleton is None or after.unique_skeleton is None:
        return "The variety of structures was not measured."
    shares = (before.unique_skeleton, after.unique_skeleton)
    change = share_change_interval(share_interval(shares[0], before.n), share_interval(shares[1], after.n), shares)
    word = direction(*change, "grew", "shrank", "stayed about level")
    return (
        f"The variety of structures {word}: {percent(before.unique_skeleton)} of the SFT model's worlds had a "
        f"structure of their own, {percent(after.unique_skeleton)} of the final model's do."
    )


def _totals(level: Level) -> list[Dot]:
    strict = Dot("strict", level.reward, "plain")
    return (
        [strict]
        if level.original_total is None
        else [Dot("lenient", level.original_total, "plain", hollow=True), strict]
    )


def _reward_dot(name: str, tone: str, outcome: Outcome) -> Dot:
    return Dot(name, outcome.level.reward, tone, outcome.reward_ci)


def axis_around(rows: Sequence[tuple[str, Sequence[Dot]]]) -> tuple[float, float]:
    """Return the ends of an axis that leaves room on both sides of the dots, within 0 and 1."""
    low, high = padded([bound for _, dots in rows for dot in dots for bound in (dot.interval or (dot.value,))], 0.3)
    # Scores end at 0 and 1: room beyond would suggest that they could go there.
    return max(low, 0.0), min(high, 1.0)


def direction(low: float, high: float, up: str, down: str, level: str) -> str:
    """Return the word for a change whose interval is (low, high): ``level`` where that holds 0."""
    return up if low > 0 else down if high < 0 else level


def signed_interval(bounds: tuple[float, float]) -> str:
    """Write the interval of a change."""
    return f"{signed(bounds[0])} to {signed(bounds[1])}"


def percent_interval(bounds: tuple[float, float]) -> str:
    """Write the interval of a share."""
    return f"{percent(bounds[0])} to {percent(bounds[1])}"
