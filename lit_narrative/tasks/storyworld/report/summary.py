"""The figures of a run as plain data, for scripts that compare runs, and what they teach, in two lines."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import lit_narrative
from lit_narrative.report.format import number, percent
from lit_narrative.report.intervals import Interval, mean_change_interval, share_interval
from lit_narrative.report.records import Record, read_record
from lit_narrative.tasks.storyworld.report.run import Level, Outcome, Run, Soundness


def summarise(run: Run) -> dict[str, Any]:
    """Return the content of ``summary.json``.

    Scores are strict verifiers' on held-out prompts; ``original_total`` is the lenient total of the same samples.
    ``improvement`` is final minus SFT, and ``over_corpus`` final minus corpus. Intervals hold 95 %, those of shares are
    Wilson's. Keys of soundness are missing of runs of earlier releases; ``turns`` is there of policies that take turns.
    """
    before, after = run.before.outcome, run.after.outcome
    return {
        "made_by": f"lit-narrative {lit_narrative.__version__}",
        "mode": "strict",
        "prompts": "held-out",
        "sft": _figures(before),
        "final": _figures(after),
        "corpus": None if run.corpus is None else _scores(run.corpus),
        "improvement": {
            **_differences(after.level, before.level),
            "reward_ci": list(difference_interval(before, after)),
            "valid_json": after.valid_json - before.valid_json,
            "unique": after.unique - before.unique,
        },
        "over_corpus": None if run.corpus is None else _differences(after.level, run.corpus),
    }


def difference_interval(before: Outcome, after: Outcome) -> Interval:
    """Return the 95 % interval of the gain in reward.

    The two means are taken as independent. Both policies meet the same prompts, so their errors are alike if anything,
    and the interval is, if anything, too wide.
    """
    return mean_change_interval(before.reward_ci, after.reward_ci, after.level.reward - before.level.reward)


def _figures(outcome: Outcome) -> dict[str, Any]:
    return {
        "n": outcome.n,
        **_scores(outcome.level),
        "reward_ci": list(outcome.reward_ci),
        "valid_json": outcome.valid_json,
        "valid_json_ci": list(share_interval(outcome.valid_json, outcome.n)),
        "unique": outcome.unique,
        "unique_names": outcome.unique_names,
        "unique_skeleton": outcome.unique_skeleton,
        "seed": outcome.seed,
        **({"turns": [asdict(turn) for turn in outcome.turns]} if outcome.turns else {}),
    }


def _scores(level: Level) -> dict[str, Any]:
    return {
        "reward": level.reward,
        "original_total": level.original_total,
        "components": dict(level.components),
        **(_soundness(level.soundness) if level.soundness is not None else {}),
    }


def _soundness(found: Soundness) -> dict[str, Any]:
    return {
        "sound": found.sound,
        "sound_ci": list(share_interval(found.sound, found.n)),
        "playable": found.playable,
        "playable_ci": list(share_interval(found.playable, found.n)),
        "funnel": dict(found.funnel),
        "effective_shapes": found.effective_shapes,
        "encounters": found.encounters,
        "adherence": found.adherence,
    }


def _differences(level: Level, base: Level) -> dict[str, Any]:
    lenient = None
    if level.original_total is not None and base.original_total is not None:
        lenient = level.original_total - base.original_total
    # A custom component may be measured of one side alone.
    shared = [name for name in level.components if name in base.components]
    return {
        "reward": level.reward - base.reward,
        "original_total": lenient,
        "components": {name: level.components[name] - base.components[name] for name in shared},
    }


# --- in two lines ---------------------------------------------------------------------------------------------------


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
    if turns := list(after.children("turns")):
        first, last = turns[0], turns[-1]
        ends = f"{percent(first.maybe('sound'))} after one turn, {percent(last.maybe('sound'))} after {len(turns)}"
        known += f"; {ends}"
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
