"""Which SAE features carry the answer, to first order."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lit_narrative.circuits.questions import Questions, ask
from lit_narrative.circuits.tables import read_rows, write_rows

if TYPE_CHECKING:
    from sae_lens import SAE
    from transformer_lens.model_bridge import TransformerBridge


@dataclass(frozen=True)
class FeatureEffect:
    """A feature on a split.

    Attributes:
        split: the questions asked.
        feature: number of the latent.
        effect: on the mean logit difference, in logits; positive where the feature helps the right answer.
    """

    split: str
    feature: int
    effect: float


def feature_effects(
    bridge: "TransformerBridge", sae: "SAE[Any]", questions: Questions, hook: str, batch_size: int = 64
) -> Tensor:
    """First-order effect of every latent on the mean logit difference: activation times gradient along its direction.

    Args:
        bridge: the model.
        sae: of the activations at ``hook``.
        questions: what is asked.
        hook: name of the activation.
        batch_size: rows of one pass.

    Returns:
        (d_sae,), summed over places and averaged over the scored tokens.
    """
    total, scored = torch.zeros(sae.cfg.d_sae, device=bridge.cfg.device), 0
    for start in range(0, len(questions), batch_size):
        own, count = _summed(bridge, sae, questions.rows(slice(start, start + batch_size)), hook)
        total, scored = total + own, scored + count
    return total / scored


def _summed(bridge: "TransformerBridge", sae: "SAE[Any]", questions: Questions, hook: str) -> tuple[Tensor, int]:
    kept: list[Tensor] = []

    def keep(activation: Tensor, hook: Any) -> Tensor:
        kept.append(activation.detach().requires_grad_())
        return kept[0]

    with torch.enable_grad():
        leads = ask(bridge, questions, [(hook, keep)]).logit_diff
    (gradient,) = torch.autograd.grad(leads.sum(), kept)
    with torch.no_grad():
        latents = sae.encode(kept[0].detach()) * questions.mask[..., None].to(gradient.device)
        return (latents * (gradient @ sae.W_dec.T)).sum((0, 1)), len(leads)


def save_effects(folder: str | Path, effects: Mapping[str, Tensor]) -> Path:
    """Write effects.csv: of each split, features with an effect, the largest magnitude first."""
    rows = [
        FeatureEffect(split, feature, float(own[feature]))
        for split, own in effects.items()
        for feature in own.abs().argsort(descending=True, stable=True).tolist()
        if own[feature]
    ]
    return write_rows(Path(folder, "effects.csv"), FeatureEffect, rows)


def load_effects(folder: str | Path) -> tuple[FeatureEffect, ...]:
    """Read what `save_effects` wrote."""
    return read_rows(Path(folder, "effects.csv"), FeatureEffect)
