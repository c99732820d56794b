"""Training of a judge of similarity: a sentence encoder learns how alike two texts are."""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torchmetrics import MeanMetric

from lit_narrative.distributed import gather, gather_ragged
from lit_narrative.errors import UserError, check_choice, check_finite, check_least
from lit_narrative.lm.optim import Schedule, adamw
from lit_narrative.lm.sentence_encoder import StaticEncoder, build_encoder, load_encoder
from lit_narrative.modules.base import NarrativeModule, as_settings, plain, scheduled
from lit_narrative.rl.rewards.metrics import similarity_metrics
from lit_narrative.rl.rewards.model import PARTS, restore_encoder, store_encoder
from lit_narrative.rl.rewards.similarity import SIMILARITY, SimilarityModel, truncated_share
from lit_narrative.seeds import run_seed, stream_seed
from lit_narrative.views import Pair

logger = logging.getLogger(__name__)
Loss = Literal["cosine", "contrastive", "supervised_contrastive"]
MODEL = "model."
"""The prefix of the judge's weights in this module."""
SAMPLE = 256
"""Training pairs from which the share of truncated windows is taken."""


class PairBatch(NamedTuple):
    """Pairs to learn from.

    Attributes:
        texts: n texts.
        others: n texts, the other one of each pair.
        scores: (n,) float32, how alike they are, in 0..1.
        labels: (2n,) int64, numbers of what the texts are of, then of the others; -1 where that is not known.
    """

    texts: list[str]
    others: list[str]
    scores: Tensor
    labels: Tensor


def pair_losses(found: Tensor, scores: Tensor, loss: Loss = "cosine", margin: float = 0.5) -> Tensor:
    """(n,) losses of similarities (n,) in -1..1 against scores (n,) in 0..1.

    ``cosine``: (c - s)², the CosineSimilarityLoss of sentence-transformers. ``contrastive`` (Hadsell et al. 2006, on
    cosines): (1 - c)² of pairs above 0.5, max(0, c - margin)² of those below, and nothing of those at 0.5. The loss of
    a whole batch (`batch_loss`) has no such part; what is said of its pairs is ``cosine``.
    """
    if loss != "contrastive":
        return (found - scores).square()
    alike, apart = (scores > 0.5).to(found.dtype), (scores < 0.5).to(found.dtype)
    return alike * (1 - found).square() + apart * (found - margin).clamp(min=0).square()


