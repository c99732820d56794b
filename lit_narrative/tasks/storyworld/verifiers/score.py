"""Scoring a text as a storyworld: six components, their weighted total, and the issues behind them.

``strict`` is what we train on. ``seed`` repeats the formulas of the system this project began from, faults included,
so that results can be compared; see ``seed_mode.py``.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from lit_narrative.errors import UserError
from lit_narrative.tasks.storyworld.issues import Issue
from lit_narrative.tasks.storyworld.verifiers.base import (
    COMPONENTS,
    DEFAULT_WEIGHTS,
    SIX,
    Component,
    Context,
    VerifierConfig,
    component,
    read_text,
)
from lit_narrative.tasks.storyworld.verifiers.explain import explain
from lit_narrative.tasks.storyworld.verifiers.original import seed_components, seed_issues
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
_UNGATED = frozenset(("valid_json", "json_prefix"))
"""Components of the text itself; every other counts as 0 where no world could be read."""
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
