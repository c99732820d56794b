"""Few-shot prompts: training examples stand before each prompt, in its text or as earlier turns of a conversation."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from lit_narrative.datamodules.task import NumberedPrompts
from lit_narrative.errors import UserError, check_least
from lit_narrative.text import ASKED
from lit_narrative.views import Conversation, Example, Message, Prompt, prompt_text

SPARE = 8
"""Examples that are drawn beside those that are shown, since a prompt is never shown its own example."""


@dataclass(frozen=True)
class FewShot:
    """What stands before each prompt and each example.

    Args:
        shots: training examples, 0 or more, drawn anew for each prompt; an example of the same prompt is never shown.
        turns: show them as earlier turns, the prompts as the user's and the completions as the assistant's, for
            ``model.chat=true``; false: in the prompt's text, with a blank line behind each.
        instruction: what stands first, with ``turns`` as the system's turn.

    Raises:
        UserError: there is nothing to show.
    """

    shots: int = 1
    turns: bool = False
    instruction: str = ""

    def __post_init__(self) -> None:
        check_least("data.few_shot.shots", self.shots, 0)
        if not self.shots and not self.instruction:
            raise UserError("data.few_shot shows nothing: set shots to 1 or more, give an instruction, or leave it out")

    def before(self, prompt: Conversation, shown: Sequence[Example]) -> Conversation:
        """A prompt with what stands before it.

        Raises:
            UserError: a prompt is one of messages, and the examples are to stand in its text.
        """
        if self.turns:
            first: list[Message] = [{"role": "system", "content": self.instruction}] if self.instruction else []
            for one in shown:
                first += [*_turns(one.prompt), {"role": "assistant", "content": one.completion}]
            return [*first, *_turns(prompt)]
        parts = [f"{_text(one.prompt)}{one.completion}\n\n" for one in shown]
        return "".join([f"{self.instruction}\n\n" if self.instruction else "", *parts, _text(prompt)])


def _turns(prompt: Conversation) -> list[Message]:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)


def _text(prompt: Conversation) -> str:
    if not isinstance(prompt, str):
        raise UserError("data.few_shot: the prompts of this task are messages; set data.few_shot.turns=true")
    return prompt


class Shots:
    """The training examples that are shown, and what is shown before a row.

    Args:
        settings: how.
        examples: of training.

    Raises:
        UserError: there are fewer examples than are to be shown.
    """

    def __init__(self, settings: FewShot, examples: Sequence[Example]) -> None:
        self.settings, self.examples = settings, examples
        if len(examples) <= settings.shots:
            raise UserError(
                f"data.few_shot.shots={settings.shots} of {len(examples)} training examples, one of which may be a "
                "prompt's own; lower it, or raise the size of the training split"
            )

    def before(self, row: Example | Prompt, prompt: Conversation, key: str) -> Conversation:
        """A row's prompt with examples before it, drawn by a key.

        Raises:
            UserError: the rows carry vectors, whose places in the examples would be taken for the row's own; or too
                few examples have another prompt.
        """
        if row.injection is not None:
            raise UserError("data.few_shot: the rows of this task carry vectors, and examples cannot; leave it out")
        most, shots = len(self.examples), self.settings.shots
        drawn = Random(key).sample(range(most), min(most, shots + SPARE)) if shots else []
        others = (self.examples[number] for number in drawn)
        shown = [one for one in others if one.prompt != prompt][:shots]
        if len(shown) < shots:
            raise UserError(
                f"data.few_shot.shots={shots}: too few training examples have another prompt than {str(prompt)[:40]!r}"
            )
        return self.settings.before(prompt, shown)


class FewShotExamples(Sequence[Example]):
    """Examples with others before them."""

    def __init__(self, rows: Sequence[Example], shots: Shots, key: str) -> None:
        self.rows, self.shots, self.key = rows, shots, key

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:  # type: ignore[override]
        row = self.rows[index]
        return replace(row, prompt=self.shots.before(row, row.prompt, f"{self.key}/{index}"))


class FewShotPrompts(NumberedPrompts):
    """Numbered prompts with examples before them; the column `ASKED` has each prompt alone."""

    def __init__(self, rows: Sequence[Prompt], shots: Shots, key: str) -> None:
        self.rows, self.shots, self.key = rows, shots, key

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Prompt:  # type: ignore[override]
        row = self.rows[index]
        columns: dict[str, Any] = {**row.columns, ASKED: prompt_text(row.text)}
        return replace(row, text=self.shots.before(row, row.text, f"{self.key}/{index}"), columns=columns)
