"""Sizes of rollout batches and settings, checked as plain numbers."""

from typing import Any

import pytest
import torch

from lit_narrative.errors import UserError
from lit_narrative.lm.load import Lora
from lit_narrative.lm.sampler import SamplingParams
from lit_narrative.rl.loss_settings import LossSettings
from lit_narrative.rl.reference import ReferenceSettings
from lit_narrative.rl.settings import BatchPlan, GRPOSettings, check_sizes

FITS: dict[str, Any] = {"accumulate": 2, "limit": 1.0, "world_size": 1}


def settings(num_generations: int = 4, **other: Any) -> GRPOSettings:
    return GRPOSettings(**{"rewards": {"low": 1.0}, "plan": BatchPlan(num_generations), **other})


def test_sizes_of_a_rollout_batch() -> None:
    plan = BatchPlan(num_generations=4, generation_batch_size=32, micro_batch_size=3)
    assert plan.prompts(batch_size=99, world_size=2) == 4
    assert (plan.micro_batch_rows(16), plan.micro_batches(prompts=4)) == (3, 6)
    assert BatchPlan(4, steps_per_generation=2).micro_batch_rows(16) == 8
    assert BatchPlan(4).prompts(batch_size=5, world_size=2) == 5


def test_what_may_not_change_within_a_cycle_is_named() -> None:
    sizes = BatchPlan(4, micro_batch_size=4, num_iterations=2).check(4, 3, accumulate=2, limit=16, world_size=2)
    assert sizes == {
        "data.batch_size": 4,
        "model.num_generations": 4,
        "model.num_iterations": 2,
        "micro-batches of a rollout batch": 4,
        "trainer.accumulate_grad_batches": 2,
        "processes": 2,
    }
    check_sizes(sizes, sizes)
    with pytest.raises(UserError, match=r"micro-batches of a rollout batch 4 -> 8"):
        check_sizes(sizes, {**sizes, "micro-batches of a rollout batch": 8})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rollout_batches": 0}, r"fewer training prompts than the 4 of a rollout batch; lower data\.batch_size"),
        ({"accumulate": 3}, r"accumulate_grad_batches=3 does not divide the 4 micro-batches of a .*; set it to 2$"),
        ({"accumulate": 5}, r"; set it to 4$"),
        ({"limit": 6}, r"limit_train_batches=6 ends a cycle within a rollout batch of 4 micro-batches"),
        ({"limit": 0.5}, r"limit_train_batches=0\.5 ends a cycle within a rollout batch of 4"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    given = {"prompts": 4, "rollout_batches": 3, **FITS}
    plan = BatchPlan(4, micro_batch_size=4)
    plan.check(**given)
    with pytest.raises(UserError, match=message):
        plan.check(**{**given, **change})


def test_a_dry_run_may_stop_anywhere() -> None:
    assert BatchPlan(4, micro_batch_size=4).check(4, 3, accumulate=2, limit=1, world_size=1, dry_run=True)


def test_what_follows_from_the_settings() -> None:
    plain = settings(rewards={"low": 1.0, "high": -0.5})
    assert torch.equal(plain.weights, torch.tensor([1.0, -0.5]))
    assert (plain.scale, plain.reference_kind, plain.num_generations) == ("group", "copy", 4)
    assert settings(1, advantage="gae").scale == "batch"
    assert settings(lora=Lora(r=2)).reference_kind == "adapter_off"
    assert settings(loss=LossSettings(beta=0.0)).reference_kind == "none"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rewards": {}}, r"model\.rewards is empty"),
        ({"sampling": SamplingParams(top_k=5)}, r"top_k and top_p must be off in RL"),
        ({"reference": ReferenceSettings("none")}, r"reference\.kind is none, but model\.loss\.beta=0\.04 needs"),
        ({"loss": LossSettings(beta=0.0, kl_estimator="k2")}, r"kl_estimator=k2 is not read without a reference"),
    ],
)
def test_settings_check_themselves(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        settings(**given)
