"""Errors that a person can put right, and the checks that raise them."""

import difflib
import math
from collections.abc import Iterable

from lit_narrative.redaction import redact_text


class UserError(Exception):
    """A wrong path, name or value that a person gave.

    The command line prints it as one line, ``error: …``, and ends with exit code 2 and no traceback. The message says
    what was given, what was expected, and what to change. Keys in it are hidden (``redaction.py``).
    """

    def __init__(self, message: str) -> None:
        super().__init__(redact_text(message))


def check_least(flag: str, value: int | None, least: int) -> None:
    """Check that a number that a person gave is large enough; None, where it stands for a default, passes.

    Raises:
        UserError: it is below ``least``; the message names the flag and the value.
    """
    if value is not None and value < least:
        raise UserError(f"{flag} is {value}; it must be {least} or more")


def check_most(flag: str, value: int, most: int) -> None:
    """Check that a number that a person gave is not too large to be done in some minutes.

    Raises:
        UserError: it is above ``most``; the message names the flag and the value.
    """
    if value > most:
        raise UserError(f"{flag} is {value:,}; it must be at most {most:,}")


def check_finite(prefix: str, **values: float) -> None:
    """Check that numbers that a person gave are finite, and 0 or more.

    Args:
        prefix: what stands before the names, such as ``model.``.
        values: by the names of their settings.

    Raises:
        UserError: one is negative, infinite or no number; the message names it.
    """
    for name, value in values.items():
        if not 0 <= value < math.inf:
            raise UserError(f"{prefix}{name}={value} must be a number of 0 or more")


def check_choice(what: str, value: str, known: Iterable[str], other: str = "") -> None:
    """Check that a name that a person gave is one of those that there are.

    Args:
        what: the setting or the argument that holds it, such as ``model.rewards`` or ``--only``.
        value: the name that was given.
        known: the names that there are, in the order in which the message lists them.
        other: what may be given in place of a name, such as ``a path package.module:object``.

    Raises:
        UserError: there is no such name; the message has the nearest one and the whole list.
    """
    names = list(known)
    if value not in names:
        listed = (", ".join(names) or "none") + (f", or {other}" if other else "")
        raise UserError(f"{what}: there is no '{value}'{did_you_mean(str(value), names)} (known: {listed})")


def first_line(error: Exception) -> str:
    """Return the first line of an error's message; its kind, where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """Return ``"; did you mean 'name'?"`` for the nearest of ``names``, or an empty text when none is near."""
    # 0.6 is difflib's default: it catches a transposed or missing letter, and does not suggest unrelated names.
    near = difflib.get_close_matches(word, list(names), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""
