"""Collection of a rollout batch: sample completions, reward them, score them under the reference, compute advantages.

Everything here happens once a rollout batch on each process; statistics are over the rollouts of all processes.

Notation: R completions of this process, N of all processes, T longest completion, k rewards.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from lit_narrative.distributed import gather_ragged
from lit_narrative.lm.logprobs import reduced_precision, to_rows
from lit_narrative.lm.sentences import sentence_ids
from lit_narrative.rl.advantages import score_advantages, weighted_sum
from lit_narrative.rl.batch import RolloutBatch
from lit_narrative.rl.gae import gae
from lit_narrative.rl.losses import entropy_threshold
from lit_narrative.rl.metrics import rollout_metrics
from lit_narrative.rl.ratios import importance_ratio, kl_divergence
from lit_narrative.rl.reference import reference_policy
from lit_narrative.rl.rewards.runner import RewardRunner
from lit_narrative.rl.sampling import CollectStep, Gather, GroupSampler, Policy, SampledRollouts
from lit_narrative.rl.settings import GRPOSettings
from lit_narrative.seeds import run_seed, stream_seed
from lit_narrative.views import Prompt, Rollout, ScoredRollouts

SHUFFLE = 1
"""Random stream of a rollout batch for `shuffle_rewards`, beside those of its passes, which begin at 2."""


class PolicyScores(NamedTuple):
    """Completions under a model as it is now: (R, T) each, zeros off the completions; None what was not asked for."""

    logprobs: torch.Tensor
    entropy: torch.Tensor | None
    values: torch.Tensor | None


class RolloutTable(NamedTuple):
    """Numbers of the completions of all processes, in order of rank: rewards (N, k), the others (N,).

    Attributes:
        rewards: NaN where a reward could not score.
        penalty: beta times the divergence of the completion from the reference, where that costs reward.
        lengths: tokens of the completion.
        finished: 1 where the policy ended the text itself.
        read: tokens of the prompt and of observations.
        turns: turns taken.
        untaken: 1 where a turn was not taken, since the observation was too long.
    """

    rewards: torch.Tensor
    penalty: torch.Tensor
    lengths: torch.Tensor
    finished: torch.Tensor
    read: torch.Tensor
    turns: torch.Tensor
    untaken: torch.Tensor


class Collected(NamedTuple):
    """A rollout batch to learn from, its rollouts as they were scored, and metrics under TRL's names."""

    batch: RolloutBatch
    scored: ScoredRollouts
    metrics: dict[str, float]


def one_process(values: torch.Tensor) -> torch.Tensor:
    """The rows of all processes where there is only this one."""
    return values


