"""Sparse autoencoders of sae-lens: settings, construction, the frozen form, reordering of latents, files.

`lit_narrative.sae.training` trains them. sae_lens is imported where it is used, since that takes seconds.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lit_narrative.errors import UserError
from lit_narrative.files import atomic_folder, write_json

if TYPE_CHECKING:
    from sae_lens import SAE, TrainingSAE


Architecture = Literal[
    "standard", "topk", "batchtopk", "matryoshka_batchtopk", "jumprelu", "gated", "matching_pursuit", "transcoder"
]
ARCHITECTURES: tuple[Architecture, ...] = get_args(Architecture)

OPTIONS: dict[str, tuple[str, ...]] = {
    "k": ("k", "max_iterations"),
    "aux_loss_coefficient": ("aux_loss_coefficient",),
    "l1_coefficient": ("l1_coefficient",),
    "l0_coefficient": ("l0_coefficient",),
    "sparsity_warmup_steps": ("l1_warm_up_steps", "l0_warm_up_steps"),
    "jumprelu_init_threshold": ("jumprelu_init_threshold",),
    "jumprelu_bandwidth": ("jumprelu_bandwidth",),
    "matryoshka_widths": ("matryoshka_widths",),
    "residual_threshold": ("residual_threshold",),
}
"""Our options, and the fields of sae-lens that they set (an architecture has at most one of them)."""
Options = Mapping[str, float | Sequence[int] | None]
"""Values by our names; None leaves the default."""
DEFAULT_K = 8
"""Active latents a vector; sae-lens' 100 is meant for residual streams of 768 and more components."""


@dataclass(frozen=True)
class SAESettings:
    """An autoencoder and its training.

    Args:
        architecture: standard (L1), topk, batchtopk, matryoshka_batchtopk, jumprelu, gated, matching_pursuit, or
            transcoder (L1), which predicts other vectors than those that it reads.
        d_sae: number of latents.
        d_in: length of the vectors; None asks the data.
        k: active latents a vector (topk), on average (batchtopk, matryoshka_batchtopk) or at most (matching_pursuit);
            None takes 8.
        l1_coefficient: sparsity weight (standard, gated, transcoder); 0.5 leaves 10 to 14 active latents on states.
        l0_coefficient: sparsity weight (jumprelu).
        sparsity_warmup_steps: steps over which that weight rises from 0 (standard, gated, jumprelu, transcoder).
        aux_loss_coefficient: weight of the loss that revives dead latents (topk, batchtopk, matryoshka_batchtopk).
        jumprelu_init_threshold: first threshold of every latent (jumprelu).
        jumprelu_bandwidth: width of the threshold's straight-through estimate (jumprelu).
        lr: of Adam, betas 0.9 and 0.999.
        warmup_steps: steps over which the learning rate rises linearly.
        dead_window: steps without firing after which a latent counts as dead.
        seed: of the initial weights; None takes the run's.
        d_out: length of the vectors that are predicted (transcoder); None asks the data.
        matryoshka_widths: latents of each nested level, growing; the first ones reproduce the vectors by themselves
            (matryoshka_batchtopk). None takes a quarter, a half and all of them.
        residual_threshold: length of what is left of a vector at which no further latent is taken (matching_pursuit).

    An option that the architecture does not take is an error naming what it takes.
    """

    architecture: Architecture = "topk"
    d_sae: int = 128
    d_in: int | None = None
    k: int | None = None
    l1_coefficient: float | None = None
    l0_coefficient: float | None = None
    sparsity_warmup_steps: int | None = None
    aux_loss_coefficient: float | None = None
    jumprelu_init_threshold: float | None = None
    jumprelu_bandwidth: float | None = None
    lr: float = 3e-3
    warmup_steps: int = 20
    dead_window: int = 100
    seed: int | None = None
    d_out: int | None = None
    matryoshka_widths: Sequence[int] | None = None
    residual_threshold: float | None = None

    @property
    def options(self) -> "Options":
        """The options of the architecture, by our names (``OPTIONS``)."""
        return {name: getattr(self, name) for name in OPTIONS}


