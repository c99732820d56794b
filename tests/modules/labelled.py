"""A task of labelled texts."""

from lit_narrative.datamodules.base import Split
from lit_narrative.views import Labelled, Prompt
from tests.helpers import TEXTS, TinyTask


class LabelledTask(TinyTask):
    """Texts by the word in them; every prompt asks for one of the three."""

    names: tuple[str, ...] = ("lantern", "salt", "tide")

    @property
    def label_names(self) -> tuple[str, ...]:
        return self.names

    def labelled(self, split: Split) -> list[Labelled]:
        quarters = {"train": (0, 1), "val": (2,), "test": (3,)}[split]
        rows = [(text, n % 3) for n, text in enumerate(TEXTS) if n // 3 % 4 in quarters]
        return [Labelled(text, (1, 2, 0)[name]) for text, name in rows]

    def prompts(self, split: Split) -> list[Prompt]:
        rows = super().prompts(split)
        return [
            Prompt(row.text, {**row.columns, "topic": self.names[n % 3], "bag": ["a", "e"]})
            for n, row in enumerate(rows)
        ]
