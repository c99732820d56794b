"""What owns a causal language model: SFT, GRPO and steering extend it."""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric
from transformers import PreTrainedTokenizerBase

from lit_narrative.errors import UserError
from lit_narrative.lm.checkpoint import LANGUAGE_MODEL, check_adapters, load_checkpoint, store_language_model
from lit_narrative.lm.examples import LongExamples, example_batch
from lit_narrative.lm.load import Attention, Dtype, Lora, ScratchModel, max_positions
from lit_narrative.lm.logprobs import CompletionBatch, score_completions
from lit_narrative.lm.optimizer import Schedule, adamw, schedule_by_step
from lit_narrative.lm.policy import PolicySource
from lit_narrative.lm.sampler import LoopSampler, Request, Sampler, SamplingParams
from lit_narrative.lm.tokens import (
    TrainedTokenizer,
    encode_prompt,
)
from lit_narrative.rl.rollout import Rollout
from lit_narrative.seeds import run_seed, stream_seed
from lit_narrative.views import Example, Prompt


class NarrativeModule(LightningModule):
    """An algorithm: it names the view it learns from and turns rows of a view into batches.

    Attributes:
        view: the view that training reads.
        eval_view: the view that validation and test read, where the task offers it; else ``view``.
        windowed: the module wraps the training loader, reads whole batches only and keeps count of them itself.
    """

    view: str
    eval_view: str
    windowed = False

    def collate(self, rows: Sequence[Any]) -> Any:
        """A batch of the rows of a view."""
        raise NotImplementedError

    def wrap_train_loader(self, loader: DataLoader[Any]) -> Iterable[Any]:
        """What the Trainer iterates over, given the task's loader; an algorithm may put its own around it."""
        return loader


