"""Files of custom worlds: a folder of ``*.json`` files of any format, or a JSONL file, checked before any training."""

import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lit_narrative.errors import UserError
from lit_narrative.files import refuse_pipe
from lit_narrative.tasks.storyworld.formats.files import FILE_LIMITS, Reading, read_any
from lit_narrative.tasks.storyworld.formats.parse import Limits, parse
from lit_narrative.tasks.storyworld.issues import Issue, schema_issues
from lit_narrative.tasks.storyworld.world import World

logger = logging.getLogger(__name__)

LIMITS = Limits()
MOST_NAMED = 5
"""Files that a warning names."""


class WorldFileError(UserError, ValueError):
    """A file of worlds that cannot be used; the message names the file, the path in it, and the remedy."""


@dataclass(frozen=True)
class CustomWorld:
    """A world of a user.

    Attributes:
        name: the file's stem, with ``:line`` for JSONL.
        world: what was read.
        value: its JSON value.
        simple: whether it is written in the simple format.
    """

    name: str
    world: World
    value: dict[str, Any]
    simple: bool

    @cached_property
    def text(self) -> str:
        """The value in compact JSON: it tells whether two worlds are one, and which split a world belongs to."""
        return json.dumps(self.value, ensure_ascii=False, separators=(",", ":"))


def read_worlds(path: str | os.PathLike[str]) -> list[CustomWorld]:
    """Read the worlds at ``path``, in any format.

    Of a folder a file that cannot be used is named in a warning and left out.

    Args:
        path: a folder (its ``*.json`` files in the order of their names), a ``.jsonl`` file (one world a line), or
            one ``.json`` file.

    Raises:
        WorldFileError: The path holds no worlds, or the only one, or a line of a JSONL file, is unreadable, too large,
            or in no format that is known.
    """
    path = Path(path)
    if path.is_dir():
        worlds = _folder(path)
    elif path.suffix == ".jsonl":
        worlds = [_world(name, text, where) for name, where, text in _lines(path)]
    else:
        worlds = [_file(path)]
    if not worlds:
        raise WorldFileError(f"'{path}' holds no worlds; give a folder of *.json files or a .jsonl file")
    return worlds


