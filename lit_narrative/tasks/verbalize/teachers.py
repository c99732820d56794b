"""Teachers: where the texts come from that an actor imitates before it learns by reward.

They need not be good explanations. They teach the form of an answer, and that the vector has to do with it; what is
worth saying is learned later.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from lit_narrative.errors import UserError, check_choice, check_least
from lit_narrative.files import decode_json, read_utf8

Kind = Literal["window", "words", "file", "none"]
_PIECE = re.compile(r"[^\W_]+(?:['’][^\W_]+)*|[^\w\s]|_+")
"""A word, with an apostrophe inside, or a sign."""


class Place(NamedTuple):
    """A token of a document that a text is wanted for.

    Attributes:
        document: the digest of its content.
        position: of the token.
        source: the document up to the token and with it.
    """

    document: str
    position: int
    source: str


Teacher = Callable[[Sequence[Place]], Sequence[str | None]]
"""Gives a text for each place, in order; None where there is none, and its row is left out."""


@dataclass(frozen=True)
class TeacherSettings:
    """Which texts an actor begins from.

    Args:
        kind: ``window``: the last ``words`` words and signs up to the token; ``words``: one to ``words`` of the last
            ``last`` ones, drawn at random, in order; ``file``: the texts of ``file``; ``none``: an empty text, for
            rows that are learned from by reward alone.
        words: see there.
        last: see there; at least ``words``.
        file: a ``.jsonl`` or ``.parquet`` file with ``document``, ``position`` and ``explanation`` in each row, as the
            tables of an earlier extraction name them; rows that it lacks are left out.
    """

    kind: Kind = "window"
    words: int = 1
    last: int = 8
    file: str | None = None

    def __post_init__(self) -> None:
        check_choice("--teacher", self.kind, get_args(Kind))
        check_least("--words", self.words, 1)
        if self.kind == "words":
            check_least("--last", self.last, self.words)
        if (self.kind == "file") != (self.file is not None):
            raise UserError("--teacher=file reads --explanations, and needs it; give both or neither")

    def __str__(self) -> str:
        match self.kind:
            case "window":
                return f"window of {self.words}"
            case "words":
                return f"1 to {self.words} of the last {self.last} words"
            case "file":
                return f"file {self.file}"
        return "none"


def make_teacher(settings: TeacherSettings, seed: int = 0) -> Teacher:
    """The teacher of the settings; ``seed`` is that of random words.

    Raises:
        UserError: its file cannot be read.
    """
    match settings.kind:
        case "window":
            return lambda places: [last_words(place.source, settings.words) for place in places]
        case "words":
            return lambda places: [_some_words(place, settings, seed) for place in places]
        case "file":
            known = read_explanations(Path(settings.file or ""))
            return lambda places: [known.get((place.document, place.position)) for place in places]
    return lambda places: [""] * len(places)


def last_words(source: str, count: int) -> str:
    """The end of a text from its last but ``count`` word or sign on; the whole text if there are not as many."""
    pieces = list(_PIECE.finditer(source))
    return source[pieces[-min(count, len(pieces))].start() :].strip() if pieces else ""


def _some_words(place: Place, settings: TeacherSettings, seed: int) -> str:
    pieces = _PIECE.findall(place.source)[-settings.last :]
    # By the place alone, so that neither the order of the rows nor how they are cut into batches matters.
    rng = np.random.default_rng([seed, int(place.document, 16), place.position])
    count = min(int(rng.integers(1, settings.words + 1)), len(pieces))
    return " ".join(pieces[index] for index in sorted(rng.choice(len(pieces), count, replace=False))) if pieces else ""


def read_explanations(path: Path) -> dict[tuple[str, int], str]:
    """The texts of a file by document and position.

    Raises:
        UserError: it cannot be read, or a row lacks something; the message names it.
    """
    rows = _parquet_rows(path) if path.suffix == ".parquet" else _json_rows(path)
    found: dict[tuple[str, int], str] = {}
    for number, row in enumerate(rows):
        match row:
            case {"document": str(document), "position": int(position), "explanation": str(text)}:
                found[document, position] = text
            case _:
                raise UserError(
                    f"{path}, row {number}: a row needs `document` (text), `position` (whole number) and `explanation` "
                    f"(text), and not {row!r:.120}"
                )
    if not found:
        raise UserError(f"{path} holds no row; give a file with explanations")
    return found


def _json_rows(path: Path) -> list[Any]:
    lines = enumerate(read_utf8(path).split("\n"), 1)
    return [decode_json(line, f"{path}, line {number}") for number, line in lines if line.strip()]


def _parquet_rows(path: Path) -> list[Mapping[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise UserError(f"no file {path}; give one with explanations")
    try:
        file = pq.ParquetFile(path)
        names = [name for name in ("document", "position", "explanation") if name in file.schema_arrow.names]
        return file.read(names).to_pylist()  # type: ignore[no-any-return]
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} cannot be read as Parquet ({error}); give another file") from error
