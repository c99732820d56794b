"""The figures of a verbalize run as plain data: of each seed, and over all seeds."""

from typing import Any

import lit_narrative
from lit_narrative.report.intervals import Value, pooled_record, seed_record
from lit_narrative.tasks.verbalize.report.run import BASE, FINAL, VerbalizeRun


def summarise(run: VerbalizeRun) -> dict[str, Any]:
    """Return the content of ``summary.json``.

    ``seeds`` holds the figures of each actor by the seed's number, with intervals over documents; ``pooled`` their
    means over seeds, with intervals by Student's t (null of a single seed), which say what another seed would give.
    ``change`` is the final actor's figure less that after supervised training, seed by seed.
    """
    names = {_name(actor): run.of(actor) for actor in run.actors}
    pooled: dict[str, Any] = {name: pooled_record(list(figures.values())) for name, figures in names.items()}
    if changed := changes(run):
        pooled["change"] = pooled_record(changed)
    return {
        "made_by": f"lit-narrative {lit_narrative.__version__}",
        "task": "verbalize",
        "seeds": {
            seed.name.removeprefix("seed "): {_name(actor): seed_record(seed.figures(actor)) for actor in seed.actors}
            for seed in run.seeds
        },
        "pooled": pooled,
    }


def _name(actor: str) -> str:
    """The final actor's place in the summary is ``final``, whatever algorithm trained it."""
    return "final" if actor == FINAL else actor


def changes(run: VerbalizeRun) -> list[dict[str, Value]]:
    """Each figure of the final actor less that of the base, of each seed that tested both."""
    before, after = run.of(BASE), run.of(FINAL)
    return [
        {name: (after[seed][name][0] - before[seed][name][0], None) for name in after[seed] if name in before[seed]}
        for seed in after
        if seed in before
    ]
