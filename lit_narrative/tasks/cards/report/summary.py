"""The figures of a cards run as plain data, for scripts that compare runs."""

from dataclasses import asdict
from typing import Any

import lit_narrative
from lit_narrative.tasks.cards.report.changes import Comparison, compare, compare_rivals, verdict
from lit_narrative.tasks.cards.report.run import BASE, HOME, CardsRun, Policy, SeedRun, trained


def summarise_cards(run: CardsRun) -> dict[str, Any]:
    """Return the content of ``summary.json``.

    ``seeds`` holds each policy's figures by set; ``changes`` each arm minus the base on the same prompts, with 95 %
    intervals, and ``verdict`` what every seed agrees on; ``rivals`` arms of GRPO minus arms of SFT.
    """
    return {
        "made_by": f"lit-narrative {lit_narrative.__version__}",
        "task": "cards",
        "base": BASE,
        "seeds": {seed.name.removeprefix("seed "): _seed(seed) for seed in run.seeds},
        "changes": {arm: {found.split: _change(found) for found in compare(run, arm)} for arm in run.arms},
        "rivals": {
            f"{arm} - {rival}": {one.split: _change(one) for one in found}
            for (arm, rival), found in compare_rivals(run).items()
        },
    }


def _seed(seed: SeedRun) -> dict[str, Any]:
    return {
        "policies": {name: _policy(policy) for name, policy in seed.policies.items()},
        "circuits": {one.name: dict(one.figures) for one in seed.circuits},
    }


def _policy(policy: Policy) -> dict[str, Any]:
    home = policy.scores.get(HOME)
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
                "gap": None if home is None or name == HOME else home.accuracy - scores.accuracy,
            }
            for name, scores in policy.scores.items()
        },
    }


def _change(found: Comparison) -> dict[str, Any]:
    return {
        "verdict": verdict(found),
        "direction": found.direction,
        "mean": found.mean,
        "range": list(found.range),
        "beats_majority": found.beats_majority,
        "seeds": {change.seed.removeprefix("seed "): _one(change.value, change.interval) for change in found.changes},
        "nonzero": {change.seed.removeprefix("seed "): _one(change.value, change.interval) for change in found.nonzero},
    }


def _one(value: float, interval: tuple[float, float]) -> dict[str, Any]:
    return {"accuracy": value, "interval": list(interval)}
