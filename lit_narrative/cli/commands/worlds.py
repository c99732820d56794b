"""Commands on files of storyworlds: ``lit-narrative score`` judges them, ``lit-narrative play`` plays one."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lit_narrative.cli.arguments import plain_console, printable
from lit_narrative.errors import UserError, check_least
from lit_narrative.tasks.storyworld.expressions import Condition, describe
from lit_narrative.tasks.storyworld.issues import Issue
from lit_narrative.tasks.storyworld.simulator.play import Play
from lit_narrative.tasks.storyworld.simulator.play import play as play_once
from lit_narrative.tasks.storyworld.simulator.statistics import DEAD_ENDS, Simulation, simulate
from lit_narrative.tasks.storyworld.verifiers.base import SIX
from lit_narrative.tasks.storyworld.verifiers.score import FormerMode, Mode
from lit_narrative.tasks.storyworld.verifiers.score import score as judge
from lit_narrative.tasks.storyworld.world import Encounter, World
from lit_narrative.tasks.storyworld.world_files import read_world_file

MOST_SHOWN = 30
"""Issues of one file that the table lists."""


def score(files: list[str], mode: Mode | FormerMode = "strict", format: Literal["table", "json"] = "table") -> None:
    """Score files as storyworlds: six components, their weighted total, and what is wrong.

    Args:
        files: files that each hold one text.
        mode: strict is what policies are trained on; original repeats the formulas of the system that this project
            began from (seed is its former name).
        format: a table to read, or one JSON list with an object a file: file, components, total, issues, and
            parts: what makes a world sound, answered by seeded plays.

    Raises:
        SystemExit: with code 1, behind the scores of all files, where one of them could not be read.
    """
    rows = [_judged(file, mode) for file in files]
    if format == "json":
        print(json.dumps([_plain(row) for row in rows], indent=2))
    else:
        _print_table(rows)
    if not all(row.readable for row in rows):
        raise SystemExit(1)


@dataclass(frozen=True, slots=True)
class _Row:
    """A file with its scores; one that cannot be read has 0 in each, and why as its one issue."""

    file: str
    components: dict[str, float]
    total: float
    issues: tuple[Issue, ...]
    parts: dict[str, bool]
    readable: bool = True


def _judged(file: str, mode: Mode | FormerMode) -> _Row:
    try:
        result = judge(read_world_file(file), mode=mode)
    except UserError as error:
        return _Row(file, dict.fromkeys(SIX, 0.0), 0.0, (Issue("$", str(error)),), {}, readable=False)
    return _Row(file, {name: result.components[name] for name in SIX}, result.total, result.issues, result.parts)


def _plain(row: _Row) -> dict[str, Any]:
    issues = [{"path": i.path, "message": i.message, "severity": i.severity} for i in row.issues]
    return {"file": row.file, "components": row.components, "total": row.total, "issues": issues, "parts": row.parts}


def _print_table(rows: list[_Row]) -> None:
    console = plain_console()
    columns = (*SIX, "total")
    # What the numbers leave is for the name of the file, which is cut where it does not fit.
    name_width = console.width - sum(len(name) + 2 for name in columns)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("file", overflow="ellipsis", no_wrap=True, max_width=max(name_width, 12))
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True, min_width=len(name))
    for row in rows:
        numbers = [f"{number:.3f}" for number in (*row.components.values(), row.total)]
        table.add_row(Text(printable(Path(row.file).name)), *numbers)
    console.print(table)
    for row in rows:
        console.print(Text(f"\n{printable(row.file)}: {_count(row.issues)}", "bold"), overflow="fold")
        if row.parts:
            console.print(f"  {_verdict(row.parts)}")
        for issue in row.issues[:MOST_SHOWN]:
            console.print(_line(issue))
        if len(row.issues) > MOST_SHOWN:
            console.print(Text(f"  … {len(row.issues) - MOST_SHOWN} more; --format json lists all"))


def _count(issues: tuple[Issue, ...]) -> str:
    errors = sum(issue.severity == "error" for issue in issues)
    return f"{errors} errors, {len(issues) - errors} warnings" if issues else "no issues"


def _verdict(parts: dict[str, bool]) -> str:
    """Whether a world is sound, and what it lacks."""
    if not parts["parses"]:
        return "no world"
    missing = [words for name, words in LACKS.items() if not parts[name]]
    if not missing:
        return "sound: seeded plays meet two endings, a gate open and closed, and no dead end"
    return f"{'playable' if parts['playable'] else 'not playable'}, not sound: {', '.join(missing)}"


def _line(issue: Issue) -> Text:
    style = "red" if issue.severity == "error" else "yellow"
    return Text.assemble(
        "  ", (f"{issue.severity:<8}", style), (printable(issue.path), "cyan"), "  ", printable(issue.message)
    )


LACKS = {
    "no_error": "it has errors",
    "two_endings": "seeded plays meet too few endings",
    "no_dead_end": "a play came to a dead end",
    "live_gate": "no gate was met both open and closed",
}
"""What a world that is not sound lacks, by the part of soundness."""
ENDS = {
    "ending": "The end.",
    "implicit": "The story stops here: the option does not say what follows.",
    "stuck": "Stuck: no option is open.",
    "dangling": "Lost: the encounter that should follow does not exist.",
    "timeout": "Stopped: the play took too many steps.",
}


def play(
    file: str,
    seed: int = 0,
    policy: Literal["interactive", "random"] = "interactive",
    runs: int = 200,
    max_steps: int = 200,
) -> None:
    """Play a storyworld.

    Args:
        file: a world in the simple format.
        seed: source of every random choice, 0 or more.
        policy: interactive asks for each choice (an empty answer takes a random open option); random plays many
            times and prints endings, dead ends and coverage.
        runs: number of random plays.
        max_steps: bound on the steps of a play.

    Raises:
        UserError: A number is out of range, the file cannot be read or played, or there is no terminal to ask in.
    """
    check_least("--runs", runs, 1)
    check_least("--max_steps", max_steps, 1)
    check_least("--seed", seed, 0)
    world, parts = _open(file)
    console = plain_console()
    if policy == "random":
        _print_simulation(console, simulate(world, runs, seed, max_steps=max_steps))
        console.print(f"as scored   {_verdict(parts)}")
        return
    # Without a terminal input() would read a pipe, and end at once with EOFError.
    if not sys.stdin.isatty():
        raise UserError("there is no terminal to ask in; play at random with `--policy random`")
    reader = Reader(console)
    try:
        _print_end(console, world, play_once(world, np.random.default_rng(seed), reader.choose, max_steps))
    except (EOFError, KeyboardInterrupt):
        console.print("\nleft the story")


class Reader:
    """Shows encounters on a console and asks a person to choose."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def choose(
        self, rng: np.random.Generator, encounter: Encounter, state: dict[str, float], open_options: tuple[int, ...]
    ) -> int:
        """Show an encounter and ask until the answer is the number of an open option, or empty for a random one."""
        self._show(encounter, state, open_options)
        while True:
            answer = input(f"choose 1 to {len(encounter.options)} (Enter: at random, Ctrl-D: leave) > ").strip()
            if not answer:
                choice = open_options[int(rng.integers(len(open_options)))]
            # isdecimal, since isdigit takes "²" too; nine digits, since int() refuses very long numbers.
            elif answer.isdecimal() and int(answer[:9]) - 1 in open_options:
                choice = int(answer) - 1
            else:
                self.console.print("that is not an open option")
                continue
            self._follow(encounter, choice)
            return choice

    def _show(self, encounter: Encounter, state: dict[str, float], open_options: tuple[int, ...]) -> None:
        self.console.print(Text(f"\n{printable(encounter.text)}", style="bold"))
        self.console.print(Text("  ".join(f"{printable(n)} {v:g}" for n, v in state.items()), style="dim"))
        for i, option in enumerate(encounter.options):
            line = f"  {i + 1}. {printable(option.text or option.id)}"
            if i in open_options:
                self.console.print(Text(line))
            else:
                needs = " and ".join(_condition(gate) for gate in option.gates)
                self.console.print(Text(f"{line}  (closed: {needs})", style="dim"))

    def _follow(self, encounter: Encounter, choice: int) -> None:
        option = encounter.options[choice]
        self.console.print(Text(f"→ {printable(option.text or option.id)}", style="cyan"))
        for reaction in option.reactions:
            if reaction.text:
                self.console.print(Text(printable(reaction.text)))
            if reaction.leads:
                break