def batch_loss(vectors: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Supervised contrastive loss of a batch, a scalar; 0 where no two texts have a label in common.

    Of every text, the mean over the others of its label of -log softmax(cosines / temperature), the softmax over all
    other texts with a label (Khosla et al. 2020, equation 2).

    Args:
        vectors: (m, d) of unit length.
        labels: (m,) int64; texts of -1 are left out.
        temperature: above 0.
    """
    vectors, labels = vectors[labels >= 0], labels[labels >= 0]
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    alike = (labels[:, None] == labels) & ~itself
    with torch.autocast(vectors.device.type, enabled=False):  # in bfloat16 texts that are almost alike would be equal
        logits = (vectors @ vectors.T / temperature).masked_fill(itself, torch.finfo(vectors.dtype).min)
    each = (logits.log_softmax(1).where(alike, 0)).sum(1) / alike.sum(1).clamp(min=1)
    return -each.sum() / alike.any(1).sum().clamp(min=1)


def calibration(found: Tensor, scores: Tensor) -> dict[str, float]:
    """Where similarities (n,) lie of pairs of the highest score and of the lowest; {} if all scores are the same.

    ``same_mean``, ``same_std``, ``same_q75``, ``cross_mean``, ``cross_std``, ``cross_q25``.
    """
    if len(scores.unique()) < 2:
        return {}
    same, cross = found[scores == scores.max()], found[scores == scores.min()]
    means = {"same_mean": same.mean(), "same_std": same.std(correction=0), "same_q75": same.quantile(0.75)}
    others = {"cross_mean": cross.mean(), "cross_std": cross.std(correction=0), "cross_q25": cross.quantile(0.25)}
    return {name: float(value) for name, value in (means | others).items()}


class SimilarityModule(NarrativeModule):
    """Fine-tunes a sentence encoder as a bi-encoder: the cosine of two texts' vectors becomes their score.

    Validation logs ``val/spearman``, ``val/auroc``, ``val/eer`` and ``val/loss``, and calibrates the judge.

    Args:
        encoder: a sentence-transformers model by hub name or folder, or the settings of the built-in one, which needs
            no download.
        loss: ``cosine``, the squared distance of cosine and score; ``contrastive``, which reads of the score only
            whether it is above 0.5; ``supervised_contrastive``, by which every text of a batch is compared with every
            other one by their labels, so that a batch of n pairs teaches as 2n² would.
        margin: of ``contrastive``: the cosine up to which unlike pairs cost nothing.
        temperature: of ``supervised_contrastive``: lower ones look at the most alike texts alone.
        window: words of the windows that a long text is read in; default: what fits within the encoder's limit.
        train_windows: of a text, read in a step, drawn anew each time.
        lr: peak learning rate of AdamW: some 2e-5 of a pretrained encoder, 1e-2 of the built-in one.
        weight_decay: on matrices, not on biases.
        warmup_steps: linear warm-up in optimizer steps.
        schedule: of the learning rate after the warm-up, by optimizer steps.
        trust_remote_code: run the Python code that an encoder brings along, for this run; it stays out of checkpoints.

    Raises:
        UserError: one of them is out of range.
    """

    view = eval_view = "pairs"

    def __init__(
        self,
        encoder: str | StaticEncoder = StaticEncoder(),  # noqa: B008 (the command line shows the default's fields)
        loss: Loss = "cosine",
        margin: float = 0.5,
        temperature: float = 0.1,
        window: int | None = None,
        train_windows: int = 4,
        lr: float = 1e-2,
        weight_decay: float = 0.01,
        warmup_steps: int = 0,
        schedule: Schedule = "constant",
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__()
        check_finite("model.", lr=lr, weight_decay=weight_decay, temperature=temperature)
        check_choice("model.loss", loss, get_args(Loss))
        if not -1 <= margin < 1:
            raise UserError(f"model.margin={margin} must be a cosine below 1")
        if temperature == 0:
            raise UserError("model.temperature=0 must be a number above 0")
        for name, number, least in (("window", window, 1), ("train_windows", train_windows, 1)):
            check_least(f"model.{name}", number, least)
        check_least("model.warmup_steps", warmup_steps, 0)
        self.save_hyperparameters(ignore=["trust_remote_code"])
        self.hparams.update(encoder=plain(encoder))
        self.source: str | StaticEncoder = as_settings(encoder, StaticEncoder)
        self.loss, self.margin, self.temperature = loss, margin, temperature
        self.window, self.train_windows = window, train_windows
        self.lr, self.weight_decay, self.warmup_steps, self.schedule = lr, weight_decay, warmup_steps, schedule
        self.trust_remote_code = trust_remote_code
        self.mean_loss = MeanMetric()
        self._found: list[Tensor] = []

    # --- building ---------------------------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether the judge is there."""
        return "model" in self._modules

    def setup(self, stage: str) -> None:
        """Build the judge, unless it is there or a checkpoint will bring it.

        One that learned nothing yet can be tested too: a pretrained encoder may judge as it stands.

        Raises:
            UserError: there is no such encoder, or there are no pairs.
        """
        if self.ready or self.trainer.ckpt_path:
            return
        if isinstance(self.source, str):
            self.set_model(load_encoder(self.source, self.trust_remote_code))
        else:
            rows = self.validate_rows(self.task.view(self.view, "train"))
            # Each text once, however many pairs it is in: the built-in encoder reads the first ones only.
            self.set_model(build_encoder(self.source, list(dict.fromkeys(_texts(rows)))))

    def set_model(self, encoder: Any) -> None:
        """Set the judge's encoder."""
        self.model = SimilarityModel(encoder, self.window)
        self.train(self.training)  # a new module is in training mode, whatever this one is in

    # --- checkpoints ------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the encoder beside the weights, with the judge's window and calibration."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["state_dict"] = {name.removeprefix(MODEL): row for name, row in checkpoint["state_dict"].items()}
        store_encoder(checkpoint, self.model.encoder, self.source, True, SIMILARITY)
        checkpoint[SIMILARITY] |= {"window": self.model.window, "calibration": self.model.calibration}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the encoder that the weights belong to."""
        self.set_model(restore_encoder(checkpoint, self.trust_remote_code, SIMILARITY))
        self.model.window, self.model.calibration = (checkpoint[SIMILARITY][name] for name in ("window", "calibration"))
        state = checkpoint["state_dict"]
        # In place: Lightning loads this very dict next, and `Trainer.fit(ckpt_path=...)` holds on to it.
        for name in [name for name in state if name.startswith(PARTS[0])]:
            state[MODEL + name] = state.pop(name)

    def save(self, folder: str | Path) -> Path:
        """Write the judge as a sentence-transformers folder: `SimilarityModel.save`."""
        return self.model.save(folder)

    # --- rows -------------------------------------------------------------------------------------------------------

    def validate_rows(self, rows: Sequence[Pair]) -> Sequence[Pair]:
        """The rows, when there are some.

        Raises:
            UserError: there are none.
        """
        if not len(rows):
            raise UserError("the view 'pairs' has no rows; check the sizes and paths under `data`")
        return rows

    def collate(self, rows: Sequence[Pair]) -> PairBatch:
        """A batch of rows, still as texts."""
        scores = torch.tensor([row.score for row in rows], dtype=torch.float32)
        known = [row.labels or (None, None) for row in rows]
        labels = [label for side in zip(*known, strict=True) for label in side]
        numbers: dict[str | None, int] = {None: -1}
        for label in labels:
            numbers.setdefault(label, len(numbers))
        numbered = torch.tensor([numbers[label] for label in labels])
        return PairBatch([row.text for row in rows], [row.other for row in rows], scores, numbered)

    def on_fit_start(self) -> None:
        """Warn, once a run, of windows that the encoder does not read to their end.

        Raises:
            UserError: all pairs have the same score, or the loss goes by labels and none has some.
        """
        rows: Sequence[Pair] = self.task.rows_for(self.view, "train")
        if self.loss == "supervised_contrastive" and not any(row.labels for row in rows):
            raise UserError("model.loss=supervised_contrastive goes by the labels of pairs, and none has some")
        if len({row.score for row in rows}) < 2:
            raise UserError(f"all {len(rows)} training pairs have the score {rows[0].score}: there is nothing to learn")
        share = truncated_share(self.model, list(dict.fromkeys(_texts(rows[:SAMPLE]))))
        if share > 0 and self.trainer.is_global_zero:
            logger.warning(
                "the encoder reads %s tokens, and %.0f %% of windows of %d words are longer: the rest of them is not "
                "read; lower model.window",
                self.model.encoder.max_seq_length,
                100 * share,
                self.model.window,
            )

    # --- training ---------------------------------------------------------------------------------------------------

    def training_step(self, batch: PairBatch, batch_idx: int) -> Tensor:
        """The mean loss of the pairs."""
        self.model.forget()  # the encoder changes with this step
        seed = stream_seed(run_seed(), self.current_epoch, batch_idx, self.global_rank)
        generator = torch.Generator().manual_seed(seed)
        vectors = self.model.vectors_to_learn(batch.texts + batch.others, self.train_windows, generator)
        if self.loss == "supervised_contrastive":
            loss = batch_loss(vectors, batch.labels.to(vectors.device), self.temperature)
        else:
            first, second = vectors.chunk(2)
            loss = self._losses((first * second).sum(1), batch.scores).mean()
        self.log("loss", loss.detach(), prog_bar=True, batch_size=len(batch.texts))
        return loss

    def _losses(self, found: Tensor, scores: Tensor) -> Tensor:
        return pair_losses(found, scores.to(found.device), self.loss, self.margin)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with decay on matrices only."""
        return scheduled(self, adamw(self.model, self.lr, self.weight_decay), self.schedule, self.warmup_steps)

    # --- evaluation -------------------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Begin anew."""
        super().on_validation_epoch_start()
        self._found = []

    def validation_step(self, batch: PairBatch, batch_idx: int) -> None:
        """Compare the similarities of held-out pairs with their scores."""
        found = self.model.similarity(batch.texts, batch.others)
        self.mean_loss.update(self._losses(found, batch.scores.cpu()).to(self.device))
        self._found.append(torch.stack([found, batch.scores.cpu()]))

    def test_step(self, batch: PairBatch, batch_idx: int) -> None:
        """As in validation."""
        self.validation_step(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        """Log the loss and the metrics, and keep where the two kinds of pairs lie."""
        found, scores = self._log("val")
        if not self.trainer.sanity_checking:
            self.model.calibration = calibration(found, scores)

    def on_test_epoch_end(self) -> None:
        """Log the loss and the metrics under ``test/``; the calibration stays that of validation."""
        self._log("test")

    def _log(self, stage: str) -> tuple[Tensor, Tensor]:
        """Log what a stage measured; similarities and scores (n,) of the pairs of all processes."""
        self.log(f"{stage}/loss", self.mean_loss.compute())
        everywhere = partial(gather, self)
        found, scores = (gather_ragged(everywhere, row) for row in torch.cat(self._found, 1))
        measured: Mapping[str, float] = similarity_metrics(found, scores)
        # Every process computed the same of the same gathered rows: there is nothing to reduce.
        named = {f"{stage}/{name}": torch.tensor(value) for name, value in measured.items()}
        self.log_dict(named, rank_zero_only=False)
        return found, scores


def _texts(rows: Sequence[Pair]) -> list[str]:
    return [text for row in rows for text in (row.text, row.other)]
