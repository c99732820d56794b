"""Activations on disk: written one after another and read row by row, so that memory holds few however many there are.

A folder has ``vectors.f32``, the rows' vectors as little-endian float32, each followed by what a transcoder predicts;
``places.npy``, (n, 2) int32, each row's text and position; and ``about.json``, what they are of.
"""

from array import array
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lit_narrative.errors import UserError
from lit_narrative.files import atomic_folder, read_json, write_json
from lit_narrative.views import Activation

VECTORS, PLACES, ABOUT = "vectors.f32", "places.npy", "about.json"
_FLOAT = np.dtype("<f4")


class ActivationFile(Sequence[Activation]):
    """The activations of a folder that `write_activations` wrote. A row is read when it is asked for.

    Args:
        folder: where they lie.

    Raises:
        UserError: a file is missing, or another one than was written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder, VECTORS)
        try:
            about: Any = read_json(Path(folder, ABOUT))
            self.width, self.target_width = int(about["width"]), int(about["target_width"])
            self.places: np.ndarray = np.load(Path(folder, PLACES), allow_pickle=False)
            found = self.path.stat().st_size
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"the activations in '{folder}' cannot be read ({error}); remove the folder") from error
        if self.places.shape != (len(self), 2) or found != len(self) * self._row_bytes:
            raise UserError(
                f"the activations in '{folder}' are damaged: {VECTORS} has {found} bytes, {len(self)} rows of "
                f"{self.width + self.target_width} numbers have {len(self) * self._row_bytes}; remove the folder"
            )

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Activation:  # type: ignore[override]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        # Not by a memory map, whose pages stay with the process and count as its memory.
        numbers = np.fromfile(self.path, _FLOAT, self.width + self.target_width, offset=index * self._row_bytes)
        text, position = self.places[index].tolist()
        target = numbers[self.width :] if self.target_width else None
        return Activation(numbers[: self.width], text, position, target)

    @property
    def _row_bytes(self) -> int:
        return (self.width + self.target_width) * _FLOAT.itemsize


def write_activations(folder: str | Path, rows: Iterable[Activation], about: Mapping[str, Any]) -> ActivationFile:
    """Write activations as they come into a folder that is there only when all are.

    Args:
        folder: where to; replaced as a whole.
        rows: one or more, all of the same widths.
        about: what is written beside the widths: the model, the hook ...

    Raises:
        UserError: there is no row.
        OSError: the disk is full, or the folder cannot be written.
    """
    places, widths = array("i"), {"width": 0, "target_width": 0}
    with atomic_folder(folder) as fresh:
        with (fresh / VECTORS).open("wb") as file:
            for row in rows:
                file.write(row.vector.astype(_FLOAT, copy=False).tobytes())
                if row.target is not None:
                    file.write(row.target.astype(_FLOAT, copy=False).tobytes())
                places.extend((row.text, row.position))
                widths = {"width": len(row.vector), "target_width": 0 if row.target is None else len(row.target)}
        if not places:
            raise UserError("there are no activations to keep; give longer texts, or more of them")
        np.save(fresh / PLACES, np.asarray(places, np.int32).reshape(-1, 2))
        write_json(fresh / ABOUT, {**about, **widths})
    return ActivationFile(folder)
