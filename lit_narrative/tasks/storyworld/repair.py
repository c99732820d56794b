"""Repair as a second turn: a text is answered by what keeps it from being a sound world, and written again.

Examples to imitate are made of sound worlds of a corpus. One or two faults are put into a world, the verifiers say what
is wrong with it, and the world as it was is the answer.
"""

import json
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from lit_narrative.errors import UserError, check_least
from lit_narrative.tasks.storyworld.issues import Issue
from lit_narrative.tasks.storyworld.rewards import Scorer
from lit_narrative.tasks.storyworld.themes import PERSONAL, PLACES, SHARED
from lit_narrative.tasks.storyworld.verifiers.score import Score
from lit_narrative.tasks.storyworld.verifiers.soundness import LACKS
from lit_narrative.views import Example, Rollout, Turn

Json = dict[str, Any]
BEGINNING = "Mend:\n"
TRIES = 16
"""Worlds that are looked at for a sound one, and faults that are tried on it, for an example."""


@dataclass(frozen=True)
class RepairSettings:
    """What is said of a world that is not sound, and how many examples are repairs.

    Args:
        share: of the ``examples``, 0 to 1; the rest are worlds that are written at once.
        issues: that are named at most; with 0 it is said only that the world is to be mended.
        issue_length: characters of an issue at most, 20 or more.

    Raises:
        UserError: a number is out of range.
    """

    share: float = 0.5
    issues: int = 5
    issue_length: int = 120

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise UserError(f"data.repair.share is {self.share}; it must be a number in 0..1")
        check_least("data.repair.issues", self.issues, 0)
        check_least("data.repair.issue_length", self.issue_length, 20)


@dataclass(frozen=True)
class RepairEnvironment:
    """Answers a text that is not a sound world by its issues; a sound world stands as it is."""

    scorer: Scorer
    settings: RepairSettings

    def __call__(self, rollouts: Sequence[Rollout]) -> list[str | None]:
        """The answers, in order."""
        return [observation(self.scorer(rollout.text), self.settings) for rollout in rollouts]


def observation(score: Score, settings: RepairSettings) -> str | None:
    """What is said of a text: a line an issue, with its JSON path; None of a sound world.

    Errors come first, then what the world lacks to be sound, then warnings about encounters.
    """
    parts = score.parts
    if parts["sound"]:
        return None
    errors = [issue for issue in score.issues if issue.severity == "error"]
    lacking = [Issue("$", words) for name, words in LACKS.items() if name != "no_error" and not parts[name]]
    # A variable without a use keeps no world from being sound, and would take the place of what does.
    odd = [issue for issue in score.issues if issue.severity == "warning" and issue.path.startswith("$.encounters")]
    told = [*errors, *(lacking if parts["parses"] else []), *odd] or [Issue("$", "this is not a world")]
    lines = [" ".join(f"{issue.path}: {issue.message}".split()) for issue in told[: settings.issues]]
    cut = [line if len(line) <= settings.issue_length else f"{line[: settings.issue_length - 1]}…" for line in lines]
    return BEGINNING + "".join(f"{line}\n" for line in cut)


# --- examples ---------------------------------------------------------------------------------------------------------


class Repairs(Sequence[Example]):
    """A corpus of which a share are repairs: row n depends on (seed, n) and the corpus alone.

    Args:
        rows: prompts with worlds.
        scorer: of worlds.
        settings: of the repairs.
        seed: of what is a repair, and of its faults.

    Raises:
        UserError: none of the first worlds is sound.
    """

    def __init__(self, rows: Sequence[Example], scorer: Scorer, settings: RepairSettings, seed: str) -> None:
        self.rows, self.scorer, self.settings, self.seed = rows, scorer, settings, seed
        self._made: dict[int, Example] = {}
        if settings.share and len(rows) and all(self._repair(n, Random(n)) is None for n in range(len(rows))[:TRIES]):
            raise UserError(
                "data.repair makes examples of sound worlds, and the first of the corpus are not; add sound worlds "
                "(lit-narrative score says what one lacks), or set data.repair.share=0"
            )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:  # type: ignore[override]
        if not 0 <= index < len(self.rows):
            raise IndexError(index)
        if index not in self._made:
            rng = Random(f"{self.seed}/repair/{index}")
            row = self._repair(index, rng) if rng.random() < self.settings.share else None
            self._made[index] = row or self.rows[index]
        return self._made[index]

    def _repair(self, index: int, rng: Random) -> Example | None:
        """The next sound world from ``index`` on with faults in it; None where there is none."""
        for number in range(index, index + TRIES):
            row = self.rows[number % len(self.rows)]
            if self.scorer(row.completion).parts["sound"]:
                return repair_example(row, self.scorer, self.settings, rng)
        return None


def repair_example(row: Example, scorer: Scorer, settings: RepairSettings, rng: Random) -> Example | None:
    """A prompt with a faulty world, its issues, and the world as it was; None where no fault was to be had."""
    for _ in range(TRIES):
        text = with_faults(row.completion, rng)
        if text is not None and (said := observation(scorer(text), settings)) is not None:
            return replace(row, turns=(Turn(text, said),))
    return None


