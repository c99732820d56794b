"""Tables of activations come back as they were written, and what is wrong with one is said with its row."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lit_narrative.errors import UserError
from lit_narrative.tasks.verbalize.table import ActivationTable, TableRow, TableWriter


def rows(count: int, width: int = 3) -> list[TableRow]:
    vectors = np.random.default_rng(0).normal(size=(count, width)).astype(np.float32)
    texts = [f"say ~ {n} \N{SNOWMAN}" for n in range(count)]
    extra = [{"document": f"d{n // 2}", "position": n, "token": " a", "source": f"text {n}"} for n in range(count)]
    return [TableRow(text, f"<x> {n}", vectors[n], extra[n]) for n, text in enumerate(texts)]


def original(path: Path, vectors: Any, prompts: Any = None, kind: Any = None, **extra: Any) -> Path:
    """A table in the three-column form."""
    count = len(vectors)
    columns = {"prompt": prompts or ["say ~"] * count, "response": ["words"] * count}
    pq.write_table(
        pa.table({**columns, "activation_vector": pa.array(vectors, kind or pa.list_(pa.float32())), **extra}), path
    )
    return path


def test_written_rows_are_read_back(tmp_path: Path) -> None:
    given = rows(5000)  # more than one part
    with TableWriter(tmp_path / "t.parquet", 3) as writer:
        writer.write(given[:10])
        writer.write(given[10:])
    assert writer.rows == 5000
    table = ActivationTable(tmp_path / "t.parquet", width=3)
    assert table.vectors.dtype == np.float32
    assert (table.vectors == np.stack([row.vector for row in given])).all()
    assert [table[n] for n in (0, 4095, 4096, 4999)] == [given[n] for n in (0, 4095, 4096, 4999)]
    assert table.column("position") == list(range(5000)) and table.column("none") == []
    kind = pq.read_schema(tmp_path / "t.parquet").field("activation_vector").type
    assert pa.types.is_fixed_size_list(kind) and kind.list_size == 3


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.list_(pa.float64()), pa.large_list(pa.float32())])
def test_three_columns_with_variable_lists_are_read(tmp_path: Path, kind: Any) -> None:
    table = ActivationTable(original(tmp_path / "t.parquet", [[1.0, 2.0], [3.0, 4.5]], kind=kind, other=[7, 8]))
    assert table.vectors.tolist() == [[1.0, 2.0], [3.0, 4.5]]
    assert table[1] == TableRow("say ~", "words", table.vectors[1], {"other": 8})
    table.check_markers("~")


def test_table_without_rows(tmp_path: Path) -> None:
    with TableWriter(tmp_path / "t.parquet", 3):
        pass
    assert len(ActivationTable(tmp_path / "t.parquet", 3)) == 0


@pytest.mark.parametrize(
    ("vectors", "kind", "message"),
    [
        ([[1.0, 2.0], [3.0]], None, "row 1: its vector is 1 wide, and 2 is expected"),
        ([[1.0, 2.0], None], None, "row 1: its vector is 0 wide"),
        ([[1.0, 2.0], [3.0, float("nan")]], None, "row 1: its vector holds NaN"),
        ([[1.0, 2.0], [3.0, None]], None, "row 1: its vector holds NaN"),
        ([[1.0, 2.0], [3.0, 1e300]], pa.list_(pa.float64()), "row 1: its vector holds NaN or infinity"),
        (["1", "2"], pa.string(), "must hold lists of numbers"),
        ([[1, 2], [3, 4]], pa.list_(pa.int64()), "must hold lists of numbers"),
    ],
)
def test_vector_that_cannot_be_used_is_named(tmp_path: Path, vectors: Any, kind: Any, message: str) -> None:
    path = original(tmp_path / "t.parquet", vectors, kind=kind)
    with pytest.raises(UserError, match=message) as caught:
        ActivationTable(path)
    assert str(path) in str(caught.value)


def test_ragged_row_of_a_later_part_is_named(tmp_path: Path) -> None:
    vectors = [[1.0, 2.0]] * 5000 + [[1.0]]
    with pytest.raises(UserError, match="row 5000"):
        ActivationTable(original(tmp_path / "t.parquet", vectors))


def test_width_of_another_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="row 0: its vector is 2 wide, and 3 is expected"):
        ActivationTable(original(tmp_path / "t.parquet", [[1.0, 2.0]]), width=3)


def test_missing_column_file_or_text_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": ["a"], "activation_vector": [[1.0]]}), tmp_path / "t.parquet")
    with pytest.raises(UserError, match=r"no column 'response' \(it has: prompt, activation_vector\)"):
        ActivationTable(tmp_path / "t.parquet")
    with pytest.raises(UserError, match="no table at"):
        ActivationTable(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("no table")
    with pytest.raises(UserError, match="no Parquet file"):
        ActivationTable(tmp_path / "text.parquet")
    with pytest.raises(UserError, match="row 1: it has no prompt"):
        ActivationTable(original(tmp_path / "t.parquet", [[1.0], [2.0]], ["say ~", None]))


@pytest.mark.parametrize(("prompt", "count"), [("say", 0), ("~ ~", 2)])
def test_prompt_must_hold_one_marker_for_its_vector(tmp_path: Path, prompt: str, count: int) -> None:
    table = ActivationTable(original(tmp_path / "t.parquet", [[1.0], [2.0]], ["say ~", prompt]))
    with pytest.raises(UserError, match=f"row 1: the marker '~' stands {count} times"):
        table.check_markers("~")


def test_damaged_file_is_said_to_be(tmp_path: Path) -> None:
    path = original(tmp_path / "t.parquet", np.random.default_rng(0).normal(size=(5000, 8)).tolist())
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle - 2000 : middle + 2000] = b"\xff" * 4000
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"t\.parquet"):
        ActivationTable(path)
