"""What a model is asked: rows of tokens, and the token that should follow at some of their places."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lit_narrative.circuits.bridge import Hook, run
from lit_narrative.errors import UserError, did_you_mean
from lit_narrative.views import Example

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformer_lens.model_bridge import TransformerBridge


IGNORED = -100


@dataclass(frozen=True, eq=False)
class Scores:
    """What the model answered at the M scored places.

    Attributes:
        correct: (M,) bool, whether the right token has the largest logit.
        logprob: (M,) log-probability of the right token.
        logit_diff: (M,) its logit less the distractor's; without distractors, less the best other token's.
    """

    correct: Tensor
    logprob: Tensor
    logit_diff: Tensor

    def means(self) -> dict[str, float]:
        """``accuracy``, ``logprob`` and ``logit_diff``."""
        names = {"accuracy": self.correct, "logprob": self.logprob, "logit_diff": self.logit_diff}
        return {name: values.double().mean().item() for name, values in names.items()}

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """One after the other."""
        return cls(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    def view(self, rows: int) -> Self:
        """The same as (rows, M / rows)."""
        return type(self)(*(getattr(self, field.name).view(rows, -1) for field in fields(self)))


@dataclass(frozen=True, eq=False)
class Places:
    """Named columns of a batch.

    Attributes:
        names: of the places.
        columns: (n, P) long, -1 where a row lacks the place.
    """

    names: tuple[str, ...]
    columns: Tensor

    def column(self, name: str) -> Tensor:
        """The column of a place in each row: (n,).

        Raises:
            UserError: There is no such place, with the names there are.
        """
        if name not in self.names:
            known = ", ".join(self.names)
            raise UserError(f"no place is named {name!r}{did_you_mean(name, self.names)}; the rows have: {known}")
        return self.columns[:, self.names.index(name)]

    def pick(self, names: Sequence[str]) -> "Places":
        """The places of these names.

        Raises:
            UserError: As `column` raises.
        """
        columns = [self.column(name) for name in names]
        return Places(tuple(names), torch.stack(columns, 1) if columns else self.columns[:, :0])

    def common(self) -> "Places":
        """The places that every row has."""
        return self.pick([name for name in self.names if (self.column(name) >= 0).all()])


@dataclass(frozen=True, eq=False)
class Questions:
    """Rows to read and answers to expect.

    Attributes:
        tokens: (n, T) long, padded on the left.
        mask: (n, T) bool, False where padded.
        targets: (n, T) long: the token that should follow, -100 where nothing is asked.
        distractors: (n, T) long: the wrong token that is compared with it; None where there is none.
        places: named columns.
    """

    tokens: Tensor
    mask: Tensor
    targets: Tensor
    distractors: Tensor | None = None
    places: Places | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def columns(self) -> Tensor:
        """The columns where some row is asked: (C,)."""
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

    def _each(self, change: "Callable[[Tensor], Tensor]") -> Self:
        places = self.places and Places(self.places.names, change(self.places.columns))
        distractors = None if self.distractors is None else change(self.distractors)
        return type(self)(change(self.tokens), change(self.mask), change(self.targets), distractors, places)

    def majority(self) -> float:
        """Share of the commonest right token: what a constant answer would score."""
        asked = self.targets[self.targets != IGNORED]
        return asked.unique(return_counts=True)[1].max().item() / len(asked)


def ask(bridge: "TransformerBridge", questions: Questions, hooks: Sequence[Hook] = ()) -> Scores:
    """The model's answers, under hooks; gradients flow to ``logit_diff`` and ``logprob`` if they are recorded."""
    questions = questions.to(bridge.cfg.device)
    columns = questions.columns
    return score(run(bridge, questions.tokens, questions.mask, hooks, columns), questions, columns)


def score(logits: Tensor, questions: Questions, columns: Tensor) -> Scores:
    """Compare logits (n, C, V) of some columns with the answers expected there."""
    targets = questions.targets[:, columns]
    asked = targets != IGNORED
    wanted, logits = targets[asked], logits[asked]
    own = logits.gather(1, wanted[:, None])[:, 0]
    if questions.distractors is None:
        other = logits.scatter(1, wanted[:, None], -torch.inf).amax(1)
    else:
        other = logits.gather(1, questions.distractors[:, columns][asked][:, None])[:, 0]
    return Scores(logits.argmax(1) == wanted, own - logits.logsumexp(1), own - other)


