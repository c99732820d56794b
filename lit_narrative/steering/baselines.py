"""Baselines of PPLM behind the same interface: no steering, logit bias, activation addition, expert logits.

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
from lit_narrative.lm.vectors.hidden_states import block, mean_states
from lit_narrative.steering.bags import BagsOfRows, labels_of
from lit_narrative.steering.past import Reader
from lit_narrative.steering.sampler import Scores, Texts, now


class Unsteered:
    """The plain model; one pass per token."""

    remedy = "the model has diverged: use other weights or a wider precision"

    def begin(self, lm: PreTrainedModel, texts: Texts) -> "ReaderDecoding":
        """Read the prompts."""
        return ReaderDecoding([_reader(lm, texts)], lambda logits: logits[0], texts.temperature)


class LogitBias:
    """Adds a constant to the logits of the bags' words at every position; one pass per token.

    Args:
        bags: the bags; a word's bias is multiplied by its weight and the bag's strength.
        bias: added to the logit of a word of weight 1.
    """

    def __init__(self, bags: BagsOfRows, bias: float) -> None:
        if not bags.bags:
            raise UserError("model.method=bias has nothing to steer to: give a bag under attributes")
        self.bags, self.bias = bags, bias
        self.remedy = f"lower model.bias (now {bias})"

    def begin(self, lm: PreTrainedModel, texts: Texts) -> "ReaderDecoding":
        """Read the prompts."""
        bags = self.bags(texts.columns, texts.ids.device)
        assert bags is not None
        # Rows of the output layer and not tokens of the tokenizer: many models pad their vocabulary.
        rows, vocabulary = len(bags.ids), lm.get_output_embeddings().weight.shape[0]
        amounts = (bags.weights * bags.strengths[:, None] * self.bias).view(rows, -1)
        # (B, V). Added up, so that a word of two bags gets the bias of both.
        added = amounts.new_zeros(rows, int(vocabulary)).scatter_add_(1, bags.ids.view(rows, -1), amounts)
        reader = _reader(lm, texts)
        return ReaderDecoding([reader], lambda logits, bias: logits[0] + bias, texts.temperature, added)


class Experts:
    """Adds alpha (expert logits - anti-expert logits) to the logits (DExperts, Liu et al. 2021, eq. 1).

    Args:
        expert: a model of the wanted text, of the same vocabulary.
        anti_expert: a model of the unwanted text; None: the steered model itself.
        alpha: factor of the difference.
    """

    def __init__(self, expert: PreTrainedModel, anti_expert: PreTrainedModel | None, alpha: float) -> None:
        self.others = [expert] if anti_expert is None else [expert, anti_expert]
        self.alpha, self.remedy = alpha, f"lower model.experts.alpha (now {alpha})"

    def begin(self, lm: PreTrainedModel, texts: Texts) -> "ReaderDecoding":
        """Read the prompts with every model."""

        def mixed(logits: Sequence[torch.Tensor]) -> torch.Tensor:
            # Without an anti-expert the plain logits take its part.
            return logits[0] + self.alpha * (logits[1] - logits[2 if len(logits) > 2 else 0])

        return ReaderDecoding([_reader(model, texts) for model in (lm, *self.others)], mixed, texts.temperature)


class ActivationAddition:
    """Adds a direction to the residual stream after one block, at every position (Rimsky et al. 2024).

    The plain model is read too, for the record only: neither ``passes`` nor seconds count it.

    Args:
        directions: (n, d) one for each label; NaN where there is none.
        layer: the block, from 0.
        coefficient: factor of the direction.
        label: the wanted class by number or name, or the column of the prompts that holds it.
        classes: names of the classes; default: their numbers.
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

    def begin(self, lm: PreTrainedModel, texts: Texts) -> "AdditionDecoding":
        """Read the prompts with the plain and the steered model."""
        return AdditionDecoding(lm, texts, self.vectors(texts.columns, texts.ids.device)[:, None], self.layer)

    def vectors(self, columns: Sequence[Mapping[str, Any]], device: torch.device) -> torch.Tensor:
        """(B, d) the vector that is added for each text, given the columns of its prompt.

        Raises:
            UserError: a text's label has no direction.
        """
        labels = labels_of(columns, self.label, self.classes, device)
        # NaN marks labels without texts; it is looked for in the chosen rows only, as other labels may lack texts.
        vectors = self.coefficient * self.directions.to(device)[labels]
        if missing := sorted({self.classes[label] for label in labels[vectors.isnan().any(1)].tolist()}):
            raise UserError(
                f"activation addition has no training text of the wanted label {', '.join(missing)}; give some "
                "(data.train_size, or the texts themselves), or ask for another label"
            )
        return vectors


