"""Adherence: whether a world is about what its prompt asked for, and about nothing else.

A requirement for each column of the prompt that is there, whoever wrote the prompt:

- ``cast``: the declared characters are the cast, and no text names another of the generator's characters;
- ``properties``: the declared properties are those asked for, and each variable is one of them, or that of a character;
- ``theme``: of a theme of the generator (``an abbey at war``), every encounter is one of the place's, and every text is
  a sentence of the trouble or of an ending; of any other theme, a word of it of four letters or more is in the texts; a
  theme without such a word stands in them as it is.

``cast`` and ``properties`` are lists of names, or one text with commas between them.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import Any

from lit_narrative.tasks.storyworld import themes
from lit_narrative.tasks.storyworld.world import World, owners

_WORD = re.compile(r"[^\W_]+")
_LONG_WORD = re.compile(r"[^\W\d_]{4,}")


def adherence(world: World | None, columns: Mapping[str, Any]) -> float | None:
    """Share of the requirements of a prompt that hold, 0 to 1.

    Args:
        world: what was written; what is no world keeps to nothing.
        columns: what the prompt asks for.

    Returns:
        The share; None where the prompt has none of the three columns.
    """
    asked = [name for name in _REQUIREMENTS if name in columns]
    if not asked:
        return None
    if world is None or not world.encounters:
        return 0.0
    return sum([_REQUIREMENTS[name](world, columns[name]) for name in asked]) / len(asked)


def keeps_cast(world: World, cast: str | Iterable[str]) -> bool:
    """Whether the characters are the cast, and nobody else that is known is named."""
    wanted = set(names(cast))
    strangers = set(themes.NAMES) - wanted
    return set(world.characters) == wanted and not any(strangers.intersection(_WORD.findall(t)) for t in _texts(world))


def keeps_properties(world: World, properties: str | Iterable[str]) -> bool:
    """Whether the properties are those asked for, and every variable is of one of them."""
    wanted = set(names(properties))
    return set(world.properties) == wanted and all(
        name in wanted or any(who in world.characters and prop in wanted for who, prop in owners(name))
        for name in world.variables
    )


def keeps_theme(world: World, theme: str) -> bool:
    """Whether the encounters are about the theme."""
    known = _generated().get(str(theme))
    if known is None:
        wanted = {word.casefold() for word in _LONG_WORD.findall(str(theme))}
        if not wanted:  # "war", or a theme in a script whose words are short
            return any(str(theme).casefold() in text.casefold() for text in _texts(world))
        return any(wanted.intersection(map(str.casefold, _LONG_WORD.findall(text))) for text in _texts(world))
    places, sentence = known
    return all(e.id in places and sentence.fullmatch(e.text) is not None for e in world.encounters)


_REQUIREMENTS: Mapping[str, Callable[[World, Any], bool]] = {
    "cast": keeps_cast,
    "properties": keeps_properties,
    "theme": keeps_theme,
}


@cache
def _generated() -> dict[str, tuple[frozenset[str], re.Pattern[str]]]:
    """For each theme of the generator, by its words, the names of its places, and what its sentences look like."""
    made = {}
    for place, scenes in themes.PLACES.items():
        names = frozenset(scenes.split())
        for trouble, sentences in themes.TROUBLES.items():
            forms = [re.escape(form).replace(r"\{\}", r"\w+") for form in (*sentences, *themes.ENDINGS)]
            made[themes.theme_name((place, trouble))] = (names, re.compile("|".join(forms)))
    return made


def names(value: str | Iterable[str]) -> Iterator[str]:
    """The names of a column: a list of them, or one text with commas between them."""
    parts = value.split(",") if isinstance(value, str) else map(str, value)
    return (name.strip() for name in parts)


def _texts(world: World) -> Iterator[str]:
    """Whatever a reader is told, and the names of the encounters."""
    for encounter in world.encounters:
        yield encounter.id
        yield encounter.text
        for option in encounter.options:
            yield option.text
            yield from [reaction.text for reaction in option.reactions]
