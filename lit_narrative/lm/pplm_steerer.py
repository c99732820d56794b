"""PPLM as a steerer: two pasts side by side, the plain one and the one that is moved, each read token by token.

The published code reads the whole text again for every token; here every token is read once by the plain model, and
``num_iterations`` + 1 times behind the moved past.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from lit_narrative.errors import UserError
from lit_narrative.lm.bags import BagOfWords, stack_bags
from lit_narrative.lm.past import Past, Places, Reading
from lit_narrative.lm.pplm import (
    Bags,
    bag_loss,
    class_loss,
    divergence,
    fuse,
    norms_so_far,
    window_weights,
)
from lit_narrative.lm.pplm_settings import PPLMSettings
from lit_narrative.lm.steering import Scores, Texts


class Target(NamedTuple):
    """A class that a head shall find: one linear layer on mean hidden states.

    Attributes:
        weight: (classes, d).
        bias: (classes,).
        label: the wanted class.
        strength: of its loss.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    label: int
    strength: float = 1.0


class PPLM:
    """Plug-and-play steering by bags and heads (Dathathri et al. 2020).

    Args:
        settings: the knobs; ``stepsize`` as a number.
        bags: of each row.
        targets: classes to steer to.
    """

    def __init__(
        self, settings: PPLMSettings, bags: "BagsOfRows | None" = None, targets: Sequence[Target] = ()
    ) -> None:
        if not targets and not (bags and bags.bags):
            raise UserError("steering.method=pplm has nothing to steer to: give a bag or a head under attributes")
        self.settings, self.bags, self.targets = settings, bags, targets
        self.remedy = f"lower steering.pplm.stepsize (now {settings.stepsize}), or raise kl_scale"

    def begin(self, lm: PreTrainedModel, texts: Texts) -> "PPLMWriting":
        """Read the prompts but for their last tokens, and copy what was read."""
        return PPLMWriting(lm, texts, self)


@dataclass(frozen=True)
class BagsOfRows:
    """Which bags each row is steered to.

    Args:
        bags: the same for all rows, or the column of the prompts that holds each row's own.
        strengths: weights of their losses.
        encode: words of a column to a bag.
    """

    bags: Sequence["BagOfWords | str"]
    strengths: Sequence[float]
    encode: Any = None

    def __call__(self, columns: Sequence[Mapping[str, Any]], device: torch.device) -> Bags | None:
        """The rows' bags as tensors; None if there are none."""
        if not self.bags:
            return None
        rows = [[self.encode(row, bag) if isinstance(bag, str) else bag for bag in self.bags] for row in columns]
        return stack_bags(rows, self.strengths, device)


class PPLMWriting:
    """Texts under PPLM; see :class:`lit_narrative.lm.steering.Writing`."""

    def __init__(self, lm: PreTrainedModel, texts: Texts, steerer: PPLM) -> None:
        self.lm, self.settings, self.targets = lm, steerer.settings, steerer.targets
        self.temperature, self.passes, self.step = texts.temperature, 0, 0
        self.bags = steerer.bags(texts.columns, texts.ids.device) if steerer.bags else None
        before = texts.mask[:, :-1]
        self.plain, hidden = Past.of(lm, texts.ids[:, :-1], before)
        self.plain.keep(texts.owner)
        self.moved = self.plain.copy()
        self.sums = (hidden * before[..., None]).sum(1)[texts.owner]  # (B, d) of the plain model's hidden states
        self.tokens = texts.ids[texts.owner, -1:]
        self.places = Places(texts.mask[texts.owner], not bool(texts.mask.all()))
        self.norms: torch.Tensor | None = None
        self.losses: list[torch.Tensor] = []

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with ``rows`` only."""
        self.plain.keep(rows)
        self.moved.keep(rows)
        self.sums, self.tokens, self.places = self.sums[rows], self.tokens[rows], self.places.rows(rows)
        self.bags = self.bags.rows(rows) if self.bags else None
        self.norms = None if self.norms is None else self.norms[:, rows]

    def scores(self, tokens: torch.Tensor | None) -> Scores:
        """Scores of the next token."""
        if tokens is not None:
            self.tokens, self.places = tokens[:, None], self.places.next()
            self.step += 1
        if not self.settings.carry_over:
            self.moved = self.plain.copy()
        plain = self.plain.read(self.tokens, self.places)
        steered = self._steered(plain) if self.settings.moves else plain
        self.passes += 1
        self.sums = self.sums + plain.hidden
        return Scores(*fuse(steered.logits, plain.logits, self.settings, self.temperature))

    def _steered(self, plain: Reading) -> Reading:
        """Move the past, then read the token behind it."""
        self.losses = []
        if self.settings.grad_length is None or self.step < self.settings.grad_length:
            if self.moved.tensors:
                self._move(plain)
        elif not self.settings.carry_over:
            return plain
        self.passes += 1
        return self.moved.read(self.tokens, self.places)

    def _move(self, plain: Reading) -> None:
        weights = window_weights(self.places.before, self.settings)
        reference = torch.softmax(plain.logits, -1)

        def loss(reading: Reading) -> torch.Tensor:
            return self.loss(reading, reference)

        for _ in range(self.settings.num_iterations):
            self.losses.append(self.moved.nudge(self.tokens, self.places, loss, self._factors, weights))
            self.passes += 2

    def _factors(self, squares: torch.Tensor) -> torch.Tensor:
        """How far each block of each row goes along its gradient, (L, B)."""
        self.norms = norms_so_far(squares, self.norms, self.settings.norm_maximum and not self.targets)
        return self.settings.step / self.norms**self.settings.gamma

    def loss(self, reading: Reading, plain: torch.Tensor) -> torch.Tensor:
        """(B,) bags, classes and divergence, given the plain model's distribution (B, V)."""
        probabilities = torch.softmax(reading.logits, -1)
        loss = probabilities.new_zeros(len(probabilities))
        if self.bags:
            loss = loss + bag_loss(probabilities, self.bags)
        if self.targets:
            mean = self._future(probabilities, reading.hidden.detach())
            loss = loss + sum(
                target.strength
                * class_loss(
                    functional.linear(mean, target.weight, target.bias).float(),
                    torch.full_like(self.tokens[:, 0], target.label),
                )
                for target in self.targets
            )
        if self.settings.kl_scale:
            loss = loss + self.settings.kl_scale * divergence(probabilities, plain)
        return loss

    def _future(self, probabilities: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """(B, d) mean hidden state of the text and of ``horizon_length`` expected tokens, which the gradient passes."""
        embedding: Any = self.lm.get_input_embeddings()
        expected = probabilities.to(embedding.weight.dtype) @ embedding.weight * getattr(embedding, "embed_scale", 1.0)
        past, places, total = self.plain.copy(), self.places, self.sums + hidden
        for _ in range(self.settings.horizon_length):
            places = places.next()
            total = total + past.read_states(places, inputs_embeds=expected[:, None])
        return total / (self.places.lengths + self.settings.horizon_length)[:, None]
