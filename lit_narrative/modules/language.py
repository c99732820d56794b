"""The base of modules that own a causal language model: SFT, GRPO, the classifier and steering extend it."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn
from torch.optim import Optimizer
from torchmetrics import MeanMetric
from transformers import PreTrainedTokenizerBase

from lit_narrative.errors import UserError, check_choice, check_finite, check_least
from lit_narrative.lm.adapter_folder import adapter_base, lora_settings
from lit_narrative.lm.base_model import BaseModel
from lit_narrative.lm.chat import turn_end
from lit_narrative.lm.checkpoint import (
    PREFIX,
    check_adapters,
    fits,
    load_checkpoint,
    naming_checkpoint,
    store_language_model,
    stored_base,
    stored_tokenizer,
)
from lit_narrative.lm.encoding import ExampleReader, LongExamples, LongPrompts, PromptReader
from lit_narrative.lm.grammar import check_named
from lit_narrative.lm.load import Attention, Dtype, Lora, ScratchModel, add_end_id, max_positions
from lit_narrative.lm.logprobs import CompletionBatch, score_completions
from lit_narrative.lm.optim import MUON_LR, GradientGuard, MuonAdamW, OptimizerName, Schedule, adamw
from lit_narrative.lm.policy import PolicySource
from lit_narrative.lm.sampler import LoopSampler, Sampler, SamplingParams, seeded_requests
from lit_narrative.lm.shard import gathered, shard
from lit_narrative.lm.tokenizer import TrainedTokenizer
from lit_narrative.lm.turns import Environment, TurnSampler, TurnSettings
from lit_narrative.lm.vectors.inject import InjectionSettings
from lit_narrative.lm.vectors.residual import completion_residuals
from lit_narrative.modules.base import NarrativeModule, as_settings, guard_gradients, plain, scheduled
from lit_narrative.seeds import run_seed
from lit_narrative.views import Conversation, Example, Prompt, Rollout, as_prompts

logger = logging.getLogger(__name__)


class LanguageModule(NarrativeModule):
    """A policy language model with its tokenizer, its sampling and its self-contained checkpoints.

    Args:
        model: a hub name, a folder with transformers weights or with PEFT's adapters, a ``.ckpt`` of this package, or
            the sizes of a new model.
        tokenizer: a hub name, a folder, or (of a new model alone) settings of one to train on the task's corpus;
            default: the model's, or a trained one with a new model.
        lora: train low-rank adapters in place of the weights.
        adapters: of a folder of adapters as ``model``: merge them into their base, or train them; their rank, scale and
            layers then stand in place of ``lora``.
        sampling: how completions are sampled, and scored.
        chat: write prompts and completions by the tokenizer's chat template. A prompt that is a text becomes the
            user's turn; one of messages may have a system turn and several others.
        dtype: of the weights; mixed precision is the Trainer's business.
        attention: the attention implementation of transformers.
        gradient_checkpointing: recompute activations in the backward pass.
        optimizer: ``adamw``, or ``muon``: Muon on the matrices of the blocks, AdamW on the rest.
        lr: peak learning rate of AdamW.
        muon_lr: peak learning rate of Muon; default: 0.02.
        weight_decay: on matrices, not on biases and norms.
        warmup_steps: linear warm-up in optimizer steps.
        schedule: of the learning rate after the warm-up, by optimizer steps.
        max_length: of examples, prompt and completion together, in tokens; default: the model's positions.
        long_examples: what to do with a longer one: ``error``, ``drop`` its row before training, or cut the end of its
            completion (``truncate``).
        max_prompt_length: of prompts to complete, in tokens; default: what the model's positions leave beside
            ``sampling.max_new_tokens``.
        long_prompts: what to do with a longer one: ``error``, ``drop`` its row before training, or keep its last tokens
            (``truncate_left``; with ``chat`` the template around them stays).
        max_skipped_steps: stop after so many steps in a row whose gradients were not finite; fewer are skipped.
        trust_remote_code: run the Python code that model folders and hub repositories bring along, for this run: of
            every model and tokenizer that it loads. It stays out of checkpoints.
        injection: how the vectors that the task's rows carry are put into the model; marker, width and mean norm are
            those of the task. A ``.ckpt`` as ``model`` brings its own along.
        turns: an environment of the task answers completions, and the policy writes again; default: none does.

    Attributes:
        frozen: the policy keeps its weights: no gradients, always in evaluation mode, no adapters.
        lm: the policy; there once the model is built.
        tokenizer: its tokenizer.
        base_model: of its adapters, or under its head, where checkpoints leave it out; else None.
        sampler: draws completions from it.
        environment: what answers completions where there are turns, the task's once a Trainer runs the module.
        written: completions of the test so far, by this process; None where the test writes nothing.
    """

    eval_view = "examples"
    frozen = False
    lm: nn.Module
    tokenizer: PreTrainedTokenizerBase
    base_model: BaseModel | None = None
    environment: Environment | None = None
    written: list[Rollout] | None = None
    _examples: ExampleReader | None = None

    def __init__(
        self,
        model: str | ScratchModel = ScratchModel(),  # noqa: B008 (the command line shows the default's fields)
        tokenizer: str | TrainedTokenizer | None = None,
        lora: Lora | None = None,
        adapters: Literal["merge", "train"] = "merge",
        sampling: SamplingParams = SamplingParams(),  # noqa: B008
        chat: bool = False,
        dtype: Dtype = "float32",
        attention: Attention = "sdpa",
        gradient_checkpointing: bool = False,
        optimizer: OptimizerName = "adamw",
        lr: float = 1e-3,
        muon_lr: float | None = None,
        weight_decay: float = 0.01,
        warmup_steps: int = 0,
        schedule: Schedule = "constant",
        max_length: int | None = None,
        long_examples: LongExamples = "error",
        max_prompt_length: int | None = None,
        long_prompts: LongPrompts = "error",
        max_skipped_steps: int = 10,
        trust_remote_code: bool = False,
        injection: InjectionSettings | None = None,
        turns: TurnSettings | None = None,
    ) -> None:
        super().__init__()
        check_finite("model.", lr=lr, muon_lr=muon_lr or 0.0, weight_decay=weight_decay)
        check_least("model.warmup_steps", warmup_steps, 0)
        check_least("model.max_length", max_length, 2)
        check_least("model.max_prompt_length", max_prompt_length, 1)
        self.save_hyperparameters(ignore=["trust_remote_code"])
        self.hparams.update({name: plain(value) for name, value in self.hparams.items()})
        self.lora: Lora | None = as_settings(lora, Lora)
        folder = None
        if adapters == "train":
            if self.lora:
                raise UserError("model.lora is given, but with model.adapters=train the adapters' own settings hold")
            # What a checkpoint says: adapters of these settings over their base, wherever they came from.
            folder, self.lora = str(model), Lora(**lora_settings(str(model)))
            model = adapter_base(folder)
            self.hparams.update(model=model, lora=plain(self.lora), adapters="merge")
        if self.frozen and self.lora:
            raise UserError("a frozen model takes no adapters; leave model.lora out, or train them by SFTModule first")
        self.sampling: SamplingParams = as_settings(sampling, SamplingParams)
        self.turns: TurnSettings | None = as_settings(turns, TurnSettings)
        self.source = PolicySource(
            as_settings(model, ScratchModel),
            as_settings(tokenizer, TrainedTokenizer),
            self.lora,
            dtype,
            attention,
            gradient_checkpointing,
            trust_remote_code,
            folder,
            chat,
            as_settings(injection, InjectionSettings),
        )
        self.chat, self.gradient_checkpointing = chat, gradient_checkpointing
        check_choice("model.optimizer", optimizer, get_args(OptimizerName))
        if muon_lr is not None and optimizer != "muon":
            raise UserError(f"model.muon_lr={muon_lr} is of optimizer=muon, and model.optimizer is {optimizer}")
        self.optimizer, self.lr, self.muon_lr, self.weight_decay = optimizer, lr, muon_lr, weight_decay
        self.warmup_steps, self.schedule = warmup_steps, schedule
        self.max_length, self.long_examples = max_length, long_examples
        self.max_prompt_length, self.long_prompts = max_prompt_length, long_prompts
        self.guard = GradientGuard(max_skipped_steps)
        self.sampler: Sampler = LoopSampler()
        self.nll = MeanMetric()
        # The run folder, where a trained tokenizer goes, is one for all nodes.
        self.prepare_data_per_node = False
        # An adapter's checkpoint leaves the base out; everything else is checked name by name.
        self.strict_loading = self.lora is None

    # --- building ---------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Ask the task for what answers completions, so that an unknown name fails before any work."""
        if self.turns is not None:
            self.environment = self.task.environment(self.turns.environment)

    @property
    def ready(self) -> bool:
        """Whether the model has been built."""
        return "lm" in self._modules

    def prepare_data(self) -> None:
        """Train the tokenizer on the task's corpus, once and on one process."""
        if not self.ready and not self.trainer.ckpt_path and self.source.trains_tokenizer:
            task = self.task
            self.source.prepare(task.tokenizer_texts(), self._tokenizer_folder, task.tokenizer_names())

    @property
    def _tokenizer_folder(self) -> Path:
        return Path(self.trainer.default_root_dir, "tokenizer")

    def configure_model(self) -> None:
        """Build the model, unless it is built or a checkpoint outside a Trainer will bring it; shard what is built."""
        if self.attached is None:
            return
        if not self.ready and self.trainer.ckpt_path:
            # Resumed or tested from the command line: the checkpoint says what to build; Lightning loads it later.
            path = self.trainer.ckpt_path
            with naming_checkpoint(path):
                checkpoint = load_checkpoint(path)
                self.set_model(*self.source.restore(checkpoint))
                self.base_model = stored_base(checkpoint)
        elif not self.ready:
            vectors = self.task.injected_vectors if self.source.injection else None
            self.set_model(*self.source.build(self._tokenizer_folder, vectors))
            self.base_model = self.source.base() if self.lora or self.frozen else None
        self.build_auxiliary()
        self.apply_sharding()

    def load_model(self) -> None:
        """Read the model outside of a Trainer, as ``model`` names it.

        Raises:
            UserError: it is a new one, whose tokenizer is trained on a task's corpus.
        """
        if self.source.trains_tokenizer or self.source.injection:
            raise UserError(
                f"{type(self).__name__} has no model yet: fit it, load it by {type(self).__name__}.load_from_checkpoint"
                "(path), or give model= a hub name, a folder or a .ckpt"
            )
        self.set_model(*self.source.build())
        self.base_model = self.source.base() if self.lora or self.frozen else None

    def build_auxiliary(self) -> None:
        """Build what stands beside the policy and is not there yet; an algorithm says what."""

    def apply_sharding(self) -> None:
        """Give each process its part of every model in this module, where the strategy is for that (``fsdp2``)."""
        if self.device_mesh is None:
            return
        if self.sampling.compile:
            raise UserError("model.sampling.compile is not for trainer.strategy=fsdp2, whose weights move; take ddp")
        dtype = torch.bfloat16 if self.trainer.precision == "bf16-mixed" else None
        for part in self.children():
            if next(part.parameters(), None) is not None:
                shard(part, self.device_mesh["data_parallel"], dtype)

    def set_model(self, lm: nn.Module, tokenizer: PreTrainedTokenizerBase) -> None:
        """Take a model and its tokenizer as the policy; with ``chat`` the end of a turn ends completions.

        Raises:
            UserError: with ``chat``, if the tokenizer has no chat template.
        """
        self.lm, self.tokenizer = lm.requires_grad_(False) if self.frozen else lm, tokenizer
        if self.chat and (end := turn_end(tokenizer)) is not None:
            add_end_id(lm, end)
        self.train()  # a model that was loaded comes in evaluation mode

    def train(self, mode: bool = True) -> Self:
        """Set the mode; a frozen policy stays in evaluation mode."""
        super().train(mode)
        if self.frozen and self.ready:
            self.lm.eval()
        return self

    # --- checkpoints ------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put config and tokenizer beside the weights; leave out those of a base that has a hub name or a folder."""
        super().on_save_checkpoint(checkpoint)
        store_language_model(checkpoint, self.lm, self.tokenizer, base=self.base_model)
        checkpoint["gradients"] = self.guard.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the model and the tokenizer that the weights belong to; one that is the same is not built again.

        Raises:
            UserError: the weights are adapters, and there are none here.
        """
        if checkpoint.get("hyper_parameters", {}).get("lora") and not self.lora:
            raise UserError("this checkpoint holds adapters: give it as --model.model, which merges them")
        if self.ready and fits(checkpoint, self.lm, self.base_model):
            self.tokenizer = stored_tokenizer(checkpoint, self.source.trust_remote_code)
        else:
            self.set_model(*self.source.restore(checkpoint))
            self.base_model = stored_base(checkpoint)
            self.build_auxiliary()
            self.apply_sharding()
        if self.lora:
            check_adapters(self.lm, checkpoint["state_dict"])
        if "gradients" in checkpoint:
            self.guard.load_state_dict(checkpoint["gradients"])

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load weights as torch does; those of the base that checkpoints leave out are not missed."""
        if self.frozen and self.base_model:
            state_dict = {**{PREFIX + name: value for name, value in self.lm.state_dict().items()}, **state_dict}
        found = super().load_state_dict(state_dict, strict=strict, assign=assign)
        # Lightning would name them all in a warning. `check_adapters` has seen that the adapters' own are there.
        return found._replace(missing_keys=[]) if self.lora else found

    # --- rows -------------------------------------------------------------------------------------------------------

    def validate_rows(self, rows: Sequence[Any]) -> Sequence[Any]:
        """The rows that the model can read: all, or without those that are too long and are to be dropped."""
        if not len(rows) or not isinstance(rows[0], Example | Prompt):
            return rows
        kept: Sequence[Any]
        if isinstance(rows[0], Example):
            limit, (kept, too_long) = self.example_reader().limit, self.example_reader().validate_rows(rows)
        else:
            limit, kept = self.prompt_reader().limit, self.prompt_reader().validate_rows(rows)
            too_long = len(rows) - len(kept)
        if too_long and self.global_rank == 0:
            done, kind = "left out" if len(kept) < len(rows) else "cut", f"{type(rows[0]).__name__.lower()}s"
            logger.warning("%s %d of %d %s that exceed %s tokens", done, too_long, len(rows), kind, limit)
        return kept

    def on_fit_start(self) -> None:
        """Read all rows and the grammar once, so that what cannot be used fails now and not amid the run."""
        if self.sampling.grammar is not None:
            check_named(self.sampling.grammar, self.lm, self.tokenizer, self.sampling.max_new_tokens)
        self.task.rows_for(self.view, "train")
        if self.trainer.enable_validation:
            self.task.eval_rows("val")

    def collate(self, rows: Sequence[Any]) -> Any:
        """Examples become one tokenised, right-padded batch; prompts stay as they are."""
        return self.example_reader().batch(rows) if isinstance(rows[0], Example) else list(rows)

    def row_lengths(self, rows: Sequence[Any]) -> Sequence[int] | None:
        """Tokens of each example; prompts are not put into batches here."""
        return self.example_reader().lengths(rows) if len(rows) and isinstance(rows[0], Example) else None

    def example_reader(self) -> ExampleReader:
        """The reader of examples as token ids; the same one as before, with what it knows, while nothing changed."""
        limits = max_positions(self.lm), self.max_length, self.long_examples
        reader = ExampleReader(self.tokenizer, *limits, self.chat)
        if reader != self._examples:
            self._examples = reader
        return self._examples

    def prompt_reader(self, params: SamplingParams | None = None) -> PromptReader:
        """The reader of prompts as token ids, for completions as long as ``params`` (default: the module's) allow."""
        return PromptReader(
            self.tokenizer,
            max_positions(self.lm),
            (params or self.sampling).max_new_tokens,
            self.max_prompt_length,
            self.long_prompts,
            self.chat,
            self.turns if self.environment else None,
        )

    # --- sampling ---------------------------------------------------------------------------------------------------

    def generate(
        self,
        prompts: str | Sequence[Prompt | Conversation],
        samples: int = 1,
        seed: int = 0,
        params: SamplingParams | None = None,
        streams: Sequence[int] | None = None,
    ) -> list[Rollout]:
        """Sample ``samples`` completions of every prompt, in order, in evaluation mode.

        A prompt may be a text, or with ``chat`` a list of messages. A model that has a name, a folder or a checkpoint
        is read first, where that was not done yet. With `turns` completions are answered by the `environment`.

        The random stream of a completion depends on ``seed``, its sample number and the prompt's number in ``streams``
        (default: its ``index`` column, its position in ``prompts`` without one), so that it is the same on any number
        of processes.
        """
        if not self.ready:
            self.load_model()
        prompts = as_prompts(prompts)
        ids = self.prompt_reader(params).encode([prompt.text for prompt in prompts])
        requests = seeded_requests(prompts, ids, samples, seed, streams)
        answers, sampler = self.environment, self.sampler
        sampler = TurnSampler(sampler, answers, self.turns, self.chat) if self.turns and answers else sampler
        self.lm.eval()
        try:
            with self.precision(), gathered(self.lm):
                return sampler.sample(self.lm, self.tokenizer, requests, params or self.sampling)
        finally:
            self.train(self.training)

    def residuals(self, rollouts: Sequence[Rollout], layer: int) -> Iterator[tuple[int, np.ndarray]]:
        """The number of each completion and what the model holds at its tokens: see `completion_residuals`."""
        self.lm.eval()
        try:
            with self.precision(), gathered(self.lm):
                yield from completion_residuals(self.lm, rollouts, layer)
        finally:
            self.train(self.training)

    def precision(self) -> AbstractContextManager[None]:
        """The Trainer's precision, for model calls outside of its steps."""
        return self.attached.precision_plugin.forward_context() if self.attached else nullcontext()

    def predict_step(self, batch: Sequence[Prompt], batch_idx: int) -> list[Rollout]:
        """Complete every prompt of the batch."""
        return self.generate(batch, seed=run_seed())

    # --- optimisation -----------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer, with decay on matrices only, and a schedule by optimizer steps."""
        optimizer: Optimizer = adamw(self, self.lr, self.weight_decay)
        if self.optimizer == "muon":
            optimizer = MuonAdamW(self, self.lr, self.weight_decay, MUON_LR if self.muon_lr is None else self.muon_lr)
        return scheduled(self, optimizer, self.schedule, self.warmup_steps)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as the Trainer asks, skip a step whose gradients are not finite, and log under TRL's names."""
        guard_gradients(self, self.guard, optimizer, gradient_clip_val, gradient_clip_algorithm)

    # --- held-out likelihood ----------------------------------------------------------------------------------------

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
