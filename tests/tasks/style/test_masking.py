"""Masked texts: what stays, what goes, and texts of any kind."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_narrative.tasks.style.masking import FUNCTION_WORDS, SIGNS, content_words, mask


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("The captain quickly walked to the old harbour.", "The # © Ø to the # #."),
        ("Then we saw Tom’s 12 beautiful boats, and didn’t stop!", "Then we # §’s µ @ #, and didn’t #!"),
        ("Sailors sang. Boats went; but Mary stayed?\n\nNight came.", "# #. # #; but § Ø?\n\n# #."),
        ("“Don't,” said she--“never”.", "“Don't,” # she--“never”."),
        ("", ""),
    ],
)
def test_function_words_and_punctuation_stay(text: str, masked: str) -> None:
    assert mask(text) == masked


@given(
    st.lists(st.sampled_from(["the", "Captain", "sailed", "Tom's", "12", "ever", ".", "\n\n", "’", "--"]), max_size=30)
)
@settings(max_examples=100, deadline=None)
def test_no_content_word_is_left(parts: list[str]) -> None:
    text = " ".join(parts)
    assert {word for word in content_words(mask(text)) if word.upper() not in SIGNS} <= {"μ", "s"}
    assert [part for part in mask(text).split() if part in FUNCTION_WORDS] == [p for p in parts if p in FUNCTION_WORDS]


@given(st.text(max_size=200))
@settings(max_examples=200, deadline=None)
def test_texts_of_any_kind_are_masked(text: str) -> None:
    assert len(mask(text)) <= len(text)


def test_the_topic_has_no_influence() -> None:
    one = "The captain had walked to the harbour, but nobody was there."
    other = "The teacher had carried to the library, but nobody was there."
    assert mask(one) == mask(other)


def test_content_words_are_the_others() -> None:
    assert content_words("The captain's boats, and Tom; it's 12.") == ["captain", "boats", "tom"]
    assert not FUNCTION_WORDS & set(content_words("when he would have been with us, that'd be all"))
