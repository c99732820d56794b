"""Sparse autoencoders of sae-lens: built from plain options, started well, frozen, reordered and saved whole.

The training classes are sae-lens' own (https://github.com/decoderesearch/SAELens); what their caller must do around
them is here and in `lit_narrative.modules.sae`. sae_lens is imported where it is used, since it takes seconds.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
import torch
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
"""Active features a state; sae-lens' 100 is meant for residual streams."""


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
        UserError: As `settings` raises.
    """
    from sae_lens.registry import get_sae_training_class

    chosen = settings(architecture, d_sae, options)
    sae_class, config_class = get_sae_training_class(architecture)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return sae_class(config_class(d_in=d_in, d_sae=d_sae, decoder_init_norm=1.0, **chosen))


def settings(architecture: Architecture, d_sae: int, options: Mapping[str, float | None]) -> dict[str, float]:
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
def center(sae: "TrainingSAE[Any]", x: Tensor) -> None:
    """Start the decoder's bias at the geometric median of ``x`` (n, d_in)."""
    sae.b_dec.copy_(geometric_median(x))


def geometric_median(x: Tensor, iterations: int = 20) -> Tensor:
    """The point with the least sum of distances to the rows of ``x`` (n, d), by Weiszfeld's iteration: (d,)."""
    point = x.mean(0)
    for _ in range(iterations):
        weights = 1 / (x - point).norm(dim=1).clamp(min=1e-6)
        point = (x * weights[:, None]).sum(0) / weights.sum()
    return point


def coefficients(sae: "TrainingSAE[Any]", step: int) -> dict[str, float]:
    """The loss coefficients at a step (from 0): each rises linearly from 0 over its own warm-up."""
    now = {}
    for name, given in sae.get_coefficients().items():
        value, warm_up = (given, 0) if isinstance(given, int | float) else (given.value, given.warm_up_steps)
        now[name] = value * min(step / warm_up, 1.0) if warm_up else float(value)
    return now


class TrainingPass(NamedTuple):
    """What one training pass gave.

    Attributes:
        loss: scalar, to minimise.
        losses: its parts by sae-lens' names.
        fires: (n, d_sae) bool, which latents fire.
        dead: (d_sae,) bool, which were dead before.
    """

    loss: Tensor
    losses: dict[str, Tensor]
    fires: Tensor
    dead: Tensor


def training_pass(sae: "TrainingSAE[Any]", x: Tensor, since_fired: Tensor, dead_window: int, done: int) -> TrainingPass:
    """Read a batch as sae-lens trains on it; backward and the optimizer are the caller's.

    Args:
        sae: its decoder rows are made unit vectors first.
        x: (n, d_in).
        since_fired: (d_sae,) long, steps since each latent fired; brought up to date in place.
        dead_window: a latent is dead after more steps than this.
        done: optimizer steps so far, which the warm-up of the coefficients goes by.
    """
    from sae_lens.saes.sae import TrainStepInput

    sae.fold_W_dec_norm()
    dead = since_fired > dead_window
    out = sae.training_forward_pass(TrainStepInput(x, coefficients(sae, done), dead, done, is_logging_step=False))
    fires = out.feature_acts.detach() != 0
    since_fired.add_(1).masked_fill_(fires.any(0), 0)
    return TrainingPass(out.loss, out.losses, fires, dead)


@torch.no_grad()
def share(sae: "TrainingSAE[Any]", since_fired: Tensor) -> None:
    """Agree over the ranks on what is no parameter: a latent fired if it fired anywhere; thresholds are averaged.

    Lightning averages gradients only; without this the record of dead latents and BatchTopK's threshold drift apart.
    """
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return
    distributed.all_reduce(since_fired, op=distributed.ReduceOp.MIN)
    threshold = sae._buffers.get("topk_threshold")
    if threshold is not None:
        distributed.all_reduce(threshold)
        threshold /= distributed.get_world_size()


def batches(n: int, batch_size: int, steps: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Row indices of ``steps`` full batches out of ``n`` rows, reshuffled whenever too few are left."""
    size = min(batch_size, n)
    left = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        if len(left) < size:
            left = torch.randperm(n, generator=generator)
        rows, left = left[:size], left[size:]
        yield rows


@torch.no_grad()
def inference_sae(sae: "TrainingSAE[Any]") -> "SAE[Any]":
    """The SAE as it will be used: what saving and loading would give, decoder rows of unit norm.

    A BatchTopK SAE becomes a JumpReLU SAE with the learned threshold, so that a vector's code does not depend on
    the batch it comes in.
    """
    from sae_lens import SAE

    state = {name: value.detach().clone() for name, value in sae.state_dict().items()}
    sae.process_state_dict_for_saving_inference(state)
    config = {**sae.cfg.get_inference_sae_cfg_dict(), "device": str(sae.W_dec.device)}
    frozen = SAE.from_dict(json.loads(json.dumps(config)))
    frozen.load_state_dict(state)
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
        return latents.cpu().numpy(), self.frozen.decode(latents).cpu().numpy()

    def __reduce__(self) -> tuple[Any, ...]:
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
