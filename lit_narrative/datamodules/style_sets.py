"""The named sets of the task style, zero-shot and few-shot, and what is measured of the texts that answer them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from lit_narrative.datamodules.base import Answered, Split
from lit_narrative.datamodules.style_rewards import StyleRewards
from lit_narrative.errors import UserError, check_choice
from lit_narrative.rl.rewards.base import Reward, ask_once
from lit_narrative.rl.rewards.similarity import SimilarityModel
from lit_narrative.tasks.style.evaluation.copying import Sources, human_span
from lit_narrative.tasks.style.evaluation.evaluate import JUDGES, StyleAids, StyleTexts, evaluate
from lit_narrative.tasks.style.evaluation.judging import StyleReferences
from lit_narrative.tasks.style.prompts import StylePrompt
from lit_narrative.tasks.style.rewards import spread
from lit_narrative.views import Prompt

FEW_SHOT = "few_shot"
"""The test set with a sample of the author's text in each prompt."""
REFERENCES = 40
"""Held-out chunks of an author that texts are compared with, at most; those of all authors, whoever is asked for."""
COLUMNS = ("content", "completeness")
"""Rewards that are measured of every text, where the task has them."""


class StyleSets(StyleRewards):
    """The part of ``StyleData`` that measures; see there for the settings.

    Attributes:
        prompt: templates.
        judge_b: the judge that no training sees.
        window: words of the windows along which style is followed.
    """

    prompt: StylePrompt
    judge_b: str | None
    window: int

    # --- sets by name -----------------------------------------------------------------------------------------------

    @property
    def named_sets(self) -> tuple[str, ...]:
        """Names of all sets: the few-shot ones, too."""
        return (*super().named_sets, FEW_SHOT)

    def named_prompts(self, name: str) -> Sequence[Prompt]:
        """The prompts of a set; those of ``few_shot`` are the test's, with a sample before each.

        Raises:
            UserError: there is no such set.
        """
        check_choice(f"sets of {type(self).__name__}", name, self.named_sets)
        if name != FEW_SHOT:
            return super().named_prompts(name)
        few = replace(self.prompt, shots=1)
        return [
            replace(row, text=few.fill(*(row.columns[key] for key in ("author", "title", "plot", "sample"))))
            for row in self.view("prompts", "test")
        ]

    # --- measures ---------------------------------------------------------------------------------------------------

    def measure(self, name: str, answers: Sequence[Answered]) -> dict[str, Any]:
        """Every figure of the texts of a set (`evaluate`)."""
        split: Split = "val" if name == "val" else "train" if name == "train" else "test"
        columns = [answer.rollout.columns for answer in answers]
        shots = name == FEW_SHOT or self.prompt.shots > 0
        rows = StyleTexts(
            texts=[story(answer) for answer in answers],
            authors=[str(column["author"]) for column in columns],
            plots=[str(column["plot"]) for column in columns],
            columns=self._rewarded(answers),
            shown=[str(column["sample"]) for column in columns] if shots else (),
        )
        finished = [float(answer.rollout.finished) for answer in answers]
        return evaluate(replace(rows, columns={**rows.columns, "finished": finished}), self._aids_of(split))

    def _rewarded(self, answers: Sequence[Answered]) -> dict[str, list[float | None]]:
        """Scores of the task's own rewards beside style, those that wait for a server left out."""
        rewards = self.reward_functions([name for name in COLUMNS if name in self.rewards])
        rollouts = [answer.rollout for answer in answers]
        return {
            name: ask_once(name, reward, rollouts) for name, reward in rewards.items() if isinstance(reward, Reward)
        }

    # --- what texts are judged with ---------------------------------------------------------------------------------

    def _aids_of(self, split: Split) -> StyleAids:
        """What the texts of a split are judged with, made when they are first measured."""
        if split not in self._aids:
            held = {author: [c.text for c in self.corpus.of(split, author)] for author in self.corpus.authors}
            chunks = {author: spread(texts, REFERENCES) for author, texts in held.items() if texts}
            if missing := [author for author in self.authors if author not in chunks]:
                raise UserError(f"data.books: {missing[0]} has no chunk in {split}, with which texts could be compared")
            human = [chunk.text for author in self.authors for chunk in self.corpus.of("train", author)]
            judges = {name: StyleReferences(model.arrays, chunks) for name, model in self._judges.items()}
            own = {author: chunks[author] for author in self.authors}
            span = None if split == "train" else human_span(own, self.sources)
            self._aids[split] = StyleAids(judges, self._all_sources, human, self.window, span)
        return self._aids[split]

    @cached_property
    def _aids(self) -> dict[Split, StyleAids]:
        return {}

    @cached_property
    def _judges(self) -> dict[str, SimilarityModel]:
        """The judges that are given, by name."""
        paths = zip(JUDGES, (self.judge, self.judge_b), strict=True)
        keys = ("data.judge", "data.judge_b")
        return {
            name: SimilarityModel.load(path, setting=key)
            for key, (name, path) in zip(keys, paths, strict=True)
            if path is not None
        }

    @cached_property
    def _all_sources(self) -> dict[str, Sources]:
        """All chunks of each author: a few-shot prompt shows held-out ones, which can be copied too."""
        return {author: Sources([c.text for c in self.corpus.chunks if c.author == author]) for author in self.authors}

    # --- records ----------------------------------------------------------------------------------------------------

    def set_summary(self, scores: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """What the texts were asked for and judged by."""
        return {"config": {"authors": list(self.authors), "judge": self.judge, "judge_b": self.judge_b}}

    def answer_row(self, answer: Answered) -> dict[str, Any]:
        """A text with what it was asked for."""
        asked = {name: answer.rollout.columns[name] for name in ("author", "plot", "sample")}
        return {**answer.rollout.prompt_columns, **asked, "text": answer.rollout.text}


def story(answer: Answered) -> str:
    """The text of an answer without the line that ends it, which tells nothing of style."""
    text, end = answer.rollout.text.rstrip(), str(answer.rollout.columns.get("end", ""))
    return text.removesuffix(end).rstrip() if end else text
