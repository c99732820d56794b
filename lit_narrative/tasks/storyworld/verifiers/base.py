"""Shared parts of all components: the settings of a score, the text under judgement, and the registry of components."""

import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any

from lit_narrative.errors import UserError, check_choice
from lit_narrative.lookup import import_named
from lit_narrative.tasks.storyworld.checks import CHECKS, Fault
from lit_narrative.tasks.storyworld.formats.parse import Limits, Parsed, detect, parse
from lit_narrative.tasks.storyworld.formats.simple import read_counting
from lit_narrative.tasks.storyworld.formats.sweepweave.read import read_sweepweave
from lit_narrative.tasks.storyworld.issues import MOST_ISSUES, Issue
from lit_narrative.tasks.storyworld.simulator.engine import Engine
from lit_narrative.tasks.storyworld.simulator.graph import encounters_only, outline, reachable, viable
from lit_narrative.tasks.storyworld.simulator.plan import Plan, affordable, make_plan
from lit_narrative.tasks.storyworld.simulator.quick_plays import (
    MOST_ENGINE_PARTS,
    QuickPlays,
    quick_engine_plays,
    quick_plays,
)
from lit_narrative.tasks.storyworld.world import World, is_plain

logger = logging.getLogger(__name__)

Component = Callable[["Context"], float]
"""From a text in its context to a number in 0..1; pure, and never raising on a text."""
DEFAULT_WEIGHTS: Mapping[str, float] = {
    "valid_json": 0.30,
    "schema": 0.15,
    "structure": 0.15,
    "effects": 0.15,
    "secrets": 0.15,
    "endings": 0.10,
}
SIX = tuple(DEFAULT_WEIGHTS)
"""The components that every score has, in the order of tables."""


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
        plays: seeded plays of each world, 1 or more; they decide which gates are live, and whether a world is sound.
        max_steps: bound on the steps of each play, 1 or more.
        limits: bounds on the text, and what is forgiven in it.
        rehearsals: former name of ``plays``, accepted for one release.
    """

    weights: dict[str, float] = field(default_factory=lambda: dict(DEFAULT_WEIGHTS))
    min_encounters: int = 5
    min_characters: int = 2
    min_endings: int = 2
    min_effect_types: int = 3
    plays: int = 32
    max_steps: int = 20
    limits: Limits = field(default_factory=Limits)
    rehearsals: int | None = None

    def __post_init__(self) -> None:
        """Check names and ranges.

        Raises:
            UserError: A component is unknown, a weight is negative or not finite, or a minimum is below 1.
        """
        if self.rehearsals is not None:
            logger.warning("verifiers.rehearsals is now called plays; use verifiers.plays=%d", self.rehearsals)
            object.__setattr__(self, "plays", self.rehearsals)
            # Cleared, so that a copy by `replace` neither warns again nor overrides its `plays`.
            object.__setattr__(self, "rehearsals", None)
        for name, weight in self.weights.items():
            if not (math.isfinite(weight) and weight >= 0):
                raise UserError(f"the weight of {name!r} is {weight}; it must be a finite number of 0 or more")
        for name in ("min_encounters", "min_characters", "min_endings", "min_effect_types", "plays", "max_steps"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        _ = self.functions  # unknown names fail here, before training, and not at the first text

    @cached_property
    def functions(self) -> dict[str, Component]:
        """The component functions: the six, then the others that have a weight."""
        names = (*SIX, *[name for name in self.weights if name not in SIX])
        return {name: find_component(name) for name in names}


@dataclass
class Context:
    """A text under judgement.

    Attributes:
        text: the text.
        seed: of the component's plays; a score is a pure function of text and seed.
        config: minima, limits and weights.
        parsed: the JSON value in the text.
        world: what could be read of it, ``None`` where the text is not a JSON object or of another format.
        malformed: number of malformed parts by kind (see ``formats.simple.read_counting``); of a SweepWeave file the
            errors of its reader, as the kind ``more``.
        odd: what the reader of SweepWeave files found odd.
    """

    text: str
    seed: int
    config: VerifierConfig
    parsed: Parsed
    world: World | None = None
    malformed: Counter[str] = field(default_factory=Counter)
    odd: tuple[Issue, ...] = ()

    # Several components read these; each is worked out once a text, and only if a component asks.

    @cached_property
    def story(self) -> World:
        """The world; an empty one where there is none."""
        return self.world if self.world is not None else World({}, {}, ())

    @cached_property
    def engine(self) -> Engine | None:
        """What plays the world; ``None`` for a plain one, which its plan plays."""
        return None if is_plain(self.story) else Engine(self.story)

    @cached_property
    def plan(self) -> Plan:
        """The world prepared for play, or its outline."""
        return make_plan(self.story) if self.engine is None else outline(self.engine)

    @property
    def game(self) -> Plan | Engine:
        """What plays the world."""
        return self.plan if self.engine is None else self.engine

    def affordable(self, runs: int, max_steps: int) -> int:
        """How many of ``runs`` plays are made of the world, at least one (``plan.affordable``)."""
        if self.engine is None:
            return affordable(self.plan, runs, max_steps)
        return self.engine.affordable(runs, max_steps, MOST_ENGINE_PARTS)

    @cached_property
    def _scenes(self) -> frozenset[int]:
        return reachable(self.plan)

    @cached_property
    def reachable(self) -> frozenset[int]:
        """Positions of the encounters that can follow from the first."""
        return encounters_only(self.plan, self._scenes)

    @cached_property
    def viable(self) -> frozenset[int]:
        """Positions of the reachable encounters from which an ending can be reached."""
        return encounters_only(self.plan, viable(self.plan, self._scenes))

    @cached_property
    def faults(self) -> tuple[tuple[Fault, ...], ...]:
        """What each of the ``CHECKS`` finds, in their order; ``MOST_ISSUES`` of each, whatever the damage."""
        return tuple([tuple(islice(check(self.story), MOST_ISSUES)) for check, _ in CHECKS])

    @cached_property
    def played(self) -> QuickPlays:
        """What seeded plays show."""
        game = (self.seed, self.config.plays, self.config.max_steps)
        return quick_plays(self.plan, *game) if self.engine is None else quick_engine_plays(self.engine, *game)

    @property
    def value(self) -> Any:
        """The parsed value."""
        return self.parsed.value


def read_text(text: Any, seed: int, config: VerifierConfig) -> Context:
    """Parse and read a text; never raises."""
    parsed = parse(text, config.limits)
    if type(parsed.value) is not dict:
        return Context(text, seed, config, parsed)
    if detect(parsed.value) == "sweepweave":
        world, odd = read_sweepweave(parsed.value)
        errors = sum([issue.severity == "error" for issue in odd])
        return Context(text, seed, config, parsed, world, Counter(more=errors) if errors else Counter(), odd)
    known, malformed = read_counting(parsed.value)
    return Context(text, seed, config, parsed, known, malformed)


# --- registry ---------------------------------------------------------------------------------------------------------

COMPONENTS: dict[str, Component] = {}
"""Every component by name; importing the package ``verifiers`` registers those of ``components.py``."""


def component(name: str) -> Callable[[Component], Component]:
    """Register a function as the component ``name``, for use in ``VerifierConfig.weights``.

    >>> @component("brevity")
    ... def brevity(context: Context) -> float:
    ...     return 1.0 if len(context.text) < 2000 else 0.0

    A component is asked only about texts that are a world; of others it counts as 0.

    Raises:
        ValueError: The name is taken by another function.
    """

    def register(function: Component) -> Component:
        if COMPONENTS.setdefault(name, function) is not function:
            raise ValueError(f"a component named {name!r} exists already")
        return function

    return register


def find_component(name: str) -> Component:
    """The component called ``name``, or the function at a dotted path ``package.module:function``.

    Raises:
        UserError: There is no such component; the message names the nearest.
    """
    if ":" in name:
        return _import_component(name)
    check_choice("verifiers.weights", name, sorted(COMPONENTS), "a path package.module:function")
    return COMPONENTS[name]


def _import_component(path: str) -> Component:
    module_name, _, attribute = path.partition(":")
    function = getattr(import_named(module_name, f"component {path!r}"), attribute, None)
    if not callable(function):
        raise UserError(f"component {path!r}: {module_name} has no function {attribute!r}")
    return function  # type: ignore[no-any-return]
