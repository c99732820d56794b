"""A learned reward under watch: what a policy may gain by, other than by what the reward is meant for."""

from collections.abc import Sequence

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer

from lit_narrative.callbacks.processes import gather_lists
from lit_narrative.callbacks.rollouts import RolloutCallback
from lit_narrative.errors import UserError
from lit_narrative.modules.grpo import GRPOModule
from lit_narrative.modules.learned_reward import LearnedReward
from lit_narrative.rl.penalties import repetition
from lit_narrative.rl.rollout import ScoredRollouts


class RewardMonitor(RolloutCallback):
    """Logs, for each window and learned reward, signs that the policy exploits the reward; none of it is rewarded.

    Under the reward's name: ``ood``, the mean distance of the texts from the reward's training set (about 1 there);
    ``saturation``, the share of scores beyond those of training texts; ``length_correlation`` of score and tokens;
    ``repetition``, the share of 3-grams of tokens that come again.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a run without a learned reward, or with two of one name."""
        assert isinstance(pl_module, GRPOModule)
        names = [reward.name for reward in _learned(pl_module).values()]
        if same := [name for name in names if names.count(name) > 1]:
            raise UserError(
                f"callback RewardMonitor: {len(same)} learned rewards are named '{same[0]}', so their figures would be "
                "mixed; tell them apart as LearnedReward(…, name='…')"
            )
        if not names:
            raise UserError(
                "callback RewardMonitor watches learned rewards, and model.rewards has none; take the callback out, or "
                "add lit_narrative.modules.learned_reward:LearnedReward(checkpoint='…')"
            )

    def on_rollouts(self, trainer: Trainer, module: GRPOModule, scored: ScoredRollouts) -> None:
        """Measure a window, over all processes."""
        lengths = gather_lists(trainer, [float(len(rollout.completion_ids)) for rollout in scored.rollouts])
        again = gather_lists(trainer, [-repetition.penalty(rollout.completion_ids) for rollout in scored.rollouts])
        for key, reward in _learned(module).items():
            distances, beyond = (gather_lists(trainer, found) for found in reward.strain(scored.rollouts))
            scores = gather_lists(trainer, scored.rewards[key].tolist())
            signs = {
                "ood": float(np.mean(distances)),
                "saturation": float(np.mean(beyond)),
                "length_correlation": correlation(scores, lengths),
                "repetition": float(np.mean(again)),
            }
            module.log_dict({f"{reward.name}/{name}": torch.tensor(value) for name, value in signs.items()})


def correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Pearson's r of values that are both there; 0 where one does not vary."""
    pairs = np.array([pair for pair in zip(first, second, strict=True) if np.isfinite(pair).all()])
    if len(pairs) < 2 or (pairs.std(0) == 0).any():
        return 0.0
    return float(np.corrcoef(pairs.T)[0, 1])


def _learned(module: GRPOModule) -> dict[str, LearnedReward]:
    return {key: reward for key, reward in module.reward_functions.items() if isinstance(reward, LearnedReward)}
