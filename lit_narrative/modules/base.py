"""What owns a causal language model: SFT, GRPO and steering extend it."""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric
from transformers import PreTrainedTokenizerBase, get_scheduler

from lit_narrative.errors import UserError
from lit_narrative.files import whole_folder
from lit_narrative.lm.checkpoint import (
    LANGUAGE_MODEL,
    load_checkpoint,
    read_language_model,
    restore_language_model,
    store_language_model,
)
from lit_narrative.lm.load import (
    Attention,
    Dtype,
    Lora,
    ScratchModel,
    add_lora,
    build_lm,
    check_vocabulary,
    load_lm,
    max_positions,
    scratch_config,
)
from lit_narrative.lm.logprobs import CompletionBatch, check_output_layer, completion_batch, score_completions
from lit_narrative.lm.sampler import LoopSampler, Request, Sampler, SamplingParams
from lit_narrative.lm.tokens import (
    TrainedTokenizer,
    encode_completion,
    encode_prompt,
    load_tokenizer,
    train_tokenizer,
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
        schedule: Literal["constant", "linear", "cosine"] = "constant",
        long_examples: Literal["error", "truncate"] = "error",
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.hparams.update({name: plain(value) for name, value in self.hparams.items()})
        self.model_settings = _as_settings(model, ScratchModel)
        self.tokenizer_settings = _as_settings(tokenizer, TrainedTokenizer)
        self.lora = _as_settings(lora, Lora)
        self.sampling = _as_settings(sampling, SamplingParams)
        self.chat, self.dtype_name, self.attention = chat, dtype, attention
        self.gradient_checkpointing = gradient_checkpointing
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
        if not self.ready and not self.trainer.ckpt_path and self._trains_tokenizer():
            texts = self.trainer.datamodule.tokenizer_texts()  # type: ignore[attr-defined]
            with whole_folder(self._tokenizer_folder()) as folder:
                train_tokenizer(texts, self._tokenizer_spec()).save_pretrained(folder)

    def configure_model(self) -> None:
        """Build the model; does nothing if it is built, or if a checkpoint outside a Trainer will bring it."""
        if self.ready or self._trainer is None:
            return
        if self.trainer.ckpt_path:
            # Resumed or tested: Lightning loads the weights later, into the model that the checkpoint describes.
            self.on_load_checkpoint(load_checkpoint(self.trainer.ckpt_path))
        elif self._from_checkpoint:
            source = str(self.model_settings)
            self._adopt(*read_language_model(source, dtype=self.dtype_name, attention=self.attention))
        else:
            self._build()

    @property
    def _from_checkpoint(self) -> bool:
        return isinstance(self.model_settings, str) and self.model_settings.endswith(".ckpt")

    def _trains_tokenizer(self) -> bool:
        return isinstance(self.tokenizer_settings, TrainedTokenizer) or (
            self.tokenizer_settings is None and isinstance(self.model_settings, ScratchModel)
        )

    def _tokenizer_spec(self) -> TrainedTokenizer:
        return self.tokenizer_settings if isinstance(self.tokenizer_settings, TrainedTokenizer) else TrainedTokenizer()

    def _tokenizer_folder(self) -> Path:
        return Path(self.trainer.default_root_dir, "tokenizer")

    def _build(self) -> None:
        if self._trains_tokenizer():
            tokenizer = load_tokenizer(str(self._tokenizer_folder()))
        else:
            tokenizer = load_tokenizer(str(self.tokenizer_settings or self.model_settings))
        if isinstance(self.model_settings, ScratchModel):
            config = scratch_config(self.model_settings, len(tokenizer), tokenizer.eos_token_id)
            lm = build_lm(
                config,
                dtype=self.dtype_name,
                attention=self.attention,
                seed=run_seed() if self.model_settings.seed is None else self.model_settings.seed,
            )
        else:
            lm = load_lm(self.model_settings, dtype=self.dtype_name, attention=self.attention)
        self._adopt(lm, tokenizer)

    def _adopt(self, lm: nn.Module, tokenizer: PreTrainedTokenizerBase) -> None:
        """Take a model and its tokenizer as the policy; adapters and memory savings come on top."""
        check_vocabulary(lm, len(tokenizer))
        check_output_layer(lm.eval())
        if self.gradient_checkpointing:
            lm.gradient_checkpointing_enable()  # type: ignore[operator]
        self.tokenizer = tokenizer
        self.lm = add_lora(lm, self.lora) if self.lora else lm  # type: ignore[arg-type]
        self.train()  # a model that was loaded comes in evaluation mode

    # --- checkpoints ------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put config and tokenizer beside the weights; with adapters leave the base's weights out."""
        store_language_model(checkpoint, self.lm, self.tokenizer, base=self.model_settings if self.lora else None)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Build the model that the weights belong to, if it is not there yet."""
        if LANGUAGE_MODEL not in checkpoint:
            raise UserError("this checkpoint holds no language model; was it written by another module or package?")
        if not self.ready:
            self._adopt(*restore_language_model(checkpoint, dtype=self.dtype_name, attention=self.attention))

    # --- optimisation -----------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with decay on matrices only, and a schedule by optimizer steps."""
        trained = [parameter for parameter in self.lm.parameters() if parameter.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim >= 2], "weight_decay": self.weight_decay},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr=self.lr)
        if self.schedule == "constant" and not self.warmup_steps:
            return optimizer
        name = "constant_with_warmup" if self.schedule == "constant" else self.schedule
        total = None if self.schedule == "constant" else int(self.trainer.estimated_stepping_batches)
        scheduler = get_scheduler(name, optimizer, num_warmup_steps=self.warmup_steps, num_training_steps=total)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    # --- held-out likelihood ----------------------------------------------------------------------------------------

    def collate(self, rows: Sequence[Any]) -> Any:
        """Examples become one tokenised, right-padded batch; prompts stay as they are."""
        if not isinstance(rows[0], Example):
            return list(rows)
        prompts = [encode_prompt(self.tokenizer, row.prompt, self.chat) for row in rows]
        completions = [encode_completion(self.tokenizer, row.completion) for row in rows]
        limit = max_positions(self.lm)
        if limit is not None:
            completions = [self._fit_length(p, c, limit) for p, c in zip(prompts, completions, strict=True)]
        return completion_batch(prompts, completions)

    def _fit_length(self, prompt: list[int], completion: list[int], limit: int) -> list[int]:
        length = len(prompt) + len(completion)
        if length <= limit:
            return completion
        if self.long_examples == "error" or len(prompt) >= limit:
            raise UserError(
                f"an example of {length} tokens (prompt {len(prompt)}) exceeds the model's {limit} positions; shorten "
                "it, use a model with more positions, or set model.long_examples=truncate"
            )
        return completion[: limit - len(prompt)]

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
