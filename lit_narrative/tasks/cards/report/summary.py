"""The figures of a cards run as plain data, for scripts that compare runs."""

from dataclasses import asdict
from typing import Any

import lit_narrative
from lit_narrative.tasks.cards.report.changes import Comparison, compare, compare_with_baselines, verdict
from lit_narrative.tasks.cards.report.run import BASE, REFERENCE_SPLIT, CardsRun, Policy, SeedRun, trained


def summarise_cards(run: CardsRun) -> dict[str, Any]:
    """Return the content of ``summary.json``.

    ``seeds`` holds each policy's figures by set; ``changes`` each arm minus the base on the same prompts, with 95 %
    intervals, and ``verdict`` what every seed agrees on; ``baselines`` arms of GRPO minus arms of SFT.
    """
    return {
        "made_by": f"lit-narrative {lit_narrative.__version__}",
        "task": "cards",
        "base": BASE,
        "seeds": {seed.name.removeprefix("seed "): _seed(seed) for seed in run.seeds},
        "changes": {
            arm: {comparison.split: _change(comparison) for comparison in compare(run, arm)} for arm in run.arms
        },
        "baselines": {
            f"{arm} - {baseline}": {one.split: _change(one) for one in comparisons}
            for (arm, baseline), comparisons in compare_with_baselines(run).items()
        },
    }


def _seed(seed: SeedRun) -> dict[str, Any]:
    return {
        "policies": {name: _policy(policy) for name, policy in seed.policies.items()},
        "circuits": {one.name: dict(one.figures) for one in seed.circuits},
    }


def _policy(policy: Policy) -> dict[str, Any]:
    reference = policy.scores.get(REFERENCE_SPLIT)
    training = None if policy.training is None else asdict(policy.training)
    return {
        "mix": dict(policy.mix),
        "held_out": list(policy.held_out),
        "training": None
        if training is None
        else {key: training[key] for key in ("module", "steps", "sequences", "seconds")},
        "splits": {
            name: {
                **asdict(scores),
                "trained": trained(policy, name),
                "gap": None if reference is None or name == REFERENCE_SPLIT else reference.accuracy - scores.accuracy,
            }
            for name, scores in policy.scores.items()
        },
    }


def _change(comparison: Comparison) -> dict[str, Any]:
    return {
        "verdict": verdict(comparison),
        "direction": comparison.direction,
        "mean": comparison.mean,
        "range": list(comparison.range),
        "beats_majority": comparison.beats_majority,
        "seeds": {
            change.seed.removeprefix("seed "): _one(change.value, change.interval) for change in comparison.changes
        },
        "nonzero": {
            change.seed.removeprefix("seed "): _one(change.value, change.interval) for change in comparison.nonzero
        },
    }


def _one(value: float, interval: tuple[float, float]) -> dict[str, Any]:
    return {"accuracy": value, "interval": list(interval)}
