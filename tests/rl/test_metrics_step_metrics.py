"""Micro-batches of a step put together."""

import math

import torch

from lit_narrative.rl.metrics import StepMetrics


def pop(*parts: tuple[dict[str, float], dict[str, float]], others: list[list[float]] | None = None) -> dict[str, float]:
    """Metrics of the given sums, minima and maxima, beside the rows of other processes."""
    metrics = StepMetrics()
    for sums, min_max in parts:
        metrics.add(*({name: torch.tensor(value) for name, value in given.items()} for given in (sums, min_max)))
    return metrics.pop(lambda row: torch.cat([row, torch.tensor(others)]) if others else row)


def test_sums_add_up_and_minima_and_maxima_win_over_micro_batches_and_processes() -> None:
    parts = [({"loss": 1.0}, {"x_min": 2.0, "x_max": 2.0}), ({"loss": 0.5}, {"x_min": 3.0, "x_max": 3.0})]
    assert pop(*parts) == {"loss": 1.5, "x_min": 2, "x_max": 3}
    assert pop(*parts, others=[[4.0, -1.0, 2.5]]) == {"loss": 5.5, "x_min": -1, "x_max": 3}


def test_the_next_step_begins_at_nothing() -> None:
    metrics = StepMetrics()
    for value in (1.0, 5.0):
        metrics.add({"loss": torch.tensor(value)}, {"x_max": torch.tensor(-value)})
        assert metrics.pop(lambda row: row) == {"loss": value, "x_max": -value}


def test_minimum_and_maximum_of_nothing_are_left_out() -> None:
    nothing = ({"loss": 0.0}, {"x_min": math.inf, "x_max": -math.inf})
    assert pop(nothing, nothing) == {"loss": 0}
    assert pop(nothing, ({"loss": 0.0}, {"x_min": 0.5, "x_max": 0.75})) == {"loss": 0, "x_min": 0.5, "x_max": 0.75}
    assert pop(nothing, others=[[0.0, 0.5, 0.75]]) == {"loss": 0, "x_min": 0.5, "x_max": 0.75}
    broken = ({"loss": 0.0}, {"x_min": -math.inf, "x_max": math.inf})
    assert pop(broken) == {"loss": 0, "x_min": -math.inf, "x_max": math.inf}, "that is a fault, and is seen"
