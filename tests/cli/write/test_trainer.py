"""Writing in the terminal, as a user calls it: piped, resumed, and at a (pseudo) terminal."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lit_narrative.cli.main import main
from lit_narrative.datamodules.poetry import PoetryData
from lit_narrative.datamodules.storyworld import StoryworldData
from lit_narrative.lm.tokenizer import TrainedTokenizer
from lit_narrative.modules.sft import SFTModule
from lit_narrative.tasks.poetry.metrics import topic_shares
from lit_narrative.tasks.poetry.preferences import read_events
from lit_narrative.tasks.poetry.topics import TOPICS
from tests.cli.write.terminal import at_a_terminal
from tests.helpers import sizes, trainer

Write = Callable[..., str]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of verse, hardly trained."""
    folder = tmp_path_factory.mktemp("verse")
    run = trainer(folder, max_steps=20)
    run.fit(
        SFTModule(sizes(positions=64), TrainedTokenizer(kind="words"), lr=1e-2), PoetryData(train_size=80, batch_size=4)
    )
    run.save_checkpoint(folder / "verse.ckpt")
    return folder / "verse.ckpt"


def arguments(checkpoint: Path, folder: Path, config: str = "poetry/steer", *more: str) -> list[str]:
    model = [f"--model.model={checkpoint}", "--model.pplm.stepsize=0.2"] if config == "poetry/steer" else []
    return [
        *("write", "--config", config, *model, f"--trainer.default_root_dir={folder}", "--trainer.accelerator=cpu"),
        *("--data.test_size=10", "--session", str(folder / "s.jsonl"), "--length=6", *more),
    ]


@pytest.fixture
def write(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Write:
    """Type lines into the command; what it shows."""

    def run(*lines: str, more: tuple[str, ...] = (), config: str = "poetry/steer") -> str:
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        monkeypatch.setenv("COLUMNS", "200")
        main(arguments(checkpoint, tmp_path, config, *more))
        return capsys.readouterr().out

    return run


def events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "s.jsonl").read_text().splitlines()]


def kinds(folder: Path) -> list[str]:
    return [event["event_type"] for event in events(folder)]


def text(folder: Path) -> str:
    return (folder / "s.txt").read_text()


def test_a_session_goes_on_as_if_it_had_not_ended(write: Write, tmp_path: Path) -> None:
    first = ("2", "t music", "m bias", "k 3", "temp 0.8", "", "r 6")
    write(*first)
    write("1", "3", "s")
    parted, split = text(tmp_path), [event for event in events(tmp_path) if event["event_type"] == "step"]
    (tmp_path / "s.jsonl").unlink()
    write(*first, "1", "3", "s")
    assert text(tmp_path) == parted
    whole = [event for event in events(tmp_path) if event["event_type"] == "step"]
    assert whole == split
    assert len(whole) == 4
    settings = whole[-1]["data"]["settings"]
    assert (settings["method"], settings["bias"], settings["temperature"], settings["drawn"]) == ("bias", 3.0, 0.8, 6)
    assert settings["topic"]["name"] == "music"
    assert len(whole[-1]["data"]["candidates"]) == 4
    scores = [candidate["score"] for candidate in whole[-1]["data"]["candidates"]]
    assert scores == sorted(scores, reverse=True)


def test_weights_of_the_words_of_a_file_are_kept(write: Write, tmp_path: Path) -> None:
    (tmp_path / "harbour.txt").write_text("tide 3\nship 0.5\n")
    options = (f"--data.topics=[{tmp_path / 'harbour.txt'}]", "--model.method=bias")
    write("t harbour", "2", "s", more=options)
    step = next(event for event in events(tmp_path) if event["event_type"] == "step")
    assert step["data"]["settings"]["topic"]["words"] == {"tide": 3.0, "ship": 0.5}


