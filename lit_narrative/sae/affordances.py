"""Feature-affordance analysis: which features of a sparse autoencoder tell whether options are open."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np

from lit_narrative.sae.information import Association, associate, conditional_information, quantise
from lit_narrative.sae.readout import readouts
from lit_narrative.views import Encode, State

TARGETS = "some option is closed here"
SIGNIFICANT = 0.05
"""Largest share of false discoveries among the features called significant."""
TOP_STATES = 5
Exchange = Literal["worlds", "plays"]
"""What is permuted to learn what chance does: whole worlds, or, within each encounter of a world, whole plays."""
Method = Literal["correlation", "spearman", "mutual_info", "conditional_mi"]


@dataclass(frozen=True, slots=True, eq=False)
class Affordances:
    """The answers that features are tested on: of the states with options, which are closed.

    Attributes:
        rows: (n,) positions of the states that have options.
        closed: (n,) bool, whether one of them is closed.
        open_count: (n,) number of open options.
        contexts: (n,) int codes of the states' contexts, of each world its own where plays are permuted.
        worlds: (n,) int codes of what is permuted whole: the worlds they were played in, or the plays.
    """

    rows: np.ndarray
    closed: np.ndarray
    open_count: np.ndarray
    contexts: np.ndarray
    worlds: np.ndarray

    @classmethod
    def of(cls, states: Sequence[State], exchange: Exchange = "worlds") -> Self:
        """Read them off the states; a state without options (an ending) is left out."""
        rows = [row for row, state in enumerate(states) if state.affordances]
        asked = [states[row] for row in rows]
        contexts, blocks = [state.context for state in asked], [str(state.meta["world"]) for state in asked]
        if exchange == "plays":
            contexts = [f"{world}\n{context}" for world, context in zip(blocks, contexts, strict=True)]
            blocks = [f"{world}\n{state.meta['play']}" for world, state in zip(blocks, asked, strict=True)]
        return cls(
            np.array(rows, dtype=np.int64),
            np.array([not all(state.affordances) for state in asked], dtype=bool),
            np.array([sum(state.affordances) for state in asked], dtype=np.float64),
            _codes(contexts),
            _codes(blocks),
        )


def correlations(z: np.ndarray, target: np.ndarray, ranks: bool = False) -> np.ndarray:
    """Pearson correlation of each feature (n, m) with the target (n,), or Spearman's; 0 for what is constant."""
    if len(target) < 2:
        return np.zeros(z.shape[1])
    if ranks:
        from scipy.stats import rankdata

        z, target = rankdata(z, axis=0), rankdata(target)
    a, b = z - z.mean(0, dtype=np.float64), target - target.mean()
    scale = np.sqrt((a**2).sum(0) * (b**2).sum())
    return np.divide(b @ a, scale, out=np.zeros(z.shape[1]), where=scale > 1e-12)


def identify_top_features(
    z: np.ndarray, states: Sequence[State], n_top: int, method: Method = "conditional_mi"
) -> list[tuple[int, float]]:
    """The features with the strongest association with the affordances.

    Args:
        z: (n, m) activations of the states.
        states: the states.
        n_top: number of features returned.
        method: correlation (Pearson) or spearman with the number of open options; mutual_info or conditional_mi
            (given the context), in bits, with whether some option is closed.

    Returns:
        (feature, score), largest magnitude first.
    """
    asked = Affordances.of(states)
    latents = z[asked.rows]
    if method in ("correlation", "spearman"):
        score = correlations(latents, asked.open_count, ranks=method == "spearman")
    else:
        contexts = asked.contexts if method == "conditional_mi" else np.zeros_like(asked.contexts)
        score = conditional_information(quantise(latents), asked.closed[None], contexts)[0][0]
    # Stable: equal scores stay in the order of the features on every machine.
    order = np.argsort(-np.abs(score), kind="stable")[:n_top]
    return [(int(feature), float(score[feature])) for feature in order]


def analyse(
    states: Sequence[State],
    encode: Encode,
    *,
    seed: int,
    n_top: int = 12,
    exchange: Exchange = "worlds",
) -> dict[str, Any]:
    """The feature-affordance analysis of one SAE as plain JSON values.

    Args:
        states: states of play, of many worlds (``meta["world"]``).
        encode: (n, dim) vectors to latents (n, m) and reconstructions.
        seed: of the permutations and folds.
        n_top: features in the table: the smallest q first, then the largest information.
        exchange: what is permuted. Plays, where the worlds are few: of one encounter, any play might have been any
            other, so chance is known from a single world, and what is found holds of these worlds.

    Returns:
        ``density`` (share of the states in which each latent fires), ``readout`` (areas under the ROC curve ``sae``,
        ``raw``, ``permuted``; None where undefined), ``features`` (the table), ``significant`` (number of features
        with q below 0.05), ``entropy`` (bits of the answer that the encounter leaves open) and ``targets`` (the answer
        that was asked for, in words).
    """
    rng = np.random.default_rng(seed)
    vectors = np.stack([state.vector for state in states])
    z, _ = encode(vectors)
    asked = Affordances.of(states, exchange)
    latents = z[asked.rows]
    tested = associate(quantise(latents), asked.closed, asked.contexts, asked.worlds, rng)
    # By q first: a feature of many bits in few states would lead by bits alone, and may be chance.
    order = np.lexsort((-tested.bits, tested.p, tested.q))[:n_top]
    correlation = correlations(latents, asked.open_count)
    return {
        "density": [float(share) for share in (z != 0).mean(0)],
        "readout": readouts(latents, vectors[asked.rows], asked.closed, asked.contexts, asked.worlds, rng),
        "features": [_row(int(latent), z, states, tested, correlation) for latent in order],
        "significant": int((tested.q < SIGNIFICANT).sum()),
        "entropy": tested.entropy,
        "targets": TARGETS,
    }


def _row(
    latent: int, z: np.ndarray, states: Sequence[State], tested: Association, correlation: np.ndarray
) -> dict[str, Any]:
    return {
        "latent": latent,
        "density": float((z[:, latent] != 0).mean()),
        "correlation": float(correlation[latent]),
        "conditional_mi": float(tested.bits[latent]),
        "normalised_mi": float(tested.normalised[latent]),
        "p": float(tested.p[latent]),
        "q": float(tested.q[latent]),
        "significant": bool(tested.q[latent] < SIGNIFICANT),
        "top_states": top_states(z[:, latent], states),
    }


def top_states(activation: np.ndarray, states: Sequence[State], count: int = TOP_STATES) -> list[dict[str, Any]]:
    """The states in which a feature is most active, one of each world, with the options they open and close."""
    rows: dict[Any, dict[str, Any]] = {}
    for row in np.argsort(-activation, kind="stable"):
        state = states[row]
        if len(rows) == count or activation[row] <= 0:
            break
        if state.meta["world"] in rows:
            continue
        pairs = list(zip(state.meta.get("options", ()), state.affordances, strict=False))
        rows[state.meta["world"]] = {
            "activation": float(activation[row]),
            "text": state.meta.get("text", ""),
            "encounter": state.meta.get("encounter", state.context),
            "open": [name for name, free in pairs if free],
            "closed": [name for name, free in pairs if not free],
        }
    return list(rows.values())


def _codes(names: Sequence[str]) -> np.ndarray:
    return np.unique(np.array(names, dtype=object).astype(str), return_inverse=True)[1].astype(np.int64)
