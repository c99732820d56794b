"""The cheaper ways to steer, behind the interface of PPLM: nothing, logit bias, activation addition, experts.

Notation: B texts, V vocabulary, d width.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lit_narrative.errors import UserError
from lit_narrative.lm.hidden_states import block, mean_states
from lit_narrative.steering.bags import BagsOfRows, labels_of
from lit_narrative.steering.past import Reader
from lit_narrative.steering.sampler import Scores, Texts, now


class Unsteered:
    """The plain model; one pass a token."""

    remedy = "the model has diverged: use other weights or a wider precision"

    def begin(self, lm: PreTrainedModel, texts: Texts) -> "ReaderWriting":
        """Read the prompts."""
        return ReaderWriting([_reader(lm, texts)], lambda logits: logits[0], texts.temperature)


class LogitBias:
    """Adds to the logits of a bag's words, wherever they stand; one pass a token.

    Args:
        bags: whose words, by their weights and the bags' strengths.
        bias: added to the logit of a word of weight 1.
    """

    def __init__(self, bags: BagsOfRows, bias: float) -> None:
        if not bags.bags:
            raise UserError("model.method=bias has nothing to steer to: give a bag under attributes")
        self.bags, self.bias = bags, bias
        self.remedy = f"lower model.bias (now {bias})"

    def begin(self, lm: PreTrainedModel, texts: Texts) -> "ReaderWriting":
        """Read the prompts."""
        bags = self.bags(texts.columns, texts.ids.device)
        assert bags is not None
        rows, vocabulary = len(bags.ids), lm.get_output_embeddings().weight.shape[0]
        amounts = (bags.weights * bags.strengths[:, None] * self.bias).view(rows, -1)
        added = amounts.new_zeros(rows, int(vocabulary)).scatter_add_(1, bags.ids.view(rows, -1), amounts)
        reader = _reader(lm, texts)
        return ReaderWriting([reader], lambda logits, bias: logits[0] + bias, texts.temperature, added)


class Experts:
    """Adds what an expert's logits have over another model's (DExperts, Liu et al. 2021, eq. 1).

    Args:
        expert: a model that writes as is wanted, of the same vocabulary.
        anti_expert: one that writes as is not wanted; None: the steered model itself.
        alpha: how much of the difference is added.
    """

    def __init__(self, expert: PreTrainedModel, anti_expert: PreTrainedModel | None, alpha: float) -> None:
        self.others = [expert] if anti_expert is None else [expert, anti_expert]
        self.alpha, self.remedy = alpha, f"lower model.experts.alpha (now {alpha})"

    def begin(self, lm: PreTrainedModel, texts: Texts) -> "ReaderWriting":
        """Let every model read the prompts."""

        def mixed(logits: Sequence[torch.Tensor]) -> torch.Tensor:
            return logits[0] + self.alpha * (logits[1] - logits[2 if len(logits) > 2 else 0])

        return ReaderWriting([_reader(model, texts) for model in (lm, *self.others)], mixed, texts.temperature)


class ActivationAddition:
    """Adds a direction to the residual stream behind one block, at every position (Rimsky et al. 2024).

    The plain model beside it is read for the record only; neither ``passes`` nor seconds count it.

    Args:
        directions: (n, d) one for each label; NaN where there is none.
        layer: the block, from 0.
        coefficient: times the direction.
        label: the wanted class by number or name, or the column of the prompts that holds each text's own.
        classes: their names; default: their numbers.
    """

    def __init__(
        self,
        directions: torch.Tensor,
        layer: int,
        coefficient: float,
        label: int | str = 0,
        classes: Sequence[str] = (),
    ) -> None:
        self.directions, self.layer, self.coefficient, self.label = directions, layer, coefficient, label
        self.classes = classes or tuple(map(str, range(len(directions))))
        self.remedy = f"lower model.activation.coefficient (now {coefficient})"

    def begin(self, lm: PreTrainedModel, texts: Texts) -> "AddedWriting":
        """Let the plain and the steered model read the prompts."""
        return AddedWriting(lm, texts, self.vectors(texts.columns, texts.ids.device)[:, None], self.layer)

    def vectors(self, columns: Sequence[Mapping[str, Any]], device: torch.device) -> torch.Tensor:
        """(B, d) what is added for texts whose prompts carry ``columns``.

        Raises:
            UserError: a text's label has no direction.
        """
        labels = labels_of(columns, self.label, self.classes, device)
        vectors = self.coefficient * self.directions.to(device)[labels]
        if lacking := sorted({self.classes[label] for label in labels[vectors.isnan().any(1)].tolist()}):
            raise UserError(
                f"activation addition has no training text of the wanted label {', '.join(lacking)}; give some "
                "(data.train_size, or the texts themselves), or ask for another label"
            )
        return vectors


class ReaderWriting:
    """Texts whose scores are made of the logits of one or more models; the first is the plain one.

    Args:
        readers: one for each model.
        mix: logits (B, V) of each, and ``extra`` if there is any, to steered logits.
        temperature: of sampling.
        extra: (B, ...) what belongs to each text.
    """

    def __init__(
        self,
        readers: Sequence[Reader],
        mix: Callable[..., torch.Tensor],
        temperature: float,
        extra: torch.Tensor | None = None,
    ) -> None:
        self.readers, self.mix, self.temperature, self.extra = readers, mix, temperature, extra
        self.passes, self.aside = 0, 0.0

    def scores(self, tokens: torch.Tensor | None) -> Scores:
        """Scores of the next token."""
        for reader in self.readers:
            reader.go_on(tokens)
        logits = [reader.read().logits for reader in self.readers]
        steered = self.mix(logits) if self.extra is None else self.mix(logits, self.extra)
        self.passes += len(self.readers)
        return Scores(steered / self.temperature, logits[0] / self.temperature)

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with ``rows`` only."""
        for reader in self.readers:
            reader.keep(rows)
        self.extra = None if self.extra is None else self.extra[rows]