def build_sae(
    architecture: Architecture, d_in: int, d_sae: int, options: Options, seed: int, d_out: int | None = None
) -> "TrainingSAE[Any]":
    """A training SAE with unit decoder rows, W_enc = W_decᵀ (but for a transcoder's) and seeded weights.

    Args:
        architecture: one of ``ARCHITECTURES``.
        d_in: length of the vectors.
        d_sae: number of latents.
        options: by our names (``OPTIONS``); None leaves the default.
        seed: of the initial weights; the global random state is left as it was.
        d_out: length of the vectors that a transcoder predicts.

    Raises:
        UserError: As `sae_lens_options` raises; or a transcoder has nothing to predict, or anything else has.
    """
    chosen = sae_lens_options(architecture, d_sae, options)
    if (architecture == "transcoder") != (d_out is not None):
        raise UserError(
            "an SAE predicts the vectors that it reads, and the architecture 'transcoder' others: set "
            "data.activations.target_hook (view activations; without a datamodule model.d_out) for it, and for it alone"
        )
    chosen |= {} if d_out is None else {"d_out": d_out}
    sae_class, config_class = _training_class(architecture)
    # sae-lens draws from the global stream, which a new SAE between two cycles must not move for the policy.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return sae_class(config_class(d_in=d_in, d_sae=d_sae, decoder_init_norm=1.0, **chosen))


def _training_class(architecture: Architecture) -> tuple[Any, Any]:
    """(class, class of its configuration)."""
    if architecture == "transcoder":
        from lit_narrative.sae.transcoder import TrainingTranscoder, TranscoderTrainingConfig

        return TrainingTranscoder, TranscoderTrainingConfig
    from sae_lens.registry import get_sae_training_class

    return get_sae_training_class(architecture)


