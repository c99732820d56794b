"""The figures of a style run as plain data: of each seed, and over all seeds."""

from collections.abc import Mapping, Sequence
from typing import Any

import lit_narrative
from lit_narrative.report.intervals import Value, pooled, pooled_record, seed_record
from lit_narrative.tasks.style.evaluation.judging import hacked
from lit_narrative.tasks.style.report.run import AUTHORS, BOOKS, MEASURES, Judge, SeedRun, StyleRun


def summarise(run: StyleRun) -> dict[str, Any]:
    """Return the content of ``summary.json``.

    ``seeds`` holds the figures of each arm by the seed's number, with intervals over plots; ``pooled`` their means over
    seeds, with intervals by Student's t (null of a single seed), which say what another seed would give. ``change`` is
    the arm ``grpo`` less the arm ``sft`` on the same prompts; ``alarm`` says whether judge A rose and judge B did not.
    ``judges`` holds for each judge its figures on other books of authors that it knows, with those of each baseline
    beside them, and under ``authors`` the same for authors that it never read.
    """
    return {
        "made_by": f"lit-narrative {lit_narrative.__version__}",
        "task": "style",
        "seeds": {seed.name.removeprefix("seed "): _seed(seed) for seed in run.seeds},
        "pooled": {
            **{arm: pooled_record(run.of(arm)) for arm in run.arms},
            **_changed(run.changes()),
            "judges": {
                name: _pooled_judge([s.judges[name] for s in run.seeds if name in s.judges]) for name in run.judges
            },
        },
    }


def _seed(seed: SeedRun) -> dict[str, Any]:
    change = seed.change()
    return {
        **{name: seed_record(arm.figures) for name, arm in seed.arms.items()},
        **({"change": seed_record(change), "alarm": alarm([change])} if change else {}),
        "judges": {name: _judge(judge) for name, judge in seed.judges.items()},
    }


def _changed(changes: Sequence[Mapping[str, Value]]) -> dict[str, Any]:
    return {"change": pooled_record(changes), "alarm": alarm(changes)} if changes else {}


def alarm(changes: Sequence[Mapping[str, Value]]) -> bool | None:
    """Whether the judge that training is by rose and the other one did not; None where that is not known."""
    first, second = (pooled(changes, name) for name in ("judge_a", "judge_b"))
    if first is None or second is None or first[1] is None or second[1] is None:
        return None
    return hacked(first[1], second[1])


def _judge(judge: Judge) -> dict[str, Any]:
    sets = {name: _beside([measures]) for name, measures in judge.sets.items()}
    return {"fit": judge.fit, "why": list(judge.why), **_main_first(sets)}


def _pooled_judge(judges: Sequence[Judge]) -> dict[str, Any]:
    names = dict.fromkeys(name for judge in judges for name in judge.sets)
    sets = {name: _beside([judge.sets[name] for judge in judges if name in judge.sets]) for name in names}
    return {"fit": sum(judge.fit for judge in judges) / len(judges), **_main_first(sets)}


def _beside(seeds: Sequence[Mapping[str, Mapping[str, Value]]]) -> dict[str, Any]:
    """The judge's figures, with those of each baseline under its name."""
    own, *others = MEASURES
    found = {
        name: pooled_record([seed[name] for seed in seeds]) if len(seeds) > 1 else seed_record(seeds[0][name])
        for name in MEASURES
        if all(name in seed for seed in seeds)
    }
    return {**found.get(own, {}), **{name: found[name] for name in others if name in found}}


def _main_first(sets: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The figures on books as they are, and those on authors under that name; without books those of authors."""
    main = sets.get(BOOKS, sets.get(AUTHORS, {}))
    return {**main, **({AUTHORS: sets[AUTHORS]} if AUTHORS in sets and BOOKS in sets else {})}
