"""The task: limericks as views, with a rhyme reward and a verifier."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from limericks.verses import rhyme_share, write

from lit_narrative.datamodules.base import Split, TaskDataModule
from lit_narrative.views import Example, Prompt, Rollout, Verdict


class RhymeReward:
    """How well a limerick rhymes, 0 to 1; its first line is the prompt."""

    name = "rhyme"

    def __call__(self, rollouts: Sequence[Rollout]) -> list[float | None]:
        return [rhyme_share(rollout.prompt + rollout.text) for rollout in rollouts]


@dataclass(frozen=True)
class Preference:
    """A row of a view of our own: two completions of one prompt, the better one first."""

    prompt: str
    chosen: str
    rejected: str


class LimerickData(TaskDataModule):
    """Limericks from a generator.

    Args:
        train_size: rows of each view in training.
        eval_size: rows of each view in validation and test.
        seed: of the limericks.
        **kwargs: of :class:`TaskDataModule`.
    """

    rewards: Mapping[str, Callable[[Any], RhymeReward]] = {"rhyme": lambda settings: RhymeReward()}
    extra_views = ("preferences",)

    def __init__(self, train_size: int = 512, eval_size: int = 64, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.train_size, self.eval_size, self.seed = train_size, eval_size, seed

    def examples(self, split: Split) -> list[Example]:
        """First lines with the other four."""
        return [Example(opening, rest) for opening, rest in self._limericks(split)]

    def prompts(self, split: Split) -> list[Prompt]:
        """First lines to continue."""
        return [Prompt(opening) for opening, _ in self._limericks(split)]

    def preferences(self, split: Split) -> list[Preference]:
        """Limericks, and their first lines with what belongs to the next one's."""
        rows = self._limericks(split)
        others = [rest for _, rest in rows[1:] + rows[:1]]
        return [Preference(opening, rest, other) for (opening, rest), other in zip(rows, others, strict=True)]

    def verify(self, rollouts: Sequence[Rollout]) -> list[Verdict]:
        """How well each limerick rhymes."""
        shares = [rhyme_share(rollout.prompt + rollout.text) for rollout in rollouts]
        return [Verdict(share, {"rhyme": share}, share > 0) for share in shares]

    def _limericks(self, split: Split) -> list[tuple[str, str]]:
        rng = random.Random(f"{self.seed} {split}")  # a text seeds it by its bytes, the same everywhere
        return [write(rng) for _ in range(self.train_size if split == "train" else self.eval_size)]
