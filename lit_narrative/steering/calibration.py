"""Calibration of a steering strength to a target KL divergence.

Step sizes of PPLM mean different things on different models; nats per token between steered and plain model do not.
"""

import logging
import math
from collections.abc import Callable

from lit_narrative.errors import UserError
from lit_narrative.steering.sampler import TooStrong

logger = logging.getLogger(__name__)
# Where the search begins, steps to bracket the target, the relative error that will do, and bisections.
FIRST, DOUBLINGS, TOLERANCE, HALVINGS = 0.02, 20, 0.1, 8


def find_strength(divergence: Callable[[float], float], target: float, first: float = FIRST) -> float:
    """Bisect a strength, on a logarithmic scale, to a mean KL(steered || plain) per token.

    The divergence is assumed to grow with the strength. From ``first`` the strength is doubled or halved until the
    target lies between two strengths, whose interval is bisected until the divergence is within a tenth of the target.

    Args:
        divergence: nats per token at a strength; on the same texts and random streams each time.
        target: nats per token, above 0.
        first: the first strength tried.

    Raises:
        UserError: no strength within reach gives the target.
    """

    def measured(strength: float) -> float:
        try:
            nats = divergence(strength)
        except TooStrong:  # logits that are not finite: further away than any target
            nats = math.inf
        logger.info("steering strength %.4g: %.4g nats a token", strength, nats)
        return nats

    low, high = _bracket(measured, target, first)
    for _ in range(HALVINGS):
        middle = math.sqrt(low * high)
        nats = measured(middle)
        if abs(nats - target) <= TOLERANCE * target:
            return middle
        low, high = (low, middle) if nats > target else (middle, high)
    return low  # where the divergence jumps over the target, the weaker side


def _bracket(measured: Callable[[float], float], target: float, first: float) -> tuple[float, float]:
    """Two strengths: the divergence is at most the target at the first, and above it at the second."""
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
