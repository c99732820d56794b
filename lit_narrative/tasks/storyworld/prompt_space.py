"""Prompts in any number: settings x pairs of themes x casts x properties x templates, each combination once.

A prompt is made when it is asked for, from its number alone: the numbers of a split are mapped one to one to
combinations, in an order that looks random, so that a million prompts take no memory and none comes twice. Pairs of
setting and themes are held out, so that training never meets one that is validated or tested on.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from hashlib import blake2b
from itertools import combinations
from string import Formatter
from typing import TypeVar

from lit_narrative.errors import UserError, check_least
from lit_narrative.tasks.storyworld.themes import HELD_OUT, NAMES, PERSONAL, SHARED, Split
from lit_narrative.views import Prompt

FIELDS = ("setting", "themes", "cast", "properties")
"""What a template names."""
ROUNDS = 4
"""Rounds of the cipher that orders the combinations (Luby and Rackoff 1988: four are enough to look random)."""
SETTINGS = (
    "a lighthouse", "a border town", "a river barge", "a besieged castle", "an island prison", "a mining camp",
    "an abbey in winter", "a theatre on its last night", "a ship becalmed", "a court of law", "a night train",
    "an observatory", "a plague hospital", "a desert caravan", "a vineyard at harvest", "a drowned village",
    "a printing house", "a mountain pass", "a salt works", "a city under curfew",
)  # fmt: skip
THEMES = (
    "loyalty", "betrayal", "forgiveness", "ambition", "grief", "exile", "justice", "mercy", "pride", "sacrifice",
    "duty", "freedom", "truth", "jealousy", "inheritance", "survival", "faith", "revenge", "friendship", "temptation",
    "memory", "power", "courage", "shame",
)  # fmt: skip
MORE_PROPERTIES = ("honour", "debt", "suspicion", "courage", "rumour", "rank")
TEMPLATES = (
    "Storyworld about {themes}, set in {setting}. Cast: {cast}. Track: {properties}.",
    "Write a storyworld set in {setting}. It is about {themes}. Characters: {cast}. Properties: {properties}.",
    "Setting: {setting}. Themes: {themes}. Cast: {cast}. Track: {properties}.",
    "A storyworld of {themes} with {cast}, in {setting}; it keeps track of {properties}.",
)
Words = TypeVar("Words")


@dataclass(frozen=True)
class PromptSpace:
    """What prompts are made of.

    Attributes:
        settings: where and when a story plays, 3 or more.
        themes: what it is about, 3 or more; a prompt has two.
        names: of characters.
        properties: that a world keeps track of.
        templates: of a prompt, each with the fields ``{setting}``, ``{themes}``, ``{cast}`` and ``{properties}``.
        cast: least and most characters of a prompt.
        tracked: properties of a prompt.

    Raises:
        UserError: a list is too short or names something twice, a number is out of range, or a template lacks a field.
    """

    settings: Sequence[str] = SETTINGS
    themes: Sequence[str] = THEMES
    names: Sequence[str] = NAMES
    properties: Sequence[str] = (*PERSONAL, *SHARED, *MORE_PROPERTIES)
    templates: Sequence[str] = TEMPLATES
    cast: tuple[int, int] = (2, 3)
    tracked: int = 3

    def __post_init__(self) -> None:
        low, high = self.cast
        if not 1 <= low <= high:
            raise UserError(f"data.prompt_space.cast is {list(self.cast)}; it must be a least and a most number")
        check_least("data.prompt_space.tracked", self.tracked, 1)
        least = {"settings": 3, "themes": 3, "names": high, "properties": self.tracked, "templates": 1}
        for name, count in least.items():
            values = getattr(self, name)
            if len(values) < count or len(set(values)) < len(values):
                raise UserError(
                    f"data.prompt_space.{name} has {len(set(values))} different entries of {len(values)}; "
                    f"it needs {count} or more, each once"
                )
        for template in self.templates:
            _check_template(template)

    @cached_property
    def premises(self) -> Mapping[Split, Sequence[tuple[str, str, str]]]:
        """By split its (setting, theme, theme) triples: a tenth each for val and test, by the digest of their words."""
        pairs = [*combinations(self.themes, 2)]
        every = [(setting, *pair) for setting in self.settings for pair in pairs]
        ranked = sorted(every, key=lambda one: blake2b("/".join(one).encode(), digest_size=8).digest())
        held = max(1, round(HELD_OUT * len(ranked)))
        return {"test": ranked[:held], "val": ranked[held : 2 * held], "train": ranked[2 * held :]}

    @cached_property
    def _casts(self) -> tuple[tuple[int, int], ...]:
        """(size, number of casts of that size)."""
        low, high = self.cast
        return tuple([(size, math.comb(len(self.names), size)) for size in range(low, high + 1)])

    @cached_property
    def _radices(self) -> tuple[int, int, int]:
        casts = sum(count for _, count in self._casts)
        return casts, math.comb(len(self.properties), self.tracked), len(self.templates)

    def count(self, split: Split) -> int:
        """Number of different prompts of a split."""
        return len(self.premises[split]) * math.prod(self._radices)

    def prompt(self, index: int, seed: int, split: Split) -> Prompt:
        """The prompt of a number in 0..count - 1, with its columns ``setting``, ``theme``, ``cast``, ``properties``."""
        left = shuffled(index, self.count(split), f"{seed}/{split}")
        casts, tracked, templates = self._radices
        left, template = divmod(left, templates)
        left, properties = divmod(left, tracked)
        left, cast = divmod(left, casts)
        setting, *themes = self.premises[split][left]
        who = self._who(cast)
        what = combination(self.properties, self.tracked, properties)
        theme = " and ".join(themes)
        text = self.templates[template].format(
            setting=setting, themes=theme, cast=", ".join(who), properties=", ".join(what)
        )
        columns = {"setting": setting, "theme": theme, "cast": who, "properties": what, "index": index}
        return Prompt(text + "\n", columns)

    def _who(self, rank: int) -> tuple[str, ...]:
        for size, count in self._casts:
            if rank < count:
                return combination(self.names, size, rank)
            rank -= count
        raise IndexError(rank)


def _check_template(template: str) -> None:
    try:
        named = [name for _, name, _, _ in Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise UserError(f"data.prompt_space.templates: {template!r}: {error}") from None
    if sorted(named) != sorted(FIELDS):
        raise UserError(
            f"data.prompt_space.templates: {template!r} names {named or 'nothing'}; it must name "
            f"{', '.join(f'{{{name}}}' for name in FIELDS)}, each once"
        )


def combination(items: Sequence[Words], size: int, rank: int) -> tuple[Words, ...]:
    """The combination of a rank, in the order of `itertools.combinations`, without making those before it."""
    chosen: list[Words] = []
    for place, item in enumerate(items):
        left = size - len(chosen)
        if not left:
            break
        # With this item, the rest is chosen from those behind it.
        beginning = math.comb(len(items) - place - 1, left - 1)
        if rank < beginning:
            chosen.append(item)
        else:
            rank -= beginning
    return tuple(chosen)


def shuffled(index: int, count: int, key: str) -> int:
    """Where a number in 0..count - 1 comes to lie in a seeded order of them all.

    A Feistel network permutes the numbers of twice as many bits as each half has; what falls outside is permuted
    again, until it lies inside (Black and Rogaway 2002), four times at the most on average.
    """
    half = max(1, ((count - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    keys = _keys(key)
    while True:
        left, right = index >> half, index & mask
        for one in keys:
            left, right = right, left ^ (_mixed(right, one) & mask)
        index = left << half | right
        if index < count:
            return index


@cache
def _keys(key: str) -> tuple[int, ...]:
    digest = blake2b(key.encode(), digest_size=8 * ROUNDS).digest()
    return tuple(int.from_bytes(digest[8 * n : 8 * n + 8], "big") for n in range(ROUNDS))


def _mixed(value: int, key: int) -> int:
    """64 bits that depend on all bits of both (the finaliser of SplitMix64, Steele et al. 2014)."""
    z = (value + key) & _ALL
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & _ALL
    z = (z ^ z >> 27) * 0x94D049BB133111EB & _ALL
    return z ^ z >> 31


_ALL = 2**64 - 1
