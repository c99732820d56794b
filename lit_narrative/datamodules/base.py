"""A task as a LightningDataModule: the rows of the view that the module being run needs, and their loaders."""

from collections.abc import Callable, Sequence
from dataclasses import is_dataclass
from functools import partial
from typing import Any, Self

from lightning.pytorch import LightningDataModule
from lightning.pytorch.core import saving
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Subset

from lit_narrative.arguments import NativeArguments
from lit_narrative.datamodules.few_shot import FewShot, FewShotExamples, FewShotPrompts, Shots
from lit_narrative.datamodules.judged import JudgedCompletions, judged_rows
from lit_narrative.datamodules.order import EpochSampler, ShardSampler, TrainLoader
from lit_narrative.datamodules.rejection_sampling import RejectionSampling, best_texts
from lit_narrative.datamodules.task import Answered as Answered  # a custom task imports all it needs from here
from lit_narrative.datamodules.task import ExamplePrompts as ExamplePrompts
from lit_narrative.datamodules.task import NumberedPrompts as NumberedPrompts
from lit_narrative.datamodules.task import Split as Split
from lit_narrative.datamodules.task import Task, numbered
from lit_narrative.errors import UserError, check_least
from lit_narrative.lookup import BUILDER
from lit_narrative.seeds import run_seed
from lit_narrative.views import Prompt, Rows, Scored

saving._ALLOWED_INSTANTIATORS.add(BUILDER)