class LanguageModule(NarrativeModule):
    """A policy language model with its tokenizer, its sampling and its self-contained checkpoints.

    Args:
        model: a hub name, a folder with transformers weights, a ``.ckpt`` of this package, or the sizes of a new model.
        tokenizer: a hub name, a folder, or the settings of one to train on the task's corpus; default: the model's own,
            or a trained one with a new model.
        lora: train low-rank adapters in place of the weights.
        sampling: how completions are sampled, and scored.
        chat: wrap prompts as a user's turn by the tokenizer's chat template.
        dtype: of the weights; mixed precision is the Trainer's business.
        attention: the attention implementation of transformers.
        gradient_checkpointing: recompute activations in the backward pass.
        lr: peak learning rate of AdamW.
        weight_decay: on matrices, not on biases and norms.
        warmup_steps: linear warm-up in optimizer steps.
        schedule: of the learning rate after the warm-up, by optimizer steps.
        long_examples: what to do with an example longer than the model's positions.
    """

    eval_view = "examples"
    lm: nn.Module
    tokenizer: PreTrainedTokenizerBase

    def __init__(
        self,
        model: str | ScratchModel = ScratchModel(),  # noqa: B008 (the command line shows the default's fields)
        tokenizer: str | TrainedTokenizer | None = None,
        lora: Lora | None = None,
        sampling: SamplingParams = SamplingParams(),  # noqa: B008
        chat: bool = False,
        dtype: Dtype = "float32",
        attention: Attention = "sdpa",
        gradient_checkpointing: bool = False,
        lr: float = 1e-3,
        weight_decay: float = 0.01,
        warmup_steps: int = 0,
        schedule: Schedule = "constant",
        long_examples: LongExamples = "error",
    ) -> None:
        super().__init__()
        if lr < 0 or warmup_steps < 0:
            raise UserError(f"model.lr={lr} must be at least 0, and model.warmup_steps={warmup_steps} at least 0")
        self.save_hyperparameters()
        self.hparams.update({name: plain(value) for name, value in self.hparams.items()})
        self.lora = _as_settings(lora, Lora)
        self.sampling = _as_settings(sampling, SamplingParams)
        self.source = PolicySource(
            _as_settings(model, ScratchModel),
            _as_settings(tokenizer, TrainedTokenizer),
            self.lora,
            dtype,
            attention,
            gradient_checkpointing,
        )
        self.chat, self.gradient_checkpointing = chat, gradient_checkpointing
        self.lr, self.weight_decay, self.warmup_steps, self.schedule = lr, weight_decay, warmup_steps, schedule
        self.long_examples = long_examples
        self.sampler: Sampler = LoopSampler()
        self.nll = MeanMetric()
        # An adapter's checkpoint leaves the base out; everything else is checked name by name.
        self.strict_loading = self.lora is None

    # --- building ---------------------------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether the model has been built."""
        return "lm" in self._modules

    def prepare_data(self) -> None:
        """Train the tokenizer on the task's corpus, once and on one process."""
        if not self.ready and not self.trainer.ckpt_path and self.source.trains_tokenizer:
            self.source.prepare(self.trainer.datamodule.tokenizer_texts(), self._tokenizer_folder)  # type: ignore[attr-defined]

    @property
    def _tokenizer_folder(self) -> Path:
        return Path(self.trainer.default_root_dir, "tokenizer")

    def configure_model(self) -> None:
        """Build the model; does nothing if it is built, or if a checkpoint outside a Trainer will bring it."""
        if self.ready or self._trainer is None:
            return
        if self.trainer.ckpt_path:
            # Resumed or tested from the command line: the checkpoint says what to build; Lightning loads it later.
            self.on_load_checkpoint(load_checkpoint(self.trainer.ckpt_path))
        else:
            self.adopt(*self.source.build(self._tokenizer_folder))

    def adopt(self, lm: nn.Module, tokenizer: PreTrainedTokenizerBase) -> None:
        """Take a model and its tokenizer as the policy."""
        self.lm, self.tokenizer = lm, tokenizer
        self.train()  # a model that was loaded comes in evaluation mode

    # --- checkpoints ------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put config and tokenizer beside the weights; with adapters leave the base's weights out."""
        store_language_model(checkpoint, self.lm, self.tokenizer, base=self.source.model if self.lora else None)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the model and the tokenizer that the weights belong to, whatever was built before."""
        if LANGUAGE_MODEL not in checkpoint:
            raise UserError("this checkpoint holds no language model; was it written by another module or package?")
        self.adopt(*self.source.restore(checkpoint))
        if self.lora:
            check_adapters(self.lm, checkpoint["state_dict"])

    # --- before the first step --------------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        """Read all texts once, so that one that is too long fails now and not in the middle of the run."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        rows = data.view(self.view, "train")
        if self.view == "prompts":
            self.encode_prompts([row.text for row in rows])
        elif self.view == "examples" and self.long_examples == "error":
            for row in rows:
                self.collate([row])

    # --- optimisation -----------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with decay on matrices only, and a schedule by optimizer steps."""
        optimizer = adamw(self.lm, self.lr, self.weight_decay)
        if self.schedule == "constant" and not self.warmup_steps:
            return optimizer
        total = None if self.schedule == "constant" else int(self.trainer.estimated_stepping_batches)
        scheduler = schedule_by_step(optimizer, self.schedule, self.warmup_steps, total)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    # --- held-out likelihood ----------------------------------------------------------------------------------------

    def collate(self, rows: Sequence[Any]) -> Any:
        """Examples become one tokenised, right-padded batch; prompts stay as they are."""
        if not isinstance(rows[0], Example):
            return list(rows)
        return example_batch(
            rows,
            self.tokenizer,
            limit=max_positions(self.lm),
            long_examples=self.long_examples,
            chat=self.chat,
        )

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Gather the likelihood of held-out completions; prompts alone have none."""
        if isinstance(batch, CompletionBatch):
            logprobs = score_completions(self.lm, batch).logprobs
            self.nll.update(-logprobs.mean(), weight=len(logprobs))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """As in validation."""
        self.validation_step(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        """Log loss and perplexity per token, over all processes."""
        self._log_likelihood("val")

    def on_test_epoch_end(self) -> None:
        """Log loss and perplexity per token, over all processes."""
        self._log_likelihood("test")

    def _log_likelihood(self, stage: str) -> None:
        if self.nll.update_called:
            nll = self.nll.compute()
            self.log_dict({f"{stage}/loss": nll, f"{stage}/perplexity": nll.exp()}, prog_bar=True)
        self.nll.reset()

    def predict_step(self, batch: list[Prompt], batch_idx: int) -> list[Rollout]:
        """Complete every prompt of the batch."""
        return self.generate(batch, seed=run_seed())

    # --- text -------------------------------------------------------------------------------------------------------

    def encode_prompts(self, prompts: Sequence[str]) -> list[list[int]]:
        """Token ids of prompts.

        Raises:
            UserError: if a prompt is empty or leaves no room for a completion.
        """
        rows = [encode_prompt(self.tokenizer, prompt, self.chat) for prompt in prompts]
        for prompt, row in zip(prompts, rows, strict=True):
            self._check_length(prompt, len(row))
        return rows

    def _check_length(self, prompt: str, length: int) -> None:
        limit, room = max_positions(self.lm), self.sampling.max_new_tokens
        if length == 0:
            raise UserError("a prompt has no tokens; every prompt needs at least one")
        if limit is not None and length + room > limit:
            raise UserError(
                f"a prompt of {length} tokens plus model.sampling.max_new_tokens={room} exceeds the model's {limit} "
                f"positions; shorten the prompt ('{prompt[:60]}…') or lower max_new_tokens"
            )

    def generate(
        self, prompts: Sequence[Prompt], samples: int = 1, seed: int = 0, params: SamplingParams | None = None
    ) -> list[Rollout]:
        """Sample ``samples`` completions of every prompt, in order, in evaluation mode.

        The random stream of a completion depends on ``seed``, its sample number and the prompt's ``index`` column
        (its place in ``prompts`` without one), so that it is the same on any number of processes.
        """
        ids = self.encode_prompts([prompt.text for prompt in prompts])
        requests = [
            Request(
                prompt, row, [stream_seed(seed, int(prompt.columns.get("index", place)), n) for n in range(samples)]
            )
            for place, (prompt, row) in enumerate(zip(prompts, ids, strict=True))
        ]
        self.lm.eval()
        try:
            with self.precision():
                return self.sampler.sample(self.lm, self.tokenizer, requests, params or self.sampling)
        finally:
            self.train(self.training)

    def precision(self) -> AbstractContextManager[None]:
        """The Trainer's precision, for model calls outside of its steps."""
        return self.trainer.precision_plugin.forward_context() if self._trainer else nullcontext()


def _as_settings(value: Any, kind: type) -> Any:
    """Settings as their dataclass; a checkpoint hands them over as a plain dict."""
    return kind(**value) if isinstance(value, dict) else value


def plain(value: Any) -> Any:
    """Settings as plain values, safe for a checkpoint that is read with ``weights_only``."""
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in fields(value)}
    return value
