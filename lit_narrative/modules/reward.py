"""Training of a reward model: scores of texts, learned from ratings and preferences, on sentence embeddings."""

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.optim import Optimizer
from torchmetrics import MeanMetric

from lit_narrative.distributed import gather, gather_ragged
from lit_narrative.errors import UserError, check_finite
from lit_narrative.lm.optim import adamw
from lit_narrative.lm.sentence_encoder import RememberedVectors, StaticEncoder, build_encoder, load_encoder
from lit_narrative.modules.base import NarrativeModule, as_settings, plain
from lit_narrative.rl.rewards.head import RewardHead, check_head
from lit_narrative.rl.rewards.metrics import preference_metrics, rating_metrics
from lit_narrative.rl.rewards.model import PARTS, RewardModel, check_trained, restore_encoder, store_encoder
from lit_narrative.views import Scored

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

MODEL = "model."
"""The prefix of the reward model's weights in this module."""
RANGE_TEXTS = 1024
"""The most training texts from which the range of scores is taken."""


class ScoredBatch(NamedTuple):
    """Rows to learn from.

    Attributes:
        texts: n texts; of a preference the preferred one.
        others: p texts, the other one of each preference, in order.
        paired: (n,) bool, which rows are preferences.
        scores: (n,) ratings; not read where ``paired``.
    """

    texts: list[str]
    others: list[str]
    paired: Tensor
    scores: Tensor

    @classmethod
    def of(cls, rows: Sequence[Scored]) -> "ScoredBatch":
        """The batch of some rows, in order."""
        return cls(
            [row.text for row in rows],
            [row.other for row in rows if row.other is not None],
            torch.tensor([row.other is not None for row in rows]),
            torch.tensor([row.score for row in rows], dtype=torch.float32),
        )