class AddedWriting:
    """Texts under activation addition.

    Args:
        lm: the model.
        texts: their prompts.
        vectors: (B, 1, d) what is added.
        layer: the block behind which.
    """

    def __init__(self, lm: PreTrainedModel, texts: Texts, vectors: torch.Tensor, layer: int) -> None:
        self.lm, self.vectors, self.layer = lm, vectors, layer
        self.temperature, self.passes = texts.temperature, 0
        start = now(texts.ids.device)
        self.plain = _reader(lm, texts)
        self.aside = now(texts.ids.device) - start
        # A prompt is read once for each of its texts: they may have directions of their own.
        every = torch.arange(len(texts.owner), device=texts.owner.device)
        with self._added():
            self.steered = Reader(lm, texts.ids[texts.owner], texts.mask[texts.owner], every)

    def scores(self, tokens: torch.Tensor | None) -> Scores:
        """Scores of the next token."""
        start = now(self.vectors.device)
        self.plain.go_on(tokens)
        plain = self.plain.read().logits
        self.aside += now(self.vectors.device) - start
        self.steered.go_on(tokens)
        with self._added():
            steered = self.steered.read().logits
        self.passes += 1
        return Scores(steered / self.temperature, plain / self.temperature)

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with ``rows`` only."""
        self.plain.keep(rows)
        self.steered.keep(rows)
        self.vectors = self.vectors[rows]

    @contextmanager
    def _added(self) -> Iterator[None]:
        def add(module: nn.Module, args: Any, output: Any) -> Any:
            if isinstance(output, tuple):
                return (output[0] + self.vectors.to(output[0].dtype), *output[1:])
            return output + self.vectors.to(output.dtype)

        handle = block(self.lm, self.layer).register_forward_hook(add)
        try:
            yield
        finally:
            handle.remove()


def contrast_directions(
    lm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Mapping[int, Sequence[str]],
    layer: int,
    classes: Sequence[str] = (),
) -> torch.Tensor:
    """(n, d) for each label 0 … n - 1: mean residuals of its texts less those of all others together.

    A label without texts is set against none, and its row is NaN; n counts the ``classes``, or up to the highest label.

    Raises:
        UserError: there are texts of fewer than two labels.
    """
    told = {label: rows for label, rows in texts.items() if rows}
    if len(told) < 2:
        raise UserError(
            f"activation addition sets texts of one label against others; the data has texts of {len(told)}: give "
            "texts of another (data.train_size, or the texts themselves)"
        )
    means = {label: mean_states(lm, tokenizer, rows, layer).mean(0) for label, rows in told.items()}
    width = len(next(iter(means.values())))
    directions = torch.full((len(classes) or max(told) + 1, width), math.nan)
    for label, mean in means.items():
        others = [(means[other], len(rows)) for other, rows in told.items() if other != label]
        total = sum(count for _, count in others)
        directions[label] = mean - torch.stack([value * (count / total) for value, count in others]).sum(0)
    return directions


def _reader(lm: PreTrainedModel, texts: Texts) -> Reader:
    return Reader(lm, texts.ids, texts.mask, texts.owner)
