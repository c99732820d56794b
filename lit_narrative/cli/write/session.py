"""A session of writing: a log of events, one JSON object a line, from which everything comes back.

Each event is ``{"event_type": …, "data": {…}}``, the form of ``tasks/poetry/preferences.py``: ratings are ratings
there, the other events of a session judge nothing.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lit_narrative.errors import UserError
from lit_narrative.files import read_utf8, write_jsonl
from lit_narrative.seeds import stream_seed
from lit_narrative.steering.settings import Method


@dataclass(frozen=True)
class ChosenTopic:
    """What a person asked to be written about.

    Attributes:
        name: of the topic.
        words: to steer by, with their weights.
        held_out: words that steering may not know.
    """

    name: str
    words: Mapping[str, float]
    held_out: Sequence[str] = ()


@dataclass(frozen=True)
class WriteSettings:
    """What a person may change while writing.

    Attributes:
        method: of steering.
        stepsize: strength of ``pplm``.
        bias: strength of ``bias``.
        coefficient: strength of ``activation``.
        alpha: strength of ``experts``.
        temperature: of sampling.
        drawn: candidates drawn at each step.
        shown: the best of them, which are shown.
        length: tokens of a step, at most.
        topic: what to write about; None: as the configuration says.
        again: how often other candidates were asked for at this step.
    """

    method: Method
    stepsize: float | Literal["auto"]
    bias: float
    coefficient: float
    alpha: float
    temperature: float
    drawn: int
    shown: int
    length: int
    topic: ChosenTopic | None = None
    again: int = 0


@dataclass(frozen=True)
class Candidate:
    """What might come next.

    Attributes:
        text: of the segment.
        finished: whether the model ended the text there.
        score: what it was ranked by; None: there is no such thing.
    """

    text: str
    finished: bool
    score: float | None


@dataclass(frozen=True)
class Position:
    """Where the text stands.

    Attributes:
        prompt: its beginning.
        number: of the task's prompt whose columns go with it.
        written: what was written behind the beginning.
    """

    prompt: str
    number: int
    written: str = ""

    @property
    def text(self) -> str:
        """The whole text."""
        return self.prompt + self.written


class WriteSession:
    """The events so far, in memory and in a file; each one is there when `record` returns.

    Args:
        path: the file; each event replaces it by a whole new one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events: list[dict[str, Any]] = []
        self.positions: list[Position] = []
        self.seed, self.model = 0, ""
        self.settings: WriteSettings

    @classmethod
    def read(cls, path: Path) -> "WriteSession":
        """Go through the events of a file.

        Raises:
            UserError: it holds no session, or an event that cannot be.
        """
        session = cls(path)
        for line, text in enumerate(read_utf8(path).removesuffix("\n").split("\n"), 1):
            try:
                event = json.loads(text)
                if bool(session.events) == (event["event_type"] == "begin"):  # the first event, and no other
                    raise ValueError("a session begins with one event 'begin'")
                session._follow(event["event_type"], event["data"])
            except (ValueError, KeyError, TypeError, IndexError) as error:
                reason = f"it lacks {error}" if isinstance(error, KeyError) else error
                raise UserError(
                    f"{path}, line {line}: not an event of a session ({reason}); name another file"
                ) from error
            session.events.append(event)
        if not session.events:
            raise UserError(f"{path} is empty and holds no session; remove it, or name another file")
        return session

    @property
    def position(self) -> Position:
        """Where the text stands."""
        return self.positions[-1]

    @property
    def step(self) -> int:
        """Steps and new prompts so far, less those taken back."""
        return len(self.positions) - 1

    def step_seed(self, settings: WriteSettings) -> int:
        """The seed of this step's candidates under ``settings``."""
        return stream_seed(self.seed, self.step, settings.again)

    def record(self, kind: str, **data: Any) -> None:
        """Write an event down, and let it happen.

        Raises:
            UserError: the file cannot be written; nothing has happened then.
        """
        # The file first: what a person has seen happen is never lost to a kill.
        events = [*self.events, {"event_type": kind, "data": data}]
        try:
            write_jsonl(self.path, events)
        except OSError as error:
            raise UserError(f"the session {self.path} cannot be written: {error.strerror}") from error
        self._follow(kind, data)
        self.events = events

    def _follow(self, kind: str, data: Mapping[str, Any]) -> None:
        """Change what an event changes."""
        match kind:
            case "begin":
                self.seed, self.model = int(data["seed"]), str(data["model"])
                self.positions, self.settings = (
                    [Position(_text(data["text"]), int(data["number"]))],
                    read_settings(data),
                )
            case "set":
                self.settings = read_settings(data)
            case "step":
                added = _text(data["candidates"][data["choice"] - 1]["text"])
                self._move(replace(self.position, written=self.position.written + added))
            case "prompt":
                self._move(Position(_text(data["text"]), int(data["number"])))
            case "undo":
                if not self.step:
                    raise ValueError("there is no step to take back")
                self.positions.pop()  # settings stay as they are, but the count of redrawn candidates is a step's
                self.settings = replace(self.settings, again=0)
            case "rate":
                if not 0 <= data["rating"] <= 1:
                    raise ValueError("a rating is from 0 to 1")
            case _:
                raise ValueError(f"there is no event '{kind}'")

    def _move(self, position: Position) -> None:
        self.positions.append(position)
        self.settings = replace(self.settings, again=0)


def plain_settings(settings: WriteSettings) -> dict[str, Any]:
    """Settings for an event."""
    return asdict(settings)


def read_settings(data: Mapping[str, Any]) -> WriteSettings:
    """Settings from an event.

    Raises:
        KeyError: it has none.
        TypeError: a setting is missing or unknown.
        ValueError: one is out of range.
    """
    given = dict(data["settings"])
    topic = given.pop("topic", None)
    settings = WriteSettings(**given, topic=ChosenTopic(**topic) if topic else None)
    if min(settings.drawn, settings.shown, settings.length) < 1 or not math.isfinite(settings.temperature):
        raise ValueError("a setting is out of range")
    return settings


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"a text is asked for, got {value!r}")
    return value
