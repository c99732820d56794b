"""Checks, run once on each model, that a faster way to compute gives what the plain way gives.

Architectures differ in more than their configs say, so no list of names decides which may take a faster way: a few
tokens are read both ways, and the results compared.
"""

from collections.abc import Callable
from functools import wraps
from weakref import WeakKeyDictionary

import torch
from transformers import PreTrainedModel

from lit_narrative.lm.load import max_positions

# Prompts of unequal length, so that padding and positions are checked too; two rows of each, so that sharing is.
PROMPTS, ROWS, NEW_TOKENS = ((1, 2, 3, 4), (5, 6)), 2, 3
LENGTH = 4 + NEW_TOKENS
Check = Callable[[PreTrainedModel], bool]


def cached_check(check: Check) -> Check:
    """Decorator: ``check`` runs on a model object when it is first asked for, and its result is kept with the model.

    The check runs without gradient and autocast; the model should be in evaluation mode. An error counts as a failed
    check, and so does a model that is too short for it.
    """
    # By weak reference: a result must not keep its model in memory.
    results: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()

    @wraps(check)
    def cached(base: PreTrainedModel) -> bool:
        if base not in results:
            try:
                with torch.no_grad(), torch.autocast(base.device.type, enabled=False):
                    results[base] = not too_short(base) and check(base)
            except Exception:  # an architecture may fail anywhere in the faster way; the plain way remains
                results[base] = False
        return results[base]

    return cached


def too_short(base: PreTrainedModel) -> bool:
    """Whether ``base`` has fewer positions than the tokens of a check."""
    return (max_positions(base) or LENGTH) < LENGTH


def allclose(values: torch.Tensor, expected: torch.Tensor, spread: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether values differ from those expected by no more than rounding.

    Args:
        values: of any shape.
        expected: of the same shape.
        spread: (), the standard deviation of the quantities that ``values`` are computed from.
        dtype: of the model. In half precision only a gross error can be told from rounding.
    """
    tolerance = 5e-4 if dtype in (torch.float32, torch.float64) else 0.3
    # The root mean square, as one rounded logit may be far off where all others agree.
    error = (values.float() - expected.float()).square().mean().sqrt()
    return bool(error <= tolerance * spread.float() + 1e-5)
