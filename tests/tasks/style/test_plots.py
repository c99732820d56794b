"""Plots: keywords that tell of no author, and premises."""

from lit_narrative.tasks.style.plots import PREMISES, Keywords, listed, plot_words


def test_keywords_are_words_of_the_text_that_two_authors_use() -> None:
    texts = {
        "Ann": ["Clement whilst sailing upon the anchor met a captain; anchor!", "the harbour and the captain"] * 3,
        "Bob": ["the anchor was near the harbour", "a captain whispered to Dorcas"] * 3,
    }
    keywords = Keywords(texts)
    assert keywords(texts["Ann"][0]) == "anchor and captain"  # no name, no function word, nothing that one author has
    assert keywords("nothing known") == ""


def test_lists_and_their_words() -> None:
    assert [listed(words) for words in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]
    assert plot_words("a boy who finds a map in his late uncle's boat") == ["finds", "late", "boat"]


def test_there_are_fifty_premises() -> None:
    assert len(set(PREMISES)) == 50
    assert all(plot.startswith(("a", "two")) and plot_words(plot) for plot in PREMISES)
