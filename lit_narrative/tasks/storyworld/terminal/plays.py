"""Plays in a terminal: a person who reads and chooses, a play that is told, and a table of many."""

from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lit_narrative.report.format import one_line
from lit_narrative.tasks.storyworld.expressions import TOLERANCE, Condition, describe
from lit_narrative.tasks.storyworld.simulator.engine import Engine
from lit_narrative.tasks.storyworld.simulator.engine_plays import Situation, engine_play
from lit_narrative.tasks.storyworld.simulator.policies import said, scripted, told, uniform
from lit_narrative.tasks.storyworld.simulator.records import Play
from lit_narrative.tasks.storyworld.simulator.statistics import DEAD_ENDS, Simulation

MOST_VARIABLES = 12
"""Variables that are shown to a reader."""
ENDS = {
    "ending": "The end.",
    "implicit": "The story stops here: nothing says what follows, or nothing is left that could.",
    "stuck": "Stuck: no option is open.",
    "dangling": "Lost: the encounter that should follow does not exist.",
    "timeout": "Stopped: the play took too many steps.",
}


def read_play(console: Console, engine: Engine, rng: np.random.Generator, max_steps: int) -> Play | None:
    """A play by a person, who is asked on standard input; None where they left it."""
    try:
        play = engine_play(engine, Reader(console, rng), max_steps)
    except (EOFError, KeyboardInterrupt):
        console.print("\nleft the story")
        return None
    # Not shown yet: a reader is asked only where there is a choice.
    if play.steps and (last := play.steps[-1]).choice is None:
        console.print(Text(f"\n{one_line(engine.world.encounters[last.index].text)}", style="bold"))
    _print_end(console, engine, play)
    return play


def tell_play(
    console: Console, engine: Engine, rng: np.random.Generator, choices: Sequence[str], max_steps: int
) -> Play:
    """A play by a script, and at random behind its end, told step by step.

    Raises:
        UserError: The script names an option that is not open.
    """
    play = engine_play(engine, scripted(choices, uniform(rng)), max_steps)
    for step in play.steps:
        console.print(Text(f"\n{_lines(told(engine.world, step))}"))
    _print_end(console, engine, play)
    return play


def _lines(text: str) -> str:
    return "\n".join(map(one_line, text.splitlines()))


def _print_end(console: Console, engine: Engine, play: Play) -> None:
    console.print(f"\n{ENDS[play.outcome]}")
    console.print(Text(_shown_state(engine, play.state), style="dim"))


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
        self.console.print(Text(f"\n{one_line(at.encounter.text)}", style="bold"))
        self.console.print(Text(_shown_state(at.engine, at.state), style="dim"))
        for i, option in enumerate(at.encounter.options):
            line = f"  {i + 1}. {one_line(option.text or option.id)}"
            if i in at.open_options:
                self.console.print(Text(line))
            else:
                needs = " and ".join(_condition(gate) for gate in (*option.gates, *option.performable))
                self.console.print(Text(f"{line}  (closed: {needs})", style="dim"))

    def _follow(self, at: Situation, choice: int) -> None:
        option = at.encounter.options[choice]
        self.console.print(Text(f"→ {one_line(option.text or option.id)}", style="cyan"))
        # What follows depends on the state: of several reactions the most desirable.
        preferred, _ = at.engine.preferred(at.moment, choice)
        if answer := said(option, at.engine.ways[at.moment.index][choice][preferred].reaction):
            self.console.print(Text(_lines(answer)))


def _condition(gate: Condition) -> str:
    return one_line(describe(gate))


def _shown_state(engine: Engine, state: dict[str, float]) -> str:
    """The variables; of very many those that are no longer what they were at the start, a dozen of them."""
    names = [*state]
    if len(names) > MOST_VARIABLES:
        firsts = zip(names, engine.start, strict=False)
        names = [name for name, first in firsts if abs(state[name] - first) > TOLERANCE][:MOST_VARIABLES]
    return "  ".join(f"{one_line(name)} {state[name]:g}" for name in names)


def print_simulation(console: Console, result: Simulation, plays: str = "random plays") -> None:
    """Show the endings of plays, with intervals, and what else they say."""
    table = Table("outcome", "share of plays", "95 % interval", title=f"{result.runs} {plays}")
    for ending in result.endings:
        interval = f"{ending.low:.1%} to {ending.high:.1%}"
        table.add_row(Text(f"ending {one_line(ending.encounter)}"), f"{ending.share:.1%}", interval)
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
        console.print(Text(f"gate        {one_line(gate.option)} at {one_line(gate.encounter)}: {fate}", "yellow"))
