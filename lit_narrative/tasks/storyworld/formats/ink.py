"""The writer of ink, inkle's language of branching stories.

The variable ``ending`` holds, at the end of a play, the id of the encounter where the story ended. Numbers of ink's
runtimes have seven digits, so that comparisons have a slack of 1e-6 rather than 1e-9.
"""

import re
from collections.abc import Iterator, Sequence

from lit_narrative.tasks.storyworld.formats.branching import (
    Code,
    changes,
    decimal,
    ending_of,
    identifiers,
    met_by_id,
    most_desirable,
    refuse_inexpressible,
)
from lit_narrative.tasks.storyworld.formats.sweepweave.write import alternatives
from lit_narrative.tasks.storyworld.world import Encounter, Option, Reaction, World

SLACK = 1e-6
_FUNCTIONS = """\
=== function f_choose(condition, a, b) ===
{ condition:
    ~ return a
}
~ return b

=== function f_abs(x) ===
~ return f_choose(x < 0.0, 0.0 - x, x)

=== function f_min(a, b) ===
~ return f_choose(a < b, a, b)

=== function f_max(a, b) ===
~ return f_choose(a > b, a, b)

=== function f_clamp(x, low, high) ===
~ return f_min(f_max(x, low), high)

=== function f_nudge(x, w) ===
~ return x * (1.0 - f_abs(w)) + w

=== function f_blend(a, b, w) ===
~ return a * (1.0 - w) / 2.0 + b * (1.0 + w) / 2.0

=== function f_distance(a, b) ===
~ return f_abs(a - b)

=== function f_near(a, b) ===
~ return f_clamp(0.99 - f_abs(a - b), -0.99, 0.99)

=== function f_unbound(x) ===
~ temp y = f_clamp(x, -0.999999, 0.999999)
~ return y / (1.0 - f_abs(y))

=== function f_bounded_sum(a, b) ===
~ temp y = f_unbound(a) + f_unbound(b)
~ return y / (1.0 + f_abs(y))
"""


def write_ink(world: World) -> str:
    """The world as ink.

    Raises:
        UserError: It leaves to an engine what ink has to say (``branching.refuse_inexpressible``).
    """
    refuse_inexpressible(world, "ink")
    return "\n".join(_Writer(world).lines()) + "\n"


def escaped(text: str) -> str:
    """Text that ink shows as it is: whatever could mean something is escaped, and so is the start of every line."""
    lines = []
    for line in text.splitlines():
        shown = re.sub(r"([^\w\s,.?!;'’])", r"\\\1", line.strip())
        lines.append(shown if shown.startswith("\\") or not shown else f"\\{shown}")
    return "\n".join([line for line in lines if line])


class _Writer:
    def __init__(self, world: World) -> None:
        self.world = world
        variables = identifiers(world.variables, "v")
        self.code = Code(variables, lambda name: f"f_{name}", SLACK)
        self.encounters = met_by_id(world)
        self.knots = identifiers([encounter.id for encounter in self.encounters], "k")

    def lines(self) -> Iterator[str]:
        for name, variable in self.world.variables.items():
            yield f"VAR {self.code.variables[name]} = {decimal(variable.initial)}"
        yield 'VAR ending = ""'
        start = self.world.start if self.world.start in self.knots else next(iter(self.knots), None)
        yield f"-> {self.knots[start]}" if start is not None else "-> END"
        for encounter in self.encounters:
            yield from self._encounter(encounter)
        yield "\n=== stuck ===\n-> END\n"
        yield _FUNCTIONS

    def _encounter(self, encounter: Encounter) -> Iterator[str]:
        knot = self.knots[encounter.id]
        yield f"\n=== {knot} ==="
        yield escaped(encounter.text)
        if not encounter.options:
            yield from _end(encounter.id)
            return
        tests = [self.code.all_of((*option.gates, *option.performable)) for option in encounter.options]
        if all(tests):  # said before the choices: runtimes differ in how they treat a choice that is there for the rest
            # In brackets: a mark of exclamation behind the brace would begin a sequence.
            yield f"{{ (!({' || '.join(tests)})): -> stuck }}"
        for j, (option, test) in enumerate(zip(encounter.options, tests, strict=True)):
            text = escaped(" ".join((option.text or option.id).split())) or "\\-"
            yield f"+ {f'{{ {test} }} ' if test else ''}[{text}] -> {knot}_{j}"
        for j, option in enumerate(encounter.options):
            yield from self._option(option, encounter, f"{knot}_{j}")

    def _option(self, option: Option, encounter: Encounter, knot: str) -> Iterator[str]:
        runs = alternatives(option.reactions)
        yield f"\n=== {knot} ==="
        if not runs:
            yield "-> END"
        elif len(runs) == 1:
            yield from self._run(runs[0], encounter)
        else:
            temps = [f"d{k}" for k in range(len(runs))]
            for temp, run in zip(temps, runs, strict=True):
                yield f"~ temp {temp} = {self.code.node(run[-1].desirability)}"
            tests = [*most_desirable(temps), "else"]
            yield "{"
            yield from [f"- {test}: -> {knot}_{k}" for k, test in enumerate(tests)]
            yield "}"
            for k, run in enumerate(runs):
                yield f"\n=== {knot}_{k} ==="
                yield from self._run(run, encounter)

    def _run(self, run: Sequence[Reaction], encounter: Encounter) -> Iterator[str]:
        for effect in changes(run, self.world):
            yield f"~ {self.code.variables[effect.variable]} = {self.code.changed(effect, self.world)}"
        yield from [escaped(reaction.text) for reaction in run if reaction.text.strip()]
        ending = ending_of(run[-1], encounter.id, self.knots)
        if ending is None:
            yield f"-> {self.knots[str(run[-1].next_encounter)]}"
        else:
            yield from _end(ending)


def _end(name: str) -> Iterator[str]:
    # What ink has no way to write within quotation marks is left out of the name.
    plain = re.sub(r"[^\w\s.,:;!?-]", "", " ".join(name.split()))
    yield f'~ ending = "{plain}"'
    yield "-> END"