class TaskDataModule(Task, LightningDataModule, metaclass=NativeArguments):
    """Base of all tasks: a subclass overrides the views that it offers, and whatever else of `Task` it has.

    The module being run says which view it needs and how rows become a batch; nothing is linked at construction.
    Arguments may be values of numpy and paths, as those of modules.

    Args:
        batch_size: rows a batch and process in training, 1 or more.
        eval_batch_size: rows a batch and process elsewhere, 1 or more; default: ``batch_size``.
        num_workers: processes that read rows and collate them, 0 or more.
        preferred: rejection sampling: a model's best texts, to train on in place of the task's examples.
        judged: completions with scores, or preferences, from a file: they make the view ``scored``.
        predict_split: whose prompts ``predict`` completes.
        few_shot: training examples that stand before each prompt and each example, and an instruction.

    Attributes:
        predict_shards: where predictions are written by shards: prompts a shard, and the shards that are written.

    Raises:
        UserError: one of them is out of range.
    """

    predict_shards: tuple[int, frozenset[int]] | None = None

    def __init__(
        self,
        batch_size: int = 16,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        preferred: RejectionSampling | None = None,
        judged: JudgedCompletions | None = None,
        predict_split: Split = "test",
        few_shot: FewShot | None = None,
    ) -> None:
        super().__init__()
        check_least("data.batch_size", batch_size, 1)
        check_least("data.eval_batch_size", eval_batch_size, 1)
        check_least("data.num_workers", num_workers, 0)
        self.batch_size, self.eval_batch_size, self.num_workers = batch_size, eval_batch_size, num_workers
        self.preferred, self.judged, self.predict_split = preferred, judged, predict_split
        self.few_shot = few_shot
        self._shots: Shots | None = None
        self._judged: dict[str, list[Scored]] | None = None
        self._rows: dict[tuple[str, Split], Sequence[Any]] = {}

    @classmethod
    def load_from_checkpoint(
        cls,
        checkpoint_path: Any,
        map_location: Any = None,
        hparams_file: Any = None,
        weights_only: bool | None = True,
        **kwargs: Any,
    ) -> Self:
        """Build a task by the arguments that it keeps in a checkpoint: plain values, as those of modules."""
        ours = {**kwargs, "_instantiator": BUILDER}
        return super().load_from_checkpoint(checkpoint_path, map_location, hparams_file, weights_only, **ours)

    # --- rows -------------------------------------------------------------------------------------------------------

    def view(self, name: str, split: Split) -> Sequence[Any]:
        """The rows of a view; training examples are those of `preferred`, and scored texts those of `judged`, if given.

        Raises:
            UserError: the task lacks the view; the message names those that it has.
        """
        if self.preferred is not None and (name, split) == ("examples", "train") and name in self.views:
            return best_texts(self.preferred)
        if self.judged is not None and name == "scored":
            if self._judged is None:
                self._judged = judged_rows(self.judged)
            return self._judged[split]
        rows = super().view(name, split)
        return self.shown(rows, f"{name}/{split}") if name in ("examples", "prompts") else rows

    def shown(self, rows: Sequence[Any], key: str) -> Sequence[Any]:
        """Examples or prompts behind what `few_shot` shows; as they are without it.

        Args:
            rows: of one of the two views.
            key: of the draw, beside a row's number.

        Raises:
            UserError: the task has no examples, or fewer than are to be shown.
        """
        if self.few_shot is None or not len(rows):
            return rows
        if self._shots is None:
            self._shots = Shots(self.few_shot, super().view("examples", "train"))
        if isinstance(rows[0], Prompt):
            return FewShotPrompts(numbered(rows), self._shots, key)
        return FewShotExamples(rows, self._shots, key)

    @property
    def views(self) -> tuple[str, ...]:
        """Names of the views that this task defines, and of that which a file gives it."""
        given = ("scored",) if self.judged is not None else ()
        return tuple(dict.fromkeys((*super().views, *given)))

    def rows_for(self, name: str, split: Split) -> Sequence[Any]:
        """The rows of a view that the module being run takes; it is asked once a run.

        Raises:
            UserError: the task lacks the view, or a row cannot be used.
        """
        if (name, split) not in self._rows:
            rows = numbered(self.view(name, split))
            try:
                self._rows[name, split] = self._module.validate_rows(rows)
            except UserError as error:
                if self.few_shot is None or not self.few_shot.shots:
                    raise
                raise UserError(f"{error}; or show fewer examples by data.few_shot.shots") from error
        return self._rows[name, split]

    def eval_rows(self, split: Split) -> Sequence[Any]:
        """The rows that the module being run is validated or tested on.

        Raises:
            UserError: as for `rows_for`.
        """
        module = self._module
        return self.rows_for(module.eval_view if module.eval_view in self.views else module.view, split)

    # --- hooks of Lightning -----------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Forget the rows that the module of an earlier run took: the next one may leave out others."""
        self._rows = {}

    def on_exception(self, exception: BaseException) -> None:
        """Let the module end what it started: Lightning tells the data of a fault, not the module."""
        if self.trainer is not None:
            self._module.teardown(str(self.trainer.state.fn))

    def train_dataloader(self) -> Any:
        """Batches of the view that the module trains on."""
        module, trainer = self._module, self.trainer
        assert trainer is not None
        rows = self.rows_for(module.view, "train")
        batch_size = module.train_batch_size(self.batch_size, trainer.world_size)
        sampler = EpochSampler(
            _Rows(rows),
            trainer,
            # A module that counts batches skips those that are done by itself.
            0 if module.counts_batches else batch_size,
            module.row_lengths(rows),
            shuffle=not trainer.overfit_batches,  # type: ignore[attr-defined]
            seed=run_seed(),
            **self._replica(rows),
        )
        return module.wrap_train_loader(self._loader(rows, batch_size, sampler, TrainLoader, module.counts_batches))

    def val_dataloader(self) -> DataLoader[Any]:
        """Batches of the view that the module is validated on."""
        return self._eval_loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """Batches of the view that the module is tested on."""
        return self._eval_loader("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        """Prompts to complete."""
        rows = self.rows_for("prompts", self.predict_split)
        if self.predict_shards is None:
            return self._each_once(rows)
        size, done = self.predict_shards
        sampler = ShardSampler(_Rows(rows), size, done, **self._replica(rows))
        return self._loader(rows, self.eval_batch_size or self.batch_size, sampler)

    # --- loaders ----------------------------------------------------------------------------------------------------

    def _eval_loader(self, split: Split) -> DataLoader[Any]:
        """Rows to evaluate: by length, so that batches hold little padding, unless only the first ones are read."""
        trainer, rows = self.trainer, self.eval_rows(split)
        assert trainer is not None
        limit = trainer.limit_test_batches if split == "test" else trainer.limit_val_batches
        # All batches are 1.0; 1 is a single one.
        lengths = self._module.row_lengths(rows) if isinstance(limit, float) and limit == 1 else None
        if lengths is not None:
            rows = Subset(rows, sorted(range(len(rows)), key=lengths.__getitem__, reverse=True))  # type: ignore[arg-type,assignment]
        return self._each_once(rows)

    def _each_once(self, rows: Sequence[Any]) -> DataLoader[Any]:
        """Rows in order; no process repeats one to have as many as the others, so that means count each row once."""
        replica = self._replica(rows)
        if len(rows) < replica["num_replicas"]:  # a process without a batch would leave the others waiting
            raise UserError(
                f"{type(self).__name__}: {len(rows)} rows for {replica['num_replicas']} processes to evaluate; "
                "raise the sizes under `data` or lower trainer.devices"
            )
        # torch's DistributedSampler repeats rows until every process has as many; Lightning's subclass does not, and
        # being a subclass it is left in place by the Trainer.
        sampler = UnrepeatedDistributedSampler(_Rows(rows), shuffle=False, **replica)
        return self._loader(rows, self.eval_batch_size or self.batch_size, sampler)

    def _loader(
        self,
        rows: Sequence[Any],
        batch_size: int,
        sampler: DistributedSampler[Any],
        kind: type[DataLoader[Any]] = DataLoader,
        drop_last: bool = False,
    ) -> DataLoader[Any]:
        return kind(
            _Rows(rows),
            batch_size=batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=partial(_collated, self._module.collate),
            drop_last=drop_last,
            # From pinned memory a batch is copied to the GPU while the one before is computed.
            pin_memory=self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
        )

    def _replica(self, rows: Sequence[Any]) -> dict[str, int]:
        """Which of how many processes this is, as samplers ask for it."""
        trainer = self.trainer
        assert trainer is not None
        if not len(rows):
            raise UserError(f"{type(self).__name__}: no rows to read; check the sizes and paths under `data`")
        return {"num_replicas": trainer.world_size, "rank": trainer.global_rank}

    @property
    def _module(self) -> Any:
        assert self.trainer is not None
        return self.trainer.lightning_module


def _collated(collate: Callable[[Sequence[Any]], Any], rows: Sequence[Any]) -> Any:
    """The batch that a module makes of rows; `Rows` where it is a list of them."""
    batch = collate(rows)
    return Rows(batch) if isinstance(batch, list) and batch and is_dataclass(batch[0]) else batch


class _Rows(Dataset[Any]):
    """Rows as a map-style dataset."""

    def __init__(self, rows: Sequence[Any]) -> None:
        self.rows = rows

    def __getitem__(self, index: int) -> Any:
        return self.rows[index]

    def __len__(self) -> int:
        return len(self.rows)
