"""Activations put into words, as data: what the actor imitates, what it is rewarded for, and what the critic learns."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeVar, get_args

import numpy as np

from lit_narrative.datamodules.base import ExamplePrompts, Split
from lit_narrative.datamodules.explanation_sets import ExplanationSets
from lit_narrative.errors import UserError, check_choice, check_least
from lit_narrative.lm.vectors.inject import describe_injector
from lit_narrative.rl.rewards.reconstruction import ReconstructionReward, ReconstructionSettings
from lit_narrative.tasks.verbalize.copying import CopyPenalty
from lit_narrative.tasks.verbalize.evaluation.controls import shuffled
from lit_narrative.tasks.verbalize.prompts import (
    ACTOR_TEMPLATE,
    CRITIC_TEMPLATE,
    TAGS,
    ActorPrompt,
    CriticPrompt,
    answer,
    explanation_of,
)
from lit_narrative.tasks.verbalize.sidecar import FILE
from lit_narrative.tasks.verbalize.source import Source
from lit_narrative.tasks.verbalize.stories import facts, stories, vocabulary_texts
from lit_narrative.tasks.verbalize.table import ActivationTable, TableRow
from lit_narrative.text import WordBits
from lit_narrative.views import Described, Example, InjectedVectors, Prompt

Row = TypeVar("Row")
Injected = Literal["real", "shuffled", "mean", "none"]
Reads = Literal["vector", "text", "nothing"]
World = Literal["none", "first", "second"]
SIZES: Mapping[str, int] = {"train": 8000, "val": 200, "test": 200}
"""Stories of each split, unless another number is asked for."""


@dataclass
class PromptTemplates:
    """The texts around vector and explanation; default: those of the activations, or the package's.

    Args:
        actor: prompt of the actor, with ``{marker}``.
        critic: text of the critic, with ``{explanation}``.
    """

    actor: str | None = None
    critic: str | None = None


def _make_reward(task: "VerbalizeData") -> ReconstructionReward:
    """The reward of a critic.

    Raises:
        UserError: no checkpoint is named, or it holds no critic.
    """
    if task.critic is None:
        raise UserError("model.rewards: 'reconstruction' needs a critic; set data.critic to its checkpoint")
    return ReconstructionReward(task.critic, task.parse, task.reconstruction)


def _make_copy_penalty(task: "VerbalizeData") -> CopyPenalty:
    """The reward against copying.

    Raises:
        UserError: there are no texts to copy from.
    """
    sources = [] if task.source is None else task.source.tables["train"].column("source")
    if not sources:
        raise UserError("model.rewards: 'copied' needs activations with a column 'source'; leave it out")
    return CopyPenalty(WordBits(sources), task.parse)


class VerbalizeData(ExplanationSets):
    """Views ``examples`` (the actor's answers to imitate), ``prompts`` (for reinforcement learning) and ``described``.

    They are made of activations that ``lit-narrative extract`` wrote, or of plain Parquet tables. Without activations
    ``examples`` and ``prompts`` are stories, for a model whose activations are to be read.

    Columns of prompts: ``target`` (a,) float32, the row's own vector, whatever is injected; ``reference``, the answer
    to imitate, and ``explanation``, what it says; ``document``, ``position`` and ``source`` (the text up to there),
    where the table has them; ``index``.

    Args:
        activations: a folder with ``train``, ``val`` and ``test.parquet``, or one Parquet file, of which a tenth of
            the documents is val, a tenth test; None: stories.
        model: whose activations they must be, by the name that was given to extract; None: anyone's.
        layer: the layer that they must be of; None: any.
        prompt: templates, which must be those of the activations.
        marker: text of the marker in the prompts of plain tables.
        tags: whether an answer stands between tags; without them it is the explanation, whole. Default: as the
            activations were written, and of plain tables true.
        injected: ``real``; controls: the vector of another document (``shuffled``), always the ``mean`` of training, or
            ``none``, so that the actor reads the marker's own embedding.
        reads: what the actor's prompt holds: the ``vector``; controls that learn without it: the ``text`` up to the
            token, or ``nothing``.
        critic: checkpoint of the reconstructor that the reward ``reconstruction`` is by. Explanations are measured by
            it, as it is frozen there, and by the one that learns along with the actor, if there is one.
        reconstruction: how its error becomes a reward.
        subject: the model whose activations they are, for the causal test of stories; None: no such test.
        causal_rows: of the test set that it edits, at most.
        facts: of stories: the world that they keep to; ``first`` and ``second`` contradict each other.
        train_size: rows of training at most, 1 or more (as the other sizes); default: all, or 8000 stories.
        val_size: the same for validation; default: all, or 200 stories.
        test_size: the same for the test.
        seed: of stories, and of shuffled vectors.
        **kwargs: of `TaskDataModule`.

    Raises:
        UserError: a number is out of range, a name unknown, or the activations are not those that are expected.
    """

    rewards = MappingProxyType({"reconstruction": _make_reward, "copied": _make_copy_penalty})

    def __init__(
        self,
        activations: str | None = None,
        model: str | None = None,
        layer: int | None = None,
        prompt: PromptTemplates = PromptTemplates(),  # noqa: B008 (the command line shows the default's fields)
        marker: str = "<INJECT>",
        tags: bool | None = None,
        injected: Injected = "real",
        reads: Reads = "vector",
        critic: str | None = None,
        reconstruction: ReconstructionSettings = ReconstructionSettings(),  # noqa: B008
        subject: str | None = None,
        causal_rows: int = 100,
        facts: World = "none",
        train_size: int | None = None,
        val_size: int | None = None,
        test_size: int | None = None,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.sizes = {"train": train_size, "val": val_size, "test": test_size}
        for name, size in self.sizes.items():
            check_least(f"data.{name}_size", size, 1)
        check_least("data.seed", seed, 0)
        check_least("data.causal_rows", causal_rows, 1)
        check_choice("data.injected", injected, get_args(Injected))
        check_choice("data.reads", reads, get_args(Reads))
        if reads != "vector" and injected != "real":
            raise UserError(f"data.injected={injected} means nothing with data.reads={reads}, which has no vector")
        self.world, self.seed, self.tags = world_facts(facts), seed, tags is not False
        self.injected, self.reads, self.critic, self.reconstruction = injected, reads, critic, reconstruction
        self.subject, self.causal_rows = subject, causal_rows
        self.source = None if activations is None else Source.read(activations, marker)
        self.prompt = prompt
        if self.source is None:
            if (injected, reads, model, layer, critic, subject) != ("real", "vector", None, None, None, None):
                raise UserError(
                    "data.activations is missing, and data.injected, reads, model, layer, critic or subject is about "
                    "them"
                )
            return
        if (sidecar := self.source.sidecar) is not None:
            sidecar.check_templates(prompt.actor, prompt.critic)
            sidecar.check_source(model, layer)
            sidecar.check_tags(tags)
            self.tags = sidecar.tags
        elif model is not None or layer is not None:
            raise UserError(f"data.model and data.layer are compared with a {FILE}, and {activations} has none")
        if reads == "text" and not self.source.tables["train"].column("source"):
            raise UserError(f"data.reads=text needs a column 'source', and {activations} has none")

    # --- views ------------------------------------------------------------------------------------------------------

    def examples(self, split: Split) -> Sequence[Example]:
        """Prompts with the teacher's answers; without activations stories, from their first word on.

        Raises:
            UserError: a row has no answer to imitate.
        """
        if self.source is None:
            size = self.sizes[split] or SIZES[split]
            texts = (story.text for story in stories(self.seed, split, size, self.world))
            return [_begun(text) for text in texts]
        table, rows = self._rows_of(split)
        self._check_answers(table, rows)
        return _Lazy(rows, lambda number: self._example(split, number))

    def prompts(self, split: Split) -> Sequence[Prompt]:
        """The actor's prompts; without activations the first words of stories."""
        if self.source is None:
            return ExamplePrompts(self.examples(split))
        rows = self._rows_of(split)[1]
        return _Lazy(rows, lambda number: self._prompt(split, number))

    def described(self, split: Split) -> Sequence[Described]:
        """Explanations of the teacher with the vectors that they are about.

        Raises:
            UserError: there are no activations, or a row has no explanation.
        """
        if self.source is None:
            raise UserError(
                "data.activations is missing: what a critic learns is made of activations; give the folder that "
                "`lit-narrative extract` wrote"
            )
        table, rows = self._rows_of(split)
        self._check_answers(table, rows)
        return _Lazy(rows, lambda number: self._described(split, number))

    @property
    def injected_vectors(self) -> InjectedVectors | None:
        """Marker, width and mean norm of the activations."""
        if self.source is None:
            return None
        vectors = self.source.tables["train"].vectors
        return InjectedVectors(self.source.marker, vectors.shape[1], self.source.mean_norm)

    @property
    def critic_template(self) -> str:
        """What the critic reads, with ``{explanation}``."""
        sidecar = None if self.source is None else self.source.sidecar
        return self.prompt.critic or (sidecar.critic_template if sidecar else CRITIC_TEMPLATE)

    @property
    def critic_layer(self) -> int | None:
        """The layer that the activations are of; None where it is not known."""
        sidecar = None if self.source is None else self.source.sidecar
        return sidecar.layer if sidecar else None

    def tokenizer_texts(self) -> Iterable[str]:
        """Every word of the stories and of the prompts; of activations their training examples, too."""
        yield from vocabulary_texts()
        yield from (ActorPrompt(self.prompt.actor or ACTOR_TEMPLATE).text, answer("."))
        yield CriticPrompt(self.critic_template).text("")
        if self.source is not None:
            yield from super().tokenizer_texts()

    def tokenizer_names(self) -> Iterable[str]:
        """The tags of the prompts, each to be one token."""
        return TAGS

    def parse(self, completion: str) -> str | None:
        """The explanation in an answer of the actor; None where its format failed."""
        return explanation_of(completion, self.tags)

    # --- checks against the module ----------------------------------------------------------------------------------

    def rows_for(self, name: str, split: Split) -> Sequence[Any]:
        """The rows of a view that the module being run takes.

        Raises:
            UserError: the module takes no vectors, or its tokenizer reads the prompts otherwise than that of the
                activations' model.
        """
        if self.source is not None and self.reads == "vector" and name in ("examples", "prompts"):
            if self.injected != "none" and describe_injector(self._module.lm) is None:
                raise UserError(
                    "the rows of data.activations carry vectors, and the model takes none: set model.injection, as by "
                    "--model.injection.scale=embed_norm"
                )
            if self.source.sidecar is not None:
                self.source.sidecar.check_tokenizer(self._module.tokenizer)
        return super().rows_for(name, split)

    # --- rows -------------------------------------------------------------------------------------------------------

    def _rows_of(self, split: Split) -> "tuple[ActivationTable, np.ndarray]":
        """The table of a split, and the numbers of its rows."""
        assert self.source is not None
        rows = self.source.rows[split]
        return self.source.tables[split], rows[: self.sizes[split]]

    def _check_answers(self, table: ActivationTable, rows: np.ndarray) -> None:
        responses = table.column("response")
        for row in rows.tolist():
            if self.parse(responses[row]) is None:
                needed = (
                    f"is none between tags (data.tags=true): {responses[row]!r:.60}" if responses[row] else "is empty"
                )
                raise UserError(
                    f"{table.path}, row {row}: its response {needed}; extract with a teacher, or set data.tags=false "
                    "where responses have no tags"
                )

    def _example(self, split: Split, number: int) -> Example:
        row, text, vector = self._parts(split, number)
        return Example(text, row.response, {**row.columns, "target": row.vector}, vector)

    def _prompt(self, split: Split, number: int) -> Prompt:
        row, text, vector = self._parts(split, number)
        columns = {**row.columns, "index": number, "target": row.vector, "reference": row.response}
        return Prompt(text, {**columns, "explanation": self.parse(row.response) or ""}, vector)

    def _described(self, split: Split, number: int) -> Described:
        table, rows = self._rows_of(split)
        row = table[int(rows[number])]
        return Described(self.parse(row.response) or "", row.vector, row.columns)

    def _parts(self, split: Split, number: int) -> "_Parts":
        """A row, the actor's prompt, and what is injected into it."""
        table, rows = self._rows_of(split)
        row = table[int(rows[number])]
        assert self.source is not None
        if self.reads != "vector":
            said = row.columns["source"] if self.reads == "text" else ""
            return _Parts(row, row.prompt.replace(self.source.marker, said), None)
        match self.injected:
            case "shuffled":
                return _Parts(row, row.prompt, table.vectors[rows[self._others[split][number]]])
            case "mean":
                return _Parts(row, row.prompt, self.source.mean)
            case "none":
                return _Parts(row, row.prompt, None)
        return _Parts(row, row.prompt, row.vector)

    @cached_property
    def _others(self) -> "dict[str, list[int]]":
        """For each row of each split the row of another document whose vector it gets as a control."""
        found = {}
        for split in get_args(Split):
            table, rows = self._rows_of(split)
            documents = table.column("document") or list(range(len(table)))
            found[split] = shuffled([str(documents[row]) for row in rows], self.seed)
        return found


class _Parts(NamedTuple):
    row: TableRow
    prompt: str
    vector: np.ndarray | None


world_facts = facts
"""Under another name, which the argument of that name leaves free."""


def _begun(text: str) -> Example:
    """A story to complete from its first word on: there is no token in front of it from which to predict that."""
    first = text.partition(" ")[0]
    return Example(first, text[len(first) :], {})


class _Lazy(Sequence[Row]):
    """Rows that are made when they are asked for, so that memory holds the tables alone."""

    def __init__(self, rows: Sequence[int] | np.ndarray, make: Callable[[int], Row]) -> None:
        self.rows, self.make = rows, make

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:  # type: ignore[override]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self.make(index % len(self))
