"""A small world of words with vectors, in which the right explanation of an activation is known."""

from collections.abc import Sequence

import numpy as np

from lit_narrative.tasks.verbalize.evaluation.fve import Fidelity

WIDTH = 16
WORDS = [f"word{chr(97 + number)}" for number in range(20)]
VECTORS = dict(zip(WORDS, np.random.default_rng(0).normal(size=(len(WORDS), WIDTH)), strict=True))


def reconstruct(texts: Sequence[str]) -> np.ndarray:
    """A critic that is right: the sum of a text's words."""
    return np.array(
        [sum((VECTORS.get(word, np.zeros(WIDTH)) for word in text.split()), np.zeros(WIDTH)) for text in texts]
    )


def sentences(count: int, seed: int = 1, words: int = 3) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, words, replace=False)) for _ in range(count)]


def documents(count: int, each: int = 5) -> list[str]:
    return [f"document {number // each}" for number in range(count)]


def fidelity(texts: Sequence[str], scale: float | None = 1.0) -> Fidelity:
    return Fidelity(reconstruct(texts), documents(len(texts)), scale)
