"""Issues of a text or a world: what is wrong, in words, and the JSON path where."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

from lit_narrative.tasks.storyworld.expressions import (
    DEEPEST,
    MOST_NODES,
    is_too_large,
    part_kind,
    read_condition,
    read_expr,
)

if TYPE_CHECKING:
    from jsonschema import ValidationError
    from jsonschema.protocols import Validator

Severity = Literal["error", "warning"]

MOST_ISSUES = 50
"""Bound on the schema errors looked at, so that the cost does not grow with the damage."""


@dataclass(frozen=True, slots=True)
class Issue:
    """A fault of a text or a world.

    Attributes:
        path: JSON path of what is wrong, ``$`` for the whole text.
        message: what is wrong and what is expected.
        severity: ``error`` where a component of the score suffers, ``warning`` where only a reader would.
        repair: the smallest change that mends it, where there is one.
    """

    path: str
    message: str
    severity: Severity = "error"
    repair: str = ""


def json_path(parts: Iterable[str | int]) -> str:
    """The JSON path of a position: ``json_path(["encounters", 0, "id"])`` is ``$.encounters[0].id``."""
    path = "$"
    for part in parts:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part.isidentifier() and part.isascii():
            path += f".{part}"
        else:
            # As a JSON string: a name may hold quotes, line ends or lone surrogates.
            path += f"[{json.dumps(part[:80])}]"
    return path


Path = tuple[str | int, ...]
MOST_OF_A_KIND = 10
"""Issues of one kind that are listed; the last of them says how many more there are."""


class Notes:
    """What is odd in a file, kind by kind in the order of the first of each."""

    def __init__(self) -> None:
        self._issues: dict[str, list[Issue]] = {}
        self._counts: Counter[str] = Counter()

    def add(self, kind: str, path: Path, message: str, severity: Severity = "error", repair: str = "") -> None:
        """Note an issue; ``kind`` names what all like it have in common."""
        self._counts[kind] += 1
        if self._counts[kind] <= MOST_OF_A_KIND:
            self._issues.setdefault(kind, []).append(Issue(json_path(path), message, severity, repair))

    def issues(self) -> tuple[Issue, ...]:
        """The issues, errors first."""
        listed = []
        for kind, issues in self._issues.items():
            more = self._counts[kind] - len(issues)
            if more:
                last = issues[-1]
                message = f"{last.message} (and {more} more of this kind)"
                issues = [*issues[:-1], Issue(last.path, message, last.severity, last.repair)]
            listed += issues
        return tuple(sorted(listed, key=lambda issue: issue.severity))  # "error" sorts before "warning"


SchemaName = Literal["simple_plus", "sweepweave"]


@cache
def schema(name: SchemaName = "simple_plus") -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of the simple format, or of SweepWeave 0.1.9 as the editor loads it."""
    text = files("lit_narrative.tasks.storyworld").joinpath(f"schema_{name}.json").read_text(encoding="utf-8")
    value: dict[str, Any] = json.loads(text)
    return value


@cache
def validator(name: SchemaName = "simple_plus") -> "Validator":
    """A jsonschema validator of a format."""
    # Imported here: it is slow to import, and a score is needed far more often than its issues.
    from jsonschema import Draft202012Validator

    return Draft202012Validator(schema(name))


Script = Literal["expr", "condition"]
_SCRIPTS: dict[str, Script] = {"desirability": "expr", "value": "expr", "active": "condition"}
_CONDITIONS = frozenset(("acceptability", "gates", "performable"))
"""Keys of encounters, options, reactions and effects: a script each, or a list of conditions."""
_NEEDS = {"value": "op", "active": "spool"}
"""Without the other key these are no scripts."""
_PARTS = frozenset(("encounters", "options", "reactions", "after_effects"))
_READ: dict[Script, Callable[[Any], Any]] = {"expr": read_expr, "condition": read_condition}
_PLAINEST: dict[Script, Any] = {"expr": 0, "condition": {"all": []}}


def schema_issues(value: Any) -> list[Issue]:
    """Where a parsed value departs from the schema, or has a script too large to be read.

    At most ``MOST_ISSUES`` departures are looked at, and as many scripts.

    Departures at the same path of the format (``encounters[*].options``) make one issue, which names the first of
    them and says how many more there are, so that one bad list does not fill the page.
    """
    bad: list[tuple[Path, Script, Any]] = []
    value = _without_scripts(value, (), bad)
    large: list[Issue] = []
    groups: dict[tuple[str | int, ...], list[ValidationError]] = {}
    # iter_errors is lazy: the validator stops at the bound, however broken the text is.
    errors = [*islice(validator().iter_errors(value), MOST_ISSUES)]
    for path, kind, script in bad[:MOST_ISSUES]:
        found = _script_error(path, kind, script)
        if found is None:
            text = f"nested more than {DEEPEST} deep, or of more than {MOST_NODES:,} parts; it is left out"
            large.append(Issue(json_path(path), text))
        else:
            errors.append(found)
    for error in map(_nearest, errors):
        groups.setdefault(_general(error.absolute_path), []).append(error)
    return [*(_schema_issue(found) for found in groups.values()), *large]


