"""Training of a reconstructor: from a text to the vector that it describes, on a truncated language model."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer
from torchmetrics import MeanMetric

from lit_narrative.errors import UserError, check_finite, check_least
from lit_narrative.lm.checkpoint import load_checkpoint, naming_checkpoint
from lit_narrative.lm.load import Attention, Dtype, Lora
from lit_narrative.lm.optim import GradientGuard, Schedule, adamw
from lit_narrative.lm.policy import PolicySource
from lit_narrative.lm.shard import shard
from lit_narrative.lm.vectors.fve import FVE
from lit_narrative.lm.vectors.reconstructor import RECONSTRUCTOR, Reconstructor, ReconstructorSettings
from lit_narrative.modules.base import NarrativeModule, as_settings, guard_gradients, plain, scheduled
from lit_narrative.seeds import run_seed
from lit_narrative.views import Described


class DescribedBatch(NamedTuple):
    """Texts as they are read, with the vectors that they describe.

    Attributes:
        ids: (n, T) int64, padded on the right.
        mask: (n, T), 1 where there is a token.
        vectors: (n, a) float32.
    """

    ids: Tensor
    mask: Tensor
    vectors: Tensor


class ReconstructorModule(NarrativeModule):
    """Learns to give the vector that a text describes: the first blocks of a language model, and a head.

    Validation logs ``val/fve``, the fraction of variance explained, its median over rows, and beside them the floor,
    what the best constant answer scores.

    Args:
        model: a hub name, a folder with transformers weights or with PEFT's adapters, or a ``.ckpt`` of this package;
            as a rule the model whose activations the vectors are.
        tokenizer: a hub name or a folder; default: the model's.
        lora: train low-rank adapters and the head in place of all weights.
        critic: what the reconstructor is made of, and what it learns.
        dtype: of the model's weights; the head is in float32.
        attention: the attention implementation of transformers.
        gradient_checkpointing: recompute activations in the backward pass.
        lr: peak learning rate of AdamW.
        weight_decay: on matrices, not on biases and norms.
        warmup_steps: linear warm-up in optimizer steps.
        schedule: of the learning rate after the warm-up, by optimizer steps.
        max_skipped_steps: stop after so many optimizer steps in a row whose gradients were not finite; fewer are
            skipped and counted.
        trust_remote_code: run the Python code that model folders and hub repositories bring along, for this run; it
            stays out of checkpoints.

    Attributes:
        critic: the reconstructor; there once it is built.
    """

    view = eval_view = "described"
    critic: Reconstructor

    def __init__(
        self,
        model: str,
        tokenizer: str | None = None,
        lora: Lora | None = None,
        critic: ReconstructorSettings = ReconstructorSettings(),  # noqa: B008 (the command line shows its fields)
        dtype: Dtype = "float32",
        attention: Attention = "sdpa",
        gradient_checkpointing: bool = False,
        lr: float = 3e-4,
        weight_decay: float = 0.01,
        warmup_steps: int = 0,
        schedule: Schedule = "constant",
        max_skipped_steps: int = 10,
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__()
        check_finite("model.", lr=lr, weight_decay=weight_decay)
        check_least("model.warmup_steps", warmup_steps, 0)
        self.save_hyperparameters(ignore=["trust_remote_code"])
        self.hparams.update({name: plain(value) for name, value in self.hparams.items()})
        self.settings: ReconstructorSettings = as_settings(critic, ReconstructorSettings)
        self.lora: Lora | None = as_settings(lora, Lora)
        if self.lora and self.lora.quantization:
            raise UserError("model.lora.quantization is not for a reconstructor, whose base is cut short; leave it out")
        self.source = PolicySource(model, tokenizer, None, dtype, attention, gradient_checkpointing, trust_remote_code)
        self.lr, self.weight_decay, self.warmup_steps, self.schedule = lr, weight_decay, warmup_steps, schedule
        self.guard = GradientGuard(max_skipped_steps)
        self.mean_loss = MeanMetric()

    # --- building ---------------------------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether the reconstructor is there."""
        return "critic" in self._modules

    def configure_model(self) -> None:
        """Build the reconstructor, unless it is there; shard it where the strategy is for that (``fsdp2``).

        Raises:
            UserError: the task reads texts in another template than the reconstructor does.
        """
        if self.attached is None:
            return
        if not self.ready and self.trainer.ckpt_path:
            path = self.trainer.ckpt_path
            with naming_checkpoint(path):
                self._restore(load_checkpoint(path))
        elif not self.ready:
            given, task = self.settings, self.task
            settings = replace(
                given,
                layer=given.layer or task.critic_layer,
                template=given.template or task.critic_template,
            )
            # One head on every process, and whatever the run has drawn before.
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(run_seed())
                lm, tokenizer = self.source.build()
                self.set_critic(Reconstructor(lm, tokenizer, settings, self.lora))
        self._check_template()
        if self.device_mesh is not None:
            dtype = torch.bfloat16 if self.trainer.precision == "bf16-mixed" else None
            shard(self.critic.backbone, self.device_mesh["data_parallel"], dtype)
            shard(self.critic.readout, self.device_mesh["data_parallel"])

    def set_critic(self, critic: Reconstructor) -> None:
        """Take a reconstructor."""
        self.critic = critic.train(self.training)
        self.fve = FVE(critic.width, critic.scale).to(self.device)

    # --- checkpoints ------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put what the weights belong to beside them."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[RECONSTRUCTOR] = self.critic.content()
        checkpoint["gradients"] = self.guard.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the reconstructor that the weights belong to; one that is the same is not built again."""
        if not self.ready or self.critic.content()["settings"] != _content(checkpoint)["settings"]:
            self._restore(checkpoint)
        self._check_template()
        self.guard.load_state_dict(checkpoint["gradients"])

    def _restore(self, checkpoint: Mapping[str, Any]) -> None:
        """The reconstructor of a checkpoint, whose weights Lightning loads."""
        self.set_critic(Reconstructor.rebuild(_content(checkpoint), self.source.trust_remote_code))

    def _check_template(self) -> None:
        if self.attached is not None and self.trainer.datamodule is not None:  # type: ignore[attr-defined]
            check_template(self.critic.settings, self.task.critic_template)

    # --- rows -------------------------------------------------------------------------------------------------------

    def validate_rows(self, rows: Sequence[Described]) -> Sequence[Described]:
        """The rows.

        Raises:
            UserError: there are none, a text is empty, a vector is not finite or of another width, or all are the same.
        """
        check_described(rows, self.critic.width)
        return rows

    def on_fit_start(self) -> None:
        """Read all rows once, so that one that cannot be used fails now and not in the middle of the run."""
        self.task.rows_for(self.view, "train")
        if self.trainer.enable_validation:
            self.task.eval_rows("val")

    def collate(self, rows: Sequence[Described]) -> DescribedBatch:
        """A right-padded batch of token ids, and the vectors."""
        ids, mask = self.critic.batch(self.critic.encode([row.text for row in rows]))
        # A copy: vectors may lie in a table on disk, which is read-only.
        return DescribedBatch(ids, mask, torch.stack([torch.tensor(row.vector, dtype=torch.float32) for row in rows]))

    def row_lengths(self, rows: Sequence[Described]) -> Sequence[int]:
        """Tokens of each row."""
        return [len(row) for row in self.critic.encode([row.text for row in rows])]

    # --- learning ---------------------------------------------------------------------------------------------------

    def training_step(self, batch: DescribedBatch, batch_idx: int) -> Tensor:
        """The mean loss of the rows."""
        loss = self.critic.losses(self.critic(batch.ids, batch.mask), batch.vectors).mean()
        self.log("loss", loss.detach(), prog_bar=True, batch_size=len(batch.ids))
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with decay on matrices only, and a schedule by optimizer steps."""
        return scheduled(self, adamw(self, self.lr, self.weight_decay), self.schedule, self.warmup_steps)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as the Trainer asks, skip a step whose gradients are not finite, and log under TRL's names."""
        guard_gradients(self, self.guard, optimizer, gradient_clip_val, gradient_clip_algorithm)

    # --- evaluation -------------------------------------------------------------------------------------------------

    def validation_step(self, batch: DescribedBatch, batch_idx: int) -> None:
        """Compare vectors with their reconstructions."""
        predicted = self.critic(batch.ids, batch.mask)
        self.mean_loss.update(self.critic.losses(predicted, batch.vectors))
        self.fve.update(predicted, batch.vectors)

    def test_step(self, batch: DescribedBatch, batch_idx: int) -> None:
        """As in validation."""
        self.validation_step(batch, batch_idx)

    def on_validation_epoch_end(self, stage: str = "val") -> None:
        """Log the loss and the fraction of variance explained, over all processes."""
        self.log(f"{stage}/loss", self.mean_loss.compute())
        found = {f"{stage}/{name}": value.float() for name, value in self.fve.compute().items()}
        self.log(f"{stage}/fve", found.pop(f"{stage}/fve"), prog_bar=True)
        self.log_dict(found)

    def on_test_epoch_end(self) -> None:
        """As in validation, under ``test/``."""
        self.on_validation_epoch_end("test")


