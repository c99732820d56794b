"""The compact form of a world, a line for each part in place of JSON, and its reader (`compact_write.py` writes it).

Pretrained tokenizers spend most of a world's tokens on the brackets, quotes and keys of JSON. Here a line is a part::

    cast Ada initial_trust 1, Bram initial_trust 0
    state Ada_trust 1, Bram_trust 0, gold 2
    properties trust 0 5, gold 0 9
    # gate: The gate is shut.
    * bribe: Pay the guard.
    ? gold >= 2, Bram_trust < 3
    > hall gold -1, Ada_trust +1
    * leave: Go home.
    > END
    # hall: Nobody is here.
    end

``cast``, ``state`` and ``properties`` (minimum, maximum) come first; then ``#`` an encounter, ``*`` an option, ``?``
its gates, ``>`` a reaction: the encounter that follows (``END``: none, ``NEXT``: the option's next reaction decides),
its effects, and behind a colon a text; ``+`` holds further keys of the part above it, as JSON. A name with a space or
with one of ``",:{}`` is a JSON string, and so is a text of several lines. A part of any other shape stands as the JSON
that it is, so that nothing is lost.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lit_narrative.tasks.storyworld.expressions import COMPARISONS
from lit_narrative.views import Span

Pairs = list[tuple[str, Any]]
END, NEXT, LAST = "END", "NEXT", "end"
"""No encounter follows; the next reaction decides which one does; the last line."""
LISTS = {"cast": "characters", "state": "initial_state", "properties": "properties"}
"""The first lines, with their keys in JSON."""
BARE = re.compile(r'[^\s",:{}]+')
"""A name that stands without quotes."""
_SPACE = re.compile(r"\s*")
_FIRST = re.compile(r"^[ \t]*cast(?![^\s])", re.MULTILINE)
_NESTED = re.compile(r'"(?:[^"\\]|\\.)*"?|[][{}]')
"""A string, read once to the end where it has none, or a bracket outside of strings."""
_SIGNS = "cast, state, properties, #, *, ?, >, +, end"


class CompactError(ValueError):
    """A text that is not of the compact form.

    Attributes:
        place: first character of the line that is at fault.
    """

    def __init__(self, message: str, place: int) -> None:
        super().__init__(message)
        self.place = place


def compact_start(text: str, anywhere: bool = False) -> int | None:
    """The first character of a compact text; None where no line is one that such a text begins with.

    Args:
        text: of anything.
        anywhere: whether other lines, without a ``{``, may stand before it.
    """
    found = None if text.startswith("{") else _FIRST.search(text)  # JSON is not searched
    if found is None:
        return None
    before = text[: found.start()]
    return found.end() - len("cast") if not before.strip() or (anywhere and "{" not in before) else None


# --- read -------------------------------------------------------------------------------------------------------------


@dataclass
class _Part:
    """An object that is being read: its keys so far, and the parts that are listed under its last one."""

    pairs: Pairs
    key: str = ""
    listed: list[Any] = field(default_factory=list)
    more: Pairs = field(default_factory=list)

    def value(self, build: Callable[[Pairs], Any]) -> Any:
        listed = [one.value(build) if isinstance(one, _Part) else one for one in self.listed]
        return build([*self.pairs, *([(self.key, listed)] if self.key else []), *self.more])


def read_compact(text: str, decoder: json.JSONDecoder, max_depth: int) -> tuple[Any, int]:
    """The value that a compact text stands for, and the position behind its last line.

    Args:
        text: it begins with a line ``cast``.
        decoder: of the JSON in it; its `object_pairs_hook` makes the objects.
        max_depth: deepest nesting of that JSON.

    Raises:
        CompactError: the text has another form, or breaks off; naming the line.
    """
    reader, place = _Reader(decoder, max_depth), 0
    for number, line in enumerate(text.split("\n"), 1):
        try:
            if reader.line(line.strip()):
                return reader.world.value(decoder.object_pairs_hook), place + len(line.rstrip())  # type: ignore[arg-type]
        except ValueError as error:
            said = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            raise CompactError(f"line {number}: {said[:120]}", place) from None
        place += len(line) + 1
    raise CompactError("it breaks off: the last line, `end`, is missing", len(text))


class _Reader:
    """Reads line after line; a `ValueError` says what is wrong with one."""

    def __init__(self, decoder: json.JSONDecoder, max_depth: int) -> None:
        self.decoder, self.max_depth = decoder, max_depth
        self.world = _Part([])
        self.encounter: _Part | None = None
        self.option: _Part | None = None
        self.last: _Part | None = self.world
        """What further keys belong to; None behind a part that stands as JSON."""

    def line(self, line: str) -> bool:
        """Read a line; whether it is the last one."""
        if line in ("", LAST):
            return bool(line)
        word = line.split(None, 1)[0]
        sign = word if word in LISTS else line[0]
        rest = _Cursor(line, len(sign), self.decoder, self.max_depth)
        if word in LISTS:
            self._list(word, rest)
        elif sign == "#":
            self._open_encounter(rest)
        elif sign == "*":
            self._open_option(rest)
        elif sign == "?":
            self._gates(rest)
        elif sign == ">":
            self._open_reaction(rest)
        elif sign == "+":
            self._more(rest)
        else:
            raise ValueError(f"it begins with none of {_SIGNS}")
        rest.close()
        return False

    def _list(self, word: str, rest: "_Cursor") -> None:
        if self.encounter is not None or self.world.key:
            raise ValueError(f"`{word}` stands below the first encounter")
        read = {"cast": rest.character, "state": rest.variable, "properties": rest.bounds}[word]
        self.world.pairs.append((LISTS[word], self.decoder.object_pairs_hook(rest.items(read))))  # type: ignore[misc]

    def _open_encounter(self, rest: "_Cursor") -> None:
        self.world.key, self.option = "encounters", None
        self.encounter = self.last = rest.part("options")
        self.world.listed.append(self.encounter or rest.found)

    def _open_option(self, rest: "_Cursor") -> None:
        if self.encounter is None:
            raise ValueError("an option belongs under an encounter")
        self.option = self.last = rest.part("reactions")
        if self.option is not None:
            self.option.pairs.append(("gates", []))
        self.encounter.listed.append(self.option or rest.found)

    def _gates(self, rest: "_Cursor") -> None:
        if self.option is None or self.option.listed:
            raise ValueError("gates belong under an option, above its reactions")
        gates = self.option.pairs[-1][1]
        if gates:
            raise ValueError("the option has gates already; write them with commas between them")
        gates += rest.items(rest.gate)

    def _open_reaction(self, rest: "_Cursor") -> None:
        if self.option is None:
            raise ValueError("a reaction belongs under an option")
        if rest.peek() == "{":
            self.last = None
            self.option.listed.append(rest.value())
            return
        quoted = rest.peek() == '"'
        follows = rest.name()
        effects, told = rest.items(rest.effect), rest.told()
        pairs: Pairs = [] if told is None else [("text", told)]
        pairs.append(("after_effects", effects))
        if quoted or follows != NEXT:
            pairs.append(("next_encounter", None if follows == END and not quoted else follows))
        self.last = _Part(pairs)
        self.option.listed.append(self.last)

    def _more(self, rest: "_Cursor") -> None:
        if rest.peek() != "{" or self.last is None:
            raise ValueError("`+` stands below a part that is not JSON, with further keys as a JSON object")
        self.last.more += rest.value().items()


class _Cursor:
    """A place in a line, behind what was read of it."""

    def __init__(self, line: str, place: int, decoder: json.JSONDecoder, max_depth: int) -> None:
        self.text, self.place, self.decoder, self.max_depth = line, place, decoder, max_depth
        self.found: Any = None

    def peek(self) -> str:
        """The next sign, "" at the end."""
        self.place = _SPACE.match(self.text, self.place).end()  # type: ignore[union-attr]  # matches anything
        return self.text[self.place : self.place + 1]

    def close(self) -> None:
        """Refuse what is left of the line."""
        if self.peek():
            raise ValueError(f"{self.text[self.place : self.place + 20]!r} is not expected here")

    def name(self) -> str:
        """A name, bare or as a JSON string."""
        if self.peek() == '"':
            found: str = self.value()
            return found
        match = BARE.match(self.text, self.place)
        if match is None:
            raise ValueError(f"a name is missing at character {self.place + 1} of the line")
        self.place = match.end()
        return match[0]

    def value(self) -> Any:
        """A JSON value; a number may have a plus."""
        sign = self.peek()
        if sign and sign in "[{":
            self._check_depth()
        elif sign == "+" and self.text[self.place + 1 : self.place + 2].isdecimal():
            self.place += 1
        found, self.place = self.decoder.raw_decode(self.text, self.place)
        return found

    def number(self) -> Any:
        """A number."""
        found = self.value()
        if type(found) not in (int, float):
            raise ValueError(f"{str(found)[:20]!r} is no number")
        return found

    def _check_depth(self) -> None:
        # Before the parser, which recurses once a level.
        depth = 0
        for part in _NESTED.finditer(self.text, self.place):
            depth += (part[0] in "[{") - (part[0] in "]}")
            if depth > self.max_depth:
                raise ValueError(f"nested too deep; at most {self.max_depth} levels are read")
            if not depth:
                break

    def items(self, read: Callable[[], Any]) -> list[Any]:
        """What stands between commas, up to a colon or the end."""
        found: list[Any] = []
        while self.peek() not in ("", ":"):
            found.append(read())
            if self.peek() != ",":
                break
            self.place += 1
        return found

    def character(self) -> tuple[str, Any]:
        name, numbers = self.name(), list[tuple[str, Any]]()
        if self.peek() == "{":
            return name, self.value()
        while self.peek() not in ("", ","):
            numbers.append((self.name(), self.number()))
        return name, self.decoder.object_pairs_hook(numbers)  # type: ignore[misc]

    def variable(self) -> tuple[str, Any]:
        return self.name(), self.value()

    def bounds(self) -> tuple[str, Any]:
        name, low = self.name(), self.value()
        if self.peek() in ("", ","):
            return name, low
        return name, self.decoder.object_pairs_hook([("min", low), ("max", self.number())])  # type: ignore[misc]

    def gate(self) -> Any:
        if self.peek() == "{":
            return self.value()
        variable, comparison = self.name(), self.name()
        if comparison not in COMPARISONS:
            raise ValueError(f"{comparison[:20]!r} is none of {' '.join(sorted(COMPARISONS))}")
        return {"variable": variable, "comparison": comparison, "value": self.number()}

    def effect(self) -> Any:
        if self.peek() == "{":
            return self.value()
        return {"variable": self.name(), "change": self.number()}

    def told(self) -> str | None:
        """The text behind a colon; None without one."""
        if self.peek() != ":":
            return None
        text = self.text[self.place + 1 :].strip()
        self.place = len(self.text)
        if text.startswith('"'):
            try:
                found, end = self.decoder.raw_decode(text)
            except ValueError:  # a text that begins with speech
                return text
            return found if end == len(text) else text
        return text

    def part(self, key: str) -> _Part | None:
        """An encounter or an option that is begun; None, and its JSON as `found`, where it stands as that."""
        if self.peek() == "{":
            self.found = self.value()
            return None
        name, text = self.name(), self.told()
        if text is None:
            raise ValueError("a colon and a text are missing behind the name")
        return _Part([("id", name), ("text", text)], key)


# --- where its parts stand --------------------------------------------------------------------------------------------


def compact_spans(text: str) -> list[tuple[Span, list[Span]]]:
    """Where each encounter of a compact text stands, with its options; those that stand as JSON have none."""
    found: list[tuple[Span, list[Span]]] = []
    place, start, begun = 0, -1, list[int]()

    def close(end: int) -> None:
        if start >= 0:
            found.append(((start, end), list(zip(begun, [*begun[1:], end], strict=False))))

    for line in text.split("\n"):
        sign = line.lstrip()[:1]
        if sign == "#" or line.strip() == LAST:
            close(place)
            start, begun = place, []
            if sign != "#":
                return found
        elif sign == "*":
            begun.append(place)
        place += len(line) + 1
    close(len(text))
    return found
