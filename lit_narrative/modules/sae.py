"""Sparse autoencoders on vectors: states of play, or activations of a model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from lit_narrative.errors import UserError
from lit_narrative.modules.base import NarrativeModule
from lit_narrative.sae.autoencoder import (
    Architecture,
    Encoder,
    SAESettings,
    build_sae,
    inference_sae,
    levels,
    permute_latents,
    sae_lens_options,
    save_sae,
)
from lit_narrative.sae.metrics import Firing, Matching, match_features, reconstruction_metrics
from lit_narrative.sae.training import adam, center, fit, sync_ranks, training_pass
from lit_narrative.seeds import run_seed
from lit_narrative.views import Activation, Encode, State

if TYPE_CHECKING:
    from sae_lens import SAE


@dataclass(frozen=True, slots=True)
class SAEStep:
    """One training step.

    Attributes:
        loss: scalar, with its graph.
        metrics: scalars, detached: ``mse`` (mean over components), ``l0``, ``dead_fraction`` (latents that have not
            fired for ``dead_window`` steps) and the architecture's own losses by sae-lens' names.
    """

    loss: Tensor
    metrics: dict[str, Tensor]


class SAEModule(NarrativeModule):
    """Trains a sparse autoencoder of sae-lens and measures it in its inference form.

    The decoder's rows have unit norm at every step, its bias starts at the geometric median of the first batch (of all
    the vectors in `train_on`).

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
        seed: of the initial weights; default: the run's.
        view: what the rows are: ``states`` of play, or ``activations`` of a model.
        d_out: length of the vectors that are predicted (transcoder); None asks the data.
        matryoshka_widths: latents of each nested level, growing; the first ones reproduce the vectors by themselves
            (matryoshka_batchtopk). None takes a quarter, a half and all of them.
        residual_threshold: length of what is left of a vector at which no further latent is taken (matching_pursuit).

    An option that the architecture does not take is an error naming what it takes.
    """

    steps: Tensor
    since_fired: Tensor

    def __init__(
        self,
        architecture: Architecture = "topk",
        d_sae: int = 128,
        d_in: int | None = None,
        k: int | None = None,
        l1_coefficient: float | None = None,
        l0_coefficient: float | None = None,
        sparsity_warmup_steps: int | None = None,
        aux_loss_coefficient: float | None = None,
        jumprelu_init_threshold: float | None = None,
        jumprelu_bandwidth: float | None = None,
        lr: float = 3e-3,
        warmup_steps: int = 20,
        dead_window: int = 100,
        seed: int | None = None,
        view: Literal["states", "activations"] = "states",
        d_out: int | None = None,
        matryoshka_widths: Sequence[int] | None = None,
        residual_threshold: float | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.view = self.eval_view = view
        self.settings = SAESettings(
            architecture,
            d_sae,
            d_in,
            k,
            l1_coefficient,
            l0_coefficient,
            sparsity_warmup_steps,
            aux_loss_coefficient,
            jumprelu_init_threshold,
            jumprelu_bandwidth,
            lr,
            warmup_steps,
            dead_window,
            seed,
            d_out,
            matryoshka_widths,
            residual_threshold,
        )
        sae_lens_options(architecture, d_sae, self.settings.options)  # an option it does not take fails here
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.register_buffer("since_fired", torch.zeros(d_sae, dtype=torch.long))
        self.errors, self.firing = reconstruction_metrics(), Firing(d_sae)
        # In a tuple: as an attribute it would be a submodule, and so in the checkpoint and in the optimizer's sight.
        self._frozen: tuple[SAE[Any], ...] = ()
        if d_in is not None:
            self.build(d_in, d_out)

    def build(self, d_in: int, d_out: int | None = None) -> None:
        """Build the SAE for vectors of length ``d_in`` (that predict others of ``d_out``); not where it exists.

        Raises:
            UserError: a transcoder has nothing to predict, or anything else has.
        """
        if "sae" not in self._modules:
            given = self.settings
            seed = run_seed() if given.seed is None else given.seed
            self.sae = build_sae(given.architecture, d_in, given.d_sae, given.options, seed, d_out)

    def setup(self, stage: str) -> None:
        """Ask the data for the length of its vectors, where ``d_in`` was not given.

        Raises:
            UserError: There is no datamodule to ask, or its rows have nothing to predict, or have and should not.
        """
        if "sae" in self._modules:
            return
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if data is None:
            raise UserError("SAEModule needs d_in where it is trained without a datamodule; set model.d_in")
        loaders = {"fit": "train_dataloader", "validate": "val_dataloader", "test": "test_dataloader"}
        row = getattr(data, loaders.get(stage, "predict_dataloader"))().dataset[0]
        d_out = len(row.target) if isinstance(row, Activation) and row.target is not None else None
        self.build(self.collate([row]).shape[1] - (d_out or 0), d_out)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Build the SAE by the checkpoint's shapes, where ``d_in`` was not given."""
        weights = checkpoint["state_dict"]
        d_out = weights["sae.b_dec"].shape[0]
        # Only a transcoder's widths differ; matching pursuit has no encoder.
        if self.settings.architecture == "transcoder":
            self.build(weights["sae.W_enc"].shape[0], d_out)
        else:
            self.build(d_out)

    @staticmethod  # a worker of a loader gets no copy of the SAE, which cannot be pickled
    def collate(rows: Sequence[State | Activation | np.ndarray]) -> Tensor:
        """The vectors of the rows, and behind them those to predict: (batch, d_in [+ d_out]) float32."""
        vectors = [row if isinstance(row, np.ndarray) else _vector(row) for row in rows]
        return torch.from_numpy(np.stack(vectors).astype(np.float32, copy=False))

    # -- training

    def on_fit_start(self) -> None:
        """Move the SAE by its own `to`: sae-lens keeps a record of device and dtype, which Lightning leaves stale."""
        self.sae.to(self.device, self.sae.W_dec.dtype)

    def step(self, x: Tensor) -> SAEStep:
        """One training step on (batch, d_in): the loss to minimise, and what it measured.

        It advances the warm-up and the record of dead latents; backward and the optimizer are the caller's.
        """
        made = training_pass(self.sae, x, self.since_fired, self.settings.dead_window, int(self.steps))
        self.steps.add_(1)
        metrics = {name: value.detach() for name, value in made.losses.items() if name != "mse_loss"}
        metrics["mse"] = made.losses["mse_loss"].detach() / len(self.sae.b_dec)
        metrics |= {"l0": made.fires.sum(1).float().mean(), "dead_fraction": made.dead.float().mean()}
        return SAEStep(made.loss, metrics)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Lightning's training step: `step`, shared over the ranks and logged."""
        if not self.steps:
            # The first batches of all ranks: with a bias of its own, each rank would train another SAE.
            first: Tensor = self.all_gather(batch)  # type: ignore[assignment]  # a tensor gathers to a tensor
            center(self.sae, first.flatten(0, -2))
        made = self.step(batch)
        sync_ranks(self.sae, self.since_fired)
        self.log_dict({f"train/{name}": value for name, value in made.metrics.items()}, batch_size=len(batch))
        self.log("loss", made.loss.detach(), prog_bar=True, batch_size=len(batch))
        return made.loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adam with a linear warm-up, by step."""
        optimizer, scheduler = adam(self.sae, self.settings.lr, self.settings.warmup_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def train_on(self, x: Tensor, steps: int, batch_size: int, generator: torch.Generator) -> None:
        """Train on vectors without a Trainer: a refresh between two cycles.

        Args:
            x: (n, d_in).
            steps: optimizer steps, each on a batch drawn without repetition within an epoch.
            batch_size: at most n is used.
            generator: of the batches (on the CPU).
        """
        self.to(x.device)
        self.sae.to(x.device)  # its own `to`: see `on_fit_start`
        fit(
            self.sae,
            x,
            steps,
            batch_size,
            generator,
            lr=self.settings.lr,
            warmup_steps=self.settings.warmup_steps,
            dead_window=self.settings.dead_window,
            since_fired=self.since_fired,
            done=int(self.steps),
        )
        self.steps.add_(steps)

    # -- evaluation, in the inference form

    def on_validation_epoch_start(self) -> None:
        """Freeze the SAE as it is now; see `lit_narrative.sae.autoencoder.inference_sae`."""
        super().on_validation_epoch_start()
        self._frozen = (inference_sae(self.sae),)

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        """Add a batch to the metrics."""
        given, wanted = self._sides(batch)
        latents = self._frozen[0].encode(given)
        self.firing.update(latents)
        self.errors.update(self._frozen[0].decode(latents), wanted)

    def _sides(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """What is read, and what is to come out: the same, but for a transcoder."""
        return batch[:, : self.sae.cfg.d_in], batch[:, -len(self.sae.b_dec) :].contiguous()

    def on_validation_epoch_end(self, stage: str = "val") -> None:
        """Log mse, explained variance, l0 and the share of dead latents."""
        metrics = {**self.errors.compute(), **self.firing.compute()}
        self.log_dict({f"{stage}/{name}": value for name, value in metrics.items() if name != "density"})

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        """As in validation."""
        self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        """As in validation, under ``test/``."""
        self.on_validation_epoch_end("test")

    def measure(self, x: Tensor) -> dict[str, Any]:
        """``mse``, ``explained_variance``, ``l0``, ``dead_fraction`` and ``density`` (a list) on (n, d_in)."""
        frozen = inference_sae(self.sae)
        errors, firing = reconstruction_metrics().to(x.device), Firing(self.settings.d_sae).to(x.device)
        given, wanted = self._sides(x)
        latents = frozen.encode(given)
        firing.update(latents)
        errors.update(frozen.decode(latents), wanted)
        return {name: value.tolist() for name, value in {**errors.compute(), **firing.compute()}.items()}

    def encoder(self) -> Encode:
        """The SAE as it is now as a function on arrays; later training does not change it."""
        return Encoder(inference_sae(self.sae))

    # -- from one cycle to the next

    def decoder(self) -> np.ndarray:
        """A copy of the decoder's directions: (d_sae, d_out), rows of unit norm."""
        return torch.nn.functional.normalize(self.sae.W_dec.detach(), dim=1).float().cpu().numpy()

    def align(self, decoder: np.ndarray) -> Matching:
        """Reorder the latents so that each keeps the index of the feature it continues.

        Args:
            decoder: (d_sae, d_out), the directions that `decoder` returned before training.
        """
        matching = match_features(decoder, self.decoder(), levels(self.sae))
        permutation = torch.from_numpy(matching.permutation).to(self.device)
        permute_latents(self.sae, permutation)
        self.since_fired.copy_(self.since_fired[permutation])
        return matching

    def save(self, folder: str | Path, extras: Mapping[str, Any] | None = None) -> Path:
        """Save a folder that ``sae_lens.SAE.load_from_disk`` loads; see `lit_narrative.sae.autoencoder.save_sae`."""
        return save_sae(self.sae, folder, extras)


def _vector(row: State | Activation) -> np.ndarray:
    if isinstance(row, Activation) and row.target is not None:
        return np.concatenate([row.vector, row.target])
    return row.vector
