"""Worlds that can be played on the page: which ones, and what the script `player.js` needs of them.

Worlds are what a policy wrote, and so hostile. The script gets plans, in which names have become positions, and texts
that are cut to a bearable length and have no characters that turn or hide others.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from markupsafe import Markup

from lit_narrative.report.format import clip, printable
from lit_narrative.report.page import Section, render
from lit_narrative.tasks.storyworld.expressions import Condition, Gate, describe
from lit_narrative.tasks.storyworld.report.engine_plan import finite, pool_json, script_json, ways_json
from lit_narrative.tasks.storyworld.report.run import Run, Sample
from lit_narrative.tasks.storyworld.similarity import shape
from lit_narrative.tasks.storyworld.simulator.engine import Engine, Way
from lit_narrative.tasks.storyworld.simulator.engine_scripts import alternatives
from lit_narrative.tasks.storyworld.simulator.plan import make_plan
from lit_narrative.tasks.storyworld.verifiers.score import score
from lit_narrative.tasks.storyworld.world import Encounter, Option, World, is_plain

MOST_PARTS = 1000
"""Encounters, options, reactions, gates, effects and variables, together, of a world that is offered to play."""
WORLDS = 2
_NAME, _TEXT, _LINE = 60, 1500, 300
_SIGNS = {">=": "≥", "<=": "≤", "==": "=", "!=": "≠"}
_RANKS = (
    ("sound", "its best sound world"),
    ("playable", "its best playable world; not sound, for no gate of it is ever both open and closed in play"),
    ("parses", "its best world; not a sound one"),
)
"""What a world is, and what the page says of the best one that is so."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A world to play.

    Attributes:
        title: whose it is and why it was chosen.
        prompt: that it was written for.
        plan: what the script plays, as JSON that may stand in HTML.
    """

    title: str
    prompt: str
    plan: Markup


def player(run: Run) -> Section:
    """Offer two worlds to play: the best of the final policy, of different shapes, else of the SFT policy."""
    offers = list(_offers(run))
    body = render(__name__, "player.html", offers=offers)
    return Section("play", "Play them yourself", body, script() if offers else "")


def script() -> str:
    """What plays the worlds: JavaScript for a page, and for node, as a module."""
    return files("lit_narrative.tasks.storyworld.report").joinpath("templates/player.js").read_text(encoding="ascii")


def plan_json(game: World | Engine) -> dict[str, Any]:
    """What the script plays: a plan as plain values, infinite bounds as null, with the texts that it shows.

    Of a world that needs an engine, or of an engine, it has scripts in place of tests and changes (``engine_plan.py``).
    """
    world = game.world if isinstance(game, Engine) else game
    if isinstance(game, World) and is_plain(game):
        return _plain_plan(game)
    engine = game if isinstance(game, Engine) else Engine(game)
    scenes = []
    for encounter, ways in zip(world.encounters, engine.ways, strict=True):
        options = [_engine_option(option, ways[j], engine) for j, option in enumerate(encounter.options)]
        scenes.append({**_scene(encounter), "options": options})
    return {
        "names": [_shown(name, _NAME) for name in engine.names],
        "start": engine.start,
        "first": engine.begin().index,
        "last": engine.reaction_tie == "last",
        "scenes": scenes,
        "pool": pool_json(engine),
    }


def _plain_plan(world: World) -> dict[str, Any]:
    plan = make_plan(world)
    scenes = []
    for encounter, choices in zip(world.encounters, plan.scenes, strict=True):
        options = [
            {
                "text": _label(option),
                "tests": [[index, *map(finite, (low, high)), negated] for index, low, high, negated in choice.tests],
                "needs": [_need(gate, world) for gate in option.gates],
                "changes": [[index, change, *map(finite, bounds)] for index, change, *bounds in choice.changes],
                "said": [_shown(text, _LINE) for text in _walked(option) if text],
                "target": choice.target,
            }
            for option, choice in zip(encounter.options, choices, strict=True)
        ]
        scenes.append({**_scene(encounter), "options": options})
    return {"names": [_shown(name, _NAME) for name in plan.names], "start": plan.start, "scenes": scenes}


def _engine_option(option: Option, ways: tuple[Way, ...], engine: Engine) -> dict[str, Any]:
    conditions = (*option.gates, *option.performable)
    told = ways_json(option, ways, engine)
    for way, (first, last) in zip(told, alternatives(option), strict=True):
        way["said"] = [_shown(one.text, _LINE) for one in option.reactions[first : last + 1] if one.text]
    return {
        "text": _label(option),
        "when": [script_json(condition, engine) for condition in conditions],
        "needs": [_need(condition, engine.world) for condition in conditions],
        "ways": told,
    }


def _scene(encounter: Encounter) -> dict[str, Any]:
    title, text = _shown(encounter.title or encounter.id, _NAME), _shown(encounter.text, _TEXT)
    return {"title": title or "(no name)", "text": text}


def _label(option: Option) -> str:
    return _shown(option.text or option.id, _LINE) or "(no words)"


def embedded(value: object) -> Markup:
    """A value as JSON that may stand within a script element, whatever its texts hold."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _offers(run: Run) -> Iterator[Offer]:
    shapes: set[object] = set()
    for who, samples in (("The final model", run.after.samples), ("The SFT model", run.before.samples)):
        for sample, rank, world in _ranked(samples):
            if len(shapes) == WORLDS:
                return
            if shape(world) not in shapes:
                other = " (of another shape than the first)" if shapes else ""
                shapes.add(shape(world))
                title = f"{who}: {dict(_RANKS)[rank]}{other}, strict score {sample.reward:.2f}"
                yield Offer(title, clip(sample.prompt, 600), embedded(plan_json(world)))


def _ranked(samples: Sequence[Sample]) -> Iterator[tuple[Sample, str, World]]:
    """The worlds among samples, the best first: sound ones, then playable ones, then others, by score."""
    waiting: list[tuple[Sample, str, World]] = []
    for sample in sorted(samples, key=lambda sample: -sample.reward):
        judged = score(sample.text)
        if judged.world is None or not judged.world.encounters or _parts(judged.world) > MOST_PARTS:
            continue
        rank = next(name for name, _ in _RANKS if judged.parts[name])
        if rank == _RANKS[0][0]:
            yield sample, rank, judged.world
        else:
            waiting.append((sample, rank, judged.world))
    yield from sorted(waiting, key=lambda one: [name for name, _ in _RANKS].index(one[1]))


def _parts(world: World) -> int:
    options = [option for encounter in world.encounters for option in encounter.options]
    within = sum(
        len(option.gates) + len(option.performable) + sum(1 + len(one.effects) for one in option.reactions)
        for option in options
    )
    return len(world.variables) + len(world.encounters) + len(options) + within


def _walked(option: Option) -> Iterator[str]:
    """The texts of the reactions up to the one that says what follows."""
    for reaction in option.reactions:
        yield reaction.text
        if reaction.leads:
            return


def _need(gate: Condition, world: World) -> str:
    if not isinstance(gate, Gate):
        return _shown(describe(gate), _LINE)
    known = "" if gate.variable in world.variables else ", which is not declared and counts as 0"
    return f"{_shown(gate.variable, _NAME)} {_SIGNS.get(gate.comparison, gate.comparison)} {gate.value:g}{known}"


def _shown(text: str, limit: int) -> str:
    return printable(clip(text, limit))
