"""Parameters of PPLM, checked."""

import math
from dataclasses import dataclass
from typing import Literal

from lit_narrative.errors import UserError, check_finite, check_least


@dataclass(frozen=True)
class PPLMSettings:
    """Parameters of PPLM (Dathathri et al. 2020); names and defaults are the published ones unless noted.

    Args:
        stepsize: of a gradient step; 0 is off. Its scale depends on the model: ``auto`` (our default) calibrates it to
            ``target_kl``.
        target_kl: nats per token between steered and plain model that ``stepsize: auto`` aims at; 0.01 to 0.06 are
            useful, text breaks down above 0.2.
        num_iterations: gradient steps per token; each costs a forward and a backward pass.
        gamma: the gradient is divided by its norm to this power.
        gm_scale: weight of the steered distribution in the geometric mean with the plain one, 0 to 1.
        kl_scale: weight of KL(steered || plain) in the loss.
        window_length: number of positions that are moved; 0: all.
        window_anchor: the ``recent`` positions (as in the paper), or the ``oldest`` (as the published code does).
        decay: weigh the positions of the window by 1/w, 2/w, …, 1.
        grad_length: number of tokens after which no more steps are taken; default: no limit.
        horizon_length: expected future tokens that a discriminator reads.
        carry_over: keep the moved past for later tokens.
        norm_maximum: divide by the largest gradient norm so far; with bags alone: with a discriminator every step uses
            its own norm.
        temperature_on: ``both`` distributions, or the ``steered`` one alone (as the published code does).
    """

    stepsize: float | Literal["auto"] = "auto"
    target_kl: float = 0.03
    num_iterations: int = 3
    gamma: float = 1.5
    gm_scale: float = 0.9
    kl_scale: float = 0.01
    window_length: int = 0
    window_anchor: Literal["recent", "oldest"] = "recent"
    decay: bool = False
    grad_length: int | None = None
    horizon_length: int = 1
    carry_over: bool = True
    norm_maximum: bool = True
    temperature_on: Literal["both", "steered"] = "both"

    def __post_init__(self) -> None:
        for name in ("num_iterations", "window_length", "grad_length"):
            check_least(f"model.pplm.{name}", getattr(self, name), 0)
        check_least("model.pplm.horizon_length", self.horizon_length, 1)  # at 0 the loss would not depend on the logits
        check_finite("model.pplm.", gamma=self.gamma, kl_scale=self.kl_scale)
        if self.stepsize != "auto":
            check_finite("model.pplm.", stepsize=self.stepsize)
        if not 0 <= self.gm_scale <= 1:
            raise UserError(f"model.pplm.gm_scale={self.gm_scale} must be from 0 (no steering) to 1 (no fusion)")
        if not 0 < self.target_kl < math.inf:
            raise UserError(f"model.pplm.target_kl={self.target_kl} must be above 0; 0.03 nats a token is a good start")
        if self.decay and not self.window_length:
            raise UserError(
                "model.pplm.decay weighs the positions of a window: set pplm.window_length, or decay to false"
            )

    @property
    def step(self) -> float:
        """The step size as a number.

        Raises:
            UserError: it is ``auto`` and not calibrated yet.
        """
        if self.stepsize == "auto":
            raise UserError("model.pplm.stepsize=auto is calibrated on a few prompts first; give a number here")
        return float(self.stepsize)

    @property
    def moves(self) -> bool:
        """Whether the past is moved at all."""
        return self.num_iterations > 0 and self.step > 0 and self.grad_length != 0