class RolloutCollector:
    """Collects rollout batches.

    Args:
        settings: of the run.
        scorer: of completions, by the rewards that the settings name, in their order.
        gather: puts the rows of all processes together.
        rank: of this process, whose rows ``gather`` puts at that position.

    Attributes:
        tokens: read and written by the policy so far, over all processes.
    """

    def __init__(
        self, settings: GRPOSettings, scorer: RewardRunner, gather: Gather = one_process, rank: int = 0
    ) -> None:
        self.settings, self.gather, self.rank = settings, gather, rank
        self.sampler = GroupSampler(settings, scorer, gather)
        self.tokens = 0

    def close(self) -> None:
        """End the processes that score."""
        self.sampler.scorer.close()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"tokens": self.tokens, "curriculum": self.sampler.curriculum.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Undo `state_dict`; older checkpoints know nothing of prompts."""
        self.tokens = state["tokens"]
        if "curriculum" in state:
            self.sampler.curriculum.load_state_dict(state["curriculum"])

    @torch.no_grad()
    def collect(
        self, policy: Policy, prompts: Sequence[Prompt], step: CollectStep, pool: Sequence[Prompt] = ()
    ) -> Collected:
        """Collect a rollout batch.

        Args:
            policy: what samples and scores.
            prompts: this process's, one for each group; their ``index`` column numbers their random streams.
            step: where the run stands.
            pool: all training prompts, to draw replacements from with ``dynamic_sampling``.
        """
        sampled = self.sampler.sample(policy, prompts, step, pool)
        batch = self._layout(policy, sampled.rollouts)
        with reference_policy(self.settings.reference_kind, policy.lm, policy.reference_copy) as reference:
            if reference is not None:
                batch = batch._replace(reference=self._score_under(reference, policy, batch).logprobs)
        # Before the first step only: later the bias is learned, and a resumed run must keep it.
        if policy.value_head is not None and step.optimizer_steps == 0:
            self._start_values(policy.value_head, sampled.rewards)
        batch, rescored = self._score_policy(policy, batch)
        batch, scored, rewarded = self._compute_advantages(batch, sampled, step)
        return Collected(batch, scored, {**sampled.metrics, **rescored, **rewarded})

    # --- scoring ----------------------------------------------------------------------------------------------------

    def _layout(self, policy: Policy, rollouts: Sequence[Rollout]) -> RolloutBatch:
        """Rollouts as tensors, with the masks and sentences that the loss asks for."""
        loss, batch = self.settings.loss, RolloutBatch.of(rollouts)
        if loss.mask_truncated_completions:
            batch = batch._replace(row_mask=torch.tensor([rollout.finished for rollout in rollouts]))
        if loss.importance_sampling_level == "sentence":
            batch = batch._replace(sentences=sentence_ids(policy.tokenizer, batch.completion_ids, batch.mask))
        return batch

    def _start_values(self, value_head: Any, rewards: torch.Tensor) -> None:
        """Let the value head begin at the mean reward, so that its first advantages are not all of one sign."""
        mean = weighted_sum(self.gather(rewards), self.settings.weights).nanmean()
        value_head.bias.fill_(float(mean.nan_to_num()))

    def _score_policy(self, policy: Policy, batch: RolloutBatch) -> tuple[RolloutBatch, dict[str, float]]:
        """Score the completions under the policy, for what the sampler does not keep: values, entropy, drift."""
        loss, metrics = self.settings.loss, dict[str, float]()
        filtered = loss.top_entropy_quantile < 1
        with policy.precision():
            mode = loss.importance_mode(self.settings.served is not None or reduced_precision(policy.lm))
        if not (filtered or mode or policy.value_head):
            return batch, metrics
        scores = self._score_under(policy.lm, policy, batch, policy.value_head, entropy=filtered)
        batch = batch._replace(values=scores.values)
        if mode:
            ratio, drift = importance_ratio(
                scores.logprobs,
                batch.old,
                batch.mask,
                mode,
                loss.importance_sampling_clip_min,
                loss.importance_sampling_clip_max,
            )
            # Ratios of the update compare the trainer with the trainer; how it differs from the sampler is in
            # `is_ratio` alone.
            batch = batch._replace(sampler=batch.old, old=scores.logprobs, is_ratio=ratio)
            metrics = self._reduce_metrics(drift)
        if scores.entropy is not None:
            # One threshold for the tokens of all processes: it may not depend on how the rows are spread. They have
            # different numbers of tokens, hence the ragged gather.
            entropies = gather_ragged(self.gather, scores.entropy[batch.loss_mask])
            threshold = entropy_threshold(entropies, loss.top_entropy_quantile)
            batch = batch._replace(keep=(scores.entropy >= threshold) & batch.loss_mask)
        return batch, metrics

    def _score_under(
        self,
        lm: nn.Module,
        policy: Policy,
        batch: RolloutBatch,
        value_head: nn.Module | None = None,
        entropy: bool = False,
    ) -> PolicyScores:
        """Score all completions under ``lm``, a micro-batch at a time."""
        asked = (True, entropy, value_head is not None)
        scores = PolicyScores(*(torch.zeros_like(batch.old) if wanted else None for wanted in asked))  # type: ignore[arg-type]
        # The Trainer opens its autocast around training steps alone, and rollouts are made outside of them;
        # log-probabilities then and now must share a precision.
        with policy.precision():
            for rows in batch.by_length(self.settings.plan.micro_batch_rows(len(batch.mask))):
                part = batch.select(rows)
                found = policy.score(lm, part.batch, value_head, entropy)
                for whole, values in zip(scores, (found.logprobs, found.entropy, found.values), strict=True):
                    if whole is not None and values is not None:
                        # A part is as wide as its own longest row; the columns behind stay 0. Results wait on the CPU,
                        # in float32.
                        whole[rows, : part.mask.shape[1]] = to_rows(values.float().cpu(), part.mask)
        return scores

    # --- advantages -------------------------------------------------------------------------------------------------

    def _compute_advantages(
        self, batch: RolloutBatch, sampled: SampledRollouts, step: CollectStep
    ) -> tuple[RolloutBatch, ScoredRollouts, dict[str, float]]:
        """Advantages of this process's rollouts, and what is logged of all of them."""
        settings, count = self.settings, len(sampled.rollouts)
        divergence = self._divergence(batch)
        table = self._gather_table(batch, sampled, divergence.sum(1))
        if settings.shuffled:
            seed = stream_seed(run_seed(), step.epoch, step.number, SHUFFLE)
            # The seed does not know the rank: every process permutes the gathered table alike.
            order = torch.randperm(len(table.rewards), generator=torch.Generator().manual_seed(seed))
            shuffled = torch.tensor([name in settings.shuffled for name in settings.rewards])
            table = table._replace(rewards=table.rewards[order].where(shuffled, table.rewards))
        totals = weighted_sum(table.rewards, settings.weights)
        # Each process has equally many completions, and `gather` keeps the order of ranks.
        local = slice(self.rank * count, (self.rank + 1) * count)
        if settings.advantage == "gae":
            # Nothing is known of the value of a completion that no reward could score.
            batch = batch._replace(row_mask=batch.row_mask & ~totals[local].isnan())
            batch = self._token_advantages(batch, totals[local], divergence)
        else:
            batch = batch._replace(advantages=self._group_advantages(table)[local])
        by_name = dict(zip(self.sampler.scorer.labels.values(), table.rewards.T, strict=True))
        rewards = {name: values[local] for name, values in by_name.items()}
        means = batch.advantages if batch.advantages.ndim == 1 else batch.advantages.sum(1) / batch.mask.sum(1)
        scored = ScoredRollouts(step.epoch, step.number, sampled.rollouts, rewards, totals[local], means)
        return batch, scored, self._metrics(table, by_name, totals)

    def _gather_table(self, batch: RolloutBatch, sampled: SampledRollouts, penalty: torch.Tensor) -> RolloutTable:
        counts = [
            [r.finished, len(r.prompt_ids) + sum(len(t.ids) for t in r.turns), 1 + len(r.turns), r.untaken]
            for r in sampled.rollouts
        ]
        columns = torch.cat([penalty[:, None], batch.mask.sum(1, keepdim=True), torch.tensor(counts)], 1).float()
        table = self.gather(torch.cat([sampled.rewards, columns], dim=1))  # one collective for all of them
        return RolloutTable(table[:, :-6], *table[:, -6:].T)

    def _metrics(
        self, table: RolloutTable, by_name: Mapping[str, torch.Tensor], totals: torch.Tensor
    ) -> dict[str, float]:
        """Metrics of the rollouts of all processes; counts their tokens."""
        self.tokens += int(table.lengths.sum() + table.read.sum())
        metrics = rollout_metrics(
            by_name,
            totals,
            table.lengths,
            table.finished,
            self.settings.num_generations,
            scale=self.settings.scale,
            aggregation=self.settings.multi_objective_aggregation,
        )
        if self.settings.turns is not None:
            metrics |= {"turns/mean": float(table.turns.mean()), "turns/untaken": float(table.untaken.mean())}
        return {**metrics, "num_tokens": float(self.tokens)}

    def _divergence(self, batch: RolloutBatch) -> torch.Tensor:
        """(R, T) what a token's divergence from the reference takes off its reward; zeros if it is in the loss."""
        loss = self.settings.loss
        if not loss.kl_in_reward or batch.reference is None:
            return torch.zeros_like(batch.old)
        return loss.beta * kl_divergence(batch.old, batch.reference, loss.kl_estimator) * batch.mask

    def _group_advantages(self, table: RolloutTable) -> torch.Tensor:
        """(N,) advantages within groups; the divergence is one more reward, with weight -1."""
        settings, rewards, weights = self.settings, table.rewards, self.settings.weights
        if settings.loss.kl_in_reward:
            # Without a reward a completion stays unscored: a penalty alone would make it the worst of its group.
            penalty = table.penalty.masked_fill(rewards.isnan().all(1), torch.nan)
            rewards = torch.cat([rewards, penalty[:, None]], dim=1)
            weights = torch.cat([weights, -torch.ones(1)])
        assert settings.advantage != "gae"
        _, advantages = score_advantages(
            rewards,
            weights,
            settings.num_generations,
            estimator=settings.advantage,
            scale=settings.scale,
            aggregation=settings.multi_objective_aggregation,
        )
        return advantages

    def _token_advantages(self, batch: RolloutBatch, totals: torch.Tensor, divergence: torch.Tensor) -> RolloutBatch:
        """(R, T) advantages by the value head: the reward comes with the last token (PPO, Schulman et al. 2017)."""
        assert batch.values is not None
        value, loss_mask = self.settings.value, batch.loss_mask
        last = (batch.mask.sum(1) - 1)[:, None]
        # Every token pays for its own divergence. NaN totals belong to rows masked above, yet would spread by the sums.
        rewards = (-divergence).scatter_add(1, last, totals.nan_to_num()[:, None])
        advantages, returns = gae(rewards, batch.values, batch.mask, gamma=value.gamma, lam=value.lam)
        if self.settings.scale == "batch":
            # In float64: a variance as a difference of large sums loses most of its digits in float32.
            chosen = advantages[loss_mask].double()
            count, total, squares = self._sum(torch.stack([torch.ones_like(chosen), chosen, chosen.square()], 1).sum(0))
            mean = total / count.clamp(min=1)
            # Rounding may leave a constant batch a variance just below 0.
            deviation = (squares / count.clamp(min=1) - mean.square()).clamp(min=0).sqrt()
            advantages = (advantages - mean.float()) / (deviation.float() + 1e-8)
        return batch._replace(advantages=advantages * loss_mask, returns=returns)

    # --- over all processes -----------------------------------------------------------------------------------------

    def _reduce_metrics(self, metrics: Mapping[str, torch.Tensor]) -> dict[str, float]:
        """Metrics named ``…/mean``, ``…/min`` and ``…/max`` over all processes: means of means, and so on."""
        columns = self.gather(torch.stack([value.float() for value in metrics.values()])[None]).T
        return {
            name: float(getattr(column, name.rpartition("/")[2])())
            for name, column in zip(metrics, columns, strict=True)
        }

    def _sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over processes."""
        return self.gather(values[None]).sum(0)
