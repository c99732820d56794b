"""The weight of the entropy bonus, constant or controlled by the entropy itself."""

import math

from lit_narrative.rl.loss_settings import LossSettings


class AdaptiveEntropy:
    """Weight of the entropy bonus, constant or controlled (Skywork-OR1, He et al. 2025, section 4).

    Controlled, after each optimizer step with a mean token entropy h:
    c <- min(c + delta, max) if h <= target, else max(c - delta, min); and the bonus of the next step is applied only
    if h <= target. Before the first measurement there is no bonus.

    Args:
        settings: ``entropy_coef`` and, if ``use_adaptive_entropy``, its bounds, step and target.

    Attributes:
        weight: c, what TRL logs as ``entropy_coef``.
        entropy: the last h, nats a token; infinity before the first.
    """

    def __init__(self, settings: LossSettings) -> None:
        self.settings = settings
        self.weight = settings.entropy_coef
        # Above every target, so that no bonus is applied before the first measurement.
        self.entropy = math.inf

    @property
    def coefficient(self) -> float:
        """Weight of the bonus in the next step; pass it to ``policy_loss``."""
        if not self.settings.use_adaptive_entropy or self.entropy <= self.settings.entropy_target:
            return self.weight
        return 0.0

    def update(self, entropy: float) -> None:
        """Adapt the weight to the entropy of an optimizer step.

        Args:
            entropy: mean over the step's tokens of the bonus, of all processes, in nats: ``entropy_bonus`` of
                ``policy_loss``, summed over micro-batches and processes. A step without such tokens has none: do
                not call this then.
        """
        self.entropy = entropy
        if not self.settings.use_adaptive_entropy:
            return
        # The weight moves one fixed amount a step, however far the entropy is from its target, so that a noisy estimate
        # cannot throw it.
        step = self.settings.entropy_coef_delta
        if entropy <= self.settings.entropy_target:
            self.weight = min(self.weight + step, self.settings.entropy_coef_max)
        else:
            self.weight = max(self.weight - step, self.settings.entropy_coef_min)

    def state_dict(self) -> dict[str, float]:
        """What a resumed run needs."""
        return {"weight": self.weight, "entropy": self.entropy}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Undo `state_dict`."""
        self.weight, self.entropy = state["weight"], state["entropy"]
