"""Conditional information of features about a yes-or-no answer, I(b; y | k), with its permutation null.

Features are functions of the state, so given the whole state they tell nothing more about it: the information is
taken given a coarse context only (an encounter), and over features cut into a few levels.
States of one world are alike, so whole worlds are permuted; permuting states one by one finds about five times too
many features.

Notation: n states, m features, P permutations, levels b in 0..B-1, answers y in {0, 1}, contexts k.
"""

from dataclasses import dataclass

import numpy as np

LN2 = float(np.log(2))
MIN_STRATUM = 20
"""Contexts with fewer states are left out: their bias correction would not hold."""
ENOUGH = 20
"""Exceedances after which a feature's p-value is settled (Besag and Clifford 1991)."""
CHUNKS = (50, 250)
"""Permutations drawn first, for all features, and then at a time, for those that are left."""


def quantise(z: np.ndarray, bins: int = 4, epsilon: float = 1e-6) -> np.ndarray:
    """Cut each feature into levels: 0 where it is silent, else 1 + the quantile bin among its active values.

    Args:
        z: (n, m) activations.
        bins: quantile bins of the active values.
        epsilon: at most this is silent.

    Returns:
        (n, m) int8 in 0..bins.
    """
    levels = np.zeros(z.shape, dtype=np.int8)
    inner = np.arange(1, bins) / bins
    for feature in np.flatnonzero((z > epsilon).any(0)):
        active = z[:, feature] > epsilon
        values = z[active, feature]
        levels[active, feature] = 1 + np.searchsorted(np.quantile(values, inner), values, side="left")
    return levels


def conditional_information(
    levels: np.ndarray, answers: np.ndarray, contexts: np.ndarray, min_stratum: int = MIN_STRATUM
) -> tuple[np.ndarray, np.ndarray]:
    """Estimate I(b; y | k) in bits for every feature and every labelling.

    The plug-in estimate of each context is corrected by Miller and Madow (1955), (K_by − K_b − K_y + 1) / (2 N ln 2)
    with K the numbers of occupied cells; contexts are weighted by their states and the sum is clipped at 0.

    Args:
        levels: (n, m) int.
        answers: (P, n) bool, one labelling a row.
        contexts: (n,) int codes.
        min_stratum: contexts with fewer states are left out.

    Returns:
        The information (P, m), and the entropy H(y | k) that bounds it (P,), both in bits; 0 where no context is left.
    """
    count, size = int(levels.max(initial=0)) + 1, 0
    information = np.zeros((len(answers), levels.shape[1]))
    entropy = np.zeros(len(answers))
    for context in np.unique(contexts):
        rows = np.flatnonzero(contexts == context)
        if len(rows) < min_stratum:
            continue
        size += len(rows)
        # float32 counts exactly up to 2^24, far above the states of a context, and multiplies as fast as BLAS can.
        one_hot = (levels[rows, :, None] == np.arange(count, dtype=levels.dtype)).astype(np.float32)
        bits, stratum_entropy = _stratum(one_hot, answers[:, rows].astype(np.float32))
        information += len(rows) * bits
        entropy += len(rows) * stratum_entropy
    return np.maximum(information, 0) / max(size, 1), entropy / max(size, 1)


