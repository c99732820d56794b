"""What a person sees while writing; model text is shown as plain text, whatever is in it."""

from collections.abc import Sequence

from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from lit_narrative.cli.arguments import plain_console
from lit_narrative.cli.write.commands import FORMS, usage
from lit_narrative.cli.write.engine import STRENGTHS
from lit_narrative.cli.write.session import Candidate, WriteSession, WriteSettings
from lit_narrative.report.format import one_line

LINES = 24
"""Lines of the text so far that are shown, the last ones."""


class WriteScreen:
    """Prints to the terminal."""

    def __init__(self) -> None:
        self.console = plain_console()

    def say(self, text: str) -> None:
        """Print a message."""
        self.console.print(block(text), soft_wrap=True)

    def show(self, session: WriteSession, topic: str | None, candidates: Sequence[Candidate]) -> None:
        """Print the text so far, the settings, and the candidates."""
        lines = session.position.text.split("\n")
        shown = "\n".join(["…", *lines[-LINES:]] if len(lines) > LINES else lines)
        # The end of a long text is what the next candidates continue.
        self.console.print(Panel(block(shown), title=Text(f"step {session.step + 1}"), title_align="left"))
        self.console.print(Text(describe(session.settings, topic), style="dim"))
        if candidates:
            self.console.print(_table(candidates))

    def help(self) -> None:
        """Print the list of commands."""
        table = Table(box=None, show_header=False)
        table.add_row("1, 2 …", "take that candidate; Enter takes the first")
        for form in FORMS:
            table.add_row(usage(form), form.means)
        self.console.print(table)


def _table(candidates: Sequence[Candidate]) -> Table:
    scored = any(candidate.score is not None for candidate in candidates)
    table = Table("", "what comes next", *(["score"] if scored else []), show_lines=True)
    for number, candidate in enumerate(candidates, 1):
        text = block(candidate.text)
        if candidate.finished:
            text.append(" (the end)", style="dim")
        score = "" if candidate.score is None else f"{candidate.score:.3f}"
        table.add_row(str(number), text, *([score] if scored else []))
    return table


def block(text: str) -> Text:
    """Text of several lines that cannot act on the terminal."""
    # `one_line` turns line ends into spaces too, so lines are cut first. A Text object is never read as markup.
    return Text("\n".join(one_line(line) for line in text.split("\n")))


def describe(settings: WriteSettings, topic: str | None) -> str:
    """The settings in a line."""
    name = STRENGTHS.get(settings.method)
    strength = getattr(settings, name) if name else None
    parts = [
        f"method {settings.method}",
        f"{name} {strength if isinstance(strength, str) else f'{strength:.4g}'}" if name else "",
        f"topic {one_line(topic)}" if topic else "",
        f"temperature {settings.temperature:g}",
        f"best {settings.shown} of {settings.drawn}" if settings.drawn > settings.shown else "",
    ]
    return " · ".join(part for part in parts if part)
