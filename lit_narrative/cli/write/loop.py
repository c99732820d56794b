"""The loop of writing: show, ask, do; each thing that was done is in the session before the next is asked."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from lit_narrative.cli.write.commands import Command, Name, parse, read_number
from lit_narrative.cli.write.engine import STRENGTHS, WriteEngine
from lit_narrative.cli.write.screen import WriteScreen
from lit_narrative.cli.write.session import Candidate, WriteSession, WriteSettings, plain_settings
from lit_narrative.errors import UserError, check_choice
from lit_narrative.files import write_text
from lit_narrative.steering.settings import Method

MOST = 1000
"""Candidates that may be drawn at a step."""


class WriteLoop:
    """One person, one text, one model.

    Args:
        engine: proposes what comes next.
        session: what was written so far.
        screen: shows it.
        ask: gives a line that a person typed.
    """

    def __init__(
        self, engine: WriteEngine, session: WriteSession, screen: WriteScreen, ask: Callable[[str], str]
    ) -> None:
        self.engine, self.session, self.screen, self.ask = engine, session, screen, ask
        self.drawn: list[Candidate] | None = None
        self.quits = False
        self._do: dict[Name, Callable[[Command], None]] = {
            "take": self._take,
            "undo": self._undo,
            "topic": self._topic,
            "strength": self._strength,
            "temperature": lambda c: self._change(temperature=c.number),
            "method": self._method,
            "rerank": self._rerank,
            "rate": self._rate,
            "new": self._new,
            "save": self._save,
            "help": lambda c: self.screen.help(),
            "quit": self._quit,
        }

    def run(self) -> None:
        """Write until the person has enough; end of input and Ctrl-C end it too."""
        self.screen.say("Enter takes the first candidate, a number another one; ? lists the commands.")
        try:
            while not self.quits:
                if self.drawn is None:
                    self._draw()
                self._answer(self.ask("> "))
        except (EOFError, KeyboardInterrupt):
            self.screen.say("")
        self.screen.say(f"the session is in {self.session.path}; resume it with --session {self.session.path}")

    def _draw(self) -> None:
        """Draw candidates and show them; a text that cannot be continued has none."""
        try:
            settings, self.drawn = self._drawn(self.session.settings)
            if settings != self.session.settings:
                self._set(settings)
        except UserError as error:
            self.drawn = []
            self._show()
            self.screen.say(f"{error} (u takes a step back, e begins a new text)")
        else:
            self._show()

    def _show(self) -> None:
        self.screen.show(self.session, self.engine.topic_name(self.session), self.drawn or [])

    def _drawn(self, settings: WriteSettings) -> tuple[WriteSettings, list[Candidate]]:
        return self.engine.draw(self.session.position, settings, self.session.step_seed(settings))

    def _answer(self, line: str) -> None:
        try:
            command = parse(line)
            self._do[command.name](command)
        except UserError as error:
            self.screen.say(str(error))

    # --- commands ---------------------------------------------------------------------------------------------------

    def _take(self, command: Command) -> None:
        session, drawn = self.session, self.drawn or []
        number = 1 if command.number is None else int(command.number)
        if not 1 <= number <= len(drawn):
            raise UserError(f"there are {len(drawn)} candidates; nothing was changed")
        session.record(
            "step",
            step=session.step,
            seed=session.step_seed(session.settings),
            settings=plain_settings(session.settings),
            candidates=[{"text": c.text, "finished": c.finished, "score": c.score} for c in drawn],
            choice=number,
            asked=command.number is not None,
        )
        self.drawn = None

    def _undo(self, command: Command) -> None:
        if not self.session.step:
            raise UserError("there is no step to take back")
        self.session.record("undo")
        self.drawn = None

    def _topic(self, command: Command) -> None:
        self._change(topic=self.engine.topic(command.text))
        method = self.session.settings.method
        if method in {"none", "experts"}:
            self.screen.say(f"the method {method} does not steer to topics; candidates are only ranked by theirs")

    def _strength(self, command: Command) -> None:
        name = STRENGTHS.get(self.session.settings.method)
        if name is None:
            raise UserError("the method none has no strength; choose another by m")
        value = "auto" if command.text == "auto" and name == "stepsize" else read_number(command.text)
        if value is None:
            raise UserError(f"'{command.text}' is not a number for {name}")
        self._change(**{name: value})

    def _method(self, command: Command) -> None:
        check_choice("method", command.text, get_args(Method))
        self._change(method=command.text)

    def _rerank(self, command: Command) -> None:
        assert command.number is not None
        if not 1 <= command.number <= MOST:
            raise UserError(f"at least one candidate is drawn, and at most {MOST}")
        self._change(drawn=int(command.number), again=self.session.settings.again + 1)

    def _rate(self, command: Command) -> None:
        text = self.session.position.text
        if not text.strip():
            raise UserError("there is no text to rate")
        self.session.record("rate", text=text, rating=command.number)
        self.screen.say(
            f"recorded: rating {command.number:g} of the whole text, {len(text)} characters; nothing was trained by it"
        )

    def _new(self, command: Command) -> None:
        text = command.text.replace("\\n", "\n")
        position = self.session.position
        begun = self.engine.beginning(position.number, text) if text else self.engine.beginning(position.number + 1)
        self.session.record("prompt", text=begun.text, number=begun.number)
        self.drawn = None

    def _save(self, command: Command) -> None:
        path = Path(command.text) if command.text else self.session.path.with_suffix(".txt")
        if path.resolve() == self.session.path.resolve():
            raise UserError(f"{path} is the session itself; name another file")
        try:
            write_text(path, self.session.position.text + "\n")
        except OSError as error:
            raise UserError(f"'{path}' cannot be written: {error.strerror}") from error
        self.screen.say(f"text: {path}; session: {self.session.path}")

    def _quit(self, command: Command) -> None:
        self.quits = True

    # --- settings ---------------------------------------------------------------------------------------------------

    def _change(self, **changes: Any) -> None:
        """Change settings, once candidates could be drawn with them."""
        settings, drawn = self._drawn(replace(self.session.settings, **changes))
        self._set(settings)
        self.drawn = drawn
        self._show()

    def _set(self, settings: WriteSettings) -> None:
        self.session.record("set", settings=plain_settings(settings))
