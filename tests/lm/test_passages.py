"""Passages of a corpus by their meaning."""

from pathlib import Path

import pytest

from lit_narrative.errors import UserError
from lit_narrative.lm.passages import Passages, PassageSettings, passages_of

pytest.importorskip("faiss", reason="passages need the extra `retrieval`")
SEA = "The sea was grey and the boats came home with salt on their sails"
GATE = "At the castle gate the guard counted every wagon and every spear"
SNOW = "Snow lay on the mountain pass and the mules would go no further"


@pytest.fixture
def settings(tmp_path: Path) -> PassageSettings:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "b.txt").write_text(f"CHAPTER I\r\n\r\n{SNOW}\n\n{SNOW}\n")
    (tmp_path / "corpus" / "a.txt").write_text(f"{SEA}\n\n{GATE}\n")
    return PassageSettings(str(tmp_path / "corpus"), cache=str(tmp_path / "cache"))


def test_paragraphs_are_passages_and_long_ones_are_cut(settings: PassageSettings) -> None:
    assert list(passages_of(settings.corpus, 60)) == [SEA, GATE, SNOW, SNOW]
    assert all(5 <= len(one.split()) <= 6 for one in passages_of(settings.corpus, 6))


def test_the_nearest_passage_comes_first_and_a_blank_question_has_none(settings: PassageSettings) -> None:
    found = Passages.open(settings).nearest([GATE, "boats on the grey sea", " "], 2)
    assert [row[0].text for row in found[:2]] == [GATE, SEA]
    assert found[0][0].score == pytest.approx(1, abs=1e-4)
    assert found[2] == []
    assert all(one.score >= settings.least for row in found for one in row)


def test_the_index_is_made_once_and_anew_for_another_corpus(settings: PassageSettings) -> None:
    first = Passages.open(settings).nearest(["the guard at the gate"])
    (made,) = Path(settings.cache).iterdir()
    stamp = (made / "index.faiss").stat().st_mtime_ns
    assert Passages.open(settings).nearest(["the guard at the gate"]) == first
    assert (made / "index.faiss").stat().st_mtime_ns == stamp
    Path(settings.corpus, "c.txt").write_text("A new paragraph of some seven words")
    Passages.open(settings)
    assert len(list(Path(settings.cache).iterdir())) == 2


def test_what_holds_no_passage_is_refused(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("Too short.")
    for name, says in {"nowhere": "is no text file", ".": "no paragraph of 5 words"}.items():
        with pytest.raises(UserError, match=says):
            Passages.open(PassageSettings(str(tmp_path / name), cache=str(tmp_path)))
    with pytest.raises(UserError, match="least is 2"):
        PassageSettings("x", least=2)
    with pytest.raises(UserError, match="words is 4"):
        PassageSettings("x", words=4)
