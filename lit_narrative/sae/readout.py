"""Linear readout of a yes-or-no answer from vectors, on worlds that the rule has not seen.

States are compared within one context only (an encounter): that some encounters never close an option is no merit of
the vectors, and a rule that knows nothing else scores 0.5.
"""

import numpy as np

from lit_narrative.sae.information import WorldPermutations

FOLDS = 5
RIDGE = 10.0
"""Weight of the ridge penalty, on standardised columns."""
PERMUTATIONS = 20


def readout_auc(
    x: np.ndarray,
    answers: np.ndarray,
    contexts: np.ndarray,
    worlds: np.ndarray,
    seed: int,
    labels: np.ndarray | None = None,
) -> float | None:
    """Area under the ROC curve of a ridge classifier, cross-validated with worlds kept apart.

    The curve is taken within each fold, since scores of different folds are not on one scale, and within each context;
    the areas are averaged by the pairs of states that they compare.

    Args:
        x: (n, d) vectors.
        answers: (n,) bool; they also balance the folds.
        contexts: (n,) int codes.
        worlds: (n,) int codes.
        seed: of the folds.
        labels: (P, n) bool, labellings to read out instead of the answers; the mean over them is returned.

    Returns:
        The area in 0..1, 0.5 for chance; None where there is nothing to compare.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    folds = min(FOLDS, len(np.unique(worlds)), int(answers.sum()), int((~answers).sum()))
    if folds < 2:
        return None
    targets = answers[None] if labels is None else labels
    # scikit-learn takes seeds of 32 bits.
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed % 2**32)
    compared = np.zeros(2)
    # Balanced by the true answers under permuted labels as well, so that both are measured on the same folds.
    for train, test in splitter.split(x, answers, worlds):
        scores = _ridge_scores(x[train], targets[:, train], x[test])
        compared += sum(_compare(*pair, contexts[test]) for pair in zip(scores, targets[:, test], strict=True))
    return float(compared[0] / compared[1]) if compared[1] else None


def readouts(
    features: np.ndarray,
    raw: np.ndarray,
    answers: np.ndarray,
    contexts: np.ndarray,
    worlds: np.ndarray,
    rng: np.random.Generator,
) -> dict[str, float | None]:
    """`readout_auc` from three sources.

    Returns:
        ``sae``: from the features (n, m); ``raw``: from the vectors (n, d) that they were made of; ``permuted``: from
        the features with the answers permuted by whole worlds.
    """
    seed = int(rng.integers(2**32))
    shuffled = WorldPermutations(contexts, worlds).draw(answers, PERMUTATIONS, rng)
    return {
        "sae": readout_auc(features, answers, contexts, worlds, seed),
        "raw": readout_auc(raw, answers, contexts, worlds, seed),
        "permuted": readout_auc(features, answers, contexts, worlds, seed, shuffled),
    }


def _ridge_scores(train: np.ndarray, targets: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Scores (P, n_test) of one ridge regression on 0/1 targets for each labelling (P, n_train)."""
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    # Fitted on the training worlds alone: the others must not set the scale that they are judged on.
    scaler = StandardScaler().fit(train)
    model = Ridge(alpha=RIDGE).fit(scaler.transform(train), targets.T.astype(np.float64))
    scores: np.ndarray = model.predict(scaler.transform(test)).reshape(len(test), -1)
    return scores.T


def _compare(scores: np.ndarray, answers: np.ndarray, contexts: np.ndarray) -> np.ndarray:
    """(pairs in the right order, pairs) of a yes and a no of one context; a tie is half right."""
    from scipy.stats import rankdata

    counted = np.zeros(2)
    for context in np.unique(contexts):
        rows = contexts == context
        yes = answers[rows]
        positive, pairs = yes.sum(), yes.sum() * (~yes).sum()
        if pairs:
            # Mann and Whitney's U: the rank sum of the yes less its smallest value. A tie has mean ranks, so half a
            # pair.
            right = rankdata(scores[rows])[yes].sum() - positive * (positive + 1) / 2
            counted += (right, pairs)
    return counted