def with_faults(text: str, rng: Random) -> str | None:
    """A world of the simple format with one or two faults in it; None where they do not apply."""
    world: Json = json.loads(text)
    kinds = rng.sample(list(FAULTS), rng.choice((1, 1, 2)))
    try:
        for kind in kinds:
            FAULTS[kind](world, rng)
    except (IndexError, KeyError, TypeError, ValueError):  # a world of a user need not have every part
        return None
    text = json.dumps(world, ensure_ascii=False, separators=(",", ":"))
    return _with_text_fault(text, rng) if rng.random() < TEXT_FAULTS else text


TEXT_FAULTS = 0.15
"""Share of the faulty worlds whose text is damaged, too: a key that comes twice, or a sign that is missing."""


def _with_text_fault(text: str, rng: Random) -> str:
    """A text with a key twice in one object, or without one of its brackets, quotes, colons and commas."""
    if rng.random() < 0.5:
        ends = [n for n, letter in enumerate(text) if letter == "}"]
        end = rng.choice(ends)
        start = text.rfind(',"', 0, end) if text.rfind(',"', 0, end) > text.rfind("{", 0, end) else None
        return text if start is None else text[:end] + text[start:end] + text[end:]
    place = rng.choice([n for n, letter in enumerate(text) if letter in '{}[]":,'])
    return text[:place] + text[place + 1 :]


def _options(world: Json) -> list[Json]:
    return [option for encounter in world["encounters"] for option in encounter["options"]]


def _reactions(world: Json) -> list[Json]:
    return [reaction for option in _options(world) for reaction in option["reactions"]]


def _undeclared(world: Json, rng: Random) -> None:
    """A gate or an effect names a variable that is not declared."""
    named = [gate for option in _options(world) for gate in option["gates"]]
    named += [effect for reaction in _reactions(world) for effect in reaction["after_effects"]]
    known = set(world["initial_state"])
    others = [f"{who}_{name}" for who in world["characters"] for name in PERSONAL] + list(SHARED)
    rng.choice(named)["variable"] = rng.choice([name for name in others if name not in known])


def _dangling(world: Json, rng: Random) -> None:
    """An option leads to a scene that does not exist."""
    known = {encounter["id"] for encounter in world["encounters"]}
    others = sorted({scene for place in PLACES.values() for scene in place.split()} - known)
    leading = [reaction for reaction in _reactions(world) if reaction["next_encounter"] is not None]
    rng.choice(leading)["next_encounter"] = rng.choice(others)


def _same_id(world: Json, rng: Random) -> None:
    """Two scenes have one id."""
    first, second = rng.sample(range(len(world["encounters"])), 2)
    world["encounters"][max(first, second)]["id"] = world["encounters"][min(first, second)]["id"]


def _told_twice(world: Json, rng: Random) -> None:
    """A scene comes again."""
    scenes = world["encounters"]
    place = rng.randrange(len(scenes))
    scenes.insert(rng.randint(place + 1, len(scenes)), deepcopy(scenes[place]))


def _left_out(world: Json, rng: Random) -> None:
    """A scene that others lead to is missing."""
    del world["encounters"][rng.randrange(1, len(world["encounters"]))]


def _no_key(world: Json, rng: Random) -> None:
    """A part lacks a key."""
    parts = [*world["encounters"], *_options(world), *_reactions(world)]
    part = rng.choice(parts)
    del part[rng.choice(list(part))]


def _no_variable(world: Json, rng: Random) -> None:
    """A variable is not declared."""
    del world["initial_state"][rng.choice(list(world["initial_state"]))]


def _out_of_bounds(world: Json, rng: Random) -> None:
    """A variable starts outside of its bounds."""
    world["initial_state"][rng.choice(list(world["initial_state"]))] = rng.choice((-9, 12, 20))


def _same_option(world: Json, rng: Random) -> None:
    """Two options of a scene have one id."""
    options = rng.choice([encounter["options"] for encounter in world["encounters"] if len(encounter["options"]) > 1])
    options[1]["id"] = options[0]["id"]


def _dead_gates(world: Json, rng: Random) -> None:
    """No gate ever opens, or none is there."""
    level = rng.choice((None, 8, 9))
    for option in _options(world):
        option["gates"] = [] if level is None else [{**gate, "value": level} for gate in option["gates"]]


def _one_ending(world: Json, rng: Random) -> None:
    """All ways lead to one ending."""
    endings = [scene["id"] for scene in world["encounters"] if not scene["options"]]
    kept = rng.choice(endings)
    for reaction in _reactions(world):
        if reaction["next_encounter"] in endings:
            reaction["next_encounter"] = kept


FAULTS: dict[str, Callable[[Json, Random], None]] = {
    "undeclared": _undeclared,
    "dangling": _dangling,
    "same_id": _same_id,
    "told_twice": _told_twice,
    "left_out": _left_out,
    "no_key": _no_key,
    "no_variable": _no_variable,
    "out_of_bounds": _out_of_bounds,
    "same_option": _same_option,
    "dead_gates": _dead_gates,
    "one_ending": _one_ending,
}
"""What is put into a world: each changes it, or raises where it has no such part."""
