"""Numbers and foreign text as a reader should meet them."""

import re
from collections.abc import Sequence

NONE = "–"
"""Shown where there is no value: a quantity that was not measured, or is not defined."""
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


def clip(text: str, limit: int) -> str:
    """Cut a text to at most ``limit`` characters, with an ellipsis where something is gone."""
    return text[: limit - 1].rstrip() + "…" if len(text) > limit else text


def printable(text: str) -> str:
    """Replace what no page should hold: control characters, stray surrogates, and marks that turn the direction.

    One such mark in a sample would mirror the rest of its line.
    """
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def one_line(text: str) -> str:
    """``text`` as a line of a terminal: control characters and lone surrogates become U+FFFD, line ends spaces."""
    return "".join(char if char.isprintable() else " " if char in "\n\r\t" else "\ufffd" for char in text)


def number(value: float | None, digits: int = 3) -> str:
    """Write a value with fixed decimals; ``None`` becomes a dash, and a negative zero loses its sign."""
    if value is None:
        return NONE
    # The minus sign is as wide as a digit, unlike the hyphen, so that columns line up.
    return f"{value:.{digits}f}".replace("-", "−") if round(value, digits) else f"{0:.{digits}f}"


def significant(value: float) -> str:
    """Write a value with four digits, whatever its size: a rate of learning and a count stand in one table."""
    text = f"{abs(value):.4g}"
    return f"−{text}" if value < 0 else text


def signed(value: float, digits: int = 3) -> str:
    """Write a difference with its sign, a true minus sign included."""
    return ("+" if round(value, digits) > 0 else "") + number(value, digits)


def percent(share: float | None, digits: int = 0) -> str:
    """Write a share in [0, 1] as a percentage, with one decimal more where rounding would claim all or nothing."""
    if share is None:
        return NONE
    # 99.6 % must not read as "100%", nor 0.4 % as "0%": whether all or none are right is what readers look for.
    text = f"{100 * share:.{digits}f}"
    return f"{100 * share:.{digits + 1}f}%" if float(text) in {0, 100} and share not in {0, 1} else f"{text}%"


def interval(bounds: Sequence[float] | None, digits: int = 3) -> str:
    """Write an interval as ``0.72 to 0.76``."""
    if bounds is None:
        return NONE
    low, high = bounds
    return f"{number(low, digits)} to {number(high, digits)}"
