"""Prompts of the style task: who is to be written like, about what, and how a text ends; with or without a sample."""

import re
from dataclasses import dataclass

from lit_narrative.errors import UserError

END = "THE END."
"""The line that ends a text, unless another is asked for."""
SHORT = "Write like {author} about {plot}.\n"
"""A prompt for small models that learn it: one line."""
FULL = (
    "Write an original story in the style of {author}, about {plot}.\n"
    "Let the story stand for itself: name neither the author nor a title, and take no character, sentence or plot from "
    "the author's books. Write whole paragraphs and bring the story to its end. The last line, on its own, must be:\n"
    "{end}\n"
)
"""A prompt for models that follow instructions."""
SAMPLE = "This is how {author} writes:\n\n{sample}\n\n"
"""What stands before a prompt that shows a sample."""
TEMPLATES = {"short": SHORT, "full": FULL}
_FIELD = re.compile(r"\{(?:author|title|plot|end|sample)\}")


@dataclass
class StylePrompt:
    """The texts of prompts.

    Args:
        template: ``short``, ``full``, or a text with ``{plot}``, and where it is wanted ``{author}``, ``{title}`` (a
            book of the author's) and ``{end}``.
        shots: samples of the author's text that stand before it, 0 or 1: the few-shot prompt.
        sample: what stands before it with ``shots=1``: a text with ``{sample}``.
        end: the line that ends a text; empty: none.

    Raises:
        UserError: a template lacks what it needs, or a number is out of range.
    """

    template: str = "short"
    shots: int = 0
    sample: str = SAMPLE
    end: str = END

    def __post_init__(self) -> None:
        if self.shots not in (0, 1):
            raise UserError(f"data.prompt.shots is {self.shots}; a prompt shows 0 samples or 1")
        if "{plot}" not in self.text:
            raise UserError(
                f"data.prompt.template={self.template!r} must hold {{plot}}, or be one of: {', '.join(TEMPLATES)}"
            )
        if "{sample}" not in self.sample:
            raise UserError("data.prompt.sample must hold {sample}, where the sample is to stand")

    @property
    def text(self) -> str:
        """The template itself."""
        return TEMPLATES.get(self.template, self.template)

    def fill(self, author: str, title: str, plot: str, sample: str) -> str:
        """The prompt for an author and a plot."""
        values = {"{author}": author, "{title}": title, "{plot}": plot, "{end}": self.end, "{sample}": sample}
        template = (self.sample if self.shots else "") + self.text
        # In one pass, and not by `str.format`: braces in a book are no fields.
        return _FIELD.sub(lambda found: values[found[0]], template)

    def close(self, text: str) -> str:
        """A text with its last line."""
        return f"{text}\n{self.end}" if self.end else text
