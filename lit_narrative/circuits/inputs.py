"""Inputs of an analysis: rows of tokens, the token that should follow at some columns, and columns with a name."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lit_narrative.circuits.bridge import Hook, run
from lit_narrative.errors import UserError, did_you_mean
from lit_narrative.text import appended_tokens, unicode_text
from lit_narrative.views import Example, plain_prompt, prompt_text

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


IGNORED = -100
"""Target of a column where no token is scored, as PyTorch's losses write it."""
Span = tuple[int, int]
"""Characters of a text (start, end)."""
Encoded = tuple[list[int], list[Span]]
"""Token ids, and the characters that each came from."""


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of the model's answers at M columns.

    Attributes:
        correct: (M,) bool, whether the right token has the largest logit.
        logprob: (M,) log-probability of the right token, in nats.
        logit_diff: (M,) its logit less the distractor's; without distractors, less the best other token's.
    """

    correct: Tensor
    logprob: Tensor
    logit_diff: Tensor

    def means(self) -> dict[str, float]:
        """``accuracy``, ``logprob`` and ``logit_diff``."""
        # In double precision: a mean of thousands of float32 values would depend on how they are batched.
        values = {"accuracy": self.correct, "logprob": self.logprob, "logit_diff": self.logit_diff}
        return {name: tensor.double().mean().item() for name, tensor in values.items()}

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """Concatenate the scores of batches."""
        return cls(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    def rows(self, chosen: Tensor) -> Self:
        """Some of the rows, in an order."""
        return type(self)(*(getattr(self, field.name)[chosen.to(self.correct.device)] for field in fields(self)))

    def view(self, rows: int) -> Self:
        """The same as (rows, M / rows)."""
        return type(self)(*(getattr(self, field.name).view(rows, -1) for field in fields(self)))


@dataclass(frozen=True, eq=False)
class Positions:
    """Named columns of a batch.

    Attributes:
        names: of the positions.
        columns: (n, P) long, -1 where a row lacks the position.
    """

    names: tuple[str, ...]
    columns: Tensor

    def column(self, name: str) -> Tensor:
        """The column of a position in each row: (n,).

        Raises:
            UserError: there is no such position; the message lists those there are.
        """
        if name not in self.names:
            known = ", ".join(self.names)
            raise UserError(f"no position is named {name!r}{did_you_mean(name, self.names)}; the rows have: {known}")
        return self.columns[:, self.names.index(name)]

    def pick(self, names: Sequence[str]) -> "Positions":
        """The positions of these names.

        Raises:
            UserError: as `column` raises.
        """
        columns = [self.column(name) for name in names]
        return Positions(tuple(names), torch.stack(columns, 1) if columns else self.columns[:, :0])

    def common(self) -> "Positions":
        """The positions that every row has."""
        return self.pick([name for name in self.names if (self.column(name) >= 0).all()])


@dataclass(frozen=True, eq=False)
class AnalysisInputs:
    """Rows to read, and the tokens that should follow.

    Attributes:
        tokens: (n, T) long, padded on the left.
        mask: (n, T) bool, False where padded.
        targets: (n, T) long: the token that should follow, -100 where none is scored.
        distractors: (n, T) long: the wrong token to compare it with; None without distractors.
        positions: named columns; None without names.
    """

    tokens: Tensor
    mask: Tensor
    targets: Tensor
    distractors: Tensor | None = None
    positions: Positions | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def columns(self) -> Tensor:
        """The columns where some row has a target: (C,)."""
        return (self.targets != IGNORED).any(0).nonzero().flatten()

    def repeat(self, times: int) -> Self:
        """The rows ``times`` over, one whole copy after the other."""
        return self._each(lambda tensor: tensor.repeat(times, 1))

    def to(self, device: torch.device | str) -> Self:
        """The same on a device."""
        return self._each(lambda tensor: tensor.to(device))

    def rows(self, chosen: slice | Tensor) -> Self:
        """Some of the rows."""
        return self._each(lambda tensor: tensor[chosen])

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        positions = self.positions and Positions(self.positions.names, change(self.positions.columns))
        distractors = None if self.distractors is None else change(self.distractors)
        return type(self)(change(self.tokens), change(self.mask), change(self.targets), distractors, positions)

    def majority(self) -> float:
        """Share of the commonest right token: the accuracy of a constant answer."""
        targets = self.targets[self.targets != IGNORED]
        return targets.unique(return_counts=True)[1].max().item() / len(targets)


def ask(bridge: "TransformerBridge", inputs: AnalysisInputs, hooks: Sequence[Hook] = ()) -> Scores:
    """Score the model's answers under hooks; gradients flow to ``logit_diff`` and ``logprob`` if they are recorded."""
    inputs = inputs.to(bridge.cfg.device)
    columns = inputs.columns
    return score(run(bridge, inputs.tokens, inputs.mask, hooks, columns), inputs, columns)


def score(logits: Tensor, inputs: AnalysisInputs, columns: Tensor) -> Scores:
    """Compare logits (n, C, V) at some columns with the tokens expected there."""
    targets = inputs.targets[:, columns]
    scored = targets != IGNORED
    wanted, logits = targets[scored], logits[scored]
    right = logits.gather(1, wanted[:, None])[:, 0]
    if inputs.distractors is None:
        other = logits.scatter(1, wanted[:, None], -torch.inf).amax(1)  # the best of all other tokens
    else:
        other = logits.gather(1, inputs.distractors[:, columns][scored][:, None])[:, 0]
    return Scores(logits.argmax(1) == wanted, right - logits.logsumexp(1), right - other)