def read_world_file(path: str | os.PathLike[str], max_chars: int = LIMITS.max_chars) -> str:
    """The text of one file, as it is.

    Raises:
        UserError: The file is missing, a pipe or a device, unreadable, not UTF-8, empty, or larger than the limit.
    """
    if not os.fspath(path):  # which would be the folder that one is in
        raise WorldFileError("the name of a file is empty; name a file of a world")
    path = Path(path)
    refuse_pipe(path)
    try:
        # UTF-8 has at most four bytes a character: a larger file is refused before it is read.
        if path.stat().st_size > 4 * max_chars:
            raise WorldFileError(f"'{path}' is larger than {max_chars:,} characters; split it, or shorten its texts")
        # "utf-8-sig" drops the byte order mark that some editors of Windows write, which JSON refuses.
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise WorldFileError(f"there is no file '{path}' (looked in '{path.absolute().parent}')") from None
    except IsADirectoryError:
        what = "folder" if any(path.glob("*.json")) else "folder without *.json files"
        raise WorldFileError(f"'{path}' is a {what}; name a file in it") from None
    except UnicodeDecodeError as error:
        raise WorldFileError(f"'{path}' is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise WorldFileError(f"'{path}' cannot be read: {error.strerror}") from None
    if len(text) > max_chars:
        size = f"{len(text):,} characters; at most {max_chars:,} are read"
        raise WorldFileError(f"'{path}': {size}; split the world, or shorten its texts")
    if not text.strip():
        raise WorldFileError(f"'{path}': not JSON: it is empty; write a world into it, or leave it out")
    return text


def read_world_texts(
    path: str | os.PathLike[str], sample: int | None = None, max_chars: int = LIMITS.max_chars
) -> list[tuple[str, str]]:
    """The texts of a file with their names: of a ``.jsonl`` file one a line, of any other the file itself.

    A line is a row of ``samples/*.jsonl``, whose ``text`` is read, or a world.

    Args:
        path: of the file.
        sample: number of the one that is wanted, from 1; None: all.
        max_chars: longest text, in characters.

    Raises:
        UserError: The file cannot be read, is empty, or has no such sample.
    """
    if Path(path).suffix != ".jsonl":
        if sample is not None:
            raise WorldFileError(f"--sample is of a .jsonl file, and '{path}' holds one text; leave it out")
        return [(str(path), read_world_file(path, max_chars))]
    lines = [line for _, _, line in _lines(Path(path))]
    if not lines:
        raise WorldFileError(f"'{path}' holds no samples")
    if sample is not None and not 1 <= sample <= len(lines):
        raise WorldFileError(f"--sample is {sample}; '{path}' holds samples 1 to {len(lines)}")
    wanted = range(len(lines)) if sample is None else [sample - 1]
    return [(f"{path}:{number + 1}", _written(lines[number], max_chars)) for number in wanted]


def read_world_text(path: str | os.PathLike[str], sample: int | None = None) -> str:
    """The one text of a file, or the sample of a ``.jsonl`` file that is wanted.

    Raises:
        UserError: The file cannot be read, or holds several samples of which none was chosen.
    """
    texts = read_world_texts(path, sample, FILE_LIMITS.max_chars)
    if len(texts) > 1:
        raise WorldFileError(f"'{path}' holds {len(texts)} samples; choose one by --sample=1 to {len(texts)}")
    return texts[0][1]


def read_playable(path: str | os.PathLike[str], text: str) -> tuple[World, Reading]:
    """The world in the text of a file, of any format, and what else was read.

    Raises:
        UserError: It holds nothing that can be played.
    """
    reading = read_any(text)
    if reading.world is None or not reading.world.encounters:
        first = reading.issues[0] if reading.issues else Issue("$.encounters", "there are no encounters")
        raise WorldFileError(f"'{path}' is no world that can be played: {first.path}: {first.message}")
    return reading.world, reading


def _written(line: str, max_chars: int) -> str:
    """The text of a sample's row; any other line as it is."""
    # A row is longer than its text: as JSON, and by what is said of it.
    row = parse(line, Limits(max_chars=8 * max_chars)).value
    text = row.get("text") if isinstance(row, dict) and "encounters" not in row else None
    return text if isinstance(text, str) else line


def _folder(path: Path) -> list[CustomWorld]:
    files, found, bad = sorted(path.glob("*.json")), [], []
    for file in files:
        try:
            found.append(_file(file))
        except UserError as error:
            bad.append(str(error))
    if bad and not found:
        raise WorldFileError(bad[0] + (f" (the other {len(bad) - 1} files cannot be used either)" if bad[1:] else ""))
    if bad:
        named = "; ".join(bad[:MOST_NAMED]) + ("; ..." if bad[MOST_NAMED:] else "")
        logger.warning("%d of the %d files at '%s' are left out: %s", len(bad), len(files), path, named)
    return found


def _file(path: Path) -> CustomWorld:
    return _world(path.stem, read_world_file(path, FILE_LIMITS.max_chars), f"'{path}'")


def _lines(path: Path) -> Iterator[tuple[str, str, str]]:
    """(name, file and line for messages, text) of each world."""
    refuse_pipe(path)
    try:
        with open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield f"{path.stem}:{number}", f"'{path}', line {number}", line
    except UnicodeDecodeError as error:
        raise WorldFileError(f"'{path}' is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise WorldFileError(f"'{path}' cannot be read: {error.strerror}") from None


def _world(name: str, text: str, where: str) -> CustomWorld:
    reading = read_any(text)
    value, simple = reading.value, reading.dialect == "simple"
    if value is None:
        raise WorldFileError(f"{where}: {reading.issues[0].message}; {_remedy(text)}")
    if type(value) is not dict:
        raise WorldFileError(f"{where}: {reading.issues[0].message}; write one world in the simple format")
    if simple:
        # What is odd in a file of SweepWeave is an author's business. Simple worlds are imitated as they are, and of a
        # key that occurs twice training would see the last value, where a person reads the first.
        if reading.duplicates:
            raise WorldFileError(f"{where}: {reading.issues[0].message}; {_remedy(text)}")
        for issue in schema_issues(value):
            raise WorldFileError(
                f"{where}: {issue.path}: {issue.message}; `lit-narrative score` lists all that is wrong"
            )
    if reading.world is None:
        raise WorldFileError(f"{where}: {reading.issues[0].message}; `lit-narrative check` lists all that is wrong")
    return CustomWorld(name, reading.world, value, simple)


def _remedy(text: str) -> str:
    if len(text) > FILE_LIMITS.max_chars:
        return "split the world, or shorten its texts"
    return "mend the JSON, or leave the file out"
