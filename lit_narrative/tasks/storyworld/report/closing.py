"""What a run has taught, in two lines for the terminal."""

from pathlib import Path

from lit_narrative.report.format import number, percent
from lit_narrative.report.records import Record, read_record


def learned(folder: Path) -> list[str]:
    """The strict score and the share of sound worlds, before and after, by the folder's ``summary.json``.

    Raises:
        UserError: the summary is not what a report writes.
    """
    summary = read_record(folder / "summary.json")
    return _over_seeds(summary) if "seeds" in summary.value else _of_one(summary)


def _of_one(summary: Record) -> list[str]:
    before, after, corpus = (summary.child(name) for name in ("sft", "final", "corpus"))
    scores = f"{number(before.number('reward'))} -> {number(after.number('reward'))}"
    like = corpus.maybe("reward")
    known = "" if like is None else f"; the corpus {number(like)}"
    lines = [f"learned: strict score {scores} (SFT -> final, {after.number('n'):.0f} held-out prompts{known})"]
    if after.maybe("sound") is None:
        return lines
    low, high = after.pair("sound_ci")
    like = corpus.maybe("sound")
    known = "" if like is None else f"; the corpus {percent(like)}"
    shares = f"{percent(before.maybe('sound'))} -> {percent(after.maybe('sound'))}"
    return [*lines, f"sound: {shares} of worlds (95% {percent(low)} to {percent(high)}{known}); play two on the page"]


def _over_seeds(summary: Record) -> list[str]:
    means = summary.child("over_seeds")
    count = len(summary.child("seeds").value)
    lines = []
    for label, key, show in (("learned: strict score", "reward", number), ("sound:", "sound", percent)):
        measure = means.child(key)
        if measure.value:
            before, after = (measure.child(name) for name in ("sft", "final"))
            ends = (
                ""
                if after.value.get("interval") is None
                else " (95% {} to {})".format(*map(show, after.pair("interval")))
            )
            shares = f"{show(before.number('mean'))} -> {show(after.number('mean'))}{ends}"
            lines.append(f"{label} {shares}, mean of {count} seed{'s' if count > 1 else ''}")
    return lines