def test_undo_takes_back_a_step_and_shows_the_same_candidates(write: Write, tmp_path: Path) -> None:
    write("2", "u", "2", "u", "1", "u", "s", "u")
    steps = [event["data"] for event in events(tmp_path) if event["event_type"] == "step"]
    assert steps[0] == steps[1]
    assert steps[0]["candidates"] == steps[2]["candidates"]
    assert text(tmp_path) == events(tmp_path)[0]["data"]["text"] + "\n"
    assert kinds(tmp_path) == ["begin", "step", "undo", "step", "undo", "step", "undo"]


def test_other_candidates_can_be_asked_for(write: Write, tmp_path: Path) -> None:
    write("1", "u", "r 4", "1")
    old, new = [event["data"]["candidates"] for event in events(tmp_path) if event["event_type"] == "step"]
    assert {candidate["text"] for candidate in old} != {candidate["text"] for candidate in new}


REFUSED = {
    "look": "'look' is not a command",
    "5": "there are 4 candidates; nothing was changed",
    "0": "there are 4 candidates; nothing was changed",
    "u": "there is no step to take back",
    "t musc": "did you mean 'music'?",
    "m bais": "method: there is no 'bais'; did you mean 'bias'?",
    "m experts": "set model.experts.expert",
    "k strong": "'strong' is not a number for stepsize",
    "k -1": "must be a number of 0 or more",
    "temp 0": "must be above 0",
    "temp nan": "is not a number",
    "r 0": "at least one candidate",
    "r 1e9": "at most",
    "s /dev/null/x": "cannot be written",
    "rate 2": "a rating is from 0 to 1",
}


def test_what_cannot_be_done_is_said_and_changes_nothing(write: Write, tmp_path: Path) -> None:
    shown = write(*REFUSED, "", "s")
    assert [says for says in REFUSED.values() if says not in shown] == []
    assert kinds(tmp_path) == ["begin", "step"]
    written = text(tmp_path)
    (tmp_path / "s.jsonl").unlink()
    write("", "s")
    assert text(tmp_path) == written


def test_candidates_are_ranked_by_the_reward_that_is_configured(write: Write, tmp_path: Path) -> None:
    write("r 20", "", more=("--model.method=none", "--model.attributes=[]", "--model.best_of.rank=topic_share"))
    candidates = events(tmp_path)[-1]["data"]["candidates"]
    shares = [topic_shares([candidate["text"]], TOPICS["ocean"].bag, (), ()).bag for candidate in candidates]
    assert [candidate["score"] for candidate in candidates] == pytest.approx(shares)
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0


def test_a_long_text_is_read_from_its_end_where_that_is_asked_for(write: Write, tmp_path: Path) -> None:
    write("e" + " the tide" * 60, "", "s", more=("--model.long_prompts=truncate_left",))
    assert kinds(tmp_path) == ["begin", "prompt", "step"]
    assert text(tmp_path).startswith("the tide the tide")


def test_feedback_is_recorded_for_a_reward_model(write: Write, tmp_path: Path) -> None:
    shown = write("", "+", "-", "rate 0.3", "s")
    assert shown.count("nothing was trained by it") == 3
    assert [row.score for row in read_events(tmp_path / "s.jsonl")] == [1.0, 0.0, 0.3]
    assert all(row.text + "\n" == text(tmp_path) for row in read_events(tmp_path / "s.jsonl"))


def test_new_prompts(write: Write, tmp_path: Path) -> None:
    shown = write("e", "", "e the tide turns\\n", "s", more=("--prompt", "no hour waits\\n"))
    begun = [event["data"] for event in events(tmp_path) if event["event_type"] in {"begin", "prompt"}]
    assert begun[0]["text"] == "no hour waits\n"
    assert (begun[1]["number"], begun[2]) == (1, {"text": "the tide turns\n", "number": 1})
    assert text(tmp_path) == "the tide turns\n\n"
    assert "topic ocean" in shown
    assert "topic forest" in shown


def test_no_text_acts_on_the_terminal(write: Write, tmp_path: Path) -> None:
    shown = write("e \x1b]0;title\x07 [bold]red[/bold] :smile:\\n\u202ewave", "t \x1b[31m")
    assert "\ufffd]0;title\ufffd [bold]red[/bold] :smile:" in shown
    assert not set("\x1b\x07\u202e") & set(shown)


