"""The score of a text as a storyworld: components, their weighted total, and the issues behind them.

The mode ``strict`` is what policies are trained on. ``original`` repeats the formulas of the system that this project
began from, faults included, so that results can be compared; see ``original.py``.
"""

import logging
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any, Literal, get_args

from lit_narrative.errors import UserError, check_choice
from lit_narrative.tasks.storyworld.issues import Issue
from lit_narrative.tasks.storyworld.verifiers.base import SIX, Context, VerifierConfig, read_text
from lit_narrative.tasks.storyworld.verifiers.explain import explain
from lit_narrative.tasks.storyworld.verifiers.original import original_components, original_issues
from lit_narrative.tasks.storyworld.verifiers.soundness import parts
from lit_narrative.tasks.storyworld.world import World, notebook

logger = logging.getLogger(__name__)

Mode = Literal["strict", "original"]
FormerMode = Literal["seed"]
"""The former name of ``original``, accepted for one release."""
_OF_TEXT = frozenset(("valid_json", "json_prefix"))
"""Components of the text itself; every other counts as 0 where no world could be read."""
_DEFAULT = VerifierConfig()


@dataclass(frozen=True)
class Score:
    """A judged text.

    Attributes:
        components: each component in 0..1: the six, then custom ones.
        total: their weighted sum.
        world: what could be read, ``None`` where the text is not a world (and always in the mode ``original``).
    """

    components: dict[str, float]
    total: float
    world: World | None
    _text: Any = field(repr=False, compare=False)
    _mode: Mode = field(repr=False, compare=False)
    _seed: int = field(repr=False, compare=False)
    _config: VerifierConfig = field(repr=False, compare=False)

    def __str__(self) -> str:
        return str(notebook().describe_score(self))

    def _repr_html_(self) -> str:
        """The score as a notebook shows it."""
        return str(notebook().score_html(self))

    @cached_property
    def issues(self) -> tuple[Issue, ...]:
        """What is wrong, with JSON paths; worked out when first asked for, as training never asks."""
        if self._mode == "original":
            return original_issues(self._text, self._config)
        return explain(self._context)

    @cached_property
    def parts(self) -> dict[str, bool]:
        """What makes the text a sound world, part by part (``soundness.parts``); empty in the mode ``original``."""
        return {} if self._mode == "original" else parts(self._context)

    @cached_property
    def _context(self) -> Context:
        # Read again: kept from the scoring, it would be held for every text that a run remembers the score of.
        return read_text(self._text, self._seed, self._config)


def score(text: Any, *, mode: Mode | FormerMode = "strict", seed: int = 0, config: VerifierConfig = _DEFAULT) -> Score:
    """Judge a text; never raises on any text, and is a pure function of (text, seed, config).

    Args:
        text: anything a policy or a person wrote; anything but a ``str`` scores 0.
        mode: ``strict``, or ``original`` for the formulas of the original system, 0 where it would have crashed.
        seed: of the plays that decide which gates are live; the mode ``original`` needs none.
        config: minima, weights and limits; the mode ``original`` uses its minima and weights.

    Raises:
        UserError: The mode is unknown, or ``original`` with a weight for a component that the original does not have.
    """
    if mode == "seed":
        _warn_of_former_mode()
        mode = "original"
    if mode == "original":
        return _score_original(text, seed, config)
    check_choice("mode", mode, get_args(Mode))
    context = read_text(text, seed, config)
    is_world = context.world is not None
    values = {
        name: float(function(context)) if is_world or name in _OF_TEXT else 0.0
        for name, function in config.functions.items()
    }
    # JSON earns nothing by itself: "{}" would otherwise be worth more than a bad story.
    earned = {**values, "valid_json": values["valid_json"] * (values["schema"] > 0)}
    total = sum([weight * earned[name] for name, weight in config.weights.items()])
    return Score(values, total, context.world, text, mode, seed, config)


def _score_original(text: Any, seed: int, config: VerifierConfig) -> Score:
    foreign = [name for name in config.weights if name not in SIX]
    if foreign:
        raise UserError(f"the mode 'original' has only the components {', '.join(SIX)}, not {', '.join(foreign)}")
    values = original_components(text, config)
    total = sum([weight * values[name] for name, weight in config.weights.items()])
    return Score(values, total, None, text, "original", seed, config)


@cache  # once a process: a reward scores thousands of texts
def _warn_of_former_mode() -> None:
    logger.warning("the mode 'seed' of score is now called 'original'")
