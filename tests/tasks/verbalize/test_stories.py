"""Stories of the grammar are reproducible and disjoint, and what they say is read off them exactly."""

import math
from itertools import islice

import pytest

from lit_narrative.errors import UserError
from lit_narrative.tasks.verbalize.stories import (
    NAMES,
    SLOTS,
    SYNONYMS,
    bucket_of,
    claims,
    facts,
    paraphrase,
    paraphrases,
    stories,
    story,
    vocabulary,
    vocabulary_texts,
)

SPLITS = ("train", "val", "test")


def test_there_are_millions_of_stories_of_about_a_hundred_words() -> None:
    assert math.prod(len(values) for values in SLOTS.values()) > 1_500_000
    assert len(SLOTS) == 7
    assert 90 <= len(vocabulary()) <= 160


def test_story_depends_on_its_number_alone() -> None:
    assert [one.text for one in stories(0, "train", 5)] == [story(0, "train", n).text for n in range(5)]
    assert len({one.text for one in stories(0, "train", 500)}) == 500
    assert story(0, "train", 0).text != story(1, "train", 0).text


def test_splits_share_no_story_whatever_the_seed() -> None:
    found = {split: {tuple(one.slots.values()) for s in (0, 1) for one in stories(s, split, 300)} for split in SPLITS}
    assert not found["train"] & found["val"] and not found["val"] & found["test"]
    assert all(bucket_of(one.slots) == split for split in SPLITS for one in stories(2, split, 50))


def test_a_story_claims_its_slots_and_nothing_else() -> None:
    for one in stories(0, "train", 200):
        assert claims(one.text) == set(one.slots.items())
        assert one.text.count(".") == 4


def test_every_word_stands_for_one_value() -> None:
    forms = [word for word in vocabulary() if claims(word)]
    assert len(forms) == sum(2 * len(values) for slot, values in SLOTS.items() if slot != "who") + len(NAMES)
    assert all(len(claims(word)) == 1 for word in forms)


@pytest.mark.parametrize("text", ["", "no such words", "\ud800 fox</x>", "foxglove", "x" * 100_000])
def test_claims_of_any_text(text: str) -> None:
    assert claims(text) <= {("animal", "fox")}


def test_claims_read_synonyms_and_capitals() -> None:
    assert claims("A VIXEN near the tome, said ada") == {("animal", "fox"), ("thing", "book"), ("who", "Ada")}
    assert claims("a fox and a crow") == {("animal", "fox"), ("animal", "crow")}


def test_paraphrase_says_the_same_in_other_words() -> None:
    for one in stories(1, "test", 50):
        other = paraphrase(one.text)
        assert claims(other) == claims(one.text)
        assert paraphrase(other) == one.text
        swapped = [(a, b) for a, b in zip(one.text.split(), other.split(), strict=True) if a != b]
        assert len(swapped) > 10


def test_paraphrases_are_distinct_and_as_many_as_there_are() -> None:
    text = story(0, "train", 0).text
    several = paraphrases(text, 5)
    assert len(set(several)) == 5 and text not in several
    assert several == paraphrases(text, 5) and several[1:] != paraphrases(text, 5, seed=1)[1:]
    assert paraphrases("a fox", 5) == ["a vixen"]
    assert paraphrases("nothing known", 3) == []


def test_worlds_contradict_each_other_and_their_stories_keep_to_them() -> None:
    first, second = facts("first"), facts("second")
    assert first is not None and second is not None and facts("none") is None
    assert all(first.values[name] != second.values[name] for name in NAMES)
    for world in (first, second):
        assert all(one.slots["animal"] == world.values[one.slots["who"]] for one in stories(0, "train", 100, world))
    with pytest.raises(UserError, match="third"):
        facts("third")


def test_vocabulary_is_that_of_the_stories_and_their_paraphrases() -> None:
    known = {word.strip(".") for text in vocabulary_texts() for word in text.split()}
    told = {word.strip(".") for one in stories(0, "train", 2000) for word in one.text.split()}
    assert told <= known
    assert {paraphrase(word) for word in told} <= known
    assert set(islice(SYNONYMS, 5)) <= known
