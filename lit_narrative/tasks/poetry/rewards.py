"""Rewards of the poetry task: measures of verse.

Held-out words are not a reward: they show whether a policy took to the topic, or only to the words that pay.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from lit_narrative.errors import UserError
from lit_narrative.tasks.poetry.grammar import LINES, is_line
from lit_narrative.tasks.poetry.metrics import topic_shares, whole_lines
from lit_narrative.tasks.poetry.topics import Topic
from lit_narrative.text import asked, repetition
from lit_narrative.views import Rollout

Topics = Mapping[str, Topic]


@dataclass(frozen=True)
class TopicShare:
    """Share of a completion's words that are in its prompt's bag, in 0..1.

    Without a limit the best text holds nothing but words of the bag. With one, a text with that share of them earns
    full marks, and other rewards decide between such texts.

    Args:
        limit: share that is enough, above 0; the reward is the share over it, 1 at most.
        name: what configurations and logs call it.

    Raises:
        UserError: the limit is out of range.
    """

    limit: float = 1.0
    name: str = "topic_share"

    def __post_init__(self) -> None:
        if not 0 < self.limit <= 1:
            raise UserError(f"TopicShare: limit={self.limit} must be above 0, and 1 at most")

    def __call__(self, rollouts: Sequence[Rollout]) -> list[float]:
        """Score completions by the columns of their prompts."""
        # The prompt brings its words: with several topics in a run each has another list.
        shares = (topic_shares([rollout.text], rollout.columns["bag"]).bag for rollout in rollouts)
        return [min(share / self.limit, 1.0) for share in shares]


def _grammatical(rollout: Rollout, topics: Topics) -> float:
    lines = written_lines(rollout)
    return sum(map(is_line, lines)) / max(len(lines), 1)


def _complete(rollout: Rollout, topics: Topics) -> float:
    # Lines that the prompt ends are lines of the poem too.
    lines = asked(rollout).count("\n") + len(written_lines(rollout))
    return min(lines / LINES[0], 1.0)


def _repetition(rollout: Rollout, topics: Topics) -> float:
    return -repetition([rollout.text], 2)


def _off_topic(rollout: Rollout, topics: Topics) -> float:
    return -topic_shares([rollout.text], (), (), other_words(topics, rollout.columns["topic"])).off_topic


PARTS: Mapping[str, Callable[[Rollout, Topics], float]] = {
    "grammatical": _grammatical,
    "complete": _complete,
    "repetition": _repetition,
    "off_topic": _off_topic,
}
"""``grammatical``: share of whole lines that the grammar accepts; ``complete``: lines over the fewest of its poems, at
most 1 (without it, a short text gets a high share of words most easily); both in 0..1. ``repetition``: minus the share
of word pairs that occurred before; ``off_topic``: minus the share of words of other topics; both in -1..0."""
OF_GRAMMAR = ("grammatical", "complete")
"""Rewards that know the grammar."""
MONITORS = ("held_out", "held_out_share")


@dataclass(frozen=True)
class VerseReward:
    """One of `PARTS` as a reward.

    Args:
        name: which.
        topics: all there are, by name.
    """

    name: str
    topics: Topics

    def __call__(self, rollouts: Sequence[Rollout]) -> list[float]:
        """Score completions by their text and the columns of their prompts."""
        return [PARTS[self.name](rollout, self.topics) for rollout in rollouts]


REWARDS: Mapping[str, Callable[[Topics], TopicShare | VerseReward]] = {
    "topic_share": lambda topics: TopicShare(),
    **{name: partial(VerseReward, name) for name in PARTS},
}
"""Makes each reward of the task from all topics by name; those of `OF_GRAMMAR` suit the grammar's poems only."""


def written_lines(rollout: Rollout) -> list[str]:
    """The whole lines that a completion has written, one that the prompt begins included."""
    prompt = asked(rollout).rpartition("\n")[2]
    return whole_lines(prompt + rollout.text, rollout.finished)


def other_words(topics: Topics, wanted: str) -> set[str]:
    """Words of all topics but the wanted one, without the words that it shares with them."""
    words = {word for name, topic in topics.items() if name != wanted for word in topic.words}
    return words - set(topics[wanted].words if wanted in topics else ())
