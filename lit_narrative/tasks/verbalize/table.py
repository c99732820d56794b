"""Tables of activations: Parquet files with a prompt, a response and a vector in each row, and what else is known.

Vectors are written as fixed-size lists of float32 and read through numpy. Variable lists of any floating type are read
too: the form ``prompt, response, activation_vector`` of other programs.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from lit_narrative.errors import UserError, first_line
from lit_narrative.files import refuse_pipe

if TYPE_CHECKING:
    import pyarrow as pa

VECTOR = "activation_vector"
COLUMNS = ("prompt", "response", VECTOR)
"""What every table has."""
_BATCH = 4096  # rows that are read, and written, at a time


@dataclass(frozen=True, slots=True)
class TableRow:
    """A row of a table.

    Attributes:
        prompt: the actor's prompt.
        response: the answer to imitate; empty where there is none.
        vector: (a,) float32, raw.
        columns: whatever else the table has: ``document``, ``position``, ``source`` ...
    """

    prompt: str
    response: str
    vector: np.ndarray = field(compare=False, repr=False)
    columns: Mapping[str, Any] = field(default_factory=dict)


class ActivationTable(Sequence[TableRow]):
    """A Parquet file of activations: its vectors as one array, its texts as Arrow keeps them, rows made when asked for.

    Args:
        path: of the file.
        width: of the vectors; None: whatever they have, all the same.

    Attributes:
        vectors: (n, a) float32.

    Raises:
        UserError: it cannot be read, lacks a column, or a row has no vector, one of another width, or one that is not
            finite; the message names the row, counted from 0.
    """

    def __init__(self, path: str | Path, width: int | None = None) -> None:
        import pyarrow as pa

        self.path = Path(path)
        file = _open(self.path)
        self._check_columns(file.schema_arrow)
        self.vectors = np.empty((0, width or 0), np.float32)
        texts: list[pa.Table] = []
        others = [name for name in file.schema_arrow.names if name != VECTOR]
        start, count = 0, file.metadata.num_rows
        try:
            for batch in file.iter_batches(_BATCH):
                part = self._vectors(batch.column(VECTOR), start, width)
                if not start:
                    width = part.shape[1]
                    # One array from the beginning: parts that are put together at the end would need twice the memory.
                    self.vectors = np.empty((count, width), np.float32)
                self.vectors[start : start + len(part)] = part
                texts.append(pa.Table.from_batches([batch.select(others)]))
                start += len(part)
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{self.path} is damaged ({first_line(error)}); write it again") from error
        self._texts = pa.concat_tables(texts) if texts else file.schema_arrow.empty_table().select(others)
        self._check_texts()

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitem__(self, index: int) -> TableRow:  # type: ignore[override]
        row = {name: self._texts.column(name)[index].as_py() for name in self._texts.column_names}
        return TableRow(row.pop("prompt"), row.pop("response"), self.vectors[index], row)

    def column(self, name: str) -> list[Any]:
        """All values of a column but the vectors'; an empty list if there is none."""
        return self._texts.column(name).to_pylist() if name in self._texts.column_names else []  # type: ignore[no-any-return]

    def check_markers(self, marker: str) -> None:
        """Refuse a prompt that has not one marker for its vector.

        Raises:
            UserError: naming the first such row.
        """
        import pyarrow.compute as pc

        counts = pc.count_substring(self._texts.column("prompt"), marker).to_numpy()
        if len(wrong := (counts != 1).nonzero()[0]):
            row = int(wrong[0])
            raise UserError(
                f"{self.path}, row {row}: the marker {marker!r} stands {counts[row]} times in the prompt, for one "
                "vector; put it there once, or set data.marker to the text that stands in its place"
            )

    def _check_columns(self, schema: "pa.Schema") -> None:
        import pyarrow as pa

        for name in COLUMNS:
            if name not in schema.names:
                raise UserError(
                    f"{self.path} has no column '{name}' (it has: {', '.join(schema.names)}); a table of activations "
                    f"needs {', '.join(COLUMNS)}"
                )
        kind = schema.field(VECTOR).type
        lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
        if not lists or not pa.types.is_floating(kind.value_type):
            raise UserError(f"{self.path}: the column '{VECTOR}' holds {kind}; it must hold lists of numbers (float32)")

    def _check_texts(self) -> None:
        import pyarrow as pa

        for name in ("prompt", "response"):
            column = self._texts.column(name)
            if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
                raise UserError(f"{self.path}: the column '{name}' holds {column.type}; it must hold texts")
            if column.null_count:
                row = column.is_null().to_pylist().index(True)
                raise UserError(f"{self.path}, row {row}: it has no {name}; fill it, or leave the row out")

    def _vectors(self, column: "pa.Array", start: int, width: int | None) -> np.ndarray:
        """The vectors (n, a) of a batch of rows, which begins at row ``start``."""
        import pyarrow.compute as pc

        lengths = np.asarray(pc.fill_null(pc.list_value_length(column), 0))
        width = int(lengths[0]) if width is None else width
        if len(wrong := (lengths != width).nonzero()[0]):
            row = int(wrong[0])
            raise UserError(
                f"{self.path}, row {start + row}: its vector is {lengths[row]} wide, and {width} is expected; all "
                "vectors must have the width of the model that they are from"
            )
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, which is refused below
            values = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
        vectors = values.reshape(-1, width)
        if len(wrong := (~np.isfinite(vectors).all(1)).nonzero()[0]):
            raise UserError(
                f"{self.path}, row {start + int(wrong[0])}: its vector holds NaN or infinity; leave the row out, or "
                "extract it again in float32"
            )
        return vectors


def _open(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    refuse_pipe(path)
    if not path.is_file():
        raise UserError(f"no table at {path}; write one by `lit-narrative extract`, or give another path")
    try:
        return pq.ParquetFile(path, memory_map=True)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} is no Parquet file ({first_line(error)}); give another one") from error


class TableWriter:
    """A Parquet file that is written in parts, so that memory holds a few thousand rows of it at most.

    Args:
        path: of the file.
        width: of the vectors.

    Attributes:
        rows: how many were given.
    """

    def __init__(self, path: str | Path, width: int) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.width, self.rows, self._waiting = width, 0, list[TableRow]()
        texts = {name: pa.string() for name in ("prompt", "response")}
        extra = {"document": pa.string(), "position": pa.int32(), "token": pa.string(), "source": pa.string()}
        self._schema = pa.schema({**texts, VECTOR: pa.list_(pa.float32(), width), **extra})
        self._extra = tuple(extra)
        self._file = pq.ParquetWriter(path, self._schema, compression="zstd")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
        self._file.close()

    def write(self, rows: Iterable[TableRow]) -> None:
        """Write rows, whose columns are ``document``, ``position``, ``token`` and ``source``."""
        for row in rows:
            self._waiting.append(row)
            self.rows += 1
            if len(self._waiting) == _BATCH:
                self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if not self._waiting:
            return
        flat = np.concatenate([np.asarray(row.vector, np.float32) for row in self._waiting])
        columns = [[row.prompt for row in self._waiting], [row.response for row in self._waiting]]
        arrays = [pa.array(column, pa.string()) for column in columns]
        arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(flat), self.width))
        arrays += [
            pa.array([row.columns[name] for row in self._waiting], self._schema.field(name).type)
            for name in self._extra
        ]
        self._file.write_batch(pa.RecordBatch.from_arrays(arrays, schema=self._schema))
        self._waiting = []
