"""The overlap of two rankings: whether two splits, or two models, rely on the same parts or edges."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Overlap:
    """Whether two rankings of N parts choose the same ``k``.

    Attributes:
        first: name of one ranking.
        second: name of the other.
        k: parts in each set.
        shared: parts in both.
        jaccard: shared over the union, 0..1.
        chance: what two random sets would have on average (hypergeometric).
        p_value: probability that random sets share as many.
        spearman: rank correlation of all N parts' values; None where one of them is constant.
        weak: whether one of the splits is answered hardly better than by a constant.
    """

    first: str
    second: str
    k: int
    shared: int
    jaccard: float
    chance: float
    p_value: float
    spearman: float | None
    weak: bool


def overlap(
    a: Mapping[str, float], b: Mapping[str, float], k: int, names: tuple[str, str] = ("a", "b"), weak: bool = False
) -> Overlap:
    """Compare the ``k`` largest values of two mappings over the same parts.

    Args:
        a: values by part.
        b: values by part.
        k: size of each set.
        names: of the two.
        weak: what to note.

    Raises:
        ValueError: the parts differ.
    """
    from scipy.stats import hypergeom, spearmanr

    if a.keys() != b.keys():
        raise ValueError("two rankings can be compared only over the same parts")
    tops = [set(sorted(ranking, key=lambda part: -ranking[part])[:k]) for ranking in (a, b)]
    shared, total = len(tops[0] & tops[1]), len(a)
    random = hypergeom(total, k, k)
    # The mean of a ratio: i shared parts of two sets of k have the Jaccard index i / (2k - i).
    chance = sum(float(random.pmf(i)) * i / (2 * k - i) for i in range(k + 1))
    values = np.array([[ranking[part] for part in a] for ranking in (a, b)])
    constant = bool((np.ptp(values, axis=1) == 0).any())
    rank = None if constant else float(spearmanr(*values).statistic)
    jaccard = shared / (2 * k - shared)
    return Overlap(*names, k, shared, jaccard, chance, float(random.sf(shared - 1)), rank, weak)
