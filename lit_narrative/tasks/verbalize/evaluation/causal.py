"""The causal test: one claim of an explanation is edited, and the subject goes on from the vector of the edited text.

If the text carries what the model uses, the model's next token moves towards the new word. Beside it stand what the
unedited reconstruction alone changes, and what a step of the same length in a random direction does.

Notation: n rows, k of them edited, a width of an activation, V vocabulary of the subject.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lit_narrative.report.intervals import Floats, Resamples
from lit_narrative.tasks.verbalize.evaluation.fve import normalise
from lit_narrative.tasks.verbalize.evaluation.readings import Reconstruct, read
from lit_narrative.tasks.verbalize.stories import SLOTS, claims

_WORD = re.compile(r"[^\W\d_]+")
Predict = Callable[[Sequence[int], Floats | None], Floats]
"""The subject: rows of the set, and the vectors (k, a) that are put at their positions (None: their own), to the
log-probabilities (k, V) of the next token."""


@dataclass(frozen=True, slots=True)
class Edit:
    """An explanation with one claim changed, and with all of them.

    Attributes:
        word: the text with a single word edited.
        span: the text with that word and every other claim edited.
        old: the word that is edited.
        new: what is put in its place.
    """

    word: str
    span: str
    old: str
    new: str


def edit_claims(text: str, rng: np.random.Generator) -> Edit | None:
    """Edit what a text claims, by the grammar of the stories; None where it claims nothing.

    The word is chosen at random among those that claim something; it becomes another value of its slot that the text
    does not claim.
    """
    said = claims(text)
    words = list(dict.fromkeys(word for word in _WORD.findall(text) if claims(word)))
    changes = {word: other for word in words if (other := _other(word, said, rng)) is not None}
    if not changes:
        return None
    old = list(changes)[rng.integers(len(changes))]
    return Edit(exchange(text, {old: changes[old]}), exchange(text, changes), old, changes[old])


def _other(word: str, said: set[tuple[str, str]], rng: np.random.Generator) -> str | None:
    ((slot, _),) = claims(word)
    free = [value for value in SLOTS[slot] if (slot, value) not in said]
    return free[rng.integers(len(free))] if free else None


def exchange(text: str, changes: Mapping[str, str]) -> str:
    """The text with whole words exchanged for others."""
    return _WORD.sub(lambda found: changes.get(found[0], found[0]), text)


def causal_scores(
    resamples: Resamples,
    edits: Sequence[Edit | None],
    explanations: Sequence[str | None],
    originals: Floats,
    reconstruct: Reconstruct,
    predict: Predict,
    token: Callable[[str], int | None],
    directions: bool = True,
    seed: int = 0,
) -> dict[str, Any]:
    """Shifts of the subject's next token, in nats, as means over the edited rows.

    ``causal_shift``: by how much the log-odds of the new word against the old one rise from the unedited to the edited
    reconstruction; ``causal_kl``: divergence of the prediction after from the one before, KL(unedited | edited). Both
    also as ``…_span``, with all claims edited, and ``…_random``, of a random step as long as that of the word's edit.
    ``causal_kl_unedited`` is that of the unedited reconstruction from the subject's own prediction.

    Args:
        resamples: of the set's documents.
        edits: (n,) of each explanation; None: it is left out.
        explanations: (n,) as they were.
        originals: (n, a) raw activations.
        reconstruct: the critic.
        predict: the subject.
        token: id of a word's first token; None where the subject has none of its own for it.
        directions: whether the critic gives directions only, which then take the norm of the original.
        seed: of the random steps.
    """
    made = [edit if edit and _tokens(edit, token) else None for edit in edits]
    edited = ([edit.word if edit else None for edit in made], [edit.span if edit else None for edit in made])
    texts: Sequence[Sequence[str | None]] = (explanations, *edited)
    read_out = [read(reconstruct, part, originals.shape[1]) for part in texts]
    known = [row for row, edit in enumerate(made) if edit and all(np.isfinite(part[row]).all() for part in read_out)]
    if not known:
        return {"causal_n": 0}
    vectors = [_at_norm(part[known], originals[known], directions) for part in read_out]
    vectors.append(vectors[0] + _random_steps(vectors[1] - vectors[0], seed))
    plain, before, *after = [predict(known, None), *(predict(known, part) for part in vectors)]
    pairs = np.array([_tokens(edit, token) for row in known if (edit := made[row])])
    scores = _mean(resamples, "causal_kl_unedited", known, len(edits), divergence(plain, before))
    for suffix, changed in zip(("", "_span", "_random"), after, strict=True):
        shifts = log_odds(changed, pairs) - log_odds(before, pairs)
        scores |= _mean(resamples, f"causal_shift{suffix}", known, len(edits), shifts)
        scores |= _mean(resamples, f"causal_kl{suffix}", known, len(edits), divergence(before, changed))
    return scores | {"causal_n": len(known)}


def _tokens(edit: Edit, token: Callable[[str], int | None]) -> tuple[int, int] | None:
    """Ids of the new and the old word; None where they do not tell the two apart."""
    new, old = token(edit.new), token(edit.old)
    return None if new is None or old is None or new == old else (new, old)


def _at_norm(vectors: Floats, originals: Floats, directions: bool) -> Floats:
    if not directions:
        return vectors
    return normalise(vectors, 1.0) * np.linalg.norm(originals, axis=-1, keepdims=True)


def _random_steps(steps: Floats, seed: int) -> Floats:
    random = np.random.default_rng(seed).normal(size=steps.shape)
    return normalise(random, 1.0) * np.linalg.norm(steps, axis=-1, keepdims=True)


def divergence(before: Floats, after: Floats) -> Floats:
    """(k,) KL(before | after) of log-probabilities (k, V), in nats."""
    return (np.exp(before) * (before - after)).sum(-1)


def log_odds(logprobs: Floats, pairs: Any) -> Floats:
    """(k,) log-probability of the first of two tokens (k, 2) less that of the second."""
    rows = np.arange(len(logprobs))
    return logprobs[rows, pairs[:, 0]] - logprobs[rows, pairs[:, 1]]


def _mean(resamples: Resamples, name: str, known: Sequence[int], count: int, values: Floats) -> dict[str, Any]:
    """The mean over some of the set's rows."""
    above, below = np.zeros(count), np.zeros(count)
    above[known], below[known] = values, 1
    return resamples.ratio(name, above, below)
