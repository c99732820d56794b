"""How far written texts are from each attribute that they were steered to, whatever the method."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from lit_narrative.lm.states import mean_states
from lit_narrative.rl.rollout import Rollout
from lit_narrative.steering.attributes import Attributes
from lit_narrative.steering.bags import ColumnBag
from lit_narrative.steering.pplm import class_loss
from lit_narrative.steering.sampler import Figures


def attribute_losses(
    attributes: Attributes,
    figures: Figures,
    lm: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    rollouts: Sequence[Rollout],
) -> dict[str, float]:
    """One loss in nats for each attribute, without its weight, under its name.

    Names are those of bags and columns, and the labels of heads; one that comes again is numbered.

    Args:
        attributes: what was steered to.
        figures: of the writing; a bag's loss is -log of its probability, mean over tokens, before filters.
        lm: the model that heads read finished texts with, once; a head's loss is its cross-entropy, mean over texts.
        tokenizer: its tokenizer.
        rollouts: the texts.
    """
    bags = attributes.bags.bags
    names = [bag.column if isinstance(bag, ColumnBag) else Path(bag.name).stem for bag in bags]
    losses = (torch.as_tensor(figures.bag_losses) / max(figures.measured, 1)).expand(len(bags)).tolist()
    if attributes.targets:
        states = mean_states(lm, tokenizer, [rollout.prompt + rollout.text for rollout in rollouts])
        columns = [rollout.columns for rollout in rollouts]
        for target in attributes.targets:
            labels = target.labels(columns, states.device)
            names.append(str(target.label))
            losses.append(float(class_loss(target.logits(states), labels).mean()))
    seen: Counter[str] = Counter()
    for place, name in enumerate(names):
        seen[name] += 1
        names[place] = name if seen[name] == 1 else f"{name}_{seen[name]}"
    return dict(zip(names, losses, strict=True))
