"""The named sets of the task verbalize, controls among them, and what is measured of the answers to them."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from lit_narrative.datamodules.base import Answered, Split, TaskDataModule
from lit_narrative.datamodules.explanations import (
    ExplanationJudge,
    TrainingRows,
    answer_row,
    from_stories,
    read_critic,
    read_subject,
)
from lit_narrative.errors import check_choice
from lit_narrative.rl.rewards.base import Reconstruct
from lit_narrative.tasks.verbalize.evaluation.controls import CONTROLS, control_prompts
from lit_narrative.tasks.verbalize.source import Source
from lit_narrative.tasks.verbalize.table import ActivationTable
from lit_narrative.views import Prompt

_TOLD, _NEIGHBOURS = 64, 20_000  # texts that tell whether these are stories; training rows to look neighbours up in


class ExplanationSets(TaskDataModule):
    """The part of ``VerbalizeData`` that measures; see there for the settings.

    Attributes:
        source: the activations; None: stories to write, which are measured as any text.
        critic: checkpoint of the frozen critic.
        subject: the model of the causal test.
        causal_rows: of the test set that it edits, at most.
        injected: what is injected.
        reads: what the actor reads.
        seed: of the shuffled control.
        judge: what measures, once it is set up.
    """

    source: Source | None
    critic: str | None
    subject: str | None
    causal_rows: int
    injected: str
    reads: str
    seed: int
    judge: ExplanationJudge

    def setup(self, stage: str) -> None:
        """Read the frozen critic and the subject, where they are given.

        Raises:
            UserError: one of them is not there, or of other vectors.
        """
        super().setup(stage)
        if self.source is not None:
            self.judge = self._make_judge(self.source)

    def _make_judge(self, source: Source) -> ExplanationJudge:
        device = "cpu" if self.trainer is None else self.trainer.strategy.root_device
        sources, width = source.tables["test"].column("source"), source.tables["train"].vectors.shape[1]
        layer = source.sidecar.layer if source.sidecar else None
        return ExplanationJudge(
            training=self._training_rows,
            marker=source.marker,
            stories=bool(sources) and from_stories(sources[:_TOLD]),
            parse=self.parse,
            frozen=None if self.critic is None else read_critic(self.critic, width, device),
            subject=None if self.subject is None else read_subject(self.subject, layer, width, device),
            causal_rows=self.causal_rows,
        )

    def _training_rows(self) -> TrainingRows:
        table, rows = self._rows_of("train")
        texts, sources = table.column("response"), table.column("source")
        chosen = rows[:_NEIGHBOURS].tolist()
        return TrainingRows(
            vectors=table.vectors[chosen],
            texts=[self.parse(texts[row]) or "" for row in chosen],
            sources=[sources[row] for row in chosen] if sources else [],
        )

    def parse(self, completion: str) -> str | None:
        """The explanation in an answer of the actor; None where its format failed."""
        raise NotImplementedError

    def _rows_of(self, split: Split) -> tuple[ActivationTable, np.ndarray]:
        """The table of a split, and the numbers of its rows."""
        raise NotImplementedError

    def update_critic(self, reconstruct: Reconstruct, version: int) -> None:
        """Measure by a critic that learns along with the actor, beside the frozen one."""
        if self.source is not None:
            self.judge.co_trained = reconstruct

    # --- sets by name -----------------------------------------------------------------------------------------------

    @property
    def test_sets(self) -> Sequence[str]:
        """The test set, and the controls with its targets, where the actor is given activations."""
        controls = self.source is not None and (self.injected, self.reads) == ("real", "vector")
        return ("test", *CONTROLS) if controls else ("test",)

    @property
    def named_sets(self) -> tuple[str, ...]:
        """Names of all sets: the controls of validation, such as ``val_shuffled``, too."""
        return (*super().named_sets, *(f"val_{name}" for name in self.test_sets if name in CONTROLS))

    def named_prompts(self, name: str) -> Sequence[Prompt]:
        """The prompts of a set: a split, or a control.

        Raises:
            UserError: there is no such set.
        """
        check_choice(f"sets of {type(self).__name__}", name, self.named_sets)
        control = name.removeprefix("val_")
        if control not in CONTROLS or self.source is None:
            return super().named_prompts(name)
        rows: Sequence[Prompt] = self.view("prompts", "test" if control == name else "val")
        return control_prompts(control, rows, self.source.mean, self.seed)

    def measure(self, name: str, answers: Sequence[Answered]) -> dict[str, Any]:
        """Every figure of the answers to a set (`ExplanationJudge.scores`); of stories to write, the task's default."""
        if self.source is None:
            return super().measure(name, answers)
        control = name.removeprefix("val_") in CONTROLS
        gold = [answer.gold for answer in answers if answer.gold is not None]
        scores = self.judge.scores(answers, references=not control, causal=name == "test")
        return scores | ({"gold_logprob": fmean(gold)} if gold else {})

    def set_metrics(self, scores: Mapping[str, Mapping[str, Any]]) -> dict[str, float | None]:
        """Every number of each set; the precision of no claims at all is logged as 0, for whatever watches it."""
        known = {name: {**values} for name, values in scores.items()}
        for values in known.values():
            if "claims_precision" in values:
                values["claims_precision"] = values["claims_precision"] or 0.0
        return super().set_metrics(known)

    def set_summary(self, scores: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """What the explanations were made of and judged by."""
        if self.source is None:
            return super().set_summary(scores)
        both = self.judge.co_trained is not None
        config = {"injected": self.injected, "reads": self.reads, "critic": self.critic, "co_trained": both}
        return {"config": config | {"stories": self.judge.stories, "subject": self.subject}}

    def answer_row(self, answer: Answered) -> dict[str, Any]:
        """An answer with its place, its explanation, and which claims are so."""
        if self.source is None:
            return super().answer_row(answer)
        return answer_row(answer, self.parse, self.judge.stories)
