"""Readers' judgements of texts: a log of events, one JSON object a line, as ratings and preferences.

An event is ``{"event_type": …, "data": {…}}``; ``data`` may be left out and its keys written beside the type, and other
keys (time, user, session) are not read. What counts:

======== ==================================== =====================================================
type     keys                                 becomes
======== ==================================== =====================================================
rate     text, rating (0..1)                  a rating; 0 counts as much as 1
select   text, score (default 0.8), others    a rating, and a preference over each of ``others``
reject   text                                 a rating of 0.2
pair     chosen, rejected                     a preference
rank     texts, the best first                a preference of each over the next
edit     before, after                        a preference of what it was changed to
generate                                      nothing, as do the other events of ``lit-narrative write``
======== ==================================== =====================================================
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from lit_narrative.errors import UserError, check_choice
from lit_narrative.files import read_utf8
from lit_narrative.tasks.poetry.corpus import split_keys
from lit_narrative.text import is_unicode
from lit_narrative.views import Scored

SILENT = {"generate", "begin", "step", "undo", "prompt", "set"}
"""Events that judge no text."""

SELECTED, REJECTED = 0.8, 0.2
"""Ratings of what was chosen or refused without a number."""
_Data = Mapping[str, Any]


def read_events(path: str | Path) -> list[Scored]:
    """Ratings and preferences of a log, in order.

    Raises:
        UserError: there is no such file, a line is not an event, or none of them judges a text.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"data.events: no file {path}; give a log of events, one JSON object a line")
    rows = []
    for number, line in enumerate(read_utf8(path).split("\n"), 1):
        if line.strip():
            rows += _rows(line, f"{path}, line {number}")
    if not rows:
        raise UserError(f"{path} has no event that judges a text; types that do: {', '.join(_KINDS)}")
    return rows


def split_events(rows: Sequence[Scored], seed: int) -> dict[str, list[Scored]]:
    """Rows by split; no text is in training and elsewhere too: such rows are left out of validation and test."""
    of = split_keys((row.text for row in rows), seed)
    splits = {split: [row for row in rows if of[row.text] == split] for split in ("train", "val", "test")}
    # Both texts of a preference: neither may be judged in training and in a test.
    known = {text for row in splits["train"] for text in (row.text, row.other)}
    for split in ("val", "test"):
        splits[split] = [row for row in splits[split] if not {row.text, row.other} - {None} & known]
    return splits


def as_pairs(rows: Iterable[Scored]) -> list[Scored]:
    """Ratings two by two as preferences, what is rated higher first; equal ones are left out, preferences stay."""
    rows = list(rows)
    rated = [row for row in rows if row.other is None]
    couples = (sorted(two, key=lambda row: -row.score) for two in zip(rated[::2], rated[1::2], strict=False))
    made = [Scored(best.text, 1.0, worst.text) for best, worst in couples if best.score > worst.score]
    return [*made, *(row for row in rows if row.other is not None)]


def _rows(line: str, where: str) -> list[Scored]:
    """The rows of one event.

    Raises:
        UserError: it is not an event; the message begins with ``where``.
    """
    try:
        event = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where}: not JSON ({error})") from error
    kind = str(event.get("event_type")) if isinstance(event, dict) else "none"
    if kind in SILENT:
        return []
    check_choice(f"{where}: event_type", kind, _KINDS)
    try:
        # Without `data` the keys stand beside the type.
        return _KINDS[kind](event.get("data", event))
    except KeyError as error:
        raise UserError(f"{where}: a '{kind}' event needs {error}") from error
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: {error}") from error


def _rate(data: _Data) -> list[Scored]:
    return [Scored(_text(data["text"]), _rating(data["rating"]))]


def _select(data: _Data) -> list[Scored]:
    chosen = _text(data["text"])
    others = _texts(data.get("others", []))
    return [Scored(chosen, _rating(data.get("score", SELECTED))), *_over(chosen, others)]


def _reject(data: _Data) -> list[Scored]:
    return [Scored(_text(data["text"]), REJECTED)]


def _pair(data: _Data) -> list[Scored]:
    return _over(_text(data["chosen"]), [_text(data["rejected"])])


def _rank(data: _Data) -> list[Scored]:
    return [row for better, worse in pairwise(_texts(data["texts"])) for row in _over(better, [worse])]


def _edit(data: _Data) -> list[Scored]:
    return _over(_text(data["after"]), [_text(data["before"])])


_KINDS: Mapping[str, Callable[[_Data], list[Scored]]] = {
    "rate": _rate,
    "select": _select,
    "reject": _reject,
    "pair": _pair,
    "rank": _rank,
    "edit": _edit,
}


def _over(chosen: str, others: Iterable[str]) -> list[Scored]:
    # A preference of a text over itself would teach nothing, and its loss never falls.
    return [Scored(chosen, 1.0, other) for other in others if other != chosen]


def _texts(value: Any) -> list[str]:
    if not isinstance(value, list):
        raise ValueError(f"a list of texts is asked for, got {value!r}")
    return [_text(text) for text in value]


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"a text is asked for, got {value!r}")
    if not is_unicode(value):
        raise ValueError(f"a text holds half of a character (a lone surrogate), write the whole one: {value[:80]!r}")
    return value


def _rating(value: Any) -> float:
    # True is an int to Python, and would count as the best rating.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"a rating is a number in 0..1, got {value!r}")
    return float(value)
