"""The command ``lit-narrative play``: a world in the terminal, by a person, at random, or by a script."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lit_narrative.cli.arguments import check_places, plain_console, printable
from lit_narrative.cli.commands.worlds import count_issues, verdict
from lit_narrative.errors import UserError, check_least
from lit_narrative.files import write_jsonl
from lit_narrative.tasks.storyworld.expressions import TOLERANCE, Condition, describe
from lit_narrative.tasks.storyworld.formats.read import FILE_LIMITS, read_any
from lit_narrative.tasks.storyworld.issues import Issue
from lit_narrative.tasks.storyworld.scripts import Nudge
from lit_narrative.tasks.storyworld.simulator.engine import Engine, ReactionTie
from lit_narrative.tasks.storyworld.simulator.engine_plays import Situation, engine_play
from lit_narrative.tasks.storyworld.simulator.policies import said, scripted, told, uniform
from lit_narrative.tasks.storyworld.simulator.records import Play
from lit_narrative.tasks.storyworld.simulator.records import trace as trace_rows
from lit_narrative.tasks.storyworld.simulator.statistics import DEAD_ENDS, Simulation, simulate
from lit_narrative.tasks.storyworld.verifiers.base import VerifierConfig
from lit_narrative.tasks.storyworld.verifiers.score import score as judge
from lit_narrative.tasks.storyworld.world import World
from lit_narrative.tasks.storyworld.world_files import read_world_texts

MOST_VARIABLES = 12
"""Variables that are shown to a reader."""
ENDS = {
    "ending": "The end.",
    "implicit": "The story stops here: nothing says what follows, or nothing is left that could.",
    "stuck": "Stuck: no option is open.",
    "dangling": "Lost: the encounter that should follow does not exist.",
    "timeout": "Stopped: the play took too many steps.",
}


def play(
    file: str,
    seed: int = 0,
    policy: Literal["interactive", "random", "scripted"] = "interactive",
    runs: int = 200,
    max_steps: int = 200,
    choices: Sequence[str] = (),
    nudge: Nudge = "asymptotic",
    reaction_tie: ReactionTie = "first",
    trace: str | None = None,
    sample: int | None = None,
) -> None:
    """Play a storyworld.

    Args:
        file: a world in the simple format or of SweepWeave, or a .jsonl file of worlds or samples.
        seed: source of every random choice, 0 or more.
        policy: interactive asks for each choice (an empty answer takes a random open option); random plays many
            times and prints endings, dead ends and coverage; scripted takes the --choices, and then at random.
        runs: number of random plays.
        max_steps: bound on the steps of a play.
        choices: of a scripted play: ids of options, or their positions from 1.
        nudge: what the operator of that name means: asymptotic, x(1 - |w|) + w, or additive, x + w cut to -1 to 1.
        reaction_tie: which of equally desirable reactions follows.
        trace: file for the steps of the plays, one JSON object a line.
        sample: number of the one of a .jsonl file, from 1.

    Raises:
        UserError: A number is out of range, the file cannot be read or played, there is no terminal to ask in, or
            --choices names an option that is not open.
    """
    check_least("--runs", runs, 1)
    check_least("--max_steps", max_steps, 1)
    check_least("--seed", seed, 0)
    if choices and policy != "scripted":
        raise UserError(f"--choices are for --policy scripted, not {policy}")
    check_places(file, trace=trace)
    text = world_text(file, sample)
    world, issues = open_world(file, text)
    engine, console, kept = Engine(world, nudge, reaction_tie), plain_console(), list[Play]()
    if policy == "random":
        keep = kept.append if trace else None
        print_simulation(console, simulate(engine, runs, seed, max_steps=max_steps, keep=keep))
        judged = judge(text, config=VerifierConfig(limits=FILE_LIMITS))
        console.print(f"as scored   {verdict(judged.parts)}")
        _print_issues(console, issues)
    else:
        # Without a terminal input() would read a pipe, and end at once with EOFError.
        if policy == "interactive" and not sys.stdin.isatty():
            raise UserError("there is no terminal to ask in; play at random with `--policy random`")
        kept += _one_play(console, engine, np.random.default_rng(seed), choices, policy == "scripted", max_steps)
    if trace:
        write_jsonl(trace, (row for number, one in enumerate(kept) for row in trace_rows(Path(file).stem, number, one)))
        console.print(f"trace       {len(kept)} plays in {printable(trace)}")


def _one_play(
    console: Console, engine: Engine, rng: np.random.Generator, choices: Sequence[str], script: bool, max_steps: int
) -> list[Play]:
    """A play with its words; none where the person left it."""
    policy = scripted(choices, uniform(rng)) if script else Reader(console, rng)
    try:
        played = engine_play(engine, policy, max_steps)
    except (EOFError, KeyboardInterrupt):
        console.print("\nleft the story")
        return []
    for step in played.steps if script else ():
        console.print(Text(f"\n{_lines(told(engine.world, step))}"))
    _print_end(console, engine, played, shown=script)
    return [played]


def _lines(text: str) -> str:
    return "\n".join(map(printable, text.splitlines()))


class Reader:
    """A policy: shows encounters on a console and asks a person to choose."""

    def __init__(self, console: Console, rng: np.random.Generator) -> None:
        self.console, self.rng = console, rng

    def __call__(self, at: Situation) -> int:
        """Show an encounter and ask until the answer is the number of an open option, or empty for a random one."""
        self._show(at)
        while True:
            answer = input(f"choose 1 to {len(at.encounter.options)} (Enter: at random, Ctrl-D: leave) > ").strip()
            if not answer:
                choice = at.open_options[int(self.rng.integers(len(at.open_options)))]
            # isdecimal, since isdigit takes "²" too; nine digits, since int() refuses very long numbers.
            elif answer.isdecimal() and int(answer[:9]) - 1 in at.open_options:
                choice = int(answer) - 1
            else:
                self.console.print("that is not an open option")
                continue
            self._follow(at, choice)
            return choice

    def _show(self, at: Situation) -> None:
        self.console.print(Text(f"\n{printable(at.encounter.text)}", style="bold"))
        self.console.print(Text(_shown_state(at.engine, at.state), style="dim"))
        for i, option in enumerate(at.encounter.options):
            line = f"  {i + 1}. {printable(option.text or option.id)}"
            if i in at.open_options:
                self.console.print(Text(line))
            else:
                needs = " and ".join(_condition(gate) for gate in (*option.gates, *option.performable))
                self.console.print(Text(f"{line}  (closed: {needs})", style="dim"))

    def _follow(self, at: Situation, choice: int) -> None:
        option = at.encounter.options[choice]
        self.console.print(Text(f"→ {printable(option.text or option.id)}", style="cyan"))
        # What follows depends on the state: of several reactions the most desirable.
        preferred, _ = at.engine.preferred(at.moment, choice)
        if answer := said(option, at.engine.ways[at.moment.index][choice][preferred].reaction):
            self.console.print(Text(_lines(answer)))


def _shown_state(engine: Engine, state: dict[str, float]) -> str:
    """The variables; of very many those that are no longer what they were at the start, a dozen of them."""
    names = [*state]
    if len(names) > MOST_VARIABLES:
        firsts = zip(names, engine.start, strict=False)
        names = [name for name, first in firsts if abs(state[name] - first) > TOLERANCE][:MOST_VARIABLES]
    return "  ".join(f"{printable(name)} {state[name]:g}" for name in names)


def world_text(file: str, sample: int | None = None) -> str:
    """The one text of a file, or the sample of a ``.jsonl`` file that is wanted.

    Raises:
        UserError: The file cannot be read, or holds several samples of which none was chosen.
    """
    texts = read_world_texts(file, sample, FILE_LIMITS.max_chars)
    if len(texts) > 1:
        raise UserError(f"'{file}' holds {len(texts)} samples; choose one by --sample=1 to {len(texts)}")
    return texts[0][1]


def open_world(file: str, text: str) -> tuple[World, tuple[Issue, ...]]:
    """The world in the text of a file, of any format, and what is odd in it.

    Raises:
        UserError: It holds nothing that can be played.
    """
    reading = read_any(text)
    if reading.world is None or not reading.world.encounters:
        first = reading.issues[0] if reading.issues else Issue("$.encounters", "there are no encounters")
        raise UserError(f"'{file}' cannot be played: {first.path}: {first.message}")
    return reading.world, reading.issues


def _print_issues(console: Console, issues: tuple[Issue, ...]) -> None:
    if issues:
        console.print(f"file        {count_issues(issues)}; `lit-narrative check` lists them")


def _condition(gate: Condition) -> str:
    return printable(describe(gate))


def _print_end(console: Console, engine: Engine, played: Play, shown: bool) -> None:
    # Not shown yet: a reader is asked only where there is a choice.
    if not shown and played.steps and (last := played.steps[-1]).choice is None:
        console.print(Text(f"\n{printable(engine.world.encounters[last.index].text)}", style="bold"))
    console.print(f"\n{ENDS[played.outcome]}")
    console.print(Text(_shown_state(engine, played.state), style="dim"))


def print_simulation(console: Console, result: Simulation, plays: str = "random plays") -> None:
    """Show the endings of plays, with intervals, and what else they say."""
    table = Table("outcome", "share of plays", "95 % interval", title=f"{result.runs} {plays}")
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
