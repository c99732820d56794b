"""The number of threads is measured, and what a run computes does not depend on the measurement."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from lit_narrative.lm.threads import choose_threads, fewest, threads_are_given
from tests.helpers import tiny_lm


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({1: 1.0}, 1),
        ({1: 1.0, 2: 0.6}, 2),
        ({1: 1.0, 2: 0.95}, 1),  # not worth a second processor
        ({1: 1.0, 2: 10.0, 4: 0.5}, 4),
        ({1: 1.0, 2: 0.6, 4: 0.58}, 2),
        ({1: 0.1, 2: 1.6}, 1),  # other work on the machine
    ],
)
def test_more_threads_are_taken_where_they_are_clearly_faster(seconds: dict[int, float], expected: int) -> None:
    assert fewest(seconds) == expected


@pytest.mark.usefixtures("two_threads")
def test_a_measurement_leaves_no_trace_but_the_number() -> None:
    lm = tiny_lm("gpt2", dropout=0.5, positions=32).train()
    state, weights = torch.get_rng_state(), nn.utils.parameters_to_vector(lm.parameters()).clone()
    chosen = choose_threads(lm)
    assert chosen in (1, 2) and torch.get_num_threads() == chosen
    assert lm.training and torch.get_rng_state().equal(state)
    assert nn.utils.parameters_to_vector(lm.parameters()).equal(weights)


@pytest.mark.usefixtures("two_threads")
def test_a_huge_model_keeps_the_choice_of_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lit_narrative.lm.threads._TOO_LARGE", 100)
    assert choose_threads(tiny_lm()) == 2


@pytest.mark.usefixtures("two_threads")
def test_a_large_model_is_measured_on_few_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lit_narrative.lm.threads.LARGE_MODEL", 100)
    lm, tokens = tiny_lm(), list[int]()
    lm.register_forward_pre_hook(lambda _, args, kwargs: tokens.append(kwargs["input_ids"].numel()), with_kwargs=True)
    assert choose_threads(lm) in (1, 2)
    assert sum(tokens) < 200


def test_the_environment_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert not threads_are_given()
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert threads_are_given()
