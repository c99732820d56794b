"""The seventh component: how well the current sparse autoencoder reads the states of a written world.

Three terms, each in 0..1: sparsity (the share of active features is in a band), explained variance, and
affordances (what features tell, within each encounter, about whether an option is closed, beyond chance).
The autoencoder and its layout are updated at each cycle; between updates the score is a pure function of the text.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from lit_narrative.errors import UserError
from lit_narrative.sae.information import WorldPermutations, conditional_information, quantise
from lit_narrative.tasks.storyworld.simulator.play import MAX_STEPS, Play, plays
from lit_narrative.tasks.storyworld.states import StateLayout
from lit_narrative.tasks.storyworld.verifiers.base import VerifierConfig, read_text
from lit_narrative.views import Encode, Rollout

MIN_STATES = 4
"""Encounters met less often in the plays of a world say nothing about its features."""
TOP = 16
"""Features whose information is averaged."""
PERMUTATIONS = 20
_CONFIG = VerifierConfig()


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


_SETTINGS = FeatureQualitySettings()


class FeatureQuality:
    """The reward ``feature_quality`` in 0..1: None before the first `update_encoder`, 0 for text that cannot be played.

    Args:
        settings: plays of each world, and what the terms weigh.
        seed: of the plays, together with the text.
        verifiers: whose limits on the text apply.
    """

    name = "feature_quality"

    def __init__(
        self, settings: FeatureQualitySettings = _SETTINGS, seed: int = 0, verifiers: VerifierConfig = _CONFIG
    ) -> None:
        self.settings, self.seed, self.verifiers = settings, seed, verifiers
        self.version: int | None = None
        self._sae: tuple[Encode, StateLayout] | None = None

    def update_encoder(self, encode: Encode, layout: StateLayout, version: int) -> None:
        """Score by another SAE from now on.

        Args:
            encode: the SAE as a function.
            layout: how states become its vectors.
            version: names the SAE in logs (the cycle that trained it).
        """
        self._sae, self.version = (encode, layout), version

    def __call__(self, rollouts: Sequence[Rollout]) -> list[float | None]:
        """Score a batch; never raises on generated text."""
        if self._sae is None:
            # None rather than 0: before the first SAE there is nothing to say, and no advantage is to come of it.
            return [None] * len(rollouts)
        return [
            quality.total(self.settings.weights) for quality in self.qualities([rollout.text for rollout in rollouts])
        ]

    def qualities(self, texts: Sequence[str]) -> list[Quality]:
        """The terms of each text; all states of the batch are encoded together.

        Raises:
            RuntimeError: There is no SAE yet.
        """
        if self._sae is None:
            raise RuntimeError("feature_quality has no SAE yet; call update_encoder first")
        encode, layout = self._sae
        played = [self._play(text, layout) for text in texts]
        sizes = [len(vectors) for _, vectors in played]
        if not sum(sizes):
            return [Quality()] * len(texts)
        stacked = np.concatenate([vectors for _, vectors in played])
        # One call for the whole batch: with a call for each world, overhead would be most of the time.
        latents, rebuilt = encode(stacked)
        cuts = np.cumsum(sizes)[:-1]
        parts = zip(played, *(np.split(array, cuts) for array in (stacked, latents, rebuilt)), strict=True)
        return [self._quality(runs, x, z, back) if len(x) else Quality() for (runs, _), x, z, back in parts]

    def _play(self, text: str, layout: StateLayout) -> tuple[list[Play], np.ndarray]:
        """Play the world in a text: its plays and their vectors, none where the text is not a world."""
        context = read_text(text, self.seed, self.verifiers)
        digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        # The plays depend on the text alone, not on its position in the batch or on the rank that scores it.
        rng = np.random.default_rng([self.seed, int.from_bytes(digest, "big")])
        runs = list(plays(context.game, context.affordable(self.settings.runs, MAX_STEPS), rng))
        runs = runs if context.story.encounters else []
        return runs, layout.vectors(context.story, runs)

    def _quality(self, runs: Sequence[Play], x: np.ndarray, z: np.ndarray, back: np.ndarray) -> Quality:
        return Quality(
            band_score(float((z != 0).mean()), self.settings.band),
            explained(x, back),
            # The same permutations for every text, so that a score depends on text and seed alone.
            affordance_score(runs, z, np.random.default_rng(self.seed)),
        )


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


def affordance_score(runs: Sequence[Play], z: np.ndarray, rng: np.random.Generator) -> float:
    """What the most telling features know of "some option is closed here", given the encounter, beyond chance: 0..1.

    The mean of the ``TOP`` normalised informations, T, is compared with its mean C when whole plays are permuted:
    (T − C) / (1 − C), at least 0. It is 0 where no choice ever opens or closes an option.

    Args:
        runs: plays of one world.
        z: (n, m) latents of their steps, in order.
        rng: of the permutations.
    """
    steps = [(number, step) for number, run in enumerate(runs) for step in run.steps]
    asked = [row for row, (_, step) in enumerate(steps) if step.open]
    closed = np.array([not all(steps[row][1].open) for row in asked], dtype=bool)
    if closed.all() or not closed.any():
        return 0.0
    # Information is counted within each encounter: which encounter it is would tell much by itself.
    contexts = np.array([steps[row][1].index for row in asked])
    numbers = np.array([steps[row][0] for row in asked])
    active = z[asked]
    levels = quantise(active[:, (active != 0).any(0)], bins=2)
    # Whole plays are permuted: steps of one play resemble each other, and permuting them singly sets chance too low.
    labels = np.concatenate([closed[None], WorldPermutations(contexts, numbers).draw(closed, PERMUTATIONS, rng)])
    bits, entropy = conditional_information(levels, labels, contexts, min_stratum=MIN_STATES)
    if entropy[0] <= 0 or not levels.shape[1]:
        return 0.0
    top = np.sort(bits, axis=1)[:, -TOP:].mean(1) / np.maximum(entropy, 1e-12)
    observed, chance = min(float(top[0]), 1.0), min(float(top[1:].mean()), 1.0)
    return max(0.0, (observed - chance) / (1 - chance)) if chance < 1 else 0.0
