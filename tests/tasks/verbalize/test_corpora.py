"""Corpora give the same documents at each reading, in splits that share none."""

import json
from itertools import islice
from pathlib import Path

import pytest

from lit_narrative.books.read import split_of
from lit_narrative.errors import UserError
from lit_narrative.tasks.verbalize.corpora import Corpus, file_corpus, story_corpus
from tests.books.mirror import ebook

SPLITS = ("train", "val", "test")
BOOK = [f"Paragraph {number}." + " words of no meaning" * 25 for number in range(200)]


def all_of(corpus: Corpus) -> dict[str, list[str]]:
    return {split: list(corpus.documents(split)) for split in SPLITS}


def test_a_book_is_cut_between_paragraphs(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("\n\n".join(BOOK))
    found = all_of(file_corpus(str(tmp_path / "book.txt")))
    texts = [text for split in SPLITS for text in found[split]]
    assert len(texts) == len(set(texts)) == 100  # two paragraphs of 102 words each
    assert sorted(p for text in texts for p in text.split("\n\n")) == sorted(BOOK)
    assert len(found["train"]) > 40 and all(found.values())
    file_corpus(str(tmp_path)).check()


def test_a_licence_is_no_document(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_bytes(ebook(7))
    texts = [text for split in SPLITS for text in file_corpus(str(tmp_path)).documents(split)]
    assert "night number 39" in "".join(texts) and not any("GUTENBERG" in text.upper() for text in texts)


def test_a_document_stays_in_its_split_when_others_come(tmp_path: Path) -> None:
    texts = [f"document {number}" for number in range(100)]
    for name, rows in (("few", texts[:50]), ("more", [*texts, *texts])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps({"text": row}) for row in rows))
    few, more = (all_of(file_corpus(str(tmp_path / f"{name}.jsonl"))) for name in ("few", "more"))
    assert all(set(few[split]) <= set(more[split]) for split in SPLITS)
    assert sum(map(len, more.values())) == 100  # those that come twice are read once
    assert all(split_of(text) == split for split in SPLITS for text in more[split])


def test_stories_have_no_end_and_share_none() -> None:
    corpus = story_corpus()
    corpus.check()
    found = {split: set(corpus.documents(split, 100)) for split in SPLITS}
    assert all(len(texts) == 100 for texts in found.values())
    assert not found["train"] & found["val"] | found["val"] & found["test"]
    assert list(islice(corpus.documents("train"), 3)) == list(corpus.documents("train", 3))


def test_a_corpus_too_small_to_split_is_refused(tmp_path: Path) -> None:
    (tmp_path / "small.txt").write_text("\n\n".join(BOOK[:9]))
    with pytest.raises(UserError, match=r"small\.txt is too small to split: . of its documents fall to"):
        file_corpus(str(tmp_path / "small.txt")).check()


def test_what_is_no_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        file_corpus(str(tmp_path / "none.txt"))
    with pytest.raises(UserError, match=r"no \.txt file"):
        file_corpus(str(tmp_path))
    for line in ('{"body": "x"}', '{"text": 1}', "no json"):
        (tmp_path / "a.jsonl").write_text('{"text": "\\ud800"}\n' + line)
        with pytest.raises(UserError, match="line 2"):
            all_of(file_corpus(str(tmp_path / "a.jsonl")))
