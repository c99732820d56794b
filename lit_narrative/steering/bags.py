"""Bags of words: where their words come from, and which tokens of a model they are."""

import logging
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PreTrainedTokenizerBase

from lit_narrative.errors import UserError, did_you_mean
from lit_narrative.files import read_utf8
from lit_narrative.steering.losses import Bags
from lit_narrative.views import WordList

logger = logging.getLogger(__name__)
BagPolicy = Literal["single", "first_token"]
"""Treatment of a word of several tokens: left out, as published, or replaced by its first token."""
Words = Sequence[str] | Mapping[str, float]
"""A list of words, or weights by word."""


@dataclass(frozen=True)
class BagOfWords:
    """Words as token ids of one model.

    Attributes:
        name: for messages and metrics.
        words: the words in use, in the forms that are tokens.
        ids: the token of each word.
        weights: of each word; a word that is listed twice counts twice.
        dropped: words that are not single tokens.
    """

    name: str
    words: tuple[str, ...]
    ids: tuple[int, ...]
    weights: tuple[float, ...]
    dropped: tuple[str, ...] = ()


def weigh(words: Words) -> list[tuple[str, float]]:
    """Each word with its weight; words of a list have weight 1."""
    return list(words.items()) if isinstance(words, Mapping) else [(word, 1.0) for word in words]


def encode_bag(
    name: str,
    words: Words,
    tokenizer: PreTrainedTokenizerBase,
    *,
    policy: BagPolicy = "single",
    cases: bool = False,
) -> BagOfWords:
    """A bag as token ids: a word is the token that it forms after a space.

    Args:
        name: for messages.
        words: of the bag; words of a list have weight 1.
        tokenizer: the model's.
        policy: treatment of a word of several tokens.
        cases: add the capitalised and the upper-case form of each word, where they are tokens.

    Raises:
        UserError: no word can be used, or a weight is not above 0.
    """
    given = weigh(words)
    if wrong := [word for word, weight in given if not weight > 0]:  # `not >` refuses nan too
        raise UserError(f"bag '{name}': the weight of '{wrong[0]}' must be above 0; leave the word out instead")
    usable: list[tuple[str, int, float]] = []
    dropped = []
    for word, weight in given:
        # A dictionary drops forms that coincide ("I".upper() is "I"): each would count again.
        forms = dict.fromkeys([word, word.capitalize(), word.upper()] if cases else [word])
        hits = [(form, token, weight) for form in forms if (token := _token(form, tokenizer, policy)) is not None]
        usable += hits
        if not hits:
            dropped.append(word)
    if not usable:
        raise UserError(
            f"bag '{name}': none of its {len(given)} words is a single token of this model's tokenizer"
            f"{_some(dropped)}; give other words, set policy: first_token, or train the tokenizer with whole words "
            "(tokenizer: {kind: words})"
        )
    if dropped:
        logger.warning("bag '%s': left out %d of %d words%s", name, len(dropped), len(given), _some(dropped))
    texts, ids, weights = zip(*usable, strict=True)
    return BagOfWords(name, texts, ids, weights, tuple(dropped))


def _token(word: str, tokenizer: PreTrainedTokenizerBase, policy: BagPolicy) -> int | None:
    # With a space in front, as the word stands within a text: byte-level tokenizers know it by another token otherwise.
    ids: list[int] = tokenizer(" " + word.strip(), add_special_tokens=False)["input_ids"]
    # The unknown token would stand for every word that the tokenizer lacks.
    if not ids or tokenizer.unk_token_id in ids or (len(ids) > 1 and policy == "single"):
        return None
    return ids[0]


def _some(words: Sequence[str]) -> str:
    return f" ({', '.join(words[:5])}{', …' if len(words) > 5 else ''})" if words else ""


def find_words(wanted: str | Words, lists: Mapping[str, WordList]) -> Words:
    """Words as they are given, those of a list by its name, or those of a file (`read_bag`).

    Args:
        wanted: words, a name, or a path.
        lists: the task's word lists by name.

    Raises:
        UserError: there is neither such a list nor such a file.
    """
    if not isinstance(wanted, str):
        return wanted
    return lists[wanted].words if wanted in lists else read_bag(wanted, lists)