def _content(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    if RECONSTRUCTOR not in checkpoint:
        raise UserError("this checkpoint holds no reconstructor; give one that ReconstructorModule wrote")
    content: dict[str, Any] = checkpoint[RECONSTRUCTOR]
    return content


def check_template(settings: ReconstructorSettings, task_template: str | None) -> None:
    """Refuse a task whose texts were made for another template: the same text would be read in two ways.

    Raises:
        UserError: showing both.
    """
    if task_template is not None and settings.template != task_template:
        raise UserError(
            f"the reconstructor reads texts as {settings.template!r}, and the task has the template {task_template!r}; "
            "leave model.critic.template out, or train the reconstructor anew on this data"
        )


def check_described(rows: Sequence[Described], width: int) -> None:
    """Check that there is something to learn from, or to measure by.

    Raises:
        UserError: there are no rows, a text is empty, a vector is not finite or not ``width`` wide, or all vectors are
            the same.
    """
    if not len(rows):
        raise UserError("the view 'described' has no rows; check the sizes and paths under `data`")
    first, alike = torch.tensor(rows[0].vector), True
    for number, row in enumerate(rows):
        vector = torch.tensor(row.vector)
        if vector.shape != (width,):
            raise UserError(
                f"row {number} of the view 'described' has a vector of shape {tuple(vector.shape)}, and the "
                f"reconstructor gives vectors {width} wide; set model.critic.width, with head linear or mlp"
            )
        if not vector.isfinite().all():
            raise UserError(f"row {number} of the view 'described' has NaN or infinity in its vector; leave it out")
        if not row.text.strip():
            raise UserError(f"row {number} of the view 'described' has an empty text; leave it out")
        alike = alike and torch.equal(vector, first)
    if alike:
        raise UserError(f"all {len(rows)} vectors of the view 'described' are the same: there is nothing to learn")
