"""Verse as data: the offline grammar, or poems from plain text files."""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from lit_narrative.datamodules.base import Split, TaskDataModule
from lit_narrative.errors import UserError, check_least
from lit_narrative.steering.bags import read_bag
from lit_narrative.tasks.poetry.bags import NAMED, ContrastBag, find_topic
from lit_narrative.tasks.poetry.grammar import is_line, vocabulary_texts
from lit_narrative.tasks.poetry.metrics import majority_topic, topic_shares
from lit_narrative.tasks.poetry.preferences import as_pairs, read_events, split_events
from lit_narrative.tasks.poetry.rewards import (
    MONITORS,
    OF_GRAMMAR,
    REWARDS,
    other_words,
    written_lines,
)
from lit_narrative.tasks.poetry.sources import CorpusVerse, GrammarVerse, Piece, VerseSource
from lit_narrative.tasks.poetry.topics import EVERYDAY, TOPICS, Topic
from lit_narrative.text import repetition, self_bleu
from lit_narrative.views import Example, Labelled, Prompt, Rollout, Scored, Verdict, WordList

logger = logging.getLogger(__name__)

Label = Literal["topic", "source"]
Part = Literal[0, 1]
FEW = 0.05
"""Share of ratings above 0 below which a warning is logged."""
ENOUGH = 20
"""Ratings of which one at least has to be above 0; of fewer, none may be by chance."""


