"""SAE features one by one: what each adds to the answer, to first order, and which named patterns fire it."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lit_narrative.circuits.analyses.residual_sae import Residuals
from lit_narrative.circuits.inputs import AnalysisInputs, ask, last_token, read
from lit_narrative.circuits.tables import read_rows, write_rows
from lit_narrative.views import Example

if TYPE_CHECKING:
    from sae_lens import SAE
    from transformer_lens.model_bridge import TransformerBridge


@dataclass(frozen=True)
class FeatureEffect:
    """A feature on a split.

    Attributes:
        split: the rows.
        feature: number of the latent.
        effect: on the mean logit difference, in logits; positive where the feature helps the right answer.
    """

    split: str
    feature: int
    effect: float


def feature_effects(
    bridge: "TransformerBridge", sae: "SAE[Any]", inputs: AnalysisInputs, hook: str, batch_size: int = 64
) -> Tensor:
    """First-order effect of every latent on the mean logit difference: activation times gradient along its direction.

    Args:
        bridge: the model.
        sae: of the activations at ``hook``.
        inputs: the rows.
        hook: name of the activation.
        batch_size: rows of one pass.

    Returns:
        (d_sae,), summed over columns and averaged over the scored tokens.
    """
    total, scored = torch.zeros(sae.cfg.d_sae, device=bridge.cfg.device), 0
    for start in range(0, len(inputs), batch_size):
        part, count = _summed(bridge, sae, inputs.rows(slice(start, start + batch_size)), hook)
        total, scored = total + part, scored + count
    return total / scored


def _summed(bridge: "TransformerBridge", sae: "SAE[Any]", inputs: AnalysisInputs, hook: str) -> tuple[Tensor, int]:
    kept: list[Tensor] = []

    def keep(activation: Tensor, hook: Any) -> Tensor:
        kept.append(activation.detach().requires_grad_())  # a leaf: what lies before the hook needs no gradient
        return kept[0]

    with torch.enable_grad():
        leads = ask(bridge, inputs, [(hook, keep)]).logit_diff
    (gradient,) = torch.autograd.grad(leads.sum(), kept)
    with torch.no_grad():
        # Padding is encoded too, and any vector may fire a latent: there they count as zero.
        latents = sae.encode(kept[0].detach()) * inputs.mask[..., None].to(gradient.device)
        return (latents * (gradient @ sae.W_dec.T)).sum((0, 1)), len(leads)


def save_effects(folder: str | Path, effects: Mapping[str, Tensor]) -> Path:
    """Write effects.csv: of each split, features with an effect, the largest magnitude first."""
    rows = [
        FeatureEffect(split, feature, float(values[feature]))
        for split, values in effects.items()
        for feature in values.abs().argsort(descending=True, stable=True).tolist()
        if values[feature]
    ]
    return write_rows(Path(folder, "effects.csv"), FeatureEffect, rows)


def load_effects(folder: str | Path) -> tuple[FeatureEffect, ...]:
    """Read what `save_effects` wrote."""
    return read_rows(Path(folder, "effects.csv"), FeatureEffect)


BLOCK = 512
"""Features at a time in double precision: a large dictionary on many tokens would not fit."""


@dataclass(frozen=True)
class PatternRow:
    """A feature on a pattern of a split.

    Attributes:
        split: the rows.
        feature: number of the latent.
        kind: of pattern.
        label: the pattern.
        n: tokens of this pattern.
        mean: mean activation on them.
        correlation: of the activation with whether a token is of this pattern, over the tokens that have one of this
            kind (point-biserial); None where there is no other.
    """

    split: str
    feature: int
    kind: str
    label: str
    n: int
    mean: float
    correlation: float | None


def token_labels(
    rows: Sequence[Example], inputs: AnalysisInputs, tokenizer: PreTrainedTokenizerBase
) -> dict[str, np.ndarray]:
    """By kind, (n, T) labels of the tokens; an empty text where there is none.

    Args:
        rows: the examples.
        inputs: the same as tokens.
        tokenizer: the model's.

    Raises:
        UserError: a pattern is where its text has no token.
    """
    labels: defaultdict[str, np.ndarray] = defaultdict(lambda: np.full(inputs.tokens.shape, "", dtype=object))
    width = inputs.tokens.shape[1]
    for index, row in enumerate(rows):
        for kind, label in row.meta.get("targets", {}).items():
            if isinstance(label, str):
                labels[kind][index] = label
        if patterns := row.meta.get("patterns"):
            offsets = read(row, tokenizer)[2][:-1]
            for kind, label, span in patterns:
                labels[kind][index, width - len(offsets) + last_token(offsets, label, span)] = label
    return dict(labels)


@torch.no_grad()
def feature_patterns(
    sae: "SAE[Any]", splits: Mapping[str, Residuals], labels: Mapping[str, Mapping[str, np.ndarray]]
) -> tuple[PatternRow, ...]:
    """The activation of every feature by pattern; patterns on which a feature never fires are left out.

    Args:
        sae: the autoencoder.
        splits: activations by the name of their split.
        labels: of each split's tokens, by kind (`token_labels`).
    """
    rows: list[PatternRow] = []
    for split, activations in splits.items():
        latents = sae.encode(activations.vectors).cpu().numpy()
        at = activations.rows.cpu().numpy(), activations.columns.cpu().numpy()
        for kind, by_token in labels[split].items():
            rows += _by_label(split, kind, latents, by_token[at].astype(str))
    return tuple(rows)


def _by_label(split: str, kind: str, latents: np.ndarray, labels: np.ndarray) -> list[PatternRow]:
    # Only tokens that have a label of this kind: the others are neither in the pattern nor outside it.
    known = labels != ""
    names, codes = np.unique(labels[known], return_inverse=True)
    members = np.eye(len(names))[codes]
    counts = members.sum(0)
    blocks = (latents[known, start : start + BLOCK] for start in range(0, latents.shape[1], BLOCK))
    means, correlations = np.concatenate([_by_member(block.astype(np.float64), members) for block in blocks], axis=2)
    return [
        PatternRow(split, int(feature), kind, str(names[label]), int(counts[label]), float(mean), _finite(correlation))
        for label, feature in np.argwhere(means > 0)
        for mean, correlation in ((means[label, feature], correlations[label, feature]),)
    ]


def _by_member(latents: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Means within each label and correlations with it, (2, labels, F), of latents (n, F) and 0/1 members (n, labels).

    Pearson's correlation with an indicator of share p is (mean within - mean) * sqrt(p / (1 - p)) / deviation.
    """
    counts = members.sum(0)[:, None]
    means, share = members.T @ latents / counts, counts / len(latents)
    with np.errstate(divide="ignore", invalid="ignore"):
        correlations = (means - latents.mean(0)) * np.sqrt(share / (1 - share)) / latents.std(0)
    return np.stack([means, correlations])


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def save_patterns(folder: str | Path, rows: Sequence[PatternRow]) -> Path:
    """Write patterns.csv."""
    return write_rows(Path(folder, "patterns.csv"), PatternRow, rows)


def load_patterns(folder: str | Path) -> tuple[PatternRow, ...]:
    """Read what `save_patterns` wrote."""
    return read_rows(Path(folder, "patterns.csv"), PatternRow)
