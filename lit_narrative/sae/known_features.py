"""A test bed for autoencoders: vectors that are sums of known features, so that what is found can be compared.

The vectors and the comparison are those of sae-lens' synthetic module; this module imports it where it is used.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lit_narrative.errors import UserError, check_least

if TYPE_CHECKING:
    from sae_lens import SAE
    from sae_lens.synthetic import ActivationGenerator, FeatureDictionary


@dataclass(frozen=True)
class KnownFeatures:
    """Sparse sums of directions that are as orthogonal as their number allows.

    Attributes:
        features: number of directions, 1 or more; beyond ``d_in`` they overlap.
        d_in: length of the vectors, 1 or more.
        active: mean number of directions in a vector, above 0 and up to ``features``.
        spread: standard deviation of a direction's weight, whose mean is 1; 0 or more.
        seed: of the directions.

    Raises:
        UserError: a number is out of range.
    """

    features: int = 64
    d_in: int = 32
    active: float = 3.0
    spread: float = 0.25
    seed: int = 0

    def __post_init__(self) -> None:
        check_least("features", self.features, 1)
        check_least("d_in", self.d_in, 1)
        if not (0 < self.active <= self.features and self.spread >= 0):
            raise UserError(
                f"active={self.active} must lie above 0 and up to features={self.features}, spread={self.spread} at 0 "
                "or more"
            )

    @cached_property
    def dictionary(self) -> "FeatureDictionary":
        """The directions; ``feature_vectors`` are (features, d_in), of unit norm."""
        from sae_lens.synthetic import FeatureDictionary

        with torch.enable_grad():  # it makes them orthogonal by gradient descent
            return FeatureDictionary(self.features, self.d_in, seed=self.seed).requires_grad_(False)

    @cached_property
    def generator(self) -> "ActivationGenerator":
        """What draws their weights; each is there by itself, as often as the others."""
        from sae_lens.synthetic import ActivationGenerator

        return ActivationGenerator(self.features, self.active / self.features, std_firing_magnitudes=self.spread)

    @torch.no_grad()
    def vectors(self, n: int, seed: int) -> Tensor:
        """(n, d_in) float32; the global random state is left as it was."""
        dictionary = self.dictionary
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            found: Tensor = dictionary(self.generator.sample(n))
        return found

    def examine(self, sae: "SAE[Any]", n: int = 10_000, seed: int = 0) -> dict[str, float]:
        """Compare the latents of a frozen autoencoder with the features.

        Returns:
            ``mcc`` (mean cosine of features with the latents matched to them one to one, 0..1), ``uniqueness`` (share
            of latents that are nearest to a feature of their own), ``f1``, ``precision`` and ``recall`` (of a latent's
            firing, for its nearest feature), ``explained_variance``, ``l0``, ``true_l0`` and ``dead_fraction``.
        """
        from sae_lens.synthetic import eval_sae_on_synthetic_data

        dictionary, generator = self.dictionary, self.generator
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            found = eval_sae_on_synthetic_data(sae, dictionary, generator, num_samples=n)
        return {
            "mcc": found.mcc,
            "uniqueness": found.uniqueness,
            "f1": found.classification.f1_score,
            "precision": found.classification.precision,
            "recall": found.classification.recall,
            "explained_variance": found.explained_variance,
            "l0": found.sae_l0,
            "true_l0": found.true_l0,
            "dead_fraction": found.dead_latents / sae.cfg.d_sae,
        }