def ask_all(bridge: "TransformerBridge", questions: Questions, batch_size: int, hooks: Sequence[Hook] = ()) -> Scores:
    """The same in batches, without gradients; the hooks must not depend on which rows they see."""
    with torch.no_grad():
        parts = [
            ask(bridge, questions.rows(slice(start, start + batch_size)), hooks)
            for start in range(0, len(questions), batch_size)
        ]
    return Scores.join(parts)


def encode_questions(
    rows: Sequence[Example], tokenizer: PreTrainedTokenizerBase, scored: int | None = None
) -> Questions:
    """Ask for the completions of examples, each token after the right ones before it.

    Args:
        rows: the examples; ``meta["spans"]``, if all have it, names places {name: (start, end)} in characters of
            prompt and completion together. The place ``answer`` is where the first scored token is foretold.
        tokenizer: the model's.
        scored: how many of the completion's last tokens are scored; None scores them all.

    Raises:
        UserError: There are no rows, a completion is empty, or a place lies outside its text.
    """
    if not rows:
        raise UserError("there are no examples to analyse")
    tokens, targets, offsets, spans = [], [], [], []
    for row in rows:
        prompt, answer, own = read(row, tokenizer)
        if not answer:
            raise UserError(f"the completion of {row.prompt[-40:]!r} has no tokens; an analysis needs an answer")
        ids = prompt + answer
        kept = len(answer) if scored is None else min(scored, len(answer))
        tokens.append(ids[:-1])
        targets.append([IGNORED] * (len(ids) - 1 - kept) + ids[len(ids) - kept :])
        offsets.append(own[:-1])
        spans.append(dict(row.meta.get("spans", {})))
    padded, mask = pad_left(tokens)
    wanted, _ = pad_left(targets, IGNORED)
    places = find_places(offsets, spans, padded.shape[1])
    answer_column = (wanted != IGNORED).int().argmax(1, keepdim=True)
    named = Places((*places.names, "answer"), torch.cat([places.columns, answer_column], 1))
    return Questions(padded, mask, wanted, None, named)


Span = tuple[int, int]


def read(row: Example, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int], list[Span]]:
    """Ids of the prompt, ids of the completion, and the characters of both together that each came from."""
    (prompt, own), (answer, later) = encode(tokenizer, row.prompt), encode(tokenizer, row.completion, special=False)
    shift = len(row.prompt)
    return prompt, answer, own + [(start + shift, end + shift) for start, end in later]


Encoded = tuple[list[int], list[Span]]
"""Token ids, and where in the text each came from (start, end)."""


def encode(tokenizer: PreTrainedTokenizerBase, text: str, special: bool = True) -> Encoded:
    """Token ids and the characters that each came from; a token that is not of the text has an empty span."""
    encoded: Any = tokenizer(text, add_special_tokens=special, return_offsets_mapping=True)
    return list(encoded["input_ids"]), [(start, end) for start, end in encoded["offset_mapping"]]


def pad_left(rows: Sequence[Sequence[int]], value: int = 0) -> tuple[Tensor, Tensor]:
    """Stack rows of unequal length: (n, longest) long, and (n, longest) bool, False where a row is padded."""
    width = max(len(row) for row in rows)
    tokens = torch.tensor([[value] * (width - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[False] * (width - len(row)) + [True] * len(row) for row in rows])
    return tokens, mask


def find_places(offsets: Sequence[Sequence[Span]], spans: Sequence[Mapping[str, Span]], width: int) -> Places:
    """The column of the last token that touches each span.

    Args:
        offsets: of each row, the characters of its tokens.
        spans: of each row, the characters of its places.
        width: columns of the padded batch.

    Raises:
        UserError: No token touches a span.
    """
    names = tuple(dict.fromkeys(name for named in spans for name in named))
    rows = [
        [width - len(own) + last_token(own, name, named[name]) if name in named else -1 for name in names]
        for own, named in zip(offsets, spans, strict=True)
    ]
    return Places(names, torch.tensor(rows, dtype=torch.long).view(len(spans), len(names)))


def last_token(offsets: Sequence[Span], name: str, span: Span) -> int:
    """The last token that touches a span.

    Raises:
        UserError: None does; ``name`` says of what.
    """
    touching = [place for place, (start, end) in enumerate(offsets) if start < span[1] and end > span[0]]
    if not touching:
        raise UserError(f"the place {name!r} is at the characters {span[0]} to {span[1]}, where the text has no token")
    return touching[-1]
