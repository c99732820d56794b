"""What CircuitAnalysis reads from the task: rows, the same as tokens, and contrast pairs."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from transformers import PreTrainedTokenizerBase

from lit_narrative.circuits.contrasts import Contrasts, encode_contrasts
from lit_narrative.circuits.inputs import Questions, encode_questions
from lit_narrative.datamodules.base import TaskDataModule
from lit_narrative.errors import UserError
from lit_narrative.views import ContrastPair, Example

LOOKED = 50
"""Pairs looked at for each one wanted: a tokenizer that takes numbers apart can use only some."""


@dataclass(frozen=True, eq=False)
class Material:
    """What is analysed, the same for every model.

    Attributes:
        rows: examples by split; the first split is home: probes, means and the SAE come from it.
        questions: the same as tokens.
        pairs: contrast pairs by split, those that this tokenizer can set against each other.
        dropped: by split, pairs that it cannot: unequal in length, or with answers that begin alike.
        tokenizer: the model's.
    """

    rows: Mapping[str, Sequence[Example]]
    questions: Mapping[str, Questions]
    pairs: Mapping[str, Sequence[ContrastPair]]
    dropped: Mapping[str, int]
    tokenizer: PreTrainedTokenizerBase

    @property
    def home(self) -> str:
        """The split that things are fitted on."""
        return next(iter(self.questions))

    def contrasts(self, split: str) -> Contrasts:
        """The pairs of a split as tokens."""
        return encode_contrasts(self.pairs[split], self.tokenizer)

    def counts(self) -> dict[str, dict[str, int | str]]:
        """Of each split, rows, pairs, pairs left out, and a checksum that tells whether two runs asked the same."""
        found: dict[str, dict[str, int | str]] = {}
        for split, rows in self.rows.items():
            pairs = self.pairs.get(split, ())
            texts = [text for row in rows for text in (row.prompt, row.completion)]
            texts += [text for pair in pairs for text in (pair.clean, pair.corrupt)]
            counts = {"examples": len(rows), "pairs": len(pairs), "pairs_dropped": self.dropped.get(split, 0)}
            found[split] = {**counts, "sha256": hashlib.sha256("\0".join(texts).encode()).hexdigest()}
        return found


def collect(
    data: TaskDataModule, tokenizer: PreTrainedTokenizerBase, splits: Sequence[str], examples: int, paired: bool
) -> Material:
    """Read the rows to analyse, and pairs if they are asked for.

    Args:
        data: the task.
        tokenizer: the model's.
        splits: names of sets, home first.
        examples: rows, and pairs, of each split at most.
        paired: whether pairs are needed.

    Raises:
        UserError: there is no such set, it has no rows, or no pair can be used.
    """
    rows = {split: list(islice(data.questions(split), examples)) for split in splits}
    questions = {split: encode_questions(own, tokenizer) for split, own in rows.items()}
    found = {split: _usable(data.contrasts(split), examples, tokenizer) for split in splits} if paired else {}
    pairs = {split: kept for split, (kept, _) in found.items()}
    dropped = {split: len(reasons) for split, (_, reasons) in found.items()}
    return Material(rows, questions, pairs, dropped, tokenizer)


def _usable(
    pairs: Iterable[ContrastPair], count: int, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[ContrastPair], list[UserError]]:
    """The first pairs that can be encoded, and why those before the last of them cannot.

    Raises:
        UserError: None can, with the reason of the first.
    """
    kept: list[ContrastPair] = []
    reasons: list[UserError] = []
    for pair in islice(pairs, LOOKED * count):
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


def probe_targets(material: Material) -> dict[str, dict[str, np.ndarray]]:
    """Of each split, (n,) answers by name: those that home has; NaN or an empty text where a row lacks it.

    Raises:
        UserError: the rows have nothing to probe for.
    """
    own = [row.meta.get("targets", {}) for row in material.rows[material.home]]
    kinds = {name: type(value) for targets in own for name, value in targets.items()}
    if not kinds:
        raise UserError(
            "probes: the task's rows name nothing to probe for; leave probes out of `analyses`, or give the rows of "
            "`questions` a `targets` in their meta"
        )
    return {
        split: {
            name: np.array([row.meta.get("targets", {}).get(name, np.nan if kind is float else "") for row in rows])
            for name, kind in kinds.items()
        }
        for split, rows in material.rows.items()
    }


def halves(material: Material, split: str) -> tuple[Contrasts, Contrasts]:
    """The first and the second half of a split's pairs; a single pair is both."""
    pairs, middle = material.pairs[split], len(material.pairs[split]) // 2
    first, second = (pairs[:middle], pairs[middle:]) if middle else (pairs, pairs)
    return encode_contrasts(first, material.tokenizer), encode_contrasts(second, material.tokenizer)
