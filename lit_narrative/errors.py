"""What a person did wrong and can put right."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A wrong path, name or value that a person gave.

    The command line prints it as one line, ``error: …``, and ends with exit code 2 and no traceback. The message says
    what was given, what was expected, and what to change.
    """


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """Return ``"; did you mean 'name'?"`` for the nearest of ``names``, or an empty text when none is near."""
    near = difflib.get_close_matches(word, list(names), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""
