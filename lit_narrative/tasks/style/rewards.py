"""Rewards of the style task: likeness to an author under a judge, and what keeps a policy from fooling it.

Notation: R completions, d width of a judge's vectors.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from lit_narrative.errors import UserError, check_choice, check_least
from lit_narrative.tasks.style.content import names
from lit_narrative.tasks.style.evaluation.copying import Sources, names_one
from lit_narrative.tasks.style.masking import content_words
from lit_narrative.views import Rollout

Mode = Literal["sample", "centroid", "contrastive"]
Scaling = Literal["raw", "linear", "sigmoid"]
Preset = Literal["v1", "v2"]
Floats = npt.NDArray[np.floating[Any]]
Vectors = Callable[[Sequence[str]], Floats]
"""A judge: n texts to vectors of unit length (n, d), zeros for a blank text."""


@dataclass(frozen=True)
class StyleRewardSettings:
    """How the cosine under a judge becomes a reward.

    Args:
        mode: what a completion is compared with: its ``sample``; the ``centroid`` of the author's training chunks, a
            less noisy target; or ``contrastive``, that less the mean over the other authors' centroids.
        scaling: ``raw`` cosine; ``linear``, from 0 at ``low`` to 1 at ``high``; ``sigmoid``,
            1 / (1 + exp(-slope (c - mid))).
        low: default: the lower quartile of texts of other authors, as the judge was calibrated (``sample``), or of the
            authors' chunks.
        high: default: the upper quartile of texts of the same author.
        mid: of the sigmoid.
        slope: of the sigmoid, above 0.
        clip: lowest and highest reward.
        chunks: of each author at most, of which a centroid is made.
        preset: of those published, in place of all of the above: ``v1`` compares with the sample by the sigmoid of mid
            0.3745 and slope 9.18836 clipped to 0.05..0.95, ``v2`` by the raw cosine.
        accept_unfit: train against a judge that was never examined, or found unfit.

    Raises:
        UserError: a value is out of range, or a preset is given other settings too.
    """

    mode: Mode = "centroid"
    scaling: Scaling = "linear"
    low: float | None = None
    high: float | None = None
    mid: float = 0.3745
    slope: float = 9.18836
    clip: tuple[float, float] | None = None
    chunks: int = 64
    preset: Preset | None = None
    accept_unfit: bool = False

    def __post_init__(self) -> None:
        check_choice("data.style.mode", self.mode, get_args(Mode))
        check_choice("data.style.scaling", self.scaling, get_args(Scaling))
        check_least("data.style.chunks", self.chunks, 1)
        if self.preset is not None:
            check_choice("data.style.preset", self.preset, get_args(Preset))
            if replace(self, preset=None, accept_unfit=False) != StyleRewardSettings():
                raise UserError(f"data.style.preset={self.preset} sets all of data.style; leave the others out")
        if not 0 < self.slope < math.inf:
            raise UserError(f"data.style.slope={self.slope} must be above 0")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise UserError(f"data.style.low={self.low} must be below high={self.high}")
        if self.clip is not None and not self.clip[0] < self.clip[1]:
            raise UserError(f"data.style.clip={self.clip} must be a lower and a higher number")

    @property
    def resolved(self) -> "StyleRewardSettings":
        """The settings that a preset stands for; without one these."""
        if self.preset is None:
            return self
        return StyleRewardSettings("sample", "raw") if self.preset == "v2" else _V1


_V1 = StyleRewardSettings("sample", "sigmoid", mid=0.3745, slope=9.18836, clip=(0.05, 0.95))


def scaled(found: Floats, settings: StyleRewardSettings) -> Floats:
    """Rewards (R,) of cosines (R,); ``low`` and ``high`` must be known where the scaling is linear."""
    if settings.scaling == "linear":
        assert settings.low is not None and settings.high is not None
        found = ((found - settings.low) / max(settings.high - settings.low, 1e-6)).clip(0, 1)
    elif settings.scaling == "sigmoid":
        found = 1 / (1 + np.exp(-settings.slope * (found - settings.mid)))
    return found if settings.clip is None else found.clip(*settings.clip)


# --- targets ----------------------------------------------------------------------------------------------------------


class Centroids:
    """The mean vectors of authors' chunks, computed once.

    Args:
        vectors: the judge.
        chunks: training chunks of each author.
        contrastive: compare less the mean over the other authors.

    Raises:
        UserError: there is one author only, and nothing to contrast with.
    """

    def __init__(self, vectors: Vectors, chunks: Mapping[str, Sequence[str]], contrastive: bool) -> None:
        if contrastive and len(chunks) < 2:
            raise UserError("data.style.mode=contrastive needs two authors or more; choose centroid, or name another")
        self._rows = {author: row for row, author in enumerate(chunks)}
        self._contrastive = contrastive
        self._own = {author: vectors(list(texts)) for author, texts in chunks.items()}
        self._table = _unit(np.stack([own.mean(0) for own in self._own.values()]))

    def compare(self, found: Floats, authors: Sequence[str]) -> Floats:
        """(R,) how near vectors (R, d) are to the centroid of each one's author, in -1..1, contrastive in -2..2."""
        return self._less_others(found @ self._table.T, np.array([self._rows[author] for author in authors], dtype=int))

    def calibration(self) -> tuple[float, float]:
        """Lower quartile of chunks of other authors, upper quartile of the author's own, each left out of its mean."""
        same: list[float] = []
        cross: list[float] = []
        for author, own in self._own.items():
            cosines = own @ self._table.T
            rest = _unit(own.sum(0) - own) if len(own) > 1 else self._table[[self._rows[author]]]
            cosines[:, self._rows[author]] = (own * rest).sum(1)
            for row in self._rows.values():
                values = self._less_others(cosines, np.full(len(own), row))
                (same if row == self._rows[author] else cross).extend(values.tolist())
        high = float(np.quantile(same, 0.75))
        return (float(np.quantile(cross, 0.25)) if cross else 0.0), high

    def _less_others(self, cosines: Floats, rows: npt.NDArray[np.int_]) -> Floats:
        own = cosines[np.arange(len(rows)), rows]
        if not self._contrastive:
            return own
        return own - (cosines.sum(1) - own) / (cosines.shape[1] - 1)


