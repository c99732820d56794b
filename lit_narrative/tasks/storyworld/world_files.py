"""Files of custom worlds: a folder of ``*.json`` files or one JSONL file, checked before any training."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lit_narrative.errors import UserError
from lit_narrative.files import refuse_pipe
from lit_narrative.tasks.storyworld.formats.parse import UNSUPPORTED, Limits, detect, parse
from lit_narrative.tasks.storyworld.issues import schema_issues
from lit_narrative.views import Example

LIMITS = Limits()
SPLITS = ("train", "val", "test")
TENTHS = {"val": 1, "test": 1}
"""Tenths of the worlds that go to the held-out splits; the rest is for training."""


class WorldFileError(UserError, ValueError):
    """A file of worlds that cannot be used; the message names the file, the path in it, and the remedy."""


def load_worlds(path: str | os.PathLike[str]) -> list[tuple[str, dict[str, Any]]]:
    """Read the worlds at ``path``.

    Args:
        path: a folder (its ``*.json`` files in the order of their names), a ``.jsonl`` file (one world a line), or
            one ``.json`` file.

    Returns:
        (name, world) pairs in the simple format: the name is the file's stem, with ``:line`` for JSONL.

    Raises:
        WorldFileError: The path holds no worlds, or one of them is unreadable, too large, or not in the format.
    """
    path = Path(path)
    worlds = [(name, _world(text, where)) for name, where, text in _texts(path)]
    if not worlds:
        raise WorldFileError(f"'{path}' holds no worlds; give a folder of *.json files or a .jsonl file")
    return worlds


def read_world_file(path: str | os.PathLike[str], max_chars: int = LIMITS.max_chars) -> str:
    """The text of one file, as it is.

    Raises:
        UserError: The file is missing, a pipe or a device, unreadable, not UTF-8, empty, or larger than the limit.
    """
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
        raise WorldFileError(f"'{path}' is a folder; name a file in it") from None
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


def _written(line: str, max_chars: int) -> str:
    """The text of a sample's row; any other line as it is."""
    # A row is longer than its text: as JSON, and by what is said of it.
    row = parse(line, Limits(max_chars=8 * max_chars)).value
    text = row.get("text") if isinstance(row, dict) and "encounters" not in row else None
    return text if isinstance(text, str) else line


def custom_examples(path: str, held_out: Mapping[str, str] = MappingProxyType({})) -> dict[str, list[Example]]:
    """Read the worlds at ``path`` and assign each to a split by a digest of its content.

    About a tenth is for validation and a tenth for testing, and one world at least for each.

    Args:
        path: of the worlds.
        held_out: by split, ``val`` or ``test``, the path of its worlds, where they stand apart; none at ``path`` is
            then assigned to it.

    Raises:
        UserError: there are fewer worlds than splits to fill, one stands in two splits, or a file is malformed.
    """
    apart = {split: _examples(where) for split, where in held_out.items()}
    places: dict[str, str] = {}
    for split, rows in apart.items():
        for row in rows:
            if places.setdefault(row.completion, split) != split:
                raise UserError(f"data.{split}_worlds: the world '{row.meta['name']}' is in data.val_worlds too")
    dealt: dict[str, list[Example]] = {split: [] for split in SPLITS if split not in apart}
    rows = _examples(path)
    for row in rows:
        if row.completion in places:
            raise UserError(
                f"data.worlds: the world '{row.meta['name']}' at '{path}' is in data.{places[row.completion]}_worlds "
                "too; leave it out of one of them"
            )
        split = _split(row.completion)
        dealt[split if split in dealt else "train"].append(row)
    different = len({row.completion for row in rows})
    if different < len(dealt):
        raise UserError(
            f"data.worlds: there are {different} different worlds at '{path}', and {len(dealt)} splits to fill "
            f"({', '.join(dealt)}); add {len(dealt) - different} or more, or name worlds to validate and test on by "
            "data.val_worlds and data.test_worlds"
        )
    return {**_filled(dealt), **apart}


def _examples(path: str) -> list[Example]:
    found = []
    for name, world in load_worlds(path):
        text = json.dumps(world, ensure_ascii=False, separators=(",", ":"))
        found.append(Example(custom_prompt(world), text, {"name": name, **_asked(world)}))
    return found


def _filled(dealt: dict[str, list[Example]]) -> dict[str, list[Example]]:
    """Splits of which none is empty: the largest gives a world to each that is, the one whose digest comes first."""
    for rows in dealt.values():
        if not rows:
            largest = max(dealt.values(), key=lambda split: len({row.completion for row in split}))
            given = min((row.completion for row in largest), key=_digest)
            rows += [row for row in largest if row.completion == given]  # with its copies: splits share no world
            largest[:] = [row for row in largest if row.completion != given]
    return dealt


def _asked(world: dict[str, Any]) -> dict[str, Any]:
    """What the prompt asks for, as the columns of the generator's prompts have it."""
    theme = {"theme": world["title"]} if isinstance(world.get("title"), str) else {}
    return {**theme, "cast": tuple(world["characters"]), "properties": tuple(world["properties"])}


def custom_prompt(world: dict[str, Any]) -> str:
    """A prompt that names what the generator's prompts name, as far as the world says it."""
    about = f" about {world['title']}" if isinstance(world.get("title"), str) else ""
    cast, tracked = ", ".join(world["characters"]), ", ".join(world["properties"])
    return f"Storyworld{about}. Cast: {cast}. Track: {tracked}.\n"


def _texts(path: Path) -> Iterator[tuple[str, str, str]]:
    """(name, file and line for messages, text) of each world."""
    if path.is_dir():
        for file in sorted(path.glob("*.json")):
            yield file.stem, f"'{file}'", read_world_file(file)
    elif path.suffix == ".jsonl":
        yield from _lines(path)
    else:
        yield path.stem, f"'{path}'", read_world_file(path)


def _lines(path: Path) -> Iterator[tuple[str, str, str]]:
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


def _world(text: str, where: str) -> dict[str, Any]:
    parsed = parse(text, LIMITS)
    # A duplicate key counts as well: training would see the last value, a person reads the first.
    if parsed.issues:
        raise WorldFileError(f"{where}: {parsed.issues[0].message}; {_remedy(text)}")
    value = parsed.value
    if type(value) is not dict:
        raise WorldFileError(f"{where}: the top level must be an object; write one world in the simple format")
    if detect(value) == "sweepweave":
        raise WorldFileError(f"{where}: {UNSUPPORTED.message}")
    for issue in schema_issues(value):
        raise WorldFileError(f"{where}: {issue.path}: {issue.message}; `lit-narrative score` lists all that is wrong")
    world: dict[str, Any] = value
    return world


def _remedy(text: str) -> str:
    if len(text) > LIMITS.max_chars:
        return "split the world, or shorten its texts"
    return "mend the JSON, or leave the file out"


def _split(text: str) -> str:
    # backslashreplace: a JSON escape may make a lone surrogate, which UTF-8 cannot hold. As 256 is no multiple of ten,
    # tenths 0 to 5 are 4 % larger; that no release moves a world to another split is worth more.
    tenth = _digest(text)[-1] % 10
    return "val" if tenth < TENTHS["val"] else "test" if tenth < TENTHS["val"] + TENTHS["test"] else "train"


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "backslashreplace"), digest_size=8).digest()
