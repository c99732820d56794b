"""Results on disk: rows as CSV, values as JSON, arrays as safetensors; each file is whole or absent."""

import csv
import io
import json
import os
import tempfile
import types
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import numpy as np

from lit_narrative.files import write_text

Row = TypeVar("Row")


def write_rows(path: str | Path, kind: type[Row], rows: Sequence[Row]) -> Path:
    """Write rows of a dataclass as CSV; None is an empty cell, and numbers keep every digit."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(kind)], lineterminator="\n")  # type: ignore[arg-type]
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)  # type: ignore[call-overload]
    return write_text(path, text.getvalue())


def read_rows(path: str | Path, kind: type[Row]) -> tuple[Row, ...]:
    """Read what `write_rows` wrote; the fields' annotations say what the cells are (int, float, str, bool or None)."""
    hints = get_type_hints(kind)
    with Path(path).open(encoding="utf-8", newline="") as file:
        return tuple(
            kind(**{name: _cell(text, hints[name]) for name, text in row.items()}) for row in csv.DictReader(file)
        )


def _cell(text: str, hint: Any) -> Any:
    if get_origin(hint) is types.UnionType:
        if not text and type(None) in get_args(hint):
            return None
        hint = next(option for option in get_args(hint) if option is not type(None))
    if hint is bool:
        return text == "True"
    return hint(text) if hint in (int, float) else text


def write_arrays(path: str | Path, arrays: Mapping[str, np.ndarray]) -> Path:
    """Write arrays by name as safetensors."""
    from safetensors.numpy import save_file

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
        save_file({name: np.array(array, order="C") for name, array in arrays.items()}, Path(scratch, path.name))
        os.replace(Path(scratch, path.name), path)
    return path


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """Read what `write_arrays` wrote."""
    from safetensors.numpy import load

    return dict(load(Path(path).read_bytes()))


def read_json(path: str | Path) -> Any:
    """Read a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))
