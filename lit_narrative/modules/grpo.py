"""Group relative policy optimisation (Shao et al. 2024) on the rewards that a task offers.

How this differs from the textbook: (1) dropout is off in sampling, scoring and training alike; (2) the
log-probabilities kept by the sampler serve as the old ones, nothing is scored twice; (3) the loss is divided by totals
of the whole accumulation window over all processes, so its gradient does not depend on the micro-batch size.
"""

import copy
import math
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase
from transformers.modeling_layers import GradientCheckpointingLayer

from lit_narrative.errors import UserError
from lit_narrative.lm.logprobs import CompletionBatch, TokenScores, score_completions, to_rows
from lit_narrative.modules.base import LanguageModule
from lit_narrative.modules.rollout_batch import RolloutBatch
from lit_narrative.modules.rollout_loader import RolloutLoader
from lit_narrative.modules.rollout_metrics import rollout_metrics
from lit_narrative.rl.advantages import Scale, group_advantages, weighted_sum
from lit_narrative.rl.losses import LossOutput, LossSettings, LossType, Window, policy_loss
from lit_narrative.rl.rewards import Reward
from lit_narrative.rl.rollout import Rollout, ScoredRollouts
from lit_narrative.seeds import run_seed, stream_seed
from lit_narrative.views import Prompt

ROLLOUTS = "rollouts"


