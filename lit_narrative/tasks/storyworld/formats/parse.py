"""The parser of texts: a JSON value, bounded in size and depth, and never an exception; and the format it is in.

A text in the compact form (`formats/compact.py`) is read as the JSON that it stands for.
"""

import json
import re
from collections import Counter
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal, NoReturn

from lit_narrative.errors import UserError
from lit_narrative.tasks.storyworld.formats.compact import CompactError, compact_start, read_compact
from lit_narrative.tasks.storyworld.issues import Issue

_ESCAPE = re.compile(r"\\.", re.DOTALL)
_ESCAPED_HALF = re.compile(r"\\u[dD][89a-fA-F]")
_BLANK = " \t\n\r"
_SPACE = re.compile(f"[{_BLANK}]*")
_FENCE = "```"
_BRACKETS = b"[]{}"
_NOT_BRACKETS = bytes(set(range(256)) - set(_BRACKETS))
_STEP = [(byte in b"[{") - (byte in b"]}") for byte in range(256)]
"""Change of the depth at each byte."""
DEEPEST = 500
"""Nesting that Python's parser reads whatever the depth of the caller's stack."""
NO_VALUE = object()
"""The value of a text that is not JSON (``None`` is the value of the text ``null``)."""


@dataclass(frozen=True)
class Limits:
    """What is read, and what is forgiven.

    Attributes:
        max_chars: longest text, in characters.
        max_depth: deepest nesting of arrays and objects, at most ``DEEPEST``.
        strip_code_fence: read what stands between ```` ``` ```` fences when the whole text is fenced (chat models).
        allow_trailing_text: read the value at the start, leaving what follows it.
        extract_first_object: start at the first ``{``, or at the first line of a compact text, leaving what stands
            before it.
    """

    max_chars: int = 2**20
    max_depth: int = 64
    strip_code_fence: bool = False
    allow_trailing_text: bool = False
    extract_first_object: bool = False

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            UserError: A bound is below 1, or deeper than Python's parser goes.
        """
        if self.max_chars < 1 or not 1 <= self.max_depth <= DEEPEST:
            bounds = f"max_chars {self.max_chars}, max_depth {self.max_depth}"
            raise UserError(f"limits: {bounds}; max_chars must be 1 or more, max_depth 1 to {DEEPEST}")


@dataclass(frozen=True, slots=True)
class Parsed:
    """A text as a JSON value.

    Attributes:
        value: the value; ``NO_VALUE`` where the text is not JSON.
        issues: why it is not, or what is doubtful (a duplicate key: the last one counts).
        duplicates: number of objects in which a key occurs twice.
        read: of JSON, the share of the text that is the value (1 unless text around it is allowed); otherwise the
            share of the characters before the first fault.
    """

    value: Any
    issues: tuple[Issue, ...] = ()
    duplicates: int = 0
    read: float = 1.0

    @property
    def ok(self) -> bool:
        """Whether the text is JSON."""
        return self.value is not NO_VALUE


_DEFAULT = Limits()


def parse(text: Any, limits: Limits = _DEFAULT) -> Parsed:
    """Parse ``text``; anything at all is allowed in, and nothing raises.

    NaN and Infinity are refused: they are not JSON, and they would poison a play.
    """
    if not isinstance(text, str):
        return _failed(f"the text must be a str, not {type(text).__name__}")
    if len(text) > limits.max_chars:
        return _failed(f"{len(text):,} characters; at most {limits.max_chars:,} are read")
    if limits.strip_code_fence:
        text = _unfenced(text)
    if (first := compact_start(text, limits.extract_first_object)) is not None:
        return _decode_compact(text, first, limits)
    start = max(text.find("{"), 0) if limits.extract_first_object else 0
    # Before the parser, which recurses once a level and would exhaust the stack on a text of brackets.
    depth = nesting(text[start:] if start else text, limits.max_depth)
    if depth > limits.max_depth:
        return _failed(f"nested {depth} deep; at most {limits.max_depth} levels are read")
    return _decode(text, start, limits.allow_trailing_text)


def nesting(text: str, enough: int = 0) -> int:
    """Depth of nesting of arrays and objects, brackets inside strings left out.

    Args:
        text: JSON, or what is meant to be.
        enough: a bound below which the exact depth does not matter; then the number of brackets may come back.
    """
    if "\\" in text:
        text = _ESCAPE.sub("", text)
    # Escapes are gone, so each quote begins or ends a string, and every second piece lies outside of one. Brackets are
    # ASCII: nothing that "replace" does to lone surrogates touches them.
    outside = "".join(text.split('"')[::2]).encode("utf-8", "replace").translate(None, _NOT_BRACKETS)
    opened = outside.count(b"[") + outside.count(b"{")
    if opened <= enough:  # no deeper than that; counting is much cheaper than walking through the brackets
        return opened
    return max(accumulate(map(_STEP.__getitem__, outside)), default=0)


def _unfenced(text: str) -> str:
    """What stands between the first line and the last of a text that begins and ends with a code fence."""
    inner = text.removeprefix("\ufeff").strip()
    if not (inner.startswith(_FENCE) and inner.endswith(_FENCE) and "\n" in inner):
        return text
    return inner[inner.index("\n") + 1 : -len(_FENCE)]


class _Pairs:
    """Builds objects and counts those in which a key occurs twice."""

    __slots__ = ("duplicates", "key")

    def __init__(self) -> None:
        self.duplicates = 0
        self.key = ""

    def __call__(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        built = dict(pairs)
        if len(built) != len(pairs):
            self.duplicates += 1
            self.key = self.key or Counter(name for name, _ in pairs).most_common(1)[0][0]
        return built


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _decode(text: str, start: int, allow_trailing_text: bool) -> Parsed:
    pairs = _Pairs()
    decoder = json.JSONDecoder(object_pairs_hook=pairs, parse_constant=_refuse)
    try:
        start = _SPACE.match(text, start).end()  # type: ignore[union-attr]  # matches anything
        value, end = decoder.raw_decode(text, start)
    except json.JSONDecodeError as error:
        message = f"not JSON: {error.msg} (line {error.lineno}, column {error.colno})"
        # One more than its characters: a text that breaks off at its very end was not read whole either.
        return _failed(message, read=error.pos / (len(text) + 1))
    except ValueError as error:  # NaN, or an integer of more digits than Python converts
        return _failed(f"not readable JSON: {str(error)[:120]}")
    return _checked(text, value, (start, end), pairs, allow_trailing_text)


def _decode_compact(text: str, start: int, limits: Limits) -> Parsed:
    pairs = _Pairs()
    decoder = json.JSONDecoder(object_pairs_hook=pairs, parse_constant=_refuse)
    try:
        value, length = read_compact(text[start:], decoder, limits.max_depth)
    except CompactError as error:
        message = f"not a world in the compact form: {error}"
        return _failed(message, read=(start + error.place) / (len(text) + 1))
    return _checked(text, value, (start, start + length), pairs, limits.allow_trailing_text)


def as_json(text: str, limits: Limits = _DEFAULT) -> str:
    """The JSON that a compact text stands for; any other text, also one that cannot be read, as it is."""
    if compact_start(text, limits.extract_first_object) is None or not (parsed := parse(text, limits)).ok:
        return text
    return json.dumps(parsed.value, ensure_ascii=False, separators=(",", ":"))


def _checked(text: str, value: Any, span: tuple[int, int], pairs: _Pairs, allow_trailing_text: bool) -> Parsed:
    """What was read, unless text follows it or half a character is in it."""
    start, end = span
    if not allow_trailing_text and text[end:].strip(_BLANK):
        return _failed(f"not JSON: text follows the value (character {end})", read=end / len(text))
    if half := _lone_surrogate(text, value):
        at = max(text.find(half), text.lower().find(json.dumps(half)[1:-1]), 0)
        message = f"not Unicode: \\u{ord(half):x} is half of a character (near character {at}); write the whole one"
        return _failed(message, read=at / len(text))
    read = (end - start) / len(text.strip(_BLANK))
    if not pairs.duplicates:
        return Parsed(value, read=read)
    message = f"a key occurs twice in {pairs.duplicates} object(s), first {pairs.key[:80]!r}; the last one counts"
    return Parsed(value, (Issue("$", message),), pairs.duplicates, read)


def _lone_surrogate(text: str, value: Any) -> str | None:
    """A lone surrogate in a value or its text, None without one; an escape can make one in a text that has none."""
    if text.isascii() and _ESCAPED_HALF.search(text) is None:
        return None
    try:
        (text + json.dumps(value, ensure_ascii=False)).encode()
    except UnicodeEncodeError as error:
        return str(error.object[error.start])
    return None


def _failed(message: str, read: float = 0.0) -> Parsed:
    return Parsed(NO_VALUE, (Issue("$", message),), read=read)


# --- formats and dialects ---------------------------------------------------------------------------------------------

SweepWeaveDialect = Literal["editor", "generated", "mixed", "stub"]
"""As the editor writes files; as programs do, with node types of their own; both in one file; nothing to play."""
_EDITOR = frozenset(("Bounded Number Effect", "Bounded Number Pointer", "Operator"))
_GENERATED = frozenset(("Bounded Number Property", "Bounded Number Operator", "Set"))
_KEYS = ("effect_type", "pointer_type", "script_element_type")
_TOP_KEYS = frozenset(("IFID", "sweepweave_version", "authored_properties", "spools", "storyworld_title"))
_ENCOUNTER_KEYS = frozenset(("text_script", "prompt_script", "connected_spools", "acceptability_script"))


def detect(value: dict[str, Any]) -> Literal["simple", "sweepweave"]:
    """The format of a parsed object.

    A SweepWeave file, whole or not, has no ``initial_state``, and two keys that only such files have, at the top or of
    its first encounter.
    """
    if "initial_state" in value:
        return "simple"
    encounters = value.get("encounters")
    first = encounters[0] if isinstance(encounters, list) and encounters else None
    found = len(_TOP_KEYS.intersection(value)) + len(_ENCOUNTER_KEYS.intersection(first if type(first) is dict else ()))
    return "sweepweave" if found >= 2 else "simple"


def sweepweave_dialect(value: dict[str, Any]) -> SweepWeaveDialect:
    """The dialect of a SweepWeave file; ``stub`` where no option has a reaction."""
    found: set[str] = set()
    reactions = False
    pending: list[Any] = [value.get("encounters")]
    while pending:
        item = pending.pop()
        if isinstance(item, list):
            pending += item
        elif isinstance(item, dict):
            reactions = reactions or bool(item.get("reactions"))
            found.update([kind for key in _KEYS if isinstance(kind := item.get(key), str)])
            pending += [inner for inner in item.values() if type(inner) in (dict, list)]
    if not reactions:
        return "stub"
    if found & _GENERATED:
        return "mixed" if found & (_EDITOR - {"Operator"}) else "generated"
    return "editor"
