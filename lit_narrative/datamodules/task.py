"""The content of a task for algorithms and callbacks: views, rewards, verifiers, sets to measure, plays, pairs.

A task overrides what it has. Whoever asks for something that it lacks gets an error that names the task.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from lit_narrative.errors import UserError, check_choice
from lit_narrative.lm.turns import Environment
from lit_narrative.rl.rewards.base import AnyReward
from lit_narrative.rl.rewards.loading import check_path, function_reward, import_reward
from lit_narrative.views import (
    ContrastPair,
    Example,
    InjectedVectors,
    Layout,
    Prompt,
    Rollout,
    State,
    Verdict,
    WordList,
    prompt_number,
    prompt_text,
)

Split = Literal["train", "val", "test"]
PairSimilarity = Callable[[Sequence[str], Sequence[str]], npt.NDArray[np.floating[Any]]]
VIEWS = ("examples", "prompts", "scored", "pairs", "labelled", "described", "states", "activations")


class Answered(NamedTuple):
    """A prompt with the policy's answer to it.

    Attributes:
        rollout: the completion: the likeliest token each time, unless the evaluation samples.
        confidence: probability that the policy gives that completion.
        gold: log-probability that it gives the reference answer, in nats; None if the prompt has no ``reference``.
    """

    rollout: Rollout
    confidence: float
    gold: float | None


class Task:
    """The content of a task, with nothing of Lightning: a subclass overrides what it offers.

    A view is a method of its name, such as ``def prompts(self, split: Split) -> Sequence[Prompt]``.

    Attributes:
        extra_views: names of views beside `VIEWS`, for a custom algorithm (``docs/extending.md``).
        whole_texts: a part of a text means nothing, as half of a JSON object does: it is written at once.
        rewards: what makes each of the task's rewards by name, called with what `reward_settings` returns.
        environments: what makes each of the environments by name that completions may be answered by, called with the
            task.
    """

    extra_views: ClassVar[tuple[str, ...]] = ()
    whole_texts: ClassVar[bool] = False
    # Read-only: a table on the class is shared by every task, which must set its own rather than add to this one.
    rewards: Mapping[str, Callable[[Any], AnyReward]] = MappingProxyType({})
    environments: Mapping[str, Callable[[Any], Environment]] = MappingProxyType({})

    # --- views ------------------------------------------------------------------------------------------------------

    @property
    def views(self) -> tuple[str, ...]:
        """Names of the views that this task defines."""
        return tuple(name for name in (*VIEWS, *self.extra_views) if callable(getattr(type(self), name, None)))

    def view(self, name: str, split: Split) -> Sequence[Any]:
        """The rows of a view.

        Raises:
            UserError: the task lacks the view; the message names those that it has.
        """
        if name not in self.views:
            file = ", or give completions with scores by data.judged" if name == "scored" else ""
            raise UserError(
                f"{type(self).__name__} offers no '{name}' view; it has: {', '.join(self.views)}. "
                f"Choose another algorithm or another task{file}"
            )
        rows: Sequence[Any] = getattr(self, name)(split)
        return rows

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the classes of the ``labelled`` view, in order of their numbers; none: they have no names."""
        return ()

    @property
    def word_lists(self) -> Mapping[str, WordList]:
        """Word lists that steering knows by name; none unless the task has some."""
        return {}

    def tokenizer_texts(self) -> Iterable[str]:
        """Texts to train a tokenizer on: the task's training examples, with their earlier turns."""
        for row in self.view("examples", "train"):
            turns = "".join(turn.text + turn.observation for turn in row.turns)
            yield prompt_text(row.prompt) + turns + row.completion

    def tokenizer_names(self) -> Iterable[str]:
        """Words that a tokenizer of ``kind: names`` keeps whole wherever they occur; default: none."""
        return ()

    @property
    def injected_vectors(self) -> InjectedVectors | None:
        """What a model has to know of the vectors that the task's rows carry; None: they carry none."""
        return None

    @property
    def critic_template(self) -> str | None:
        """The text that a reconstructor reads a description in, with ``{explanation}`` in its place.

        None, the default: the task leaves it to the reconstructor.
        """
        return None

    @property
    def critic_layer(self) -> int | None:
        """The layer whose vectors are described, where a reconstructor ends by default; None: it is not known."""
        return None

    # --- rewards and verifiers --------------------------------------------------------------------------------------

    def reward_settings(self, names: Sequence[str]) -> Any:
        """What the functions of `rewards` are called with; default: the task itself.

        Args:
            names: the rewards of the run that the table makes.
        """
        return self

    @classmethod
    def check_rewards(cls, names: Iterable[str]) -> None:
        """Check that there are such rewards, before a task is built, and without making any.

        Raises:
            UserError: a reward is unknown; the message suggests the nearest name.
        """
        table: object = cls.rewards  # of a task that makes its table as it is built, a property
        for name in names:
            if ":" in name:
                check_path(name)
            elif isinstance(table, Mapping) and table:
                cls._check_reward(name, table)

    @classmethod
    def _check_reward(cls, name: str, table: Mapping[str, Any]) -> None:
        # Not check_choice at once: the path of a plain function is not listed, yet a table may know it.
        if name not in table:
            where = f"model.rewards of {cls.__name__}"
            check_choice(where, name, table, "a custom one as package.module:Class")

    def reward_functions(self, names: Sequence[str]) -> dict[str, AnyReward]:
        """The named rewards: those of the task's table, and custom ones as ``package.module:Class(…)``.

        A path may name a plain function too. Unless the task's table knows it, it is called with the rollouts.

        Raises:
            UserError: a reward is unknown; the message suggests the nearest name.
        """
        custom: dict[str, AnyReward] = {}
        for name in (name for name in names if ":" in name):
            if (reward := import_reward(name)) is not None:
                custom[name] = reward
            elif name not in self.rewards:
                custom[name] = function_reward(name)
        known = [name for name in names if name not in custom]
        settings = self.reward_settings(known)
        for name in known:
            self._check_reward(name, self.rewards)
        return {name: custom[name] if name in custom else self.rewards[name](settings) for name in names}

    def environment(self, name: str) -> Environment:
        """What answers completions, so that they are written in turns.

        Raises:
            UserError: there is none of that name.
        """
        if not self.environments:
            raise UserError(f"{type(self).__name__} has no environments; leave model.turns out, or take another task")
        check_choice(f"model.turns.environment of {type(self).__name__}", name, self.environments)
        return self.environments[name](self)

    @property
    def has_verifiers(self) -> bool:
        """Whether this task judges completions by rules of its own."""
        return type(self).verify is not Task.verify

    def verify(self, rollouts: Sequence[Rollout]) -> list[Verdict]:
        """Judge completions by the task's own rules."""
        raise UserError(f"{type(self).__name__} has no verifiers")

    def unique_shares(self, texts: Sequence[str]) -> dict[str, float]:
        """``unique``: share of distinct texts; ``unique_<level>``: of whatever coarser identities the task knows.

        A task may add other measures of variety, such as an effective number of kinds.
        """
        return {"unique": len(set(texts)) / max(len(texts), 1)}

    def quick_shares(self, rollouts: Sequence[Rollout]) -> dict[str, float]:
        """What the task says of completions, by name, at so little cost that every rollout batch is asked."""
        return {}

    def text_metrics(self, rollouts: Sequence[Rollout]) -> dict[str, float]:
        """What the task says of completions, by name: how many are distinct, and the means of its verifiers."""
        metrics = self.unique_shares([rollout.text for rollout in rollouts])
        if not self.has_verifiers:  # to try and catch the error would also hide a fault of a task's own verifier
            return metrics
        verdicts = self.verify(rollouts)
        names = verdicts[0].components if verdicts else ()
        means = {name: fmean(verdict.components[name] for verdict in verdicts) for name in names}
        return metrics | extra_means(verdicts) | means

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
            **answer.rollout.prompt_columns,
            "text": answer.rollout.text,
            "confidence": answer.confidence,
            "gold_logprob": answer.gold,
        }

    # --- judges -----------------------------------------------------------------------------------------------------

    def examine_judge(self, similarity: PairSimilarity) -> Mapping[str, Any]:
        """What a judge of similarity is worth on this task's held-out texts, as plain values for JSON.

        Args:
            similarity: the judge: how alike n texts are to n others, (n,).

        Returns:
            ``fit``, whether something may be trained against it; ``why``, a list of texts; ``sets``, figures by set.

        Raises:
            UserError: the task has no such texts.
        """
        raise UserError(
            f"{type(self).__name__} examines no judges; take a task that does, such as StyleData, or leave the "
            "callback JudgeExamination out"
        )

    # --- circuit analysis -------------------------------------------------------------------------------------------

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
        """Examples for circuit analysis; ``meta`` may hold ``spans`` (named positions) and ``targets`` (to probe for).

        Args:
            split: ``train``, ``val``, ``test``, or a set that the task knows by name.

        Raises:
            UserError: the task has no examples, or no such set.
        """
        if split not in get_args(Split):
            known = ", ".join(get_args(Split))
            raise UserError(f"{type(self).__name__} has no set '{split}' to analyse; it has: {known}")
        return self.view("examples", split)  # type: ignore[arg-type]

    # --- plays, for the cycle ---------------------------------------------------------------------------------------

    @property
    def has_plays(self) -> bool:
        """Whether the texts of this task are played."""
        return type(self).states_of is not Task.states_of

    @property
    def layout(self) -> Layout:
        """How a moment of a play becomes the vector of a state.

        Raises:
            UserError: the texts of this task are not played.
        """
        raise UserError(
            f"{type(self).__name__} offers no layout of states, which the cycle needs; override its property `layout`"
        )

    def states_of(self, texts: Sequence[str], plays: int, seed: int) -> list[list[State]]:
        """States of seeded plays of texts that the policy wrote, a list for each text that can be played.

        The ``world`` of a state is the number of its text. Its ``pieces`` are for a cycle on the policy's residual
        stream, which reads the text there; a text whose states have none is left out of that.

        Args:
            texts: completions, in order; what cannot be played is left out.
            plays: how many of each text.
            seed: of the plays.

        Raises:
            UserError: the texts of this task are not played.
        """
        raise UserError(
            f"{type(self).__name__} offers no plays of texts, which the cycle needs; override its method `states_of`"
        )


