"""Autoencoders on known features, every architecture beside random parts: ``python -m benchmarks.saes [SEEDS]``.

The vectors are sums of 64 directions in 32 dimensions, three at a time (``lit_narrative.sae.known_features``). Prints,
as mean over the seeds, whether latents are the directions (mcc, f1), what is reproduced, and seconds of CPU time.
"""

import sys
import time
from collections.abc import Mapping
from statistics import fmean
from typing import Any

import torch

from lit_narrative.sae.autoencoder import Architecture, SAESettings, build_sae, inference_sae
from lit_narrative.sae.controls import FROZEN_PARTS, Training, random_part_sae
from lit_narrative.sae.known_features import KnownFeatures
from lit_narrative.sae.training import fit

ROWS, STEPS, BATCH = 20_000, 2_000, 256
SETTINGS: Mapping[Architecture, Mapping[str, Any]] = {
    "standard": {"l1_coefficient": 0.2},
    "topk": {"k": 3},
    "batchtopk": {"k": 3},
    "matryoshka_batchtopk": {"k": 3},
    "jumprelu": {"l0_coefficient": 0.02},
    "gated": {"l1_coefficient": 0.2},
    "matching_pursuit": {"k": 3},
}
FIGURES = ("mcc", "f1", "uniqueness", "explained_variance", "l0", "dead_fraction")


def trained(training: Training, seed: int) -> Any:
    """The inference form of an autoencoder that was trained."""
    given, x = training.settings, training.x
    sae = build_sae(given.architecture, x.shape[1], given.d_sae, given.options, seed)
    fit(sae, x, STEPS, BATCH, torch.Generator().manual_seed(seed), lr=given.lr, warmup_steps=given.warmup_steps)
    return inference_sae(sae)


def main() -> None:
    """Measure and print a table."""
    seeds = range(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
    print("| autoencoder |", " | ".join(FIGURES), "| seconds |")
    for architecture, options in SETTINGS.items():
        parts = (None, *FROZEN_PARTS) if architecture == "topk" else (None,)
        for part in parts:
            rows, begun = [], time.process_time()
            for seed in seeds:
                known = KnownFeatures(seed=seed)
                settings = SAESettings(architecture, d_sae=known.features, lr=3e-3, **options)
                training = Training(settings, known.vectors(ROWS, seed), STEPS, BATCH)
                sae = trained(training, seed) if part is None else random_part_sae(part, training, seed)
                rows.append(known.examine(sae, seed=seed + 1))
            seconds = (time.process_time() - begun) / len(seeds)
            name = architecture if part is None else f"{architecture}, random {part}"
            figures = " | ".join(f"{fmean(row[key] for row in rows):.2f}" for key in FIGURES)
            print(f"| {name} | {figures} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
