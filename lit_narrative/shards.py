"""Texts in numbered files, the shards of a folder, each whole or absent; what says the same stands in one of them only.

A folder holds ``00042.jsonl`` (or ``.parquet``), the rows of shard 42; ``records/00042.json``, which is written behind
them and says that they are all there; and ``manifest.json``, the settings that the texts were made with and, once every
shard is there, the totals. A shard is the same whoever writes it: processes need only agree on who writes which.
"""

import json
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lit_narrative.errors import UserError
from lit_narrative.files import read_json, whole_file, write_json, write_jsonl

ShardFormat = Literal["jsonl", "parquet"]
MANIFEST = "manifest.json"
_DIGEST = 16  # bytes: two of 10^12 texts collide with a chance of 10^-15


def text_digest(text: str) -> bytes:
    """16 bytes that two texts share if they differ in white space, or in the form of accented letters, alone."""
    plain = " ".join(unicodedata.normalize("NFC", text).split())
    return blake2b(plain.encode("utf-8", errors="backslashreplace"), digest_size=_DIGEST).digest()


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of a shard without reading its texts.

    Attributes:
        shard: its number.
        drawn: texts that were sampled for it.
        finished: of these, the ones that the model ended itself.
        tokens: of these, in all.
        seconds: that it took.
        digests: of the texts that it holds, as hexadecimal digits one behind the other.
    """

    shard: int
    drawn: int
    finished: int
    tokens: int
    seconds: float
    digests: str

    @property
    def kept(self) -> int:
        """Texts that the shard holds."""
        return len(self.digests) // (2 * _DIGEST)


@dataclass(frozen=True)
class Shards:
    """A folder of shards.

    Args:
        folder: it is made if need be.
        format: of the files.
        deduplicate: leave out texts that say what an earlier one says.
    """

    folder: Path
    format: ShardFormat = "jsonl"
    deduplicate: bool = True

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Note the settings of the texts, or see that those that are there were made with the same ones.

        Raises:
            UserError: they were not; the message names the first setting that differs.
        """
        path, given = self.folder / MANIFEST, json.loads(json.dumps(settings))
        if not path.exists():
            if self.done():
                raise UserError(f"'{self.folder}' holds shards without {MANIFEST}: name another folder, or remove it")
            write_json(path, {"settings": given})
            return
        flat, stored = dict(_flat(given)), dict(_flat(read_json(path).get("settings", {})))
        for name in [*flat, *stored]:
            if flat.get(name) != stored.get(name):
                raise UserError(
                    f"'{self.folder}' holds texts of another run ({name} was {stored.get(name)!r} and is "
                    f"{flat.get(name)!r}): name another run folder (--trainer.default_root_dir), or remove it"
                )

    def done(self) -> frozenset[int]:
        """The numbers of the shards that are there."""
        return frozenset(int(path.stem) for path in (self.folder / "records").glob("*.json") if path.stem.isdecimal())

    def record(self, number: int) -> Record:
        """What is known of a shard that is there."""
        return Record(**read_json(self._record_path(number)))

    def write(self, number: int, rows: Sequence[Mapping[str, Any]], seconds: float) -> Record:
        """Write a shard; of texts that say the same only the first.

        Args:
            number: of the shard.
            rows: in order, each with ``text``, ``tokens`` and ``finished``.
            seconds: that they took.
        """
        digests = [text_digest(row["text"]) for row in rows]
        first = {digest: place for place, digest in reversed([*enumerate(digests)])}
        places = sorted(first.values()) if self.deduplicate else range(len(rows))
        self._write_rows(number, [rows[place] for place in places])
        record = Record(
            number,
            len(rows),
            sum(bool(row["finished"]) for row in rows),
            sum(row["tokens"] for row in rows),
            seconds,
            b"".join(digests[place] for place in places).hex(),
        )
        write_json(self._record_path(number), asdict(record))
        return record

    def remove_repeated(self, numbers: Collection[int]) -> None:
        """Take out of some shards the texts that an earlier shard holds; every shard has to be there.

        It may be broken off and begun again. All digests are in memory, about 50 bytes a text.
        """
        for number, digests in repeated([self.record(shard) for shard in sorted(self.done())]).items():
            if number in numbers:
                rows = [row for row in self.read(number) if text_digest(row["text"]) not in digests]
                self._write_rows(number, rows)
                left = b"".join(text_digest(row["text"]) for row in rows).hex()
                write_json(self._record_path(number), {**asdict(self.record(number)), "digests": left})

    def finish(self) -> dict[str, Any]:
        """Write the totals into the manifest, and return them; every shard has to be there."""
        totals = {"shards": 0, "drawn": 0, "texts": 0, "finished": 0, "tokens": 0, "seconds": 0.0}
        for record in map(self.record, self.done()):
            part = (1, record.drawn, record.kept, record.finished, record.tokens, record.seconds)
            totals = {name: value + more for (name, value), more in zip(totals.items(), part, strict=True)}
        path = self.folder / MANIFEST
        write_json(path, {**read_json(path), "totals": totals})
        return totals

    def read(self, number: int) -> list[dict[str, Any]]:
        """The rows of a shard."""
        if self.format == "parquet":
            import pyarrow.parquet as pq

            rows: list[dict[str, Any]] = pq.read_table(self.path(number)).to_pylist()
            return rows
        # Not splitlines(): it also splits at U+2028 and its like, which texts may hold and JSON does not escape.
        lines = self.path(number).read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines if line]

    def path(self, number: int) -> Path:
        """The file of a shard."""
        return self.folder / f"{number:05d}.{self.format}"

    def _record_path(self, number: int) -> Path:
        return self.folder / "records" / f"{number:05d}.json"

    def _write_rows(self, number: int, rows: Sequence[Mapping[str, Any]]) -> None:
        if self.format == "parquet":
            import pyarrow as pa
            import pyarrow.parquet as pq

            path = self.path(number)
            schema = pq.read_schema(path) if path.exists() else None  # which no rows would not tell
            plain = [{name: _encodable(value) for name, value in row.items()} for row in rows]
            table = pa.Table.from_pylist(plain, schema)
            with whole_file(path) as temporary:
                pq.write_table(table, temporary)
        else:
            write_jsonl(self.path(number), rows)


def repeated(records: Iterable[Record]) -> dict[int, set[bytes]]:
    """By shard the digests that a record before its own has too; of the records' order, not of their numbers."""
    given = list(records)
    owners = np.repeat([record.shard for record in given], [record.kept for record in given])
    digests = np.frombuffer(bytes.fromhex("".join(record.digests for record in given)), ">u8").reshape(-1, 2)
    order = np.lexsort((digests[:, 1], digests[:, 0]))  # stable: of equal ones the earliest comes first
    same = (digests[order[1:]] == digests[order[:-1]]).all(1)
    found: dict[int, set[bytes]] = {}
    for place in order[1:][same]:
        found.setdefault(int(owners[place]), set()).add(digests[place].tobytes())
    return found


def _flat(value: Any, name: str = "") -> Iterable[tuple[str, Any]]:
    """(dotted name, value) of the values in nested dicts."""
    if not isinstance(value, dict):
        yield name, value
        return
    for key, part in value.items():
        yield from _flat(part, f"{name}.{key}" if name else key)


def _encodable(value: Any) -> Any:
    """A text as UTF-8 can write it: a policy's may hold lone surrogates."""
    return value.encode("utf-8", errors="backslashreplace").decode() if isinstance(value, str) else value
