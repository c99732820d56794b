"""The benchmark of steering: both sides do the same work."""

import pytest

from benchmarks.steering.__main__ import begin, check, model, ours, peak, plain, published, write


def test_both_sides_write_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    check(model(2, 16, 100), 5, 6)
    assert "6 greedy tokens" in capsys.readouterr().out


def test_every_side_takes_time_and_memory_does_not_grow_with_the_steps() -> None:
    lm = model(2, 16, 100)
    assert min(published(lm, 5, 2, 1, 0), ours(lm, 2, 5, 2, 1, 0), plain(lm, 2, 5, 2, 0)) > 0
    assert write(begin(lm, 3, 5, 4, 1), 4).shape == (3, 4)
    once, often = (peak(lm, 5, 4, iterations) for iterations in (1, 8))
    assert once > 0
    assert often < 1.2 * once
