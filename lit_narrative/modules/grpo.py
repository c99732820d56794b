"""Group relative policy optimisation (Shao et al. 2024) and its kin, on the rewards that a task offers.

How this differs from the textbook: (1) dropout is off in sampling, scoring and training alike; (2) the
log-probabilities kept by the sampler serve as the old ones, nothing is scored twice; (3) the loss is divided by totals
of the whole accumulation window over all processes, so its gradient does not depend on the micro-batch size.
"""

import math
import time
from collections.abc import Iterable
from functools import partial
from typing import Any, Literal

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase
from transformers.modeling_layers import GradientCheckpointingLayer

from lit_narrative.distributed import gather, gather_objects
from lit_narrative.lm.checkpoint import drop_reference
from lit_narrative.lm.load import base_lm
from lit_narrative.lm.logprobs import CompletionBatch, TokenScores, score_completions
from lit_narrative.modules.base import as_settings
from lit_narrative.modules.language import LanguageModule
from lit_narrative.rl.advantages import Aggregation, Scale
from lit_narrative.rl.batch import RolloutBatch, step_loss
from lit_narrative.rl.collector import Windows
from lit_narrative.rl.entropy import AdaptiveEntropy
from lit_narrative.rl.gae import ValueSettings
from lit_narrative.rl.loader import RolloutLoader, begin_step_again
from lit_narrative.rl.loss_settings import LossSettings
from lit_narrative.rl.losses import Window
from lit_narrative.rl.metrics import StepMetrics
from lit_narrative.rl.reference import ReferenceSettings, add_reference_adapters, follow, reference_model
from lit_narrative.rl.rewards.base import AnyReward
from lit_narrative.rl.rewards.runner import RewardRunner, ScoringSettings
from lit_narrative.rl.settings import WindowPlan, check_beside, check_settings, check_sizes
from lit_narrative.seeds import run_seed, stream_seed
from lit_narrative.views import Prompt, ScoredRollouts

Advantage = Literal["group", "rloo", "gae"]
ROLLOUTS = "rollouts"


