"""What a component may look at: the text, the value in it, the world in that, and what was found out about it."""

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lit_narrative.tasks.storyworld.dialect import detect
from lit_narrative.tasks.storyworld.parse import Parsed, parse
from lit_narrative.tasks.storyworld.plan import Plan, make_plan
from lit_narrative.tasks.storyworld.reachability import reachable
from lit_narrative.tasks.storyworld.world import World, read_counting

if TYPE_CHECKING:
    from lit_narrative.tasks.storyworld.verifiers import VerifierConfig


@dataclass
class Context:
    """A text under judgement.

    Attributes:
        text: the text.
        seed: what the component's plays draw from; a score is a pure function of text and seed.
        config: minima, limits and weights.
        parsed: the JSON value in the text.
        world: what could be read of it, ``None`` where the text is no JSON object or of another format.
        malformed: number of malformed parts by kind (see ``world.read_counting``).
    """

    text: str
    seed: int
    config: "VerifierConfig"
    parsed: Parsed
    world: World | None = None
    malformed: Counter[str] = field(default_factory=Counter)

    @cached_property
    def story(self) -> World:
        """The world; an empty one where there is none."""
        return self.world if self.world is not None else World({}, {}, ())

    @cached_property
    def plan(self) -> Plan:
        """The world prepared for play."""
        return make_plan(self.story)

    @cached_property
    def reachable(self) -> frozenset[int]:
        """Positions of the encounters that can follow from the first."""
        return reachable(self.plan)

    @property
    def value(self) -> Any:
        """The parsed value."""
        return self.parsed.value


def read_text(text: Any, seed: int, config: "VerifierConfig") -> Context:
    """Parse and read a text; never raises."""
    parsed = parse(text, config.limits)
    if type(parsed.value) is not dict or detect(parsed.value) != "simple":
        return Context(text, seed, config, parsed)
    world, malformed = read_counting(parsed.value)
    return Context(text, seed, config, parsed, world, malformed)
