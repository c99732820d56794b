"""Themes: the vocabulary of generated storyworlds, and which themes and casts are held out.

A theme is a place in some trouble; the place gives the scenes, the trouble gives the sentences. Themes and casts are
split by the digest of their words, whatever the corpus seed, so a test set made with one seed is held out from a
training set made with another.
"""

from functools import cache
from hashlib import blake2b
from itertools import combinations
from typing import Literal, TypeVar

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
HELD_OUT = 0.1
"""Share of the themes, and of the casts, kept for each of the splits val and test."""

PLACES: dict[str, str] = {
    "lighthouse": "lamp stair boat cellar shore rail cave tower",
    "castle": "gate hall tower cellar stair yard well wall",
    "village": "well mill square gate barn road chapel field",
    "ship": "deck hold mast cabin rail boat shore lamp",
    "forest": "path hut cave river bridge camp field road",
    "island": "shore cave camp hut boat path tower well",
    "abbey": "chapel cellar hall gate tower well stair wall",
    "mine": "cave camp gate cellar river bridge road hut",
    "farm": "barn field mill well yard road river gate",
    "town": "square hall gate tower bridge yard road wall",
}
TROUBLES: dict[str, tuple[str, ...]] = {
    "in a storm": ("Rain beats on the {}.", "Wind shakes the {}."),
    "at war": ("Soldiers watch the {}.", "Smoke hides the {}."),
    "in deep winter": ("Snow buries the {}.", "Ice seals the {}."),
    "after a murder": ("Blood stains the {}.", "Someone guards the {}."),
    "at a feast": ("Music fills the {}.", "Lanterns light the {}."),
    "under a curse": ("Shadows fill the {}.", "Crows circle the {}."),
    "in a plague": ("A bell tolls by the {}.", "Fever haunts the {}."),
    "in a flood": ("Water fills the {}.", "Mud covers the {}."),
}
ENDINGS = ("It ends at the {}.", "All is lost at the {}.", "Peace comes to the {}.")
NAMES = (
    "Mara", "Teo", "Ines", "Bram", "Lena", "Omar", "Ruth", "Silas", "Vera", "Hugo",
    "Anouk", "Cyril", "Dara", "Edda", "Farid", "Greta", "Ilya", "Juno", "Kofi", "Livia",
)  # fmt: skip
"""Twenty, so that a thousand casts are trained on and a hundred held out: of a few dozen each is remembered."""
ACTIONS = {
    "wait": "Wait for {}.",
    "help": "Help {}.",
    "lie": "Lie to {}.",
    "trust": "Trust {}.",
    "accuse": "Accuse {}.",
    "follow": "Follow {}.",
    "warn": "Warn {}.",
    "pay": "Pay {}.",
    "hide": "Hide from {}.",
    "fight": "Fight {}.",
}
PERSONAL = {"trust": (-3, 3), "fear": (0, 5), "love": (-2, 4)}
"""Properties that every character has, with their bounds."""
SHARED = {"oil": (0, 5), "food": (0, 6), "gold": (0, 9), "hope": (-3, 3), "time": (0, 8)}
"""Properties of the world as a whole, with their bounds."""

Theme = tuple[str, str]
Cast = tuple[str, ...]
Words = TypeVar("Words", bound=tuple[str, ...])


def theme_name(theme: Theme) -> str:
    """The theme in words: ``("abbey", "at war")`` is "an abbey at war"."""
    place, trouble = theme
    return f"{'an' if place[0] in 'aeiou' else 'a'} {place} {trouble}"


@cache
def themes(split: Split) -> tuple[Theme, ...]:
    """The themes of a split; the three splits are disjoint and together hold every (place, trouble)."""
    return tuple(_share([(place, trouble) for place in PLACES for trouble in TROUBLES], split))


@cache
def casts(split: Split, size: int) -> tuple[Cast, ...]:
    """The casts of a split, ``size`` names each in alphabetical order; the three splits are disjoint."""
    # Alphabetical, so that a cast has one form and cannot come back in another split in another order.
    return tuple(_share(list(combinations(sorted(NAMES), size)), split))


def _share(items: list[Words], split: Split) -> list[Words]:
    """The split's share of the items, ranked by the digest of their words."""
    ranked = sorted(items, key=lambda item: blake2b("/".join(item).encode(), digest_size=8).digest())
    held = round(HELD_OUT * len(ranked))
    # By rank and not by a threshold on the digest, so that every split has its share however few the items are.
    parts = {"test": ranked[:held], "val": ranked[held : 2 * held], "train": ranked[2 * held :]}
    return sorted(parts[split])
