"""Sparse autoencoders of sae-lens: settings, construction, the frozen form, reordering of latents, files.

`lit_narrative.sae.training` trains them. sae_lens is imported where it is used, since that takes seconds.
"""

import json
from collections.abc import Mapping
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


Architecture = Literal["standard", "topk", "batchtopk", "jumprelu", "gated"]
ARCHITECTURES: tuple[Architecture, ...] = get_args(Architecture)

OPTIONS: dict[str, tuple[str, ...]] = {
    "k": ("k",),
    "aux_loss_coefficient": ("aux_loss_coefficient",),
    "l1_coefficient": ("l1_coefficient",),
    "l0_coefficient": ("l0_coefficient",),
    "sparsity_warmup_steps": ("l1_warm_up_steps", "l0_warm_up_steps"),
    "jumprelu_init_threshold": ("jumprelu_init_threshold",),
    "jumprelu_bandwidth": ("jumprelu_bandwidth",),
}
"""Our options, and the fields of sae-lens that they set (an architecture has at most one of them)."""
DEFAULT_K = 8
"""Active latents a vector; sae-lens' 100 is meant for residual streams of 768 and more components."""


@dataclass(frozen=True)
class SAESettings:
    """An autoencoder and its training.

    Args:
        architecture: standard (L1), topk, batchtopk, jumprelu or gated.
        d_sae: number of latents.
        d_in: length of the vectors; None asks the data.
        k: active latents a vector (topk) or on average (batchtopk); None takes 8.
        l1_coefficient: sparsity weight (standard, gated); 0.5 leaves 10 to 14 active latents on storyworld states.
        l0_coefficient: sparsity weight (jumprelu).
        sparsity_warmup_steps: steps over which that weight rises from 0 (standard, gated, jumprelu).
        aux_loss_coefficient: weight of the loss that revives dead latents (topk, batchtopk).
        jumprelu_init_threshold: first threshold of every latent (jumprelu).
        jumprelu_bandwidth: width of the threshold's straight-through estimate (jumprelu).
        lr: of Adam, betas 0.9 and 0.999.
        warmup_steps: steps over which the learning rate rises linearly.
        dead_window: steps without firing after which a latent counts as dead.
        seed: of the initial weights; None takes the run's.

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

    @property
    def options(self) -> dict[str, float | None]:
        """The options of the architecture, by our names (``OPTIONS``)."""
        return {name: getattr(self, name) for name in OPTIONS}


def build_sae(
    architecture: Architecture, d_in: int, d_sae: int, options: Mapping[str, float | None], seed: int
) -> "TrainingSAE[Any]":
    """A training SAE with unit decoder rows, W_enc = W_decᵀ and seeded weights.

    Args:
        architecture: one of ``ARCHITECTURES``.
        d_in: length of the vectors.
        d_sae: number of latents.
        options: by our names (``OPTIONS``); None leaves the default.
        seed: of the initial weights; the global random state is left as it was.

    Raises:
        UserError: As `sae_lens_options` raises.
    """
    from sae_lens.registry import get_sae_training_class

    chosen = sae_lens_options(architecture, d_sae, options)
    sae_class, config_class = get_sae_training_class(architecture)
    # sae-lens draws from the global stream, which a new SAE between two cycles must not move for the policy.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return sae_class(config_class(d_in=d_in, d_sae=d_sae, decoder_init_norm=1.0, **chosen))


def sae_lens_options(architecture: Architecture, d_sae: int, options: Mapping[str, float | None]) -> dict[str, float]:
    """The chosen options by sae-lens' names.

    Raises:
        UserError: The architecture is unknown, does not take one of the options, or ``k`` is out of range.
    """
    if architecture not in ARCHITECTURES:
        raise UserError(f"unknown SAE architecture {architecture!r}; choose from {', '.join(ARCHITECTURES)}")
    from sae_lens.registry import get_sae_training_class

    known = {field.name for field in fields(get_sae_training_class(architecture)[1])}
    taken = {name: field for name in OPTIONS for field in OPTIONS[name] if field in known}
    given = {name: value for name, value in options.items() if value is not None}
    for name, value in given.items():
        if name not in taken:
            takes = ", ".join(taken)
            raise UserError(f"the SAE architecture {architecture!r} takes no {name} (got {value}); it takes {takes}")
    if "k" in taken and not 1 <= given.setdefault("k", min(DEFAULT_K, d_sae)) <= d_sae:
        raise UserError(f"k must lie in 1..{d_sae} (d_sae); got {given['k']}")
    return {taken[name]: value for name, value in given.items()}


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
    frozen.fold_W_dec_norm()
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
