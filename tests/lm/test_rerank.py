"""Best of N."""

import pytest

from lit_narrative.errors import UserError
from lit_narrative.lm.rerank import best_of


def test_the_best_of_each_prompt_in_one_call() -> None:
    calls = []

    def judge(texts: list[str]) -> list[float]:
        calls.append(texts)
        return [float(len(text)) for text in texts]

    assert best_of([["a", "ccc", "bbb"], ["dd"]], judge) == [1, 0]
    assert calls == [["a", "ccc", "bbb", "dd"]]


def test_a_prompt_without_candidates() -> None:
    with pytest.raises(UserError, match="candidates of a prompt is 0"):
        best_of([["a"], []], lambda texts: [0.0] * len(texts))
