"""Linear heads that classify a text by a frozen model's mean hidden state, each with a description of its model."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from lit_narrative.errors import UserError
from lit_narrative.lm.checkpoint import load_checkpoint
from lit_narrative.lm.load import base_lm
from lit_narrative.steering.bags import labels_of

HEAD = "attribute_head"


@dataclass(frozen=True)
class HeadCard:
    """The model that a head was trained for, and the classes that it tells apart.

    Attributes:
        model: hub name or path of the model.
        kind: its architecture.
        hidden_size: width of its states.
        layers: number of its blocks.
        weights: sum of the absolute values of its weights, rounded to bfloat16 first: it differs between two models of
            one kind, and is the same for one model in float32 and in bfloat16.
        classes: names of the classes, in order of the labels.
    """

    model: str
    kind: str
    hidden_size: int
    layers: int
    weights: float
    classes: tuple[str, ...]


@dataclass(frozen=True)
class TrainedHead:
    """A head from a checkpoint: (classes, d) weight, (classes,) bias."""

    card: HeadCard
    weight: torch.Tensor
    bias: torch.Tensor


def head_card(lm: nn.Module, name: str, classes: tuple[str, ...]) -> HeadCard:
    """Describe the model that a head is trained for."""
    base: Any = base_lm(lm)
    config = base.config.get_text_config()
    # Summed in float64: a float32 sum of millions of weights would differ between devices.
    total = float(sum(parameter.detach().bfloat16().double().abs().sum() for parameter in base.parameters()))
    return HeadCard(name, config.model_type, config.hidden_size, config.num_hidden_layers, total, classes)


def store_head(checkpoint: dict[str, Any], card: HeadCard) -> None:
    """Add the card to a checkpoint whose weights hold the head."""
    checkpoint[HEAD] = asdict(card) | {"classes": list(card.classes)}


def stored_card(checkpoint: dict[str, Any]) -> HeadCard | None:
    """The card of a checkpoint; None without a head."""
    if HEAD not in checkpoint:
        return None
    values = checkpoint[HEAD]
    return HeadCard(**{**values, "classes": tuple(values["classes"])})


def load_head(path: str | Path, lm: nn.Module, *, tuned: bool = False) -> TrainedHead:
    """Read a head, and check that it was trained for this model.

    Args:
        path: a checkpoint of ``ClassifierModule``.
        lm: the model to be steered.
        tuned: accept a model that was fine-tuned from the head's.

    Raises:
        UserError: there is no head, or it was trained for another model.
    """
    checkpoint = load_checkpoint(path)
    card = stored_card(checkpoint)
    if card is None:
        raise UserError(
            f"'{path}' holds no attribute head; train one: lit-narrative fit with class_path ClassifierModule"
        )
    ours = head_card(lm, "", ())
    theirs, mine = ((c.kind, c.hidden_size, c.layers) for c in (card, ours))
    trained_for = f"the head in '{path}' was trained for '{card.model}'"
    if theirs != mine:
        raise UserError(
            f"{trained_for} ({_sizes(card)}), not for this model ({_sizes(ours)}); train a head for this model, or "
            "steer that one"
        )
    twice = base_lm(lm).dtype == torch.float16  # rounding to float16 and then to bfloat16 differs from one rounding
    if not tuned and not math.isclose(card.weights, ours.weights, rel_tol=1e-3 if twice else 1e-6):
        raise UserError(
            f"{trained_for}, and this model has the same sizes but other weights; set `tuned: true` beside the head if "
            "this model was trained further from that one, else train a head for it"
        )
    state = checkpoint["state_dict"]
    # Cloned: tensors of a mapped file would keep the whole checkpoint open.
    return TrainedHead(card, state["head.weight"].clone(), state["head.bias"].clone())


def _sizes(card: HeadCard) -> str:
    return f"{card.kind}, {card.layers} blocks, width {card.hidden_size}"


class Target(NamedTuple):
    """A wanted class with the head that tells it: one linear layer on mean hidden states.

    Attributes:
        weight: (classes, d).
        bias: (classes,).
        label: the wanted class by number or name, or the column of the prompts that holds each text's own.
        strength: weight of its loss.
        classes: names of the classes.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    label: int | str
    strength: float
    classes: tuple[str, ...]

    def labels(self, columns: Sequence[Mapping[str, Any]], device: torch.device) -> torch.Tensor:
        """(B,) the wanted class of each text, given the columns of its prompt."""
        return labels_of(columns, self.label, self.classes, device)

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """(B, classes) of mean hidden states (B, d)."""
        return functional.linear(states.to(self.weight.dtype), self.weight, self.bias)
