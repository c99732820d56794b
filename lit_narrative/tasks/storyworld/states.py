"""States as vectors: a fixed-length layout for the moments of any storyworld, fitted on a corpus of plays.

Worlds differ in their names, so a variable's value goes to the slot that the digest of its name picks (blake2b: the
same in every process); two variables of one world in one slot are averaged. Values are scaled by their declared
bounds, and every component is standardised by the mean and deviation over the corpus. Which options are open is left
out on purpose: it is what the features found in these vectors are tested against.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Self

import numpy as np

from lit_narrative.tasks.storyworld.pieces import moment_pieces
from lit_narrative.tasks.storyworld.simulator.play import Play
from lit_narrative.tasks.storyworld.world import Variable, World
from lit_narrative.views import State

VERSION = 1
"""Version of the meaning of the components: a saved layout of another version is refused."""
POSITIONS = 8
"""One-hot components for an encounter's position in its file; later encounters share the last."""
ACTIONS = 4
"""One-hot components for the slot of the last choice; later slots share the last."""
TURNS = 20
"""The turn at which the turn fraction reaches 1."""
MIN_STD = 0.05
"""Components that hardly vary are not blown up beyond 20 times."""


@dataclass(frozen=True, eq=False)
class StateLayout:
    """The component of the vector for each fact about a moment of play, and the corpus statistics that standardise it.

    The vector holds, in order: ``slots`` values in -1..1 and ``slots`` presences, the encounter's position one-hot,
    the last choice's slot one-hot, the encounter's relative position, the turn fraction and the share of encounters
    visited.

    Attributes:
        slots: number of hashed variable slots.
        mean: (dim,) float64, over the states of the corpus.
        std: (dim,) float64, likewise, at least ``MIN_STD``.
    """

    slots: int
    mean: np.ndarray
    std: np.ndarray

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return dimension(self.slots)

    @classmethod
    def fit(cls, plays: Iterable[tuple[World, Iterable[Play]]], slots: int = 32) -> Self:
        """Fit the statistics on the plays of each world.

        Args:
            plays: worlds with their plays.
            slots: number of hashed variable slots, at least 1.

        Raises:
            ValueError: There is no state in the plays, or ``slots`` is less than 1.
        """
        if slots < 1:
            raise ValueError(f"slots must be at least 1; got {slots}")
        raw = [raw_vectors(world, world_plays, slots) for world, world_plays in plays]
        if not sum(map(len, raw)):
            raise ValueError("a state layout needs at least one state to fit on; the plays hold none")
        stacked = np.concatenate(raw)
        return cls(slots, stacked.mean(0), np.maximum(stacked.std(0), MIN_STD))

    def vectors(self, world: World, plays: Iterable[Play]) -> np.ndarray:
        """The standardised states of plays of one world, in order: (n, dim) float32, always finite."""
        return ((raw_vectors(world, plays, self.slots) - self.mean) / self.std).astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        """Plain values that `from_json` reads back exactly."""
        return {"version": VERSION, "slots": self.slots, "mean": self.mean.tolist(), "std": self.std.tolist()}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Rebuild a saved layout.

        Raises:
            ValueError: The layout has another version or its statistics another length.
        """
        if value.get("version") != VERSION:
            raise ValueError(f"the state layout has version {value.get('version')}, this release reads {VERSION}")
        layout = cls(value["slots"], np.array(value["mean"]), np.array(value["std"]))
        if layout.mean.shape != (layout.dim,) or layout.std.shape != (layout.dim,):
            raise ValueError(f"a layout of {layout.slots} slots needs {layout.dim} statistics; got {len(layout.mean)}")
        return layout

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that name this layout, statistics included."""
        return blake2b(json.dumps(self.to_json()).encode(), digest_size=6).hexdigest()


def dimension(slots: int) -> int:
    """Length of the vector of a layout with that many variable slots."""
    return 2 * slots + POSITIONS + ACTIONS + 6


