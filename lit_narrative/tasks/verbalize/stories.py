"""Templated stories of four sentences whose content is known, and what a text says of that content, by rule.

A story fills seven slots (who, place, weather, animal, colour, thing, feeling), 1.8 million ways; each sentence has two
phrasings, and each value but the names two words. Story number ``index`` of a split depends on (seed, split, index)
alone, and the digest of a story's slots says to which split it belongs: whatever the seeds, no story is in two splits.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import chain
from types import MappingProxyType

import numpy as np

from lit_narrative.errors import UserError

Claim = tuple[str, str]
"""A slot and the value that a text gives it."""

NAMES = ("Ada", "Boris", "Clara", "Dmitri", "Elena", "Felix", "Greta", "Hugo", "Irma", "Jonas", "Katya", "Leo")
_FORMS = {
    "place": "harbour/port forest/wood market/bazaar castle/fortress garden/park village/hamlet cave/grotto "
    "temple/shrine",
    "weather": "rain/drizzle snow/frost fog/mist storm/tempest heat/sunshine wind/breeze",
    "animal": "fox/vixen crow/raven dog/hound horse/pony rabbit/hare snake/viper toad/frog mule/donkey",
    "colour": "red/crimson blue/cobalt green/jade white/pale yellow/golden brown/tan",
    "thing": "lantern/lamp map/chart box/chest book/tome coin/penny knife/dagger cup/goblet rope/cord",
    "feeling": "glad/happy sad/sorrowful calm/peaceful angry/furious brave/bold tired/weary scared/frightened "
    "shy/timid",
}
_PAIRS = {slot: tuple(tuple(pair.split("/")) for pair in text.split()) for slot, text in _FORMS.items()}
SLOTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"who": NAMES, **{slot: tuple(pair[0] for pair in pairs) for slot, pairs in _PAIRS.items()}}
)
"""The values of each slot."""
OTHER_WORDS = {"walked": "went", "sat": "rested", "beside": "near", "took": "grabbed", "followed": "trailed"}
"""Words of the templates that have a synonym."""
TEMPLATES = (
    ("{who} walked to the {place} in the {weather}.", "In the {weather} {who} walked to the {place}."),
    ("A {animal} sat beside a {colour} {thing}.", "Beside a {colour} {thing} sat a {animal}."),
    ("{who} took the {thing} and felt {feeling}.", "{who} felt {feeling} and took the {thing}."),
    ("The {animal} followed {who} to the {place}.", "{who} left the {place} with the {animal}."),
)
"""The phrasings of each sentence."""
SYNONYM_SHARE = 0.25
"""Probability that a word is told by its synonym."""
_SPLITS = ("train", "val", "test")
_WORD = re.compile(r"[^\W\d_]+")
_TO_CLAIM: dict[str, Claim] = {name.casefold(): ("who", name) for name in NAMES} | {
    form: (slot, pair[0]) for slot, pairs in _PAIRS.items() for pair in pairs for form in pair
}
_BOTH_WAYS = [*chain.from_iterable(_PAIRS.values()), *OTHER_WORDS.items()]
SYNONYMS: Mapping[str, str] = MappingProxyType(
    {one: other for first, second in _BOTH_WAYS for one, other in ((first, second), (second, first))}
)
"""Each word with a synonym -> that synonym, both ways."""


@dataclass(frozen=True)
class Facts:
    """What holds in a world: the value of a slot, by who the story is about; stories of the world never contradict it.

    Args:
        slot: that is settled, any but ``who``.
        values: by name; every name has one.
    """

    slot: str
    values: Mapping[str, str] = field(hash=False)


def facts(world: str) -> Facts | None:
    """The facts of a world by its name: ``none``, or ``first`` and ``second``, which contradict each other throughout.

    In the first each name belongs to an animal, in the second each to another one.

    Raises:
        UserError: there is no such world.
    """
    if world == "none":
        return None
    if world not in ("first", "second"):
        raise UserError(f"data.facts={world}: there are the worlds none, first and second")
    animals = SLOTS["animal"]
    shift = 0 if world == "first" else len(animals) // 2
    return Facts("animal", {name: animals[(number + shift) % len(animals)] for number, name in enumerate(NAMES)})


@dataclass(frozen=True, slots=True)
class Story:
    """A story.

    Attributes:
        text: four sentences in one line.
        slots: value of each slot.
    """

    text: str
    slots: Mapping[str, str]


def story(seed: int, split: str, index: int, world: Facts | None = None) -> Story:
    """Story number ``index`` of a split.

    Args:
        seed: of the whole set, 0 or more.
        split: ``train``, ``val`` or ``test``.
        index: 0 or more.
        world: facts that it keeps to.
    """
    # spawn_key gives independent streams without drawing those of the stories before.
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_SPLITS.index(split), index)))
    while True:  # slots are drawn until they belong to the split, so that stories of a split are a fair sample
        slots = {slot: values[rng.integers(len(values))] for slot, values in SLOTS.items()}
        if world is not None:
            slots[world.slot] = world.values[slots["who"]]
        if bucket_of(slots) == split:
            return Story(_told(slots, rng), slots)


def stories(seed: int, split: str, count: int, world: Facts | None = None) -> Iterator[Story]:
    """The first ``count`` stories of a split; see `story`."""
    return (story(seed, split, index, world) for index in range(count))


def bucket_of(slots: Mapping[str, str]) -> str:
    """The split in which a story with these slots may be: eight in ten in training, one each in the others."""
    key = " ".join(slots[slot] for slot in SLOTS)
    digit = int.from_bytes(blake2b(key.encode(), digest_size=4).digest(), "big") % 10
    return {8: "val", 9: "test"}.get(digit, "train")


def _told(slots: Mapping[str, str], rng: np.random.Generator) -> str:
    """A story in words: one phrasing of each sentence, some words by their synonyms."""
    plain = " ".join(phrasings[rng.integers(len(phrasings))].format(**slots) for phrasings in TEMPLATES)
    return _WORD.sub(lambda found: _synonym(found[0]) if rng.random() < SYNONYM_SHARE else found[0], plain)


def _synonym(word: str) -> str:
    """The other word for the same thing, in the same case; the word itself if there is none."""
    other = SYNONYMS.get(word.casefold(), word)
    return other.capitalize() if word[:1].isupper() else other


# --- what a text says -----------------------------------------------------------------------------------------------


def claims(text: str) -> set[Claim]:
    """What a text says of the slots: each word of the grammar claims the value that it stands for.

    Args:
        text: any: a story, its beginning, an explanation; a slot that is told twice has two claims.
    """
    words = (found[0].casefold() for found in _WORD.finditer(text))
    return {_TO_CLAIM[word] for word in words if word in _TO_CLAIM}


def paraphrase(text: str) -> str:
    """The text with every word that has a synonym told by it: it claims the same in other words."""
    return _WORD.sub(lambda found: _synonym(found[0]), text)


def paraphrases(text: str, count: int, seed: int = 0) -> list[str]:
    """Distinct paraphrases, none of them the text itself: all words exchanged, then random halves of them.

    Args:
        text: any; one without words of the grammar has no paraphrase.
        count: how many at most.
        seed: of the choices.
    """
    rng = np.random.default_rng(seed)
    found = {text: None, paraphrase(text): None}
    for _ in range(8 * count):  # a text of few words has few paraphrases, and may come again
        if len(found) > count:
            break
        half = _WORD.sub(lambda match: _synonym(match[0]) if rng.random() < 0.5 else match[0], text)
        found.setdefault(half)
    return [*found][1 : count + 1]


# --- vocabulary -----------------------------------------------------------------------------------------------------


def vocabulary() -> tuple[str, ...]:
    """Every word of the stories, once."""
    plain = " ".join(re.sub(r"\{\w+\}", "", phrasing) for phrasings in TEMPLATES for phrasing in phrasings)
    fixed = {word for found in _WORD.finditer(plain) for word in (found[0], _synonym(found[0]))}
    return tuple(dict.fromkeys((*NAMES, *(form for form in _TO_CLAIM if form in SYNONYMS), *sorted(fixed))))


def vocabulary_texts() -> Iterator[str]:
    """Texts with every word and sign, at the beginning and behind a space: a word-level tokenizer learns them all."""
    for word in vocabulary():
        yield f"{word} {word}. ."
