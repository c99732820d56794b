"""Stop before the policy has gone too far from its reference."""

import logging
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lit_narrative.errors import UserError, check_least
from lit_narrative.modules.grpo import GRPOModule

logger = logging.getLogger(__name__)


class KLCeiling(Callback):
    """Ends training when the logged ``kl`` stays above a ceiling.

    Text that scores well far from the reference is more often a hole in the reward than a better story.

    Args:
        max_kl: ceiling of ``kl``, the mean divergence from the reference a token over an optimizer step, above 0. It is
            in nats, by the estimator and corrections of ``model.loss``.
        patience: optimizer steps in a row above the ceiling that end training, 1 or more.
    """

    def __init__(self, max_kl: float, patience: int = 1) -> None:
        if not max_kl > 0:
            raise UserError(f"callback KLCeiling: max_kl={max_kl} must be above 0")
        check_least("callback KLCeiling: patience", patience, 1)
        self.max_kl, self.patience = max_kl, patience
        self._above = self._step = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a run that has no divergence to watch."""
        if stage != "fit":
            return
        if not isinstance(pl_module, GRPOModule):
            raise UserError(f"callback KLCeiling needs GRPOModule; {type(pl_module).__name__} logs no kl")
        if pl_module.reference_kind == "none":
            raise UserError(
                "callback KLCeiling has nothing to watch: without a reference there is no kl; set model.loss.beta "
                "above 0, or model.reference.kind, or take the callback out"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count from the step that the run begins with."""
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the divergence of an optimizer step that was just made."""
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        kl = float(trainer.callback_metrics["kl"])
        self._above = self._above + 1 if kl > self.max_kl else 0
        if self._above >= self.patience:
            if trainer.is_global_zero:
                logger.warning(
                    "stopping: kl=%.4g, above max_kl=%.4g for %d optimizer steps in a row", kl, self.max_kl, self._above
                )
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        """How many steps in a row were above."""
        return {"above": self._above}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self._above = state_dict["above"]
