"""Training of an attribute classifier: a linear head that tells a text's class from a frozen model's hidden states."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError, MulticlassF1Score

from lit_narrative.errors import UserError
from lit_narrative.lm.checkpoint import keep_policy
from lit_narrative.lm.vectors.hidden_states import mean_states
from lit_narrative.modules.language import LanguageModule
from lit_narrative.steering.heads import HeadCard, head_card, store_head, stored_card
from lit_narrative.views import Labelled


class ClassifierModule(LanguageModule):
    """A frozen language model with a linear head on its mean hidden states, trained on the view ``labelled``.

    This is PPLM's discriminator (Dathathri et al. 2020). ``SteeringModule`` steers by its checkpoint:
    ``attributes: [{head: ...}]``.

    Args:
        classes: names of the labels; default: the task's names for them, or their numbers.
        lr: of the head.
        weight_decay: of the head.
        **kwargs: of `LanguageModule`.

    Raises:
        UserError: ``chat`` is asked for, though there are no turns.
    """

    view = eval_view = "labelled"
    frozen = True

    def __init__(self, classes: Sequence[str] = (), lr: float = 1e-3, weight_decay: float = 0.0, **kwargs: Any) -> None:
        super().__init__(lr=lr, weight_decay=weight_decay, **kwargs)
        if self.chat:
            raise UserError("a classifier reads whole texts as they stand; leave model.chat=true out")
        self.classes = tuple(classes)
        self.card: HeadCard | None = None
        self.metrics = MetricCollection({})
        self._states: dict[str, torch.Tensor] = {}

    # --- building ---------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Take the classes from the task, where they were not given."""
        super().setup(stage)
        if stage == "fit" and not self.classes:
            labels = {row.label for row in self.task.view("labelled", "train")}
            self.classes = self.task.label_names or tuple(map(str, range(max(labels, default=0) + 1)))

    def build_auxiliary(self) -> None:
        """Build the head, unless a checkpoint brought one."""
        if self.card is None and self.classes:
            name = self.source.model if isinstance(self.source.model, str) else "a model built from its sizes"
            self._set_head(head_card(self.lm, name, self.classes))

    def _set_head(self, card: HeadCard) -> None:
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

    # --- checkpoints ------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store for which model the head is."""
        super().on_save_checkpoint(checkpoint)
        if self.card:
            store_head(checkpoint, self.card)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the policy alone from a checkpoint of another module; from one of this module the head too."""
        card = stored_card(checkpoint)
        keep_policy(checkpoint["state_dict"], *["head."] if card else [])
        if card:
            # Before the policy: that calls `build_auxiliary`, which would draw the weights of another head.
            self.classes = card.classes
            self._set_head(card)
        super().on_load_checkpoint(checkpoint)
        self._states = {}  # of the weights before

    # --- training the head ------------------------------------------------------------------------------------------

    def validate_rows(self, rows: Sequence[Any]) -> Sequence[Any]:
        """The rows.

        Raises:
            UserError: a label is not one of the classes.
        """
        if len(rows) and isinstance(rows[0], Labelled):
            for number, row in enumerate(rows):
                if not 0 <= row.label < len(self.classes):
                    raise UserError(
                        f"row {number} of the view 'labelled' has label {row.label}; classes are 0 to "
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
        """Cross-entropy of the labels, in nats."""
        loss = functional.cross_entropy(*self._predict(batch))
        self.log("loss", loss, prog_bar=True, batch_size=len(batch))
        return loss

    def _predict(self, batch: Sequence[Labelled]) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (n, classes) and labels (n,)."""
        labels = torch.tensor([row.label for row in batch], device=self.device)
        # States come in float32, whatever the run's precision has made of the head.
        return self.head(self.states([row.text for row in batch]).to(self.head.weight.dtype)), labels

    # --- evaluation -------------------------------------------------------------------------------------------------

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Compare the classes of held-out texts with those that the head tells."""
        logits, labels = self._predict(batch)
        self.metrics.update(logits.softmax(-1), labels)
        self.nll.update(functional.cross_entropy(logits, labels), weight=len(batch))

    def on_validation_epoch_end(self, stage: str = "val") -> None:
        """Log accuracy, macro F1, calibration error and loss, over all processes."""
        self.log_dict({f"{stage}/{name}": value for name, value in self.metrics.compute().items()}, prog_bar=True)
        self.log(f"{stage}/loss", self.nll.compute())

    def on_test_epoch_end(self) -> None:
        """As in validation, under ``test/``."""
        self.on_validation_epoch_end("test")