class GRPOModule(LanguageModule):
    """Policy gradient with group advantages, clipping and a penalty for leaving the reference policy.

    One epoch of the Trainer is one cycle; a batch of the task's prompts is one window of ``num_generations``
    completions each. Metric names follow TRL.

    Args:
        rewards: weight of each reward by name, as the task knows them, or ``package.module:function`` of your own.
        num_generations: completions a prompt (the group), at least 2.
        micro_batch_size: completions per forward and backward pass; set the Trainer's ``accumulate_grad_batches`` to
            the number of micro-batches that make one optimizer step.
        num_iterations: passes over each window (mu).
        loss_type: how token losses are averaged, see :class:`LossSettings`.
        epsilon: lower clip range of the ratio.
        epsilon_high: upper clip range; default: ``epsilon``.
        beta: weight of the divergence from the reference, the policy that this run starts from; 0 needs none.
        scale_rewards: divide advantages by the deviation of the group, of the batch, or not.
        shuffle_rewards: permute the rewards over the batch: a control run, which should learn nothing.
        **kwargs: of :class:`LanguageModule`.
    """

    view = "prompts"
    windowed = True

    def __init__(
        self,
        rewards: dict[str, float],
        num_generations: int = 8,
        micro_batch_size: int = 32,
        num_iterations: int = 1,
        loss_type: LossType = "dr_grpo",
        epsilon: float = 0.2,
        epsilon_high: float | None = None,
        beta: float = 0.04,
        scale_rewards: Scale = "group",
        shuffle_rewards: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if num_generations < 2:
            raise UserError(f"model.num_generations={num_generations}: a group needs at least 2 completions")
        for name, value in (("micro_batch_size", micro_batch_size), ("num_iterations", num_iterations)):
            if value < 1:
                raise UserError(f"model.{name}={value} must be at least 1")
        if not rewards:
            raise UserError("model.rewards is empty; name at least one reward with its weight")
        if self.sampling.filtered:
            raise UserError(
                "model.sampling.top_k and top_p must be off in RL: the policy would be trained on another distribution "
                "than it is sampled from; leave them at 0 and 1"
            )
        self.reward_weights = rewards
        self.num_generations, self.micro_batch_size = num_generations, micro_batch_size
        self.num_iterations, self.scale_rewards, self.shuffle_rewards = num_iterations, scale_rewards, shuffle_rewards
        high = epsilon if epsilon_high is None else epsilon_high
        self.loss_settings = LossSettings(loss_type, epsilon, high, beta, self.sampling.max_new_tokens)
        self.reward_functions: dict[str, Reward] = {}
        self.scored: ScoredRollouts | None = None
        self._window: RolloutBatch | None = None
        self._window_metrics: dict[str, float] = {}
        self._sums: dict[str, torch.Tensor] = {}
        self._learns = False

    # --- building ---------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Ask the task for the rewards, so that an unknown name fails before any work."""
        self._learns = stage == "fit"
        if self._learns:
            self.reward_functions = self.trainer.datamodule.reward_functions(list(self.reward_weights))  # type: ignore[attr-defined]

    def adopt(self, lm: nn.Module, tokenizer: PreTrainedTokenizerBase) -> None:
        """Take the policy, and to learn a frozen copy of it as the reference (adapters are switched off instead)."""
        super().adopt(lm, tokenizer)
        if self._learns and self.loss_settings.beta and not self.lora:
            self.reference = copy.deepcopy(self.lm).requires_grad_(False)
            self.train()

    def train(self, mode: bool = True) -> "GRPOModule":
        """Training without dropout: the language models stay in evaluation mode."""
        super().train(mode)
        for name in ("lm", "reference"):
            if name in self._modules:
                self._modules[name].eval()  # type: ignore[union-attr]
        if mode and self.ready and self.gradient_checkpointing:
            for module in self.lm.modules():
                if isinstance(module, GradientCheckpointingLayer):
                    module.training = True  # the block recomputes; the dropouts within it stay off
        return self

    def wrap_train_loader(self, loader: DataLoader[Any]) -> Iterable[RolloutBatch]:
        """Rollouts in place of prompts."""
        steps, accumulate = self.micro_batches(int(loader.batch_size or 1)), self.trainer.accumulate_grad_batches
        if steps % accumulate:
            raise UserError(
                f"trainer.accumulate_grad_batches={accumulate} does not divide the {steps} micro-batches of a window "
                f"(data.batch_size={loader.batch_size} x num_generations={self.num_generations} completions / "
                f"micro_batch_size={self.micro_batch_size})"
            )
        limit, window = self.trainer.limit_train_batches, steps * self.num_iterations
        if type(limit) is int and limit % window and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            raise UserError(
                f"trainer.limit_train_batches={limit} ends a cycle within a window of {window} micro-batches; give a "
                "multiple of that"
            )
        if len(loader) == 0:
            raise UserError(f"fewer training prompts than data.batch_size={loader.batch_size}; lower it")
        return RolloutLoader(loader, self)

    # --- windows ----------------------------------------------------------------------------------------------------

    def micro_batches(self, prompts: int) -> int:
        """Micro-batches in one pass over the completions of ``prompts`` prompts."""
        return math.ceil(prompts * self.num_generations / self.micro_batch_size)

    def window(self, prompts: list[Prompt], number: int, resumed: bool) -> RolloutBatch:
        """Sample and score the completions of one window; after a kill in its middle, take it from the checkpoint."""
        if resumed and self._window is None:
            raise UserError(
                "this checkpoint was saved in the middle of a window by another number of processes; resume it with as "
                "many, or from a checkpoint at the end of a cycle"
            )
        if not resumed:
            rollouts = self.generate(prompts, self.num_generations, stream_seed(run_seed(), self.current_epoch, number))
            self.scored = self._advantages(rollouts, number)
            self._window = RolloutBatch.of(rollouts, self.scored.advantages)
            if self.loss_settings.beta:
                self._window = self._window._replace(reference=self._reference_logprobs(self._window))
        assert self._window is not None
        return self._window

    def _advantages(self, rollouts: Sequence[Rollout], number: int) -> ScoredRollouts:
        """Score this process's rollouts; statistics are over all processes."""
        columns = [self._scores(name, rollouts) for name in self.reward_weights]
        lengths = torch.tensor([float(len(rollout.completion_ids)) for rollout in rollouts])
        finished = torch.tensor([float(rollout.finished) for rollout in rollouts])
        table = self._gather(torch.stack([*columns, lengths, finished], dim=1))
        weights = torch.tensor(list(self.reward_weights.values()))
        rewards = table[:, : len(weights)]
        totals = weighted_sum(rewards, weights)
        if self.shuffle_rewards:
            generator = torch.Generator().manual_seed(stream_seed(run_seed(), self.current_epoch, number, 1))
            totals = totals[torch.randperm(len(totals), generator=generator)]
        advantages = group_advantages(totals, self.num_generations, self.scale_rewards)
        self._window_metrics = rollout_metrics(
            dict(zip(self.reward_weights, rewards.T, strict=True)),
            totals,
            table[:, -2],
            table[:, -1],
            self.num_generations,
        )
        own = slice(self.global_rank * len(rollouts), (self.global_rank + 1) * len(rollouts))
        by_name = dict(zip(self.reward_weights, rewards[own].T, strict=True))
        return ScoredRollouts(self.current_epoch, number, rollouts, by_name, totals[own], advantages[own])

    def _scores(self, name: str, rollouts: Sequence[Rollout]) -> torch.Tensor:
        scores = self.reward_functions[name](rollouts)
        if len(scores) != len(rollouts):
            raise UserError(f"reward '{name}' returned {len(scores)} scores for {len(rollouts)} completions")
        values = torch.tensor([math.nan if score is None else float(score) for score in scores])
        return values.where(values.isfinite(), torch.nan)  # an infinite score is none

    def _gather(self, values: torch.Tensor) -> torch.Tensor:
        """Rows of all processes, in order of rank."""
        gathered: Any = self.all_gather(values.to(self.device))
        return gathered.flatten(0, gathered.ndim - values.ndim).cpu() if gathered.ndim > values.ndim else gathered.cpu()

    @torch.no_grad()
    def _reference_logprobs(self, window: RolloutBatch) -> torch.Tensor:
        """Score the window under the policy that the run started from."""
        adapted = self.lm.disable_adapter() if self.lora else nullcontext()  # type: ignore[operator]
        reference = self.lm if self.lora else self.reference
        logprobs = torch.zeros_like(window.old)
        with self.precision(), adapted:
            for rows in window.mask.sum(1).argsort(stable=True).split(self.micro_batch_size):
                part = window.select(rows)
                batch = CompletionBatch(*(tensor.to(self.device) for tensor in part.batch))
                scored = self._score(reference, batch).logprobs.cpu()
                logprobs[rows, : part.mask.shape[1]] = to_rows(scored, part.mask)
        return logprobs

    def _score(self, lm: nn.Module, batch: CompletionBatch) -> TokenScores:
        return score_completions(lm, batch, temperature=self.sampling.temperature)

    def cut(self, rollouts: RolloutBatch, number: int, iteration: int) -> list[RolloutBatch]:
        """One pass over a window: rows are dealt to optimizer steps at random, then cut with alike lengths together."""
        parts = self.trainer.accumulate_grad_batches
        steps = math.ceil(len(rollouts.mask) / self.micro_batch_size) // parts
        seed = stream_seed(run_seed(), self.current_epoch, number, 2 + iteration)
        batches = []
        for rows in rollouts.deal(steps, torch.Generator().manual_seed(seed)):
            local = torch.tensor([[len(rows), int(rollouts.mask[rows].sum())]], dtype=torch.float64)
            totals = self._gather(local).sum(0)
            window = Window(int(totals[0]), int(totals[1]))
            batches += [rollouts.select(part)._replace(window=window) for part in rows.tensor_split(parts)]
        return batches

    # --- learning ---------------------------------------------------------------------------------------------------

    def training_step(self, batch: RolloutBatch, batch_idx: int) -> torch.Tensor:
        """This micro-batch's share of the window's loss."""
        scores = self._score(self.lm, batch.batch)
        logprobs = to_rows(scores.logprobs, batch.mask)
        output = policy_loss(
            logprobs, batch.old, batch.reference, batch.advantages, batch.mask, batch.window, self.loss_settings
        )
        self._count(batch, batch_idx, output, scores.entropy)
        # Lightning divides by the accumulated batches and the strategy averages over processes; the window's totals
        # already cover both.
        return output.loss * self.trainer.accumulate_grad_batches * self.trainer.world_size

    def _count(self, batch: RolloutBatch, batch_idx: int, output: LossOutput, entropy: torch.Tensor) -> None:
        """Add up what is logged, and log it with the last micro-batch of an optimizer step, over the whole step."""
        accumulate = self.trainer.accumulate_grad_batches
        tokens = max(batch.window.tokens, 1)
        parts = {
            "loss": output.loss.detach(),
            "entropy": entropy.sum() / tokens,
            "clip_ratio/low_mean": output.clipped_low / tokens,
            "clip_ratio/high_mean": output.clipped_high / tokens,
            "clip_ratio/region_mean": (output.clipped_low + output.clipped_high) / tokens,
        }
        if batch.reference is not None:
            parts["kl"] = output.kl / tokens
        first = batch_idx % accumulate == 0
        self._sums = parts if first else {name: self._sums[name] + value for name, value in parts.items()}
        if (batch_idx + 1) % accumulate and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        sums = {name: value * self.trainer.world_size for name, value in self._sums.items()}  # then averaged
        window: dict[str, Any] = dict(self._window_metrics)
        self.log_dict({"loss": sums.pop("loss")}, prog_bar=True, batch_size=1, sync_dist=True)
        self.log("reward", window.pop("reward", math.nan), prog_bar=True, batch_size=1)
        self.log_dict({**sums, **window}, batch_size=1, sync_dist=True)

    # --- checkpoints ------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the window in progress, so that a killed run goes on with the very same completions."""
        super().on_save_checkpoint(checkpoint)
        window = None if self._window is None else self._window.as_dict()
        windows: list[Any] = [window]
        if self.trainer.world_size > 1:
            windows = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(windows, window)
        checkpoint[ROLLOUTS] = {"windows": windows, "metrics": self._window_metrics}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the window in progress; a reference is of no use but to learn."""
        super().on_load_checkpoint(checkpoint)
        if "reference" not in self._modules:
            weights = checkpoint["state_dict"]
            for name in [name for name in weights if name.startswith("reference.")]:
                del weights[name]
        stored = checkpoint.get(ROLLOUTS)
        if stored and self._trainer is not None:
            windows = stored["windows"]
            if len(windows) == self.trainer.world_size and windows[self.global_rank] is not None:
                self._window = RolloutBatch.from_dict(windows[self.global_rank])
                self._window_metrics = stored["metrics"]