def _unit(rows: Floats) -> Floats:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms == 0, 1.0, norms)


# --- rewards ----------------------------------------------------------------------------------------------------------


class StyleReward:
    """How like its author a judge finds a completion; 0 of an empty one.

    Args:
        vectors: the judge.
        settings: what a completion is compared with, and how the cosine is scaled.
        chunks: training chunks of each author, of which some are read.
        calibration: of the judge on pairs of texts: ``cross_q25`` and ``same_q75``.

    Raises:
        UserError: the scaling is linear between quartiles that are not known, or not in order.
    """

    name = "style"

    def __init__(
        self,
        vectors: Vectors,
        settings: StyleRewardSettings,
        chunks: Mapping[str, Sequence[str]],
        calibration: Mapping[str, float],
    ) -> None:
        settings = settings.resolved
        self._vectors, self._centroids = vectors, None
        if settings.mode != "sample":
            some = {author: spread(texts, settings.chunks) for author, texts in chunks.items()}
            self._centroids = Centroids(vectors, some, settings.mode == "contrastive")
        self.settings = self._calibrated(settings, calibration) if settings.scaling == "linear" else settings

    def _calibrated(self, settings: StyleRewardSettings, known: Mapping[str, float]) -> StyleRewardSettings:
        """The settings with both ends of the linear scaling."""
        found = (known.get("cross_q25"), known.get("same_q75"))
        low, high = found if self._centroids is None else self._centroids.calibration()
        low, high = (low if settings.low is None else settings.low), (high if settings.high is None else settings.high)
        if low is None or high is None or not low < high:
            raise UserError(
                f"data.style.scaling=linear lies between low={low} and high={high}, which are not two numbers in "
                "order: the judge was not calibrated, or tells the authors not apart; set data.style.low and high, or "
                "choose another scaling"
            )
        return replace(settings, low=low, high=high)

    def __call__(self, rollouts: Sequence[Rollout]) -> list[float]:
        """Rewards, in order."""
        rewards = scaled(self.cosines(rollouts), self.settings).tolist()
        return [reward if r.text.strip() else 0.0 for r, reward in zip(rollouts, rewards, strict=True)]

    def cosines(self, rollouts: Sequence[Rollout]) -> Floats:
        """(R,) what is scaled: the cosine with the target."""
        found = self._vectors([rollout.text for rollout in rollouts])
        if self._centroids is not None:
            return self._centroids.compare(found, [str(rollout.columns["author"]) for rollout in rollouts])
        return (found * self._vectors([str(rollout.columns["sample"]) for rollout in rollouts])).sum(1)


