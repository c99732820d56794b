"""The number of threads with which a model is fastest on this machine, as it is used now.

More threads than pay cost twice: on processors that others use too, threads wait for each other in a loop.
"""

import os
import time
from collections.abc import Sequence
from statistics import median

import torch
from transformers import PreTrainedModel

from lit_narrative.lm.fast.layers import LARGE_MODEL
from lit_narrative.lm.load import max_positions

_SHAPES = ((16, 128), (128, 1))
"""Rows and tokens: texts that are learned, and a step of decoding."""
_SHAPES_LARGE = ((1, 32), (4, 1))
"""The same for a large model, of which a few tokens take as long."""
_ROUNDS, _ROUNDS_LARGE = 5, 2
_TOO_LARGE = 1_000_000_000
"""A model of so many weights keeps PyTorch's choice: to measure it would take longer than it saves."""
_GAIN = 0.9
"""More threads are taken if the time is at most this share of that of fewer."""


def threads_are_given() -> bool:
    """Whether the environment says how many threads there are to be."""
    return any(name in os.environ for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"))


def choose_threads(lm: PreTrainedModel) -> int:
    """Set the number of threads by measurement, among 1, 2, 4 and so on up to PyTorch's own choice; return it.

    A model of a billion weights, or one that is not on the CPU, keeps PyTorch's choice.

    Args:
        lm: a causal LM.
    """
    most = torch.get_num_threads()
    size = sum(weight.numel() for weight in lm.parameters())
    if lm.device.type != "cpu" or size >= _TOO_LARGE:
        return most
    shapes, rounds = (_SHAPES, _ROUNDS) if size < LARGE_MODEL else (_SHAPES_LARGE, _ROUNDS_LARGE)
    counts = [*[2**n for n in range(most.bit_length()) if 2**n < most], most]
    training = lm.training
    lm.eval()  # dropout would draw random numbers
    times: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(rounds):  # in turns, so that other work slows all of them
        for count in counts:
            torch.set_num_threads(count)
            times[count].append(_read(lm, shapes))
    lm.train(training)
    chosen = fewest({count: median(seconds) for count, seconds in times.items()})
    torch.set_num_threads(chosen)
    return chosen


def fewest(seconds: dict[int, float]) -> int:
    """The number of threads that is worth its processors: a larger one only where it is clearly faster.

    Args:
        seconds: by number of threads, ascending.
    """
    best = min(seconds)
    for count, time_taken in seconds.items():
        if time_taken < _GAIN * seconds[best]:
            best = count
    return best


@torch.no_grad()
def _read(lm: PreTrainedModel, shapes: Sequence[tuple[int, int]]) -> float:
    start = time.perf_counter()
    for rows, tokens in shapes:
        lm(input_ids=torch.zeros(rows, min(tokens, max_positions(lm) or tokens), dtype=torch.long), use_cache=False)
    return time.perf_counter() - start
