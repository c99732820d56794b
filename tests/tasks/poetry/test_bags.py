"""Bags of words: by name, from files, from contrasted corpora."""

import math
from pathlib import Path

import pytest

from lit_narrative.errors import UserError
from lit_narrative.steering.bags import read_bag
from lit_narrative.tasks.poetry import bags
from lit_narrative.tasks.poetry.bags import NAMED, ContrastBag, contrast_bag
from lit_narrative.tasks.poetry.grammar import verse
from lit_narrative.tasks.poetry.topics import EVERYDAY, LEXICONS, TOPICS, Topic
from tests.paths import DATA

BOOKS = DATA / "gutenberg"


def find_topic(wanted: str | ContrastBag) -> Topic:
    return bags.find_topic(wanted, lambda path: read_bag(path, NAMED))


def test_topics_by_name() -> None:
    assert find_topic("ocean") is TOPICS["ocean"]
    assert find_topic("night") is EVERYDAY["night"]


def test_a_file_of_words_and_weights(tmp_path: Path) -> None:
    path = tmp_path / "harbour.txt"
    path.write_text("# mine\nquay\n lamp 0.5 # dim\n\nquay 2\nl'été\n", encoding="utf-8")
    assert read_bag(path) == {"quay": 2, "lamp": 0.5, "l'été": 1}
    topic = find_topic(str(path))
    assert (topic.name, topic.bag, topic.held_out) == ("harbour", ("quay", "lamp", "l'été"), ())
    assert topic.steering_bag == read_bag(path)
    path.write_text("quay\nlamp 1\n", encoding="utf-8")
    assert find_topic(str(path)).steering_bag == ["quay", "lamp"]


def test_unknown_topics_and_empty_files_are_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no topic and no file 'ocaen'; did you mean 'ocean'"):
        find_topic("ocaen")
    (tmp_path / "empty.txt").write_text("# nothing\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"empty\.txt holds no word"):
        find_topic(str(tmp_path / "empty.txt"))


def test_z_scores_of_log_odds_by_hand() -> None:
    result = contrast_bag(["tide tide tide door"], ["door door door tide"], threshold=0.1, prior=1)
    # Four of eight words are tides: the prior counts four of each, so 3 + 4 of 12 stand against 1 + 4 of 12.
    delta = math.log(7 / 5) - math.log(5 / 7)
    assert result == {"tide": pytest.approx(delta / math.sqrt(1 / 7 + 1 / 5))}
    assert contrast_bag(["tide tide tide door"], ["door door door tide"], prior=1) == {}


def test_rare_words_need_more_evidence() -> None:
    texts = ["the tide " * 50 + "zephyr"]
    result = contrast_bag(texts, ["the door " * 50], threshold=0.01)
    assert next(iter(result)) == "tide"
    assert result.get("zephyr", 0) < result["tide"] / 3
    assert "the" not in contrast_bag(texts, ["the door " * 50])


def test_poems_on_a_topic_give_its_words_back() -> None:
    texts = [verse(0, "train", index, "ocean").text for index in range(150)]
    others = [verse(1, "train", index, "city").text for index in range(150)]
    result = contrast_bag(texts, others, size=24, threshold=3)
    assert set(result) <= set(LEXICONS["ocean"].words)
    assert len(result) >= 20
    assert list(result.values()) == sorted(result.values(), reverse=True)
    assert len(contrast_bag(texts, others, size=5)) == 5
    few, many = (contrast_bag(texts, others, size=99, threshold=threshold) for threshold in (8, 3))
    assert len(few) < len(many)


def test_nothing_sets_nothing_apart() -> None:
    assert contrast_bag([], []) == contrast_bag(["a"], []) == contrast_bag(["a a"], ["a"]) == {}


def test_a_topic_of_two_files_holds_every_second_word_out(tmp_path: Path) -> None:
    for name, word in (("own", "tide"), ("other", "snow")):
        line = f"The {word} is in, the {word} is out,\n"
        (tmp_path / f"{name}.txt").write_text(line * 9 + f"My {word}, your {word}.\n", encoding="utf-8")
    texts, against = str(tmp_path / "own.txt"), str(tmp_path / "other.txt")
    assert find_topic(ContrastBag("tides", texts, against)).bag == ("tide",)
    with pytest.raises(UserError, match=r"bag 'tides': no word of .*own\.txt stands out .* z-score of 50"):
        find_topic(ContrastBag("tides", texts, against, threshold=50))


@pytest.mark.parametrize("wrong", [{"size": 1}, {"threshold": 0}, {"threshold": math.nan}])
def test_settings_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match="bag 'x': size="):
        ContrastBag("x", "a", "b", **wrong)  # type: ignore[arg-type]


@pytest.mark.skipif(not BOOKS.is_dir(), reason=f"no books at {BOOKS}; set LIT_DATA")
def test_what_sets_two_poets_apart() -> None:
    topic = find_topic(ContrastBag("sonnets", str(BOOKS / "1041.txt"), str(BOOKS / "1322.txt")))
    assert {"thy", "thou", "love"} <= set(topic.words)
    assert not {"america", "states"} & set(topic.words)
    assert len(topic.bag) == len(topic.held_out) == 20
