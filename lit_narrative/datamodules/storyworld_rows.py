"""Rows of storyworlds: worlds of the generator, in either form, and prompts to write them or to play them."""

import json
from collections.abc import Sequence
from dataclasses import replace

from lit_narrative.datamodules.base import NumberedPrompts, Split
from lit_narrative.errors import UserError
from lit_narrative.tasks.storyworld.enrichment import Nearest, enrich_prompt
from lit_narrative.tasks.storyworld.formats.compact_write import write_compact
from lit_narrative.tasks.storyworld.generator import Skew, example
from lit_narrative.tasks.storyworld.grammar import prompt_grammar
from lit_narrative.tasks.storyworld.prompt_space import PromptSpace
from lit_narrative.tasks.storyworld.simulator.playing import PlaySettings, play_prompt
from lit_narrative.views import Example, Prompt


class CompactWorlds(Sequence[Example]):
    """Examples of worlds in the compact form in place of JSON."""

    def __init__(self, rows: Sequence[Example]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:  # type: ignore[override]
        row = self.rows[index]
        return replace(row, completion=write_compact(json.loads(row.completion)))


class Plays(NumberedPrompts):
    """Prompts of worlds to be played; one that has nothing to choose gives its place to the next."""

    def __init__(self, rows: Sequence[Example], settings: PlaySettings) -> None:
        self.rows, self.settings = rows, settings

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Prompt:  # type: ignore[override]
        for place in range(index, index + len(self.rows)):
            row = self.rows[place % len(self.rows)] if place > index else self.rows[index]
            if (made := play_prompt(row.completion, {**row.meta, "index": index}, self.settings)) is not None:
                return made
        raise UserError("data.play: none of the worlds has anything to choose")


class WithGrammar(NumberedPrompts):
    """Prompts with the grammar of each."""

    def __init__(self, rows: NumberedPrompts) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Prompt:  # type: ignore[override]
        row = self.rows[index]
        return replace(row, columns={**row.columns, "grammar": prompt_grammar(row.columns)})


class Enriched(NumberedPrompts):
    """Prompts with passages above them, found when a prompt is read."""

    def __init__(self, rows: NumberedPrompts, nearest: Nearest, count: int) -> None:
        self.rows, self.nearest, self.most = rows, nearest, count

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Prompt:  # type: ignore[override]
        return enrich_prompt(self.rows[index], self.nearest, self.most)


class Combined(NumberedPrompts):
    """The first prompts of a split of a space, made when asked for."""

    def __init__(self, space: PromptSpace, size: int, seed: int, split: Split) -> None:
        if size > (most := space.count(split)):
            raise UserError(
                f"data.{split}_size is {size:,}, and data.prompt_space has {most:,} prompts for that split; lower it, "
                "or add settings, themes, names, properties or templates"
            )
        self.space, self.size, self.seed, self.split = space, size, seed, split

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Prompt:  # type: ignore[override]
        if not 0 <= index < self.size:
            raise IndexError(index)
        return self.space.prompt(index, self.seed, self.split)


_KEPT = 2**16
"""Corpus worlds in memory, about 2 KiB each; those beyond are made again whenever they are read."""


class Generated(Sequence[Example]):
    """Corpus worlds, made when asked for: row n depends on (seed, split, n) alone."""

    def __init__(self, size: int, seed: int, skew: Skew, split: Split) -> None:
        self.size, self.seed, self.skew, self.split = size, seed, skew, split
        self._made: dict[int, Example] = {}

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Example:  # type: ignore[override]
        if not 0 <= index < self.size:
            raise IndexError(index)
        if index in self._made:
            return self._made[index]
        row = example(index, self.seed, self.skew, self.split)
        if len(self._made) < _KEPT:
            self._made[index] = row
        return row