def _stratum(one_hot: np.ndarray, answers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corrected I(b; y) (P, m) and H(y) (P,) in bits within one context; one_hot (n, m, B), answers (P, n)."""
    n, m, b = one_hot.shape
    total = one_hot.sum(0)  # (m, B)
    yes = (answers @ one_hot.reshape(n, m * b)).reshape(len(answers), m, b)
    positive = answers.sum(1)  # (P,)
    joint = _xlogx(yes).sum(2) + _xlogx(total - yes).sum(2)
    marginal = _xlogx(positive) + _xlogx(n - positive)
    # From counts, so that one matrix product serves all permutations: n I = Σ c log c over cells - margins + n log n.
    bits = (joint - _xlogx(total).sum(1) - marginal[:, None] + _xlogx(np.float64(n))) / (n * LN2)
    occupied = (yes > 0).sum(2) + (yes < total).sum(2)
    answered = (positive > 0).astype(int) + (positive < n)
    # A plug-in entropy is too low by (K - 1) / 2n on average; I is made of three of them (Miller and Madow 1955).
    excess = occupied - (total > 0).sum(1) - answered[:, None] + 1
    return bits - excess / (2 * n * LN2), (_xlogx(np.float64(n)) - marginal) / (n * LN2)


def _xlogx(x: np.ndarray | np.floating) -> np.ndarray:
    wide = np.asarray(x, dtype=np.float64)  # counts come as float32, exact up to 2^24
    # 0 log 0 is 0. Counts are whole, so the floor of 1 changes nothing else.
    return wide * np.log(np.maximum(wide, 1))


class WorldPermutations:
    """Labellings in which each world carries the answers of another world, context by context.

    The worlds are in a random cyclic order, and a world takes, in each context, the answers of the next world in that
    order that has this context. The dependence among the answers of one world is thus kept.

    Args:
        contexts: (n,) int codes.
        worlds: (n,) int codes from 0.
    """

    def __init__(self, contexts: np.ndarray, worlds: np.ndarray) -> None:
        # The last key counts first: by context, within it by world, so that a world's states lie side by side.
        order = np.lexsort((np.arange(len(worlds)), worlds, contexts))
        self.worlds = int(worlds.max(initial=-1)) + 1
        self.groups = [_Blocks(order[contexts[order] == context], worlds) for context in np.unique(contexts)]

    def draw(self, answers: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
        """Permute ``answers`` (n,) ``count`` times: (count, n)."""
        keys = rng.random((count, self.worlds))
        permuted = np.empty((count, len(answers)), dtype=answers.dtype)
        for group in self.groups:
            permuted[:, group.rows] = answers[group.partners(keys)]
        return permuted


class _Blocks:
    """The states of one context, world by world."""

    def __init__(self, rows: np.ndarray, worlds: np.ndarray) -> None:
        self.rows = rows
        self.worlds, self.starts, self.lengths = np.unique(worlds[rows], return_index=True, return_counts=True)
        self.block = np.repeat(np.arange(len(self.worlds)), self.lengths)
        self.position = np.arange(len(rows)) - self.starts[self.block]

    def partners(self, keys: np.ndarray) -> np.ndarray:
        """For each row the row whose answer it takes (P, rows); the states of a partner with fewer are used again."""
        order = np.argsort(keys[:, self.worlds], axis=1)
        partner = np.empty_like(order)
        np.put_along_axis(partner, order, np.roll(order, -1, axis=1), axis=1)
        other = partner[:, self.block]
        return self.rows[self.starts[other] + self.position % self.lengths[other]]


@dataclass(frozen=True, slots=True, eq=False)
class Association:
    """The association of features with an answer.

    Attributes:
        bits: (m,) I(b; y | k), at least 0.
        normalised: (m,) the same as a share of H(y | k), 0..1; 0 where the answer is never in doubt.
        p: (m,) from the permutation null, in 0..1; 1 for features that are constant.
        q: (m,) Benjamini–Hochberg over the features that vary.
        entropy: H(y | k) in bits.
    """

    bits: np.ndarray
    normalised: np.ndarray
    p: np.ndarray
    q: np.ndarray
    entropy: float


def associate(
    levels: np.ndarray,
    answers: np.ndarray,
    contexts: np.ndarray,
    worlds: np.ndarray,
    rng: np.random.Generator,
    permutations: int = 5_000,
) -> Association:
    """Measure every feature against the null in which whole worlds are permuted.

    Further permutations are drawn only for features that fewer than ``ENOUGH`` of them have reached, so that small
    p-values are resolved at little cost.

    Args:
        levels: (n, m) int, from `quantise`.
        answers: (n,) bool.
        contexts: (n,) int codes.
        worlds: (n,) int codes.
        rng: of the permutations.
        permutations: at most, for each feature; the smallest p-value is 1 / (permutations + 1).
    """
    from scipy.stats import false_discovery_control

    bits, entropy = (part[0] for part in conditional_information(levels, answers[None], contexts))
    varies = (levels != levels[:1]).any(0) if len(levels) else np.zeros(levels.shape[1], dtype=bool)
    p = np.ones(levels.shape[1])
    if entropy > 0 and varies.any():
        p[varies] = _p_values(levels[:, varies], answers, contexts, worlds, rng, bits[varies], permutations)
    q = np.ones_like(p)
    if varies.any():
        q[varies] = false_discovery_control(p[varies])
    normalised = np.minimum(bits / entropy, 1) if entropy > 0 else np.zeros_like(bits)
    return Association(bits, normalised, p, q, float(entropy))


def _p_values(
    levels: np.ndarray,
    answers: np.ndarray,
    contexts: np.ndarray,
    worlds: np.ndarray,
    rng: np.random.Generator,
    observed: np.ndarray,
    permutations: int,
) -> np.ndarray:
    """(reached + 1) / (drawn + 1) for each feature, drawing until it is settled."""
    null = WorldPermutations(contexts, worlds)
    reached, drawn = np.zeros(len(observed)), np.zeros(len(observed))
    open_ones = np.arange(len(observed))
    done = 0
    while done < permutations and len(open_ones):
        labels = null.draw(answers, min(CHUNKS[done > 0], permutations - done), rng)
        done += len(labels)
        bits, _ = conditional_information(levels[:, open_ones], labels, contexts)
        # The tolerance: the same counts summed in another order differ in the last bits, and a tie must count.
        reached[open_ones] += (bits >= observed[open_ones] - 1e-12).sum(0)
        drawn[open_ones] += len(labels)
        open_ones = open_ones[reached[open_ones] < ENOUGH]
    return (reached + 1) / (drawn + 1)
