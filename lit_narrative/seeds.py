"""Seeds: one number a run, and independent streams made from it."""

import os

import numpy as np


def run_seed() -> int:
    """The seed of this run, as ``seed_everything`` set it (0 without)."""
    return int(os.environ.get("PL_GLOBAL_SEED", "0"))


def stream_seed(*parts: int) -> int:
    """A 63-bit seed that depends on every part (run seed, epoch, prompt, sample …) and on nothing else."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)
