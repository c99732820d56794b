"""The reader of SweepWeave files, as the editor writes them and as programs do: a world, and what is odd."""

import math
from difflib import get_close_matches
from typing import Any

from lit_narrative.tasks.storyworld.checks import ways_out
from lit_narrative.tasks.storyworld.expressions import Apply, Expr, is_number, nodes
from lit_narrative.tasks.storyworld.formats.simple import KNOWN_KEYS
from lit_narrative.tasks.storyworld.formats.sweepweave.cast import Cast, keep
from lit_narrative.tasks.storyworld.formats.sweepweave.script import Scripts
from lit_narrative.tasks.storyworld.issues import Issue, Notes, Path
from lit_narrative.tasks.storyworld.world import (
    WILD,
    Effect,
    Encounter,
    Extra,
    Option,
    Reaction,
    SpoolEffect,
    World,
)

LARGE_SCALE = 100.0
"""Bound of variables in generated files whose numbers are percentages; elsewhere it is 1."""
_TOP = ("storyworld_title", "characters", "chars", "authored_properties", "spools", "encounters")
_TOP_KEYS = frozenset(_TOP)
_ENCOUNTER_KEYS = frozenset(
    ("id", "title", "text_script", "options", "connected_spools", "earliest_turn", "latest_turn")
) | {"acceptability_script", "desirability_script"}
_OPTION_KEYS = frozenset(("id", "text_script", "visibility_script", "performability_script", "reactions"))
_REACTION_KEYS = frozenset(("text_script", "consequence_id", "desirability_script", "after_effects"))
_EFFECT_KEYS = frozenset(("effect_type", "Set", "to"))
_SPOOL_KEYS = frozenset(("id", "starts_active", "encounters"))


def read_sweepweave(value: dict[str, Any]) -> tuple[World, tuple[Issue, ...]]:
    """Read a parsed SweepWeave file; never raises.

    Args:
        value: the parsed file (``formats.parse``).

    Returns:
        The world, as much of it as can be made sense of, and everything that is odd. Keys that a world has no place for
        are in ``extra["meta"]`` of each part; ``write.py`` puts them back.
    """
    return _Reader(value).read()


