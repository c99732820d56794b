"""Files of worlds in every format: read to a world, its dialect and what is odd; and written."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from typing import Any, Literal

from lit_narrative.tasks.storyworld.checks import Fault, faults
from lit_narrative.tasks.storyworld.formats.file_paths import FilePaths
from lit_narrative.tasks.storyworld.formats.ink import write_ink
from lit_narrative.tasks.storyworld.formats.parse import (
    Limits,
    Parsed,
    SweepWeaveDialect,
    detect,
    parse,
    sweepweave_dialect,
)
from lit_narrative.tasks.storyworld.formats.simple import read_world
from lit_narrative.tasks.storyworld.formats.sweepweave.read import read_sweepweave
from lit_narrative.tasks.storyworld.formats.sweepweave.write import write_sweepweave
from lit_narrative.tasks.storyworld.formats.twee import write_twee
from lit_narrative.tasks.storyworld.issues import MOST_ISSUES, Issue, schema_issues
from lit_narrative.tasks.storyworld.world import World

FILE_LIMITS = Limits(max_chars=2**24, max_depth=200)
"""Bounds on files of authors, which are larger than what a policy writes."""
Dialect = Literal["simple"] | SweepWeaveDialect
Format = Literal["simple", "sweepweave", "ink", "twee"]


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read of a text.

    Attributes:
        world: the world; ``None`` where the text is not a world of any format.
        issues: why it is not, or what is odd in it, errors first.
        dialect: what it is written in.
        value: the parsed text.
        duplicates: objects in which a key occurs twice.
    """

    world: World | None
    issues: tuple[Issue, ...]
    dialect: Dialect
    value: Any = None
    duplicates: int = 0


def read_any(text: Any, limits: Limits = FILE_LIMITS) -> Reading:
    """Read a world in any format; never raises.

    Args:
        text: anything that a person, a program or a policy wrote.
        limits: bounds on it.
    """
    parsed = parse(text, limits)
    if not parsed.ok:
        return Reading(None, parsed.issues, "simple")
    if type(parsed.value) is not dict:
        return Reading(None, (Issue("$", "the top level must be an object"),), "simple", parsed.value)
    if detect(parsed.value) == "sweepweave":
        world, issues = read_sweepweave(parsed.value)
        return Reading(
            world, (*parsed.issues, *issues), sweepweave_dialect(parsed.value), parsed.value, parsed.duplicates
        )
    return _read_simple(parsed)


def _read_simple(parsed: Parsed) -> Reading:
    value: dict[str, Any] = parsed.value
    world, malformed = read_world(value)
    found = [*parsed.issues, *(schema_issues(value) if malformed else ())]
    if world is not None:
        file_path = FilePaths(value)
        for fault, _ in zip(faults(world), range(MOST_ISSUES), strict=False):
            found.append(Issue(file_path(fault.path), fault.message, repair=_repair(fault, world)))
    return Reading(world, tuple(found), "simple", value, parsed.duplicates)


def _repair(fault: Fault, world: World) -> str:
    """The smallest change that mends a fault, where there is one."""
    match fault.path[-1]:
        case "next_encounter" | "start" as key:
            last: Any = world.start if key == "start" else _at(world, fault.path)
            near = nearest(str(last), [encounter.id for encounter in world.encounters])
            if near:
                return f"write {near!r}"
            return "leave it out" if key == "start" else "write null, which ends the story"
        case "variable":
            near = nearest(fault.message.split("'")[1], world.variables)
            return f"write {near!r}" if near else "declare it in `initial_state`"
        case "id":
            return "give it another id"
        case "reactions":
            return 'add `"next_encounter": null` to one of them'
    return ""


def _at(world: World, path: tuple[str | int, ...]) -> str | None:
    _, i, _, j, _, k, _ = path
    return world.encounters[int(i)].options[int(j)].reactions[int(k)].next_encounter


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The one of several names that is most like a name, if any is; a few hundred names are looked at."""
    near = get_close_matches(name[:80], [one[:80] for one in islice(names, 500)], 1)
    return near[0] if near else None


def write_world(world: World, to: Format) -> str:
    """The world as the text of a file.

    Args:
        world: any world.
        to: the format.

    Raises:
        UserError: The format is ink or Twee, and the world has what these cannot say.
    """
    match to:
        case "ink":
            return write_ink(world)
        case "twee":
            return write_twee(world)
        case "sweepweave":
            return json.dumps(write_sweepweave(world), ensure_ascii=False, indent=1) + "\n"
    return json.dumps(world.to_json(), ensure_ascii=False, indent=1) + "\n"
