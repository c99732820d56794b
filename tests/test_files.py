"""Files read and written: tables and YAML, whole or with an error that names the file."""

from pathlib import Path

import pytest

from lit_narrative.errors import UserError
from lit_narrative.files import csv_text, read_table, read_yaml, write_table


def test_a_table_comes_back_without_its_empty_cells(tmp_path: Path) -> None:
    path = write_table(
        tmp_path / "new" / "table.csv", ["name", "value", "note"], [["a,b", 0.1 + 0.2, None], ['"', 2, "é\n"]]
    )
    assert path.read_text(encoding="utf-8").startswith('name,value,note\n"a,b",0.30000000000000004,\n')
    assert read_table(path) == [
        {"name": "a,b", "value": "0.30000000000000004"},
        {"name": '"', "value": "2", "note": "é\n"},
    ]
    assert [file.name for file in path.parent.iterdir()] == ["table.csv"]


def test_rows_that_are_appended_make_the_same_table(tmp_path: Path) -> None:
    path, rows = tmp_path / "table.csv", [[1, "x"], [2, "y,z"]]
    write_table(path, ["n", "text"], rows[:1])
    with path.open("a", newline="") as file:
        file.write(csv_text(rows[1:]))
    whole = write_table(tmp_path / "whole.csv", ["n", "text"], rows)
    assert path.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(
    ("content", "reason"), [(b"a: [", "expected the node content"), (b"\xff", "utf-8"), (None, "No such file")]
)
def test_yaml_that_cannot_be_read_is_one_line(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "settings.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"settings\.yaml cannot be read as YAML: ") as error:
        read_yaml(path)
    assert reason in str(error.value) and "\n" not in str(error.value)


def test_yaml_gives_plain_values_and_runs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("a: {b: [1, 2.5, null, yes]}\n")
    assert read_yaml(path) == {"a": {"b": [1, 2.5, None, True]}}
    path.write_text("!!python/object/apply:os.getcwd []\n")
    with pytest.raises(UserError, match="cannot be read as YAML"):
        read_yaml(path)