class _Reader:
    def __init__(self, value: dict[str, Any]) -> None:
        self.value = value
        self.notes = Notes()
        self.cast = Cast(value, self.notes)
        self.scripts = Scripts(self.cast, self.notes)
        self.spools: dict[str, bool] = {}
        self.members: dict[str, list[str]] = {}
        self.spool_meta: dict[str, Any] = {}
        self.ids: dict[str, int] = {}
        self.largest = 0.0  # constant in an effect

    def read(self) -> tuple[World, tuple[Issue, ...]]:
        items = self._list(self.value, "encounters", ())
        if not items:
            self.notes.add("top", ("encounters",), "there are no encounters: there is nothing to play")
        for item in items:  # known before any is read: reactions name them
            if isinstance(item, dict) and isinstance(item.get("id"), str):
                self.ids.setdefault(item["id"], len(self.ids))
        self._read_spools()
        read = [self._encounter(item, ("encounters", i)) for i, item in enumerate(items)]
        places = [i for i, encounter in enumerate(read) if encounter is not None]
        encounters = tuple([encounter for encounter in read if encounter is not None])
        self._check_ids(encounters, places)
        # What is not on the scale of -1 to 1 can only be meant in hundredths.
        large = self.scripts.generated and max(self.largest, *map(abs, self.cast.values.values()), 0.0) > 2
        bound = LARGE_SCALE if large else 1.0
        self._check_bounds(bound)
        properties, defaults = self.cast.properties(bound)
        title = self._title(self.value, "storyworld_title", ()) or self._title(self.value, "title", ())
        meta = {**keep(self.value, _TOP_KEYS), **self.cast.meta, "spools": self.spool_meta}
        world = World(
            self.cast.characters,
            self.cast.variables(bound),
            encounters,
            properties,
            title,
            self._start(encounters),
            self.spools,
            {name: inner for name, inner in defaults.items() if inner},
            _extra({key: inner for key, inner in meta.items() if inner != {}}, frozenset()) or {},
        )
        for fault in ways_out(world):
            self.notes.add("trap", ("encounters", places[int(fault.path[1])]), fault.message)
        return world, self.notes.issues()

    def _check_ids(self, encounters: tuple[Encounter, ...], places: list[int]) -> None:
        seen: set[str] = set()
        options: set[str] = set()
        for i, encounter in zip(places, encounters, strict=True):
            if encounter.id in seen:
                message = f"a second encounter {encounter.id[:80]!r}; only the first is played"
                self.notes.add("second encounter", ("encounters", i, "id"), message, repair="give it another id")
            seen.add(encounter.id)
            for option in encounter.options:
                if option.id in options:
                    message = f"a second option {option.id[:80]!r}"
                    repair = "give it another id"
                    self.notes.add("second option", ("encounters", i, "options"), message, "warning", repair)
                options.add(option.id)

    def _check_bounds(self, bound: float) -> None:
        for name, value in self.cast.values.items():
            if abs(value) > bound:
                message = f"{name[:80]} starts at {value:g}, outside ±{bound:g}"
                self.notes.add("start value", ("characters",), message, repair=f"write {math.copysign(bound, value):g}")
        if self.largest > 2 * bound:
            message = f"an effect with a constant of {self.largest:g} in a world whose numbers lie in ±{bound:g}"
            self.notes.add("constant size", (), message, "warning")

    def _list(self, value: dict[str, Any], key: str, path: Path, wanted: bool = True) -> list[Any]:
        items = value.get(key)
        if isinstance(items, list):
            return items
        if wanted or items is not None:
            self.notes.add(f"list {key}", (*path, key), f"a list `{key}` is missing", repair=f'add `"{key}": []`')
        return []

    def _read_spools(self) -> None:
        for i, item in enumerate(self._list(self.value, "spools", ())):
            name = item.get("id") if isinstance(item, dict) else None
            if not isinstance(name, str) or not name or name in self.spools:
                self.notes.add("spool", ("spools", i), "a spool needs an id of its own; it is left out")
                continue
            if not isinstance(item.get("starts_active"), bool):
                path, message = (
                    ("spools", i, "starts_active"),
                    "it is not said whether it starts active; it does",
                )
                self.notes.add("starts_active", path, message, "warning", 'add `"starts_active": true`')
            self.spools[name] = item.get("starts_active") is not False
            self.spool_meta[name] = keep(item, _SPOOL_KEYS)
            for j, member in enumerate(self._list(item, "encounters", ("spools", i), wanted=False)):
                if isinstance(member, str) and member in self.ids:
                    self.members.setdefault(member, []).append(name)
                else:
                    self.notes.add("member", ("spools", i, "encounters", j), f"no encounter {str(member)[:80]!r}")

    def _start(self, encounters: tuple[Encounter, ...]) -> str | None:
        """Where a play starts: the page called ``page_0000``, else the first of the first active spool that has any."""
        if "page_0000" in self.ids:
            return "page_0000"
        lists = [item for item in self.value.get("spools") or () if isinstance(item, dict)]
        lists.sort(key=lambda item: item["creation_index"] if is_number(item.get("creation_index")) else 0)
        for item in lists:
            if item.get("starts_active") is True and isinstance(item.get("encounters"), list):
                for name in item["encounters"]:
                    if isinstance(name, str) and name in self.ids:
                        return name
        return next((encounter.id for encounter in encounters if encounter.options), None)

    def _encounter(self, value: Any, path: Path) -> Encounter | None:
        name = value.get("id") if isinstance(value, dict) else None
        if not isinstance(name, str) or not name:
            self.notes.add("encounter", path, "an encounter needs an id; it is left out")
            return None
        if value.get("options") is None:
            self.notes.add("no options", path, "the encounter has no list of options; it is an ending", "warning")
        stray = value.get("reactions") if isinstance(value.get("reactions"), list) else []
        options = [
            self._option(item, stray, (*path, "options", i))
            for i, item in enumerate(self._list(value, "options", path, wanted=False))
        ]
        text = self._text(value, "text_script", path, "prompt_script")
        turns = (self._turn(value, "earliest_turn", path), self._turn(value, "latest_turn", path))
        return Encounter(
            name,
            text,
            tuple([option for option in options if option is not None]),
            self._title(value, "title", path),
            self._spools_of(name, value, path),
            self.scripts.conditions(value.get("acceptability_script"), (*path, "acceptability_script")),
            self._desirability(value, path),
            turns,
            _extra(value, _ENCOUNTER_KEYS),
        )

    def _spools_of(self, name: str, value: dict[str, Any], path: Path) -> tuple[str, ...]:
        connected = self._list(value, "connected_spools", path)
        for i, spool in enumerate(connected):
            if not isinstance(spool, str) or spool not in self.spools:
                place = (*path, "connected_spools", i)
                self.notes.add("unknown spool", place, f"there is no spool {str(spool)[:80]!r}", "warning")
        known = [spool for spool in connected if isinstance(spool, str) and spool in self.spools]
        listed = [spool for spool in self.members.get(name, ()) if spool not in known]
        if listed:
            message = f"spool {listed[0][:80]!r} lists the encounter, but not the reverse; the editor reads this list"
            repair = f"add {listed[0][:80]!r} to it"
            self.notes.add("membership", (*path, "connected_spools"), message, "warning", repair)
        return tuple(dict.fromkeys([*known, *listed]))

    def _turn(self, value: dict[str, Any], key: str, path: Path) -> int:
        turn = value.get(key, 0)
        if is_number(turn) and turn >= 0:
            return int(turn)
        self.notes.add("turn", (*path, key), f"{str(turn)[:40]!r} is no turn; it counts as 0", repair="write 0")
        return 0

    def _text(self, value: dict[str, Any], key: str, path: Path, other: str = "") -> str:
        node = value.get(key, value.get(other))
        text = node.get("value") if isinstance(node, dict) else node
        if isinstance(text, str):
            return text
        self.notes.add(f"text {key}", (*path, key), "there is no text", repair="write a String Constant")
        return ""

    def _title(self, value: dict[str, Any], key: str, path: Path) -> str:
        title = value.get(key)
        if isinstance(title, str):
            return title
        if title is not None:
            self.notes.add("title", (*path, key), "the title is no text; it is left out", "warning", "write a text")
        return ""

    def _desirability(self, value: dict[str, Any], path: Path) -> Expr:
        if value.get("desirability_script") is None:
            return 0.0
        return self.scripts.expr(value["desirability_script"], (*path, "desirability_script"))

    def _option(self, value: Any, stray: list[Any], path: Path) -> Option | None:
        name = value.get("id") if isinstance(value, dict) else None
        if not isinstance(name, str) or not name:
            self.notes.add("option", path, "an option needs an id; it is left out")
            return None
        items = self._list(value, "reactions", path)
        if not items and stray:
            self.notes.add("stray", path, "the reactions stand in the encounter, not in its option; they are taken")
            items = stray
        if not items:
            message = "the option has no reaction: it is a dead end"
            if "effects" in value:
                message += "; `effects` is a key that no version of the format has"
            self.notes.add("dead end", path, message, repair="give it a reaction with a consequence")
        reactions = [self._reaction(item, (*path, "reactions", i)) for i, item in enumerate(items)]
        return Option(
            name,
            self._text(value, "text_script", path),
            self.scripts.conditions(value.get("visibility_script"), (*path, "visibility_script")),
            tuple([reaction for reaction in reactions if reaction is not None]),
            self.scripts.conditions(value.get("performability_script"), (*path, "performability_script")),
            _extra(value, _OPTION_KEYS),
        )

    def _reaction(self, value: Any, path: Path) -> Reaction | None:
        if not isinstance(value, dict):
            self.notes.add("reaction", path, "a reaction must be an object; it is left out")
            return None
        effects = [
            self._effect(item, (*path, "after_effects", i))
            for i, item in enumerate(self._list(value, "after_effects", path, wanted=False))
        ]
        return Reaction(
            tuple([effect for effect in effects if effect is not None]),
            self._consequence(value.get("consequence_id"), (*path, "consequence_id")),
            self._text(value, "text_script", path),
            True,
            self._desirability(value, path),
            _extra(value, _REACTION_KEYS),
        )

    def _consequence(self, name: Any, path: Path) -> str:
        if isinstance(name, str) and name in self.ids:
            return name
        if name in ("", None):
            message = "it is not said what follows; the engine selects"
            self.notes.add("consequence", path, message, "warning", 'write "wild"')
        elif name != WILD:
            near = get_close_matches(str(name)[:80], [one[:80] for one in list(self.ids)[:500]], 1)
            message = f"dangling reference: there is no encounter {str(name)[:80]!r}; the engine selects"
            self.notes.add("dangling", path, message, repair=f"write {near[0]!r}" if near else 'write "wild"')
        return WILD

    def _effect(self, value: Any, path: Path) -> Effect | SpoolEffect | None:
        pointer = value.get("Set") if isinstance(value, dict) else None
        rest = _extra(value, _EFFECT_KEYS) if isinstance(value, dict) else None
        if isinstance(pointer, str) and pointer:
            if pointer not in self.spools:
                self.notes.add("unknown spool", (*path, "Set"), f"there is no spool {pointer[:80]!r}", "warning")
            active = value.get("to")
            return SpoolEffect(pointer, active if isinstance(active, bool) else self._active(active, path), rest)
        name = self.scripts.variable(pointer, (*path, "Set")) if isinstance(pointer, dict) else None
        if name is None:
            self.notes.add("effect", path, "an effect needs `Set` and `to`; it is left out")
            return None
        self.scripts.generated |= value.get("effect_type") == "Set"
        to = self.scripts.expr(value.get("to"), (*path, "to"))
        self.largest = max([self.largest, *[abs(node) for node in nodes(to) if isinstance(node, float)]])
        return _effect(name, to, rest)

    def _active(self, value: Any, path: Path) -> Any:
        return self.scripts.condition(value, (*path, "to"))


def _effect(name: str, to: Expr, rest: Extra | None) -> Effect:
    """The effect of setting a variable; where that only adds to it or nudges it, that."""
    match to:
        case Apply("nudge", (str() as read, by)) if read == name:
            return Effect(name, 0.0, "nudge", by, rest)  # type: ignore[arg-type]  # its arguments are expressions
        case Apply("+", (str() as read, by)) | Apply("+", (by, str() as read)) if read == name:
            return Effect(name, by, extra=rest) if isinstance(by, float) else Effect(name, 0.0, "add", by, rest)  # type: ignore[arg-type]
        case Apply("-", (str() as read, float() as by)) if read == name:
            return Effect(name, -by, extra=rest)
    return Effect(name, 0.0, "set", to, rest)


def _extra(value: dict[str, Any], known: frozenset[str]) -> Extra | None:
    """The other keys of a part, under ``meta``; and those of ``extra``, which the writer put there, as they were."""
    meta = keep(value, known)
    extra = meta.pop("extra", None)
    if isinstance(extra, dict) and not extra.keys() & (KNOWN_KEYS | {"meta"}):
        return {**extra, **({"meta": meta} if meta else {})} or None
    if extra is not None:
        meta["extra"] = extra
    return {"meta": meta} if meta else None
