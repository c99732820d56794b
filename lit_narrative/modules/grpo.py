"""Group relative policy optimisation (Shao et al. 2024) and its variants, on the rewards that a task offers.

Differences from the textbook: (1) dropout is off in sampling, scoring and training alike; (2) the log-probabilities
kept by the sampler serve as the old ones, nothing is scored twice; (3) the loss is divided by totals of the whole
optimizer step over all processes, so its gradient does not depend on the micro-batch size.
"""

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from lit_narrative.distributed import gather, gather_objects
from lit_narrative.errors import UserError
from lit_narrative.interrupts import may_be_left
from lit_narrative.lm.load import base_lm
from lit_narrative.lm.logprobs import CompletionBatch, Teacher, TokenScores, score_completions
from lit_narrative.lm.sampler import seeded_requests
from lit_narrative.lm.vectors.inject import describe_injector
from lit_narrative.modules.base import as_settings
from lit_narrative.modules.referenced import ReferencedModule
from lit_narrative.progress import batches_resumed
from lit_narrative.rl.advantages import Aggregation, Scale
from lit_narrative.rl.batch import RolloutBatch, split_minibatches, step_loss
from lit_narrative.rl.collector import RolloutCollector
from lit_narrative.rl.entropy import AdaptiveEntropy
from lit_narrative.rl.gae import ValueSettings
from lit_narrative.rl.loader import RolloutLoader
from lit_narrative.rl.loss_settings import LossSettings
from lit_narrative.rl.metrics import StepMetrics
from lit_narrative.rl.reference import DistillationSettings, ReferenceSettings, other_model
from lit_narrative.rl.rewards.base import AnyReward
from lit_narrative.rl.rewards.loading import RewardKey, split_rewards
from lit_narrative.rl.rewards.runner import RewardRunner, ScoringSettings
from lit_narrative.rl.sampling import CollectStep, rollout_seed
from lit_narrative.rl.served.sampler import ServedSampler, measure_drift
from lit_narrative.rl.served.settings import DriftBudget, ServedSettings
from lit_narrative.rl.settings import Advantage, BatchPlan, GRPOSettings
from lit_narrative.seeds import run_seed, stream_seed
from lit_narrative.views import Prompt, ScoredRollouts, prompt_number

ROLLOUTS = "rollouts"
"""Key of a checkpoint under which the state of the rollouts stands."""
TEACHER = "teacher."
"""The prefix of the teacher's weights in this module; checkpoints leave them out."""


