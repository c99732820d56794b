"""What a GRPO run refuses: settings that mean nothing together, and checkpoints that are not its own."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from lit_narrative.errors import UserError, check_least
from lit_narrative.lm.checkpoint import of_reference
from lit_narrative.rl.gae import ValueSettings

if TYPE_CHECKING:
    from lit_narrative.modules.grpo import GRPOModule

ANEW = "resume with the settings that it was saved with, or begin a new run from it by model.model=<checkpoint>"


def check_settings(module: "GRPOModule") -> None:
    """Check the settings of a module against each other.

    Raises:
        UserError: they contradict each other, or one would be ignored.
    """
    gae = module.advantage == "gae"
    least = 1 if gae else 2
    if module.num_generations < least:
        raise UserError(
            f"model.num_generations={module.num_generations}: a group needs at least {least} completions to compare"
            + ("" if gae else "; one is enough with model.advantage=gae")
        )
    check_least("model.dynamic_sampling", module.dynamic_sampling, 0)
    _check_rewards(module.reward_weights)
    if module.sampling.filtered:
        raise UserError(
            "model.sampling.top_k and top_p must be off in RL: the policy would be trained on another distribution "
            "than it is sampled from; leave them at 0 and 1"
        )
    if module.lora and module.lora.dropout:
        raise UserError(f"model.lora.dropout={module.lora.dropout}: dropout is off in RL; leave it at 0")
    if gae and module.scale_rewards == "group":
        raise UserError("model.scale_rewards=group has no meaning for model.advantage=gae; choose batch or none")
    if gae and module.dynamic_sampling:
        raise UserError("model.dynamic_sampling replaces groups, which model.advantage=gae does not compare; remove it")
    if not gae and module.value != ValueSettings():
        raise UserError(f"model.value is not read with model.advantage={module.advantage}, only with gae; remove it")
    alone = module.advantage == "group" and module.scale_rewards == "group" and not module.loss.kl_in_reward
    if module.multi_objective_aggregation == "normalize_then_sum" and not alone:
        raise UserError(
            "model.multi_objective_aggregation=normalize_then_sum normalises each reward within its group; it goes "
            "with model.advantage=group, without model.scale_rewards and without model.loss.kl_in_reward"
        )


def _check_rewards(weights: Mapping[str, float]) -> None:
    if not weights:
        raise UserError("model.rewards is empty; name at least one reward with its weight")
    for name, weight in weights.items():
        if not math.isfinite(weight):
            raise UserError(f"model.rewards: the weight of '{name}' is {weight}; give a number")


def check_sizes(stored: Mapping[str, int], now: Mapping[str, int]) -> None:
    """Check that a run resumed in the middle of a cycle cuts its windows as before.

    Raises:
        UserError: naming what changed.
    """
    changed = [f"{name} {was} -> {now[name]}" for name, was in stored.items() if was != now[name]]
    if changed:
        raise UserError(
            f"resumed in the middle of a cycle with other sizes ({', '.join(changed)}), some completions would be "
            "learned twice or never; resume with the old sizes, or from a checkpoint at the end of a cycle"
        )


def check_beside(own: set[str], stored: set[str]) -> None:
    """Check that a checkpoint has what stands beside the policy in this run.

    Args:
        own: names of this module's weights.
        stored: names of the checkpoint's.

    Raises:
        UserError: it has no reference, or not the same value head.
    """
    if any(of_reference(name) for name in own - stored):
        raise UserError(
            f"the checkpoint holds no reference policy, as model.loss.beta and model.reference ask for one; {ANEW}"
        )
    if any(name.startswith("value_head.") for name in own ^ stored):
        raise UserError(
            f"the checkpoint and model.advantage do not agree on a value head, which is for advantage=gae; {ANEW}"
        )
