"""The rewards of the task style, and the examination of its judges."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any

import torch

from lit_narrative.datamodules.base import TaskDataModule
from lit_narrative.datamodules.task import PairSimilarity
from lit_narrative.errors import UserError
from lit_narrative.rl.rewards.base import AnyReward, Lost
from lit_narrative.rl.rewards.chat_client import ChatClient
from lit_narrative.rl.rewards.penalties import repetition
from lit_narrative.rl.rewards.similarity import SimilarityModel
from lit_narrative.tasks.style.completeness import Completeness, CompletenessSettings
from lit_narrative.tasks.style.content import ChatReward, ContentSettings, PlotReward
from lit_narrative.tasks.style.corpus import Chunk, StyleCorpus
from lit_narrative.tasks.style.evaluation.copying import Sources
from lit_narrative.tasks.style.examination import HeldOut, examine
from lit_narrative.tasks.style.pairs import ORIGINALS, PairMaker
from lit_narrative.tasks.style.rewards import (
    CopyReward,
    DiversityReward,
    NameReward,
    StyleReward,
    StyleRewardSettings,
)

EXAMINED = 600
"""Pairs of originals that a judge is examined on, of each set at most."""
GRADED = 400
"""Graded pairs, likewise."""
NORM = 500
"""Training chunks from which baselines take their norm, at most."""


class StyleRewards(TaskDataModule):
    """The part of ``StyleData`` that rewards, and examines judges; see there for the settings.

    Attributes:
        judge: path of the judge that the rewards are by.
        style: how its cosine becomes a reward.
        content: a language model that rates content; None: by the plot's words.
        completeness: what counts as complete.
        split_by: whether the judge's pairs are parted by author.
        seed: of the examination's pairs.
    """

    judge: str | None
    style: StyleRewardSettings
    content: ContentSettings | None
    completeness: CompletenessSettings
    split_by: str
    seed: int

    rewards: Mapping[str, Callable[["StyleRewards"], AnyReward]] = MappingProxyType(
        {
            "style": lambda task: task.style_reward,
            "content": lambda task: task.content_reward(),
            "completeness": lambda task: Completeness(task.completeness),
            "copied": lambda task: CopyReward(task.sources),
            "forbidden": lambda task: NameReward(task.sources),
            "diversity": lambda task: DiversityReward(task.style_reward),
            "repetition": lambda task: repetition,
        }
    )

    @property
    def corpus(self) -> StyleCorpus:
        """All authors with their chunks."""
        raise NotImplementedError

    @property
    def authors(self) -> tuple[str, ...]:
        """The authors to write like."""
        raise NotImplementedError

    @property
    def author_splits(self) -> dict[str, str]:
        """Author -> split of the pairs."""
        raise NotImplementedError

    @cached_property
    def sources(self) -> dict[str, Sources]:
        """The training chunks of each author, to look copies and names up in."""
        return {author: Sources(self._training_texts(author)) for author in self.authors}

    def _training_texts(self, author: str) -> list[str]:
        return [chunk.text for chunk in self.corpus.of("train", author)]

    def content_reward(self) -> AnyReward:
        """The reward of content: by a language model, where one is given."""
        if self.content is None:
            return PlotReward()
        given = self.content
        client = ChatClient(given.url, key_env=given.key_env, timeout=given.timeout, model=given.model, max_tokens=3)
        return ChatReward(client.complete, given, lambda answer: isinstance(answer, Lost))  # type: ignore[return-value]

    # --- the judge --------------------------------------------------------------------------------------------------

    @cached_property
    def style_reward(self) -> StyleReward:
        """The reward of the judge.

        Raises:
            UserError: no judge is given, or it is not fit.
        """
        if self.judge is None:
            raise UserError(
                "model.rewards: 'style' and 'diversity' need a judge; set data.judge to the folder that "
                "`lit-narrative test --config style/judge` wrote"
            )
        judge = SimilarityModel.load(self.judge, setting="data.judge")
        check_fit(self.judge, judge.examination, self.style.accept_unfit)
        judge.to("cuda" if torch.cuda.is_available() else "cpu")
        chunks = {author: self._training_texts(author) for author in self.authors}
        return StyleReward(judge.arrays, self.style, chunks, judge.calibration)

    def examine_judge(self, similarity: PairSimilarity) -> Mapping[str, Any]:
        """Examine a judge on pairs of held-out chunks: of ``books`` and, where they are parted so, of ``authors``.

        ``books``: chunks of validation and test of authors whom the judge learned from. ``authors``: chunks of authors
        of whom it learned nothing; there are none with ``split_by=book``. The verdict is by ``books``: a policy is
        trained to write like authors whom the judge knows.
        """
        apart = self.split_by == "author"
        known = [c for c in self.corpus.chunks if not apart or self.author_splits[c.author] == "train"]
        unknown = [c for c in self.corpus.chunks if apart and self.author_splits[c.author] == "test"]
        books = [chunk for chunk in known if chunk.split != "train"]
        sets = {"books": self._held_out(books), "authors": self._held_out(unknown)._replace(decides=not books)}
        training = [chunk.text for chunk in known if chunk.split == "train"]
        return examine(similarity, sets, training[:: max(len(training) // NORM, 1)]).record()

    def _held_out(self, chunks: Sequence[Chunk]) -> HeldOut:
        """Pairs of whole chunks, and graded ones."""
        if not chunks:
            return HeldOut((), ())
        originals = PairMaker(chunks, self.seed).pairs(EXAMINED, ORIGINALS)
        return HeldOut(originals, PairMaker(chunks, self.seed).pairs(GRADED))


def check_fit(path: str, examination: Mapping[str, Any] | None, accept: bool) -> None:
    """Refuse to train against a judge that was never examined, or is not fit.

    Args:
        path: of the judge.
        examination: what is known of it.
        accept: take it as it is.

    Raises:
        UserError: unless ``accept``.
    """
    if accept or (examination is not None and examination.get("fit") is True):
        return
    if examination is None:
        why = "it was never examined"
    else:
        why = "its examination found it unfit: " + "; ".join(str(reason) for reason in examination.get("why", ()))
    raise UserError(
        f"data.judge '{path}': {why}. A policy that is trained against it may learn topics in place of style. Examine "
        "it by `lit-narrative test --config style/judge` and give the folder that writes; or take it as it is, by "
        "--data.style.accept_unfit=true"
    )
