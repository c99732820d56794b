"""Feature quality: how well a sparse autoencoder reads the moments of one text.

Three terms, each in 0..1: sparsity (the share of active features is in a band), explained variance, and
affordances (what features tell, within each context, about whether an option is closed, beyond chance). They are the
same whatever the moments' vectors are made of: the state of a game, or the residual stream of the model that wrote
the text.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lit_narrative.errors import UserError
from lit_narrative.sae.affordances import Affordances
from lit_narrative.sae.information import WorldPermutations, conditional_information, quantise
from lit_narrative.views import Encode

MIN_STATES = 4
"""Contexts met less often in the plays of a world say nothing about its features."""
TOP = 16
"""Features whose information is averaged."""
PERMUTATIONS = 20


@dataclass(frozen=True, slots=True)
class Quality:
    """The three terms of one world, each in 0..1."""

    sparsity: float = 0.0
    explained_variance: float = 0.0
    affordances: float = 0.0

    def total(self, weights: Sequence[float]) -> float:
        """Weighted mean of the terms, in their order."""
        terms = (self.sparsity, self.explained_variance, self.affordances)
        return sum(weight * term for weight, term in zip(weights, terms, strict=True)) / sum(weights)


@dataclass(frozen=True)
class FeatureQualitySettings:
    """How feature quality is measured.

    Attributes:
        runs: seeded plays of each world, 2 or more.
        band: lowest and highest share of active latents that earns full sparsity, within 0..1; outside it falls
            linearly.
        weights: of sparsity, explained variance and affordances, 0 or more; only their ratios count.
    """

    runs: int = 8
    band: tuple[float, float] = (0.02, 0.2)
    weights: tuple[float, float, float] = (0.2, 0.4, 0.4)

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            UserError: ``runs`` is below 2, the band is not a range in 0..1, or the weights are negative or all zero.
        """
        low, high = self.band
        finite = all(map(math.isfinite, self.weights))
        if self.runs < 2 or not 0 <= low < high <= 1 or not finite or min(self.weights) < 0 or sum(self.weights) <= 0:
            raise UserError(
                "feature_quality needs runs >= 2, 0 <= band[0] < band[1] <= 1 and weights >= 0, not all 0; "
                f"got runs={self.runs}, band={self.band}, weights={self.weights}"
            )


def qualities(
    vectors: Sequence[np.ndarray],
    asked: Sequence[Affordances | None],
    encode: Encode,
    settings: FeatureQualitySettings,
    seed: int,
) -> list[Quality]:
    """The terms of each text, all 0 of one without moments.

    Args:
        vectors: the moments of each text, (n, d) float32, standardised.
        asked: what their features are tested on; None: nothing, and the third term is 0.
        encode: the autoencoder.
        settings: the band.
        seed: of the permutations, the same for every text, so that a score depends on text and seed alone.
    """
    sizes = [len(rows) for rows in vectors]
    if not sum(sizes):
        return [Quality()] * len(vectors)
    # One call for the whole batch: with a call for each text, overhead would be most of the time.
    stacked = np.concatenate([rows for rows in vectors if len(rows)])
    latents, rebuilt = encode(stacked)
    cuts = np.cumsum(sizes)[:-1]
    parts = zip(asked, *(np.split(array, cuts) for array in (stacked, latents, rebuilt)), strict=True)
    return [
        Quality(
            band_score(float((z != 0).mean()), settings.band),
            explained(x, back),
            0.0 if tested is None else affordance_score(tested, z, np.random.default_rng(seed)),
        )
        if len(x)
        else Quality()
        for tested, x, z, back in parts
    ]


def band_score(share: float, band: tuple[float, float]) -> float:
    """1 where the share of active latents is in the band, falling linearly to 0 at none and at all."""
    low, high = band
    if share < low:
        return share / low
    return 1.0 if share <= high else (1 - share) / (1 - high)


def explained(x: np.ndarray, back: np.ndarray) -> float:
    """Explained variance in 0..1 of states (n, dim) about the data set's mean, which standardisation put at 0.

    A world's own mean would call a world of one state unexplained; the data set's does not.
    """
    # float64: over thousands of states a float32 sum loses the digits that matter.
    error = float(np.square(x - back, dtype=np.float64).sum())
    return float(np.clip(1 - error / max(float(np.square(x, dtype=np.float64).sum()), 1e-12), 0, 1))


def affordance_score(asked: Affordances, z: np.ndarray, rng: np.random.Generator) -> float:
    """What the most telling features know of "some option is closed here", given the context, beyond chance: 0..1.

    The mean of the ``TOP`` normalised informations, T, is compared with its mean C when whole plays are permuted:
    (T − C) / (1 − C), at least 0. It is 0 where no choice ever opens or closes an option.

    Args:
        asked: which of a text's moments have options, and which of them are closed; ``worlds`` are its plays.
        z: (n, m) latents of all moments of the text, in order.
        rng: of the permutations.
    """
    closed = asked.closed
    if closed.all() or not closed.any():
        return 0.0
    active = z[asked.rows]
    levels = quantise(active[:, (active != 0).any(0)], bins=2)
    # Whole plays are permuted: steps of one play resemble each other, and permuting them singly sets chance too low.
    # Information is counted within each context: which encounter it is would tell much by itself.
    permuted = WorldPermutations(asked.contexts, asked.worlds).draw(closed, PERMUTATIONS, rng)
    labels = np.concatenate([closed[None], permuted])
    bits, entropy = conditional_information(levels, labels, asked.contexts, min_stratum=MIN_STATES)
    if entropy[0] <= 0 or not levels.shape[1]:
        return 0.0
    top = np.sort(bits, axis=1)[:, -TOP:].mean(1) / np.maximum(entropy, 1e-12)
    observed, chance = min(float(top[0]), 1.0), min(float(top[1:].mean()), 1.0)
    return max(0.0, (observed - chance) / (1 - chance)) if chance < 1 else 0.0
