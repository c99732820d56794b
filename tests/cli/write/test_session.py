"""A session of writing: what is written comes back, and what is no session is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lit_narrative.cli.write.session import ChosenTopic, WriteSession, WriteSettings, plain_settings
from lit_narrative.errors import UserError
from lit_narrative.tasks.poetry.preferences import read_events
from lit_narrative.views import Scored

SETTINGS = WriteSettings("pplm", 0.2, 2.0, 0.5, 0.5, temperature=0.9, drawn=6, shown=4, length=8)
SEA = ChosenTopic("sea", {"wave": 1.0, "tide": 2.0}, ["sail"])
ODD = "so\u2028it\x85goes \x1b[31m\n"


@pytest.fixture
def session(tmp_path: Path) -> WriteSession:
    session = WriteSession(tmp_path / "deep" / "write.jsonl")
    session.record("begin", seed=3, model="m.ckpt", text="The sea", number=0, settings=plain_settings(SETTINGS))
    return session


def step(session: WriteSession, *texts: str, choice: int = 1) -> None:
    session.record("step", candidates=[{"text": text} for text in texts], choice=choice)


def state(session: WriteSession) -> Any:
    return session.positions, session.settings, session.seed, session.model, session.events


def test_it_comes_back_after_every_event(session: WriteSession) -> None:
    def same() -> None:
        assert state(WriteSession.read(session.path)) == state(session)

    same()
    step(session, " is", ODD, choice=2)
    same()
    assert session.position.text == "The sea" + ODD
    session.record("set", settings=plain_settings(replace(SETTINGS, topic=SEA, again=2)))
    same()
    assert WriteSession.read(session.path).settings.topic == SEA
    session.record("rate", text=session.position.text, rating=1.0)
    session.record("prompt", text="Snow", number=1)
    same()
    assert session.position.text == "Snow"
    session.record("undo")
    session.record("undo")
    same()
    assert session.position.text == "The sea"
    assert session.settings == replace(SETTINGS, topic=SEA)  # settings are not taken back


def test_seeds_go_by_step_and_by_what_was_asked_for_again(session: WriteSession) -> None:
    first, again = session.step_seed(SETTINGS), session.step_seed(replace(SETTINGS, again=1))
    step(session, " is")
    assert len({first, again, session.step_seed(SETTINGS)}) == 3
    session.record("undo")
    assert session.step_seed(SETTINGS) == first


def test_its_ratings_are_ratings_for_a_reward_model(session: WriteSession) -> None:
    step(session, ODD)
    text = session.position.text
    session.record("rate", text=text, rating=0.25)
    session.record("undo")
    session.record("prompt", text="Snow", number=1)
    session.record("set", settings=plain_settings(SETTINGS))
    assert read_events(session.path) == [Scored(text, 0.25)]


def test_an_event_that_cannot_be_written_does_not_happen(session: WriteSession) -> None:
    before = session.position
    session.path = session.path / "a-file-is-no-folder" / "x.jsonl"
    with pytest.raises(UserError, match="cannot be written"):
        step(session, " is")
    assert session.position == before
    assert len(session.events) == 1


BEGIN = {"event_type": "begin", "data": {"seed": 0, "model": "m", "text": "A", "number": 0}}


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([""], "line 1: not an event of a session"),
        (["story"], "line 1: not an event of a session"),
        (['{"event_type": "rate", "data": {"text": "a", "rating": 1}}'], "begins with one event 'begin'"),
        ([json.dumps(BEGIN)], "it lacks 'settings'"),
        (["[1]"], "line 1"),
    ],
)
def test_what_is_no_session_is_refused(lines: list[str], says: str, tmp_path: Path) -> None:
    path = tmp_path / "notes.jsonl"
    path.write_text("\n".join(lines))
    with pytest.raises(UserError, match=says):
        WriteSession.read(path)


@pytest.mark.parametrize(
    ("kind", "data", "says"),
    [
        ("undo", {}, "there is no step to take back"),
        ("step", {"candidates": [{"text": "a"}], "choice": 3}, "line 2"),
        ("set", {"settings": {**plain_settings(SETTINGS), "drawn": 0}}, "out of range"),
        ("set", {"settings": {**plain_settings(SETTINGS), "colour": 1}}, "colour"),
        ("dance", {}, "there is no event 'dance'"),
        ("begin", {}, "begins with one event 'begin'"),
    ],
)
def test_an_event_that_cannot_be_is_named(kind: str, data: dict[str, Any], says: str, session: WriteSession) -> None:
    with session.path.open("a") as file:
        file.write(json.dumps({"event_type": kind, "data": data}) + "\n")
    with pytest.raises(UserError, match=f"line 2.*{says}|{says}.*"):
        WriteSession.read(session.path)