class PoetryData(TaskDataModule):
    """Views ``examples`` (opening, rest of the poem), ``prompts``, ``scored`` (ratings) and ``labelled``.

    No opening line, and with it no poem, is in two splits.

    Args:
        corpus: text file or folder of verse; None: the verse grammar.
        topics: what prompts ask for, in turn: names, files with a word a line, or word lists made from two corpora.
            Ratings are by the first. None: the five of the grammar, or with a corpus those of everyday words, which
            also stand beside a single one where topics are told apart.
        prompt_words: words of the first line that make the prompt; None: the whole line.
        max_lines: longest row from a corpus; a longer poem is cut into several, between stanzas where it can be.
        part: half of a corpus's poems. Models that are given different ones, such as an author and its judge, share no
            poem, whatever their seeds. None: all poems. The grammar has no halves: another seed gives other poems.
        train_size: training examples, 1 or more (as the other sizes); of a corpus at most, as there are.
        prompt_size: training prompts.
        rated_size: training ratings; of a corpus half of them are, where they can be, of rows with a word of the topic.
        val_size: validation rows of each view.
        test_size: test rows of each view.
        events: log of readers' events (``docs/poetry.md``) in place of made ratings.
        rating_noise: standard deviation of what is added to made ratings in training; in validation and test they are
            as they should be.
        pairs: rated rows two by two as preferences.
        label: what the ``labelled`` view tells: the topic, or the file that a poem is from.
        seed: of the grammar, the splits and the order of a corpus, and the noise.
        **kwargs: of `TaskDataModule`.

    Raises:
        UserError: a number is out of range, a topic is unknown, or a path cannot be read.
    """

    rewards = REWARDS

    def __init__(
        self,
        corpus: str | None = None,
        topics: list[str | ContrastBag] | None = None,
        prompt_words: int | None = None,
        max_lines: int = 16,
        part: Part | None = None,
        train_size: int = 5000,
        prompt_size: int = 1000,
        rated_size: int = 300,
        val_size: int = 200,
        test_size: int = 120,
        events: str | None = None,
        rating_noise: float = 0.1,
        pairs: bool = False,
        label: Label = "topic",
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        sizes = {"train_size": train_size, "prompt_size": prompt_size, "rated_size": rated_size}
        sizes |= {"val_size": val_size, "test_size": test_size, "prompt_words": prompt_words}  # type: ignore[dict-item]
        for name, size in sizes.items():
            check_least(f"data.{name}", size, 1)
        check_least("data.max_lines", max_lines, 2)
        check_least("data.seed", seed, 0)
        if not 0 <= rating_noise < float("inf"):
            raise UserError(f"data.rating_noise is {rating_noise}; it must be a number of 0 or more")
        if label == "source" and corpus is None:
            raise UserError("data.label=source tells the files of a corpus apart; give data.corpus, or label=topic")
        if topics is not None and not topics:
            raise UserError("data.topics is empty; leave it out, or name one topic or more")
        names = topics or (TOPICS if corpus is None else EVERYDAY)
        wanted = [find_topic(topic, lambda path: read_bag(path, NAMED)) for topic in names]
        self.topics = {topic.name: topic for topic in wanted}
        self.source: VerseSource = (
            GrammarVerse(seed)
            if corpus is None
            # A single topic tells nothing apart: labels and the share off the topic need others beside it.
            else CorpusVerse(corpus, max_lines, seed, {**(EVERYDAY if len(wanted) == 1 else {}), **self.topics}, part)
        )
        self.known = {**self.source.topics, **self.topics}
        self.events = None if events is None else split_events(read_events(events), seed)
        self.corpus, self.prompt_words, self.seed, self.label = corpus, prompt_words, seed, label
        self.rating_noise, self.pairs = rating_noise, pairs
        self.train_size, self.prompt_size, self.rated_size = train_size, prompt_size, rated_size
        self.eval_sizes = {"val": val_size, "test": test_size}
        self._poems: dict[str, Sequence[Piece]] = {}

    # --- views ------------------------------------------------------------------------------------------------------

    def examples(self, split: Split) -> list[Example]:
        """Openings with the rest of their poems."""
        return [self._example(piece) for piece in self._pieces(split)]

    def prompts(self, split: Split) -> list[Prompt]:
        """Openings to continue, each on every topic in turn.

        Columns: ``topic``, its name; ``bag`` (with weights, if its file gives any) and ``held_out``, its words;
        ``index``.
        """
        size, topics = self.eval_sizes.get(split, self.prompt_size), list(self.topics.values())
        openings = self.source.openings(split, -(-size // len(topics)))
        count = min(size, len(openings) * len(topics))
        if count < size:
            name = f"{split}_size" if split in self.eval_sizes else "prompt_size"
            message = "data.%s=%d: there are only %d prompts (first lines of the corpus, each on every topic)"
            logger.warning(message, name, size, count)
        # Topics in turn on each opening, so that the first n prompts hold every topic about equally often.
        return [self._prompt(openings[n // len(topics)], topics[n % len(topics)], n) for n in range(count)]

    def scored(self, split: Split) -> list[Scored]:
        """Readers' ratings and preferences, or made ones: how much of a poem is of the first topic."""
        rows = self._rated(split) if self.events is None else self.events[split]
        return as_pairs(rows) if self.pairs else rows

    def labelled(self, split: Split) -> list[Labelled]:
        """Poems with the number of their topic or file in `label_names`; those on no one topic are left out."""
        names = self.label_names
        pieces = self._pieces(split)
        named = [(piece.text, piece.topic if self.label == "topic" else piece.source) for piece in pieces]
        return [Labelled(text, names.index(name)) for text, name in named if name in names]

    @property
    def label_names(self) -> tuple[str, ...]:
        """The classes of the ``labelled`` view, in order of their numbers."""
        if self.label == "topic":
            return tuple(self.source.topics)
        return tuple(sorted({piece.source for piece in self._pieces("train")}))

    @property
    def word_lists(self) -> Mapping[str, WordList]:
        """Every topic that has a name, and those that prompts ask for."""
        topics = {**self.topics, **NAMED}
        return {name: WordList(topic.steering_bag, topic.held_out) for name, topic in topics.items()}

    def tokenizer_texts(self) -> Iterable[str]:
        """Every word of the grammar, the same for every seed; of a corpus its training poems."""
        return vocabulary_texts() if self.corpus is None else super().tokenizer_texts()

    # --- rewards and verifiers --------------------------------------------------------------------------------------

    def reward_settings(self, names: Sequence[str]) -> Mapping[str, Topic]:
        """All topics by name.

        Raises:
            UserError: a name is of a measure that must not be rewarded, or needs the grammar where there is none.
        """
        for name in names:
            if name in MONITORS:
                raise UserError(
                    f"model.rewards: '{name}' is what shows that a reward is played, and is not a reward; the callback "
                    "Verifiers logs it as components/held_out"
                )
            if name in OF_GRAMMAR and self.corpus is not None:
                raise UserError(
                    f"model.rewards: '{name}' judges by the grammar, and data.corpus has none (with a corpus no "
                    f"{' and no '.join(OF_GRAMMAR)}); take it out"
                )
        return self.known

    def verify(self, rollouts: Sequence[Rollout]) -> list[Verdict]:
        """How much of each completion is of its topic, and how well it is made."""
        return [self._verdict(rollout) for rollout in rollouts]

    def text_metrics(self, rollouts: Sequence[Rollout]) -> dict[str, float]:
        """Beside the verifiers' means, how alike the completions are; comparable between runs of as many."""
        return super().text_metrics(rollouts) | {"self_bleu": self_bleu([rollout.text for rollout in rollouts])}

    def _verdict(self, rollout: Rollout) -> Verdict:
        columns, texts = rollout.columns, [rollout.text]
        others = other_words(self.known, columns["topic"])
        shares = topic_shares(texts, columns["bag"], columns["held_out"], others)
        components = {
            "topic_share": shares.bag,
            "off_topic": shares.off_topic,
            "on_topic": float(majority_topic(rollout.text, self.known) == columns["topic"]),
            "repetition": repetition(texts, 2),
        }
        if all(topic.held_out for topic in self.topics.values()):  # a topic from a file has none
            components["held_out"] = shares.held_out
        wrong: list[tuple[int, str]] = []
        if self.corpus is None:
            lines = written_lines(rollout)
            wrong = [(number, line) for number, line in enumerate(lines) if not is_line(line)]
            components["grammatical"] = 1 - len(wrong) / max(len(lines), 1) if lines else 0.0
        issues = [_issue(number, line) for number, line in wrong]
        return Verdict(shares.bag, components, bool(rollout.text.strip()), tuple(issues))

    # --- rows -------------------------------------------------------------------------------------------------------

    def _pieces(self, split: str) -> Sequence[Piece]:
        if split not in self._poems:
            self._poems[split] = self.source.poems(split, self.eval_sizes.get(split, self.train_size))
        return self._poems[split]

    def _rated(self, split: Split) -> list[Scored]:
        topic = next(iter(self.topics.values()))
        pieces = self.source.to_rate(split, topic, self.eval_sizes.get(split, self.rated_size))
        # Rated before noise is added, so that the check sees which poems have a word of the topic at all.
        ratings = np.array([self.source.rating(piece.text, topic) for piece in pieces])
        _check_ratings(ratings, topic, split)
        if split == "train":
            # A separate stream: the same seed also draws the poems, and noise must not depend on how many were drawn.
            rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(2,)))
            ratings = np.clip(ratings + rng.normal(0, self.rating_noise, len(ratings)), 0, 1)
        return [Scored(piece.text, float(rating)) for piece, rating in zip(pieces, ratings, strict=True)]

    def _example(self, piece: Piece) -> Example:
        prompt = self._opening(piece.text.split("\n")[0])
        return Example(prompt, piece.text[len(prompt) :], {"topic": piece.topic, "source": piece.source})

    def _prompt(self, opening: str, topic: Topic, index: int) -> Prompt:
        columns = {"topic": topic.name, "bag": topic.steering_bag, "held_out": list(topic.held_out), "index": index}
        return Prompt(self._opening(opening), columns)

    def _opening(self, line: str) -> str:
        """The part of a first line that is the prompt; a whole line with its break."""
        if self.prompt_words is not None:
            # The space after the last word is the completion's: tokenizers of GPT-2's kind join it to the next word.
            prompt = re.match(rf"\s*\S+(?:\s+\S+){{{self.prompt_words - 1}}}(?=\s)", line)
            if prompt:
                return prompt.group()
        return f"{line}\n"


def _check_ratings(ratings: np.ndarray, topic: Topic, split: str) -> None:
    """Warn of ratings (before noise) of which few are above 0.

    Raises:
        UserError: of ``ENOUGH`` or more there is none above 0 to learn from.
    """
    count = int((ratings > 0).sum())
    if not count and split == "train" and len(ratings) >= ENOUGH:
        raise UserError(
            f"data.topics: no training poem to rate has a word of '{topic.name}', the first topic, which ratings are "
            "about; name one that occurs, give poems that have it (data.corpus), or ratings of readers (data.events)"
        )
    if count < FEW * len(ratings):
        message = "%d of %d ratings for %s are above 0: few poems have a word of '%s', the first of data.topics"
        logger.warning(message, count, len(ratings), split, topic.name)


def _issue(number: int, line: str) -> dict[str, str]:
    return {"path": f"line[{number}]", "message": f"no line of the grammar: {line!r}", "severity": "warning"}
