"""The writer of Twee 3, the text form of Twine stories, for the story format SugarCube 2.

The variable ``$ending`` holds, at the end of a play, the id of the encounter where the story ended.
"""

import hashlib
import json
import re
import uuid
from collections.abc import Iterator, Sequence

from lit_narrative.tasks.storyworld.expressions import TOLERANCE
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

_FUNCTIONS = """\
setup.choose = (condition, a, b) => condition ? a : b;
setup.abs = Math.abs;
setup.min = Math.min;
setup.max = Math.max;
setup.clamp = (x, low, high) => Math.min(Math.max(x, low), high);
setup.nudge = (x, w) => x * (1 - Math.abs(w)) + w;
setup.blend = (a, b, w) => a * (1 - w) / 2 + b * (1 + w) / 2;
setup.distance = (a, b) => Math.abs(a - b);
setup.near = (a, b) => setup.clamp(0.99 - Math.abs(a - b), -0.99, 0.99);
setup.unbound = x => { const y = setup.clamp(x, -0.999999, 0.999999); return y / (1 - Math.abs(y)); };
setup.bounded_sum = (a, b) => { const y = setup.unbound(a) + setup.unbound(b); return y / (1 + Math.abs(y)); };
"""


def write_twee(world: World) -> str:
    """The world as Twee 3.

    Raises:
        UserError: It leaves to an engine what Twee has to say (``branching.refuse_inexpressible``).
    """
    refuse_inexpressible(world, "Twee")
    return "\n".join(_Writer(world).lines()) + "\n"


def escaped(text: str) -> str:
    """Text that SugarCube shows as it is: signs that could be markup are written as character references."""
    return re.sub(r"[^\w\s.,?]|_", lambda sign: f"&#{ord(sign.group())};", text, flags=re.ASCII)


class _Writer:
    def __init__(self, world: World) -> None:
        self.world = world
        variables = {name: f"${short}" for name, short in identifiers(world.variables, "v").items()}
        self.code = Code(variables, lambda name: f"setup.{name}", TOLERANCE)
        self.encounters = met_by_id(world)
        self.passages = identifiers([encounter.id for encounter in self.encounters], "k")

    def lines(self) -> Iterator[str]:
        start = self.world.start if self.world.start in self.passages else next(iter(self.passages), "")
        digest = hashlib.blake2b(repr(self.world).encode("utf-8", "backslashreplace"), digest_size=16).digest()
        data = {
            "ifid": str(uuid.UUID(bytes=digest, version=4)).upper(),
            "format": "SugarCube",
            "format-version": "2.36.1",
            "start": self.passages.get(start, ""),
        }
        yield from (":: StoryTitle", escaped(" ".join((self.world.title or "Storyworld").split())), "")
        yield from (":: StoryData", json.dumps(data, indent=1), "")
        yield from (":: functions [script]", _FUNCTIONS)
        yield ":: StoryInit"
        for name, variable in self.world.variables.items():
            yield f"<<set {self.code.variables[name]} to {decimal(variable.initial)}>>"
        yield '<<set $ending to "">>\n'
        for encounter in self.encounters:
            yield from self._encounter(encounter)

    def _encounter(self, encounter: Encounter) -> Iterator[str]:
        passage = self.passages[encounter.id]
        yield f":: {passage}"
        yield escaped(encounter.text)
        if not encounter.options:
            yield _end(encounter.id)
        for j, option in enumerate(encounter.options):
            test = self.code.all_of((*option.gates, *option.performable))
            text = escaped(" ".join((option.text or option.id).split())) or "..."
            link = f'<<link "{text}" "{passage}_{j}">><</link>>'
            yield f"<<if {test}>>{link}<</if>>" if test else link
        yield ""
        for j, option in enumerate(encounter.options):
            yield from self._option(option, encounter, f"{passage}_{j}")

    def _option(self, option: Option, encounter: Encounter, passage: str) -> Iterator[str]:
        runs = alternatives(option.reactions)
        yield f":: {passage}"
        if len(runs) == 1:
            yield from self._run(runs[0], encounter)
        elif runs:
            temps = [f"_d{k}" for k in range(len(runs))]
            for temp, run in zip(temps, runs, strict=True):
                yield f"<<set {temp} to {self.code.node(run[-1].desirability)}>>"
            for k, test in enumerate([*most_desirable(temps), ""]):
                word = "if" if k == 0 else "elseif" if test else "else"
                yield f"<<{word} {test}>>" if test else "<<else>>"
                yield from self._run(runs[k], encounter)
            yield "<</if>>"
        yield ""

    def _run(self, run: Sequence[Reaction], encounter: Encounter) -> Iterator[str]:
        for effect in changes(run, self.world):
            yield f"<<set {self.code.variables[effect.variable]} to {self.code.changed(effect, self.world)}>>"
        yield from [escaped(reaction.text) for reaction in run if reaction.text.strip()]
        ending = ending_of(run[-1], encounter.id, self.passages)
        if ending is None:
            yield f'<<include "{self.passages[str(run[-1].next_encounter)]}">>'
        else:
            yield _end(ending)


def _end(name: str) -> str:
    plain = re.sub(r"[^\w\s.,:;!?-]", "", " ".join(name.split()))
    return f'<<set $ending to "{plain}">>'
