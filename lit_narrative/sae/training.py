"""Training of sparse autoencoders: one step, and one loop for callers without a Trainer.

The losses are those of sae-lens' training classes (https://github.com/decoderesearch/SAELens). Its own trainer is not
used: it needs a stream of activations of a language model, and ours are arrays. sae_lens is imported where it is used,
since that takes seconds.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Adam
from torch.optim.lr_scheduler import LambdaLR

from lit_narrative.sae.autoencoder import unit_decoder

if TYPE_CHECKING:
    from sae_lens import TrainingSAE

MAX_GRAD_NORM = 1.0


class TrainingPass(NamedTuple):
    """The outcome of reading one batch.

    Attributes:
        loss: scalar to minimise, with its graph.
        losses: its parts by sae-lens' names.
        fires: (n, d_sae) bool, which latents are active.
        dead: (d_sae,) bool, which latents were dead before this batch.
    """

    loss: Tensor
    losses: dict[str, Tensor]
    fires: Tensor
    dead: Tensor


def training_pass(sae: "TrainingSAE[Any]", x: Tensor, since_fired: Tensor, dead_window: int, done: int) -> TrainingPass:
    """Read a batch as sae-lens trains on it; backward and the optimizer are the caller's.

    Args:
        sae: its decoder rows are made unit vectors first.
        x: (n, d_in); of a transcoder (n, d_in + d_out).
        since_fired: (d_sae,) long, steps since each latent fired; updated in place.
        dead_window: a latent is dead after more steps than this.
        done: optimizer steps so far, which the warm-up of the coefficients goes by.
    """
    from sae_lens.saes.sae import TrainStepInput

    # Rescales the weights in place, so it must come before the forward pass: backward needs the weights it used.
    unit_decoder(sae)
    if sae.W_dec.dtype == torch.float64:
        sae.to(torch.float64)  # a JumpReLU threshold, always float32 in sae-lens, has been widened by the line above
    dead = since_fired > dead_window
    out = sae.training_forward_pass(TrainStepInput(x, coefficients(sae, done), dead, done, is_logging_step=False))
    fires = out.feature_acts.detach() != 0
    since_fired.add_(1).masked_fill_(fires.any(0), 0)
    return TrainingPass(out.loss, out.losses, fires, dead)


def coefficients(sae: "TrainingSAE[Any]", step: int) -> dict[str, float]:
    """The loss coefficients at a step (from 0): each rises linearly from 0 over its own warm-up."""
    now = {}
    for name, given in sae.get_coefficients().items():
        value, warm_up = (given, 0) if isinstance(given, int | float) else (given.value, given.warm_up_steps)
        now[name] = value * min(step / warm_up, 1.0) if warm_up else float(value)
    return now


def fit(
    sae: "TrainingSAE[Any]",
    x: Tensor,
    steps: int,
    batch_size: int,
    generator: torch.Generator,
    *,
    lr: float,
    warmup_steps: int = 0,
    dead_window: int = 100,
    since_fired: Tensor | None = None,
    done: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Train an SAE on vectors, in place.

    Args:
        sae: on the device of ``x``.
        x: (n, d_in).
        steps: optimizer steps, each on a batch drawn without repetition within an epoch.
        batch_size: vectors of a step; at most n are used.
        generator: of the batches, on the CPU.
        lr: of Adam.
        warmup_steps: steps over which the learning rate rises linearly; it begins again in each call.
        dead_window: a latent is dead after more steps than this without firing.
        since_fired: (d_sae,) long, steps since each latent fired; updated in place. Default: all have just fired.
        done: steps of earlier calls; at 0 the decoder's bias starts at the geometric median of ``x``.
        progress: called after each step with the steps of this call that are done, and ``steps``.
    """
    if since_fired is None:
        since_fired = torch.zeros(sae.cfg.d_sae, dtype=torch.long, device=x.device)
    if not done:
        center(sae, x)
    optimizer, scheduler = adam(sae, lr, warmup_steps)
    for step, rows in enumerate(batches(len(x), batch_size, steps, generator)):
        made = training_pass(sae, x[rows], since_fired, dead_window, done + step)
        optimizer.zero_grad()
        made.loss.backward()
        torch.nn.utils.clip_grad_norm_(sae.parameters(), MAX_GRAD_NORM)
        optimizer.step()
        scheduler.step()
        if progress is not None:
            progress(step + 1, steps)


def adam(sae: "TrainingSAE[Any]", lr: float, warmup_steps: int) -> tuple[Adam, LambdaLR]:
    """Adam (betas 0.9 and 0.999), and its schedule by steps: a linear warm-up, then constant."""
    optimizer = Adam(sae.parameters(), lr=lr)
    # `step + 1`: the first step already has a rate above 0.
    return optimizer, LambdaLR(optimizer, lambda step: min((step + 1) / warmup_steps, 1.0) if warmup_steps else 1.0)


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
def center(sae: "TrainingSAE[Any]", x: Tensor) -> None:
    """Start the decoder's bias at the geometric median of ``x`` (n, d_in), or of the vectors to predict."""
    sae.b_dec.copy_(geometric_median(x[:, -len(sae.b_dec) :]))


def geometric_median(x: Tensor, iterations: int = 20) -> Tensor:
    """The point with the least sum of distances to the rows of ``x`` (n, d), by Weiszfeld's iteration: (d,)."""
    point = x.mean(0)
    for _ in range(iterations):
        # The floor: Weiszfeld's weights are infinite at a point that is itself one of the rows.
        weights = 1 / (x - point).norm(dim=1).clamp(min=1e-6)
        point = (x * weights[:, None]).sum(0) / weights.sum()
    return point


@torch.no_grad()
def sync_ranks(sae: "TrainingSAE[Any]", since_fired: Tensor) -> None:
    """Reduce the state without a gradient over the ranks: a latent fired if it fired on any; thresholds are averaged.

    Lightning averages gradients only; without this the record of dead latents and BatchTopK's threshold drift apart.
    """
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return
    # The least number of steps since a latent fired is that of the process on which it fired last.
    distributed.all_reduce(since_fired, op=distributed.ReduceOp.MIN)
    threshold = dict(sae.named_buffers()).get("topk_threshold")  # BatchTopK alone has one
    if threshold is not None:
        distributed.all_reduce(threshold)
        threshold /= distributed.get_world_size()
