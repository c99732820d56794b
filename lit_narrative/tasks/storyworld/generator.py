"""The generator of simple-format storyworlds: themes x casts x properties x structures.

The corpus is skewed on purpose (`Skew`): its worlds have no fault and two endings but are modest, half of them without
a gate that matters, and few variables in motion, so that a policy has room to improve on what it imitates.
Every example has a separate random stream, made from (seed, split, index): ``example(7, seed)`` is the same world
whether or not the others are made. The order of the draws is part of the corpus: another one changes every world.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from lit_narrative.errors import UserError
from lit_narrative.tasks.storyworld import themes
from lit_narrative.tasks.storyworld.themes import Split
from lit_narrative.views import Example

Json = dict[str, Any]
Bounds = dict[str, tuple[int, int]]
STRUCTURES = ("line", "fork", "skip", "loop")
"""How options lead on: to the next scene, to one of the next two, to any later one, or now and then back."""
BACK = 0.25
"""Probability that an option of a loop leads back."""
AT_LEAST = 0.85
"""Share of the gates that ask for at least some value; the others ask for at most."""
ACTIONS = list(themes.ACTIONS)
USUAL = 2
"""The value that gates ask for wherever it is undecided, so that worlds resemble each other in this."""
MOST_DRAWS = 20
"""How often a world is drawn again for want of a gate: a skew may leave none a place."""


@dataclass(frozen=True)
class Skew:
    """What the corpus is rich and poor in. Shares and probabilities lie in 0..1.

    Attributes:
        encounters: weights of worlds with 3, 4, 5, 6 and 7 encounters.
        second_ending: share of worlds with a second ending.
        closing_option: probability that an ending has a last option leading nowhere, instead of no option.
        variables: weights of worlds whose effects change 1, 2 and 3 distinct variables.
        options: weights of encounters with 1, 2 and 3 options.
        gates: probability of a gate for each option that may have one (never the first, so that no scene is shut).
        gated: share of worlds that are drawn until there is a gate in them.
        structures: weights of the ways of leading on, in the order of ``STRUCTURES``.
        dangling: share of worlds with an option that leads to a scene that does not exist.
        unreferenced: share of worlds with a scene that no option leads to.
        third_character: share of worlds with three characters instead of two.
    """

    encounters: tuple[float, ...] = (0.0, 0.6, 0.3, 0.1, 0.0)
    second_ending: float = 1.0
    closing_option: float = 0.15
    variables: tuple[float, ...] = (0.2, 0.5, 0.3)
    options: tuple[float, ...] = (0.1, 0.85, 0.05)
    gates: float = 0.9
    gated: float = 1.0
    structures: tuple[float, ...] = (0.1, 0.35, 0.45, 0.1)
    dangling: float = 0.0
    unreferenced: float = 0.0
    third_character: float = 0.25

    def __post_init__(self) -> None:
        """Check the lengths of the weights and the range of the shares.

        Raises:
            UserError: A weight list has the wrong length or no weight, or a share is outside 0..1.
        """
        for name, length in (("encounters", 5), ("variables", 3), ("options", 3), ("structures", len(STRUCTURES))):
            weights = getattr(self, name)
            if len(weights) != length or min(weights) < 0 or sum(weights) <= 0:
                raise UserError(f"skew.{name} must be {length} weights >= 0, not all zero; got {weights}")
        shares = ("second_ending", "closing_option", "gates", "gated", "dangling", "unreferenced", "third_character")
        for name in shares:
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"skew.{name} must lie in 0..1; got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class Premise:
    """What the prompt names: the theme, the cast, one personal and two shared properties."""

    theme: themes.Theme
    cast: themes.Cast
    properties: tuple[str, str, str]

    @property
    def prompt(self) -> str:
        """The premise in short English, with a line's end."""
        theme, cast, tracked = themes.theme_name(self.theme), ", ".join(self.cast), ", ".join(self.properties)
        return f"Storyworld about {theme}. Cast: {cast}. Track: {tracked}.\n"


def corpus(n: int, seed: int, skew: Skew | None = None, split: Split = "train") -> list[Example]:
    """The first ``n`` examples of a split; see `example`."""
    return [example(index, seed, skew, split) for index in range(n)]