def sae_lens_options(architecture: Architecture, d_sae: int, options: Options) -> dict[str, Any]:
    """The chosen options by sae-lens' names.

    Raises:
        UserError: The architecture is unknown, does not take one of the options, or ``k`` or the widths are out of
            range.
    """
    if architecture not in ARCHITECTURES:
        raise UserError(f"unknown SAE architecture {architecture!r}; choose from {', '.join(ARCHITECTURES)}")
    known = {field.name for field in fields(_training_class(architecture)[1])}
    taken = {name: field for name in OPTIONS for field in OPTIONS[name] if field in known}
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    for name, value in given.items():
        if name not in taken:
            takes = ", ".join(taken)
            raise UserError(f"the SAE architecture {architecture!r} takes no {name} (got {value}); it takes {takes}")
    if "k" in taken and not 1 <= given.setdefault("k", min(DEFAULT_K, d_sae)) <= d_sae:
        raise UserError(f"k must lie in 1..{d_sae} (d_sae); got {given['k']}")
    if "matryoshka_widths" in taken:
        given["matryoshka_widths"] = _widths(given.get("matryoshka_widths", (d_sae // 4, d_sae // 2)), d_sae)
    return {taken[name]: value for name, value in given.items()}


def _widths(given: Sequence[int], d_sae: int) -> list[int]:
    """The widths of nested levels with the last one, all latents; a level of none is left out."""
    widths = [width for width in given if width] if len(given) == 2 else [*given]
    if widths != sorted(set(widths)) or not widths or not 1 <= widths[0] <= widths[-1] <= d_sae:
        raise UserError(f"matryoshka_widths must grow within 1..{d_sae} (d_sae); got {[*given]}")
    return widths if widths[-1] == d_sae else [*widths, d_sae]


def levels(sae: "TrainingSAE[Any]") -> np.ndarray | None:
    """(d_sae,) number of the nested level of each latent of a Matryoshka SAE; None for others."""
    if sae.cfg.architecture() != "matryoshka_batchtopk":
        return None
    return np.searchsorted(sae.cfg.matryoshka_widths, np.arange(sae.cfg.d_sae), side="right")


@torch.no_grad()
def unit_decoder(sae: "SAE[Any]") -> None:
    """Give the decoder's rows unit norm, in place; what the SAE reproduces stays, but for matching pursuit.

    That one is tied: its latents are found with the decoder itself, which has nowhere to put the norms.
    """
    if sae.cfg.architecture() == "matching_pursuit":
        sae.W_dec.div_(sae.W_dec.norm(dim=1, keepdim=True).clamp(min=1e-8))
    else:
        sae.fold_W_dec_norm()


@torch.no_grad()
def inference_sae(sae: "TrainingSAE[Any]") -> "SAE[Any]":
    """The SAE as it will be used: what saving and loading would give, decoder rows of unit norm.

    A BatchTopK SAE becomes a JumpReLU SAE with the learned threshold, so that a vector's code does not depend on
    the batch it comes in.
    """
    from sae_lens import SAE

    # Cloned: the conversion edits its dict in place, and the training weights must stay as they are.
    state = {name: value.detach().clone() for name, value in sae.state_dict().items()}
    sae.process_state_dict_for_saving_inference(state)
    config = {**sae.cfg.get_inference_sae_cfg_dict(), "device": str(sae.W_dec.device)}
    # Through JSON, as from a saved folder: the configuration takes the types that loading gives it.
    frozen = SAE.from_dict(json.loads(json.dumps(config)))
    frozen.load_state_dict(state)
    # Moves the norms of decoder rows into the encoder: latents are rescaled, the reconstruction stays.
    unit_decoder(frozen)
    return frozen.eval().requires_grad_(False)


class Encoder:
    """A frozen SAE as a function on arrays: (n, d_in) float32 to latents (n, d_sae) and reconstruction (n, d_in).

    It can be pickled; what comes of that runs on the CPU.
    """

    def __init__(self, frozen: "SAE[Any]") -> None:
        self.frozen = frozen

    @torch.no_grad()
    def __call__(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Latents and reconstruction of vectors."""
        latents = self.frozen.encode(torch.from_numpy(x).to(self.frozen.W_dec))
        return latents.float().cpu().numpy(), self.frozen.decode(latents).float().cpu().numpy()

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker process may have no GPU to put the weights on.
        state = {name: value.cpu() for name, value in self.frozen.state_dict().items()}
        return _encoder, ({**self.frozen.cfg.to_dict(), "device": "cpu"}, state)


def _encoder(config: dict[str, Any], state: dict[str, Tensor]) -> Encoder:
    from sae_lens import SAE

    frozen = SAE.from_dict(config)
    frozen.load_state_dict(state)
    return Encoder(frozen.eval().requires_grad_(False))


@torch.no_grad()
def permute_latents(sae: "TrainingSAE[Any]", permutation: Tensor) -> None:
    """Reorder the latents in place: latent ``i`` becomes what ``permutation[i]`` was; the function stays."""
    for name, value in sae.state_dict().items():
        # W_enc has the latents in its columns, all other weights in their rows; b_dec belongs to the vectors.
        if name == "W_enc":
            value.copy_(value[:, permutation].clone())
        elif name != "b_dec" and value.ndim:
            value.copy_(value[permutation].clone())


def save_sae(sae: "TrainingSAE[Any]", folder: str | Path, extras: Mapping[str, Any] | None = None) -> Path:
    """Save a folder that ``sae_lens.SAE.load_from_disk`` reads; it is never half written (see `atomic_folder`).

    Args:
        sae: the SAE; its inference form is written.
        folder: the folder; an older one is replaced.
        extras: further JSON files by name, written beside the SAE.
    """
    folder = Path(folder)
    with atomic_folder(folder) as fresh:
        if sae.cfg.architecture() == "matching_pursuit":
            inference_sae(sae).save_model(fresh)  # of the rows' norms, see `unit_decoder`
        else:
            sae.save_inference_model(fresh)
        for name, value in (extras or {}).items():
            write_json(fresh / name, value)
    return folder


def decoder_directions(folder: str | Path) -> Tensor:
    """(d_sae, d_in) float32, the decoder rows of an SAE that `save_sae` or sae-lens wrote.

    Raises:
        UserError: the folder holds none.
    """
    path = Path(folder, "sae_weights.safetensors")
    try:
        # The weights alone: sae_lens takes seconds to import.
        weights = load_file(path)["W_dec"]
    except (OSError, KeyError, SafetensorError) as error:
        raise UserError(f"'{folder}' holds no SAE: {path.name} with W_dec is not there ({error})") from error
    return weights.float()
