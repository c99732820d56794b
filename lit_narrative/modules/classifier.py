"""Training the head that tells the class of a text from the mean hidden state of a frozen model."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError, MulticlassF1Score
from transformers import PreTrainedTokenizerBase

from lit_narrative.errors import UserError
from lit_narrative.lm.checkpoint import PREFIX, drop_reference
from lit_narrative.lm.hidden_states import mean_states
from lit_narrative.modules.language import LanguageModule
from lit_narrative.steering.heads import HeadCard, head_card, store_head, stored_card
from lit_narrative.views import Labelled


class AttributeModule(LanguageModule):
    """A frozen language model with a linear head on its mean hidden states, trained on the view ``labelled``.

    Args:
        classes: names of the labels; default: the task's names for them, or their numbers.
        lr: of the head.
        weight_decay: of the head.
        **kwargs: of :class:`LanguageModule`.
    """

    view = "labelled"
    eval_view = "labelled"

    def __init__(self, classes: Sequence[str] = (), lr: float = 1e-3, weight_decay: float = 0.0, **kwargs: Any) -> None:
        super().__init__(lr=lr, weight_decay=weight_decay, **kwargs)
        if self.lora:
            raise UserError(
                "a frozen model takes no adapters; leave model.lora out, or train them with SFTModule first"
            )
        self.classes = tuple(classes)
        self.card: HeadCard | None = None
        self.metrics = MetricCollection({})
        self._states: dict[str, torch.Tensor] = {}

    # --- building ---------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Evaluate a head on labels, and steering on prompts."""
        self.eval_view = "prompts" if stage == "test" else "labelled"
        if stage == "fit" and not self.classes:
            labels = {row.label for row in self.task.view("labelled", "train")}
            self.classes = self.task.label_names or tuple(map(str, range(max(labels, default=0) + 1)))

    def set_model(self, lm: nn.Module, tokenizer: PreTrainedTokenizerBase) -> None:
        """Take a model and freeze it."""
        super().set_model(lm.requires_grad_(False), tokenizer)

    def build_auxiliary(self) -> None:
        """Build the head, where one is trained."""
        if self.card is None and self.classes:
            name = self.source.model if isinstance(self.source.model, str) else "a model built from its sizes"
            self._take_head(head_card(self.lm, name, self.classes))

    def _take_head(self, card: HeadCard) -> None:
        if len(card.classes) < 2:
            raise UserError(f"a head tells at least two classes apart; the labels are: {', '.join(card.classes)}")
        self.card, count = card, len(card.classes)
        self.head = nn.Linear(card.hidden_size, count)
        self.metrics = MetricCollection(
            {
                "accuracy": MulticlassAccuracy(count, average="micro"),
                "f1": MulticlassF1Score(count, average="macro"),
                "calibration_error": MulticlassCalibrationError(count),
            }
        ).to(self.device)

    def train(self, mode: bool = True) -> "AttributeModule":
        """The frozen model stays in evaluation mode."""
        super().train(mode)
        if self.ready:
            self.lm.eval()
        return self

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say for which model the head is."""
        super().on_save_checkpoint(checkpoint)
        if self.card:
            store_head(checkpoint, self.card)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the policy alone from a checkpoint of another module; from one of this module the head too."""
        state, card = checkpoint["state_dict"], stored_card(checkpoint)
        drop_reference(state)
        kept = (PREFIX, "head.") if card else (PREFIX,)
        for name in [name for name in state if not name.startswith(kept)]:
            del state[name]
        if card:
            self.classes = card.classes
            self._take_head(card)
        super().on_load_checkpoint(checkpoint)

    # --- training the head ------------------------------------------------------------------------------------------

    def validate_rows(self, rows: Sequence[Any]) -> Sequence[Any]:
        """The rows, when every label is one of the classes."""
        if len(rows) and isinstance(rows[0], Labelled):
            for place, row in enumerate(rows):
                if not 0 <= row.label < len(self.classes):
                    raise UserError(
                        f"row {place} of the view 'labelled' has label {row.label}; classes are 0 to "
                        f"{len(self.classes) - 1} ({', '.join(self.classes)}): set model.classes to name them all"
                    )
        return super().validate_rows(rows)

    def states(self, texts: Sequence[str]) -> torch.Tensor:
        """(n, d) mean hidden states; each text is read once in a run, so that further epochs cost next to nothing."""
        if new := [text for text in dict.fromkeys(texts) if text not in self._states]:
            with self.precision():
                self._states |= dict(zip(new, mean_states(self.lm, self.tokenizer, new).cpu(), strict=True))
        return torch.stack([self._states[text] for text in texts]).to(self.device)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """Cross-entropy of the labels in nats."""
        loss = functional.cross_entropy(*self._judged(batch))
        self.log("loss", loss, prog_bar=True, batch_size=len(batch))
        return loss

    def _judged(self, batch: Sequence[Labelled]) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and labels."""
        labels = torch.tensor([row.label for row in batch], device=self.device)
        return self.head(self.states([row.text for row in batch])), labels

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Gather how well the head tells held-out texts."""
        logits, labels = self._judged(batch)
        self.metrics.update(logits.softmax(-1), labels)
        self.nll.update(functional.cross_entropy(logits, labels), weight=len(batch))

    def on_validation_epoch_end(self) -> None:
        """Log it, over all processes."""
        self.log_dict({f"val/{name}": value for name, value in self.metrics.compute().items()}, prog_bar=True)
        self.log("val/loss", self.nll.compute())
        self.metrics.reset()
        self.nll.reset()
