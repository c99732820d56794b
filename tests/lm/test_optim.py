"""Optimizer groups and schedules."""

import pytest
import torch

from lit_narrative.lm.load import Lora, add_lora
from lit_narrative.lm.optim import Schedule, adamw, schedule_by_step
from tests.helpers import tiny_lm


def test_decay_on_matrices_only() -> None:
    optimizer = adamw(tiny_lm("gpt2"), lr=0.1, weight_decay=0.5)
    by_decay = {group["weight_decay"]: group["params"] for group in optimizer.param_groups}
    assert all(p.ndim >= 2 for p in by_decay[0.5])
    assert all(p.ndim < 2 for p in by_decay[0.0])
    assert sum(map(len, by_decay.values())) == len(list(tiny_lm("gpt2").parameters()))


def test_adapters_alone_are_optimised() -> None:
    adapted = add_lora(tiny_lm(), Lora(r=2))
    found = {id(p) for group in adamw(adapted, 0.1, 0.0).param_groups for p in group["params"]}
    assert found == {id(p) for p in adapted.parameters() if p.requires_grad}


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0, 0.5, 1, 1, 1, 1, 1]),
        ("linear", [0, 0.5, 1, 0.75, 0.5, 0.25, 0]),
        ("cosine", [0, 0.5, 1, 0.853553, 0.5, 0.146447, 0]),
    ],
)
def test_rates_by_step(schedule: Schedule, expected: list[float]) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    steps = schedule_by_step(optimizer, schedule, 2, None if schedule == "constant" else 6)
    found = []
    for _ in expected:
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        steps.step()
    assert found == pytest.approx(expected, abs=1e-6)