class ReaderDecoding:
    """Decoding with steered logits computed from the logits of one or more models, the first of them the plain one.

    Args:
        readers: one for each model.
        mix: from the logits (B, V) of each model, and ``extra`` if there is any, to steered logits.
        temperature: of sampling.
        extra: (B, ...) further values of each text.
    """

    def __init__(
        self,
        readers: Sequence[Reader],
        mix: Callable[..., torch.Tensor],
        temperature: float,
        extra: torch.Tensor | None = None,
    ) -> None:
        self.readers, self.mix, self.temperature, self.extra = readers, mix, temperature, extra
        self.passes, self.recording_seconds = 0, 0.0

    def scores(self, tokens: torch.Tensor | None) -> Scores:
        """Scores of the next token."""
        for reader in self.readers:
            reader.advance(tokens)
        logits = [reader.read().logits for reader in self.readers]
        steered = self.mix(logits) if self.extra is None else self.mix(logits, self.extra)
        self.passes += len(self.readers)
        return Scores(steered / self.temperature, logits[0] / self.temperature)

    def keep(self, rows: torch.Tensor) -> None:
        """Keep only ``rows``."""
        for reader in self.readers:
            reader.keep(rows)
        self.extra = None if self.extra is None else self.extra[rows]


class AdditionDecoding:
    """Decoding under activation addition.

    Args:
        lm: the model.
        texts: the prompts.
        vectors: (B, 1, d) added to the residual stream.
        layer: the block after which they are added.
    """

    def __init__(self, lm: PreTrainedModel, texts: Texts, vectors: torch.Tensor, layer: int) -> None:
        self.lm, self.vectors, self.layer = lm, vectors, layer
        self.temperature, self.passes = texts.temperature, 0
        start = now(texts.ids.device)
        self.plain = _reader(lm, texts)
        self.recording_seconds = now(texts.ids.device) - start
        # A prompt is read again for each of its texts, which may have different directions.
        every = torch.arange(len(texts.owner), device=texts.owner.device)
        with self._added():
            self.steered = Reader(lm, texts.ids[texts.owner], texts.mask[texts.owner], every)

    def scores(self, tokens: torch.Tensor | None) -> Scores:
        """Scores of the next token."""
        start = now(self.vectors.device)
        self.plain.advance(tokens)
        plain = self.plain.read().logits
        self.recording_seconds += now(self.vectors.device) - start
        self.steered.advance(tokens)
        with self._added():
            steered = self.steered.read().logits
        self.passes += 1
        return Scores(steered / self.temperature, plain / self.temperature)

    def keep(self, rows: torch.Tensor) -> None:
        """Keep only ``rows``."""
        self.plain.keep(rows)
        self.steered.keep(rows)
        self.vectors = self.vectors[rows]

    @contextmanager
    def _added(self) -> Iterator[None]:
        def add(module: nn.Module, args: Any, output: Any) -> Any:
            # Blocks of some models return a tuple with the hidden states first, those of others the states alone.
            if isinstance(output, tuple):
                return (output[0] + self.vectors.to(output[0].dtype), *output[1:])
            return output + self.vectors.to(output.dtype)

        # Registered around each read only: the plain and the steered text are read by one model object.
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
    """(n, d) for each label 0 … n - 1: mean residual of its texts minus that of all other texts together.

    The row of a label without texts is NaN; n is the number of ``classes``, or one more than the highest label.

    Raises:
        UserError: there are texts of fewer than two labels.
    """
    by_label = {label: rows for label, rows in texts.items() if rows}
    if len(by_label) < 2:
        raise UserError(
            f"activation addition sets texts of one label against others; the data has texts of {len(by_label)}: give "
            "texts of another (data.train_size, or the texts themselves)"
        )
    means = {label: mean_states(lm, tokenizer, rows, layer).mean(0) for label, rows in by_label.items()}
    width = len(next(iter(means.values())))
    # NaN marks a label without texts; a row of zeros would steer to it by nothing, unnoticed.
    directions = torch.full((len(classes) or max(by_label) + 1, width), math.nan)
    for label, mean in means.items():
        others = [(means[other], len(rows)) for other, rows in by_label.items() if other != label]
        total = sum(count for _, count in others)
        # Weighted by the number of texts: the mean over all other texts, without reading them again.
        directions[label] = mean - torch.stack([value * (count / total) for value, count in others]).sum(0)
    return directions


def _reader(lm: PreTrainedModel, texts: Texts) -> Reader:
    return Reader(lm, texts.ids, texts.mask, texts.owner)
