"""Topics: lists of words, each in two halves, one to steer and reward by and one held out to measure with."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic in words.

    Attributes:
        name: what configurations and tables call it.
        bag: the words that steering and rewards may know.
        held_out: words of the topic that they never see: a method that raises these has raised the topic itself.
        weights: of the bag's words in steering, in their order; empty: all weigh 1.
    """

    name: str
    bag: tuple[str, ...]
    held_out: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()

    @property
    def words(self) -> tuple[str, ...]:
        """Both halves."""
        return (*self.bag, *self.held_out)

    @property
    def steering_bag(self) -> list[str] | dict[str, float]:
        """The bag as prompts carry it: its words, with their weights if it has any."""
        return dict(zip(self.bag, self.weights, strict=True)) if self.weights else list(self.bag)


@dataclass(frozen=True, slots=True)
class Lexicon:
    """Words by their part in a line: nouns, adjectives, and verbs in the third person; all in the singular."""

    nouns: tuple[str, ...]
    adjectives: tuple[str, ...]
    verbs: tuple[str, ...]

    @property
    def words(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.nouns, *self.adjectives, *self.verbs)

    def halves(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The first half of every part, and the second; words of one root stand in one half."""
        parts = (self.nouns, self.adjectives, self.verbs)
        # The order of words in a lexicon counts: this cut decides which are held out.
        first = tuple(word for part in parts for word in part[: len(part) // 2])
        return first, tuple(word for word in self.words if word not in first)


def _lexicon(nouns: str, adjectives: str, verbs: str) -> Lexicon:
    return Lexicon(tuple(nouns.split()), tuple(adjectives.split()), tuple(verbs.split()))


NEUTRAL = _lexicon(
    "hour day hand name word thing friend child stone door room letter shadow dream story thought face heart moment "
    "promise table chair",
    "small quiet old new slow gentle simple plain early strange pale bright",
    "waits turns stays comes goes rests returns begins ends moves falls remains",
)
"""Words of no topic."""

LEXICONS: Mapping[str, Lexicon] = {
    "ocean": _lexicon(
        "tide wave shore harbor reef gull salt anchor foam coral sail lagoon",
        "tidal deep blue salty vast stormy",
        "surges sinks floats ebbs swims splashes",
    ),
    "forest": _lexicon(
        "leaf moss oak root deer fox pine fern branch owl trail grove",
        "leafy mossy wild green shady tangled",
        "grows rustles climbs sprouts sways blooms",
    ),
    "city": _lexicon(
        "crowd street tower neon train market bridge taxi traffic window subway corner",
        "crowded electric busy noisy concrete modern",
        "hurries glitters trades rushes honks builds",
    ),
    "winter": _lexicon(
        "snow frost sled scarf blizzard hail ice flake glacier sleet mitten icicle",
        "snowy frosty bitter icy cold frozen",
        "shivers melts numbs freezes chills thaws",
    ),
    "music": _lexicon(
        "song rhythm harp choir drum note melody flute violin chord piano tune",
        "rhythmic vocal loud melodic lyrical tuneful",
        "sings strums hums plays echoes chimes",
    ),
}
"""The topics of the verse grammar, by part of speech."""

TOPICS: Mapping[str, Topic] = {name: Topic(name, *lexicon.halves()) for name, lexicon in LEXICONS.items()}
"""The topics of the verse grammar: the bag is half of each part of speech; the other half is held out."""


def _topic(name: str, bag: str, held_out: str) -> Topic:
    return Topic(name, tuple(bag.split()), tuple(held_out.split()))


EVERYDAY: Mapping[str, Topic] = {
    topic.name: topic
    for topic in (
        _topic(
            "love",
            "love heart kiss sweet dear beloved lover embrace tender passion desire beauty lips bride darling",
            "loved hearts kisses sweetness dearest loving lovers arms fond adore charm fair cheek wed affection",
        ),
        _topic(
            "death",
            "death grave dead tomb dying mourn funeral corpse coffin bury ghost perish dust",
            "die graves died tombs dies mourning bones shroud buried slain ashes perished decay",
        ),
        _topic(
            "night",
            "night moon star dark sleep midnight dusk shadow dream silent twilight lamp",
            "nights moonlight stars darkness asleep evening dim shadows dreams silence gloom candle",
        ),
        _topic(
            "nature",
            "tree river flower grass mountain bird field wind sky bloom hill rain spring meadow",
            "trees stream flowers leaves mountains birds fields breeze clouds rose valley summer stones bud",
        ),
        _topic(
            "sea",
            "sea wave ship sail shore tide ocean sailor foam deck anchor harbor",
            "seas waves ships sails beach waters mast captain salt fleet coast voyage",
        ),
        _topic(
            "war",
            "war battle sword soldier army blood fight drum flag enemy victory wound",
            "wars battles blade soldiers armies bleeding fought bugle banner foe triumph wounded",
        ),
        _topic(
            "faith",
            "god heaven soul prayer angel holy church bless divine sin mercy eternal",
            "lord heavens spirit pray angels sacred altar blessed worship grace pity immortal",
        ),
        _topic(
            "home",
            "home house mother father child door hearth family bread table garden cradle",
            "homes houses sister brother children window fireside babe kitchen chair roof infant",
        ),
    )
}
"""Topics of everyday words, for verse that people wrote; none bears the name of a topic of the grammar."""
