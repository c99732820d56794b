"""Best of N: keep the candidates that a reward prefers."""

from collections.abc import Callable, Sequence

from lit_narrative.errors import check_least

Judge = Callable[[list[str]], Sequence[float]]
"""Scores of texts, in order; the higher the better."""


def best_of(candidates: Sequence[Sequence[str]], judge: Judge) -> list[int]:
    """Which candidate of each prompt the judge prefers; the first of equals.

    Args:
        candidates: for each prompt its texts, at least one.
        judge: asked once, for all of them together.

    Returns:
        For each prompt the place of the best among its texts.

    Raises:
        UserError: a prompt has no candidate.
    """
    for texts in candidates:
        check_least("candidates of a prompt", len(texts), 1)
    scores = iter(judge([text for texts in candidates for text in texts]))
    own = [[float(next(scores)) for _ in texts] for texts in candidates]
    return [row.index(max(row)) for row in own]
