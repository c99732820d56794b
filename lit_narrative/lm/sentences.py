"""Sentence numbers of completion tokens, for importance ratios per sentence.

A table over the vocabulary, built once for a tokenizer, holds the properties of each token's text at sentence
boundaries; the rest is tensor arithmetic. A sentence ends at ``. ! ? …``, with the quotes and brackets that close after
it, if white space and no small letter follows (so ``"Stop!" he said.`` and ``3.14`` are not split; ``Mr. Holm`` is),
and at every new line. White space, closing marks and special tokens belong to the sentence before; a quote after white
space opens the next. A token that spans a boundary belongs to the sentence that it begins in.
"""

import re
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from transformers import PreTrainedTokenizerBase

# A curly quote that is cut into several tokens decodes to replacement characters, which are taken for closing marks.
CLOSING = r"[\"'”’»›)\]}*_\ufffd]"
_CLOSING_ONLY = re.compile(rf"{CLOSING}+")
_MAY_END = re.compile(rf"[.!?…]{CLOSING}*")
_SURELY_ENDS = re.compile(rf"[。！？]{CLOSING}*|[.!?…]{CLOSING}*\s+\S")
NO_END, MAY_END, ENDS = range(3)


class EdgeTable(NamedTuple):
    """Properties of a token's text at sentence boundaries: (V + 1,) each, the last entry for ids beyond the vocabulary.

    Attributes:
        end: whether a sentence ends in it: ``NO_END``, ``MAY_END`` (what follows decides) or ``ENDS``.
        blank: white space only, or nothing (special tokens).
        closing: closing marks first and only, perhaps with white space behind.
        opens_line: text behind a new line.
        white_before: text behind white space.
        white_after: white space is its last character.
        small: its first letter or sign is a small letter.
    """

    end: torch.Tensor
    blank: torch.Tensor
    closing: torch.Tensor
    opens_line: torch.Tensor
    white_before: torch.Tensor
    white_after: torch.Tensor
    small: torch.Tensor


_tables: "WeakKeyDictionary[PreTrainedTokenizerBase, EdgeTable]" = WeakKeyDictionary()


def sentence_ids(tokenizer: PreTrainedTokenizerBase, completion_ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Number the sentences of every completion.

    Args:
        tokenizer: whose ids they are.
        completion_ids: (R, T) int64, right-padded.
        mask: (R, T) bool, true on completion tokens.

    Returns:
        (R, T) int64, from 0 upwards along each row; 0 outside the mask.
    """
    table = edge_table(tokenizer)
    known = completion_ids.clamp(max=len(table.end) - 1).cpu()
    end, blank, closing, opens_line, white_before, white_after, small = (column[known] for column in table)

    text = ~blank & ~closing
    mark = _last(text | (end == ENDS))  # of the text so far
    before = end.gather(1, mark.clamp(min=0)).where(mark >= 0, NO_END)
    gap = _last(white_after) >= mark
    starts = opens_line | (before == ENDS) & (text | gap) | (before == MAY_END) & (gap | white_before) & ~small
    starts = starts & ~blank & (_last(text) >= 0)
    starts = starts & (opens_line | (_last(starts) <= mark))  # an opening quote has begun the sentence already
    return starts.long().cumsum(1).to(mask.device) * mask


def _last(where: torch.Tensor) -> torch.Tensor:
    """(R, T): index of the last true position before each position; -1 if there is none."""
    positions = torch.arange(where.shape[1]).expand_as(where).where(where, -1)
    return torch.nn.functional.pad(positions, (1, 0), value=-1)[:, :-1].cummax(1).values


def edge_table(tokenizer: PreTrainedTokenizerBase) -> EdgeTable:
    """The table of a tokenizer; re-created if tokens have been added."""
    table = _tables.get(tokenizer)
    if table is None or len(table.end) != len(tokenizer) + 1:
        table = _tables[tokenizer] = _make_table([*_texts(tokenizer), "?a"])
    return table


def _texts(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The text that each id adds. A letter goes first: some tokenizers drop a leading space where a text begins."""
    letter = tokenizer("a", add_special_tokens=False)["input_ids"]
    options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    start = len(tokenizer.decode(letter, **options))
    pairs = [[*letter, token] for token in range(len(tokenizer))]
    return [text[start:] for text in tokenizer.batch_decode(pairs, **options)]


def _make_table(texts: list[str]) -> EdgeTable:
    bodies = [text.strip() for text in texts]
    leads = [text[: len(text) - len(text.lstrip())] for text in texts]
    return EdgeTable(
        end=torch.tensor([_end(text) for text in texts]),
        blank=torch.tensor([not body for body in bodies]),
        closing=torch.tensor(
            [not lead and bool(_CLOSING_ONLY.fullmatch(body)) for lead, body in zip(leads, bodies, strict=True)]
        ),
        opens_line=torch.tensor([bool(body) and "\n" in lead for lead, body in zip(leads, bodies, strict=True)]),
        white_before=torch.tensor([bool(body and lead) for lead, body in zip(leads, bodies, strict=True)]),
        white_after=torch.tensor([text[-1:].isspace() for text in texts]),
        small=torch.tensor([body[:1].islower() for body in bodies]),
    )


def _end(text: str) -> int:
    """The class of `EdgeTable.end`."""
    body = text.lstrip()
    if "\n" in (body or text):
        return ENDS
    if any(not match[0][-1].islower() for match in _SURELY_ENDS.finditer(body)):
        return ENDS
    return MAY_END if re.search(rf"{_MAY_END.pattern}$", body.rstrip()) else NO_END
