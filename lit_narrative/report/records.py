"""A JSON object from a file, read so that an error names the file and the key."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_narrative.errors import UserError
from lit_narrative.files import decode_json, read_json, read_utf8


@dataclass(frozen=True, slots=True)
class Record:
    """A JSON object and where it comes from.

    Attributes:
        where: the file, with the line or key inside it, for error messages.
        value: the object.
    """

    where: str
    value: Mapping[str, Any]

    def number(self, key: str) -> float:
        """Return the finite number at ``key``.

        Raises:
            UserError: there is none.
        """
        value = self.maybe(key)
        if value is None:
            raise UserError(f"{self.where}: '{key}' must be a finite number, not {self.value.get(key)!r}")
        return value

    def maybe(self, key: str) -> float | None:
        """Return the number at ``key``; None where it is absent, null, NaN or infinite."""
        return finite(self.value.get(key))

    def numbers(self, key: str) -> dict[str, float]:
        """Return the finite numbers of the object at ``key`` (empty if absent)."""
        entries = ((name, finite(value)) for name, value in self.child(key).value.items())
        return {name: value for name, value in entries if value is not None}

    def text(self, key: str) -> str:
        """Return the text at ``key`` (empty if absent)."""
        value = self.value.get(key)
        return "" if value is None else str(value)

    def pair(self, key: str) -> tuple[float, float]:
        """Return the two finite numbers at ``key``, an interval.

        Raises:
            UserError: something else is there.
        """
        match self.items(key):
            case [float() | int() as low, float() | int() as high] if math.isfinite(low) and math.isfinite(high):
                return float(low), float(high)
        raise UserError(f"{self.where}: '{key}' must be two finite numbers, not {self.value.get(key)!r}")

    def child(self, key: str) -> "Record":
        """Return the object at ``key`` (an empty one if absent).

        Raises:
            UserError: something else is there.
        """
        return as_record(f"{self.where}: '{key}'", self.value.get(key) or {})

    def children(self, key: str) -> Iterator["Record"]:
        """Yield the objects of the list at ``key`` (none if absent)."""
        for index, item in enumerate(self.items(key)):
            yield as_record(f"{self.where}: '{key}[{index}]'", item)

    def figures(self) -> dict[str, tuple[float, tuple[float, float] | None]]:
        """Return each finite number with the interval at ``<key>_ci``, None where there is none.

        Raises:
            UserError: an interval is not two finite numbers.
        """
        known = {key: value for key in self.value if (value := self.maybe(key)) is not None}
        return {
            key: (value, self.pair(f"{key}_ci") if self.items(f"{key}_ci") else None) for key, value in known.items()
        }

    def items(self, key: str) -> list[Any]:
        """Return the list at ``key`` (empty if absent).

        Raises:
            UserError: something else is there.
        """
        value = self.value.get(key)
        if value is not None and not isinstance(value, list):
            raise UserError(f"{self.where}: '{key}' must be a list, not {type(value).__name__}")
        return value or []


def finite(value: Any) -> float | None:
    """Return a finite number as a float, anything else, a bool too, as None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def as_record(where: str, value: Any) -> Record:
    """Wrap a JSON value that must be an object.

    Raises:
        UserError: it is not one.
    """
    if not isinstance(value, dict):
        raise UserError(f"{where} must be an object, not {type(value).__name__}")
    return Record(where, value)


def read_record(path: Path) -> Record:
    """Read a file that holds one JSON object.

    Raises:
        UserError: the file holds something else.
    """
    return as_record(str(path), read_json(path))


def read_records(path: Path) -> list[Record]:
    """Read a JSON Lines file of objects; empty lines are skipped.

    Raises:
        UserError: a line holds something else.
    """
    # Not splitlines: it also splits at U+2028 and others, which JSON leaves unescaped in what a model wrote.
    lines = read_utf8(path).split("\n")
    named = [(f"{path}, line {index}", line) for index, line in enumerate(lines, start=1) if line.strip()]
    return [as_record(where, decode_json(line, where)) for where, line in named]


def read_answers(path: Path, name: str, count: int) -> list[Record]:
    """Return the rows of a set in the file of answers that `SetEvaluation` writes beside its figures.

    Args:
        path: the file, ``<stage>.jsonl``.
        name: of the set.
        count: rows that the figures are of.

    Raises:
        UserError: there is no such file, or it has another number of rows of the set.
    """
    figures = path.with_suffix(".json").name
    if not path.is_file():
        raise UserError(f"'{path}' is missing; SetEvaluation writes it beside {figures}")
    records = [record for record in read_records(path) if record.text("set") == name]
    if len(records) != count:
        raise UserError(
            f"{path} has {len(records)} rows of set '{name}', but {figures} {count}: they are not of the same test"
        )
    return records
