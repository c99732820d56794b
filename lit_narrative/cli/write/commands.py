"""What a person types while writing, as a command: whole words only, nothing is guessed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from lit_narrative.errors import UserError, did_you_mean

Name = Literal[
    "take", "undo", "topic", "strength", "temperature", "method", "rerank", "rate", "new", "save", "help", "quit"
]
Needs = Literal["nothing", "text", "perhaps", "number", "whole number"]
"""What stands behind a command; ``perhaps``: a text or nothing."""


@dataclass(frozen=True)
class Form:
    """How a command is written.

    Attributes:
        name: what it does.
        short: the letter or sign for it.
        needs: what stands behind it.
        shown: a word for that.
        means: what it does, for people.
    """

    name: Name
    short: str
    needs: Needs
    shown: str
    means: str


FORMS = (
    Form("undo", "u", "nothing", "", "take back the last step or new prompt"),
    Form("topic", "t", "text", "TOPIC", "steer to a topic or word list of the task, or to a file with a word a line"),
    Form("strength", "k", "text", "STRENGTH", "step size, bias, coefficient or alpha of the method; auto with pplm"),
    Form("temperature", "temp", "number", "T", "sample at this temperature"),
    Form("method", "m", "text", "METHOD", "steer by none, pplm, bias, activation or experts"),
    Form("rerank", "r", "whole number", "N", "draw N other candidates and show the best of them"),
    Form("rate", "rate", "number", "X", "record a rating of the whole text, 0 to 1; + is 1, - is 0"),
    Form(
        "new", "e", "perhaps", "[PROMPT]", "begin a new text; without one take the task's next prompt (\\n: new line)"
    ),
    Form("save", "s", "perhaps", "[FILE]", "write the text to a file"),
    Form("help", "?", "nothing", "", "this list"),
    Form("quit", "q", "nothing", "", "leave; the session is kept"),
)

_KNOWN: Mapping[str, Form] = {key: form for form in FORMS for key in (form.short, form.name)}
_RATINGS = {"+": 1.0, "-": 0.0}


@dataclass(frozen=True)
class Command:
    """What to do.

    Attributes:
        name: of the command.
        text: what stands behind it.
        number: that as a number, where the command takes one; of ``take`` which candidate (None: the best).
    """

    name: Name
    text: str = ""
    number: float | None = None


def parse(line: str) -> Command:
    """Read a line.

    Raises:
        UserError: it is not a command, with the nearest one, or not as the command is written.
    """
    # A terminal may hand over half a character as a lone surrogate, which no JSON file takes.
    line = line.encode(errors="replace").decode().replace("\0", "\ufffd").strip()
    word, rest = [*line.split(maxsplit=1), "", ""][:2]
    if not word:
        return Command("take")
    if word.isascii() and word.isdecimal() and not rest:
        return Command("take", number=float(word[:9]))  # longer numbers name no candidate, and may not fit a float
    if word in _RATINGS and not rest:
        return Command("rate", number=_RATINGS[word])
    if word not in _KNOWN:
        raise UserError(f"'{word}' is not a command{did_you_mean(word, _KNOWN)} (? lists them); nothing was changed")
    return _filled(_KNOWN[word], rest)


def _filled(form: Form, rest: str) -> Command:
    """The command with what stands behind it."""
    if bool(rest) != (form.needs != "nothing") and form.needs != "perhaps":
        raise UserError(f"write it as: {usage(form)}")
    if form.needs not in {"number", "whole number"}:
        return Command(form.name, rest)
    number = read_number(rest)
    if number is None or (form.needs == "whole number" and not number.is_integer()):
        raise UserError(f"'{rest}' is not a {form.needs}; write it as: {usage(form)}")
    if form.name == "rate" and not 0 <= number <= 1:
        raise UserError(f"a rating is from 0 to 1, not {rest}")
    return Command(form.name, rest, number)


def read_number(text: str) -> float | None:
    """A finite number; None where there is none."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def usage(form: Form) -> str:
    """How a command is written: ``t TOPIC``."""
    return f"{form.short} {form.shown}".strip()
