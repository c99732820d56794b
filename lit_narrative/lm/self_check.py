"""Trying out on a model, once, whether a faster way gives what the plain one gives."""

from collections.abc import Callable
from functools import wraps
from weakref import WeakKeyDictionary

import torch
from transformers import PreTrainedModel

from lit_narrative.lm.load import max_positions

# Two prompts of unequal length, and how many tokens each of their completions has.
PROMPTS, ROWS, NEW_TOKENS = ((1, 2, 3, 4), (5, 6)), 2, 3
LENGTH = 4 + NEW_TOKENS
Trial = Callable[[PreTrainedModel], bool]


def once(trial: Trial) -> Trial:
    """Make ``trial`` run on a model object when it is first asked for.

    It runs without gradient and autocast; the model should be in evaluation mode. An error counts as failing, and so
    does a model too short for it.
    """
    known: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()

    @wraps(trial)
    def remembered(base: PreTrainedModel) -> bool:
        if base not in known:
            try:
                with torch.no_grad(), torch.autocast(base.device.type, enabled=False):
                    known[base] = not too_short(base) and trial(base)
            except Exception:  # architectures trip over anything here; the plain way is left
                known[base] = False
        return known[base]

    return remembered


def too_short(base: PreTrainedModel) -> bool:
    """Whether ``base`` cannot read what a trial has it read."""
    return (max_positions(base) or LENGTH) < LENGTH


def alike(found: torch.Tensor, expected: torch.Tensor, spread: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether values differ by no more than rounding.

    Args:
        found: values.
        expected: of the same shape.
        spread: (), the standard deviation of what such values are made of.
        dtype: of the model; in lower precision only a gross fault can be told from rounding.
    """
    tolerance = 5e-4 if dtype in (torch.float32, torch.float64) else 0.3
    error = (found.float() - expected.float()).square().mean().sqrt()
    return bool(error <= tolerance * spread.float() + 1e-5)
