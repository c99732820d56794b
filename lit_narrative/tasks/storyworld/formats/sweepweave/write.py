"""The writer of SweepWeave files of version 0.1.9, with every key that the editor's loader demands.

The editor knows numbers in −1 to 1 of characters only, follows one reaction a choice, and has no ending but an
encounter without options; what a world has besides is written in those terms, and plays the same.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from lit_narrative.tasks.storyworld.expressions import is_number
from lit_narrative.tasks.storyworld.formats.sweepweave.places import places
from lit_narrative.tasks.storyworld.formats.sweepweave.script_nodes import (
    ScriptNodes,
    number_node,
    operator_node,
    pointer_node,
    string_node,
)
from lit_narrative.tasks.storyworld.world import WILD, Effect, Encounter, Extra, Option, Reaction, SpoolEffect, World

VERSION = "0.1.9"
MAIN_SPOOL, START_SPOOL = "main", "start"
TIMES = ("creation_time", "modified_time")
Json = dict[str, Any]


def write_sweepweave(world: World) -> Json:
    """The world as a SweepWeave file; reading it gives a world that plays the same, on the editor's scale.

    Keys that were in the file the world was read from (``extra["meta"]``) are put back, and other keys of
    `World` and its parts go to ``extra`` of each part.
    """
    return _Writer(world).write()


class _Writer:
    def __init__(self, world: World) -> None:
        self.world = world
        self.meta: Json = _meta(world.extra)
        self.places = places(world)
        self.nodes = ScriptNodes(self.places.get)
        self.ids = {encounter.id for encounter in world.encounters}
        self.options: set[str] = set()
        self.wild = WILD not in self.ids
        self.endings: dict[str, str] = {}  # of encounters where a choice may end the story, the page that says so

    def write(self) -> Json:
        pages = [self._encounter(encounter, i) for i, encounter in enumerate(self.world.encounters)]
        pages += [self._ending(page, i) for i, page in enumerate(self.endings.values(), len(pages))]
        spools = self._spools(pages)
        seeds = ("character", "encounter", "option", "reaction", "spool", "authored_property")
        digest = hashlib.blake2b(repr(self.world).encode("utf-8", "backslashreplace"), digest_size=16).hexdigest()
        fixed = {
            "storyworld_title": self.world.title,
            "sweepweave_version": VERSION,
            "characters": self._characters(),
            "authored_properties": self._properties(),
            "spools": spools,
            "encounters": pages,
        }
        usual = {
            "IFID": f"SW-{digest}",
            "storyworld_author": "",
            "debug_mode": False,
            "display_mode": 1,
            "css_theme": "lilac",
            "font_size": "16",
            "language": "en",
            "rating": "general",
            "meta_description": "",
            "about_text": string_node(""),
            "unique_id_seeds": dict.fromkeys(seeds, len(pages) + 1),
        }
        kept = {key: value for key, value in self.meta.items() if key not in ("characters", "spools")}
        if kept.get("display_mode") not in (0, 1):  # programs write words here
            kept.pop("display_mode", None)
        return _part(fixed, usual, kept, self.world.extra)

    # --- cast ---------------------------------------------------------------------------------------------------------

    def _characters(self) -> list[Json]:
        numbers: dict[str, dict[tuple[str, ...], float]] = {name: {} for name in self.world.characters}
        for name, (character, keyring, scale) in self.places.items():
            numbers.setdefault(character, {})[tuple(keyring)] = self.world.variables[name].initial / scale
        stored = {name: stored_numbers(values) for name, values in numbers.items()}
        metas = self.meta.get("characters", {})
        return [
            _part(
                {"id": name, "bnumber_properties": values},
                {"name": name, "pronoun": "they", "creation_index": i},
                metas.get(name, {}),
                None,
            )
            for i, (name, values) in enumerate(stored.items())
        ]

    def _properties(self) -> list[Json]:
        depths: dict[str, int] = {name: 0 for name in self.world.properties if name in self._authored()}
        for _, keyring, _ in self.places.values():
            depths[keyring[0]] = max(depths.get(keyring[0], 0), len(keyring) - 1)
        usual = {"property_type": "bounded number", "attribution_target": "all cast members", "affected_characters": []}
        listed = []
        for i, (name, depth) in enumerate(depths.items()):
            default = self.world.property_extra.get(name, {}).get("default", 0)
            fixed = {"id": name, "property_name": name, "default_value": default if is_number(default) else 0}
            listed.append(
                _part(fixed, {**usual, "depth": depth, "creation_index": i}, self._authored().get(name, {}), None)
            )
        return listed

    def _authored(self) -> Json:
        found: Json = self.meta.get("authored_properties", {})
        return found

    # --- spools -------------------------------------------------------------------------------------------------------

    def _spools(self, pages: Sequence[Json]) -> list[Json]:
        active = dict(self.world.spools)
        if not active or any([not page["connected_spools"] for page in pages]):
            name = _unused(MAIN_SPOOL, active)
            active[name] = True
            for page in pages:
                page["connected_spools"] = page["connected_spools"] or [name]
        members = {name: [page["id"] for page in pages if name in page["connected_spools"]] for name in active}
        metas = self.meta.get("spools", {})
        spools = [
            _part(
                {"id": name, "starts_active": starts, "encounters": members[name]},
                {"spool_name": name, "spool_type": "General", "creation_index": i},
                metas.get(name, {}),
                None,
            )
            for i, (name, starts) in enumerate(active.items())
        ]
        self._put_first(spools, pages)
        return spools

    def _put_first(self, spools: list[Json], pages: Sequence[Json]) -> None:
        """See to it that a play starts where it should: at the first encounter of the first active spool."""
        start = self.world.start or next((page["id"] for page in pages), None)
        # One that is not there cannot be said: the editor has no word for a start that leads nowhere.
        if start not in self.ids or "page_0000" in self.ids:
            return
        order = sorted(spools, key=lambda spool: spool["creation_index"] if is_number(spool["creation_index"]) else 0)
        first = next((spool for spool in order if spool["starts_active"] and spool["encounters"]), None)
        if first is not None and start in first["encounters"]:
            first["encounters"].remove(start)
            first["encounters"].insert(0, start)
            return
        # A spool of its own changes nothing else: a play never selects the encounter that it has started at.
        name = _unused(START_SPOOL, self.world.spools)
        fixed = {"id": name, "starts_active": True, "encounters": [start]}
        index = min([spool["creation_index"] for spool in spools if is_number(spool["creation_index"])], default=0) - 1
        spools.insert(0, _part(fixed, {"spool_name": name, "spool_type": "General", "creation_index": index}, {}, None))
        next(page for page in pages if page["id"] == start)["connected_spools"].append(name)

    # --- encounters ---------------------------------------------------------------------------------------------------

    def _encounter(self, encounter: Encounter, index: int) -> Json:
        fixed = {
            "id": encounter.id,
            "title": encounter.title or encounter.id,
            "text_script": string_node(encounter.text),
            "connected_spools": [spool for spool in encounter.spools if spool in self.world.spools],
            "earliest_turn": encounter.turns[0],
            "latest_turn": encounter.turns[1],
            "acceptability_script": self.nodes.all_of(encounter.acceptability),
            "desirability_script": self.nodes.node(encounter.desirability),
            "options": [self._option(option, encounter, j) for j, option in enumerate(encounter.options)],
        }
        return _part(fixed, _position(index, encounter.text), _meta(encounter.extra), encounter.extra)

    def _ending(self, name: str, index: int) -> Json:
        fixed = {
            "id": name,
            "title": "The end",
            "text_script": string_node("The end."),
            "connected_spools": [],
            "earliest_turn": 0,
            "latest_turn": 0,
            "acceptability_script": False,  # it follows where an option names it, and is never selected
            "desirability_script": number_node(0.0),
            "options": [],
        }
        return _part(fixed, _position(index, "The end."), {}, None)

    def _option(self, option: Option, encounter: Encounter, index: int) -> Json:
        runs = alternatives(option.reactions)
        name = option.id
        if name in self.options:  # the simple format asks for names that differ within an encounter only
            name = _unused(f"{encounter.id}_{option.id}", self.options)
        self.options.add(name)
        fixed = {
            "id": name,
            "text_script": string_node(option.text),
            "visibility_script": self.nodes.all_of(option.gates),
            "performability_script": self.nodes.all_of(option.performable),
            "reactions": [self._reaction(run, encounter, f"{name}_reaction_{k}") for k, run in enumerate(runs)],
        }
        usual = {"graph_offset_x": 0, "graph_offset_y": 100 * index}
        return _part(fixed, usual, _meta(option.extra), option.extra, times=False)

    def _reaction(self, run: Sequence[Reaction], encounter: Encounter, name: str) -> Json:
        last = run[-1]
        effects = [self._effect(effect) for reaction in run for effect in reaction.effects]
        fixed = {
            "text_script": string_node("\n".join([reaction.text for reaction in run if reaction.text])),
            "consequence_id": self._consequence(last, encounter),
            "desirability_script": self.nodes.node(last.desirability),
            "after_effects": [effect for effect in effects if effect is not None],
        }
        usual = {"id": name, "graph_offset_x": 0, "graph_offset_y": 0}
        return _part(fixed, usual, _meta(last.extra), last.extra, times=False)

    def _consequence(self, reaction: Reaction, encounter: Encounter) -> str:
        following = reaction.next_encounter
        if reaction.leads and following is not None and (following in self.ids or (following == WILD and self.wild)):
            return following
        if encounter.id not in self.endings:
            self.endings[encounter.id] = _unused(f"{encounter.id}_end", {*self.ids, *self.endings.values()})
        return self.endings[encounter.id]

    def _effect(self, effect: Effect | SpoolEffect) -> Json | None:
        if isinstance(effect, SpoolEffect):
            active = effect.active if isinstance(effect.active, bool) else self.nodes.node(effect.active)
            return _part(
                {"effect_type": "Spool Effect", "Set": effect.spool, "to": active},
                {},
                _meta(effect.extra),
                effect.extra,
                times=False,
            )
        place = self.places.get(effect.variable)
        if place is None:
            return None  # a variable that is not declared cannot be changed
        to = self._bounded(effect, self._changed(effect))
        fixed = {"effect_type": "Bounded Number Effect", "Set": pointer_node(place), "to": to}
        return _part(fixed, {}, _meta(effect.extra), effect.extra, times=False)

    def _changed(self, effect: Effect) -> Json:
        """The script of what an effect makes of its variable, on the editor's scale."""
        place = self.places[effect.variable]
        here, scale = pointer_node(place), place[2]
        if effect.value is None:
            return operator_node("Addition", [here, number_node(effect.change / scale)])
        value = self.nodes.node(effect.value)
        if scale == 1.0 and effect.op != "set":
            return operator_node("Addition" if effect.op == "add" else "Nudge", [here, value])
        if effect.op != "set":
            value = operator_node("Addition" if effect.op == "add" else "Nudge", [pointer_node(place, scale), value])
        return value if scale == 1.0 else operator_node("Multiplication", [number_node(1.0 / scale), value])

    def _bounded(self, effect: Effect, node: Json) -> Json:
        """The script cut to the variable's bounds, where these are not the editor's."""
        variable, scale = self.world.variables[effect.variable], self.places[effect.variable][2]
        if variable.minimum > -scale:
            node = operator_node("Maximum", [number_node(variable.minimum / scale), node])
        if variable.maximum < scale:
            node = operator_node("Minimum", [number_node(variable.maximum / scale), node])
        return node


