"""Files read and written: UTF-8 text, YAML, CSV tables, JSON; what is written is whole or absent.

A file is written under a temporary name beside its target, brought to the disk, and then renamed, which replaces the
old one in one step. What a killed process leaves under a temporary name goes away when the target is written again.
"""

import csv
import errno
import io
import json
import os
import platform
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import Any

import yaml

from lit_narrative.errors import UserError


def refuse_pipe(path: str | Path, what: str = "read") -> None:
    """Refuse a pipe or a device, which could keep a reader waiting for ever; what is not there passes.

    A writer refuses it since a rename would put a file in the place of the device, for the whole machine.

    Raises:
        UserError: it is one.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        remedy = "write its content to a file, and name that" if what == "read" else "name a file"
        raise UserError(f"cannot {what} {path}: it is a pipe or a device; {remedy}")


def read_utf8(path: Path) -> str:
    """The text of a file, its lines closed by line feeds alone.

    Raises:
        UserError: it cannot be read, or is not UTF-8.
    """
    refuse_pipe(path)
    try:
        # The codec drops the byte order mark that some editors write.
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 text (byte {error.start}); convert it (iconv -f latin1 -t utf-8), or take it out"
        ) from error
    if "\0" in text:
        raise UserError(f"{path} is a binary file, not text; take it out, or name the text files' folder")
    return re.sub(r"\r*\n|\r", "\n", text)


def read_yaml(path: str | Path) -> Any:
    """The content of a YAML file: plain values, lists and dicts.

    Raises:
        UserError: it cannot be read, or is not YAML.
    """
    refuse_pipe(path)
    try:
        return yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise UserError(f"{path} cannot be read as YAML: its values are nested too deeply") from error


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        UserError: it cannot be read, or is not JSON.
    """
    return decode_json(read_utf8(path), str(path))


def decode_json(text: str, where: str) -> Any:
    """The value of a JSON text; ``where`` it stands is for the message.

    Raises:
        UserError: it is not JSON, or nested too deeply.
    """
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f"{where} is not valid JSON: {error}") from error
    except RecursionError as error:
        raise UserError(f"{where} cannot be read as JSON: its values are nested too deeply") from error


