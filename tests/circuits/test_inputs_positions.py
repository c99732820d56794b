"""Named positions, and padding on the left."""

import pytest
import torch

from lit_narrative.circuits.inputs import Positions, encode, find_positions, pad_left
from lit_narrative.errors import UserError
from tests.helpers import tokenizer


def test_positions_that_some_rows_lack_are_known_as_such() -> None:
    spans = [{"a": (0, 1), "b": (1, 2)}, {"b": (0, 2)}]
    found = find_positions([[(0, 0), (0, 1), (1, 2)], [(0, 1), (1, 2)]], spans, 3)
    assert found.names == ("a", "b")
    assert found.columns.tolist() == [[1, 2], [-1, 2]]
    assert found.common().names == ("b",)
    assert found.common().columns.tolist() == [[2], [2]]
    assert find_positions([[(0, 1)], [(0, 1)]], [{"a": (0, 1)}, {}], 1).common().columns.shape == (2, 0)


def test_offsets_cover_the_text() -> None:
    text = '{"name":"lantern"}'
    ids, offsets = encode(tokenizer(), text)
    assert "".join(text[start:end] for start, end in offsets) == text
    assert tokenizer().decode(ids) == text


def test_rows_end_together() -> None:
    tokens, mask = pad_left([[1, 2, 3], [4]], value=9)
    assert tokens.tolist() == [[1, 2, 3], [9, 9, 4]]
    assert mask.tolist() == [[True, True, True], [False, False, True]]


def test_positions_are_picked_by_name() -> None:
    positions = Positions(("a", "b"), torch.tensor([[0, 1], [2, 3]]))
    assert positions.pick(["b", "a"]).columns.tolist() == [[1, 0], [3, 2]]
    with pytest.raises(
        UserError, match=r"no position is named 'answr'; did you mean 'answer'\?; the rows have: answer"
    ):
        Positions(("answer",), torch.zeros(1, 1)).column("answr")
