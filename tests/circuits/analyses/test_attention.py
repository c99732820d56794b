"""The planted copier looks from the query to the marked letter."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lit_narrative.circuits.analyses import attention
from lit_narrative.circuits.analyses.attention import attend
from lit_narrative.circuits.bridge import build_bridge
from lit_narrative.circuits.hooks import capture
from lit_narrative.circuits.inputs import AnalysisInputs, Positions
from lit_narrative.circuits.records.attention import Attention
from lit_narrative.errors import UserError
from tests.circuits.planted import COPIER, LAYER, LENGTH, planted_inputs, planted_lm


def test_the_copier_looks_at_the_mark(tmp_path: Path) -> None:
    result = attend(build_bridge(planted_lm()), planted_inputs(10), batch_size=4)
    looks = {(row.layer, row.head): row.weight for row in result.rows if (row.query, row.key) == ("answer", "marked")}
    assert max(looks, key=lambda head: looks[head]) == (LAYER, COPIER)
    assert looks[LAYER, COPIER] > 2 / LENGTH
    assert all(row.n == 10 for row in result.rows)
    assert not [row for row in result.rows if (row.query, row.key) == ("marked", "answer")]
    values, names = result.grid(LAYER, COPIER)
    assert names == ["marked", "answer"]
    assert values[1, 0] == looks[LAYER, COPIER]
    assert np.isnan(values[0, 1])
    assert Attention.load(result.save(tmp_path)) == result


def test_means_are_over_the_rows_that_have_both_places() -> None:
    """Positions that are one everywhere are listed once, those that a row lacks leave it out."""
    bridge, asked = build_bridge(planted_lm()), planted_inputs(6)
    columns = torch.tensor([[2, -1, 6, 6], [1, 3, 6, 6], [0, 4, 6, 6], [5, 4, 6, 6], [1, -1, 6, 6], [1, 2, 6, 6]])
    asked = AnalysisInputs(asked.tokens, asked.mask, asked.targets, None, Positions(("a", "b", "end", "last"), columns))
    result = attend(bridge, asked)
    counts = {(row.query, row.key): row.n for row in result.rows}
    assert counts == {
        **dict.fromkeys([("a", "a"), ("end", "a"), ("end", "end")], 6),
        **dict.fromkeys([("b", "b"), ("end", "b")], 4),
        ("a", "b"): 1,
        ("b", "a"): 3,
    }
    pattern = capture(bridge, asked, ["blocks.0.attn.hook_pattern"])[1]["blocks.0.attn.hook_pattern"]
    (row,) = (row for row in result.rows if (row.layer, row.head, row.query, row.key) == (0, 1, "b", "a"))
    expected = (pattern[1, 1, 3, 1] + pattern[2, 1, 4, 0] + pattern[5, 1, 2, 1]) / 3
    assert row.weight == pytest.approx(expected.item(), rel=1e-5)


def test_few_rows_at_a_time_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a large model's attention takes is bounded; the batches say nothing about the figures."""
    bridge, asked = build_bridge(planted_lm()), planted_inputs(6)
    whole, done = attend(bridge, asked), []
    monkeypatch.setattr(attention, "HELD", 1)
    alone = attend(bridge, asked, progress=lambda rows, _: done.append(rows))
    assert done == [1, 2, 3, 4, 5, 6]
    assert [row.weight for row in alone.rows] == pytest.approx([row.weight for row in whole.rows], abs=1e-6)


def test_rows_without_places_are_refused() -> None:
    asked = planted_inputs(2)
    with pytest.raises(UserError, match="no named positions"):
        attend(build_bridge(planted_lm()), AnalysisInputs(asked.tokens, asked.mask, asked.targets))