def stored_numbers(values: Mapping[tuple[str, ...], float]) -> Json:
    """The numbers of a character by keyring, as the file holds them: one for all, or one for each that perceives it.

    Where the numbers of single ones are all the number for all, that says it; else it has no place and is left out.
    """
    stored: Json = {}
    for key in dict.fromkeys([keyring[0] for keyring in values]):
        inner = {keyring[1:]: value for keyring, value in values.items() if keyring[0] == key}
        own = inner.pop((), None)
        alike = own is not None and all([value == own for value in inner.values()])
        stored[key] = own if alike or not inner else stored_numbers(inner)
    return stored


def alternatives(reactions: Sequence[Reaction]) -> list[Sequence[Reaction]]:
    """The reactions of an option in runs, each up to one that leads; of the last run none may."""
    ends = [0, *[i + 1 for i, reaction in enumerate(reactions) if reaction.leads]]
    if ends[-1] < len(reactions):
        ends.append(len(reactions))
    return [reactions[start:end] for start, end in pairwise(ends)]


def _meta(extra: Extra | None) -> Json:
    meta = (extra or {}).get("meta")
    return meta if isinstance(meta, dict) else {}


def _part(fixed: Json, usual: Json, meta: Mapping[str, Any], extra: Extra | None, times: bool = True) -> Json:
    """A part of the file: what the world says, else what the file had that it was read from, else what is usual."""
    kept = {key: value for key, value in meta.items() if key not in fixed}
    usual = {**usual, **dict.fromkeys(TIMES, 0.0)} if times else usual
    part = {**fixed, **usual, **kept}
    if times:
        part.update({key: _time(part[key]) for key in TIMES})
    rest = {key: value for key, value in (extra or {}).items() if key != "meta" or not isinstance(value, dict)}
    return {**part, "extra": rest} if rest else part


def _time(value: Any) -> float:
    """Seconds since 1970; programs write ISO dates where the editor wants those."""
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e12:
        return float(value)
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else datetime.fromtimestamp(0, UTC)
    except ValueError:
        return 0.0
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _position(index: int, text: str) -> Json:
    place = {"graph_position_x": 300 * (index % 8), "graph_position_y": 200 * (index // 8)}
    return {"creation_index": index, **place, "word_count": len(text.split())}


def _unused(name: str, taken: Iterable[str]) -> str:
    taken = set(taken)
    while name in taken:
        name += "_"
    return name