def extra_means(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """Mean of each further score over the verdicts that have it."""
    names = dict.fromkeys(name for verdict in verdicts for name in verdict.extra)
    return {name: fmean(v.extra[name] for v in verdicts if name in v.extra) for name in names}


class NumberedPrompts(Sequence[Prompt]):
    """Prompts that have their place as the column ``index``; they need not all be made to know it."""


class ExamplePrompts(NumberedPrompts):
    """The prompts of examples, numbered, with the rest as columns."""

    def __init__(self, rows: Sequence[Example]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Prompt:  # type: ignore[override]
        row = self.rows[index]
        return Prompt(row.prompt, {**row.meta, "index": index, "reference": row.completion})


def numbered(rows: Sequence[Any]) -> Sequence[Any]:
    """Prompts with their number in the view as ``index``, unless the task numbers them: random streams depend on it.

    Raises:
        UserError: a column ``index`` holds something else than whole numbers from 0 on.
    """
    if not len(rows) or not isinstance(rows[0], Prompt) or isinstance(rows, NumberedPrompts):
        return rows
    given = [row.columns["index"] for row in rows if "index" in row.columns]
    if given:
        for number, row in enumerate(rows):
            prompt_number(row, number)
    if len(given) == len(rows):
        return rows
    return [replace(row, columns={**row.columns, "index": number}) for number, row in enumerate(rows)]
