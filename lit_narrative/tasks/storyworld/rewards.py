"""The rewards of the storyworld task: verifier components, novelty, rarity, adherence, and feature quality."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

from lit_narrative.sae.quality import FeatureQualitySettings
from lit_narrative.tasks.storyworld.adherence import adherence
from lit_narrative.tasks.storyworld.feature_quality import FeatureQuality
from lit_narrative.tasks.storyworld.similarity import shape, skeleton_digest
from lit_narrative.tasks.storyworld.simulator.playing import PlayReward, PlaySettings
from lit_narrative.tasks.storyworld.verifiers.base import COMPONENTS, VerifierConfig
from lit_narrative.tasks.storyworld.verifiers.score import Mode, Score, score
from lit_narrative.views import Rollout


class Scorer:
    """Scores texts and remembers the latest, since several rewards ask about the same text.

    A copy in another process begins without memories.
    """

    def __init__(self, config: VerifierConfig, mode: Mode = "strict", remember: int = 4096) -> None:
        self.limits = config.limits
        self._settings = (config, mode, remember)
        # A cache of this object: one on the method would be shared by all scorers, and keep each of them alive.
        self._score = lru_cache(maxsize=remember)(lambda text: score(text, mode=mode, config=config))

    def __reduce__(self) -> tuple[Any, ...]:
        # The cache does not pickle: it holds a closure. Reward workers get the settings and start with an empty one.
        return type(self), self._settings

    def __call__(self, text: str) -> Score:
        """The score of one text."""
        return self._score(text)


@dataclass(frozen=True)
class ComponentReward:
    """One verifier component as a reward, in 0..1."""

    name: str
    scorer: Scorer

    def __call__(self, rollouts: Sequence[Rollout]) -> list[float]:
        """A completion cut off by the length limit is judged as it stands: text that does not parse earns 0."""
        scores = [self.scorer(rollout.text).components for rollout in rollouts]
        if self.name == "valid_json":  # bare JSON that is not a world earns nothing
            return [score["valid_json"] * (score["schema"] > 0) for score in scores]
        return [score[self.name] for score in scores]


@dataclass(frozen=True)
class NoveltyReward:
    """1 / how many completions of the batch share the skeleton (the world without names, texts and numbers)."""

    scorer: Scorer
    name: str = "novelty"

    def __call__(self, rollouts: Sequence[Rollout]) -> list[float]:
        """Completions that are not a world earn 0."""
        limits = self.scorer.limits
        digests = [skeleton_digest(r.text, limits) if self.scorer(r.text).world is not None else None for r in rollouts]
        counts = Counter(digests)
        return [0.0 if digest is None else 1 / counts[digest] for digest in digests]


@dataclass(frozen=True)
class RarityReward:
    """1 / the root of how many playable worlds of the batch share the shape (where each option leads), across prompts.

    A sound share alone would be won by one world told again and again.
    """

    scorer: Scorer
    name: str = "rarity"

    def __call__(self, rollouts: Sequence[Rollout]) -> list[float]:
        """Completions that are no playable world earn 0."""
        scores = [self.scorer(rollout.text) for rollout in rollouts]
        shapes = [shape(s.world) if s.world is not None and s.components["playable"] else None for s in scores]
        counts = Counter(shapes)
        return [0.0 if one is None else counts[one] ** -0.5 for one in shapes]


@dataclass(frozen=True)
class AdherenceReward:
    """Share of what the prompt asks for (``cast``, ``properties``, ``theme``) that the world keeps to."""

    scorer: Scorer
    name: str = "adherence"

    def __call__(self, rollouts: Sequence[Rollout]) -> list[float | None]:
        """Completions that are no world earn 0; None where the prompt has no such column."""
        return [self._of(rollout) for rollout in rollouts]

    def _of(self, rollout: Rollout) -> float | None:
        return adherence(self.scorer(rollout.text).world, rollout.columns)


@dataclass(frozen=True)
class RewardSettings:
    """What the rewards of one run are made from.

    Attributes:
        verifiers: minima, weights and limits of the score.
        feature_quality: how the reward of that name is measured.
        names: the rewards of the run that `REWARDS` makes.
        play: what plays of the policy are worth.
    """

    verifiers: VerifierConfig = field(default_factory=VerifierConfig)
    feature_quality: FeatureQualitySettings = field(default_factory=FeatureQualitySettings)
    names: Sequence[str] = ()
    play: PlaySettings = field(default_factory=PlaySettings)

    @cached_property
    def scorer(self) -> Scorer:
        """One scorer for all rewards of the run, so that each text is judged once."""
        # Weight 0: a custom component is measured beside the six, and has no share in the total.
        components = {name: 0.0 for name in self.names if name not in _MODEL_REWARDS}
        if "rarity" in self.names:
            components["playable"] = 0.0
        return Scorer(replace(self.verifiers, weights={**components, **self.verifiers.weights}))


RewardFactory = Callable[
    [RewardSettings], ComponentReward | NoveltyReward | RarityReward | AdherenceReward | FeatureQuality | PlayReward
]
_MODEL_REWARDS: Mapping[str, RewardFactory] = {
    "novelty": lambda settings: NoveltyReward(settings.scorer),
    "rarity": lambda settings: RarityReward(settings.scorer),
    "adherence": lambda settings: AdherenceReward(settings.scorer),
    "feature_quality": lambda settings: FeatureQuality(settings.feature_quality, verifiers=settings.verifiers),
    "play": lambda settings: PlayReward(settings.play),
}
"""Rewards that are not a component of the score."""


class _Rewards(Mapping[str, RewardFactory]):
    """The rewards by name: registered components, then `_MODEL_REWARDS`; also a component function by its path.

    A mapping rather than a dict: a component may be registered after this module was imported.
    """

    def __getitem__(self, name: str) -> RewardFactory:
        if name in _MODEL_REWARDS:
            return _MODEL_REWARDS[name]
        if name not in COMPONENTS and ":" not in name:
            raise KeyError(name)
        return lambda settings: ComponentReward(name, settings.scorer)

    def __iter__(self) -> Iterator[str]:
        return iter((*COMPONENTS, *_MODEL_REWARDS))

    def __len__(self) -> int:
        return len(COMPONENTS) + len(_MODEL_REWARDS)


REWARDS: Mapping[str, RewardFactory] = _Rewards()
"""Makes each reward of the task from the settings of a run."""