def ask_all(bridge: "TransformerBridge", inputs: AnalysisInputs, batch_size: int, hooks: Sequence[Hook] = ()) -> Scores:
    """The same in batches, without gradients; the hooks must not depend on which rows they see."""
    with torch.no_grad():
        parts = [
            ask(bridge, inputs.rows(slice(start, start + batch_size)), hooks)
            for start in range(0, len(inputs), batch_size)
        ]
    return Scores.join(parts)


def encode_inputs(
    rows: Sequence[Example], tokenizer: PreTrainedTokenizerBase, scored: int | None = None
) -> AnalysisInputs:
    """Tokenise examples; every token of a completion is scored after the right ones before it.

    Args:
        rows: the examples; ``meta["spans"]`` names positions {name: (start, end)} in characters of prompt and
            completion together. The position ``answer`` is the column that predicts the first scored token.
        tokenizer: the model's.
        scored: how many of the completion's last tokens are scored; None scores them all.

    Raises:
        UserError: there are no rows, a completion is empty, or a position lies outside its text.
    """
    if not rows:
        raise UserError("there are no examples to analyse")
    tokens, targets, offsets, spans = [], [], [], []
    for row in rows:
        prompt, answer, characters = read(row, tokenizer)
        if not answer:
            raise UserError(
                f"the completion of {prompt_text(row.prompt)[-40:]!r} has no tokens; an analysis needs an answer"
            )
        ids = prompt + answer
        kept = len(answer) if scored is None else min(scored, len(answer))
        # The last token is never read, only predicted: inputs and targets are shifted by one.
        tokens.append(ids[:-1])
        targets.append([IGNORED] * (len(ids) - 1 - kept) + ids[len(ids) - kept :])
        offsets.append(characters[:-1])
        spans.append(dict(row.meta.get("spans", {})))
    padded, mask = pad_left(tokens)
    wanted, _ = pad_left(targets, IGNORED)
    named = find_positions(offsets, spans, padded.shape[1])
    answer_column = (wanted != IGNORED).int().argmax(1, keepdim=True)
    positions = Positions((*named.names, "answer"), torch.cat([named.columns, answer_column], 1))
    return AnalysisInputs(padded, mask, wanted, None, positions)


def read(row: Example, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int], list[Span]]:
    """Ids of the prompt, ids of the completion, and the characters of both together that each came from."""
    # Each by itself, as in training and sampling: a token never spans the border of prompt and completion.
    text = plain_prompt(row.prompt)
    prompt, before = encode(tokenizer, text)
    answer, after = encode(tokenizer, row.completion, special=False)
    shift = len(text)
    return prompt, answer, before + [(start + shift, end + shift) for start, end in after]


def encode(tokenizer: PreTrainedTokenizerBase, text: str, special: bool = True) -> Encoded:
    """Token ids and the characters that each came from; a token that is not of the text has an empty span.

    With ``special`` they are those of a prompt: the tokens that the tokenizer puts in front, and none behind.
    """
    encoded: Any = tokenizer(unicode_text(text), add_special_tokens=special, return_offsets_mapping=True)
    kept = len(encoded["input_ids"]) - (appended_tokens(tokenizer) if special else 0)
    return list(encoded["input_ids"][:kept]), [(start, end) for start, end in encoded["offset_mapping"][:kept]]


def pad_left(rows: Sequence[Sequence[int]], value: int = 0) -> tuple[Tensor, Tensor]:
    """Stack rows of unequal length: (n, longest) long, and (n, longest) bool, False where a row is padded."""
    width = max(len(row) for row in rows)
    tokens = torch.tensor([[value] * (width - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[False] * (width - len(row)) + [True] * len(row) for row in rows])
    return tokens, mask


def find_positions(offsets: Sequence[Sequence[Span]], spans: Sequence[Mapping[str, Span]], width: int) -> Positions:
    """The column of the last token that touches each span.

    Args:
        offsets: of each row, the characters of its tokens.
        spans: of each row, the characters of its positions.
        width: columns of the padded batch.

    Raises:
        UserError: no token touches a span.
    """
    names = tuple(dict.fromkeys(name for named in spans for name in named))
    rows = [
        # Rows are padded on the left, so a token's column is counted from the end.
        [width - len(row) + last_token(row, name, named[name]) if name in named else -1 for name in names]
        for row, named in zip(offsets, spans, strict=True)
    ]
    return Positions(names, torch.tensor(rows, dtype=torch.long).view(len(spans), len(names)))


def last_token(offsets: Sequence[Span], name: str, span: Span) -> int:
    """The last token that touches a span: there a causal model has read all of it.

    Raises:
        UserError: none does; the message names the position.
    """
    touching = [index for index, (start, end) in enumerate(offsets) if start < span[1] and end > span[0]]
    if not touching:
        where = f"at the characters {span[0]} to {span[1]}"
        raise UserError(f"the position {name!r} is {where}, where the text has no token")
    return touching[-1]
