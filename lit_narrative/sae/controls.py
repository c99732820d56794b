"""Random-part controls: autoencoders trained like another, with one part frozen as it was drawn.

An autoencoder whose encoder, or whose decoder, never learned has features too, and where the states are few-sided some
of them tell something. What a trained feature is worth is what it tells beyond theirs (after Korznikov et al. 2026,
"Sanity checks for sparse autoencoders: do SAEs beat random baselines?").
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from lit_narrative.sae.affordances import Affordances, Exchange, analyse
from lit_narrative.sae.autoencoder import Encoder, SAESettings, build_sae, inference_sae
from lit_narrative.sae.information import conditional_information, quantise
from lit_narrative.sae.metrics import reconstruction_metrics
from lit_narrative.sae.training import fit
from lit_narrative.views import Encode, State

if TYPE_CHECKING:
    from sae_lens import SAE, TrainingSAE

FrozenPart = Literal["encoder", "decoder"]
FROZEN_PARTS: tuple[FrozenPart, ...] = get_args(FrozenPart)


@dataclass(frozen=True, slots=True)
class Training:
    """How the autoencoder was trained that controls stand beside.

    Attributes:
        settings: of it.
        x: (n, d_in) its training vectors.
        steps: optimizer steps.
        batch_size: vectors a step.
    """

    settings: SAESettings
    x: Tensor
    steps: int
    batch_size: int


def freeze(sae: "TrainingSAE[Any]", part: FrozenPart) -> None:
    """Let an autoencoder learn all but its encoder, or all but its decoder; where they are tied, it is one part."""
    parameters = dict(sae.named_parameters())
    if "W_enc" not in parameters:
        part = "decoder"  # matching pursuit: it is the encoder too
    for name, parameter in parameters.items():
        parameter.requires_grad_((name in ("W_dec", "b_dec")) if part == "encoder" else name != "W_dec")


def random_part_sae(frozen: FrozenPart, training: Training, seed: int) -> "SAE[Any]":
    """The inference form of an autoencoder trained with its encoder, or its decoder, frozen as it was drawn.

    Of a frozen encoder the directions stay: its scale follows the decoder's rows, which are kept at unit norm.

    Args:
        frozen: the part.
        training: what is otherwise done.
        seed: of the weights and the batches.
    """
    given, x = training.settings, training.x
    sae = build_sae(given.architecture, x.shape[1], given.d_sae, given.options, seed).to(x.device)
    freeze(sae, frozen)
    generator = torch.Generator().manual_seed(seed)
    with torch.enable_grad():
        fit(
            sae, x, training.steps, training.batch_size, generator,
            lr=given.lr, warmup_steps=given.warmup_steps, dead_window=given.dead_window,
        )  # fmt: skip
    return inference_sae(sae)


def information(states: Sequence[State], encode: Encode, exchange: Exchange) -> np.ndarray:
    """(m,) bits that each feature tells, given the encounter, about whether an option is closed (`affordances`)."""
    asked = Affordances.of(states, exchange)
    z, _ = encode(np.stack([states[int(row)].vector for row in asked.rows]))
    bits: np.ndarray = conditional_information(quantise(z), asked.closed[None], asked.contexts)[0][0]
    return bits


def control(
    frozen: FrozenPart, training: Training, states: Sequence[State], seed: int, exchange: Exchange
) -> dict[str, Any]:
    """One control, measured as the trained autoencoder is (`affordances.analyse`).

    Returns:
        ``frozen``, ``seed``, ``explained_variance`` (of ``states``), ``significant``, ``best_bits`` (of its most
        telling feature) and ``auc`` of the readout.
    """
    encode = Encoder(random_part_sae(frozen, training, seed))
    found = analyse(states, encode, seed=seed, n_top=0, exchange=exchange)
    return {
        "frozen": frozen,
        "seed": seed,
        "explained_variance": explained_variance(states, encode),
        "significant": found["significant"],
        "best_bits": float(information(states, encode, exchange).max(initial=0.0)),
        "auc": found["readout"]["sae"],
    }


def explained_variance(states: Sequence[State], encode: Encode) -> float:
    """Share of the variance of states that an autoencoder reproduces, at most 1."""
    vectors = np.stack([state.vector for state in states])
    # Not shared between processes: one of them measures while the others go on.
    metrics = reconstruction_metrics(shared=False)
    metrics.update(torch.from_numpy(encode(vectors)[1]), torch.from_numpy(vectors))
    return float(metrics.compute()["explained_variance"])
