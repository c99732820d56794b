"""Words that explanations copy from the text whose activation they explain.

An actor is given a vector and no text, yet reinforcement pays for whatever brings the vector back, and text fragments
bring it back well: the figure tells how much of an explanation is quotation.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lit_narrative.report.intervals import Resamples
from lit_narrative.text import WordBits, longest_copy, words_of


def copy_scores(
    resamples: Resamples, texts: Sequence[str | None], sources: Sequence[str], bits: WordBits
) -> dict[str, Any]:
    """How much explanations copy: means over rows, 0 for a row without an explanation.

    ``copied_bits``: of the longest copied span; ``copied_words``: its length; ``words_in_source``: share of an
    explanation's words that stand anywhere in its source.

    Args:
        resamples: of the set's documents.
        texts: the explanations.
        sources: the text up to each position.
        bits: word frequencies.
    """
    spans = [longest_copy(text or "", source, bits) for text, source in zip(texts, sources, strict=True)]
    shares = [_share(text or "", source) for text, source in zip(texts, sources, strict=True)]
    return {
        **resamples.mean("copied_bits", np.array([bits(span) for span in spans])),
        **resamples.mean("copied_words", np.array([float(len(span)) for span in spans])),
        **resamples.mean("words_in_source", np.array(shares)),
    }


def _share(text: str, source: str) -> float:
    words, known = words_of(text), set(words_of(source))
    return sum(word in known for word in words) / len(words) if words else 0.0
