"""A verbalizer learns: what it says of an activation gives more of it back, and only if it reads the activation."""

from pathlib import Path
from typing import Any

import pytest

from tests.runs.verbalizing import Measured, Size, Stages

# A subject that has learned for longer holds more at a token than its teacher's one word: all figures are lower then.
FULL = Size(width=48, subject_steps=250, documents=600, steps=400, rollouts=100)


@pytest.mark.slow
@pytest.mark.timeout(600)  # 40 seconds of one free core each; CI runs the first
@pytest.mark.parametrize("seed", range(3))
def test_it_learns_from_its_teacher_and_then_by_reward(tmp_path: Path, seed: int) -> None:
    stages = Stages(tmp_path, seed)
    actor, critic = stages.imitate(stages.subject())
    before = stages.measure(actor, critic)
    assert before.fve >= 0.40
    assert before.shuffled <= -0.5
    assert before.fve - before.shuffled >= 1.0
    assert stages.ceiling(critic) == pytest.approx(before.fve, abs=0.1)
    rewarded = stages.reinforce(actor, critic)
    # The sampler's log-probabilities, with vectors injected, are the trainer's.
    assert stages.metrics["sampling/sampling_logp_difference/max"] < 1e-4
    assert stages.metrics["critic/explained"] > 0.9
    after = stages.measure(rewarded, rewarded)
    assert after.fve >= max(0.55, before.fve - 0.05)
    assert after.parsed >= 0.95
    assert after.fve - after.shuffled >= 1.0
    assert stages.measure(rewarded, critic).fve <= after.fve


def gains(folder: Path, seed: int) -> tuple[Measured, Measured, Measured]:
    """Full size: after imitation, after rollouts, and after as many of an actor that stays as it is."""
    stages = Stages(folder, seed, FULL)
    actor, critic = stages.imitate(stages.subject())
    rewarded = stages.reinforce(actor, critic)
    before, after = stages.measure(actor, critic), stages.measure(rewarded, rewarded)
    still = stages.reinforce(actor, critic, "still", lr=0.0, weight_decay=0.0)
    return before, after, stages.measure(still, still)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_reward_teaches_more_than_the_teacher_and_it_is_the_actor_that_learns(tmp_path: Path) -> None:
    found = [gains(tmp_path / str(seed), seed) for seed in range(3)]
    differences = [after.fve - before.fve for before, after, _ in found]
    assert min(differences) >= 0.10, found
    assert sum(differences) / 3 >= 0.15, found
    assert all(after.fve >= 0.65 for _, after, _ in found), found
    assert all(still.fve - before.fve <= 0.03 for before, _, still in found), found


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("control", ["none", "shuffled"])
def test_an_actor_that_cannot_know_stays_at_the_floor(tmp_path: Path, control: Any) -> None:
    stages = Stages(tmp_path, 0, Size(rollouts=150), injected=control)
    actor, critic = stages.imitate(stages.subject())
    rewarded = stages.reinforce(actor, critic)
    after = stages.measure(rewarded, rewarded)
    assert after.fve == pytest.approx(after.floor, abs=0.05)
