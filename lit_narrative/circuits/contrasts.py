"""Contrast pairs as tensors: two prompts of one length whose answers differ in their first token."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lit_narrative.circuits.positions import Places, encode, find_places, pad_left
from lit_narrative.circuits.questions import IGNORED, Questions
from lit_narrative.errors import UserError
from lit_narrative.views import ContrastPair

Side = Literal["clean", "corrupt"]


@dataclass(frozen=True, eq=False)
class Contrasts:
    """Pairs of prompts, padded on the left; the answer follows the last column.

    Attributes:
        clean: (n, T) long.
        corrupt: (n, T) long.
        mask: (n, T) bool, False where padded, on both sides alike.
        answer: (n,) long, first token of the clean prompt's answer.
        distractor: (n,) long, first token of the corrupt prompt's answer.
        places: named columns; ``answer`` is the last one.
    """

    clean: Tensor
    corrupt: Tensor
    mask: Tensor
    answer: Tensor
    distractor: Tensor
    places: Places

    def __len__(self) -> int:
        return len(self.clean)

    def first(self, count: int) -> "Contrasts":
        """The first pairs."""
        places = Places(self.places.names, self.places.columns[:count])
        clean, corrupt, mask = self.clean[:count], self.corrupt[:count], self.mask[:count]
        return Contrasts(clean, corrupt, mask, self.answer[:count], self.distractor[:count], places)

    def questions(self, side: Side) -> Questions:
        """One side's prompts; ``logit_diff`` is the clean answer's logit less the corrupt answer's on both."""
        width = self.clean.shape[1] - 1
        targets, distractors = (
            torch.nn.functional.pad(ids[:, None], (width, 0), value=IGNORED) for ids in (self.answer, self.distractor)
        )
        tokens = self.clean if side == "clean" else self.corrupt
        return Questions(tokens, self.mask, targets, distractors, self.places)

    def columns(self) -> Places:
        """Every column as a place, by its number."""
        width = self.clean.shape[1]
        return Places(tuple(map(str, range(width))), torch.arange(width).repeat(len(self), 1))


def encode_contrasts(pairs: Sequence[ContrastPair], tokenizer: PreTrainedTokenizerBase) -> Contrasts:
    """Tokenise contrast pairs.

    Args:
        pairs: the pairs; ``meta["spans"]`` names places in characters of the clean prompt.
        tokenizer: the model's.

    Raises:
        UserError: There are no pairs, the prompts of a pair differ in length, or its answers begin alike.
    """
    if not pairs:
        raise UserError("there are no contrast pairs to analyse; the task must offer at least one")
    clean = [encode(tokenizer, pair.clean) for pair in pairs]
    corrupt = [encode(tokenizer, pair.corrupt) for pair in pairs]
    answers = [_first_tokens(number, pair, tokenizer) for number, pair in enumerate(pairs)]
    for number, (pair, (left, _), (right, _)) in enumerate(zip(pairs, clean, corrupt, strict=True)):
        if len(left) != len(right):
            raise UserError(
                f"contrast pair {number}: the clean prompt has {len(left)} tokens and the corrupt one {len(right)}, "
                "but activations can be exchanged only between prompts of one length; they end in "
                f"{pair.clean[-40:]!r} and {pair.corrupt[-40:]!r}"
            )
    tokens, mask = pad_left([ids for ids, _ in clean])
    width = tokens.shape[1]
    named = find_places([own for _, own in clean], [dict(pair.meta.get("spans", {})) for pair in pairs], width)
    last = torch.full((len(pairs), 1), width - 1)
    places = Places((*named.names, "answer"), torch.cat([named.columns, last], 1))
    answer, distractor = torch.tensor(answers).T
    return Contrasts(tokens, pad_left([ids for ids, _ in corrupt])[0], mask, answer, distractor, places)


def _first_tokens(number: int, pair: ContrastPair, tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    first = []
    for text in (pair.clean_answer, pair.corrupt_answer):
        ids = encode(tokenizer, text, special=False)[0]
        if not ids:
            raise UserError(f"contrast pair {number}: the answer {text!r} has no tokens")
        first.append(ids[0])
    if first[0] == first[1]:
        raise UserError(
            f"contrast pair {number}: the answers {pair.clean_answer!r} and {pair.corrupt_answer!r} begin with the "
            f"same token ({tokenizer.convert_ids_to_tokens(first[0])!r}), so their logits cannot tell them apart"
        )
    return first[0], first[1]
