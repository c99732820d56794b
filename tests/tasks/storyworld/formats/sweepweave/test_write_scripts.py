"""Worlds with random scripts everywhere: both formats give them back, and the same options are open."""

import json
from dataclasses import replace
from random import Random

import pytest

from lit_narrative.tasks.storyworld.expressions import (
    COMPARISONS,
    OPERATORS,
    AllOf,
    AnyOf,
    Apply,
    Condition,
    Expr,
    Gate,
    Happened,
    Holds,
    Not,
)
from lit_narrative.tasks.storyworld.formats.simple import read_counting, read_world
from lit_narrative.tasks.storyworld.formats.sweepweave.read import read_sweepweave
from lit_narrative.tasks.storyworld.formats.sweepweave.write import write_sweepweave
from lit_narrative.tasks.storyworld.generator import Skew, corpus
from lit_narrative.tasks.storyworld.scripts import Slot, compile_all
from lit_narrative.tasks.storyworld.world import Effect, Encounter, Option, SpoolEffect, World

RICH = Skew(encounters=(0, 0, 0.4, 0.3, 0.3), second_ending=0.9, gates=0.6, variables=(0, 0, 1), options=(0, 0.6, 0.4))


class Scripted:
    """Puts scripts into a generated world; a pure function of the seed."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        world = read_world(json.loads(corpus(1, seed, RICH)[0].completion))[0]
        assert world is not None
        self.names = list(world.variables)
        spools = {"early": True, "late": self.rng.random() < 0.5}
        self.world = replace(world, encounters=tuple(map(self.encounter, world.encounters)), spools=spools)

    def expr(self, depth: int = 0) -> Expr:
        rng = self.rng
        if depth > 3 or rng.random() < 0.3:
            return rng.choice([round(rng.uniform(-3, 3), 3), rng.choice(self.names), 0.0])
        op = rng.choice(sorted(OPERATORS))
        least, most = OPERATORS[op]
        count = rng.randint(least, most or 3)
        conditions = count if op in ("xor", "same") else int(op == "if")
        parts = [self.condition(depth + 1) if i < conditions else self.expr(depth + 1) for i in range(count)]
        return Apply(op, tuple(parts))

    def condition(self, depth: int = 0) -> Condition:
        rng = self.rng
        match rng.randrange(6) if depth < 4 else 0:
            case 1:
                return AnyOf(tuple(self.condition(depth + 1) for _ in range(rng.randint(0, 3))))
            case 2:
                return AllOf(tuple(self.condition(depth + 1) for _ in range(rng.randint(0, 3))))
            case 3:
                return Not(self.condition(depth + 1))
            case 4:
                return Holds(self.expr(depth + 1))
            case 5:
                return Happened("hut", rng.choice([None, 1]))
        return Gate(rng.choice(self.names), rng.choice(sorted(COMPARISONS)), round(rng.uniform(-3, 3), 2))  # type: ignore[arg-type]

    def encounter(self, encounter: Encounter) -> Encounter:
        turns = (self.rng.randint(0, 3), self.rng.randint(0, 9))
        options = tuple(map(self.option, encounter.options))
        selected = {"acceptability": (self.condition(),), "desirability": self.expr(), "turns": turns}
        return replace(encounter, options=options, spools=("late",), **selected)  # type: ignore[arg-type]

    def option(self, option: Option) -> Option:
        rng = self.rng
        spool = SpoolEffect("late", rng.choice([True, False, self.condition()]))
        effects = (Effect(self.names[0], 0.0, rng.choice(["add", "nudge", "set"]), self.expr()), spool)  # type: ignore[arg-type]
        reactions = [replace(one, desirability=self.expr(), effects=effects) for one in option.reactions]
        reactions.append(replace(reactions[0], next_encounter="wild"))
        return replace(option, gates=(self.condition(),), performable=(self.condition(),), reactions=tuple(reactions))


def opens(world: World, conditions: tuple[Condition, ...]) -> bool:
    slots: dict[Slot, int] = {name: i for i, name in enumerate(world.variables)}
    return compile_all(conditions, slots)([variable.initial for variable in world.variables.values()])


@pytest.mark.parametrize("seed", range(30))
def test_scripts_of_every_kind_come_back(seed: int) -> None:
    world = Scripted(seed).world
    again, malformed = read_counting(json.loads(json.dumps(world.to_json())))
    assert not malformed
    assert again is not None
    assert again.to_json() == read_counting(again.to_json())[0].to_json()  # type: ignore[union-attr]
    once, issues = read_sweepweave(json.loads(json.dumps(write_sweepweave(world))))
    assert [issue for issue in issues if issue.severity == "error"] == []
    assert read_sweepweave(json.loads(json.dumps(write_sweepweave(once))))[0] == once
    for before, simple, after in zip(world.encounters, again.encounters, once.encounters, strict=False):
        for one, two, three in zip(before.options, simple.options, after.options, strict=True):
            assert one.gates == two.gates
            assert opens(world, one.gates) is opens(once, three.gates)
            assert opens(world, one.performable) is opens(once, three.performable)