class GRPOModule(LanguageModule):
    """Policy gradient on rewarded completions, with clipping and a penalty for leaving the reference policy.

    One epoch of the Trainer is one cycle; a batch of the task's prompts is one window of ``num_generations``
    completions each. Metric names follow TRL; ``docs/trl.md`` maps its options to these.

    Args:
        rewards: weight of each reward by name, as the task knows them, or ``package.module:function`` of your own.
        num_generations: completions a prompt (the group), at least 2, or 1 with ``advantage: gae``.
        generation_batch_size: completions of a window over all processes; default: the task's ``batch_size`` x
            ``num_generations`` on each process.
        micro_batch_size: completions per forward and backward pass, default 32; set the Trainer's
            ``accumulate_grad_batches`` to the number of micro-batches that make one optimizer step.
        steps_per_generation: micro-batches in one pass over a window; the other way to give ``micro_batch_size``.
        num_iterations: passes over each window (mu).
        loss: what is minimised.
        advantage: how good a completion was: ``group`` against the mean of its group (GRPO), ``rloo`` against the mean
            of the others (Ahmadian et al. 2024), ``gae`` against a learned value, token by token (PPO).
        scale_rewards: divide advantages by the deviation of the group, of the batch, or not; default: group, and with
            ``gae`` batch, which also takes the mean off.
        multi_objective_aggregation: add up rewards and then normalise, or the other way round (GDPO).
        value: the value head of ``gae``.
        reference: the policy to stay near to.
        scoring: how rewards are run.
        dynamic_sampling: how often at most groups whose completions are all worth the same, which teach nothing, are
            drawn again from other prompts (DAPO, Yu et al. 2025, section 3.2); 0 is off.
        shuffle_rewards: permute the rewards over the batch: a control run, which should learn nothing.
        **kwargs: of :class:`LanguageModule`.
    """

    view = "prompts"
    windowed = True

    def __init__(
        self,
        rewards: dict[str, float],
        num_generations: int = 8,
        generation_batch_size: int | None = None,
        micro_batch_size: int | None = None,
        steps_per_generation: int | None = None,
        num_iterations: int = 1,
        loss: LossSettings = LossSettings(),  # noqa: B008 (the command line shows the default's fields)
        advantage: Advantage = "group",
        scale_rewards: Scale | None = None,
        multi_objective_aggregation: Aggregation = "sum_then_normalize",
        value: ValueSettings = ValueSettings(),  # noqa: B008
        reference: ReferenceSettings = ReferenceSettings(),  # noqa: B008
        scoring: ScoringSettings = ScoringSettings(),  # noqa: B008
        dynamic_sampling: int = 0,
        shuffle_rewards: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.loss, self.value = as_settings(loss, LossSettings), as_settings(value, ValueSettings)
        self.reference_settings = as_settings(reference, ReferenceSettings)
        self.scoring = as_settings(scoring, ScoringSettings)
        self.reward_weights = rewards
        self.plan = WindowPlan(
            num_generations, generation_batch_size, micro_batch_size, steps_per_generation, num_iterations
        )
        self.num_generations, self.dynamic_sampling = num_generations, dynamic_sampling
        self.advantage, self.multi_objective_aggregation = advantage, multi_objective_aggregation
        self.scale_rewards: Scale = scale_rewards or ("batch" if advantage == "gae" else "group")
        self.shuffle_rewards = shuffle_rewards
        check_settings(self)
        self.reference_kind = self.reference_settings.resolve(self.loss.beta, self.lora is not None)
        if self.reference_kind == "none":
            self.loss.check_without_reference()
        self.weights = torch.tensor(list(rewards.values()))
        self.value_head: nn.Module | None = None
        self.reward_functions: dict[str, AnyReward] = {}
        self.scorer = RewardRunner({})
        self.scored: ScoredRollouts | None = None
        self.windows = Windows(self)
        self.entropy = AdaptiveEntropy(self.loss)
        self._window: RolloutBatch | None = None
        self._step = StepMetrics()
        self._learns = False
        self._mean_entropy = math.inf
        self._clock = self._paused = 0.0
        self._logged: set[str] = set()
        self._sizes: dict[str, int] = {}
        self._resumed_sizes: dict[str, int] = {}

    # --- building ---------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Ask the task for the rewards, so that an unknown name fails before any work."""
        self._learns = stage == "fit"
        if self._learns:
            self.reward_functions = self.task.reward_functions(list(self.reward_weights))
            self.scorer = RewardRunner(self.reward_functions, self.scoring)

    def teardown(self, stage: str) -> None:
        """End the processes that score."""
        self.scorer.close()

    def set_model(self, lm: nn.Module, tokenizer: PreTrainedTokenizerBase) -> None:
        """Take the policy; what stood beside another one goes."""
        self._modules.pop("reference", None)
        self.value_head = None
        super().set_model(lm, tokenizer)

    def build_auxiliary(self) -> None:
        """Build the value head, and to learn the reference."""
        if self.advantage == "gae" and self.value_head is None:
            width, like = base_lm(self.lm).config.get_text_config().hidden_size, next(self.lm.parameters())
            self.value_head = nn.Linear(width, 1, device=like.device, dtype=like.dtype)
            nn.init.zeros_(self.value_head.weight)
            nn.init.zeros_(self.value_head.bias)
        if self._learns and self.reference_kind == "copy" and "reference" not in self._modules:
            self.reference = reference_model(self.reference_settings, self.lm, self.tokenizer, self.source)
        elif self._learns and self.reference_kind == "adapter_copy":
            add_reference_adapters(self.lm)
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

    def train_batch_size(self, batch_size: int, world_size: int) -> int:
        """Prompts a window and process."""
        return self.plan.prompts(batch_size, world_size)

    def wrap_train_loader(self, loader: DataLoader[Any]) -> Iterable[RolloutBatch]:
        """Rollouts in place of prompts."""
        prompts, rollouts = int(loader.batch_size or 1), RolloutLoader(loader, self)
        self._sizes = self.plan.check(prompts, len(loader), self.trainer)
        done = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
        if 0 < done < len(rollouts):
            check_sizes(self._resumed_sizes, self._sizes)
        self.windows.prompts = loader.dataset
        return rollouts

    # --- windows ----------------------------------------------------------------------------------------------------

    def window(self, prompts: list[Prompt], number: int, resumed: bool) -> RolloutBatch:
        """Sample and score the completions of one window; after a kill in its middle, take it from the checkpoint."""
        if not resumed:
            self._window, self.scored = self.windows.make(prompts, number)
        assert self._window is not None
        return self._window

    def cut(self, rollouts: RolloutBatch, number: int, iteration: int) -> list[RolloutBatch]:
        """One pass over a window: rows are dealt to optimizer steps at random, then cut with alike lengths together."""
        parts = self.trainer.accumulate_grad_batches
        rows = len(rollouts.mask)
        steps = math.ceil(rows / self.plan.rows(rows)) // parts
        learned = rollouts.learned
        kept = learned if rollouts.keep is None else learned & rollouts.keep
        seed = stream_seed(run_seed(), self.current_epoch, number, 2 + iteration)
        dealt = list(rollouts.deal(steps, torch.Generator().manual_seed(seed)))
        local = torch.tensor([[len(own), int(learned[own].sum()), int(kept[own].sum())] for own in dealt])
        batches: list[RolloutBatch] = []
        totals: list[list[int]] = gather(self, local[None]).sum(0).tolist()
        for chosen, (count, tokens, entropy_tokens) in zip(dealt, totals, strict=True):
            window = Window(count, tokens, entropy_tokens, self.sampling.max_new_tokens)
            step = rollouts._replace(window=window, fresh=iteration == 0 and not batches)
            batches += [step.select(part) for part in chosen.tensor_split(parts)]
        return batches

    def score(
        self, lm: nn.Module, batch: CompletionBatch, value_head: nn.Module | None = None, entropy_gradient: bool = False
    ) -> TokenScores:
        """Score completions at the temperature they were sampled with."""
        return score_completions(
            lm,
            batch,
            temperature=self.sampling.temperature,
            value_head=value_head,
            entropy_gradient=entropy_gradient,
        )

    # --- learning ---------------------------------------------------------------------------------------------------

    def training_step(self, batch: RolloutBatch, batch_idx: int) -> torch.Tensor:
        """This micro-batch's share of the window's loss."""
        bonus = self.loss.wants_entropy_gradient
        scores = self.score(self.lm, batch.batch, self.value_head, entropy_gradient=bonus)
        step = step_loss(batch, scores, self.loss, self.value, entropy_coef=self.entropy.coefficient)
        self._step.add(step.shares, step.extremes)
        if (batch_idx + 1) % self.trainer.accumulate_grad_batches == 0 or self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._log_step()
        # Lightning divides by the accumulated batches and the strategy averages over processes; the window's totals
        # already cover both.
        return step.loss * self.trainer.accumulate_grad_batches * self.trainer.world_size

    def _log_step(self) -> None:
        """Log an optimizer step with its last micro-batch."""
        found = self._step.pop(partial(gather, self))
        self._mean_entropy = found.get("entropy_bonus", math.nan)
        # What is said of a window's first step alone holds for the window.
        self.windows.metrics.update({name: found[name] for name in found if name.startswith("sampling/")})
        if self.loss.use_adaptive_entropy:
            found["entropy_coef"] = self.entropy.weight
        now = time.perf_counter()
        found.update(self.windows.metrics, step_time=now - self._clock)
        self._clock = now
        # Lightning repeats the last value of what is not logged: what this step has no value for is logged as NaN.
        self._logged |= found.keys()
        found |= dict.fromkeys(self._logged - found.keys(), math.nan)
        self.log("loss", found.pop("loss"), prog_bar=True, batch_size=1)
        self.log("reward", found.pop("reward", math.nan), prog_bar=True, batch_size=1)
        self.log_dict(found, batch_size=1)

    def on_train_start(self) -> None:
        """The first step's time begins here."""
        self._clock = time.perf_counter()

    def on_validation_start(self) -> None:
        """A step's time leaves validation out."""
        self._paused = time.perf_counter()

    def on_validation_end(self) -> None:
        """The step's time goes on."""
        self._clock += time.perf_counter() - self._paused

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Optimizer | LightningOptimizer, optimizer_closure: Any = None
    ) -> None:
        """After the step, what follows the policy follows: the entropy coefficient and the reference."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if math.isfinite(self._mean_entropy):  # a step of a policy that broke down was skipped, and says nothing
            self.entropy.update(self._mean_entropy)
        settings = self.reference_settings
        if settings.sync_ref_model and (self.trainer.global_step + 1) % settings.ref_model_sync_steps == 0:
            follow(self.lm, self._modules.get("reference"), settings.ref_model_mixup_alpha)

    # --- checkpoints ------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the window in progress, so that a killed run goes on with the very same completions."""
        super().on_save_checkpoint(checkpoint)
        window = None if self._window is None else self._window.as_dict()
        checkpoint[ROLLOUTS] = {
            "windows": gather_objects(self._trainer, window),
            "sizes": self._sizes,
            "metrics": self.windows.metrics,
            "tokens": self.windows.tokens,
            "entropy": self.entropy.state_dict(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the window in progress; a reference is of no use but to learn."""
        if not self._learns or self.reference_kind in ("none", "adapter_off"):
            drop_reference(checkpoint["state_dict"])
        super().on_load_checkpoint(checkpoint)
        check_beside(set(self.state_dict()), set(checkpoint["state_dict"]))
        stored = checkpoint.get(ROLLOUTS)
        if stored and self._trainer is not None:
            self.entropy.load_state_dict(stored["entropy"])
            self._resumed_sizes = stored["sizes"]
            begin_step_again(checkpoint["loops"], stored["sizes"]["trainer.accumulate_grad_batches"])
            self.windows.metrics, self.windows.tokens = stored["metrics"], stored["tokens"]
            windows = stored["windows"]
            if len(windows) == self.trainer.world_size and windows[self.global_rank] is not None:
                self._window = RolloutBatch.from_dict(windows[self.global_rank])
