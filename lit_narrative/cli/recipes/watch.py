"""The view of a recipe that runs: in a terminal one that changes in place, elsewhere a line every few seconds."""

import os
import sys
import time
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lit_narrative.cli.arguments import plain_console
from lit_narrative.cli.recipes.meter import Reading, clock, describe_figures
from lit_narrative.cli.recipes.process import Started
from lit_narrative.cli.recipes.recipe import FOLDER_COMMANDS, Job, Recipe
from lit_narrative.report.format import one_line

_FIRST, _SHARE, _LONGEST = 5.0, 0.02, 60.0
"""Seconds between two lines: at first, as a share of the time gone, and at most."""
_LONGEST_LINE = 2**16


class Watch:
    """Shows how far the jobs of a recipe are: without a terminal, as lines.

    Args:
        plan: the recipe.
        seconds: by job, what those took that are done; the caller adds to it.
    """

    live = False
    """Whether the view takes the terminal, so that what the jobs print has to go through it."""

    def __init__(self, plan: Recipe, seconds: Mapping[str, float]) -> None:
        self.plan, self.seconds = plan, seconds
        self._since = self._shown = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        """Leave the screen as it is."""

    def tick(self, running: Collection[Started]) -> None:
        """Show how far the jobs are that run; called several times a second."""
        now = time.monotonic()
        if now - self._shown >= max(_FIRST, min(_SHARE * (now - self._since), _LONGEST)):
            self._shown = now
            for one in running:
                print(f"  {self.name(one.job)}: {', '.join(self.words(one, percentage=True))}", flush=True)

    def ended(self, one: Started) -> None:
        """Show the last of what a job said."""
        self._shown = time.monotonic()

    # --- words ------------------------------------------------------------------------------------------------------

    def name(self, job: Job) -> str:
        """Which of the recipe's jobs it is."""
        return f"job {self.plan.jobs.index(job) + 1} of {len(self.plan.jobs)}, {job.name}"

    def words(self, one: Started, percentage: bool = False) -> list[str]:
        """How far a job is, what it has reached, how long it has taken and will take."""
        reading, gone = one.reading(), time.monotonic() - one.since
        steps = f"{reading.unit} {reading.done}" + (f" of {reading.total}" if reading.total else "")
        parts = [f"{reading.share:.0%}"] if percentage and reading.share is not None else []
        parts += [reading.phase if reading.phase != "learning" else "", reading.epoch, steps if reading.done else ""]
        parts += [*describe_figures(reading.figures), f"{clock(gone)} gone", *self._left(one.job, reading, gone)]
        return [part for part in parts if part]

    def _left(self, job: Job, reading: Reading, gone: float) -> list[str]:
        unit = self._seconds_a_share(job, reading, gone)
        left = reading.left
        if left is None and unit is not None and job.share is not None and job.share * unit > gone:
            left = job.share * unit - gone
        words = ["time left not known" if left is None else f"about {clock(left)} left"]
        after = self.plan.jobs[self.plan.jobs.index(job) + 1 :]
        shares = [other.share for other in after]
        if after and left is not None and unit is not None and self.plan.workers == 1 and None not in shares:
            words.append(f"recipe about {clock(left + unit * sum(share or 0.0 for share in shares))}")
        return words

    def _seconds_a_share(self, job: Job, reading: Reading, gone: float) -> float | None:
        """What a unit of the jobs' shares takes here, by the jobs that are done and by this one's estimate."""
        took = [(other.share, self.seconds[other.name]) for other in self.plan.jobs if other.name in self.seconds]
        took += [] if reading.left is None else [(job.share, gone + reading.left)]
        known = [(share, seconds) for share, seconds in took if share is not None]
        return sum(seconds for _, seconds in known) / sum(share for share, _ in known) if known else None


class LiveWatch(Watch):
    """The view in a terminal: a bar and a few words for each job that runs, below what the jobs print.

    Args:
        plan: the recipe.
        seconds: by job, what those took that are done; the caller adds to it.
        console: the terminal.
    """

    live = True

    def __init__(self, plan: Recipe, seconds: Mapping[str, float], console: Console) -> None:
        super().__init__(plan, seconds)
        self._console = console
        # `print` goes above the view; what is written to another file than the terminal stays there.
        self._live = Live(
            console=self._console, auto_refresh=False, transient=True, redirect_stderr=sys.stderr.isatty()
        )
        self._logs: dict[Path, IO[bytes]] = {}
        self._open = ExitStack()

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *raised: object) -> None:
        """Take the view away, and show what the jobs have said to the last."""
        with self._open:
            for log in self._logs.values():
                self._pass_on(log, whole=True)
        self._live.update("")
        self._live.stop()

    def tick(self, running: Collection[Started]) -> None:
        """Show what the jobs have printed, and how far they are."""
        for one in running:
            if log := self._log(one):
                self._pass_on(log)
        self._live.update(Group(*(self._lines(one) for one in running)), refresh=True)

    def ended(self, one: Started) -> None:
        """Show what a job has printed to the last."""
        if log := self._log(one):
            self._pass_on(log, whole=True)
        self._live.update("", refresh=True)

    def _lines(self, one: Started) -> Group:
        share = one.reading().share
        head = Table.grid(padding=(0, 1), expand=True)
        head.add_column(no_wrap=True, overflow="ellipsis", max_width=self._console.width * 2 // 3)
        head.add_column(ratio=1)
        head.add_column(justify="right", width=4)
        bar = ProgressBar(total=None if share is None else 1.0, completed=share or 0.0, pulse=share is None)
        head.add_row(Text(self.name(one.job)), bar, "" if share is None else f"{share:.0%}")
        return Group(head, Text("  " + ", ".join(self.words(one))))

    def _log(self, one: Started) -> IO[bytes] | None:
        """The file of what a job prints, if that is shown: of jobs side by side it would be a muddle."""
        if one.log is None or (self.plan.workers > 1 and one.job.command not in FOLDER_COMMANDS):
            return None
        if one.log not in self._logs:
            file = self._logs[one.log] = self._open.enter_context(one.log.open("rb"))
            file.seek(one.log_start)
        return self._logs[one.log]

    def _pass_on(self, log: IO[bytes], whole: bool = False) -> None:
        """Print the lines that are new in a log; with ``whole`` also one that has no end yet."""
        while line := log.readline(_LONGEST_LINE):
            if not (whole or line.endswith(b"\n") or len(line) == _LONGEST_LINE):
                log.seek(-len(line), os.SEEK_CUR)
                return
            # Of a line that was written over again and again, as bars are, the last counts.
            text = line.decode("utf-8", errors="replace").rstrip("\r\n").rpartition("\r")[2]
            self._console.print(one_line(text), soft_wrap=True)


def watch_of(plan: Recipe, seconds: Mapping[str, float]) -> Watch:
    """The view for where the output goes."""
    console = plain_console()
    live = sys.stdout.isatty() and not console.is_dumb_terminal
    return LiveWatch(plan, seconds, console) if live else Watch(plan, seconds)
