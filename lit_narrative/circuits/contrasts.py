"""Contrast pairs as tensors: two prompts of one length whose answers differ.

A pair is scored at the first token in which its answers differ. What the answers share before it is appended to both
prompts: a tokenizer that splits numbers begins every number with the same space.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Self

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lit_narrative.circuits.inputs import IGNORED, AnalysisInputs, Positions, Span, encode, find_positions, pad_left
from lit_narrative.errors import UserError
from lit_narrative.views import ContrastPair

Side = Literal["clean", "corrupt"]


@dataclass(frozen=True, eq=False)
class Contrasts:
    """Pairs of prompts, padded on the left; the answer follows the last column.

    Attributes:
        clean: (n, T) long.
        corrupt: (n, T) long.
        mask: (n, T) bool, False where padded, the same on both sides.
        answer: (n,) long, the clean prompt's next token.
        distractor: (n,) long, the corrupt prompt's.
        positions: named columns; ``answer`` is the last one.
    """

    clean: Tensor
    corrupt: Tensor
    mask: Tensor
    answer: Tensor
    distractor: Tensor
    positions: Positions

    def __len__(self) -> int:
        return len(self.clean)

    def first(self, count: int) -> "Contrasts":
        """The first pairs."""
        positions = Positions(self.positions.names, self.positions.columns[:count])
        clean, corrupt, mask = self.clean[:count], self.corrupt[:count], self.mask[:count]
        return Contrasts(clean, corrupt, mask, self.answer[:count], self.distractor[:count], positions)

    def inputs(self, side: Side) -> AnalysisInputs:
        """One side's prompts; ``logit_diff`` is the clean answer's logit less the corrupt answer's on both sides."""
        width = self.clean.shape[1] - 1
        targets, distractors = (
            torch.nn.functional.pad(ids[:, None], (width, 0), value=IGNORED) for ids in (self.answer, self.distractor)
        )
        tokens = self.clean if side == "clean" else self.corrupt
        return AnalysisInputs(tokens, self.mask, targets, distractors, self.positions)

    def columns(self) -> Positions:
        """Every column as a position, by its number."""
        width = self.clean.shape[1]
        return Positions(tuple(map(str, range(width))), torch.arange(width).repeat(len(self), 1))


def encode_contrasts(pairs: Sequence[ContrastPair], tokenizer: PreTrainedTokenizerBase) -> Contrasts:
    """Tokenise contrast pairs.

    Args:
        pairs: the pairs; ``meta["spans"]`` names positions in characters of the clean prompt.
        tokenizer: the model's.

    Raises:
        UserError: there are no pairs, the prompts of a pair differ in length, or one answer begins with the other.
    """
    if not pairs:
        raise UserError("there are no contrast pairs to analyse; the task must offer at least one")
    read = [_Pair.read(number, pair, tokenizer) for number, pair in enumerate(pairs)]
    tokens, mask = pad_left([pair.clean for pair in read])
    width = tokens.shape[1]
    spans = [dict(pair.meta.get("spans", {})) for pair in pairs]
    # Only positions that every pair has: a patch must mean the same in all of them.
    named = find_positions([pair.offsets for pair in read], spans, width).common()
    last = torch.full((len(pairs), 1), width - 1)
    positions = Positions((*named.names, "answer"), torch.cat([named.columns, last], 1))
    answer, distractor = torch.tensor([pair.answers for pair in read]).T
    return Contrasts(tokens, pad_left([pair.corrupt for pair in read])[0], mask, answer, distractor, positions)


class _Pair(NamedTuple):
    """A pair as ids: prompts with what the answers share, and the tokens in which they differ."""

    clean: list[int]
    corrupt: list[int]
    offsets: list[Span]
    answers: tuple[int, int]

    @classmethod
    def read(cls, number: int, pair: ContrastPair, tokenizer: PreTrainedTokenizerBase) -> Self:
        (clean, offsets), corrupt = encode(tokenizer, pair.clean), encode(tokenizer, pair.corrupt)[0]
        if len(clean) != len(corrupt):
            raise UserError(
                f"contrast pair {number}: the clean prompt has {len(clean)} tokens and the corrupt one {len(corrupt)}, "
                "but activations can be exchanged only between prompts of one length; they end in "
                f"{pair.clean[-40:]!r} and {pair.corrupt[-40:]!r}"
            )
        left, right = (encode(tokenizer, text, special=False)[0] for text in (pair.clean_answer, pair.corrupt_answer))
        shared = next((index for index, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), None)
        if shared is None:
            raise UserError(
                f"contrast pair {number}: one of the answers {pair.clean_answer!r} and {pair.corrupt_answer!r} begins "
                "with all tokens of the other, so their logits cannot tell them apart"
            )
        prefix = left[:shared]
        # Empty spans, so that no named position of the prompt falls on a token of the answer.
        nowhere = [(len(pair.clean), len(pair.clean))] * shared
        return cls(clean + prefix, corrupt + prefix, offsets + nowhere, (left[shared], right[shared]))
