"""Sparse autoencoders on vectors: states of play, or activations of a model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from lit_narrative.errors import UserError
from lit_narrative.modules.base import NarrativeModule
from lit_narrative.sae import autoencoder as sparse
from lit_narrative.sae.metrics import Firing, Matching, match_features, reconstruction_metrics
from lit_narrative.seeds import run_seed
from lit_narrative.views import Activation, State

if TYPE_CHECKING:
    from sae_lens import SAE

Encode = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""``encode(x)``: (n, d_in) float32 to the latents (n, d_sae) and the reconstruction (n, d_in)."""


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
        seed: of the initial weights; default: the run's.
        view: what the rows are: ``states`` of play, or ``activations`` of a model.

    An option that the architecture does not take is an error naming what it takes.
    """

    steps: Tensor
    since_fired: Tensor

    def __init__(
        self,
        architecture: sparse.Architecture = "topk",
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
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.view = self.eval_view = view
        self.lr, self.warmup_steps, self.dead_window = lr, warmup_steps, dead_window
        self.architecture, self.d_sae, self.seed = architecture, d_sae, seed
        given = locals()  # not hparams: the command line hands those of the model to an SAE inside a callback
        self._options = {name: given[name] for name in sparse.OPTIONS}
        sparse.settings(architecture, d_sae, self._options)
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.register_buffer("since_fired", torch.zeros(d_sae, dtype=torch.long))
        self.errors, self.firing = reconstruction_metrics(), Firing(d_sae)
        self._frozen: tuple[SAE[Any], ...] = ()  # a tuple, so that it is no part of the module
        if d_in is not None:
            self.build(d_in)

    def build(self, d_in: int) -> None:
        """Make the SAE for vectors of a length, if it does not exist yet."""
        if "sae" not in self._modules:
            seed = run_seed() if self.seed is None else self.seed
            self.sae = sparse.build_sae(self.architecture, d_in, self.d_sae, self._options, seed)

    def setup(self, stage: str) -> None:
        """Ask the data for the length of its vectors, where ``d_in`` was not given.

        Raises:
            UserError: There is no datamodule to ask.
        """
        if "sae" in self._modules:
            return
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if data is None:
            raise UserError("SAEModule needs d_in where it is trained without a datamodule; set model.d_in")
        loaders = {"fit": "train_dataloader", "validate": "val_dataloader", "test": "test_dataloader"}
        row = getattr(data, loaders.get(stage, "predict_dataloader"))().dataset[0]
        self.build(self.collate([row]).shape[1])

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make the SAE by the checkpoint's shapes, where ``d_in`` was not given."""
        self.build(checkpoint["state_dict"]["sae.b_dec"].shape[0])

    def collate(self, rows: Sequence[State | Activation | np.ndarray]) -> Tensor:
        """The vectors of the rows: (batch, d_in) float32."""
        vectors = [row if isinstance(row, np.ndarray) else row.vector for row in rows]
        return torch.from_numpy(np.stack(vectors).astype(np.float32, copy=False))

    # -- training

    def on_fit_start(self) -> None:
        """Tell the SAE where it lives: sae-lens keeps its own note of the device."""
        self.sae.to(self.device)

    def step(self, x: Tensor) -> SAEStep:
        """One training step on (batch, d_in): the loss to minimise, and what it measured.

        It advances the warm-up and the record of dead latents; backward and the optimizer are the caller's.
        """
        made = sparse.training_pass(self.sae, x, self.since_fired, self.dead_window, int(self.steps))
        self.steps.add_(1)
        metrics = {name: value.detach() for name, value in made.losses.items() if name != "mse_loss"}
        metrics["mse"] = made.losses["mse_loss"].detach() / x.shape[1]
        metrics |= {"l0": made.fires.sum(1).float().mean(), "dead_fraction": made.dead.float().mean()}
        return SAEStep(made.loss, metrics)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Lightning's training step: `step`, shared over the ranks and logged."""
        if not self.steps:
            everywhere: Tensor = self.all_gather(batch)  # type: ignore[assignment]  # a tensor gathers to a tensor
            sparse.center(self.sae, everywhere.flatten(0, -2))
        made = self.step(batch)
        sparse.share(self.sae, self.since_fired)
        self.log_dict({f"train/{name}": value for name, value in made.metrics.items()}, batch_size=len(batch))
        self.log("train/loss", made.loss.detach(), prog_bar=True, batch_size=len(batch))
        return made.loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adam with a linear warm-up, by step."""
        optimizer = torch.optim.Adam(self.sae.parameters(), lr=self.lr)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self._warmup)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _warmup(self, step: int) -> float:
        return min((step + 1) / self.warmup_steps, 1.0) if self.warmup_steps else 1.0

    def train_on(self, x: Tensor, steps: int, batch_size: int, generator: torch.Generator) -> None:
        """Train on vectors without a Trainer: a refresh between two cycles.

        Args:
            x: (n, d_in).
            steps: optimizer steps, each on a batch drawn without repetition within an epoch.
            batch_size: at most n is used.
            generator: of the batches (on the CPU).
        """
        self.to(x.device)
        self.sae.to(x.device)
        if not self.steps:
            sparse.center(self.sae, x)
        optimizer = torch.optim.Adam(self.sae.parameters(), lr=self.lr)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self._warmup)
        for rows in sparse.batches(len(x), batch_size, steps, generator):
            optimizer.zero_grad()
            self.step(x[rows]).loss.backward()
            torch.nn.utils.clip_grad_norm_(self.sae.parameters(), 1.0)
            optimizer.step()
            scheduler.step()

    # -- evaluation, in the inference form

    def on_validation_epoch_start(self) -> None:
        """Freeze the SAE as it is now; see `lit_narrative.sae.autoencoder.inference_sae`."""
        self._frozen = (sparse.inference_sae(self.sae),)
        self.errors.reset()
        self.firing.reset()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        """Add a batch to the metrics."""
        latents = self._frozen[0].encode(batch)
        self.firing.update(latents)
        self.errors.update(self._frozen[0].decode(latents), batch)

    def on_validation_epoch_end(self, stage: str = "val") -> None:
        """Log mse, explained variance, l0 and the share of dead latents."""
        figures = {**self.errors.compute(), **self.firing.compute()}
        self.log_dict({f"{stage}/{name}": value for name, value in figures.items() if name != "density"})

    def on_test_epoch_start(self) -> None:
        """As in validation."""
        self.on_validation_epoch_start()

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        """As in validation."""
        self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        """As in validation, under ``test/``."""
        self.on_validation_epoch_end("test")

    def measure(self, x: Tensor) -> dict[str, Any]:
        """``mse``, ``explained_variance``, ``l0``, ``dead_fraction`` and ``density`` (a list) on (n, d_in)."""
        frozen = sparse.inference_sae(self.sae)
        errors, firing = reconstruction_metrics().to(x.device), Firing(self.d_sae).to(x.device)
        latents = frozen.encode(x)
        firing.update(latents)
        errors.update(frozen.decode(latents), x)
        return {name: value.tolist() for name, value in {**errors.compute(), **firing.compute()}.items()}

    def encoder(self) -> Encode:
        """The SAE as it is now as a function on arrays; later training does not change it."""
        return sparse.Encoder(sparse.inference_sae(self.sae))

    # -- from one cycle to the next

    def decoder(self) -> np.ndarray:
        """A copy of the decoder's directions: (d_sae, d_in), rows of unit norm."""
        return torch.nn.functional.normalize(self.sae.W_dec.detach(), dim=1).cpu().numpy()

    def align(self, decoder: np.ndarray) -> Matching:
        """Reorder the latents so that each keeps the index of the feature it continues.

        Args:
            decoder: (d_sae, d_in), what `decoder` gave before.
        """
        matching = match_features(decoder, self.decoder())
        permutation = torch.from_numpy(matching.permutation).to(self.device)
        sparse.permute_latents(self.sae, permutation)
        self.since_fired.copy_(self.since_fired[permutation])
        return matching

    def save(self, folder: str | Path, extras: Mapping[str, Any] | None = None) -> Path:
        """Save a folder that ``sae_lens.SAE.load_from_disk`` loads; see `sparse_autoencoder.save_sae`."""
        return sparse.save_sae(self.sae, folder, extras)