def _open(file: str) -> tuple[World, dict[str, bool]]:
    """The world in a file, and the parts of its soundness."""
    result = judge(read_world_file(file))
    if result.world is None or not result.world.encounters:
        first = result.issues[0]
        raise UserError(f"'{file}' cannot be played: {first.path}: {first.message}")
    return result.world, result.parts


def _condition(gate: Condition) -> str:
    return printable(describe(gate))


def _print_end(console: Console, world: World, played: Play) -> None:
    last = played.steps[-1]
    # Not shown yet: a reader is asked only where there is a choice.
    if last.choice is None:
        console.print(Text(f"\n{printable(world.encounters[last.index].text)}", style="bold"))
    console.print(f"\n{ENDS[played.outcome]}")
    console.print(Text("  ".join(f"{printable(n)} {v:g}" for n, v in played.state.items()), style="dim"))


def _print_simulation(console: Console, result: Simulation) -> None:
    table = Table("outcome", "share of plays", "95 % interval", title=f"{result.runs} random plays")
    for ending in result.endings:
        interval = f"{ending.low:.1%} to {ending.high:.1%}"
        table.add_row(Text(f"ending {printable(ending.encounter)}"), f"{ending.share:.1%}", interval)
    for name in ("implicit", *DEAD_ENDS):
        table.add_row("no word of what follows" if name == "implicit" else name, f"{result.outcomes.get(name, 0):.1%}")
    console.print(table)
    console.print(f"dead ends   {result.dead_end_rate:.1%} of plays (stuck, dangling, timeout)")
    console.print(f"coverage    {result.coverage:.1%} of encounters visited")
    console.print(f"endings     {result.reachability:.1%} met; {result.effective_endings:.2f} effective endings")
    console.print(f"secrets     {result.secret_reach:.1%} of plays took an option closed at the start")
    console.print(f"paths       {result.path_diversity:.1%} distinct; late options closed {result.late_block:.1%}")
    _print_gates(console, result)


def _print_gates(console: Console, result: Simulation) -> None:
    idle = [gate for gate in result.gates if gate.always_open or gate.never_open or not gate.seen]
    for gate in idle:
        fate = "always open" if gate.always_open else "never open" if gate.never_open else "never offered"
        console.print(Text(f"gate        {printable(gate.option)} at {printable(gate.encounter)}: {fate}", "yellow"))
