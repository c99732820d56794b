"""Prompts of actor and critic, and the form of an answer: each written in one place, for every stage of training.

The actor reads a text with one marker, where a vector is injected, and answers with an explanation between tags. The
critic reads the explanation in a template whose end is always the same, so that its last token is where a vector is
read out. Both templates are part of the sidecar of a data set (``sidecar.py``), where they are compared at every load.
"""

from dataclasses import dataclass

from lit_narrative.errors import UserError

OPEN, CLOSE = "<explanation>", "</explanation>"
"""The tags around an explanation."""
ACTOR_TEMPLATE = (
    "Between these tags stands an activation of a language model: <concept>{marker}</concept>\n"
    "Say in words what it holds, between explanation tags.\n"
)
PLAIN_TEMPLATE = (
    "Between these tags stands an activation of a language model: <concept>{marker}</concept>\n"
    "Say in words what it holds.\n"
)
"""The actor's prompt where answers are explanations without tags."""
CRITIC_TEMPLATE = "An activation of a language model in words: <text> {explanation} </text>\n<summary>"
_MARKER, _EXPLANATION = "{marker}", "{explanation}"
TAGS = (OPEN, CLOSE, "<concept>", "</concept>", "<text>", "</text>", "<summary>")
"""Every tag of the prompts that come with the package; a word-level tokenizer keeps each one token."""


@dataclass(frozen=True)
class ActorPrompt:
    """The prompt of the actor.

    Args:
        template: a text with ``{marker}`` once.
        marker: what stands in its place: the text of the marker token.

    Raises:
        UserError: the template holds no ``{marker}``, or more than one, or the marker itself beside it.
    """

    template: str = ACTOR_TEMPLATE
    marker: str = "<|activation|>"

    def __post_init__(self) -> None:
        _check_once("data.prompt.actor", self.template, _MARKER)
        if not self.marker.strip():
            raise UserError("the marker of the actor's prompt is empty; give the text of a token")
        if self.text.count(self.marker) != 1:
            raise UserError(
                f"data.prompt.actor: the marker {self.marker!r} stands {self.text.count(self.marker)} times in the "
                "prompt, for one vector; take it out of the template, which has {marker} in its place"
            )

    @property
    def text(self) -> str:
        """The prompt."""
        # Not `str.format`, which would read other braces of the template as fields.
        return self.template.replace(_MARKER, self.marker)


@dataclass(frozen=True)
class CriticPrompt:
    """The text that the critic reads.

    Args:
        template: a text with ``{explanation}`` once, and something behind it.

    Raises:
        UserError: the template holds no ``{explanation}`` or more than one, or ends with it.
    """

    template: str = CRITIC_TEMPLATE

    def __post_init__(self) -> None:
        _check_once("data.prompt.critic", self.template, _EXPLANATION)
        if not self.suffix.strip():
            raise UserError(
                "data.prompt.critic ends with {explanation}: put a fixed text behind it, at whose last token the "
                "vector is read, such as ' </text>\\n<summary>'"
            )

    @property
    def suffix(self) -> str:
        """What stands behind every explanation."""
        return self.template.partition(_EXPLANATION)[2]

    def text(self, explanation: str) -> str:
        """The text for an explanation."""
        before, _, suffix = self.template.partition(_EXPLANATION)
        return f"{before}{explanation}{suffix}"


def _check_once(key: str, template: str, field: str) -> None:
    if template.count(field) != 1:
        raise UserError(f"{key} holds {field} {template.count(field)} times and must hold it once: {template[:200]!r}")


def answer(explanation: str, tags: bool = True) -> str:
    """An explanation as the actor is to write it."""
    return f"{OPEN} {explanation} {CLOSE}" if tags else explanation


def explanation_of(text: str, tags: bool = True) -> str | None:
    """The explanation in an answer of the actor, without white space around it.

    Args:
        text: of the answer, which a model wrote.
        tags: whether explanations stand between tags; without them the answer is the explanation, whole.

    Returns:
        None where there is no word; with tags, a failed format, unless the answer is one pair of them, closed, with
        words in it and nothing but white space before and behind it; so an answer that was cut off has none.
    """
    stripped = text.strip()
    if not tags:
        return stripped or None
    # Counted: a second tag inside would be read otherwise by a reader that takes the first or the last of them.
    if not (stripped.startswith(OPEN) and stripped.endswith(CLOSE)) or text.count(OPEN) + text.count(CLOSE) != 2:
        return None
    return stripped[len(OPEN) : -len(CLOSE)].strip() or None
