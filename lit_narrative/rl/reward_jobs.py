"""What goes to a reward worker and comes back: everything is pickled by value, and tensors travel as arrays.

(multiprocessing would pass a tensor as a file descriptor of shared memory; thousands of small ones exhaust those.)
"""

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType, ModuleType, NoneType
from typing import NamedTuple

import torch

from lit_narrative.errors import UserError
from lit_narrative.rl.answers import Answer
from lit_narrative.rl.rewards import Reward
from lit_narrative.rl.rollout import Rollout

TENSORS = ("prompt_ids", "completion_ids", "logprobs")


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a reward.

    Attributes:
        name: of the reward.
        rows: positions of its completions among the rollouts of the job.
        alone: whether the reward judges each completion alone.
        again: whether a worker has died in this call before.
    """

    name: str
    rows: Sequence[int]
    alone: bool
    again: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """What one worker does at a stretch.

    Attributes:
        rewards: pickled rewards by name, together, so that what they share is sent and used once.
        rollouts: packed rollouts.
        calls: to make, in order.
    """

    rewards: bytes
    rollouts: bytes
    calls: Sequence[Call]


class Share(NamedTuple):
    """Some rewards for some completions of a batch.

    Attributes:
        rewards: by name.
        rows: positions of the completions in the batch.
        alone: whether the rewards judge each completion alone.
    """

    rewards: Mapping[str, Reward]
    rows: Sequence[int]
    alone: bool

    def split(self, parts: int) -> list["Share"]:
        """This in up to so many parts, if the rewards allow it."""
        if not self.alone:
            return [self]
        return [self._replace(rows=rows) for n in range(parts) if (rows := self.rows[n::parts])]

    def job(self, packed: bytes) -> Job:
        """This as a job for a worker, with its rollouts packed.

        Raises:
            UserError: a reward cannot be pickled.
        """
        calls = [Call(name, range(len(self.rows)), self.alone) for name in self.rewards]
        return Job(pickle_rewards(self.rewards), packed, calls)


Answered = list[tuple[Call, list[Answer]]]
"""Calls of a job with an answer for each of their rows."""


def pickle_rewards(rewards: Mapping[str, Reward]) -> bytes:
    """Pickle rewards together.

    Raises:
        UserError: one cannot be pickled; the message names it and says what to change.
    """
    try:
        return pickle.dumps(dict(rewards))
    except Exception:
        for name, reward in rewards.items():
            try:
                pickle.dumps(reward)
            except Exception as error:
                raise unsendable(name, f"{type(error).__name__}: {error}") from error
        raise


def unsendable(name: str, cause: str) -> UserError:
    """What to say of a reward that no worker can have."""
    return UserError(
        f"reward '{name}' cannot be sent to a worker process ({cause}); define it at the top level of a module that "
        "can be imported (no lambda, no function within a function, no notebook cell), open files, locks and "
        "connections when it is called, or set model.scoring.workers=0"
    )


def pack(rollouts: Sequence[Rollout]) -> bytes:
    """Pickle rollouts, one array for all of them in place of three tensors each.

    Raises:
        UserError: their columns cannot be pickled.
    """
    parts = {name: [getattr(rollout, name) for rollout in rollouts] for name in TENSORS}
    arrays = {name: (torch.cat(part).cpu().numpy(), [len(row) for row in part]) for name, part in parts.items()}
    rest = [(r.finished, r.text, r.prompt, dict(r.columns), r.group) for r in rollouts]
    try:
        return pickle.dumps((arrays, rest))
    except Exception as error:
        raise UserError(
            f"the columns of the prompts cannot be sent to worker processes ({type(error).__name__}: {error}); keep to "
            "text, numbers, lists and tensors in them, or set model.scoring.workers=0"
        ) from error


def unpack(packed: bytes) -> list[Rollout]:
    """The rollouts again, with tensors on the CPU."""
    arrays, rest = pickle.loads(packed)
    tensors = [torch.from_numpy(array).split(lengths) for array, lengths in (arrays[name] for name in TENSORS)]
    return [Rollout(*row, *others) for *row, others in zip(*tensors, rest, strict=True)]


def sharing(rewards: Mapping[str, Reward]) -> list[dict[str, Reward]]:
    """The rewards, those together that hold the same object that is more than a value: a scorer with a memory, a model.

    Apart, each would be sent that object, and do again what the others have done with it.
    """
    groups: list[tuple[dict[str, Reward], set[int]]] = []
    for name, reward in rewards.items():
        values = getattr(reward, "__dict__", {}).values()
        held = {id(reward), *(id(value) for value in values if _has_identity(value))}
        related = [group for group in groups if group[1] & held]
        groups = [group for group in groups if not group[1] & held]
        members = {key: value for group, _ in related for key, value in group.items()}
        groups.append(({**members, name: reward}, held.union(*(ids for _, ids in related))))
    return [group for group, _ in groups]


def _has_identity(value: object) -> bool:
    """Whether an object can change, or is equal to no other; functions and classes are the same everywhere."""
    named = isinstance(value, type | FunctionType | BuiltinFunctionType | ModuleType | NoneType)
    return not named and type(value).__hash__ in (None, object.__hash__)