def test_a_text_longer_than_the_context_does_not_end_the_session(write: Write, tmp_path: Path) -> None:
    shown = write("e" + " the tide" * 60, "", "u", "", "s")
    assert "u takes a step back" in shown
    assert "there are 0 candidates" in shown
    assert kinds(tmp_path) == ["begin", "prompt", "undo", "step"]


def test_the_checkpoint_of_another_module_writes_unsteered_until_it_is_told_otherwise(
    write: Write, checkpoint: Path, tmp_path: Path
) -> None:
    shown = write(
        "", "k 1", "m bias", "t winter", "m bias", "", config="poetry/sft", more=("--ckpt_path", str(checkpoint))
    )
    assert "method none · topic ocean" in shown
    assert "the method none has no strength" in shown
    assert "nothing to steer to" in shown
    assert "does not steer to topics" in shown
    assert "method bias · bias 2 · topic winter" in shown
    assert kinds(tmp_path) == ["begin", "step", "set", "set", "step"]


@pytest.mark.parametrize(
    ("config", "more", "says"),
    [
        ("poetry/sft", (), "still to be trained"),
        ("poetry/sft", ("--ckpt_path", "none.ckpt"), "there is no checkpoint 'none.ckpt'"),
        ("poetry/reward", (), "RewardModule writes no text"),
        ("poetry/steer", ("--model.model=none.ckpt",), "no checkpoint at 'none.ckpt'"),
        ("poetry/steer", ("--model.attributes=[{bag: oceann, column: null}]",), "did you mean 'ocean'"),
        ("poetry/steer", ("--candidates=0",), "--candidates is 0"),
        ("poetry/steer", ("--length=64",), "leaves no room for a prompt"),
        ("poetry/steer", ("--sesion=x",), "did you mean"),
    ],
)
def test_what_cannot_begin_is_one_error(
    config: str, more: tuple[str, ...], says: str, write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        write("", config=config, more=more)
    assert end.value.code == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "s.jsonl").exists()


def test_a_file_that_is_no_session_stays_as_it_is(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s.jsonl").write_text("my notes\n")
    with pytest.raises(SystemExit):
        write("")
    assert "not an event of a session" in capsys.readouterr().err
    assert (tmp_path / "s.jsonl").read_text() == "my notes\n"


def test_at_a_terminal(checkpoint: Path, tmp_path: Path) -> None:
    """A person types, moves within a line by the arrow keys, and leaves by Ctrl-C in the middle of one."""
    answers = (b"2\n", b"e th tide\x1b[D\x1b[D\x1b[D\x1b[D\x1b[De\n", b"unfinished\x03")
    shown = at_a_terminal(arguments(checkpoint, tmp_path), answers, TERM="xterm", COLUMNS="80")
    assert "what comes next" in shown
    assert "resume it with --session" in shown
    assert "Traceback" not in shown
    assert kinds(tmp_path) == ["begin", "step", "prompt"]
    assert events(tmp_path)[-1]["data"]["text"] == "the tide"


def test_a_candidate_of_a_world_is_as_long_as_the_model_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(tmp_path, max_steps=1)
    model = sizes(positions=1024)
    data = StoryworldData(train_size=2, val_size=2, test_size=2, batch_size=2)
    run.fit(SFTModule(model, TrainedTokenizer(vocab_size=300), long_examples="truncate"), data)
    run.save_checkpoint(tmp_path / "worlds.ckpt")
    monkeypatch.setattr(sys, "stdin", io.StringIO("q\n"))
    small = ["--data.train_size=2", "--data.test_size=2", "--model.sampling.max_new_tokens=50"]
    given = [f"--model.model={tmp_path / 'worlds.ckpt'}", f"--session={tmp_path / 's.jsonl'}", "--candidates=1"]
    main(["write", "--config=storyworld/sft", *given, *small, f"--trainer.default_root_dir={tmp_path}"])
    (begun,) = events(tmp_path)
    assert begun["data"]["settings"]["length"] == 50