class RewardModule(NarrativeModule):
    """Learns to score texts: a head (`RewardHead`) on the vectors of a sentence encoder.

    The rows say what is learned: a row with ``other`` is a preference (Bradley-Terry), any other a rating
    (squared error); a set may hold both.

    Args:
        encoder: a sentence-transformers model by hub name or folder, or the settings of the built-in one, which needs
            no download.
        finetune_encoder: train the encoder along with the head; otherwise it is frozen.
        hidden: widths of the head's hidden layers.
        dropout: rate after each of them.
        lr: of the head, by AdamW.
        encoder_lr: of the encoder, where it is trained.
        weight_decay: on matrices, not on biases.
        cache: folder where the vectors of a named frozen encoder are kept from run to run; None: in memory only.
            Those of the built-in one are computed faster than read.
        trust_remote_code: run the Python code that an encoder brings along, for this run; it stays out of checkpoints.
    """

    view = eval_view = "scored"

    def __init__(
        self,
        encoder: str | StaticEncoder = StaticEncoder(),  # noqa: B008 (the command line shows the default's fields)
        finetune_encoder: bool = False,
        hidden: Sequence[int] = (256, 128, 64),
        dropout: float = 0.2,
        lr: float = 1e-3,
        encoder_lr: float = 2e-5,
        weight_decay: float = 0.01,
        cache: str | None = "~/.cache/lit-narrative/embeddings",
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__()
        check_finite("model.", lr=lr, encoder_lr=encoder_lr, weight_decay=weight_decay)
        check_head(hidden, dropout)
        self.save_hyperparameters(ignore=["trust_remote_code"])
        self.hparams.update(encoder=plain(encoder), hidden=list(hidden))
        self.source: str | StaticEncoder = as_settings(encoder, StaticEncoder)
        self.finetune_encoder, self.hidden, self.dropout = finetune_encoder, hidden, dropout
        self.lr, self.encoder_lr, self.weight_decay = lr, encoder_lr, weight_decay
        self.cache, self.trust_remote_code = cache, trust_remote_code
        self.mean_loss, self.ratings, self.preferences = MeanMetric(), rating_metrics(), preference_metrics()
        self._sample: list[str] = []
        self._rated: list[Tensor] = []
        self._chances: list[Tensor] = []

    # --- building ---------------------------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether the encoder and the head are there."""
        return "model" in self._modules

    @property
    def trained(self) -> bool:
        """Whether there was a step of training."""
        return self.ready and self.model.trained

    @property
    def encoder(self) -> "SentenceTransformer":
        """The sentence encoder."""
        return self.model.encoder

    @property
    def head(self) -> RewardHead:
        """The head on the encoder's vectors."""
        return self.model.head

    def setup(self, stage: str) -> None:
        """Build encoder and head to learn, unless they are there or a checkpoint will bring them.

        Raises:
            UserError: there is no such encoder, or there are no rows to learn from.
        """
        if stage == "fit" and not self.ready and not self.trainer.ckpt_path:
            source, rows = self.source, self.task.view(self.view, "train")
            check_rows(rows)
            if isinstance(source, str):
                self.set_model(load_encoder(source, self.trust_remote_code))
            else:
                self.set_model(build_encoder(source, all_texts(rows)))

    def set_model(self, encoder: "SentenceTransformer") -> None:
        """Set an encoder, with a new head for it."""
        self.model = RewardModel(encoder, self.hidden, self.dropout, self.finetune_encoder)
        self.train(self.training)  # a new module is in training mode, whatever this one is in

    def teardown(self, stage: str) -> None:
        """Forget the vectors of the task's texts."""
        if self.ready:
            self.model.remembered = None

    # --- checkpoints ------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the encoder beside the weights, and the range of training scores as they are now."""
        super().on_save_checkpoint(checkpoint)
        if self._sample and self.trained:
            self.head.score_range.copy_(torch.stack(torch.tensor(self.score(self._sample)).aminmax()))
            checkpoint["state_dict"][f"{MODEL}head.score_range"] = self.head.score_range.clone()
        # The names in the file are those of `RewardModel`, which reads it without this module.
        checkpoint["state_dict"] = {name.removeprefix(MODEL): row for name, row in checkpoint["state_dict"].items()}
        store_encoder(checkpoint, self.encoder, self.source, self.finetune_encoder)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the encoder that the weights belong to."""
        self.set_model(restore_encoder(checkpoint, self.trust_remote_code))
        state = checkpoint["state_dict"]
        # In place: Lightning loads this very dict next, and `Trainer.fit(ckpt_path=...)` holds on to it.
        for name in [name for name in state if name.startswith(PARTS)]:
            state[MODEL + name] = state.pop(name)

    def save(self, folder: str | Path) -> Path:
        """Write the encoder as a sentence-transformers folder with the head beside it: `RewardModel.save`."""
        check_trained(self.model if self.ready else None)
        return self.model.save(folder)

    # --- rows -------------------------------------------------------------------------------------------------------

    def validate_rows(self, rows: Sequence[Scored]) -> Sequence[Scored]:
        """The rows, when every rating is a number; a frozen encoder reads their texts now, once for the run.

        Raises:
            UserError: a rating is not a number, there are no rows, or nothing was learned yet and this is no training.
        """
        if self.trainer.state.fn != TrainerFn.FITTING:
            check_trained(self.model if self.ready else None)
        check_rows(rows)
        if not self.finetune_encoder:
            if self.model.remembered is None:
                folder = self.cache if isinstance(self.source, str) else None
                self.model.remembered = RememberedVectors(self.encoder, folder)
            self.model.remembered(all_texts(rows))
        return rows

    def collate(self, rows: Sequence[Scored]) -> ScoredBatch:
        """A batch of rows, still as texts."""
        return ScoredBatch.of(rows)

    def on_fit_start(self) -> None:
        """Take the units of vectors and scores from the training set, and remember some of its texts.

        Raises:
            UserError: there is no preference, and all ratings are the same.
        """
        rows: Sequence[Scored] = self.task.rows_for(self.view, "train")
        texts = all_texts(rows)
        scores = torch.tensor([row.score for row in rows if row.other is None], dtype=torch.float32)
        if len(scores) == len(rows) and len(scores.unique()) < 2:
            raise UserError(f"all {len(rows)} training rows are rated {rows[0].score}: there is nothing to learn")
        self._sample = texts[:RANGE_TEXTS]
        if not self.trained:
            with torch.no_grad():
                self.head.fit_units(self.model.vectors(texts), scores)

    # --- scoring ----------------------------------------------------------------------------------------------------

    def score(self, texts: Sequence[str]) -> list[float]:
        """Scores of texts, in the units of the training scores.

        Raises:
            UserError: nothing was learned yet.
        """
        return self.score_and_distance(texts)[0]

    def score_and_distance(self, texts: Sequence[str]) -> tuple[list[float], list[float]]:
        """Scores of texts, and how far each is from the training set: `RewardModel.score_and_distance`."""
        check_trained(self.model if self.ready else None)
        return self.model.score_and_distance(texts)

    # --- training ---------------------------------------------------------------------------------------------------

    def training_step(self, batch: ScoredBatch, batch_idx: int) -> Tensor:
        """The mean loss of the rows."""
        logits, others = self._logits(batch)
        loss = self.head.losses(logits, others, batch.paired, batch.scores).mean()
        self.head.steps.add_(1)
        self.log("loss", loss.detach(), prog_bar=True, batch_size=len(batch.texts))
        return loss

    def _logits(self, batch: ScoredBatch) -> tuple[Tensor, Tensor]:
        """Logits (n,) of the texts and (p,) of the others."""
        logits = self.model(batch.texts + batch.others)
        return logits[: len(batch.texts)], logits[len(batch.texts) :]

    def configure_optimizers(self) -> Optimizer:
        """AdamW with decay on matrices only, and another rate for an encoder that is trained."""
        optimizer = adamw(self.head, self.lr, self.weight_decay)
        if self.finetune_encoder:
            for group in adamw(self.encoder, self.encoder_lr, self.weight_decay).param_groups:
                optimizer.add_param_group(group)
        return optimizer

    # --- evaluation -------------------------------------------------------------------------------------------------

    def validation_step(self, batch: ScoredBatch, batch_idx: int) -> None:
        """Compare held-out ratings and preferences with what is predicted."""
        logits, others = self._logits(batch)
        self.mean_loss.update(self.head.losses(logits, others, batch.paired, batch.scores))
        rated = ~batch.paired
        self._rated.append(torch.stack([self.head.scores(logits[rated]), batch.scores[rated]]))
        self._chances.append((logits[batch.paired] - others).sigmoid())

    def test_step(self, batch: ScoredBatch, batch_idx: int) -> None:
        """As in validation."""
        self.validation_step(batch, batch_idx)

    def on_validation_epoch_end(self, stage: str = "val") -> None:
        """Log the loss; of ratings errors and correlations, of preferences accuracy and calibration."""
        self.log(f"{stage}/loss", self.mean_loss.compute())
        # Gathered here and not by the metrics: a process may have had no row of a kind.
        everywhere = partial(gather, self)
        predicted, rated = (gather_ragged(everywhere, row).to(self.device) for row in torch.cat(self._rated, 1))
        chances = gather_ragged(everywhere, torch.cat(self._chances)).to(self.device)
        if len(rated):
            self.log_dict(_named(stage, self.ratings(predicted, rated)))
        if len(chances):
            yes = torch.ones_like(chances, dtype=torch.long)
            # Each pair is shown both ways round: else there would be one answer only, and no curve.
            self.log_dict(_named(stage, self.preferences(torch.cat([chances, 1 - chances]), torch.cat([yes, 1 - yes]))))
        self._rated, self._chances = [], []

    def on_test_epoch_end(self) -> None:
        """As in validation, under ``test/``."""
        self.on_validation_epoch_end("test")


def _named(stage: str, metrics: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{stage}/{name}": value for name, value in metrics.items()}


def check_rows(rows: Sequence[Scored]) -> None:
    """Check that there is something to learn from, or to measure by.

    Raises:
        UserError: there are no rows, or a rating is not a number.
    """
    if not len(rows):
        raise UserError("the view 'scored' has no rows; check the sizes and paths under `data`")
    for number, row in enumerate(rows):
        if row.other is None and not math.isfinite(row.score):
            raise UserError(f"row {number} of the view 'scored' is rated {row.score}: a rating must be a number")


def all_texts(rows: Iterable[Scored]) -> list[str]:
    """All texts of rows, the other ones of preferences too."""
    return [text for row in rows for text in (row.text, row.other) if text is not None]