class GRPOModule(ReferencedModule):
    """Policy gradient on rewarded completions, with clipping and a penalty for leaving the reference policy.

    One epoch of the Trainer is one cycle. A batch of the task's prompts, with ``num_generations`` completions each, is
    one rollout batch. Metric names follow TRL; ``docs/trl.md`` maps its options to these.

    Args:
        rewards: weight of each reward by name, as the task knows them, or ``package.module:function``; in Python the
            object or the function may stand in place of its name.
        num_generations: completions a prompt (the group), at least 2, or 1 with ``advantage: gae``.
        generation_batch_size: completions of a rollout batch over all processes; default: the task's ``batch_size`` x
            ``num_generations`` on each process.
        micro_batch_size: completions per forward and backward pass, default 32; set the Trainer's
            ``accumulate_grad_batches`` to the number of micro-batches that make one optimizer step.
        steps_per_generation: micro-batches in one pass over a rollout batch, in place of ``micro_batch_size``.
        num_iterations: passes over each rollout batch (mu).
        loss: the policy loss.
        advantage: what a completion is compared with: ``group`` the mean of its group (GRPO), ``rloo`` the mean of the
            others (Ahmadian et al. 2024), ``gae`` a learned value, token by token (PPO).
        scale_rewards: divide advantages by the deviation of the group, of the batch, or not; default: group, and with
            ``gae`` batch, which also takes the mean off.
        multi_objective_aggregation: add up rewards and then normalise, or the other way round (GDPO).
        value: the value head of ``gae``.
        reference: the policy that the divergence keeps this one near to.
        distillation: a teacher that the policy comes nearer to on what it writes, beside the rewards or, with
            ``rewards: {}``, in place of them.
        scoring: how rewards are run.
        served: a server that draws the rollouts, in place of the sampler in this process (docs/served.md).
        dynamic_sampling: how often at most groups whose completions all have the same reward, which teach nothing, are
            replaced by those of other prompts (DAPO, Yu et al. 2025, section 3.2); 0 is off.
        curriculum: share of the prompts of a rollout batch that are drawn from those seen before, in proportion to the
            deviation of the rewards within their groups; from 0, off, to below 1.
        shuffle_rewards: permute the rewards over the batch: a control run, which should learn nothing. Names of
            rewards: permute these alone, so that what they say of a completion is of another one.
        **kwargs: of `LanguageModule`.
    """

    view = "prompts"
    counts_batches = True

    def __init__(
        self,
        rewards: Mapping[RewardKey, float],
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
        distillation: DistillationSettings = DistillationSettings(),  # noqa: B008
        scoring: ScoringSettings = ScoringSettings(),  # noqa: B008
        served: ServedSettings | None = None,
        dynamic_sampling: int = 0,
        curriculum: float = 0.0,
        shuffle_rewards: bool | Sequence[str] = False,
        **kwargs: Any,
    ) -> None:
        named, given = split_rewards(rewards)
        rewards = named  # type: ignore[assignment]  # so that checkpoints and loggers get names alone
        super().__init__(**kwargs)
        loss = as_settings(loss, LossSettings)
        reference = self.take_reference(as_settings(reference, ReferenceSettings), bool(loss.beta))
        self.settings = GRPOSettings(
            rewards=named,
            plan=BatchPlan(
                num_generations, generation_batch_size, micro_batch_size, steps_per_generation, num_iterations
            ),
            sampling=self.sampling,
            turns=self.turns,
            lora=self.lora,
            loss=loss,
            advantage=advantage,
            scale_rewards=scale_rewards,
            multi_objective_aggregation=multi_objective_aggregation,
            value=as_settings(value, ValueSettings),
            reference=reference,
            distillation=as_settings(distillation, DistillationSettings),
            served=as_settings(served, ServedSettings),
            dynamic_sampling=dynamic_sampling,
            curriculum=curriculum,
            shuffle_rewards=shuffle_rewards,
        )
        self.reference_settings, self.reference_kind = reference, self.settings.reference_kind
        self.scoring = as_settings(scoring, ScoringSettings)
        self.value_head: nn.Module | None = None
        self.given_rewards, self.reward_functions = given, dict[str, AnyReward]()
        self.collector = RolloutCollector(self.settings, RewardRunner({}))
        self.served: ServedSampler | None = None
        self.scored: ScoredRollouts | None = None
        self.entropy = AdaptiveEntropy(self.settings.loss)
        self._rollout_batch: RolloutBatch | None = None
        self._rollout_metrics: dict[str, float] = {}
        self._prompts: Sequence[Prompt] = ()
        self._step = StepMetrics()
        self._mean_entropy = math.inf
        self._clock = self._paused = 0.0
        self._logged: set[str] = set()
        self._collected: tuple[int, int] | None = None  # epoch and number of the rollout batch

    @property
    def plan(self) -> BatchPlan:
        """Sizes of a rollout batch."""
        return self.settings.plan

    # --- building ---------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Ask the task for the rewards, so that an unknown name fails before any work."""
        super().setup(stage)
        self._collected = None
        if stage == "fit":
            names = [name for name in self.settings.rewards if name not in self.given_rewards]
            self.check_paths("rewards", names)
            known = {**self.task.reward_functions(names), **self.given_rewards}
            self.reward_functions = {name: known[name] for name in self.settings.rewards}
            collector = RolloutCollector(
                self.settings,
                RewardRunner(self.reward_functions, self.scoring),
                gather=partial(gather, self),
                rank=self.global_rank,
            )
            collector.load_state_dict(self.collector.state_dict())  # a module that is fitted again counts on
            self.collector = collector
            if (served := self.settings.served) is not None:
                where = Path(self.trainer.default_root_dir, "served")
                broadcast = self.trainer.strategy.broadcast
                everyone = partial(gather_objects, self.trainer)
                self.served = ServedSampler(served, where, self.global_rank, broadcast, everyone)
                self.drift = DriftBudget(served)

    def teardown(self, stage: str) -> None:
        """End the processes that score; remove the weights that were written for a server."""
        self.collector.close()
        if self.served is not None:
            self.served.close()

    def set_model(self, lm: nn.Module, tokenizer: PreTrainedTokenizerBase) -> None:
        """Take a policy; what stood beside another one goes."""
        self.value_head = None
        self._modules.pop("teacher", None)
        super().set_model(lm, tokenizer)

    def build_auxiliary(self) -> None:
        """Build the value head, and where the run learns the reference and the teacher."""
        if self.settings.advantage == "gae" and self.value_head is None:
            width, like = base_lm(self.lm).config.get_text_config().hidden_size, next(self.lm.parameters())
            self.value_head = nn.Linear(width, 1, device=like.device, dtype=like.dtype)
            nn.init.zeros_(self.value_head.weight)
            nn.init.zeros_(self.value_head.bias)
        if self.uses_reference and self.settings.distillation.model is not None and "teacher" not in self._modules:
            self.teacher = self._read_teacher(self.settings.distillation.model)
        super().build_auxiliary()

    def _read_teacher(self, name: str) -> nn.Module:
        """The teacher of distillation.

        Raises:
            UserError: it has another vocabulary, or cannot teach this policy.
        """
        if self.device_mesh is not None:
            raise UserError("model.distillation is not for trainer.strategy=fsdp2, which spreads weights; take ddp")
        if describe_injector(self.lm):
            raise UserError(
                "model.distillation: the policy reads injected vectors, which a teacher cannot; leave it out"
            )
        return other_model("model.distillation.model", name, self.tokenizer, self.source)

    # --- rollout batches --------------------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        """Read all rows; then see that a server samples from the policy, before anything is learned."""
        super().on_fit_start()
        if self.served is not None:
            with self._rollout_sampler():
                self.drift.check(measure_drift(self, self.task.rows_for(self.view, "train")[:1]))

    @contextmanager
    def _rollout_sampler(self) -> Iterator[None]:
        """Within it a server that draws the rollouts stands in place of the sampler, and has the weights of now."""
        sampler = self.sampler
        if self.served is not None:
            self.served.update(self.lm, self.tokenizer, self.trainer.global_step)
            self.sampler = self.served
        try:
            yield
        finally:
            self.sampler = sampler

    def train_batch_size(self, batch_size: int, world_size: int) -> int:
        """Prompts of a rollout batch on each process."""
        return self.plan.prompts(batch_size, world_size)

    def wrap_train_loader(self, loader: DataLoader[Any]) -> Iterable[RolloutBatch]:
        """Rollouts in place of prompts."""
        sizes = self.plan.check(
            int(loader.batch_size or 1),
            len(loader),
            accumulate=self.trainer.accumulate_grad_batches,
            limit=self.trainer.limit_train_batches or 0,
            world_size=self.trainer.world_size,
            dry_run=bool(self.trainer.fast_dev_run),  # type: ignore[attr-defined]
        )
        self._prompts = loader.dataset  # type: ignore[assignment]
        resumed = partial(batches_resumed, self.trainer)
        return RolloutLoader(loader, self, sizes, resumed, lambda: self.trainer.num_training_batches)

    def rollout_batch(
        self, prompts: Sequence[Prompt], number: int, resumed: bool, following: Sequence[Prompt] | None
    ) -> RolloutBatch:
        """Collect a rollout batch; after a kill in its middle, take it from the checkpoint."""
        step = CollectStep(self.current_epoch, number, self.trainer.global_step)
        # A kill within its first optimizer step repeats the step: no batch was learned from, yet this one is there.
        fresh = not resumed and self._collected != (self.current_epoch, number)
        ahead = self.settings.served is not None and self.settings.served.ahead
        if fresh or (ahead and following is not None):
            # Sampling takes long and changes nothing before its end; several processes leave together, after a step.
            with may_be_left(alone=self.trainer.world_size == 1), self._rollout_sampler():
                if ahead:
                    self._draw_ahead(prompts if fresh else None, following, step)
                if fresh:
                    self._collect(prompts, step)
        assert self._rollout_batch is not None
        return self._rollout_batch

    def _draw_ahead(
        self, prompts: Sequence[Prompt] | None, following: Sequence[Prompt] | None, step: CollectStep
    ) -> None:
        """Have the prompts' completions drawn, unless they are; then ask for those of the following rollout batch."""
        assert self.served is not None
        if prompts is not None and not self.served.drawn:  # the first batch of an epoch, or after a resume
            self._ask_server(prompts, step)
            self.served.wait()
        if following is not None:
            self._ask_server(following, step._replace(number=step.number + 1))

    def _ask_server(self, prompts: Sequence[Prompt], step: CollectStep) -> None:
        assert self.served is not None
        ids = self.prompt_reader().encode([prompt.text for prompt in prompts])
        streams = [prompt_number(prompt) for prompt in prompts]
        requests = seeded_requests(prompts, ids, self.settings.num_generations, rollout_seed(step), streams)
        self.served.start(self.lm, self.tokenizer, requests, self.sampling)

    def _collect(self, prompts: Sequence[Prompt], step: CollectStep) -> None:
        collected = self.collector.collect(self, prompts, step, self._prompts)
        self._rollout_batch, self.scored, self._rollout_metrics = collected
        self._collected = (step.epoch, step.number)
        if self.served is not None:
            self.drift.update(collected.metrics["sampling/sampling_logp_difference/mean"])
            self._rollout_metrics["sampling/staleness"] = float(step.optimizer_steps - self.served.drawn_step)

    def split_minibatches(self, rollouts: RolloutBatch, number: int, iteration: int) -> list[RolloutBatch]:
        """Micro-batches of one pass over a rollout batch: rows go to optimizer steps at random."""
        parts, rows = self.trainer.accumulate_grad_batches, len(rollouts.mask)
        seed = stream_seed(run_seed(), self.current_epoch, number, 2 + iteration)
        return split_minibatches(
            rollouts,
            math.ceil(rows / self.plan.micro_batch_rows(rows)) // parts,
            parts,
            generator=torch.Generator().manual_seed(seed),
            gather=partial(gather, self),
            max_completion_length=self.settings.max_completion_length,
            first_pass=iteration == 0,
        )

    def score(
        self,
        lm: nn.Module,
        batch: CompletionBatch,
        value_head: nn.Module | None = None,
        entropy: bool = False,
        teacher: Teacher | None = None,
    ) -> TokenScores:
        """Score completions at the temperature they were sampled with."""
        return score_completions(
            lm,
            batch.to(self.device),
            temperature=self.sampling.temperature,
            entropy=entropy,
            value_head=value_head,
            teacher=teacher,
        )

    # --- learning ---------------------------------------------------------------------------------------------------

    def training_step(self, batch: RolloutBatch, batch_idx: int) -> torch.Tensor:
        """This micro-batch's part of the optimizer step's loss."""
        settings, lm = self.settings, self._modules.get("teacher")
        teacher = None if lm is None else Teacher(lm, settings.distillation.beta)
        # The entropy is logged also where it is no bonus.
        scores = self.score(self.lm, batch.batch, self.value_head, entropy=True, teacher=teacher)
        step = step_loss(
            batch,
            scores,
            settings.loss,
            settings.value,
            entropy_coef=self.entropy.coefficient,
            distillation_weight=settings.distillation.weight,
        )
        self._step.add(step.sums, step.min_max)
        if (batch_idx + 1) % self.trainer.accumulate_grad_batches == 0 or self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._log_step()
        # Lightning divides by the accumulated batches and the strategy averages over processes; the step's totals
        # already cover both.
        return step.loss * self.trainer.accumulate_grad_batches * self.trainer.world_size

    def _log_step(self) -> None:
        """Log an optimizer step with its last micro-batch."""
        metrics = self._step.pop(partial(gather, self))
        self._mean_entropy = metrics.get("entropy_bonus", math.nan)
        # The drift of the sampler is measured in the first step of a rollout batch and logged with all of its steps.
        self._rollout_metrics |= {name: metrics[name] for name in metrics if name.startswith("sampling/")}
        if self.settings.loss.use_adaptive_entropy:
            metrics["entropy_coef"] = self.entropy.weight
        now = time.perf_counter()
        metrics.update(self._rollout_metrics, step_time=now - self._clock)
        self._clock = now
        # Lightning repeats the last value of what is not logged, so a metric without a value in this step is logged as
        # NaN.
        self._logged |= metrics.keys()
        metrics |= dict.fromkeys(self._logged - metrics.keys(), math.nan)
        self.log("loss", metrics.pop("loss"), prog_bar=True, batch_size=1)
        self.log("reward", metrics.pop("reward", math.nan), prog_bar=True, batch_size=1)
        self.log_dict(metrics, batch_size=1)

    def on_train_start(self) -> None:
        """The first step's time begins here."""
        self._clock, self._step = time.perf_counter(), StepMetrics()

    def on_train_epoch_end(self) -> None:
        """What was asked for ahead is of no use where the Trainer ended the epoch early."""
        if self.served is not None:
            self.served.forget()

    def on_validation_start(self) -> None:
        """A step's time leaves validation out."""
        self._paused = time.perf_counter()

    def on_validation_end(self) -> None:
        """The step's time resumes."""
        self._clock += time.perf_counter() - self._paused

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Optimizer | LightningOptimizer, optimizer_closure: Any = None
    ) -> None:
        """Make the step; then update the entropy coefficient."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if math.isfinite(self._mean_entropy):  # a step of a policy that broke down was skipped, and says nothing
            self.entropy.update(self._mean_entropy)

    # --- checkpoints ------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the rollout batch in progress, so that a killed run resumes with the very same completions."""
        super().on_save_checkpoint(checkpoint)
        for name in [name for name in checkpoint["state_dict"] if name.startswith(TEACHER)]:
            del checkpoint["state_dict"][name]  # it never changes, and is read by its name
        rollouts = None if self._rollout_batch is None else self._rollout_batch.as_dict()
        checkpoint[ROLLOUTS] = {
            "batches": gather_objects(self.attached, rollouts),
            "metrics": self._rollout_metrics,
            "logged": sorted(self._logged),
            "collected": self._collected,
            "entropy": self.entropy.state_dict(),
            **self.collector.state_dict(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the rollout batch in progress; a run that does not learn leaves the reference as it is."""
        super().on_load_checkpoint(checkpoint)
        # Strict loading asks for every weight of the module.
        taught = {name: value for name, value in self.state_dict().items() if name.startswith(TEACHER)}
        checkpoint["state_dict"].update(taught)
        stored = checkpoint.get(ROLLOUTS)
        if not stored or self.attached is None:
            return
        self.entropy.load_state_dict(stored["entropy"])
        self.collector.load_state_dict(stored)
        self._rollout_metrics = stored["metrics"]
        self._logged = set(stored.get("logged", ()))
        batches = stored["batches"] if "batches" in stored else stored["windows"]  # the key of older checkpoints
        if len(batches) == self.trainer.world_size and batches[self.global_rank] is not None:
            self._rollout_batch = RolloutBatch.from_dict(batches[self.global_rank])
            self._collected = stored.get("collected")
