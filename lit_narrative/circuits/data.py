"""Data of circuit analyses: the rows and contrast pairs that a task offers, as text and as tokens."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice
from typing import Any, Protocol

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from lit_narrative.circuits.contrasts import Contrasts, encode_contrasts
from lit_narrative.circuits.inputs import AnalysisInputs, encode_inputs
from lit_narrative.errors import UserError
from lit_narrative.views import ContrastPair, Example, prompt_text

TRIED = 50
"""Pairs tried for each one wanted: a tokenizer that splits numbers can use only some."""


class AnalysisSource(Protocol):
    """What circuit analysis asks of a task; every ``TaskDataModule`` has both methods."""

    def questions(self, split: str) -> Sequence[Example]:
        """Examples of a split; their ``meta`` may hold ``spans``, ``targets`` and ``patterns``."""
        ...

    def contrasts(self, split: str) -> Iterable[ContrastPair]:
        """Pairs of prompts whose answers differ."""
        ...


@dataclass(frozen=True, eq=False)
class AnalysisData:
    """Rows and pairs of every split, the same for every model that is analysed.

    Attributes:
        rows: examples by split. The first split is the reference split: probes are fitted on it, means and the SAE are
            taken from it.
        inputs: the same as tokens.
        pairs: contrast pairs by split, those that this tokenizer can align.
        dropped: by split, the number of pairs that it cannot: unequal in length, or with answers that begin alike.
        tokenizer: the model's.
    """

    rows: Mapping[str, Sequence[Example]]
    inputs: Mapping[str, AnalysisInputs]
    pairs: Mapping[str, Sequence[ContrastPair]]
    dropped: Mapping[str, int]
    tokenizer: PreTrainedTokenizerBase

    @property
    def reference_split(self) -> str:
        """The split that probes, means and the SAE come from."""
        return next(iter(self.inputs))

    def contrasts(self, split: str) -> Contrasts:
        """The pairs of a split as tokens."""
        return self._contrasts[split]

    @cached_property
    def _contrasts(self) -> dict[str, Contrasts]:
        # Once: most analyses ask for them, and so do the estimate and the checksum of each.
        return {split: encode_contrasts(pairs, self.tokenizer) for split, pairs in self.pairs.items()}

    def halves(self, split: str) -> tuple[Contrasts, Contrasts]:
        """The first and the second half of a split's pairs; a single pair is both."""
        first, second = self._half_pairs(split)
        return encode_contrasts(first, self.tokenizer), encode_contrasts(second, self.tokenizer)

    def half_sizes(self, split: str) -> tuple[int, int]:
        """The numbers of pairs in `halves`."""
        first, second = self._half_pairs(split)
        return len(first), len(second)

    def _half_pairs(self, split: str) -> tuple[Sequence[ContrastPair], Sequence[ContrastPair]]:
        # A circuit is found on one half and tested on the other: on its own pairs it looks better than it is.
        pairs, middle = self.pairs[split], len(self.pairs[split]) // 2
        return (pairs[:middle], pairs[middle:]) if middle else (pairs, pairs)

    def digest(self, paired: bool) -> str:
        """A checksum of the rows of all splits, as text and as tokens, and of the pairs where they are used."""
        digest = hashlib.sha256()
        for split, rows in self.rows.items():
            texts = [
                split,
                [asdict(row) for row in rows],
                [asdict(pair) for pair in self.pairs[split]] if paired else [],
            ]
            digest.update(repr(_whole(texts)).encode())
            tensors = [self.inputs[split].tokens, *([self.contrasts(split).clean] if paired else [])]
            for tensor in tensors:
                digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()

    def counts(self) -> dict[str, dict[str, int | str]]:
        """Of each split: rows, pairs, pairs left out, and a checksum by which two folders have the same rows."""
        counted: dict[str, dict[str, int | str]] = {}
        for split, rows in self.rows.items():
            pairs = self.pairs.get(split, ())
            # A NUL between texts, so that the same words cut otherwise give another checksum.
            texts = [text for row in rows for text in (prompt_text(row.prompt), row.completion)]
            texts += [text for pair in pairs for text in (pair.clean, pair.corrupt)]
            numbers = {"examples": len(rows), "pairs": len(pairs), "pairs_dropped": self.dropped.get(split, 0)}
            counted[split] = {**numbers, "sha256": hashlib.sha256("\0".join(texts).encode()).hexdigest()}
        return counted


def _whole(value: Any) -> Any:
    """A value of a row whose `repr` tells all of it: that of a long array leaves most of it out."""
    if isinstance(value, Mapping):
        return sorted((repr(key), _whole(item)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return [_whole(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(map(repr, value))
    if isinstance(value, torch.Tensor | np.ndarray | np.generic):
        return _whole(value.tolist())
    return value


def collect(
    source: AnalysisSource, tokenizer: PreTrainedTokenizerBase, splits: Sequence[str], examples: int, pairs: int
) -> AnalysisData:
    """Read the rows to analyse, and pairs if they are asked for.

    Args:
        source: the task.
        tokenizer: the model's.
        splits: names of sets, the reference split first.
        examples: rows of each split at most.
        pairs: of each split at most; 0: none are needed.

    Raises:
        UserError: there is no such set, it has no rows, or no pair can be used.
    """
    rows = {split: list(islice(source.questions(split), examples)) for split in splits}
    inputs = {split: encode_inputs(split_rows, tokenizer) for split, split_rows in rows.items()}
    usable = {split: _usable(source.contrasts(split), pairs, tokenizer) for split in splits} if pairs else {}
    kept = {split: found for split, (found, _) in usable.items()}
    dropped = {split: len(reasons) for split, (_, reasons) in usable.items()}
    return AnalysisData(rows, inputs, kept, dropped, tokenizer)


def _usable(
    pairs: Iterable[ContrastPair], count: int, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[ContrastPair], list[UserError]]:
    """The first pairs that can be encoded, and why those before the last of them cannot.

    Raises:
        UserError: none can, with the reason of the first.
    """
    kept: list[ContrastPair] = []
    reasons: list[UserError] = []
    # A task may generate pairs without end, and this tokenizer be able to align none of them.
    for pair in islice(pairs, TRIED * count):
        try:
            encode_contrasts([pair], tokenizer)
            kept.append(pair)
        except UserError as error:
            reasons.append(error)
        if len(kept) == count:
            break
    if not kept:
        raise reasons[0] if reasons else UserError("there are no contrast pairs to analyse; the task must offer one")
    return kept, reasons


def probe_targets(data: AnalysisData) -> dict[str, dict[str, np.ndarray]]:
    """Of each split, (n,) targets by name: those that the reference split has; NaN or "" where a row lacks one.

    Raises:
        UserError: the rows have nothing to probe for.
    """
    known = [row.meta.get("targets", {}) for row in data.rows[data.reference_split]]
    kinds = {name: type(value) for targets in known for name, value in targets.items()}
    if not kinds:
        raise UserError(
            "probes: the task's rows name nothing to probe for; leave probes out of `analyses`, or give the rows of "
            "`questions` a `targets` in their meta"
        )
    # NaN can stand in for a missing number only; a missing class is an empty text.
    return {
        split: {
            name: np.array([row.meta.get("targets", {}).get(name, np.nan if kind is float else "") for row in rows])
            for name, kind in kinds.items()
        }
        for split, rows in data.rows.items()
    }
