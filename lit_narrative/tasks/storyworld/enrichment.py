"""Worlds and prompts enriched by passages of a user's corpus that are near them in meaning.

What finds the passages is given as a function, from texts to passages for each (`lit_narrative.lm.passages`).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice

from lit_narrative.tasks.storyworld.world import Encounter, World
from lit_narrative.views import Prompt, prompt_text

Nearest = Callable[[Sequence[str], int], Sequence[Sequence[str]]]
"""From texts, and how many at most, to passages for each, best first."""
SEVERAL = 8
"""Passages asked for each encounter, so that one is left when others took the best."""


def enrich_world(world: World, nearest: Nearest) -> tuple[World, int]:
    """Add to the text of each encounter the passage nearest to it, each passage once in a world.

    Ids, options and scripts stay as they are, so the world plays as before. An encounter to which nothing is near, or
    whose text ends with the passage already, stays too.

    Returns:
        The world, and how many encounters were enriched.
    """
    told = [" ".join(filter(None, (one.title, one.text))) for one in world.encounters]
    used: set[str] = set()
    made: list[Encounter] = []
    for encounter, found in zip(world.encounters, nearest(told, SEVERAL), strict=True):
        fresh = next((one for one in found if one not in used and one not in encounter.text), None)
        if fresh is None or any(one in encounter.text for one in found):
            made.append(encounter)
            continue
        used.add(fresh)
        made.append(replace(encounter, text=f"{encounter.text}\n\n{fresh}".strip()))
    return replace(world, encounters=tuple(made)), len(used)


def enrich_prompt(prompt: Prompt, nearest: Nearest, count: int) -> Prompt:
    """Put the nearest passages above a prompt's text; they are its column ``passages`` as well."""
    text = prompt_text(prompt.text)
    found = tuple(islice(nearest([text], count)[0], count))
    lines = "".join(f"Passage: {one}\n" for one in found)
    return replace(prompt, text=lines + text, columns={**prompt.columns, "passages": found})
