"""Supervised fine-tuning: imitate the completions of a task's examples."""

from typing import Any

import torch

from lit_narrative.lm.logprobs import CompletionBatch, score_completions
from lit_narrative.modules.language import LanguageModule, keep_policy


class SFTModule(LanguageModule):
    """Mean negative log-likelihood of completion tokens; the prompt is read but not imitated.

    Its arguments are those of :class:`LanguageModule`.
    """

    view = "examples"

    def training_step(self, batch: CompletionBatch, batch_idx: int) -> torch.Tensor:
        """The loss of one batch, in nats per token."""
        loss = -score_completions(self.lm, batch).logprobs.mean()
        self.log("loss", loss, prog_bar=True, batch_size=len(batch.ids))
        return loss

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the policy alone from a checkpoint of reinforcement learning, not its reference or value head."""
        # Weights that this module lacks would fail the strict loading.
        keep_policy(checkpoint["state_dict"])
        super().on_load_checkpoint(checkpoint)
