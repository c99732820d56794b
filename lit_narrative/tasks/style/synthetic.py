"""Synthetic authors: grammars that share topics and content words, and differ in what style is made of.

An author is a set of frequencies: of function words (determiners, auxiliaries, prepositions, conjunctions, adverbs,
openers), of punctuation marks, and of clauses in a sentence. Two of them, `MAIN`, are opposites made by hand; the
others are drawn once and for all. Every author can write every word, so that only frequencies tell them apart. A book
depends on (seed, author, number) alone.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from random import Random
from types import MappingProxyType

from lit_narrative.books.read import Book

BOOKS = 6
"""Books of an author."""
CHAPTERS, MAIN_CHAPTERS = 24, 80
"""Chapters of a book, and of one by an author in `MAIN`: there are texts enough to imitate."""
CHAPTER_WORDS = 76
"""Words after which no further sentence of a chapter begins."""
SUBJECT = "Tales"
_TOPICS = {
    "sea": "captain sailor pilot fisher|harbour island reef lighthouse|anchor lantern net sail compass|"
    "anchored hauled lowered repaired sighted|stormy salty distant leeward",
    "forest": "hunter woodcutter forester beekeeper|forest clearing brook hollow|axe snare bow horn basket|"
    "gathered trapped felled tracked carved|mossy shady ancient tangled",
    "market": "merchant baker tailor pedlar|market square bazaar bridge|purse scale ribbon loaf ledger|"
    "weighed traded measured counted wrapped|busy thrifty crowded dear",
    "castle": "knight steward page herald|castle tower dungeon courtyard|shield banner sword crown goblet|"
    "guarded raised polished defended sealed|lofty loyal gilded grim",
    "school": "teacher scholar clerk printer|school library attic archive|letter inkwell map slate bell|"
    "studied copied folded corrected printed|learned dusty careful quiet",
    "farm": "farmer shepherd miller milkmaid|farm meadow orchard mill|plough pail harness scythe wagon|"
    "ploughed watered mended harvested loaded|muddy ripe sturdy golden",
}
_KINDS = ("person", "place", "thing", "verb", "adjective")
TOPICS: Mapping[str, Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        topic: MappingProxyType({kind: tuple(part.split()) for kind, part in zip(_KINDS, text.split("|"), strict=True)})
        for topic, text in _TOPICS.items()
    }
)
"""Topic -> kind of word -> content words, which all authors share."""
_NAMES = (
    "Alder Blythe Corin Dorcas Ewan Fenella Gideon Hester Ivo Jessamy Kester Lettice Merrick Nell Osric Petra Quill "
    "Rowena Silas Tamsin Ulric Verena Wystan Yolande Ambrose Beatrix Clement Damaris Edric Felicia Godfrey Hilda"
)
NAMES = tuple(_NAMES.split())
"""Names of characters; each book of an author has two of its own."""
SLOTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "determiner": ("the", "that", "this", "one", "each"),
        "auxiliary": ("", "had", "has", "must have", "might have", "would have"),
        "preposition": ("in", "within", "near", "beside", "beyond", "upon"),
        "adverb": ("very", "quite", "rather", "so", "most", "too"),
        "pronoun": ("he", "she", "they", "we", "someone"),
        "conjunction": ("and", "but", "while", "whilst", "for", "though", "yet", "when"),
        "opener": ("now", "then", "indeed", "perhaps", "still", "thus", "presently", "however"),
        "joint": (",", ";", ":", "—"),
        "end": (".", "!", "?", "…"),
    }
)
"""What authors choose from: function words and marks."""


@dataclass(frozen=True)
class Author:
    """An author.

    Attributes:
        name: of the author.
        weights: slot -> weight of each of its words.
        clauses: mean number of clauses in a sentence, 1 or more.
        opened: share of sentences that begin with an opener, in 0..1.
        adjectives: share of nouns with an adjective, in 0..1.
    """

    name: str
    weights: Mapping[str, tuple[float, ...]]
    clauses: float
    opened: float
    adjectives: float


def _made(name: str, chosen: str, clauses: float, opened: float, adjectives: float) -> Author:
    """An author who mostly uses the words that are named, and each other one at times."""
    words = set(chosen.split("|"))
    weights = {slot: tuple(1.0 if word in words else 0.06 for word in found) for slot, found in SLOTS.items()}
    return Author(name, weights, clauses, opened, adjectives)


def _drawn(name: str) -> Author:
    """An author whose frequencies are drawn from the name."""
    rng = Random(f"author {name}")
    weights = {slot: tuple(rng.gammavariate(0.5, 1.0) + 0.02 for _ in found) for slot, found in SLOTS.items()}
    return Author(name, weights, rng.uniform(1.1, 3.5), rng.uniform(0.0, 0.7), rng.uniform(0.1, 0.6))


MAIN = ("Ada Verity", "Edmund Larkspur")
"""The two authors that are told apart and imitated by default."""
_OTHERS = (
    "Clara Winterbourne",
    "Jonas Pell",
    "Marian Thorne",
    "Septimus Gray",
    "Louisa Hartwell",
    "Tobias Fenn",
    "Harriet Coyle",
    "Basil Underhill",
    "Winifred Ashe",
    "Rufus Dalby",
    "Cecily Marlow",
    "Enoch Strand",
    "Philippa Vance",
    "Lionel Brack",
)
_PLAIN = "the|had||in|near|very|so|she|he|and|but|then|now|,|.|!"
_ORNATE = "that|this|must have|would have|upon|rather|most|we|whilst|though|indeed|;|—|."
_ALL = (_made(MAIN[0], _PLAIN, 1.25, 0.35, 0.15), _made(MAIN[1], _ORNATE, 3.2, 0.1, 0.5), *map(_drawn, _OTHERS))
AUTHORS: Mapping[str, Author] = MappingProxyType({author.name: author for author in _ALL})
"""All authors by name."""


def synthetic_books(seed: int = 0) -> Iterator[Book]:
    """All books of all authors; see `synthetic_book`."""
    return (synthetic_book(author, number, seed) for author in AUTHORS.values() for number in range(BOOKS))


def synthetic_book(author: Author, number: int, seed: int = 0) -> Book:
    """Book number ``number`` of an author: chapters on a topic each, of two paragraphs.

    Args:
        author: who writes it.
        number: 0 to `BOOKS` - 1.
        seed: of all books, 0 or more.
    """
    shelf = Random(f"shelf {seed} {author.name}")  # what the books of an author must not share
    names = shelf.sample(NAMES, 2 * BOOKS)[2 * number : 2 * number + 2]
    things = [word for topic in TOPICS.values() for word in topic["thing"]]
    thing = shelf.sample(things, BOOKS)[number]
    writer = _Writer(author, names, Random(f"book {seed} {author.name} {number}"))
    chapters = MAIN_CHAPTERS if author.name in MAIN else CHAPTERS
    text = "\n\n".join(writer.chapter() for _ in range(chapters))
    title = f"{names[0]} and the {thing.capitalize()}"
    return Book(f"{author.name} {number + 1}", title, author.name, (SUBJECT,), "en", text)


def vocabulary_texts() -> Iterator[str]:
    """Texts with every word and mark, small and capital, at the beginning and behind a space."""
    content = (word for topic in TOPICS.values() for words in topic.values() for word in words)
    for word in dict.fromkeys((*content, *NAMES, *(w for words in SLOTS.values() for w in words), "was", "again")):
        for part in word.split():
            yield f"{part} {part}\n{part.capitalize()} {part.capitalize()}"
    yield from (name for author in AUTHORS for name in (author, f" {author}"))


class _Writer:
    """Writes as an author does.

    Args:
        author: whose frequencies it has.
        names: of the book's characters.
        rng: of all choices.
    """

    def __init__(self, author: Author, names: list[str], rng: Random) -> None:
        self.author, self.names, self.rng = author, names, rng
        # Summed once: `choices` would otherwise sum the weights at each word.
        self.sums = {slot: list(accumulate(weights)) for slot, weights in author.weights.items()}

    def chapter(self) -> str:
        """Two paragraphs on one topic, about one person, place, thing, verb and adjective more than about others."""
        topic = TOPICS[self.rng.choice(list(TOPICS))]
        plot = {kind: self.rng.choice(words) for kind, words in topic.items()}
        paragraphs: list[list[str]] = [[], []]
        count = 0
        while count < CHAPTER_WORDS:
            sentence = self._sentence(topic, plot)
            paragraphs[2 * count // CHAPTER_WORDS].append(sentence)
            count += len(sentence.split())
        return "\n\n".join(" ".join(sentences) for sentences in paragraphs if sentences)

    def _sentence(self, topic: Mapping[str, tuple[str, ...]], plot: Mapping[str, str]) -> str:
        text = self._clause(topic, plot)
        go_on = 1 - 1 / self.author.clauses  # a geometric number of clauses has this mean
        for _ in range(5):
            if self.rng.random() >= go_on:
                break
            joint = self._choose("joint")
            gap = "" if joint == "—" else " "
            text += f"{joint}{gap}{self._choose('conjunction')} {self._clause(topic, plot)}"
        if self.rng.random() < self.author.opened:
            text = f"{self._choose('opener')}, {text}"
        return f"{text[0].upper()}{text[1:]}{self._choose('end')}"

    def _clause(self, topic: Mapping[str, tuple[str, ...]], plot: Mapping[str, str]) -> str:
        def word(kind: str) -> str:
            return plot[kind] if self.rng.random() < 0.6 else self.rng.choice(topic[kind])

        def noun(kind: str) -> str:
            adjective = f"{word('adjective')} " if self.rng.random() < self.author.adjectives else ""
            return f"{self._choose('determiner')} {adjective}{word(kind)}"

        if self.rng.random() < 0.2:
            return f"{noun('place')} was {self._choose('adverb')} {word('adjective')}"
        who = self.rng.choice((noun("person"), self._choose("pronoun"), self.rng.choice(self.names)))
        action = f"{self._choose('auxiliary')} {word('verb')}".strip()
        where = f" {self._choose('preposition')} {noun('place')}" if self.rng.random() < 0.45 else ""
        return f"{who} {action} {noun('thing')}{where}"

    def _choose(self, slot: str) -> str:
        return self.rng.choices(SLOTS[slot], cum_weights=self.sums[slot])[0]
