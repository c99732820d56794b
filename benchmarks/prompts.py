"""Prompts of storyworlds at scale: ``python -m benchmarks.prompts [COUNT]``, by default a million of each kind.

Prints prompts a second on one core, the share of different ones, and by how much memory grows while they are made
without being kept. The digests that are compared take eight bytes each, and are made in a second pass.
"""

import resource
import sys
import time
from collections.abc import Callable
from hashlib import blake2b

import numpy as np

from lit_narrative.tasks.storyworld.generator import Skew, example
from lit_narrative.tasks.storyworld.prompt_space import PromptSpace

GENERATED = 20_000
"""Whole worlds that are made, which takes a hundred times as long as a prompt."""


def peak() -> float:
    """Largest memory so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(name: str, text: Callable[[int], str], count: int) -> None:
    """Make ``count`` texts twice: once for time and memory, once to compare them."""
    text(0)
    before, begun = peak(), time.process_time()
    for number in range(count):
        text(number)
    seconds, grown = time.process_time() - begun, peak() - before
    digests = np.empty(count, np.uint64)
    for number in range(count):
        digests[number] = int.from_bytes(blake2b(text(number).encode(), digest_size=8).digest(), "big")
    unique = len(np.unique(digests)) / count
    print(f"{name}: {count:,} at {count / seconds:,.0f}/s, {unique:.6f} unique, memory +{grown:.1f} MiB")


def main() -> None:
    """Measure the prompts of a space, and the generator's prompts and worlds."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    space, skew = PromptSpace(), Skew()
    print(f"prompt space: {space.count('train'):,} prompts to train on")
    measure("prompt space", lambda number: str(space.prompt(number, 0, "train").text), count)
    some = min(count, GENERATED)
    measure("generator, prompts", lambda number: str(example(number, 0, skew).prompt), some)
    measure("generator, worlds", lambda number: example(number, 0, skew).completion, some)


if __name__ == "__main__":
    main()