def read_bag(path: str | Path, names: Collection[str] = ()) -> dict[str, float]:
    """Words with their weights from a file: one word a line, a weight behind it if there is one; ``#`` begins a remark.

    Args:
        path: of the file.
        names: of word lists that could have been meant in its place.

    Raises:
        UserError: there is no such file, a line is not a word with at most a positive weight, or no line has a word.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"no topic and no file '{path}'{did_you_mean(str(path), names)}; topics: {', '.join(names) or 'none'}; or "
            "give a file with one word a line"
        )
    weights = {}
    for number, line in enumerate(read_utf8(path).splitlines(), 1):
        parts = line.split("#")[0].split()
        if parts:  # blank lines and remarks have none
            weight = _weight(parts)
            if weight is None:
                raise UserError(f"{path}, line {number}: '{line.strip()}'; write a word, then perhaps a weight above 0")
            weights[parts[0]] = weight
    if not weights:
        raise UserError(f"{path} holds no word; write one a line")
    return weights


def _weight(parts: list[str]) -> float | None:
    """The weight of a line, 1 by default; None where it is not a word with a weight."""
    if len(parts) == 1:
        return 1.0
    try:
        weight = float(parts[1])
    except ValueError:
        return None
    return weight if len(parts) == 2 and 0 < weight < math.inf else None


@dataclass(frozen=True)
class ColumnBag:
    """A bag that differs from text to text.

    Args:
        column: the column of the prompts that holds the words.
        encode: turns words into a bag.
    """

    column: str
    encode: Callable[[Words], BagOfWords]

    def of(self, columns: Mapping[str, Any]) -> BagOfWords:
        """The bag of a text whose prompt carries ``columns``.

        Raises:
            UserError: the prompt lacks the column.
        """
        return self.encode(column_of(columns, self.column))


@dataclass(frozen=True)
class BagsOfRows:
    """The bags that texts are steered to.

    Args:
        bags: the same for all texts, or from a column of their prompts.
        strengths: weight of the loss of each bag.
    """

    bags: Sequence[BagOfWords | ColumnBag]
    strengths: Sequence[float]

    def __call__(self, columns: Sequence[Mapping[str, Any]], device: torch.device) -> Bags | None:
        """The bags of texts whose prompts carry ``columns``, as tensors; None if there are none.

        Raises:
            UserError: a prompt lacks the column.
        """
        if not self.bags:
            return None
        rows = [[bag.of(row) if isinstance(bag, ColumnBag) else bag for bag in self.bags] for row in columns]
        return stack_bags(rows, self.strengths, device)


def stack_bags(rows: Iterable[Sequence[BagOfWords]], strengths: Sequence[float], device: torch.device) -> Bags:
    """The bags of every row as tensors; each row has one bag for each of the strengths."""
    bags = list(rows)
    # Shorter bags are padded with id 0 of weight 0, which adds nothing to a probability or a gradient.
    longest = max(len(bag.ids) for row in bags for bag in row)

    def padded(values: Sequence[float]) -> list[float]:
        return [*values, *[0] * (longest - len(values))]

    # (B, K, N). The padding is token 0 with weight 0, which adds nothing to a bag's probability.
    ids = torch.tensor([[padded(bag.ids) for bag in row] for row in bags], dtype=torch.long, device=device)
    weights = torch.tensor([[padded(bag.weights) for bag in row] for row in bags], device=device, dtype=torch.float32)
    return Bags(ids, weights, torch.tensor(strengths, device=device, dtype=torch.float32))


def column_of(columns: Mapping[str, Any], name: str) -> Any:
    """The value of a prompt's column.

    Raises:
        UserError: the prompt has no such column.
    """
    if name not in columns:
        has = ", ".join(sorted(columns)) or "none"
        raise UserError(
            f"the prompts carry no column '{name}', which the steering settings ask for (columns: {has})"
            f"{did_you_mean(name, columns)}"
        )
    return columns[name]


def labels_of(
    columns: Sequence[Mapping[str, Any]], label: int | str, classes: Sequence[str], device: torch.device
) -> torch.Tensor:
    """(B,) the wanted class of each text.

    Args:
        columns: of the texts' prompts.
        label: the number of a class, its name, or the column that holds one of both.
        classes: names of the classes.
        device: of the result.

    Raises:
        UserError: there is no such class or column.
    """
    # A name that is both a class and a column means the class.
    known = label in classes or not isinstance(label, str)
    wanted = [label if known else column_of(row, str(label)) for row in columns]
    return torch.tensor([_class(name, classes) for name in wanted], dtype=torch.long, device=device)


def _class(name: Any, classes: Sequence[str]) -> int:
    if name in classes:
        return list(classes).index(name)
    if isinstance(name, int) and 0 <= name < len(classes):
        return name
    raise UserError(
        f"there is no class '{name}'{did_you_mean(str(name), classes)}; classes: {', '.join(classes)}, or their "
        f"numbers 0 to {len(classes) - 1}"
    )
