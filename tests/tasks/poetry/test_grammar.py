"""The verse grammar: its words, its shares, its splits, and what it recognises."""

import subprocess
import sys
from collections import Counter
from itertools import islice

import pytest

from lit_narrative.tasks.poetry.grammar import (
    LINES,
    PATTERNS,
    bucket_of,
    content_share,
    is_line,
    openings,
    verse,
    vocabulary,
    vocabulary_texts,
)
from lit_narrative.tasks.poetry.topics import EVERYDAY, LEXICONS, NEUTRAL, TOPICS

SPLITS = ("train", "val", "test")
OCEAN = TOPICS["ocean"].words
POEMS = [verse(0, "train", index) for index in range(1500)]


def test_five_topics_of_twenty_four_words_share_none() -> None:
    assert len(TOPICS) == 5
    for name, lexicon in LEXICONS.items():
        assert [len(lexicon.nouns), len(lexicon.adjectives), len(lexicon.verbs)] == [12, 6, 6]
        topic = TOPICS[name]
        assert len(topic.bag) == len(topic.held_out) == 12
        assert sorted(topic.words) == sorted(lexicon.words)
        assert sum(word in topic.bag for word in lexicon.nouns) == 6
    words = [word for lexicon in (NEUTRAL, *LEXICONS.values()) for word in lexicon.words]
    assert len(set(words)) == len(words)
    assert 185 <= len(vocabulary()) <= 200
    assert len(PATTERNS) == 8


def test_everyday_topics_have_names_of_their_own_and_no_word_in_both_halves() -> None:
    assert not set(EVERYDAY) & set(TOPICS)
    for topic in EVERYDAY.values():
        assert not set(topic.bag) & set(topic.held_out)
        assert len(set(topic.words)) == len(topic.words) > 20


def test_shares_are_those_that_are_stated() -> None:
    drawn = Counter()
    for poem in POEMS:
        for line in poem.lines[1:] if poem.neutral_opening else poem.lines:
            for word in line.split():
                topic = next((name for name, lexicon in LEXICONS.items() if word in lexicon.words), None)
                if topic is not None or word in NEUTRAL.words:
                    drawn["own" if topic == poem.topic else "other" if topic else "none"] += 1
    # Some 20 000 words: four standard errors are 0.014.
    assert drawn["own"] / drawn.total() == pytest.approx(0.60, abs=0.014)
    assert drawn["other"] / drawn.total() == pytest.approx(0.04, abs=0.006)
    assert sum(poem.neutral_opening for poem in POEMS) / len(POEMS) == pytest.approx(0.60, abs=0.05)
    assert set(Counter(poem.topic for poem in POEMS)) == set(TOPICS)
    assert {len(poem.lines) for poem in POEMS} == set(range(LINES[0], LINES[1] + 1))


def test_neutral_openings_have_no_word_of_a_topic() -> None:
    topical = {word for topic in TOPICS.values() for word in topic.words}
    neutral = [poem.lines[0] for poem in POEMS if poem.neutral_opening]
    assert not any(set(line.split()) & topical for line in [*neutral, *islice(openings(0, "train"), 200)])


def test_splits_share_neither_poems_nor_openings_whatever_the_seed() -> None:
    firsts = {
        split: {verse(seed, split, index).lines[0] for seed in (0, 1) for index in range(150)}
        | set(islice(openings(2, split), 50))
        for split in SPLITS
    }
    assert all(bucket_of(line) == split for split, lines in firsts.items() for line in lines)
    assert not firsts["train"] & firsts["val"]
    assert not firsts["train"] & firsts["test"]
    assert not firsts["val"] & firsts["test"]


def test_a_poem_depends_on_its_place_alone() -> None:
    backwards = [verse(0, "train", index) for index in reversed(range(20))]
    assert backwards[::-1] == POEMS[:20]
    assert len({verse(seed, "val", 3).text for seed in range(20)}) == 20
    code = "from lit_narrative.tasks.poetry.grammar import verse; print(verse(0, 'train', 7).text)"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONHASHSEED": "7"})
    assert other.stdout.strip() == POEMS[7].text


def test_openings_are_distinct_and_a_longer_list_begins_with_a_shorter() -> None:
    lines = list(islice(openings(0, "test"), 100))
    assert len(set(lines)) == 100
    assert list(islice(openings(0, "test"), 10)) == lines[:10]


def test_every_line_of_the_grammar_is_recognised() -> None:
    assert all(is_line(line) for poem in POEMS[:300] for line in poem.lines)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "the tide",
        "the salty tide sinks",
        "tide the sinks again",
        "the salty tide sinks again ",
        "the  salty tide sinks again",
        "the salty tide sink again",
        "The salty tide sinks again",
        "the salty tide sinks again.",
        "the sinks tide salty again",
        "our song is loud and never",
        "our song is loud and always new",
    ],
)
def test_other_lines_are_not(text: str) -> None:
    assert not is_line(text)


@pytest.mark.parametrize(
    "line",
    [
        "the salty tide sinks again",
        "every wave ebbs beside the small table",
        "under one frozen oak we wait",
        "where this snow melts so hums that drum",
        "no leaf grows when the cold frost numbs",
        "our song is loud and never new",
        "and still we know how the taxi honks",
        "toward my old reef with some friend",
    ],
)
def test_each_kind_of_line_is_recognised(line: str) -> None:
    assert is_line(line)


def test_function_words_do_not_count_as_content() -> None:
    assert content_share("the salty wave waits again\nour name is small and never frozen", OCEAN) == pytest.approx(
        2 / 6
    )
    assert content_share("the salty wave waits", TOPICS["winter"].words) == 0
    assert content_share("", OCEAN) == content_share("zebra", OCEAN) == 0


def test_a_wanted_topic_is_taken() -> None:
    poems = [verse(0, "val", index, topic="ocean") for index in range(40)]
    assert {poem.topic for poem in poems} == {"ocean"}
    assert sum(content_share(poem.text, OCEAN) for poem in poems) / 40 > 0.4


def test_texts_for_a_tokenizer_hold_every_word_in_both_places() -> None:
    texts = list(vocabulary_texts())
    for word in vocabulary():
        assert any(text.startswith(word) for text in texts)
        assert any(f" {word}" in text for text in texts)
        assert any("\n" in text for text in texts)
