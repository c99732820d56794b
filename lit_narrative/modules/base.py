"""The base of all modules: the view that an algorithm learns from, and how rows become batches."""

from collections.abc import Iterable, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.parsing import AttributeDict
from torch.utils.data import DataLoader

from lit_narrative.errors import UserError
from lit_narrative.redaction import redact


class NarrativeModule(LightningModule):
    """An algorithm: it names the view it learns from and turns rows of a view into batches.

    Attributes:
        view: the view that training reads.
        eval_view: the view that validation and test read, where the task offers it; else ``view``.
        counts_batches: the module wraps the training loader, reads whole batches only and keeps count of them itself.
    """

    view: str
    eval_view: str
    counts_batches = False

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

    def validate_rows(self, rows: Sequence[Any]) -> Sequence[Any]:
        """The rows of a view that this module takes, in order; asked once for each view and split of a run.

        Raises:
            UserError: a row cannot be used and may not be left out.
        """
        return rows

    def train_batch_size(self, batch_size: int, world_size: int) -> int:
        """Rows a training batch and process, given what the task asks for and the number of processes."""
        return batch_size

    def collate(self, rows: Sequence[Any]) -> Any:
        """A batch of the rows of a view."""
        raise NotImplementedError

    def wrap_train_loader(self, loader: DataLoader[Any]) -> Iterable[Any]:
        """The iterable that the Trainer reads, given the task's loader; an algorithm may wrap it."""
        return loader


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
