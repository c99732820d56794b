"""Seeds: one number a run, and independent streams made from it."""

import os

import numpy as np


def run_seed() -> int:
    """The seed of this run, as ``seed_everything`` set it (0 without)."""
    # Lightning writes the seed into the environment, which worker processes inherit.
    return int(os.environ.get("PL_GLOBAL_SEED", "0"))


def stream_seed(*parts: int) -> int:
    """A 63-bit seed that depends on every part (run seed, epoch, prompt, sample …) and on nothing else."""
    # Hashed and not added up: neighbouring parts give unrelated streams, and (1, 2) another one than (2, 1).
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)
