"""Our side: the project's modules under Lightning's Trainer, as a user would run them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loops.optimization.automatic import Closure

from benchmarks.rl.clock import OTHER, Clock
from benchmarks.rl.shape import ADAPTED, Shape, distinct_words, texts
from benchmarks.trainer import bare_trainer
from lit_narrative.datamodules.base import Split, TaskDataModule
from lit_narrative.lm import sampler
from lit_narrative.lm.load import Lora
from lit_narrative.lm.sampler import LoopSampler, SamplingParams
from lit_narrative.modules import grpo, sft
from lit_narrative.modules.grpo import GRPOModule
from lit_narrative.modules.sft import SFTModule
from lit_narrative.rl.collector import RolloutCollector
from lit_narrative.rl.loss_settings import LossSettings
from lit_narrative.rl.rewards.base import AnyReward
from lit_narrative.rl.rewards.runner import RewardRunner
from lit_narrative.views import Example, Prompt, Rollout

TRAINER: dict[str, Any] = {"gradient_clip_val": 1.0, "log_every_n_steps": 1}
VERSIONS = ("lit-narrative", "lightning", "transformers", "torch")


class Distinct:
    """The trivial reward, in our protocol."""

    name = "distinct"

    def __call__(self, rollouts: Sequence[Rollout]) -> list[float]:
        """Score completions."""
        return [distinct_words(rollout.text) for rollout in rollouts]


class RandomTexts(TaskDataModule):
    """The task: random words."""

    def __init__(self, shape: Shape, rows: int, batch_size: int) -> None:
        super().__init__(batch_size)
        self.shape, self.rows = shape, rows

    def prompts(self, split: Split) -> list[Prompt]:
        """Prompts to complete."""
        return [Prompt(text) for text in texts(self.shape, self.rows, self.shape.prompt_tokens, 0)]

    def examples(self, split: Split) -> list[Example]:
        """Prompts with completions, one token short of the full length: the end token follows."""
        completions = texts(self.shape, self.rows, self.shape.completion_tokens - 1, 1)
        return [Example(row.text, text) for row, text in zip(self.prompts(split), completions, strict=True)]

    def reward_functions(self, names: Sequence[str]) -> dict[str, AnyReward]:
        """The one reward."""
        return {name: Distinct() for name in names}


class Ticks(Callback):
    """Ends a step of the clock after so many micro-batches."""

    def __init__(self, clock: Clock, every: int) -> None:
        self.clock, self.every = clock, every

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count."""
        if (batch_idx + 1) % self.every == 0:
            self.clock.tick()


def run_grpo(shape: Shape, folder: Path, clock: Clock) -> None:
    """Train by GRPO; the clock sees each batch of completions as a step."""
    module = GRPOModule(
        rewards={"distinct": 1.0},
        num_generations=shape.group,
        micro_batch_size=shape.rows,
        num_iterations=shape.mu,
        loss=LossSettings(loss_type="dapo", beta=shape.beta),
        model=str(folder),
        sampling=SamplingParams(shape.completion_tokens, compile=shape.compile),
        lr=shape.lr,
        lora=_lora(shape),
    )
    _time_learning(clock, module)
    clock.wrap(LoopSampler, "sample", "decode", lambda rollouts: sum(len(r.completion_ids) for r in rollouts))
    clock.wrap(sampler.Prefix, "read", "prefill")
    clock.wrap(RewardRunner, "score", "rewards")
    clock.wrap(RolloutCollector, "_score_under", "reference")
    clock.wrap(module, "score", lambda *a, **k: "policy forward" if torch.is_grad_enabled() else "reference")
    clock.wrap(grpo, "step_loss", "policy forward")
    data = RandomTexts(shape, shape.prompts * shape.batches, shape.prompts)
    bare_trainer(folder, shape.batches * shape.mu, Ticks(clock, shape.mu), **_trainer(shape)).fit(module, data)


def run_sft(shape: Shape, folder: Path, clock: Clock) -> None:
    """Train on examples."""
    module = SFTModule(model=str(folder), lr=shape.lr, lora=_lora(shape))
    _time_learning(clock, module)
    clock.wrap(sft, "score_completions", "policy forward")
    clock.wrap(module, "collate", OTHER, lambda batch: batch.ids.numel())
    data = RandomTexts(shape, shape.rows * shape.batches, shape.rows)
    bare_trainer(folder, shape.batches, Ticks(clock, 1), **_trainer(shape)).fit(module, data)


def _lora(shape: Shape) -> Lora | None:
    return Lora(shape.rank, alpha=shape.alpha, target_modules=ADAPTED) if shape.model else None


def _trainer(shape: Shape) -> dict[str, Any]:
    return {**TRAINER, "accelerator": shape.device, "devices": 1}


def _time_learning(clock: Clock, module: Any) -> None:
    clock.wrap(module, "backward", "backward")
    clock.wrap(module, "configure_gradient_clipping", "optimiser")
    clock.wrap(module, "optimizer_zero_grad", "optimiser")
    clock.wrap(torch.optim.AdamW, "step", "optimiser")
    clock.wrap(Closure, "__call__", OTHER)  # it runs within the optimizer's step
