"""Feature quality of a text on any task: how well an autoencoder of the policy's residual stream reads its tokens."""

from collections.abc import Sequence

from lit_narrative.sae.quality import FeatureQualitySettings, Quality, qualities
from lit_narrative.views import Encode, Rollout, TextLayout


class TokenFeatureQuality:
    """Sparsity and explained variance of a completion's tokens, in 0..1 (`lit_narrative.sae.quality`).

    For the callback `SAERefresh` with ``view: activations`` on a task whose texts are not played; in a configuration
    ``lit_narrative.rl.rewards.feature_quality:TokenFeatureQuality()``. None before the first autoencoder, 0 of a
    completion without a token.

    Args:
        band: lowest and highest share of active latents that earns full sparsity, within 0..1.
        weights: of sparsity and explained variance, 0 or more; only their ratio counts.
        name: what logs call it.

    Raises:
        UserError: the band is not a range in 0..1, or the weights are negative or both zero.
    """

    encoder_views = frozenset({"activations"})

    def __init__(
        self,
        band: tuple[float, float] = (0.02, 0.2),
        weights: tuple[float, float] = (0.2, 0.4),
        name: str = "feature_quality",
    ) -> None:
        self.settings = FeatureQualitySettings(band=band, weights=(*weights, 0.0))
        self.name = name
        self.version: int | None = None
        self._sae: tuple[Encode, TextLayout] | None = None

    def update_encoder(self, encode: Encode, layout: TextLayout, version: int) -> None:
        """Score by another autoencoder from now on."""
        self._sae, self.version = (encode, layout), version

    def __call__(self, rollouts: Sequence[Rollout]) -> list[float | None]:
        """Score a batch; never raises on generated text."""
        if self._sae is None:
            return [None] * len(rollouts)
        encode, layout = self._sae
        found: list[Quality] = qualities(
            layout.vectors(rollouts, [None] * len(rollouts)), [None] * len(rollouts), encode, self.settings, seed=0
        )
        return [quality.total(self.settings.weights) for quality in found]
