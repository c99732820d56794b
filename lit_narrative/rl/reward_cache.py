"""Answers of rewards that judge each completion alone, remembered by what they were asked."""

import pickle
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import torch

from lit_narrative.rl.answers import Answer, Lost
from lit_narrative.rl.rollout import Rollout


class RewardCache:
    """The latest answers of each reward, the least recently used forgotten first.

    Args:
        size: answers that are kept of each reward; 0 keeps none, and takes equal completions for different ones.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._answers: dict[str, OrderedDict[bytes, float | None]] = {}

    def keys(self, rollouts: Sequence[Rollout]) -> list[bytes]:
        """What answers are remembered by: equal for rollouts that a reward cannot tell apart."""
        if not self.size:
            return [row.to_bytes(8, "big") for row in range(len(rollouts))]
        return [digest_of(rollout) for rollout in rollouts]

    def known(self, name: str, keys: Iterable[bytes]) -> dict[bytes, Answer]:
        """The answers of a reward that are there, by key; they become the most recently used."""
        answers = self._answers.get(name, OrderedDict())
        found: dict[bytes, Answer] = {}
        for key in keys:
            if key in answers:
                answers.move_to_end(key)
                found[key] = answers[key]
        return found

    def remember(self, name: str, new: Mapping[bytes, Answer]) -> None:
        """Keep answers of a reward; what was lost may come another time."""
        answers = self._answers.setdefault(name, OrderedDict())
        for key, answer in new.items():
            if not isinstance(answer, Lost):
                answers[key] = answer
        while len(answers) > self.size:
            answers.popitem(last=False)

    def forget(self, name: str) -> None:
        """Drop every answer of a reward."""
        self._answers.pop(name, None)


def digest_of(rollout: Rollout) -> bytes:
    """What a reward that judges a completion alone may look at, in 16 bytes that are the same in every process.

    That is the prompt, the text and its ids, whether it is finished, and the columns; not the sampler's
    log-probabilities, which differ with every step of the policy.
    """
    digest = blake2b(digest_size=16)
    asked = [rollout.prompt, rollout.text, rollout.prompt_ids, rollout.completion_ids, rollout.finished]
    for part in _parts([*asked, rollout.columns]):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.digest()


def _parts(value: Any) -> Iterator[bytes]:
    """A value as bytes, the same for equal values of one type and different for others."""
    yield type(value).__name__.encode()
    if isinstance(value, str):
        yield value.encode("utf-8", "surrogatepass")
    elif value is None or isinstance(value, bool | int | float):
        yield repr(value).encode()
    elif isinstance(value, Mapping):
        yield str(len(value)).encode()
        for key in sorted(value, key=repr):
            yield from _parts(key)
            yield from _parts(value[key])
    elif isinstance(value, list | tuple):
        yield str(len(value)).encode()
        for item in value:
            yield from _parts(item)
    elif isinstance(value, torch.Tensor):
        dense = value.detach().cpu().contiguous()
        yield f"{dense.dtype}{tuple(dense.shape)}".encode()
        yield dense.flatten().view(torch.uint8).numpy().tobytes()
    elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
        yield f"{value.dtype}{value.shape}".encode()
        yield value.tobytes()
    else:
        yield pickle.dumps(value)