def read_table(path: str | Path) -> list[dict[str, str]]:
    """The rows of a CSV file with a header, as column -> text; a row lacks the columns whose cell is empty.

    Raises:
        UserError: it is not UTF-8, or not CSV.
    """
    refuse_pipe(path)
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return [{column: cell for column, cell in row.items() if cell} for row in csv.DictReader(file)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as a table ({error}); it may be damaged") from error


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
    """Rows of cells as CSV; None becomes an empty cell, and a float keeps every digit."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def write_table(path: str | Path, columns: Sequence[str], rows: Iterable[Iterable[Any]]) -> Path:
    """Write a CSV file: a header of ``columns``, then the rows, a cell for each column."""
    return write_text(path, csv_text([columns, *rows]))


def write_text(path: str | Path, text: str) -> Path:
    """Write ``text`` (UTF-8) to ``path`` so that a reader sees the old file or the whole new one."""
    # A policy's text may hold lone surrogates, which UTF-8 has no form for.
    return write_bytes(path, text.encode("utf-8", errors="backslashreplace"))


def append_text(path: str | Path, text: str) -> None:
    """Append ``text`` (UTF-8) to a file; where the disk is full the file stays as it was.

    Raises:
        OSError: it cannot be written; the error names ``path``.
    """
    path = Path(path)
    with _naming(path), open(path, "ab", buffering=0) as file:
        before, content = file.seek(0, os.SEEK_END), memoryview(text.encode("utf-8", errors="backslashreplace"))
        try:
            while content:
                content = content[file.write(content) :]
        except OSError:
            file.truncate(before)  # half a row would be read as a row
            raise


def write_bytes(path: str | Path, content: bytes) -> Path:
    """Write ``content`` to ``path`` so that a reader sees the old file or the whole new one.

    Raises:
        OSError: it cannot be written; the error names ``path``, and what was there is as it was.
    """
    with whole_file(path) as temporary:
        temporary.write_bytes(content)
    return Path(path)


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Give a path to write to; the file takes the place of ``path`` when all went well, and goes away otherwise.

    Raises:
        OSError: the disk is full, or the file cannot be written; the error names ``path``.
        UserError: it is a pipe or a device.
    """
    path = Path(path)
    _refuse_place(path)
    if path.is_dir():
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    # In the same folder, since a rename across file systems is a copy; with the process's number, as two may write it.
    temporary = path.parent / f"{_prefix(path)}tmp"
    try:
        with _naming(path):
            yield temporary
            # A rename may reach the disk before the content does: after a power cut the file would be there and empty.
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            os.replace(temporary, path)
    except BaseException:
        # Ctrl-C too leaves nothing behind.
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def inside(folder: str | Path, name: str) -> Path:
    """The file of a name, as another file gives it, in a folder.

    Raises:
        UserError: the name leads out of the folder.
    """
    if os.path.isabs(name) or ".." in Path(name).parts:
        raise UserError(f"unsafe file name: {name!r} leads out of its folder")
    return Path(folder, name)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Give a folder to fill that takes the place of ``path`` when all went well, and goes away otherwise.

    A reader never sees a folder half filled. No rename replaces a folder that holds files, so an older one is moved
    away first: for that moment there is no ``path``, and a kill in it leaves both folders, whole, in a hidden one
    beside it, ``.<name>.*``, as ``old`` and ``new``. A kill at another time leaves ``path`` as it was or new, and
    perhaps that hidden folder.

    Raises:
        OSError: the disk is full, or the folder cannot be written; the error names ``path``.
        UserError: it is a pipe or a device.
    """
    path = Path(path)
    _refuse_place(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=_prefix(path)) as scratch, _naming(path):
        fresh = Path(scratch, "new")
        fresh.mkdir()
        yield fresh
        _sync_tree(fresh)
        if path.exists():
            os.replace(path, Path(scratch, "old"))
        os.replace(fresh, path)
        _sync_folder(path.parent)


def _refuse_place(path: Path) -> None:
    """Refuse to put a file or a folder in the place of a pipe, a device, or a link to an open file (/dev/stdout)."""
    refuse_pipe(path, "write")
    if path.is_symlink() and os.readlink(path).startswith("/proc/"):
        raise UserError(f"cannot write {path}: it stands for an open file; name the file itself")


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Within it an error of the system names ``path``: a write that fails says no name, or the temporary one."""
    try:
        yield
    except OSError as error:
        if error.errno is None or (error.filename is not None and not _is_temporary(path, str(error.filename))):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    except Exception as error:
        # Libraries that write for themselves report a full disk as an error of their own, torch without saying so.
        if "No space left on device" not in str(error) and shutil.disk_usage(path.parent).free > 2**20:
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error


def _is_temporary(path: Path, name: str) -> bool:
    return name.startswith(str(path.parent / f".{path.name}."))


def _prefix(path: Path) -> str:
    """How the temporary names of a target begin, those of this process."""
    return f".{path.name}.{_HOST}-{os.getpid()}."


_HOST = re.sub(r"\W", "", platform.node())


def _remove_leftovers(path: Path) -> None:
    """Remove what processes that were killed have left of writing ``path``."""
    for leftover in path.parent.glob(f".{escape(path.name)}.*-*.*"):
        host, _, process = leftover.name.removeprefix(f".{path.name}.").split(".")[0].rpartition("-")
        # Whether a process of another machine runs cannot be told: a day is longer than any file takes to write.
        old = leftover.lstat().st_mtime < time.time() - 24 * 3600
        if process.isdecimal() and (old if host != _HOST else not _runs(int(process))):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)  # signal 0 is sent to nobody: it asks only whether there is such a process
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _sync_tree(folder: Path) -> None:
    """Bring the files of a folder, which libraries wrote, to the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Bring the names of a folder to the disk, where its file system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_json(path: str | Path, value: Any) -> Path:
    """Write ``value`` as indented JSON; NaN and infinity are refused (``ValueError``)."""
    return write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_jsonl(path: str | Path, rows: Iterable[Any]) -> Path:
    """Write one compact JSON value a line."""
    lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows)
    return write_text(path, "".join(f"{line}\n" for line in lines))