def example(index: int, seed: int, skew: Skew | None = None, split: Split = "train") -> Example:
    """One example: the prompt names theme, cast and properties, the completion is a world in compact JSON.

    Args:
        index: position in the corpus, from 0.
        seed: of the corpus; every (seed, split, index) has a separate random stream.
        skew: what the corpus is rich and poor in; None takes the defaults.
        split: themes and casts of one split appear in no other, whatever the seed.
    """
    # A seed of text is hashed by SHA-512: the same stream in every process and release of Python.
    rng = Random(f"{seed}/{split}/{index}")
    skew = skew or Skew()
    premise = draw_premise(rng, skew, split)
    world = draw_world(rng, skew, premise)
    meta = {"theme": themes.theme_name(premise.theme), "cast": premise.cast, "properties": premise.properties}
    return Example(premise.prompt, json.dumps(world, separators=(",", ":")), meta)


def titled_world(index: int, seed: int) -> Json:
    """The world of a training example with its theme for a title, so that the prompt of its file is the example's."""
    row = example(index, seed)
    return {"title": row.meta["theme"], **json.loads(row.completion)}


def draw_premise(rng: Random, skew: Skew, split: Split) -> Premise:
    """Draw a theme and a cast of the split, and three properties."""
    size = 3 if rng.random() < skew.third_character else 2
    cast = rng.choice(themes.casts(split, size))
    personal, shared = rng.choice(list(themes.PERSONAL)), rng.sample(list(themes.SHARED), 2)
    return Premise(rng.choice(themes.themes(split)), cast, (personal, shared[0], shared[1]))


def draw_world(rng: Random, skew: Skew, premise: Premise) -> Json:
    """Draw a world on a premise, in the simple format."""
    personal, *shared = premise.properties
    initial = {name: rng.randint(0, 2) for name in premise.cast}
    state = {f"{name}_{personal}": value for name, value in initial.items()}
    state |= {name: rng.randint(1, 2) for name in shared}
    bounds = {personal: themes.PERSONAL[personal], **{name: themes.SHARED[name] for name in shared}}
    limits = {name: bounds[name.rpartition("_")[2]] for name in state}
    return {
        "characters": {name: {f"initial_{personal}": value} for name, value in initial.items()},
        "initial_state": state,
        "properties": {name: {"min": low, "max": high} for name, (low, high) in bounds.items()},
        "encounters": _draw_encounters(rng, skew, premise, state, limits),
    }


def _draw_encounters(rng: Random, skew: Skew, premise: Premise, state: dict[str, int], bounds: Bounds) -> list[Json]:
    """Encounters; in a share of the worlds drawn again until some option has a gate, `MOST_DRAWS` times at most."""
    again = MOST_DRAWS if skew.gates > 0 and rng.random() < skew.gated else 0
    encounters = _Plot(rng, skew, premise, state, bounds).encounters()
    while again and not any(option["gates"] for encounter in encounters for option in encounter["options"]):
        encounters, again = _Plot(rng, skew, premise, state, bounds).encounters(), again - 1
    return encounters


