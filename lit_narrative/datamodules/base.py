"""A task as data: views for the algorithms, one loader for all of them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from lit_narrative.datamodules.rejection_sampling import RejectionSampling, best_texts
from lit_narrative.errors import UserError, check_choice, check_least
from lit_narrative.progress import batches_begun
from lit_narrative.rl.rewards.base import AnyReward
from lit_narrative.rl.rewards.loading import import_reward
from lit_narrative.seeds import run_seed
from lit_narrative.views import ContrastPair, Example, Layout, Prompt, Rollout, State, Verdict, WordList

Split = Literal["train", "val", "test"]
VIEWS = ("examples", "prompts", "scored", "labelled", "states", "activations")


class EpochSampler(DistributedSampler[Any]):
    """The rows of this process in an order that depends on seed and epoch only.

    After a kill in mid-epoch it goes on where the epoch stopped: the Trainer knows how many batches are done.
    """

    def __init__(self, *args: Any, done: Callable[[], int], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.done = done

    def __iter__(self) -> Iterator[Any]:
        rows = list(super().__iter__())
        yield from rows[self.done() :]


class Answered(NamedTuple):
    """A prompt with the policy's answer to it.

    Attributes:
        rollout: the completion, the likeliest token each time.
        confidence: probability that the policy gives that completion.
        gold: log-probability that it gives the reference answer, in nats; None if the prompt has no ``reference``.
    """

    rollout: Rollout
    confidence: float
    gold: float | None


class TaskDataModule(LightningDataModule):
    """Base of all tasks. A task overrides the views that it offers, and the rewards and verifiers if it has any.

    The module being run says which view it needs and how rows become a batch; nothing is linked at construction.

    Args:
        batch_size: rows a batch and process in training, 1 or more.
        eval_batch_size: rows a batch and process elsewhere, 1 or more; default: ``batch_size``.
        num_workers: processes that read rows and collate them, 0 or more.
        preferred: rejection sampling: a model's best texts, to train on in place of the task's examples.
        predict_split: whose prompts ``predict`` completes.

    Attributes:
        rewards: what makes each of the task's rewards by name, called with what `reward_settings` returns.

    Raises:
        UserError: one of them is out of range.
    """

    rewards: Mapping[str, Callable[[Any], AnyReward]] = MappingProxyType({})

    def __init__(
        self,
        batch_size: int = 16,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        preferred: RejectionSampling | None = None,
        predict_split: Split = "test",
    ) -> None:
        super().__init__()
        check_least("data.batch_size", batch_size, 1)
        check_least("data.eval_batch_size", eval_batch_size, 1)
        check_least("data.num_workers", num_workers, 0)
        self.batch_size, self.eval_batch_size, self.num_workers = batch_size, eval_batch_size, num_workers
        self.preferred, self.predict_split = preferred, predict_split
        self._rows: dict[tuple[str, Split], Sequence[Any]] = {}

    # --- what a task offers -----------------------------------------------------------------------------------------

    extra_views: ClassVar[tuple[str, ...]] = ()
    """Names of a task's views beside `VIEWS`, for an algorithm of its own (``docs/extending.md``)."""

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the classes of the ``labelled`` view, in order of their numbers; none: they have no names."""
        return ()

    @property
    def word_lists(self) -> Mapping[str, WordList]:
        """Word lists that steering knows by name; none unless the task has some."""
        return {}

    def view(self, name: str, split: Split) -> Sequence[Any]:
        """The rows of a view.

        Raises:
            UserError: if the task lacks the view, naming what it has.
        """
        if name not in self.views:
            raise UserError(
                f"{type(self).__name__} offers no '{name}' view; it has: {', '.join(self.views)}. "
                "Choose another algorithm or another task"
            )
        if (name, split) == ("examples", "train") and self.preferred is not None:
            return best_texts(self.preferred)
        rows: Sequence[Any] = getattr(self, name)(split)
        return rows

    @property
    def views(self) -> tuple[str, ...]:
        """Names of the views that this task defines."""
        return tuple(name for name in (*VIEWS, *self.extra_views) if callable(getattr(type(self), name, None)))

    def setup(self, stage: str) -> None:
        """Forget what the module of an earlier run has admitted."""
        self._rows = {}

    def rows_for(self, name: str, split: Split) -> Sequence[Any]:
        """The rows of a view that the module being run takes; it is asked once a run.

        Raises:
            UserError: the task lacks the view, or a row cannot be used.
        """
        if (name, split) not in self._rows:
            self._rows[name, split] = self._module.validate_rows(numbered(self.view(name, split)))
        return self._rows[name, split]

    def tokenizer_texts(self) -> Iterable[str]:
        """Texts to train a tokenizer on: the task's training examples."""
        return (row.prompt + row.completion for row in self.view("examples", "train"))

    def reward_settings(self, names: Sequence[str]) -> Any:
        """What the functions of `rewards` are called with; default: this DataModule.

        Args:
            names: the rewards of the run that the table makes.
        """
        return self

    def reward_functions(self, names: Sequence[str]) -> dict[str, AnyReward]:
        """The named rewards: those of the task's table, and custom ones as ``package.module:Class(…)``.

        Raises:
            UserError: a reward is unknown; the message suggests the nearest name.
        """
        custom = {name: reward for name in names if ":" in name and (reward := import_reward(name)) is not None}
        settings = self.reward_settings([name for name in names if name not in custom])
        for name in names:
            # A plain function by its path is not a reward, but a table may know what to make of it.
            if name not in custom and name not in self.rewards:
                check_choice(
                    f"model.rewards of {type(self).__name__}",
                    name,
                    self.rewards,
                    "a custom one as package.module:Class",
                )
        return {name: custom[name] if name in custom else self.rewards[name](settings) for name in names}

    def verify(self, rollouts: Sequence[Rollout]) -> list[Verdict]:
        """Judge completions by the task's own rules."""
        raise UserError(f"{type(self).__name__} has no verifiers")

    def unique_shares(self, texts: Sequence[str]) -> dict[str, float]:
        """``unique``: share of distinct texts; ``unique_<level>``: of whatever coarser identities the task knows."""
        return {"unique": len(set(texts)) / max(len(texts), 1)}

    def text_metrics(self, rollouts: Sequence[Rollout]) -> dict[str, float]:
        """What the task says of completions, by name: how many are distinct, and the means of its verifiers."""
        found = self.unique_shares([rollout.text for rollout in rollouts])
        if type(self).verify is TaskDataModule.verify:
            return found
        verdicts = self.verify(rollouts)
        names = verdicts[0].components if verdicts else ()
        return found | {name: fmean(verdict.components[name] for verdict in verdicts) for name in names}

    # --- named sets, for SetEvaluation ------------------------------------------------------------------------------

    @property
    def test_sets(self) -> Sequence[str]:
        """Names of the sets that a test measures."""
        return ("test",)

    @property
    def named_sets(self) -> tuple[str, ...]:
        """Names of all sets: the splits, and the test sets."""
        return tuple(dict.fromkeys(("train", "val", *self.test_sets)))

    def named_prompts(self, name: str) -> Sequence[Prompt]:
        """The prompts of a set.

        Raises:
            UserError: there is no such set.
        """
        check_choice(f"sets of {type(self).__name__}", name, get_args(Split))
        return self.view("prompts", name)  # type: ignore[arg-type]

    def measure(self, name: str, answers: Sequence[Answered]) -> dict[str, Any]:
        """The scores of the answers to a set, as plain values for JSON; default: `text_metrics`.

        Args:
            name: of the set.
            answers: to its prompts, in order.
        """
        gold = [answer.gold for answer in answers if answer.gold is not None]
        scores: dict[str, Any] = {"n": len(answers)} | self.text_metrics([answer.rollout for answer in answers])
        return scores | {"gold_logprob": fmean(gold)} if gold else scores

    def set_metrics(self, scores: Mapping[str, Mapping[str, Any]]) -> dict[str, float | None]:
        """What is logged of the scores of several sets, None for nothing; default: every number of each set."""
        return {
            f"{name}/{key}": float(value)
            for name, values in scores.items()
            for key, value in values.items()
            if isinstance(value, int | float)
        }

    def set_summary(self, scores: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """What the record of an evaluation holds beside the scores of each set, such as comparisons between sets."""
        return {}

    def answer_row(self, answer: Answered) -> dict[str, Any]:
        """An answer as a row of a file."""
        return {
            "prompt": answer.rollout.prompt,
            "text": answer.rollout.text,
            "confidence": answer.confidence,
            "gold_logprob": answer.gold,
        }

    # --- circuit analysis and plays ---------------------------------------------------------------------------------

    def contrasts(self, split: str) -> Iterable[ContrastPair]:
        """Pairs of prompts that circuit analysis sets against each other.

        Args:
            split: ``train``, ``val``, ``test``, or a set that the task knows by name.

        Raises:
            UserError: the task has none, or no such set.
        """
        raise UserError(
            f"{type(self).__name__} offers no contrast pairs, which patching, attribution and lens need; choose other "
            "analyses, or override its method `contrasts`"
        )

    def questions(self, split: str) -> Sequence[Example]:
        """Examples for circuit analysis; ``meta`` may hold ``spans`` (named places) and ``targets`` (to probe for).

        Args:
            split: ``train``, ``val``, ``test``, or a set that the task knows by name.

        Raises:
            UserError: the task has no examples, or no such set.
        """
        if split not in get_args(Split):
            known = ", ".join(get_args(Split))
            raise UserError(f"{type(self).__name__} has no set '{split}' to analyse; it has: {known}")
        return self.view("examples", split)  # type: ignore[arg-type]

    @property
    def layout(self) -> Layout:
        """How a moment of a play becomes the vector of a state.

        Raises:
            UserError: the texts of this task are not played.
        """
        raise self._lacks("a layout of states", "which the cycle needs; override its property `layout`")

    def states_of(self, texts: Sequence[str], plays: int, seed: int) -> list[list[State]]:
        """States of seeded plays of texts that the policy wrote, a list for each text that can be played.

        Args:
            texts: completions, in order; what cannot be played is left out.
            plays: how many of each text.
            seed: of the plays.

        Raises:
            UserError: the texts of this task are not played.
        """
        raise self._lacks("plays of texts", "which the cycle needs; override its method `states_of`")

    def _lacks(self, what: str, need: str) -> UserError:
        return UserError(f"{type(self).__name__} offers no {what}, {need}")

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Tensors go to the device; a list of rows has none, and Lightning would stop at their frozen fields."""
        return batch if isinstance(batch, list) else super().transfer_batch_to_device(batch, device, dataloader_idx)

    def on_exception(self, exception: BaseException) -> None:
        """Let the module end what it started: Lightning tells the data of a fault, not the module."""
        if self.trainer is not None:
            self._module.teardown(str(self.trainer.state.fn))

    # --- loaders ----------------------------------------------------------------------------------------------------

    def train_dataloader(self) -> Any:
        """Batches of the view that the module trains on."""
        module, trainer = self._module, self.trainer
        assert trainer is not None
        rows = self.rows_for(module.view, "train")
        batch_size = module.train_batch_size(self.batch_size, trainer.world_size)
        sampler = EpochSampler(
            _Rows(rows),
            shuffle=True,
            seed=run_seed(),
            done=lambda: 0 if module.counts_batches else batches_begun(trainer) * batch_size,
            **self._share(rows),
        )
        return module.wrap_train_loader(self._loader(rows, batch_size, sampler, drop_last=module.counts_batches))

    def val_dataloader(self) -> DataLoader[Any]:
        """Batches of the view that the module is validated on."""
        return self._eval_loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """Batches of the view that the module is tested on."""
        return self._eval_loader("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        """Prompts to complete."""
        return self._each_once(self.rows_for("prompts", self.predict_split))

    def _eval_loader(self, split: Split) -> DataLoader[Any]:
        module = self._module
        name = module.eval_view if module.eval_view in self.views else module.view
        return self._each_once(self.rows_for(name, split))

    def _each_once(self, rows: Sequence[Any]) -> DataLoader[Any]:
        """Rows in order; no process repeats one to have as many as the others, so that means count each row once."""
        share = self._share(rows)
        if len(rows) < share["num_replicas"]:  # a process without a batch would leave the others waiting
            raise UserError(
                f"{type(self).__name__}: {len(rows)} rows for {share['num_replicas']} processes to evaluate; "
                "raise the sizes under `data` or lower trainer.devices"
            )
        sampler = UnrepeatedDistributedSampler(_Rows(rows), shuffle=False, **share)
        return self._loader(rows, self.eval_batch_size or self.batch_size, sampler)

    def _loader(
        self, rows: Sequence[Any], batch_size: int, sampler: DistributedSampler[Any], drop_last: bool = False
    ) -> DataLoader[Any]:
        return DataLoader(
            _Rows(rows),
            batch_size=batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=self._module.collate,
            drop_last=drop_last,
        )

    def _share(self, rows: Sequence[Any]) -> dict[str, int]:
        """Which of how many processes this is."""
        trainer = self.trainer
        assert trainer is not None
        if not len(rows):
            raise UserError(f"{type(self).__name__}: no rows to read; check the sizes and paths under `data`")
        return {"num_replicas": trainer.world_size, "rank": trainer.global_rank}

    @property
    def _module(self) -> Any:
        assert self.trainer is not None
        return self.trainer.lightning_module


class ExamplePrompts(Sequence[Prompt]):
    """The prompts of examples, numbered, with the rest as columns."""

    def __init__(self, rows: Sequence[Example]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Prompt:  # type: ignore[override]
        row = self.rows[index]
        return Prompt(row.prompt, {**row.meta, "index": index, "reference": row.completion})


def numbered(rows: Sequence[Any]) -> Sequence[Any]:
    """Prompts with their number in the view as ``index``, unless the task numbers them: random streams depend on it."""
    if not len(rows) or not isinstance(rows[0], Prompt) or "index" in rows[0].columns:
        return rows
    return [replace(row, columns={**row.columns, "index": number}) for number, row in enumerate(rows)]


class _Rows(Dataset[Any]):
    """Rows as a map-style dataset."""

    def __init__(self, rows: Sequence[Any]) -> None:
        self.rows = rows

    def __getitem__(self, index: int) -> Any:
        return self.rows[index]

    def __len__(self) -> int:
        return len(self.rows)
