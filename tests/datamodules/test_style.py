"""StyleData: what is in the views, and that nothing of one split is in another."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

from lit_narrative.datamodules.base import Split
from lit_narrative.datamodules.style import StyleData
from lit_narrative.errors import UserError
from lit_narrative.lm.tokenizer import TrainedTokenizer, train_tokenizer
from lit_narrative.tasks.style.pairs import BINS, ORIGINALS
from lit_narrative.tasks.style.prompts import StylePrompt
from lit_narrative.tasks.style.synthetic import MAIN
from lit_narrative.views import Pair

SPLITS: tuple[Split, ...] = ("train", "val", "test")


@pytest.fixture(scope="module")
def data() -> StyleData:
    return StyleData(pair_size=400)


def authors_of(pairs: Iterable[Pair]) -> set[str]:
    return {pair.meta[key] for pair in pairs for key in ("author", "author2")}


def test_no_chunk_and_no_plot_is_in_two_splits(data: StyleData) -> None:
    shown = {split: {row.completion for row in data.examples(split)} for split in SPLITS}
    samples = {split: {row.columns["sample"] for row in data.prompts(split)} for split in SPLITS}
    plots = {split: {row.columns["plot"] for row in data.prompts(split)} for split in SPLITS}
    for found in (shown, samples, plots):
        assert all(found.values())
        assert found["train"].isdisjoint(found["val"] | found["test"]) and found["val"].isdisjoint(found["test"])
    assert not any(sample in text for sample in samples["test"] for text in shown["train"])


def test_prompts_ask_for_every_plot_in_the_style_of_every_author(data: StyleData) -> None:
    one, two = data.prompts("test")[:2]
    assert one.columns["plot"] == two.columns["plot"]
    assert {one.columns["author"], two.columns["author"]} == set(MAIN)
    assert one.text == f"Write like {one.columns['author']} about {one.columns['plot']}.\n"
    assert [row.columns["index"] for row in data.prompts("val")] == list(range(200))
    followed = [row for row in data.prompts("train") if row.columns["following"]]
    assert len(followed) > 900 and all(row.columns["following"] != row.columns["sample"] for row in followed)


def test_examples_end_as_the_prompts_ask(data: StyleData) -> None:
    for row in data.examples("train"):
        assert row.completion.endswith("\nTHE END.")
        assert 40 <= len(row.completion.split()) <= 82
        assert all(word in row.completion for word in row.prompt.partition(" about ")[2].strip(".\n").split(", ")[0:1])


def test_a_few_shot_prompt_shows_another_chunk_of_the_author() -> None:
    data = StyleData(prompt=StylePrompt(shots=1))
    for row in data.examples("val"):
        sample = row.prompt.split("\n\n", 1)[1].rpartition("\n\n")[0]
        assert row.prompt.startswith(f"This is how {row.meta['author']} writes:\n\n")
        assert sample and sample not in row.completion
    prompt = data.prompts("test")[0]
    assert prompt.columns["sample"] in prompt.text


def test_pairs_of_the_test_are_of_authors_that_training_lacks(data: StyleData) -> None:
    authors = {split: authors_of(data.pairs(split)) for split in SPLITS}
    assert authors["train"].isdisjoint(authors["val"] | authors["test"]) and authors["val"].isdisjoint(authors["test"])
    assert set(MAIN) <= authors["train"]
    assert set(Counter(pair.score for pair in data.pairs("train")).values()) == {40}


def test_pairs_by_book_and_of_half_the_books() -> None:
    halves = [StyleData(split_by="book", part=part, pair_size=100, graded=part == 0) for part in (0, 1)]
    assert {pair.score for pair in halves[0].pairs("train")} == {*BINS}
    assert {pair.score for pair in halves[1].pairs("train")} == {*ORIGINALS}
    titles = [{(p.meta["author"], p.meta["title"]) for p in half.pairs("train")} for half in halves]
    assert titles[0].isdisjoint(titles[1])
    assert halves[0].pairs("test") == halves[1].pairs("test")
    tested = {(pair.meta["author"], pair.meta["title"]) for pair in halves[0].pairs("test")}
    assert tested.isdisjoint(titles[0] | titles[1])


def test_the_same_seed_gives_the_same_rows_and_another_one_others(data: StyleData) -> None:
    again, other = StyleData(pair_size=400), StyleData(pair_size=400, seed=1)
    assert again.examples("val") == data.examples("val") and again.pairs("val") == data.pairs("val")
    assert again.prompts("test") == data.prompts("test")
    assert other.examples("val") != data.examples("val") and other.pairs("val") != data.pairs("val")


def test_labels_are_of_all_authors(data: StyleData) -> None:
    assert len(data.label_names) == 16
    assert {row.label for row in data.labelled("train")} == set(range(16))


def test_a_tokenizer_of_words_knows_every_text(data: StyleData) -> None:
    tokenizer = train_tokenizer(data.tokenizer_texts(), TrainedTokenizer(kind="words"))
    texts = [f"{row.prompt}{row.completion}" for split in SPLITS for row in data.examples(split)]
    texts += [row.text for row in data.labelled("test")]
    assert not any(tokenizer.unk_token_id in ids for ids in tokenizer(texts)["input_ids"])


def test_plots_of_a_file_and_those_of_the_package(tmp_path: Path) -> None:
    path = tmp_path / "plots.txt"
    path.write_text("a wolf\n\na storm\na feud\na storm\n", encoding="utf-8")
    data = StyleData(plots=str(path))
    assert sorted(plot for split in SPLITS for plot in data.plots_of(split)) == ["a feud", "a storm", "a wolf"]
    premises = StyleData(plots="premises")
    assert [len(premises.plots_of(split)) for split in SPLITS] == [35, 5, 10]
    path.write_text("a wolf\n", encoding="utf-8")
    with pytest.raises(UserError, match="1 plots; training"):
        StyleData(plots=str(path))
    with pytest.raises(UserError, match="there is no file"):
        StyleData(plots="nowhere.txt")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"authors": ["Ada Veritas"]}, r"there is no 'Ada Veritas'; did you mean 'Ada Verity'"),
        ({"authors": []}, "data.authors is empty"),
        ({"held_out": ["Jonas Pell"], "split_by": "book"}, "holds out books"),
        ({"split_by": "century"}, "data.split_by: there is no 'century'"),
        ({"pair_size": 0}, "data.pair_size is 0"),
        ({"books": "nowhere"}, r"data\.books: no file or folder nowhere"),
    ],
)
def test_wrong_settings_are_said(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        StyleData(**settings).examples("val")


def test_authors_are_found_in_any_spelling() -> None:
    assert StyleData(authors=["Verity, Ada, 1850-1911", "A. Verity"]).authors == ("Ada Verity",)
    assert set(authors_of(StyleData(held_out=["Pell, Jonas", "Rufus Dalby"], pair_size=50).pairs("test"))) == {
        "Jonas Pell",
        "Rufus Dalby",
    }