class _Plot:
    """The encounters of one world while they are drawn, and the values that its variables may take on the way.

    Attributes:
        moving: variables that effects change.
        unmoved: those of them that no effect has changed yet.
        met: by scene and variable, the values with which a play may enter the scene.
    """

    def __init__(self, rng: Random, skew: Skew, premise: Premise, state: dict[str, int], bounds: Bounds) -> None:
        self.rng, self.skew, self.premise, self.bounds = rng, skew, premise, bounds
        size = _weighted(rng, skew.encounters) + 3
        rooms = themes.PLACES[premise.theme[0]].split()
        start = rng.randrange(len(rooms))
        # A place is a round of rooms, and a story walks it from one of them: which scene comes next can be learned,
        # where a shuffle of the rooms could only be remembered.
        walk = rooms[start:] + rooms[:start]
        self.scenes, self.nowhere = walk[:size], walk[size]
        self.endings = 2 if rng.random() < skew.second_ending else 1
        self.structure = STRUCTURES[_weighted(rng, skew.structures)]
        self.moving = rng.sample(list(state), _weighted(rng, skew.variables) + 1)
        self.unmoved = list(self.moving)
        self.met: dict[str, dict[str, set[int]]] = {scene: {name: set() for name in self.moving} for scene in walk}
        self.met[walk[0]] = {name: {state[name]} for name in self.moving}

    def encounters(self) -> list[Json]:
        # In file order: an option records the values with which a play may enter the scene that it leads to.
        middle = range(len(self.scenes) - self.endings)
        sentences = themes.TROUBLES[self.premise.theme[1]]
        made = []
        for position, links in zip(middle, self._links(middle), strict=True):
            # In the order of the table, so that the next one cannot be one that the scene has had.
            actions = [ACTIONS[i] for i in sorted(self.rng.sample(range(len(ACTIONS)), len(links)))]
            options = [
                self._option(position, slot, *pair) for slot, pair in enumerate(zip(actions, links, strict=True))
            ]
            made.append(self._encounter(position, sentences, options))
        return made + [self._ending(position) for position in range(len(middle), len(self.scenes))]

    def _links(self, middle: range) -> list[list[str]]:
        """For every scene but the endings, where its options lead; the first leads to the next scene."""
        rng, skew, links = self.rng, self.skew, []
        for position in middle:
            # The first link leads to the next scene, so that every scene can be reached before faults are put in.
            more = [self._onward(position) for _ in range(_weighted(rng, skew.options))]
            links.append([self.scenes[position + 1], *more])
        if self.endings == 2:
            links[-1].append(self.scenes[-1])
        if len(middle) > 2 and rng.random() < skew.unreferenced:
            self._pass_over(links, rng.choice(middle[1:-1]))
        if rng.random() < skew.dangling:
            rng.choice(links)[-1] = self.nowhere
        return links

    def _onward(self, position: int) -> str:
        last = len(self.scenes) - 1
        if self.structure == "loop" and position and self.rng.random() < BACK:
            return self.scenes[self.rng.randrange(position)]
        reach = {"fork": 2, "skip": last}.get(self.structure, 1)
        return self.scenes[self.rng.randint(position + 1, min(position + reach, last))]

    def _pass_over(self, links: list[list[str]], position: int) -> None:
        gone, instead = self.scenes[position], self.scenes[position + 1]
        for row in links:
            row[:] = [instead if to == gone else to for to in row]

    def _option(self, position: int, slot: int, action: str, to: str) -> Json:
        met = self.met[self.scenes[position]]
        # The first option of a scene (slot 0) never has a gate, so that no play is stuck.
        gates = self._gates(met) if slot and self.rng.random() < self.skew.gates else []
        return {
            "id": action,
            "text": themes.ACTIONS[action].format(self.rng.choice(self.premise.cast)),
            "gates": gates,
            "reactions": [{"after_effects": [self._effect(met, to)], "next_encounter": to}],
        }

    def _effect(self, met: dict[str, set[int]], to: str) -> Json:
        """Change a variable by a small number that its bounds allow; note the values met in the scene led to."""
        # Each moving variable is changed at least once, if there are options enough; the draws are free after that.
        variable = self.unmoved.pop() if self.unmoved else self.rng.choice(self.moving)
        low, high = self.bounds[variable]
        change = self.rng.choice((-1, 1, 1, 2))
        # A change past the bounds would be clamped away; the opposite one is not.
        if not low <= min(met[variable], default=low) + change <= high:
            change = -change
        for name, values in met.items():
            self.met[to][name] |= {
                min(max(value + change, low), high) if name == variable else value for value in values
            }
        return {"variable": variable, "change": change}

    def _gates(self, met: dict[str, set[int]]) -> list[Json]:
        """A gate that earlier choices decide: open for some of the values met so far, closed for others."""
        undecided = {name: sorted(values) for name, values in met.items() if len(values) > 1}
        if not undecided:
            return []
        # Undecided at USUAL: some values met so far lie below it, and some do not.
        usual = [name for name, values in undecided.items() if values[0] < USUAL <= values[-1]]
        variable = self.rng.choice(usual or list(undecided))
        if self.rng.random() >= AT_LEAST:
            # Not the largest value: at most that is always true.
            return [{"variable": variable, "comparison": "<=", "value": self.rng.choice(undecided[variable][:-1])}]
        # Not the least value, which every play has.
        level = USUAL if usual else self.rng.choice(undecided[variable][1:])
        return [{"variable": variable, "comparison": ">=", "value": level}]

    def _encounter(self, position: int, sentences: Sequence[str], options: list[Json]) -> Json:
        scene = self.scenes[position]
        return {"id": scene, "text": self.rng.choice(sentences).format(scene), "options": options}

    def _ending(self, position: int) -> Json:
        closing = self.rng.random() < self.skew.closing_option
        reactions: list[Json] = [{"after_effects": [], "next_encounter": None}]
        option = {"id": "end", "text": "The end.", "gates": [], "reactions": reactions}
        return self._encounter(position, themes.ENDINGS, [option] if closing else [])


def _weighted(rng: Random, weights: Sequence[float]) -> int:
    return rng.choices(range(len(weights)), weights)[0]
