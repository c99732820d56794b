"""The writer of the compact form (`compact.py`): lines that are read back to the very value, whatever shape it has."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from lit_narrative.tasks.storyworld.expressions import COMPARISONS, is_number
from lit_narrative.tasks.storyworld.formats.compact import BARE, END, LAST, LISTS, NEXT


def write_compact(value: Any) -> str:
    """The compact form of a parsed world; JSON where the value has not the four parts of one."""
    if not _is_world(value):
        return _json(value)
    lines = [
        _line("cast", [_character(*item) for item in value["characters"].items()]),
        _line("state", [f"{_name(name)} {_json(initial)}" for name, initial in value["initial_state"].items()]),
        _line("properties", [_property(*item) for item in value["properties"].items()]),
        *_more(value, frozenset((*LISTS.values(), "encounters"))),
    ]
    for encounter in value["encounters"]:
        lines += _encounter(encounter)
    return "\n".join([*lines, LAST])


def _is_world(value: Any) -> bool:
    if not _has(value, **dict.fromkeys(LISTS.values(), dict), encounters=list):
        return False
    return len(value["encounters"]) > 0 and _objects([*value["characters"].values(), *value["encounters"]])


def _objects(values: list[Any]) -> bool:
    return all(type(value) is dict for value in values)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _line(sign: str, items: list[str]) -> str:
    return f"{sign} {', '.join(items)}".rstrip()


def _name(name: str) -> str:
    return name if BARE.fullmatch(name) else _json(name)


def _text(text: str) -> str:
    """A text behind a colon: as it is, unless it would be read as another."""
    if text.startswith('"') or text != text.strip() or "\n" in text or "\r" in text:
        text = _json(text)
    return f": {text}" if text else ":"


def _more(value: Mapping[str, Any], known: frozenset[str]) -> Iterator[str]:
    if rest := {key: inner for key, inner in value.items() if key not in known}:
        yield f"+ {_json(rest)}"


def _has(value: Any, **kinds: type) -> bool:
    """Whether a value is an object with these keys, each of its kind."""
    return type(value) is dict and all(key in value and type(value[key]) is kind for key, kind in kinds.items())


def _character(name: str, numbers: Mapping[str, Any]) -> str:
    if not all(map(is_number, numbers.values())):
        return f"{_name(name)} {_json(numbers)}"
    return " ".join([_name(name), *(f"{_name(key)} {_json(number)}" for key, number in numbers.items())])


def _property(name: str, bounds: Any) -> str:
    if type(bounds) is dict and bounds.keys() == {"min", "max"} and all(map(is_number, bounds.values())):
        return f"{_name(name)} {_json(bounds['min'])} {_json(bounds['max'])}"
    return f"{_name(name)} {_json(bounds)}"


def _encounter(value: dict[str, Any]) -> Iterator[str]:
    if not _has(value, id=str, text=str, options=list) or not _objects(value["options"]):
        yield f"# {_json(value)}"
        return
    yield f"# {_name(value['id'])}{_text(value['text'])}"
    yield from _more(value, frozenset(("id", "text", "options")))
    for option in value["options"]:
        yield from _option(option)


def _option(value: dict[str, Any]) -> Iterator[str]:
    parts = _has(value, id=str, text=str, gates=list, reactions=list)
    if not parts or not _objects(value["gates"] + value["reactions"]):
        yield f"* {_json(value)}"
        return
    yield f"* {_name(value['id'])}{_text(value['text'])}"
    if value["gates"]:
        yield _line("?", list(map(_gate, value["gates"])))
    yield from _more(value, frozenset(("id", "text", "gates", "reactions")))
    for reaction in value["reactions"]:
        yield from _reaction(reaction)


def _gate(value: dict[str, Any]) -> str:
    plain = _has(value, variable=str, comparison=str) and value.keys() == {"variable", "comparison", "value"}
    if not plain or value["comparison"] not in COMPARISONS or not is_number(value["value"]):
        return _json(value)
    return f"{_name(value['variable'])} {value['comparison']} {_json(value['value'])}"


def _reaction(value: dict[str, Any]) -> Iterator[str]:
    follows, told = value.get("next_encounter", NEXT), value.get("text", "")
    readable = (follows is None or type(follows) is str) and type(told) is str
    if not readable or not _has(value, after_effects=list) or not _objects(value["after_effects"]):
        yield f"> {_json(value)}"
        return
    where = END if follows is None else _next(follows) if "next_encounter" in value else NEXT
    effects = _line(f"> {where}", list(map(_effect, value["after_effects"])))
    yield effects + (_text(told) if "text" in value else "")
    yield from _more(value, frozenset(("text", "after_effects", "next_encounter")))


def _next(name: str) -> str:
    return _json(name) if name in (END, NEXT) else _name(name)


def _effect(value: dict[str, Any]) -> str:
    if not _has(value, variable=str) or value.keys() != {"variable", "change"} or not is_number(value["change"]):
        return _json(value)
    change = _json(value["change"])
    return f"{_name(value['variable'])} {change if change.startswith('-') else '+' + change}"