def raw_vectors(world: World, plays: Iterable[Play], slots: int) -> np.ndarray:
    """The states of plays before standardisation: (n, dim) float64 within -1..1."""
    plays = list(plays)
    steps = [step for play in plays for step in play.steps]
    raw = np.zeros((len(steps), dimension(slots)))
    if not steps:
        return raw
    # np.reshape: without variables the rows are empty lists, and the shape must still be (n, 0).
    now = np.reshape(
        [[step.state[name] for name in world.variables] for step in steps], (len(steps), len(world.variables))
    )
    values = scaled(now, list(world.variables.values()))
    raw[:, : 2 * slots] = _by_slot(list(world.variables), values, slots)
    rows, first, total = np.arange(len(steps)), 2 * slots, len(world.encounters)
    position = np.array([step.index for step in steps])
    # Encounters beyond the last component share it.
    raw[rows, first + np.minimum(position, POSITIONS - 1)] = 1
    action = np.array([choice for play in plays for choice in _last_choices(play)])
    acted = action >= 0
    raw[rows[acted], first + POSITIONS + np.minimum(action[acted], ACTIONS - 1)] = 1
    # The last six: three changes since the start, then relative position, turn and share of encounters visited.
    initial = np.array([[variable.initial for variable in world.variables.values()]], dtype=float)
    raw[:, -6:-3] = _moved(values, scaled(initial, list(world.variables.values())))
    raw[:, -3] = position / max(total - 1, 1)
    raw[:, -2] = np.minimum([step.turn / TURNS for step in steps], 1)
    raw[:, -1] = np.minimum([step.visited / total for step in steps], 1)
    return raw


def states(
    world: World, plays: Iterable[Play], layout: StateLayout, world_id: str, text: str | None = None
) -> list[State]:
    """The rows of the ``states`` view for one world.

    Args:
        world: the world played.
        plays: its plays.
        layout: fitted on a corpus.
        world_id: tells the worlds of a set apart; splits and permutations keep a world's states together.
        text: of the world, for the ``pieces`` of it that each moment has read: none where it has malformed parts.
    """
    plays = list(plays)
    steps = [(number, step) for number, play in enumerate(plays) for step in play.steps]
    read = moment_pieces(text, world, plays) if text is not None else []
    pieces = read or [()] * len(steps)
    rows = []
    for vector, (number, step), spans in zip(layout.vectors(world, plays), steps, pieces, strict=True):
        meta = {
            "world": world_id,
            "play": number,
            "turn": step.turn,
            "encounter": step.encounter,
            "text": world.encounters[step.index].text,
            "options": step.options,
            "pieces": spans,
        }
        rows.append(State(vector, str(step.index), step.open, meta))
    return rows


@lru_cache(maxsize=4096)
def slot_of(name: str, slots: int) -> int:
    """The slot of a variable's name: the same in every process."""
    digest = blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") % slots


def scaled(values: np.ndarray, variables: Sequence[Variable]) -> np.ndarray:
    """Values (n, variables) on -1..1: linear between finite bounds, squashed where one is missing, 0 if not finite."""
    bounds = np.array([(variable.minimum, variable.maximum) for variable in variables]).reshape(-1, 2)
    # What is worked out for infinite bounds and values is not taken.
    with np.errstate(all="ignore"):
        low, width = bounds[:, 0], bounds[:, 1] - bounds[:, 0]
        linear = np.clip(2 * (values - low) / width - 1, -1.0, 1.0)
        # Keeps the order of values and stays within -1..1, whatever their size.
        squashed = values / (1 + np.abs(values))
    within = np.where(np.isfinite(width) & (width > 0), linear, squashed)
    return np.where(np.isfinite(values), within, 0.0)


def _by_slot(names: Sequence[str], values: np.ndarray, slots: int) -> np.ndarray:
    """Values (n, variables) and presences by slot: (n, 2 slots)."""
    # By the digest of the name and not by its order: the same name has the same slot in every world.
    where = np.array([slot_of(name, slots) for name in names], dtype=int)
    counts = np.bincount(where, minlength=slots)
    sums = np.zeros((slots, len(values)))
    np.add.at(sums, where, values.T)
    # Two variables in one slot are averaged, so that components stay within -1..1.
    means = sums.T / np.maximum(counts, 1)
    return np.hstack([means, np.broadcast_to(counts > 0, means.shape)])


def _moved(values: np.ndarray, initial: np.ndarray) -> np.ndarray:
    """The highest, the lowest and the mean change since the start: (n, 3) within -1..1."""
    if not initial.size:
        return np.zeros((len(values), 3))
    change = (values - initial) / 2  # values lie in -1..1, so a change may reach 2
    return np.stack([change.max(1), change.min(1), change.mean(1)], axis=1)


def _last_choices(play: Play) -> list[int]:
    """For each step the option slot chosen just before it; -1 at the start."""
    return [-1, *(-1 if step.choice is None else step.choice for step in play.steps)][: len(play.steps)]
