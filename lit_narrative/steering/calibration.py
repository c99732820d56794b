"""Finding how strongly to steer: the strength that moves a model by so many nats a token."""

import logging
import math
from collections.abc import Callable

from lit_narrative.errors import UserError
from lit_narrative.steering.sampler import TooStrong

logger = logging.getLogger(__name__)
FIRST, DOUBLINGS, TOLERANCE, HALVINGS = 0.02, 20, 0.1, 8


def find_strength(divergence: Callable[[float], float], target: float, first: float = FIRST) -> float:
    """Bisect a strength, on a logarithmic scale, to a mean KL(steered || plain) per token.

    The divergence is taken to grow with the strength. From ``first`` on it is doubled or halved until the target lies
    between two strengths, then the gap between them is halved until the target is met to a tenth.

    Args:
        divergence: nats a token at a strength; the same texts and random streams each time.
        target: nats a token, above 0.
        first: where to begin.

    Raises:
        UserError: no strength in reach moves the model by as much, or as little.
    """

    def measured(strength: float) -> float:
        try:
            found = divergence(strength)
        except TooStrong:
            found = math.inf
        logger.info("steering strength %.4g: %.4g nats a token", strength, found)
        return found

    low, high = _bracket(measured, target, first)
    for _ in range(HALVINGS):
        middle = math.sqrt(low * high)
        found = measured(middle)
        if abs(found - target) <= TOLERANCE * target:
            return middle
        low, high = (low, middle) if found > target else (middle, high)
    return low


def _bracket(measured: Callable[[float], float], target: float, first: float) -> tuple[float, float]:
    """Strengths that move the model by at most, and by more than the target."""
    above = measured(first) > target
    factor, strength = (0.5 if above else 2.0), first
    for _ in range(DOUBLINGS):
        before, strength = strength, strength * factor
        if (measured(strength) > target) != above:
            return min(before, strength), max(before, strength)
    raise UserError(
        f"no steering strength from {min(first, strength):.3g} to {max(first, strength):.3g} moves the model by "
        f"{target} nats a token; set model.pplm.stepsize to a number, or change target_kl or the attributes"
    )
