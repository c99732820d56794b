"""What is written is read back as it was."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError

from lit_narrative.circuits.tables import read_arrays, read_rows, write_arrays, write_rows
from lit_narrative.files import read_json


@dataclass(frozen=True)
class Row:
    name: str
    count: int
    share: float
    good: bool
    head: int | None
    score: float | None


def test_rows_keep_types_digits_and_gaps(tmp_path: Path) -> None:
    rows = (Row('a, "b"\n', 3, 1 / 3, True, None, 1e-17), Row("", -1, 2.0, False, 0, None))
    assert read_rows(write_rows(tmp_path / "new" / "rows.csv", Row, rows), Row) == rows
    assert read_rows(write_rows(tmp_path / "none.csv", Row, ()), Row) == ()
    (result,) = read_rows(write_rows(tmp_path / "nan.csv", Row, [Row("x", 1, math.nan, True, 1, math.inf)]), Row)
    assert math.isnan(result.share)
    assert result.score == math.inf


def test_arrays_are_whole_or_absent(tmp_path: Path) -> None:
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3).T, "b": np.array(2.5)}
    path = write_arrays(tmp_path / "new" / "arrays.safetensors", arrays)
    result = read_arrays(path)
    assert result.keys() == arrays.keys()
    assert all(np.array_equal(result[name], arrays[name]) for name in arrays)
    with pytest.raises(SafetensorError, match="object"):
        write_arrays(path, {"a": np.array([object()])})
    assert read_arrays(path).keys() == arrays.keys()
    assert [file.name for file in path.parent.iterdir()] == ["arrays.safetensors"]


def test_json(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": [1, null]}')
    assert read_json(tmp_path / "a.json") == {"a": [1, None]}
