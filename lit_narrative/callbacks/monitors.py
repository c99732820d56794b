"""Monitors of reinforcement learning: collapse of variety, distance from the reference, exploits of learned rewards."""

import logging
from collections.abc import Sequence
from statistics import fmean
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lit_narrative.callbacks.base import RolloutCallback, RolloutModule, task
from lit_narrative.distributed import gather_lists
from lit_narrative.errors import UserError, check_least
from lit_narrative.rl.rewards.learned import LearnedReward
from lit_narrative.rl.rewards.loading import metric_names
from lit_narrative.rl.rewards.penalties import repetition
from lit_narrative.views import ScoredRollouts

logger = logging.getLogger(__name__)


class CollapseMonitor(RolloutCallback):
    """Watches the variety of what the policy writes, and warns when it collapses.

    Logs ``completions/unique`` over each rollout batch, and the task's coarser levels of identity; and as
    ``train/<name>`` what the task says of a rollout batch at little cost (of storyworlds, ``train/sound``).

    Args:
        min_unique: share of distinct texts in a rollout batch below which it warns.
        stop: end training after ``patience`` rollout batches in a row below that share.
        patience: see ``stop``.
    """

    def __init__(self, min_unique: float = 0.5, stop: bool = False, patience: int = 5) -> None:
        self.min_unique, self.stop, self.patience = min_unique, stop, patience
        self._low = 0

    def on_rollouts(self, trainer: Trainer, module: RolloutModule, scored: ScoredRollouts) -> None:
        """Measure a rollout batch."""
        data = task(trainer)
        shares = data.unique_shares(gather_lists(trainer, [rollout.text for rollout in scored.rollouts]))
        metrics = {f"completions/{level}": share for level, share in shares.items()}
        # Each process judges its own part, of as many rollouts as the others'.
        parts = gather_lists(trainer, [data.quick_shares(scored.rollouts)])
        metrics |= {f"train/{name}": fmean(part[name] for part in parts) for name in parts[0]}
        module.log_dict({name: torch.tensor(value) for name, value in metrics.items()})
        # Counted over the texts of all processes, so that every process stops at the same step.
        self._low = self._low + 1 if shares["unique"] < self.min_unique else 0
        if self._low == 1:
            logger.warning(
                "only %.0f %% of this rollout batch's texts are distinct: the policy collapses", 100 * shares["unique"]
            )
        if self.stop and self._low >= self.patience:
            logger.warning("stopping: %d rollout batches in a row below min_unique=%.2f", self._low, self.min_unique)
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        """How many rollout batches in a row were low."""
        return {"low": self._low}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume the count."""
        self._low = state_dict["low"]


@runtime_checkable
class HasReference(Protocol):
    """A LightningModule that logs ``kl``, the divergence from a reference policy."""

    @property
    def reference_kind(self) -> str:
        """What the reference is; ``none``: there is none, and no ``kl``."""


class KLCeiling(Callback):
    """Ends training when the logged ``kl`` stays above a ceiling.

    Text that scores well far from the reference is more often a hole in the reward than a better story.

    Args:
        max_kl: ceiling of ``kl``, the mean divergence from the reference a token over an optimizer step, above 0. It is
            in nats, by the estimator and corrections of ``model.loss``.
        patience: optimizer steps in a row above the ceiling that end training, 1 or more.
    """

    def __init__(self, max_kl: float, patience: int = 1) -> None:
        if not max_kl > 0:
            raise UserError(f"callback KLCeiling: max_kl={max_kl} must be above 0")
        check_least("callback KLCeiling: patience", patience, 1)
        self.max_kl, self.patience = max_kl, patience
        self._above = self._step = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a run that has no divergence to watch."""
        if stage != "fit":
            return
        if not isinstance(pl_module, HasReference):
            raise UserError(
                "callback KLCeiling needs a module with a reference policy, such as GRPOModule; "
                f"{type(pl_module).__name__} logs no kl"
            )
        if pl_module.reference_kind == "none":
            raise UserError(
                "callback KLCeiling has nothing to watch: without a reference there is no kl; set model.loss.beta "
                "above 0, or model.reference.kind, or take the callback out"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count from the step that the run begins with."""
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the divergence of an optimizer step that was just made."""
        # Within an accumulated step the logged value is still that of the step before, which would count twice.
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        kl = float(trainer.callback_metrics["kl"])
        self._above = self._above + 1 if kl > self.max_kl else 0
        if self._above >= self.patience:
            if trainer.is_global_zero:
                logger.warning(
                    "stopping: kl=%.4g, above max_kl=%.4g for %d optimizer steps in a row", kl, self.max_kl, self._above
                )
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        """How many steps in a row were above."""
        return {"above": self._above}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume the count."""
        self._above = state_dict["above"]


class RewardMonitor(RolloutCallback):
    """Logs, for each rollout batch and learned reward, signs that the policy exploits the reward.

    None of them is rewarded: a sign that is optimised is not a sign any more. Under the reward's name: ``ood``, the
    mean distance of the texts from the reward's training set (about 1 there); ``saturation``, the share of scores
    beyond those of training texts; ``length_correlation`` of score and tokens; ``repetition``, the share of 3-grams of
    tokens that come again.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a run without a learned reward, or with two of one name."""
        names = [reward.name for reward in _learned(self.rollout_module(pl_module)).values()]
        if same := [name for name in names if names.count(name) > 1]:
            raise UserError(
                f"callback RewardMonitor: {len(same)} learned rewards are named '{same[0]}', so their metrics would be "
                "mixed; tell them apart as LearnedReward(…, name='…')"
            )
        if not names:
            raise UserError(
                "callback RewardMonitor watches learned rewards, and model.rewards has none; take the callback out, or "
                "add lit_narrative.rl.rewards.learned:LearnedReward(checkpoint='…')"
            )

    def on_rollouts(self, trainer: Trainer, module: RolloutModule, scored: ScoredRollouts) -> None:
        """Measure a rollout batch, over all processes."""
        lengths = gather_lists(trainer, [float(len(rollout.last_ids)) for rollout in scored.rollouts])
        again = gather_lists(trainer, [-repetition.penalty(rollout.last_ids) for rollout in scored.rollouts])
        columns = metric_names(module.reward_functions)
        for key, reward in _learned(module).items():
            distances, beyond = (gather_lists(trainer, result) for result in reward.ood_score(scored.rollouts))
            scores = gather_lists(trainer, scored.rewards[columns[key]].tolist())
            signs = {
                "ood": float(np.mean(distances)),
                "saturation": float(np.mean(beyond)),
                "length_correlation": correlation(scores, lengths),
                "repetition": float(np.mean(again)),
            }
            module.log_dict({f"{reward.name}/{name}": torch.tensor(value) for name, value in signs.items()})


def correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Pearson's r of values that are both there; 0 where one does not vary."""
    # A reward may have no score (NaN) for some texts; and numpy divides by 0 where all lengths or scores are equal.
    pairs = np.array([pair for pair in zip(first, second, strict=True) if np.isfinite(pair).all()])
    if len(pairs) < 2 or (pairs.std(0) == 0).any():
        return 0.0
    return float(np.corrcoef(pairs.T)[0, 1])


def _learned(module: RolloutModule) -> dict[str, LearnedReward]:
    return {key: reward for key, reward in module.reward_functions.items() if isinstance(reward, LearnedReward)}
