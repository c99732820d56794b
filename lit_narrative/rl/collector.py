"""Making a window: sample completions, score them, look back at them, and tell how good each was.

A window is what is learned from before the policy samples again. Everything here happens once a window and process;
statistics are over the rollouts of all processes.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from lit_narrative.distributed import gather, gather_ragged
from lit_narrative.lm.logprobs import to_rows
from lit_narrative.lm.sentences import sentence_ids
from lit_narrative.rl.advantages import nanstd, score_advantages, weighted_sum
from lit_narrative.rl.batch import RolloutBatch
from lit_narrative.rl.gae import gae
from lit_narrative.rl.losses import entropy_threshold
from lit_narrative.rl.metrics import StepMetrics, rollout_metrics
from lit_narrative.rl.ratios import importance_ratio, kl_divergence
from lit_narrative.rl.reference import adapters_of_reference
from lit_narrative.seeds import run_seed, stream_seed
from lit_narrative.views import Prompt, Rollout, ScoredRollouts

if TYPE_CHECKING:
    from lit_narrative.modules.grpo import GRPOModule


SHUFFLE, REPLACE = 1, 1000
"""Numbers of the random streams of a window, beside those of its passes."""


class Drawn(NamedTuple):
    """Sampled and scored completions of this process: R of them, k rewards."""

    rollouts: list[Rollout]
    rewards: torch.Tensor
    metrics: dict[str, float]


class LookedBack(NamedTuple):
    """What a model thinks of completions now: (R, T) each, zeros off the completions."""

    logprobs: torch.Tensor
    entropy: torch.Tensor
    values: torch.Tensor | None


class Windows:
    """Makes the windows of a module.

    Attributes:
        prompts: training prompts of all processes, to draw others from.
        metrics: of the latest window, under TRL's names.
        tokens: read and written by the policy in sampling so far, over all processes.
    """

    def __init__(self, module: "GRPOModule") -> None:
        self.module = module
        self.prompts: Any = ()
        self.metrics: dict[str, float] = {}
        self.tokens = 0

    @torch.no_grad()
    def make(self, prompts: Sequence[Prompt], number: int) -> tuple[RolloutBatch, ScoredRollouts]:
        """Window ``number`` of this epoch."""
        drawn = self._draw(prompts, number)
        window = RolloutBatch.of(drawn.rollouts)
        if self.module.loss.mask_truncated_completions:
            window = window._replace(counted=torch.tensor([rollout.finished for rollout in drawn.rollouts]))
        if self.module.loss.importance_sampling_level == "sentence":
            window = window._replace(sentences=sentence_ids(self.module.tokenizer, window.completion_ids, window.mask))
        window = self._under_reference(window)
        if self.module.value_head is not None and self.module.trainer.global_step == 0:
            self._start_values(drawn.rewards)
        window, metrics = self._under_policy(window)
        window, scored, rewarded = self._judge(window, drawn, number)
        self.metrics = {**drawn.metrics, **metrics, **rewarded}
        return window, scored

    # --- sampling ---------------------------------------------------------------------------------------------------

    def _draw(self, prompts: Sequence[Prompt], number: int) -> Drawn:
        """Sample and score; groups that teach nothing are drawn again from other prompts, a few times at most."""
        module = self.module
        group, rounds = module.num_generations, module.dynamic_sampling
        rollouts, rewards, failures = self._sample(prompts, prompts, number, 0)
        replaced = torch.zeros(())
        for again in range(1, rounds + 1):
            stale = self._stale(rewards)
            if not self._total(torch.tensor(float(len(stale)))):
                break
            replaced += len(stale)
            failed = [prompts[place] for place in stale]
            others = [self._replacement(prompt, number, again) for prompt in failed]
            fresh, scores, failed_again = self._sample(others, failed, number, again)
            failures = failures + failed_again
            for place, start in zip(stale, range(0, len(fresh), group), strict=True):
                rows = slice(place * group, (place + 1) * group)
                rollouts[rows] = [replace(rollout, group=place) for rollout in fresh[start : start + group]]
                rewards[rows] = scores[start : start + group]
        metrics = {
            f"rewards/{name}/failures": float(count)
            for name, count in zip(module.reward_weights, self._total(failures), strict=True)
        }
        if rounds:
            left = torch.tensor(float(len(self._stale(rewards))))
            metrics["dynamic_sampling/replaced"] = float(self._total(replaced))
            metrics["dynamic_sampling/left"] = float(self._total(left))
        return Drawn(rollouts, rewards, metrics)

    def _sample(
        self, prompts: Sequence[Prompt], keys: Sequence[Prompt], number: int, again: int
    ) -> tuple[list[Rollout], torch.Tensor, torch.Tensor]:
        """Rollouts, their rewards (R, k), and how many completions each reward failed on (k,).

        The random streams belong to ``keys``: a prompt that is drawn twice in one round is then completed differently.
        """
        module = self.module
        seed = stream_seed(run_seed(), module.current_epoch, number)
        seed = stream_seed(seed, REPLACE + again) if again else seed
        streams = [int(prompt.columns["index"]) for prompt in keys]
        rollouts = module.generate(prompts, module.num_generations, seed, streams=streams)
        scores = module.scorer.score(rollouts, again=again > 0)
        failures = torch.tensor([float(scores.failures.get(name, 0)) for name in module.reward_weights])
        return rollouts, scores.values, failures

    def _stale(self, rewards: torch.Tensor) -> list[int]:
        """Groups of this process whose completions are all worth the same."""
        totals = weighted_sum(rewards, self.module.weights).view(-1, self.module.num_generations)
        return (nanstd(totals).squeeze(1).nan_to_num() < 1e-8).nonzero().flatten().tolist()

    def _replacement(self, failed: Prompt, number: int, again: int) -> Prompt:
        """Another training prompt, the same on any number of processes."""
        index = int(failed.columns["index"])
        seed = stream_seed(run_seed(), self.module.current_epoch, number, REPLACE + again, index)
        return self.prompts[seed % len(self.prompts)]

    # --- looking back -----------------------------------------------------------------------------------------------

    def _under_reference(self, window: RolloutBatch) -> RolloutBatch:
        """Score the window under the reference."""
        module = self.module
        if module.reference_kind == "none":
            return window
        speaks: AbstractContextManager[object] = nullcontext()
        if module.reference_kind == "adapter_off":
            speaks = module.lm.disable_adapter()  # type: ignore[operator]
        elif module.reference_kind == "adapter_copy":
            speaks = adapters_of_reference(module.lm)
        with speaks:
            model = module.reference if module.reference_kind == "copy" else module.lm
            return window._replace(reference=self._look_back(window, model).logprobs)

    def _start_values(self, rewards: torch.Tensor) -> None:
        """Let the value head begin at the mean reward, so that its first advantages are not all of one sign."""
        mean = weighted_sum(gather(self.module, rewards), self.module.weights).nanmean()
        self.module.value_head.bias.fill_(float(mean.nan_to_num()))  # type: ignore[union-attr,operator]

    def _under_policy(self, window: RolloutBatch) -> tuple[RolloutBatch, dict[str, float]]:
        """Score the window under the policy again, for what the sampler does not tell: values, entropy, drift."""
        module, loss = self.module, self.module.loss
        filtered = loss.top_entropy_quantile < 1
        if not (filtered or loss.importance_sampling_mode or module.value_head):
            return window, {}
        seen = self._look_back(window, module.lm, module.value_head)
        metrics: dict[str, float] = {}
        window = window._replace(values=seen.values)
        if loss.importance_sampling_mode:
            ratio, drift = importance_ratio(
                seen.logprobs,
                window.old,
                window.mask,
                loss.importance_sampling_mode,
                loss.importance_sampling_clip_min,
                loss.importance_sampling_clip_max,
            )
            window = window._replace(sampler=window.old, old=seen.logprobs, is_ratio=ratio)
            metrics = self._everywhere(drift)
        if filtered:
            everyone = gather_ragged(module, seen.entropy[window.learned])
            threshold = entropy_threshold(everyone, loss.top_entropy_quantile)
            window = window._replace(keep=(seen.entropy >= threshold) & window.learned)
        return window, metrics

    def _look_back(self, window: RolloutBatch, lm: nn.Module, value_head: nn.Module | None = None) -> LookedBack:
        module = self.module
        found = [torch.zeros_like(window.old) for _ in range(3)]
        with module.precision():
            for rows in window.by_length(module.plan.rows(len(window.mask))):
                part = window.select(rows)
                scores = module.score(lm, part.batch.to(module.device), value_head)
                for kept, values in zip(found, scores, strict=True):
                    if values is not None:
                        kept[rows, : part.mask.shape[1]] = to_rows(values.float().cpu(), part.mask)
        return LookedBack(found[0], found[1], found[2] if value_head is not None else None)

    # --- judging ----------------------------------------------------------------------------------------------------

    def _judge(
        self, window: RolloutBatch, drawn: Drawn, number: int
    ) -> tuple[RolloutBatch, ScoredRollouts, dict[str, float]]:
        """Advantages of this process's rollouts; statistics are over all processes."""
        module, rollouts = self.module, drawn.rollouts
        divergence = self._divergence(window)
        lengths = window.mask.sum(1).float()
        finished = torch.tensor([float(rollout.finished) for rollout in rollouts])
        read = torch.tensor([float(len(rollout.prompt_ids)) for rollout in rollouts])
        facts = torch.stack([divergence.sum(1), lengths, finished, read], 1)
        table = gather(module, torch.cat([drawn.rewards, facts], dim=1))
        rewards, (penalty, all_lengths, all_finished, all_read) = table[:, :-4], table[:, -4:].T
        if module.shuffle_rewards:
            seed = stream_seed(run_seed(), module.current_epoch, number, SHUFFLE)
            rewards = rewards[torch.randperm(len(rewards), generator=torch.Generator().manual_seed(seed))]
        totals = weighted_sum(rewards, module.weights)
        own = slice(module.global_rank * len(rollouts), (module.global_rank + 1) * len(rollouts))
        by_name = dict(zip(module.reward_weights, rewards.T, strict=True))
        self.tokens += int(all_lengths.sum() + all_read.sum())
        metrics = rollout_metrics(
            by_name,
            totals,
            all_lengths,
            all_finished,
            module.num_generations,
            scale=module.scale_rewards,
            aggregation=module.multi_objective_aggregation,
        )

        if module.advantage == "gae":
            counted = window.counted & ~totals[own].isnan()  # nothing is known of the value of the others
            window = self._gae(window._replace(counted=counted), totals[own], divergence)
        else:
            window = window._replace(advantages=self._group_advantages(rewards, penalty)[own])
        kept = {name: values[own] for name, values in by_name.items()}
        worth = window.advantages if window.advantages.ndim == 1 else window.advantages.sum(1) / lengths
        scored = ScoredRollouts(module.current_epoch, number, rollouts, kept, totals[own], worth)
        return window, scored, {**metrics, "num_tokens": float(self.tokens)}

    def _divergence(self, window: RolloutBatch) -> torch.Tensor:
        """(R, T) what a token's leaving the reference costs its reward; zeros if it costs nothing there."""
        loss = self.module.loss
        if not loss.kl_in_reward or window.reference is None:
            return torch.zeros_like(window.old)
        return loss.beta * kl_divergence(window.old, window.reference, loss.kl_estimator) * window.mask

    def _group_advantages(self, rewards: torch.Tensor, penalty: torch.Tensor) -> torch.Tensor:
        """(R,) of all processes; the divergence is one more reward, with weight -1."""
        module, weights = self.module, self.module.weights
        if module.loss.kl_in_reward:
            unscored = rewards.isnan().all(1)
            rewards = torch.cat([rewards, penalty.masked_fill(unscored, torch.nan)[:, None]], dim=1)
            weights = torch.cat([weights, -torch.ones(1)])
        _, advantages = score_advantages(
            rewards,
            weights,
            module.num_generations,
            estimator=module.advantage,  # type: ignore[arg-type]
            scale=module.scale_rewards,
            aggregation=module.multi_objective_aggregation,
        )
        return advantages

    def _gae(self, window: RolloutBatch, totals: torch.Tensor, divergence: torch.Tensor) -> RolloutBatch:
        """Advantages of tokens by the value head: the reward comes with the last token (PPO, Schulman et al. 2017)."""
        module = self.module
        assert window.values is not None
        rewards = -divergence
        last = (window.mask.sum(1) - 1)[:, None]
        rewards.scatter_add_(1, last, totals.nan_to_num()[:, None])
        advantages, returns = gae(rewards, window.values, window.mask, gamma=module.value.gamma, lam=module.value.lam)
        learned = window.learned
        if module.scale_rewards == "batch":
            chosen = advantages[learned].double()
            moments = torch.stack([torch.ones_like(chosen), chosen, chosen.square()], 1).sum(0)
            count, total, squares = gather(module, moments[None]).sum(0)
            mean = total / count.clamp(min=1)
            deviation = (squares / count.clamp(min=1) - mean.square()).clamp(min=0).sqrt()
            advantages = (advantages - mean.float()) / (deviation.float() + 1e-8)
        return window._replace(advantages=advantages * learned, returns=returns)

    def _everywhere(self, metrics: Mapping[str, torch.Tensor]) -> dict[str, float]:
        """Means of the processes' means, extremes of their extremes."""
        step, means = StepMetrics(), {name for name in metrics if name.endswith("mean")}
        step.add(
            {name: metrics[name] / self.module.trainer.world_size for name in means},
            {name: value for name, value in metrics.items() if name not in means},
        )
        return step.pop(partial(gather, self.module))

    def _total(self, values: torch.Tensor) -> torch.Tensor:
        """Sum over processes."""
        return gather(self.module, values[None]).sum(0)
