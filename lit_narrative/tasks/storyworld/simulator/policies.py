"""Policies that play: at random, by what the world itself prefers, by a script, or by a language model's taste."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from lit_narrative.errors import UserError
from lit_narrative.report.format import clip, printable
from lit_narrative.tasks.storyworld.simulator.engine_plays import Policy, Situation
from lit_narrative.tasks.storyworld.simulator.records import Step
from lit_narrative.tasks.storyworld.world import Encounter, Option, World

TRANSCRIPT = 4000
"""Characters of the story so far that a model reads, the latest."""
Likelihood = Callable[[Sequence[tuple[str, str]]], Sequence[float]]
"""From (what comes before, text) pairs to the mean log-probability of a token of each text, in nats."""


def uniform(rng: np.random.Generator) -> Policy:
    """Choose each open option with equal probability."""
    return lambda at: at.open_options[int(rng.random() * len(at.open_options))]


def greedy(at: Situation) -> int:
    """Choose the open option whose reaction would be the most desirable, of equals the first: no chance is in it."""
    return max(at.open_options, key=lambda option: at.engine.preferred(at.moment, option)[1])


def scripted(choices: Sequence[str], then: Policy) -> Policy:
    """Choose what a list says, by the ids of options or their positions (from 1), and by ``then`` when it is used up.

    Raises:
        UserError: by the policy: what the list says is no open option of the encounter; it names those that are.
    """

    def choose(at: Situation) -> int:
        if len(at.steps) >= len(choices):
            return then(at)
        wanted, options = choices[len(at.steps)], at.encounter.options
        for option in at.open_options:
            if options[option].id == wanted or str(option + 1) == wanted:
                return option
        named = ", ".join(f"{option + 1} ({clip(options[option].id, 40)})" for option in at.open_options[:9])
        where = f"step {len(at.steps) + 1}, at encounter {clip(at.encounter.id, 60)!r}"
        raise UserError(printable(f"choices: {where}, has no open option {clip(wanted, 60)!r}; open are {named}"))

    return choose


def by_likelihood(likelihood: Likelihood, rng: np.random.Generator, temperature: float = 1.0) -> Policy:
    """Choose as a language model would go on: an option's chance grows with the likelihood of its words.

    The chance of an option is proportional to exp(l / temperature), with l the mean log-probability of a token of its
    text behind the story so far, so that long options are not at a disadvantage.

    Args:
        likelihood: of the model.
        rng: of the draws.
        temperature: 0 takes the likeliest.

    Raises:
        UserError: ``temperature`` is below 0.
    """
    if not temperature >= 0:
        raise UserError(f"temperature is {temperature}; it must be 0 or more")

    def choose(at: Situation) -> int:
        if len(at.open_options) == 1:
            return at.open_options[0]
        told = transcript(at)
        found = likelihood([(told, words(at.encounter.options[option])) for option in at.open_options])
        if not temperature:
            return at.open_options[int(np.argmax(found))]
        weights = np.cumsum([math.exp((one - max(found)) / temperature) for one in found])
        return at.open_options[int(np.searchsorted(weights, rng.random() * weights[-1], side="right"))]

    return choose


def transcript(at: Situation, most: int = TRANSCRIPT) -> str:
    """The story so far, the present encounter included; of a long one the last ``most`` characters."""
    parts, length = [at.encounter.text], len(at.encounter.text)
    # From the end, so that a long play costs no more than what is kept of it.
    for step in reversed(at.steps):
        if length >= most:
            break
        parts.append(told(at.engine.world, step))
        length += len(parts[-1]) + 1
    return "\n".join(reversed(parts))[-most:]


def told(world: World, step: Step) -> str:
    """What a reader was told at a step: the encounter, the option taken, and what came of it."""
    encounter = world.encounters[step.index]
    if step.choice is None:
        return encounter.text
    option = encounter.options[step.choice]
    return "\n".join(part for part in (encounter.text, words(option), said(option, step.reaction)) if part)


def words(option: Option) -> str:
    """What an option says: its text, or its id where it has none."""
    return option.text or option.id or "…"


def said(option: Option, reaction: int | None) -> str:
    """The texts of the reactions that were walked up to the one that said what follows."""
    reactions = option.reactions if reaction is None else option.reactions[: reaction + 1]
    walked = [reactions[-1]] if reactions else []
    for one in reversed(reactions[:-1]):
        if one.leads:
            break
        walked.append(one)
    return "\n".join(one.text for one in reversed(walked) if one.text)


def numbered(encounter: Encounter, open_options: Sequence[int]) -> str:
    """The open options of an encounter, a line each, numbered from 1 by their position in the file."""
    return "\n".join(f"{option + 1}. {words(encounter.options[option])}" for option in open_options)
