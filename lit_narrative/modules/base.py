"""The base of all modules: the view that an algorithm learns from, and how rows become batches."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Self

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.core import saving
from lightning.pytorch.plugins.precision import BitsandbytesPrecision, MixedPrecision
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.parsing import AttributeDict
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from torchmetrics import Metric, MetricCollection

from lit_narrative.arguments import NativeArguments
from lit_narrative.errors import UserError
from lit_narrative.lm.optim import GradientGuard, Schedule, schedule_by_step
from lit_narrative.lookup import BUILDER
from lit_narrative.redaction import redact
from lit_narrative.resume import ExactResume

saving._ALLOWED_INSTANTIATORS.add(BUILDER)


class NarrativeModule(LightningModule, metaclass=NativeArguments):
    """An algorithm: it names the view it learns from and turns rows of a view into batches.

    Its arguments may be values of numpy and paths, in settings too: they come in as Python's numbers and texts.

    Attributes:
        view: the view that training reads.
        eval_view: the view that validation and test read, where the task offers it; else ``view``.
        counts_batches: the module wraps the training loader, reads whole batches only and keeps count of them itself.
        given_beside: of a module that a checkpoint has built, the names of the arguments that were given beside it.
    """

    view: str
    eval_view: str
    counts_batches = False
    given_beside: frozenset[str] | None = None

    @classmethod
    def load_from_checkpoint(
        cls,
        checkpoint_path: Any,
        map_location: Any = None,
        hparams_file: Any = None,
        strict: bool | None = None,
        weights_only: bool | None = True,
        **kwargs: Any,
    ) -> Self:
        """Build a module by a checkpoint; see Lightning. What the file says is read as plain values, none is imported.

        Args:
            checkpoint_path: of the checkpoint.
            map_location: where the weights go.
            hparams_file: arguments, in place of those in the checkpoint.
            strict: whether the weights' names must be those of the module.
            weights_only: read plain values alone.
            **kwargs: arguments, over those in the checkpoint. ``trust_remote_code`` is taken from here only.
        """
        # A checkpoint may come from anywhere, and must not be able to say how it is built, or to allow its own code.
        ours = {"trust_remote_code": False, **kwargs, "_instantiator": BUILDER}
        module = super().load_from_checkpoint(checkpoint_path, map_location, hparams_file, strict, weights_only, **ours)
        module.given_beside = frozenset(kwargs)
        return module

    def check_paths(self, argument: str, names: Iterable[str]) -> None:
        """Refuse what a checkpoint alone names as ``package.module:object``: it would be imported, and called.

        Args:
            argument: of the module that holds the names.
            names: such paths, or names that the task knows.

        Raises:
            UserError: the module was built by a checkpoint, and the argument was not given with it.
        """
        path = next((name for name in names if ":" in name), None)
        if path and self.given_beside is not None and argument not in self.given_beside:
            raise UserError(
                f"the checkpoint names '{path}', code that is not run because a file names it: say it yourself, by "
                f"load_from_checkpoint(..., {argument}=...)"
            )

    def configure_callbacks(self) -> list[Callback]:
        """The callback by which a killed run resumes exactly; every Trainer gets it once, with the module.

        Raises:
            UserError: the Trainer's precision cannot be used; this is the first hook that it calls.
        """
        # A policy is in evaluation mode while it learns, so that dropout is off in sampling and training alike.
        source = r"lightning\.pytorch\.loops\.fit_loop"
        warnings.filterwarnings("ignore", r"Found \d+ module\(s\) in eval mode", module=source)
        plugin, fits = self.trainer.precision_plugin, self.trainer.state.fn == TrainerFn.FITTING
        check_precision("bitsandbytes" if isinstance(plugin, BitsandbytesPrecision) else plugin.precision, fits)
        return [] if any(isinstance(one, ExactResume) for one in self.trainer.callbacks) else [ExactResume()]  # type: ignore[attr-defined]

    @property
    def attached(self) -> Trainer | None:
        """The Trainer; None outside of one, where ``self.trainer`` raises."""
        return self._trainer

    @property
    def task(self) -> Any:
        """The task's DataModule.

        Raises:
            UserError: the Trainer was given loaders instead.
        """
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if data is None:
            raise UserError(
                f"{type(self).__name__} reads a task, not loaders; give one as Trainer.fit(module, datamodule=...)"
            )
        return data

    @property
    def hparams_initial(self) -> AttributeDict:
        """The settings as loggers show them: plain values, keys hidden."""
        return AttributeDict(redact({name: plain(value) for name, value in super().hparams_initial.items()}))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Hide keys in the settings; a resumed run takes its own from its command line."""
        for name in (self.CHECKPOINT_HYPER_PARAMS_KEY, "datamodule_hyper_parameters"):
            if name in checkpoint:
                checkpoint[name] = redact(checkpoint[name])

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load weights, in the Trainer's precision: Lightning converts the module only after it has resumed."""
        if self.attached:
            self.trainer.precision_plugin.convert_module(self)  # float64 would be rounded to float32
        return super().load_state_dict(state_dict, strict, assign)

    def on_validation_epoch_start(self) -> None:
        """Begin the metrics anew."""
        # At the start and not at the end: what a test resets it resets in inference mode, to tensors that the
        # validation of a later fit could not add to.
        for metric in self.children():
            if isinstance(metric, Metric | MetricCollection):
                metric.reset()

    def on_test_epoch_start(self) -> None:
        """As in validation."""
        self.on_validation_epoch_start()

    def validate_rows(self, rows: Sequence[Any]) -> Sequence[Any]:
        """The rows of a view that this module takes, in order; asked once for each view and split of a run.

        Raises:
            UserError: a row cannot be used and may not be left out.
        """
        return rows

    def row_lengths(self, rows: Sequence[Any]) -> Sequence[int] | None:
        """Tokens of each row, where a batch is padded to its longest one; None where nothing is padded."""
        return None

    def train_batch_size(self, batch_size: int, world_size: int) -> int:
        """Rows a training batch and process, given what the task asks for and the number of processes."""
        return batch_size

    def collate(self, rows: Sequence[Any]) -> Any:
        """A batch of the rows of a view."""
        raise NotImplementedError

    def wrap_train_loader(self, loader: DataLoader[Any]) -> Iterable[Any]:
        """The iterable that the Trainer reads, given the task's loader; an algorithm may wrap it."""
        return loader


PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "bf16-true", "64-true")
"""The precisions of Lightning that every module trains in; in 16-true it can be tested, and write."""


def check_precision(precision: str | int | None, fits: bool) -> None:
    """Refuse a precision that cannot be used.

    Args:
        precision: as the Trainer takes it, or ``bitsandbytes``.
        fits: whether the run trains.

    Raises:
        UserError: in it nothing is learned, or the model's layers are replaced.
    """
    if str(precision).startswith(("transformer-engine", "bitsandbytes")):
        why = "puts layers of its own in place of the model's, which no checkpoint or export of this package holds"
    elif precision == "16-true" and fits:
        why = "keeps weights in float16, where the squares of gradients that AdamW divides by become 0, and weights NaN"
    else:
        return
    raise UserError(f"trainer.precision={precision} {why}; choose from {', '.join(PRECISIONS)}")


def scheduled(
    module: LightningModule, optimizer: Optimizer, schedule: Schedule, warmup_steps: int
) -> OptimizerLRScheduler:
    """The optimizer of a module with its learning rate's schedule, by optimizer steps."""
    if schedule == "constant" and not warmup_steps:
        return optimizer
    total = None if schedule == "constant" else int(module.trainer.estimated_stepping_batches)
    scheduler = schedule_by_step(optimizer, schedule, warmup_steps, total)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def guard_gradients(
    module: LightningModule,
    guard: GradientGuard,
    optimizer: Optimizer,
    value: float | None,
    algorithm: str | None,
) -> None:
    """Clip as the Trainer asks, skip a step whose gradients are not finite, and log under TRL's names."""
    plugin = module.trainer.precision_plugin
    scaler = plugin.scaler if isinstance(plugin, MixedPrecision) else None
    norm = guard.clip(optimizer, value, algorithm, scaler)
    rate, skipped = optimizer.param_groups[0]["lr"], float(guard.skipped)
    module.log_dict({"grad_norm": norm, "learning_rate": rate, "skipped_steps": skipped}, batch_size=1)


def as_settings(value: Any, kind: type) -> Any:
    """Settings as their dataclass; a checkpoint hands them over as a plain dict."""
    return kind(**value) if isinstance(value, dict) else value


def plain(value: Any) -> Any:
    """Settings as plain values, safe for a checkpoint that is read with ``weights_only``."""
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
