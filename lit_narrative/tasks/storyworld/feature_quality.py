"""The seventh component: how well the current sparse autoencoder reads the moments of a written world.

The terms are those of `lit_narrative.sae.quality`. The moments are those of seeded plays, and their vectors game
states, or what the policy held at the pieces of the text that the play had read by then. The autoencoder and its layout
are updated at each cycle; between updates the score by game states is a pure function of the text.
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple

import numpy as np

from lit_narrative.sae.affordances import Affordances
from lit_narrative.sae.quality import FeatureQualitySettings, Quality, qualities
from lit_narrative.tasks.storyworld.pieces import moment_pieces
from lit_narrative.tasks.storyworld.simulator.play import MAX_STEPS, Play, plays
from lit_narrative.tasks.storyworld.states import StateLayout
from lit_narrative.tasks.storyworld.verifiers.base import VerifierConfig, read_text
from lit_narrative.tasks.storyworld.world import World
from lit_narrative.views import Encode, Rollout, TextLayout

_CONFIG = VerifierConfig()
_SETTINGS = FeatureQualitySettings()


class _Played(NamedTuple):
    """A text as a world with its plays, none where it is not a world."""

    text: str
    world: World
    plays: list[Play]


class FeatureQuality:
    """The reward ``feature_quality`` in 0..1: None before the first `update_encoder`, 0 for text that cannot be played.

    Args:
        settings: plays of each world, and what the terms weigh.
        seed: of the plays, together with the text.
        verifiers: whose limits on the text apply.
    """

    name = "feature_quality"
    encoder_views = frozenset({"states", "activations"})

    def __init__(
        self, settings: FeatureQualitySettings = _SETTINGS, seed: int = 0, verifiers: VerifierConfig = _CONFIG
    ) -> None:
        self.settings, self.seed, self.verifiers = settings, seed, verifiers
        self.version: int | None = None
        self._sae: tuple[Encode, StateLayout | TextLayout] | None = None

    def update_encoder(self, encode: Encode, layout: StateLayout | TextLayout, version: int) -> None:
        """Score by another SAE from now on.

        Args:
            encode: the SAE as a function.
            layout: how moments become its vectors: by the state of the game, or by the policy's residual stream.
            version: names the SAE in logs (the cycle that trained it).
        """
        self._sae, self.version = (encode, layout), version

    def __call__(self, rollouts: Sequence[Rollout]) -> list[float | None]:
        """Score a batch; never raises on generated text."""
        if self._sae is None:
            # None rather than 0: before the first SAE there is nothing to say, and no advantage is to come of it.
            return [None] * len(rollouts)
        return [quality.total(self.settings.weights) for quality in self.qualities(rollouts)]

    def qualities(self, rollouts: Sequence[Rollout]) -> list[Quality]:
        """The terms of each completion; all moments of the batch are encoded together.

        Raises:
            RuntimeError: There is no SAE yet.
        """
        if self._sae is None:
            raise RuntimeError("feature_quality has no SAE yet; call update_encoder first")
        encode, layout = self._sae
        played = [self._play(rollout.text) for rollout in rollouts]
        if isinstance(layout, StateLayout):
            vectors = [layout.vectors(one.world, one.plays) for one in played]
        else:
            vectors = layout.vectors(rollouts, [moment_pieces(*one) for one in played])
        return qualities(vectors, [_asked(one.plays) for one in played], encode, self.settings, self.seed)

    def _play(self, text: str) -> _Played:
        context = read_text(text, self.seed, self.verifiers)
        digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        # The plays depend on the text alone, not on its position in the batch or on the rank that scores it.
        rng = np.random.default_rng([self.seed, int.from_bytes(digest, "big")])
        runs = list(plays(context.game, context.affordable(self.settings.runs, MAX_STEPS), rng))
        return _Played(text, context.story, runs if context.story.encounters else [])


def _asked(runs: Sequence[Play]) -> Affordances:
    """Of the moments of one world's plays, which have options, and which of them are closed."""
    steps = [(number, step) for number, run in enumerate(runs) for step in run.steps]
    rows = [row for row, (_, step) in enumerate(steps) if step.open]
    asked = [steps[row] for row in rows]
    return Affordances(
        np.array(rows, dtype=np.int64),
        np.array([not all(step.open) for _, step in asked], dtype=bool),
        np.array([sum(step.open) for _, step in asked], dtype=np.float64),
        np.array([step.index for _, step in asked], dtype=np.int64),
        np.array([number for number, _ in asked], dtype=np.int64),
    )
