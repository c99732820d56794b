"""Results on disk: rows as CSV, values as JSON, arrays as safetensors; each file is whole or absent."""

import types
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import numpy as np

from lit_narrative.errors import UserError
from lit_narrative.files import read_table, refuse_pipe, write_bytes, write_table

Row = TypeVar("Row")


def write_rows(path: str | Path, kind: type[Row], rows: Sequence[Row]) -> Path:
    """Write rows of a dataclass as CSV, a column a field; None is an empty cell, and numbers keep every digit."""
    columns = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    return write_table(path, columns, ([getattr(row, name) for name in columns] for row in rows))


def read_rows(path: str | Path, kind: type[Row]) -> tuple[Row, ...]:
    """Read what `write_rows` wrote; the fields' annotations say what the cells are (int, float, str, bool or None)."""
    hints = get_type_hints(kind)
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    return tuple(kind(**{name: _cell(row.get(name, ""), hints[name]) for name in names}) for row in read_table(path))


def _cell(text: str, hint: Any) -> Any:
    if get_origin(hint) is types.UnionType:
        if not text and type(None) in get_args(hint):
            return None
        hint = next(option for option in get_args(hint) if option is not type(None))
    if hint is bool:  # bool("False") is True
        return text == "True"
    return hint(text) if hint in (int, float) else text


def write_arrays(path: str | Path, arrays: Mapping[str, np.ndarray]) -> Path:
    """Write arrays by name as safetensors."""
    from safetensors.numpy import save

    # safetensors writes the buffer as it lies: a transposed view would come back as another array.
    return write_bytes(path, save({name: np.array(array, order="C") for name, array in arrays.items()}))


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """Read what `write_arrays` wrote.

    Raises:
        UserError: the file is damaged, or a pipe.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    refuse_pipe(path)
    try:
        return dict(load(Path(path).read_bytes()))
    except SafetensorError as error:
        raise UserError(f"'{path}' is damaged ({error}); run the analysis again") from error
