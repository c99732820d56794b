"""The judge of similarity: windows, vectors, and texts that a model may write."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_narrative.lm.sentence_encoder import StaticEncoder, build_encoder
from lit_narrative.rl.rewards.metrics import similarity_metrics
from lit_narrative.rl.rewards.similarity import MAX_WINDOWS, SimilarityModel, windows
from tests.modules.pairs import THINGS

HOSTILE = ["", " \n", "\ud83d", "x" * 10_000, "a " * 5000, "\x00", "wave \udc00 tide"]


def judge(window: int | None = None) -> SimilarityModel:
    texts = [" ".join(THINGS[start:] + THINGS[:start]) for start in range(len(THINGS))]
    return SimilarityModel(build_encoder(StaticEncoder(8, 300), texts), window)


@given(st.text(st.sampled_from("ab \n"), max_size=60), st.integers(1, 7))
@settings(max_examples=200, deadline=None)
def test_windows_hold_the_whole_text(text: str, size: int) -> None:
    found = windows(text, size)
    assert "".join(found) == text.lstrip()
    assert all(1 <= len(window.split()) <= size for window in found)
    if found:
        lengths = [len(window.split()) for window in found]
        assert max(lengths) - min(lengths) <= 1


def test_a_text_without_end_is_read_to_a_limit() -> None:
    found = windows("a " * 5000, 3)
    assert (len(found), len(found[-1].split())) == (MAX_WINDOWS, 3)


def test_vectors_are_of_unit_length_whatever_is_written() -> None:
    model = judge(window=4)
    vectors = model.vectors(HOSTILE)
    assert torch.isfinite(vectors).all()
    norms = vectors.norm(dim=1)
    assert ((norms - 1).abs() < 1e-5).logical_or(norms == 0).all()
    assert model.vectors([]).shape == (0, vectors.shape[1])
    assert model.similarity(["", "wave"], ["tide", "wave"]).tolist() == [0.0, 1.0]


def test_a_text_is_read_once_until_the_encoder_changes() -> None:
    model = judge()
    before = model.vectors(["wave tide"])
    with torch.no_grad():
        for weight in model.encoder.parameters():
            weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(model.vectors(["wave tide"]), before)
    model.forget()
    assert not torch.allclose(model.vectors(["wave tide"]), before)


def test_metrics_of_pairs() -> None:
    found, scores = torch.tensor([0.9, 0.7, 0.8, 0.1, 0.5]), torch.tensor([1.0, 1.0, 0.0, 0.0, 0.5])
    metrics = similarity_metrics(found, scores)
    assert metrics["auroc"] == 0.75
    assert metrics["eer"] == 0.5
    assert similarity_metrics(found, 0.1 + 0.5 * scores) == metrics
    assert similarity_metrics(found[:2], scores[:2]) == {}
    assert similarity_metrics(torch.ones(3), torch.tensor([0.0, 1.0, 1.0])) == {"auroc": 0.5, "eer": 0.5}
