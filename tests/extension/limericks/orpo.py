"""The algorithm: odds ratio preference optimisation."""

from collections.abc import Sequence
from typing import Any

import torch
from limericks.data import Preference

from lit_narrative.errors import UserError
from lit_narrative.lm.logprobs import CompletionBatch, score_completions, to_rows
from lit_narrative.modules.language import LanguageModule
from lit_narrative.views import Example


class ORPOModule(LanguageModule):
    """Odds ratio preference optimisation (Hong et al. 2024, eq. 6 and 7): imitation and preference in one step.

    It needs no reference: the chosen completion is imitated, and its odds are to exceed those of the rejected one.

    Args:
        weight: of the odds ratio beside the imitation (lambda), above 0.
        **kwargs: of :class:`LanguageModule`.

    Raises:
        UserError: the weight is out of range.
    """

    view = "preferences"

    def __init__(self, weight: float = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if weight <= 0:
            raise UserError(f"model.weight={weight} must be above 0; without it this is SFTModule")
        self.weight = weight

    def collate(self, rows: Sequence[Any]) -> Any:
        """Preferences become one batch, the chosen completions before the rejected ones."""
        if not isinstance(rows[0], Preference):
            return super().collate(rows)
        chosen = [Example(row.prompt, row.chosen) for row in rows]
        return super().collate([*chosen, *(Example(row.prompt, row.rejected) for row in rows)])

    def training_step(self, batch: CompletionBatch, batch_idx: int) -> torch.Tensor:
        """Mean over pairs of -log p(chosen) - weight log sigmoid(log odds ratio), p a token's mean likelihood."""
        logprobs = to_rows(score_completions(self.lm, batch).logprobs, batch.targets).sum(1) / batch.targets.sum(1)
        odds = logprobs - torch.log1p(-logprobs.exp())
        chosen, rejected = odds.chunk(2)
        penalty = -torch.nn.functional.logsigmoid(chosen - rejected).mean()
        loss = -logprobs.chunk(2)[0].mean() + self.weight * penalty
        self.log("loss", loss, batch_size=len(chosen))
        self.log("log_odds_ratio", (chosen - rejected).mean(), batch_size=len(chosen))
        return loss