def spread(texts: Sequence[str], most: int) -> list[str]:
    """At most so many of some texts, at even distances."""
    step = max(len(texts) / most, 1.0)
    return [texts[int(number * step)] for number in range(min(most, len(texts)))]


class CopyReward:
    """Minus the bits of the longest span that a completion shares with a training chunk of its author.

    Its weight under ``model.rewards`` is in reward a bit: some 0.01.

    Args:
        sources: of each author.
    """

    name = "copied"

    def __init__(self, sources: Mapping[str, Sources]) -> None:
        self.sources = sources

    def __call__(self, rollouts: Sequence[Rollout]) -> list[float]:
        """Penalties, in order."""
        return [-self._bits(rollout.text, self.sources[str(rollout.columns["author"])]) for rollout in rollouts]

    def _bits(self, text: str, source: Sources) -> float:
        return float(source.bits(source.longest(text)))


class NameReward:
    """A penalty for names that give the source away: -1 where a completion has one, else 0.

    Names are those of the author, of the book that the sample is from, and of the characters in the author's chunks.

    Args:
        sources: of each author.
    """

    name = "forbidden"

    def __init__(self, sources: Mapping[str, Sources]) -> None:
        self.sources = sources

    def __call__(self, rollouts: Sequence[Rollout]) -> list[float]:
        """Penalties, in order."""
        return [-float(self._names_one(rollout)) for rollout in rollouts]

    def _names_one(self, rollout: Rollout) -> bool:
        author, title = (str(rollout.columns.get(key, "")) for key in ("author", "title"))
        own = self.sources[author].names
        return names(rollout.text, author) or names(rollout.text, title) or names_one(rollout.text, own)


class DiversityReward:
    """Quality times how far a completion is from the others of its group (DARLING, Li et al. 2025), in 0..1.

    The distance is 1 - cosine of the counts of content words, a mean over the others; alone, 0. The product keeps a
    policy from being different at the cost of being good.

    Args:
        quality: scores in 0..1, such as those of the style reward; what is outside is cut off.
    """

    name = "diversity"

    def __init__(self, quality: Callable[[Sequence[Rollout]], Sequence[float]]) -> None:
        self.quality = quality

    def __call__(self, rollouts: Sequence[Rollout]) -> list[float]:
        """Rewards, in order."""
        counts = [Counter(content_words(rollout.text)) for rollout in rollouts]
        members: dict[tuple[int, str], list[int]] = {}
        for row, rollout in enumerate(rollouts):
            members.setdefault((rollout.group, rollout.prompt), []).append(row)
        distances = [0.0] * len(rollouts)
        for rows in members.values():
            for row in rows:
                others = [1 - _cosine(counts[row], counts[other]) for other in rows if other != row]
                distances[row] = sum(others) / len(others) if others and rollouts[row].text.strip() else 0.0
        return [d * min(max(q, 0.0), 1.0) for d, q in zip(distances, self.quality(rollouts), strict=True)]


def _cosine(one: Counter[str], other: Counter[str]) -> float:
    dot = sum(count * other[word] for word, count in one.items())
    norms = math.hypot(*one.values()) * math.hypot(*other.values())
    return dot / norms if norms else 0.0
