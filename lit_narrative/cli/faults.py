"""What the command says where something went wrong: one line, with the path and what to do, and no traceback.

Exit code 2 is for what the person can put right: a wrong setting, a file that is missing or damaged, a full disk, too
little memory. Anything else is a fault, code 1; its full text goes to a file, which the line names.
"""

import errno
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from os import getpid
from pathlib import Path

from lit_narrative.errors import UserError, first_line
from lit_narrative.files import write_text
from lit_narrative.interrupts import Interrupted
from lit_narrative.redaction import redact_text

REMEDIES = {
    errno.ENOSPC: "free some space there, or name a folder on another disk",
    errno.EDQUOT: "free some of your quota, or name a folder on another disk",
    errno.EFBIG: "files may not be as large here: raise the limit (`ulimit -f`), or name a folder on another disk",
    errno.EACCES: "change its permissions, or name another path",
    errno.EPERM: "change its permissions, or name another path",
    errno.EROFS: "this disk is read only: name a folder on another one",
    errno.ENOENT: "check the path",
    errno.EEXIST: "a file is in the place of a folder, or the other way round: name another path",
    errno.ENOTDIR: "a file is in the place of a folder: name another path",
    errno.EISDIR: "it is a folder: name a file",
    errno.ELOOP: "a link is in the place of a file, or leads in a circle: remove it",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EMFILE: "raise the number of files that a process may open (`ulimit -n`)",
    errno.EIO: "the disk may be damaged: name a folder on another one",
    errno.ESTALE: "the network file system lost the file: try again",
}
"""Errors of the system that a person can put right -> how."""
MEMORY = "take smaller batches, a smaller model, or a machine with more memory"
LONGEST = 500
"""Characters of a line at most."""

_run_folder: Path | None = None


def note_run_folder(folder: str | Path) -> None:
    """Note the folder of the run, where the text of a fault belongs."""
    global _run_folder
    _run_folder = Path(folder)


@contextmanager
def in_one_line(debug: bool) -> Iterator[None]:
    """Within it an error ends the process with one line on standard error.

    Args:
        debug: print the traceback too.

    Raises:
        SystemExit: after an error, with code 2 or 1; after a signal, with 128 and its number.
    """
    global _run_folder
    _run_folder = None
    try:
        yield
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None
    except Interrupted as stop:
        saved = f"; what was reached is in '{stop.saved}': resume by --ckpt_path={stop.saved}" if stop.saved else ""
        print(f"stopped by {stop}{saved}", file=sys.stderr)
        raise SystemExit(128 + stop.number) from None
    except Exception as error:
        if debug:
            print(_full(error), file=sys.stderr)
        line = line_of(error)
        print(_fault(error, debug) if line is None else f"error: {line}", file=sys.stderr)
        raise SystemExit(1 if line is None else 2) from None


def line_of(error: BaseException) -> str | None:
    """What a person can do about an error, in one line; None where it is a fault."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError):
            return str(cause)
        if line := _of_memory(cause) or _of_system(cause) or _of_settings(cause):
            return _short(line)
        cause = cause.__cause__
    return None


def _of_settings(error: BaseException) -> str | None:
    # By name: Lightning is not imported for the light commands.
    if type(error).__name__ == "MisconfigurationException" or _lightning_refuses(error):
        return f"trainer: {error.args[0] if error.args else error}"  # the text of a KeyError is in quotes
    return None


def _lightning_refuses(error: BaseException) -> bool:
    """Whether Lightning's own code says what is wrong: a metric that is absent, an interval that is too long."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames or not isinstance(error, ValueError | RuntimeError | KeyError):
        return False
    # A fault within Lightning, of its own or of ours, has no `raise` there.
    folders = Path(frames[-1].filename).parts
    return "lightning" in folders and "site-packages" in folders and (frames[-1].line or "").startswith("raise ")


def _of_memory(error: BaseException) -> str | None:
    """Torch says it by a class of its own on a GPU, and by a text alone on a CPU."""
    text = str(error).lower()
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "t allocate memory" in text:
        return f"out of memory ({first_line(Exception(error))}); {MEMORY}"
    return None


def _of_system(error: BaseException) -> str | None:
    if "No space left on device" in str(error) and not isinstance(error, OSError):
        return f"{first_line(Exception(error))}; {REMEDIES[errno.ENOSPC]}"
    if not isinstance(error, OSError) or error.errno is None or error.strerror is None:
        return None
    if error.errno == errno.ENOMEM:
        return f"out of memory; {MEMORY}"
    if error.errno not in REMEDIES:
        return None
    where = f"'{error.filename}': " if error.filename else ""
    return f"{where}{error.strerror}; {REMEDIES[error.errno]}"


def _fault(error: Exception, shown: bool) -> str:
    """The line of a fault, whose full text is written to a file."""
    text = _short(f"fault: {type(error).__name__}: {first_line(error)}")
    path = _write(_full(error))
    where = f"; its full text is in '{path}'" if path else ""
    return f"{text}{where}" if shown else f"{text}{where}, or run the command again with --debug to see it"


def _full(error: Exception) -> str:
    return redact_text("".join(traceback.format_exception(error)))


def _write(text: str) -> Path | None:
    name = f"fault_{datetime.now(UTC):%Y%m%d_%H%M%S}_{getpid()}.txt"
    for folder in (_run_folder, Path(tempfile.gettempdir())):
        if folder is not None and folder.is_dir():
            with suppress(OSError):  # a full disk, or a folder of somebody else's: the next one
                return write_text(folder / name, text)
    return None


def _short(text: str) -> str:
    """``text`` as one line of printable characters, keys hidden."""
    line = "".join(char if char.isprintable() else "\ufffd" for char in " ".join(redact_text(text).split()))
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}…"
