"""A sparse autoencoder on the residual stream: its training, and the cost of splicing its reconstruction in."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from lit_narrative.circuits.analysis import AnalysisSettings, Layers
from lit_narrative.circuits.bridge import Hook
from lit_narrative.circuits.hooks import Progress, read_hook
from lit_narrative.circuits.inputs import AnalysisInputs, ask_all
from lit_narrative.errors import UserError, check_least
from lit_narrative.sae import autoencoder as sparse
from lit_narrative.sae.training import fit

if TYPE_CHECKING:
    from sae_lens import SAE
    from transformer_lens.model_bridge import TransformerBridge


@dataclass(frozen=True)
class ResidualSAESettings(AnalysisSettings):
    """How the autoencoder is trained.

    Args:
        hook: name of the activation, (n, T, d); ``auto`` is the stream before layer 1, or where ``layers`` of the
            callback leaves that out, before the first of them (of layer 0 alone, after it).
        architecture: one of `lit_narrative.sae.autoencoder.ARCHITECTURES` but transcoder.
        expansion: latents for each dimension of the stream.
        options: of the architecture: ``k``, ``l1_coefficient`` …; see `lit_narrative.sae.autoencoder.OPTIONS`.
        lr: of Adam.
        steps: optimizer steps.
        batch_size: vectors of one step.
        dead_window: steps without firing after which a latent counts as dead.
        scale: train on vectors scaled to a mean length of √d; the saved weights take vectors as they are.
        seed: of the weights and batches.
    """

    hook: str = "auto"
    architecture: sparse.Architecture = "topk"
    expansion: int = 4
    options: sparse.Options = field(default_factory=dict)
    lr: float = 2e-3
    steps: int = 600
    batch_size: int = 256
    dead_window: int = 100
    scale: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("expansion", "steps", "batch_size", "dead_window"):
            check_least(f"sae.{name}", getattr(self, name), 1)
        if unknown := set(self.options) - set(sparse.OPTIONS):
            raise UserError(f"sae.options: no {sorted(unknown)[0]!r}; there are: {', '.join(sparse.OPTIONS)}")

    def within(self, layers: Layers) -> Self:
        """The same with the hook ``auto`` in one of the layers."""
        chosen = [1] if layers == "all" or 1 in layers else sorted(layer for layer in layers if layer)
        default = f"blocks.{chosen[0]}.hook_resid_pre" if chosen else "blocks.0.hook_resid_post"
        return self if self.hook != "auto" else replace(self, hook=default)

    def tiny(self) -> Self:
        """Few steps of a small autoencoder."""
        return replace(self, steps=2, expansion=1)


@dataclass(frozen=True, eq=False)
class Residuals:
    """The activations of a split's tokens; padding is left out.

    Attributes:
        vectors: (N, d) float32.
        rows: (N,) long, the row of each.
        columns: (N,) long, its column in the padded batch.
    """

    vectors: Tensor
    rows: Tensor
    columns: Tensor


def residuals(bridge: "TransformerBridge", inputs: AnalysisInputs, hook: str, batch_size: int = 256) -> Residuals:
    """The activations of all tokens at a hook.

    Raises:
        UserError: there is no such hook, or its activations are not (n, T, d).
    """
    kept = read_hook(bridge, inputs, hook, batch_size)
    if kept.shape[:2] != inputs.tokens.shape or kept.ndim != 3:
        raise UserError(f"an SAE needs one vector a token, but {hook} has the shape {tuple(kept.shape)}")
    rows, columns = inputs.mask.nonzero().T
    return Residuals(kept[rows, columns], rows, columns)


def train_sae(
    vectors: Tensor, settings: ResidualSAESettings | None = None, progress: Progress | None = None
) -> "SAE[Any]":
    """Train an SAE on vectors (N, d); what comes back is frozen and takes vectors of the same scale.

    ``save_model(folder)`` writes it as sae-lens reads it.

    Raises:
        UserError: The architecture does not take an option, or ``k`` is out of range.
    """
    settings = settings or ResidualSAESettings()
    width = vectors.shape[1]
    # Steps and penalties mean the same for every model and layer where vectors are √d long, as sae-lens scales them.
    factor = width**0.5 / vectors.norm(dim=1).mean().item() if settings.scale else 1.0
    x = vectors * factor
    sae = sparse.build_sae(settings.architecture, width, settings.expansion * width, settings.options, settings.seed)
    sae.to(x.device)
    fit(
        sae,
        x,
        settings.steps,
        settings.batch_size,
        torch.Generator().manual_seed(settings.seed),
        lr=settings.lr,
        dead_window=settings.dead_window,
        progress=progress,
    )
    sae.fold_activation_norm_scaling_factor(factor)  # into the weights: whoever loads them scales nothing
    frozen = sparse.inference_sae(sae)
    frozen.cfg.metadata.hook_name = settings.within("all").hook
    return frozen


@torch.no_grad()
def splice(
    bridge: "TransformerBridge", sae: "SAE[Any]", inputs: AnalysisInputs, hook: str, batch_size: int = 256
) -> dict[str, dict[str, float]]:
    """Scores of the answers as they are, with the SAE's reconstruction in the stream's place, and with zeros there.

    Returns:
        ``base``, ``spliced`` and ``zeroed``: accuracy, logprob and logit_diff of each; and ``recovered``: the share of
        the log-probability lost by zeroing that the reconstruction keeps, as ``logprob``.
    """
    changes: dict[str, Callable[[Tensor], Tensor] | None] = {"base": None, "spliced": sae, "zeroed": torch.zeros_like}
    scores = {}
    for name, change in changes.items():
        hooks = [] if change is None else [_changed(hook, change)]
        scores[name] = ask_all(bridge, inputs, batch_size, hooks).means()
    base, spliced, zeroed = (scores[name]["logprob"] for name in changes)
    if base != zeroed:
        scores["recovered"] = {"logprob": (spliced - zeroed) / (base - zeroed)}
    return scores


def _changed(name: str, change: Callable[[Tensor], Tensor]) -> Hook:
    return name, lambda activation, hook: change(activation)
