"""Scoring a text as a storyworld: six components, their weighted total, and the issues behind them.

``strict`` is what we train on. ``seed`` repeats the formulas of the system this project began from, faults included,
so that results can be compared; see ``seed_mode.py``.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from lit_narrative.errors import UserError
from lit_narrative.tasks.storyworld import components as _components  # noqa: F401  (registers the components)
from lit_narrative.tasks.storyworld.context import Context, read_text
from lit_narrative.tasks.storyworld.explain import explain
from lit_narrative.tasks.storyworld.issues import Issue
from lit_narrative.tasks.storyworld.parse import Limits
from lit_narrative.tasks.storyworld.registry import COMPONENTS, SIX, Component, component, find_component
from lit_narrative.tasks.storyworld.seed_mode import seed_components, seed_issues
from lit_narrative.tasks.storyworld.world import World

__all__ = [
    "COMPONENTS",
    "DEFAULT_WEIGHTS",
    "SIX",
    "Component",
    "Context",
    "Issue",
    "Score",
    "VerifierConfig",
    "component",
    "score",
]

Mode = Literal["strict", "seed"]

DEFAULT_WEIGHTS: Mapping[str, float] = {
    "valid_json": 0.30,
    "schema": 0.15,
    "structure": 0.15,
    "effects": 0.15,
    "secrets": 0.15,
    "endings": 0.10,
}

_UNGATED = frozenset(("valid_json", "json_prefix"))
"""Components of the text itself; every other counts as 0 where no world could be read."""


@dataclass(frozen=True)
class VerifierConfig:
    """What earns full marks, and how much each component counts.

    Attributes:
        weights: weight of each component in the total, 0 or more. A name is one of the registry, or a dotted path
            ``package.module:function``. Of the six, those left out are shown but do not count.
        min_encounters: encounters that earn full marks, 1 or more (as the other minima).
        min_characters: characters.
        min_endings: reachable endings.
        min_effect_types: distinct variables that effects change.
        rehearsals: seeded plays that decide which gates are live.
        max_steps: bound on the steps of each.
        limits: bounds on the text, and what is forgiven in it.
    """

    weights: dict[str, float] = field(default_factory=lambda: dict(DEFAULT_WEIGHTS))
    min_encounters: int = 5
    min_characters: int = 2
    min_endings: int = 2
    min_effect_types: int = 3
    rehearsals: int = 32
    max_steps: int = 20
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        """Check names and ranges.

        Raises:
            UserError: A component is unknown, a weight is negative or not finite, or a minimum is below 1.
        """
        for name, weight in self.weights.items():
            if not (math.isfinite(weight) and weight >= 0):
                raise UserError(f"the weight of {name!r} is {weight}; it must be a finite number of 0 or more")
        for name in ("min_encounters", "min_characters", "min_endings", "min_effect_types", "rehearsals", "max_steps"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        _ = self.functions

    @cached_property
    def functions(self) -> dict[str, Component]:
        """The component functions: the six, then the others that have a weight."""
        names = (*SIX, *[name for name in self.weights if name not in SIX])
        return {name: find_component(name) for name in names}


_DEFAULT = VerifierConfig()


@dataclass(frozen=True)
class Score:
    """A judged text.

    Attributes:
        components: each component in 0..1: the six, then the user's.
        total: their weighted sum.
        world: what could be read, ``None`` where the text is no world (and always in seed mode).
    """

    components: dict[str, float]
    total: float
    world: World | None
    _text: Any = field(repr=False, compare=False)
    _mode: Mode = field(repr=False, compare=False)
    _seed: int = field(repr=False, compare=False)
    _config: VerifierConfig = field(repr=False, compare=False)

    @cached_property
    def issues(self) -> tuple[Issue, ...]:
        """What is wrong, with JSON paths; found when first asked for, as training never asks."""
        if self._mode == "seed":
            return seed_issues(self._text, self._config)
        return explain(read_text(self._text, self._seed, self._config))


def score(text: Any, *, mode: Mode = "strict", seed: int = 0, config: VerifierConfig = _DEFAULT) -> Score:
    """Judge a text; never raises on any text, and is a pure function of (text, seed, config).

    Args:
        text: anything a policy or a person wrote; what is no ``str`` scores 0.
        mode: ``strict``, or ``seed`` for the formulas of the original system, 0 where it would have crashed.
        seed: seed of the plays that decide which gates are live; the seed mode needs none.
        config: minima, weights and limits; the seed mode uses its minima and weights.

    Raises:
        UserError: The mode is unknown, or seed mode with a weight for a component that the original does not have.
    """
    if mode == "seed":
        return _score_seed(text, seed, config)
    if mode != "strict":
        raise UserError(f"mode is {mode!r}; it must be 'strict' or 'seed'")
    context = read_text(text, seed, config)
    readable = context.world is not None
    values = {
        name: float(function(context)) if readable or name in _UNGATED else 0.0
        for name, function in config.functions.items()
    }
    # JSON earns nothing by itself: "{}" would otherwise be worth more than a bad story.
    earned = {**values, "valid_json": values["valid_json"] * (values["schema"] > 0)}
    total = sum([weight * earned[name] for name, weight in config.weights.items()])
    return Score(values, total, context.world, text, mode, seed, config)


def _score_seed(text: Any, seed: int, config: VerifierConfig) -> Score:
    foreign = [name for name in config.weights if name not in SIX]
    if foreign:
        raise UserError(f"seed mode knows only the components {', '.join(SIX)}, not {', '.join(foreign)}")
    values = seed_components(text, config)
    total = sum([weight * values[name] for name, weight in config.weights.items()])
    return Score(values, total, None, text, "seed", seed, config)