def _without_scripts(value: Any, path: Path, bad: list[tuple[Path, Script, Any]]) -> Any:
    """The value with the plainest script in place of each; those that cannot be read are added to ``bad``.

    A validator tries every form of a script, and in each of them every form of its parts: of a nest of unknown
    operators it would see no end.
    """
    if type(value) is list:
        return [_without_scripts(item, (*path, i), bad) for i, item in enumerate(value)]
    if type(value) is not dict:
        return value
    kept = dict(value)
    for key, inner in value.items():
        at = (*path, key)
        if key in _PARTS:
            kept[key] = _without_scripts(inner, at, bad)
        elif key in _CONDITIONS and type(inner) is list:
            kept[key] = [_PLAINEST["condition"]] * len(inner)
            bad += [((*at, i), "condition", one) for i, one in enumerate(inner) if read_condition(one) is None]
        elif key in _SCRIPTS and type(inner) is not bool:
            kind = _SCRIPTS[key]
            kept[key] = _PLAINEST[kind]
            if _NEEDS.get(key, key) in value and _READ[kind](inner) is None:
                bad.append((at, kind, inner))
    return kept


@cache
def _script_validator(kind: Script) -> "Validator":
    from jsonschema import Draft202012Validator

    return Draft202012Validator({"$ref": f"#/$defs/{kind}", "$defs": schema()["$defs"]})


def _script_error(path: Path, kind: Script, script: Any) -> "ValidationError | None":
    """The fault of the outermost part of a script that is malformed by itself; None where the script is too large."""
    if is_too_large(script):
        return None
    while True:
        plain, parts = _plain(script, kind)
        if _READ[kind](plain) is None:
            error = next(iter(_script_validator(kind).iter_errors(plain)))
            error.relative_path.extendleft(reversed(path))
            return error
        inner = next(((at, of, part) for at, of, part in parts if _READ[of](part) is None), None)
        if inner is None:
            return None
        path, kind, script = (*path, *inner[0]), inner[1], inner[2]


def _plain(script: Any, kind: Script) -> tuple[Any, list[tuple[Path, Script, Any]]]:
    """A script with the plainest parts, and its parts with their places in it."""
    parts: list[tuple[Path, Script, Any]] = []
    if type(script) is list and script:
        op = script[0]
        kinds = [part_kind(op, i) for i in range(len(script) - 1)]
        parts = [((i,), of, part) for i, (of, part) in enumerate(zip(kinds, script[1:], strict=True), 1)]
        return [_bare(op), *(_PLAINEST[of] for of in kinds)], parts
    if type(script) is not dict:
        return script, parts
    plain = {key: _bare(inner) for key, inner in script.items()}
    for key, inner in script.items():
        if key in ("any", "all") and type(inner) is list:
            plain[key] = [_PLAINEST["condition"]] * len(inner)
            parts += [((key, i), "condition", part) for i, part in enumerate(inner)]
        elif key in ("not", "expr"):
            of: Script = "expr" if key == "expr" else "condition"
            plain[key] = _PLAINEST[of]
            parts.append(((key,), of, inner))
    return plain, parts


def _bare(value: Any) -> Any:
    """A value without what is in it."""
    return type(value)() if type(value) in (list, dict) else value


def _nearest(error: "ValidationError") -> "ValidationError":
    """Of a part that has none of several forms, the fault in the form that it comes nearest to."""
    while error.context:
        # The deeper the fault, the more of that form is right; of equals max takes the first, which is the commonest.
        error = max(error.context, key=lambda one: len(one.absolute_path))
    return error


def _general(path: Sequence[str | int]) -> tuple[str | int, ...]:
    """A path with list positions and the names that a world invents replaced by ``*``."""
    # Names below these keys are the world's invention; within encounters every name is a key of the format.
    named_by_world = len(path) > 1 and path[0] != "encounters"
    return tuple("*" if isinstance(part, int) or (named_by_world and i > 0) else part for i, part in enumerate(path))


def _schema_issue(errors: "list[ValidationError]") -> Issue:
    first, others = errors[0], errors[1:]
    message = first.message if len(first.message) <= 200 else f"{first.message[:120]} … {first.message[-60:]}"
    if first.validator == "required":
        # jsonschema has an error a key; a person wants to hear of all at once.
        required: Any = first.validator_value
        part: Any = first.instance
        missing = [repr(key) for key in required if key not in part]
        message = message if len(missing) == 1 else f"{', '.join(missing)} are required properties"
        others = [one for one in others if one.validator != "required" or one.absolute_path != first.absolute_path]
    if others:
        message += f" (and {len(others)} more such faults)"
    return Issue(json_path(first.absolute_path), message)
