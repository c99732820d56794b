"""Attributes for one model: bags as token ids, heads as weights; and scores and losses of texts by them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from lit_narrative.lm.vectors.hidden_states import mean_states
from lit_narrative.steering.bags import BagOfWords, BagsOfRows, ColumnBag, Words, encode_bag, find_words
from lit_narrative.steering.heads import Target, load_head
from lit_narrative.steering.losses import class_loss
from lit_narrative.steering.sampler import SteeringTotals
from lit_narrative.steering.settings import Attribute
from lit_narrative.views import Prompt, Rollout, WordList


@dataclass(frozen=True)
class Attributes:
    """The attributes that texts are steered to.

    Attributes:
        bags: of each text.
        targets: the wanted classes, with the heads that tell them.
    """

    bags: BagsOfRows
    targets: tuple[Target, ...]

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Look up the attributes of every prompt, so that a fault is reported before anything is written.

        Raises:
            UserError: a prompt lacks a column, or has no usable word in it.
        """
        columns, cpu = [prompt.columns for prompt in prompts], torch.device("cpu")
        self.bags(columns, cpu)
        for target in self.targets:
            target.labels(columns, cpu)


def read_attributes(
    given: Sequence[Attribute], lists: Mapping[str, WordList], lm: nn.Module, tokenizer: PreTrainedTokenizerBase
) -> Attributes:
    """Encode bags and load heads.

    Args:
        given: the settings.
        lists: the task's word lists by name.
        lm: the model to be steered.
        tokenizer: its tokenizer.

    Raises:
        UserError: a bag has no usable word, a head belongs to another model.
    """
    bags: list[BagOfWords | ColumnBag] = []
    targets = []
    device = next(lm.parameters()).device
    for attribute in given:
        if attribute.head is not None:
            head = load_head(attribute.head, lm, tuned=attribute.tuned)
            weights = head.weight.to(device), head.bias.to(device)
            targets.append(Target(*weights, attribute.label, attribute.weight, head.card.classes))
        elif attribute.column is not None:
            bags.append(_of_column(attribute.column, attribute, tokenizer))
        else:
            assert attribute.bag is not None
            # A list has no name: its first words serve in messages and metrics.
            name = attribute.bag if isinstance(attribute.bag, str) else ", ".join(list(attribute.bag)[:3])
            bags.append(_encoded(name, find_words(attribute.bag, lists), attribute, tokenizer))
    strengths = [attribute.weight for attribute in given if attribute.head is None]
    return Attributes(BagsOfRows(bags, strengths), tuple(targets))


def _of_column(column: str, attribute: Attribute, tokenizer: PreTrainedTokenizerBase) -> ColumnBag:
    """The bags of a column; each different list of words is encoded once."""

    # Keys of a cache must be hashable: a list becomes a tuple, weights become a tuple of pairs.
    @lru_cache(maxsize=1024)
    def cached(words: tuple[Any, ...], weighted: bool) -> BagOfWords:
        return _encoded(column, dict(words) if weighted else words, attribute, tokenizer)

    def encode(words: Words) -> BagOfWords:
        # Tuples, as a cache needs keys that hash; the flag tells a list of words from words with weights.
        if isinstance(words, Mapping):
            return cached(tuple(words.items()), True)
        return cached(tuple(words), False)

    return ColumnBag(column, encode)


def _encoded(name: str, words: Words, attribute: Attribute, tokenizer: PreTrainedTokenizerBase) -> BagOfWords:
    return encode_bag(name, words, tokenizer, policy=attribute.policy, cases=attribute.cases)


@torch.no_grad()
def attribute_scores(
    attributes: Attributes, lm: nn.Module, tokenizer: PreTrainedTokenizerBase, rollouts: Sequence[Rollout]
) -> list[float]:
    """Score of each completion for ranking: share of its tokens in its bags, plus log-probability of its classes."""
    columns, cpu = [rollout.columns for rollout in rollouts], torch.device("cpu")
    scores = torch.zeros(len(rollouts))
    bags = attributes.bags(columns, cpu)
    if bags is not None:
        for row, rollout in enumerate(rollouts):
            wanted = bags.ids[row][bags.weights[row] > 0]  # padding has weight 0, and its id may be a real token's
            scores[row] += torch.isin(rollout.completion_ids.cpu(), wanted).float().mean()
    if attributes.targets:
        states = mean_states(lm, tokenizer, [rollout.prompt + rollout.text for rollout in rollouts])
        for target in attributes.targets:
            labels = target.labels(columns, states.device)
            logprobs = target.logits(states).float().log_softmax(-1)
            scores += target.strength * logprobs.gather(1, labels[:, None]).squeeze(1).cpu()
    return scores.tolist()


def attribute_losses(
    attributes: Attributes,
    totals: SteeringTotals,
    lm: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    rollouts: Sequence[Rollout],
) -> dict[str, float]:
    """The loss of each attribute in nats, without its weight, by name.

    Names are those of bags and columns, and the labels of heads; a repeated name is numbered.

    Args:
        attributes: the attributes of the texts.
        totals: of the decoding; a bag's loss is -log of its probability, mean over tokens, before filters.
        lm: the model whose hidden states heads read; a head's loss is its cross-entropy, mean over finished texts.
        tokenizer: its tokenizer.
        rollouts: the texts.
    """
    bags = attributes.bags.bags
    names = [bag.column if isinstance(bag, ColumnBag) else Path(bag.name).stem for bag in bags]
    # Before anything is measured `bag_losses` is the number 0, which stands for every bag.
    losses = (torch.as_tensor(totals.bag_losses) / max(totals.measured, 1)).expand(len(bags)).tolist()
    if attributes.targets:
        states = mean_states(lm, tokenizer, [rollout.prompt + rollout.text for rollout in rollouts])
        columns = [rollout.columns for rollout in rollouts]
        for target in attributes.targets:
            labels = target.labels(columns, states.device)
            names.append(str(target.label))
            losses.append(float(class_loss(target.logits(states), labels).mean()))
    seen: Counter[str] = Counter()
    for index, name in enumerate(names):
        seen[name] += 1
        names[index] = name if seen[name] == 1 else f"{name}_{seen[name]}"
    return dict(zip(names, losses, strict=True))
