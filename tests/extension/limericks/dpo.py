"""The algorithm: direct preference optimisation."""

from collections.abc import Sequence
from typing import Any

import torch
from limericks.data import Preference

from lit_narrative.errors import UserError
from lit_narrative.lm.logprobs import CompletionBatch, score_completions, to_rows
from lit_narrative.modules.language import LanguageModule
from lit_narrative.views import Example


class DPOModule(LanguageModule):
    """Direct preference optimisation (Rafailov et al. 2023, eq. 7).

    The policy is the model with adapters, and the reference the model with its adapters switched off.

    Args:
        beta: how dear it is to leave the reference, above 0.
        **kwargs: of :class:`LanguageModule`; ``lora`` is needed.

    Raises:
        UserError: there are no adapters.
    """

    view = "preferences"

    def __init__(self, beta: float = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if self.lora is None:
            raise UserError("DPOModule needs model.lora: the model without its adapters is the reference")
        self.beta = beta

    def collate(self, rows: Sequence[Any]) -> Any:
        """Preferences become one batch, the chosen completions before the rejected ones."""
        if not isinstance(rows[0], Preference):
            return super().collate(rows)
        chosen = [Example(row.prompt, row.chosen) for row in rows]
        return super().collate([*chosen, *(Example(row.prompt, row.rejected) for row in rows)])

    def training_step(self, batch: CompletionBatch, batch_idx: int) -> torch.Tensor:
        """-log sigmoid of beta times how much more than the reference the policy prefers the chosen one."""
        policy = self._logprobs(batch)
        with torch.no_grad(), self.lm.disable_adapter():  # type: ignore[operator]
            reference = self._logprobs(batch)
        chosen, rejected = (policy - reference).chunk(2)
        margins = self.beta * (chosen - rejected)
        loss = -torch.nn.functional.logsigmoid(margins).mean()
        self.log("loss", loss, batch_size=len(margins))
        self.log("rewards/accuracies", (margins > 0).float().mean(), batch_size=len(margins))
        return loss

    def _logprobs(self, batch: CompletionBatch) -> torch.Tensor:
        """(2n,) log-probability of each completion, nats."""
        return to_rows(score_completions(self.lm, batch).logprobs, batch.targets).sum(1)
