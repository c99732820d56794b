"""Graded pairs: the published scores, what is replaced, and leakage that is found."""

from collections import Counter
from dataclasses import replace
from random import Random

import pytest

from lit_narrative.errors import UserError
from lit_narrative.tasks.style.chunks import ChunkWords
from lit_narrative.tasks.style.corpus import Chunk, StyleCorpus
from lit_narrative.tasks.style.pairs import BINS, PairMaker, check_leakage, grade, mixed, replaceable
from lit_narrative.tasks.style.synthetic import AUTHORS, synthetic_book
from lit_narrative.text import sentences_of
from lit_narrative.views import Pair


@pytest.fixture(scope="module")
def chunks() -> list[Chunk]:
    authors = list(AUTHORS.values())[2:6]
    books = [synthetic_book(author, number) for author in authors for number in range(4)]
    return StyleCorpus(books, ChunkWords(80)).of("train")


@pytest.mark.parametrize(
    ("first", "second", "same", "score"),
    [
        # I = sqrt((1 - r1^2)(1 - r2^2)), n = (I - 0.19) / 0.81, 0.5 + 0.5 n or 0.5 (1 - n), one decimal, in 0.1..0.9
        (0.1, 0.1, True, 0.9),
        (0.5, 0.5, True, 0.8),  # I 0.75, n 0.691
        (0.9, 0.9, True, 0.5),  # I 0.19, n 0
        (0.9, 0.5, True, 0.6),  # I 0.3775, n 0.231
        (0.5, 0.5, False, 0.2),
        (0.9, 0.5, False, 0.4),
        (0.1, 0.1, False, 0.1),
        (1.0, 0.0, False, 0.5),
    ],
)
def test_grades_are_the_published_ones(first: float, second: float, same: bool, score: float) -> None:
    assert grade(first, second, same) == grade(second, first, same) == score


@pytest.mark.parametrize("score", BINS[1:-1])
def test_what_is_replaced_has_the_grade(score: float) -> None:
    ways = replaceable(10, 12, score > 0.5, score)
    assert ways and all(grade(one / 10, two / 12, score > 0.5) == score for one, two in ways)
    assert all(0 < one < 10 and 0 < two < 12 for one, two in ways)


def test_replaced_sentences_are_the_fillers_and_never_the_last() -> None:
    text = "One is here. Two is here.\n\nThree is here. Four is here."
    found = mixed(text, ["X went.", "Y went."], 2, Random(0))
    before, after = (sentences_of(one.replace("\n\n", " ")) for one in (text, found))
    assert len(after) == 4 and after[-1] == before[-1] and "\n\n" in found
    assert sorted(set(after) - set(before)) == ["X went.", "Y went."]


def test_scores_and_authors_are_balanced(chunks: list[Chunk]) -> None:
    maker = PairMaker(chunks, 0)
    pairs = maker.pairs(200)
    assert set(Counter(pair.score for pair in pairs).values()) == {20}
    assert max(maker.used.values()) <= 4 * sum(maker.used.values()) / len(chunks)
    for pair in pairs:
        same = pair.meta["author"] == pair.meta["author2"]
        assert (pair.score > 0.5) == same and pair.meta["kind"].startswith("same" if same else "cross")
        if same:
            assert pair.meta["title"] != pair.meta["title2"]
        if pair.score in (0.0, 1.0):
            assert pair.meta["replaced"] == pair.meta["replaced2"] == 0
        else:
            assert grade(pair.meta["replaced"], pair.meta["replaced2"], same) == pair.score
    assert len({frozenset((pair.text, pair.other)) for pair in pairs}) == 200
    assert PairMaker(chunks, 0).pairs(200) == pairs != PairMaker(chunks, 1).pairs(200)


def test_originals_are_chunks_and_mixtures_are_of_a_third_author(chunks: list[Chunk]) -> None:
    texts = {chunk.text: chunk.author for chunk in chunks}
    by_sentence = {
        sentence: a for text, a in texts.items() for part in text.split("\n\n") for sentence in sentences_of(part)
    }
    for pair in PairMaker(chunks, 0).pairs(100):
        if pair.score in (0.0, 1.0):
            assert pair.labels == (texts[pair.text], texts[pair.other])
            continue
        assert pair.labels is None
        own = {pair.meta["author"], pair.meta["author2"]}
        found = {
            by_sentence[s] for text in (pair.text, pair.other) for p in text.split("\n\n") for s in sentences_of(p)
        }
        assert len(found - own) <= 1


def test_one_book_gives_distant_chunks(chunks: list[Chunk]) -> None:
    lone = [chunk for chunk in chunks if chunk.title == chunks[0].title]
    for pair in PairMaker(lone, 0).pairs(30):
        assert pair.meta["kind"] == "same"
        numbers = [int(pair.meta[key].rpartition(", ")[2]) for key in ("chunk", "chunk2")]
        assert abs(numbers[0] - numbers[1]) > len(lone) // 4


def test_refills_stand_in_for_mixtures(chunks: list[Chunk]) -> None:
    some = {chunk.name: [f"Filled {n}." for n in range(30)] for chunk in chunks[::2]}
    pairs = PairMaker(chunks, 0, some).pairs(100)
    mixtures = [pair for pair in pairs if "mixed" in pair.meta["kind"]]
    assert mixtures and all({pair.meta["chunk"], pair.meta["chunk2"]} <= some.keys() for pair in mixtures)
    for pair in mixtures:
        found = [sentence.startswith("Filled") for part in pair.text.split("\n\n") for sentence in sentences_of(part)]
        assert sum(found) / len(found) == pytest.approx(pair.meta["replaced"]) and not found[-1]
    assert {pair.meta["kind"] for pair in PairMaker(chunks, 0, {}).pairs(60)} == {"same", "cross"}


def test_leakage_is_found(chunks: list[Chunk]) -> None:
    halves = [[chunk for chunk in chunks if chunk.part == part] for part in (0, 1)]
    train, test = (PairMaker(half, 0).pairs(60) for half in halves)
    check_leakage(train, test, authors=False)
    with pytest.raises(UserError, match=r"leakage: '.*' is in the pairs of train and of test"):
        check_leakage(train, test, authors=True)
    with pytest.raises(UserError, match="leakage"):
        check_leakage(train, [*test, train[0]], authors=False)
    stolen = next(part for pair in train for part in sentences_of(pair.text) if len(part.split()) >= 20)
    others = {key: f"other {key}" for key in train[0].meta}
    with pytest.raises(UserError, match="a sentence of the pairs of val is in train too"):
        check_leakage(train, [Pair(stolen, "x", 1.0, others)], authors=True, name="val")


def test_a_chunk_without_sentences_to_replace_is_an_original_only(chunks: list[Chunk]) -> None:
    short = [replace(chunk, text="Only one sentence stands here.") for chunk in chunks]
    assert {pair.score for pair in PairMaker(short, 0).pairs(50)} == {0.0, 1.0}
