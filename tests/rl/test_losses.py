"""The clipped surrogate, against a loop over tokens."""

import math
from dataclasses import replace

import pytest
import torch

from lit_narrative.rl.losses import LossSettings, LossType, Window, aggregate, policy_loss

TYPES: tuple[LossType, ...] = ("grpo", "dr_grpo", "dapo")
SETTINGS = LossSettings("grpo", 0.2, 0.3, 0.1, 7)


def inputs(rows: int = 5, length: int = 6, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    logprobs = -normal(rows, length).abs()
    return {
        "logprobs": logprobs,
        "old": logprobs + 0.4 * normal(rows, length),
        "reference": logprobs + 0.4 * normal(rows, length),
        "advantages": normal(rows),
        "mask": torch.arange(length) < torch.tensor([6, 1, 3, 6, 0])[:rows, None],
    }


def loop(given: dict[str, torch.Tensor], window: Window, settings: LossSettings) -> torch.Tensor:
    """Token by token, as the papers write it."""
    loss = torch.zeros((), dtype=torch.float64)
    for row, advantage in enumerate(given["advantages"]):
        tokens = [place for place in range(given["mask"].shape[1]) if given["mask"][row, place]]
        for place in tokens:
            here, old, reference = (given[name][row, place] for name in ("logprobs", "old", "reference"))
            ratio = (here - old).exp()
            clipped = min(max(ratio, 1 - settings.epsilon), 1 + settings.epsilon_high)  # type: ignore[type-var]
            term = -min(ratio * advantage, clipped * advantage)
            term = term + settings.beta * ((reference - here).exp() - (reference - here) - 1)
            if settings.loss_type == "grpo":
                loss = loss + term / len(tokens) / window.rows
            elif settings.loss_type == "dr_grpo":
                loss = loss + term / settings.max_completion_length / window.rows
            else:
                loss = loss + term / window.tokens
    return loss


@pytest.mark.parametrize("loss_type", TYPES)
def test_values_and_gradients_are_those_of_the_loop(loss_type: LossType) -> None:
    settings, window = replace(SETTINGS, loss_type=loss_type), Window(11, 40)
    given = inputs()
    given["logprobs"].requires_grad_()
    found = policy_loss(**given, window=window, settings=settings).loss
    expected = loop(given, window, settings)
    torch.testing.assert_close(found, expected)
    (a,) = torch.autograd.grad(found, given["logprobs"])
    (b,) = torch.autograd.grad(expected, given["logprobs"])
    torch.testing.assert_close(a, b)
    assert (a[~given["mask"]] == 0).all()


def test_one_token_by_hand() -> None:
    """Ratio 1.5 with a good advantage is clipped at 1.3, with a bad one it is not."""
    ratio = torch.tensor([[math.log(1.5)], [math.log(1.5)], [math.log(0.5)], [math.log(0.5)]])
    old, mask = torch.zeros(4, 1), torch.ones(4, 1, dtype=torch.bool)
    advantages = torch.tensor([1.0, -1, 1, -1])
    output = policy_loss(ratio, old, None, advantages, mask, Window(1, 1), SETTINGS)
    torch.testing.assert_close(output.loss, torch.tensor(-1.3 + 1.5 - 0.5 + 0.8))
    assert (int(output.clipped_low), int(output.clipped_high), float(output.kl)) == (1, 1, 0.0)


@pytest.mark.parametrize("loss_type", TYPES)
def test_the_cut_of_a_window_changes_nothing(loss_type: LossType) -> None:
    """Invariant 3 in the loss itself: any rows together, in any order."""
    settings = replace(SETTINGS, loss_type=loss_type)
    given = inputs()
    window = Window(5, int(given["mask"].sum()))
    whole = policy_loss(**given, window=window, settings=settings)
    for parts in ([[0, 1], [2, 3, 4]], [[4], [2, 0], [3, 1]]):
        outputs = [
            policy_loss(**{name: value[rows] for name, value in given.items()}, window=window, settings=settings)
            for rows in parts
        ]
        for place, name in enumerate(whole._fields):
            torch.testing.assert_close(sum(output[place] for output in outputs), whole[place], msg=name)


def test_on_policy_gradient_is_advantage_times_score() -> None:
    given = inputs()
    given["old"] = given["logprobs"].clone()
    given["logprobs"].requires_grad_()
    settings = replace(SETTINGS, loss_type="dapo")
    window = Window(5, int(given["mask"].sum()))
    loss = policy_loss(**{**given, "reference": None}, window=window, settings=settings).loss
    (gradient,) = torch.autograd.grad(loss, given["logprobs"])
    torch.testing.assert_close(gradient, -given["advantages"][:, None] * given["mask"] / window.tokens)


def test_masked_tokens_count_for_nothing() -> None:
    given, window = inputs(), Window(5, 16)
    junk = {**given, "logprobs": given["logprobs"].where(given["mask"], -3.0)}
    junk["reference"] = junk["reference"].where(given["mask"], 2.0)
    for loss_type in TYPES:
        settings = replace(SETTINGS, loss_type=loss_type)
        a, b = (policy_loss(**rows, window=window, settings=settings) for rows in (given, junk))
        torch.testing.assert_close(a, b)


def test_an_empty_window_has_no_loss() -> None:
    mask = torch.zeros(2, 3, dtype=torch.bool)
    for loss_type in TYPES:
        assert aggregate(torch.ones(2, 3), mask, Window(2, 0), replace(SETTINGS, loss_type=loss_type)) == 0
