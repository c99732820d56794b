"""Ratios per token, sentence and completion."""

import pytest
import torch

from lit_narrative.rl.ratios import log_ratio_at

MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]], dtype=torch.bool)


def log_ratio() -> torch.Tensor:
    values = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return values.requires_grad_()


def gradient(values: torch.Tensor, weights: torch.Tensor, *found: torch.Tensor) -> list[torch.Tensor]:
    """Of a weighted sum over the tokens, through each of the ratios."""
    return [torch.autograd.grad((ratio.exp() * weights * MASK).sum(), values)[0] for ratio in found]


def test_sentences_by_hand() -> None:
    values = torch.tensor([[1.0, 3, 5, 7], [2, 4, 100, 100]])
    sentences = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 0]])
    found = log_ratio_at(values, MASK[:2], "sentence", sentences)
    assert found[0].tolist() == [2, 2, 6, 6]
    assert found[1, :2].tolist() == [2, 4]


def test_the_sequence_is_the_mean_of_its_tokens() -> None:
    found = log_ratio_at(torch.tensor([[1.0, 3, 5, 7], [2, 4, 100, 100], [9, 9, 9, 9]]), MASK, "sequence")
    assert found.tolist() == [[4.0], [3.0], [0.0]]


def test_one_sentence_is_the_sequence() -> None:
    values, weights = log_ratio(), torch.rand(3, 4, dtype=torch.float64)
    sentence = log_ratio_at(values, MASK, "sentence", torch.zeros(3, 4, dtype=torch.int64))
    sequence = log_ratio_at(values, MASK, "sequence").expand(3, 4)
    torch.testing.assert_close(sentence * MASK, sequence * MASK)
    torch.testing.assert_close(*gradient(values, weights, sentence, sequence))


def test_sentences_of_one_token_are_tokens() -> None:
    values, weights = log_ratio(), torch.rand(3, 4, dtype=torch.float64)
    sentence = log_ratio_at(values, MASK, "sentence", torch.arange(4).expand(3, -1))
    token = log_ratio_at(values, MASK, "token")
    torch.testing.assert_close(sentence * MASK, token * MASK)
    torch.testing.assert_close(*gradient(values, weights, sentence, token))


def test_sentences_must_be_given() -> None:
    with pytest.raises(ValueError, match="needs the sentence of each token"):
        log_ratio_at(log_ratio(), MASK, "sentence")
