"""Views: the shapes in which a task offers its content to the algorithms.

A view is a map-style dataset of one of these rows: plain text and numbers, nothing of a tokenizer's making.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np

from lit_narrative.errors import UserError

if TYPE_CHECKING:
    import torch  # the rows of a rollout; tools that read worlds do without it


Message = Mapping[str, str]
"""A turn of a conversation: its ``role`` (``system``, ``user``, ``assistant``) and its ``content``."""
Conversation = str | Sequence[Message]
"""A prompt: a text, or where a module reads prompts by a chat template (``chat``) the messages to answer."""


def prompt_text(prompt: Conversation) -> str:
    """A prompt as one text: of messages their contents, with a blank line between turns."""
    return prompt if isinstance(prompt, str) else "\n\n".join(message["content"] for message in prompt)


def check_prompt(prompt: object) -> None:
    """Refuse what is neither a text nor a list of messages.

    Raises:
        UserError: showing what was given.
    """
    if isinstance(prompt, str):
        return
    if not isinstance(prompt, Sequence) or isinstance(prompt, bytes):
        raise UserError(f"a prompt is a text or a list of messages, and not {prompt!r:.200}")
    for message in prompt:
        parts = [message.get("role"), message.get("content")] if isinstance(message, Mapping) else []
        if not parts or not all(isinstance(part, str) for part in parts):
            raise UserError(f"a message of a prompt needs a role and a content, both texts: {message!r:.200}")


def plain_prompt(prompt: Conversation) -> str:
    """A prompt that is to be read as it stands.

    Raises:
        UserError: it is a list of messages.
    """
    check_prompt(prompt)
    if not isinstance(prompt, str):
        raise UserError("a prompt is a list of messages, which only a module with model.chat=true reads; give a text")
    return prompt


Row = TypeVar("Row")


class Rows(Generic[Row]):
    """A batch of rows as they are, with no tensors to move or to convert.

    Not a list, into which Lightning looks for tensors: it stops at the fields of rows, which cannot be set.

    Args:
        rows: of one view.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        self._rows = tuple(rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Row:
        return self._rows[index]


class Turn(NamedTuple):
    """An earlier turn of a completion that was written in several: it was answered, and written again behind that.

    Attributes:
        text: what was written.
        observation: the answer.
        length: of a rollout, the number of tokens written in this turn.
        ids: of a rollout, the token ids of the observation. No policy drew them: they are in no loss.
    """

    text: str
    observation: str
    length: int = 0
    ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt and the completion to imitate (SFT, perplexity).

    Attributes:
        prompt: what is read.
        completion: what is imitated.
        meta: where the example comes from.
        turns: earlier turns, which are read with the prompt and not imitated; the completion answers the last of them.
        injection: (a,) or (k, a) float32, vectors to inject into the model at the prompt's markers, in their order
            (`lit_narrative.lm.vectors.inject`); None: nothing.
    """

    prompt: Conversation
    completion: str
    meta: Mapping[str, Any] = field(default_factory=dict)
    # Left out of comparisons, since arrays do not compare to one truth value.
    injection: np.ndarray | None = field(default=None, compare=False, repr=False)
    turns: tuple[Turn, ...] = ()


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt to continue (GRPO, predict, steering).

    Attributes:
        text: of it.
        columns: reach the rewards unchanged.
        injection: as of an `Example`; it reaches the rewards too.
    """

    text: Conversation
    columns: Mapping[str, Any] = field(default_factory=dict)
    injection: np.ndarray | None = field(default=None, compare=False, repr=False)


def as_prompts(prompts: "str | Sequence[Prompt | Conversation]") -> list[Prompt]:
    """Prompts of texts and lists of messages, numbered in their order; a `Prompt` stays as it is.

    Args:
        prompts: several, or one text.
    """
    given = [prompts] if isinstance(prompts, str) else prompts
    return [one if isinstance(one, Prompt) else Prompt(one, {"index": number}) for number, one in enumerate(given)]


def prompt_number(prompt: Prompt, default: int = 0) -> int:
    """The number of a prompt, on which its random streams depend: its column ``index``, ``default`` without one.

    Raises:
        UserError: the column holds something else than a whole number from 0 on.
    """
    number = prompt.columns.get("index", default)
    if isinstance(number, bool) or not isinstance(number, Integral) or number < 0:
        raise UserError(
            f"the prompt {prompt_text(prompt.text)[:40]!r} has index={number!r} among its columns, the name for its "
            "number, a whole one from 0 on, which chooses its random stream; give the column another name"
        )
    return int(number)


@dataclass(frozen=True, slots=True)
class InjectedVectors:
    """What the rows of a task bring along to inject.

    Attributes:
        marker: text of the marker in its prompts.
        width: of the vectors.
        mean_norm: mean norm of those of training.
    """

    marker: str
    width: int
    mean_norm: float


@dataclass(frozen=True, slots=True)
class Scored:
    """A ``text`` with a ``score``, the more the better, or one preferred to ``other``; whole or behind a ``prompt``."""

    text: str
    score: float
    other: str | None = None
    prompt: Conversation | None = None


@dataclass(frozen=True, slots=True)
class Pair:
    """Two texts and how alike they are to be found (similarity of sentence encoders).

    Attributes:
        text: the first.
        other: the second.
        score: likeness in 0..1, 0 for what has nothing in common.
        meta: where the pair comes from, such as ``kind``, ``author`` and ``title`` of the first text, ``author2`` and
            ``title2`` of the second, and their ``subject``.
        labels: what each of the texts is of, such as its author: those of one label are alike, also across pairs. None
            where one cannot be told, such as of a mixture.

    Raises:
        UserError: the score is out of range.
    """

    text: str
    other: str
    score: float
    meta: Mapping[str, Any] = field(default_factory=dict)
    labels: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.score <= 1:
            raise UserError(f"the score of a pair is {self.score}; it must be a number in 0..1")


@dataclass(frozen=True, slots=True)
class Labelled:
    """A ``text`` with the number of its class, its ``label`` (discriminators, probes)."""

    text: str
    label: int


@dataclass(frozen=True, slots=True)
class Described:
    """A text and the vector that it describes (reconstructor).

    Attributes:
        text: the description.
        vector: (a,) float32.
        meta: where they come from.
    """

    text: str
    # Left out of comparisons, since arrays do not compare to one truth value.
    vector: np.ndarray = field(compare=False, repr=False)
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WordList:
    """Words that texts can be steered to, under a name that a task gives them.

    Attributes:
        words: a list, or weights by word.
        held_out: further words of the same topic: whoever steers by ``words`` is measured by these.
    """

    words: Sequence[str] | Mapping[str, float]
    held_out: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class ContrastPair:
    """Two prompts that differ in one thing, and so in their answers (activation patching, circuit analysis).

    The prompts have one length in tokens, and the answers differ in their first token.

    Attributes:
        clean: the prompt whose mechanism is studied.
        corrupt: its counterpart.
        clean_answer: what follows ``clean``.
        corrupt_answer: what follows ``corrupt``.
        meta: where the pair comes from; ``spans`` may hold {name: (start, end)} in characters of the clean prompt:
            positions for analyses to name (``rule_end``, ``card1_value`` …).
    """

    clean: str
    corrupt: str
    clean_answer: str
    corrupt_answer: str
    meta: Mapping[str, Any] = field(default_factory=dict)


Span = tuple[int, int]
"""Part of a text: its first character and the one behind its last."""


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """A moment of a play.

    Attributes:
        vector: (dim,) float32, standardised by its layout.
        context: the coarse context within which states are compared (an encounter).
        affordances: for each option slot, whether the option is open.
        meta: where the state comes from: at least ``world``, the world it was played in, and ``play``, the number of
            the play; ``pieces``, for an autoencoder of the residual stream, the spans (`Span`) of the text that the
            play has read by then.
    """

    vector: np.ndarray
    context: str
    affordances: tuple[bool, ...]
    meta: Mapping[str, Any] = field(default_factory=dict)


class Layout(Protocol):
    """How a task's moments become the vectors of its states; saved beside the autoencoder that reads them."""

    def to_json(self) -> dict[str, Any]:
        """Plain values from which the task rebuilds the layout exactly."""


class TextLayout(Layout, Protocol):
    """How the moments of texts become vectors, by what the policy holds at the pieces that have been read by then."""

    def vectors(
        self, rollouts: "Sequence[Rollout]", moments: "Sequence[Sequence[Sequence[Span]] | None]"
    ) -> list[np.ndarray]:
        """The moments of each completion as (n, d) float32.

        Args:
            rollouts: completions of the policy.
            moments: of each, the pieces of each of its moments; None: the task knows none, and tokens are read.
        """


Encode = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""A sparse autoencoder as a function: (n, d_in) float32 vectors to latents (n, d_sae) and reconstructions (n, d_in)."""


@dataclass(frozen=True, slots=True, eq=False)
class Activation:
    """What a model holds at a token of a text.

    Attributes:
        vector: (d_model,) float32.
        text: number of the text in its split.
        position: number of the token in the text, from 0.
        target: (d_out,) float32, what it holds there at another hook, which a transcoder predicts.
    """

    vector: np.ndarray
    text: int
    position: int
    target: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a task's verifiers say of one text.

    Attributes:
        total: weighted score in 0..1.
        components: each verifier's score in 0..1.
        valid: whether the text could be read at all.
        issues: what is wrong, each with ``path``, ``message`` and ``severity``.
        extra: further scores of the text by other standards, for the record; one may be missing where it says nothing.
        funnel: stages that a text passes one after the other; each is True only if those before it are.
    """

    total: float
    components: Mapping[str, float]
    valid: bool
    issues: tuple[Mapping[str, str], ...] = ()
    extra: Mapping[str, float] = field(default_factory=dict)
    funnel: Mapping[str, bool] = field(default_factory=dict)


class TokenMasks(NamedTuple):
    """Which tokens may stand at each place of some completions.

    Attributes:
        table: (K, W) int32: bit b of word w is token 32 w + b. The first allows every token.
        rows: (..., T) int64, the number of the mask at each token; 0 beyond the end.
    """

    table: "torch.Tensor"
    rows: "torch.Tensor"

    def to(self, device: "torch.device") -> "TokenMasks":
        """The same masks on a device."""
        return TokenMasks(self.table.to(device), self.rows.to(device))


@dataclass(frozen=True, slots=True, eq=False)
class Rollout:
    """One completion of one prompt.

    Attributes:
        prompt_ids: (prompt_length,) int64.
        completion_ids: (length,) int64, the sampled ids themselves, the end token included; never re-tokenised. Of
            several turns those of all, without the observations between them.
        logprobs: (length,) float32, log-probability of each sampled id under the sampling distribution, in nats.
        finished: whether the policy ended the text itself (False: it ran out of tokens); of several turns the last.
        text: the decoded completion without special tokens; of several turns the last.
        prompt: the prompt's text.
        columns: what the prompt carries for the rewards.
        group: index of the prompt within its batch; rollouts of one group share a prompt.
        injection: (a,) or (k, a) float32, the vectors that were injected into the prompt; None: nothing.
        messages: the prompt's messages, if it was given as such.
        masks: the tokens that a grammar allowed at each place; None: all of them.
        turns: earlier turns, each with what it was answered.
        untaken: the environment had an answer that is longer than it may be, so that no further turn was taken.
    """

    prompt_ids: "torch.Tensor"
    completion_ids: "torch.Tensor"
    logprobs: "torch.Tensor"
    finished: bool
    text: str
    prompt: str = ""
    columns: Mapping[str, Any] = field(default_factory=dict)
    group: int = 0
    injection: "torch.Tensor | None" = None
    messages: Sequence[Message] = ()
    masks: TokenMasks | None = None
    turns: tuple[Turn, ...] = ()
    untaken: bool = False

    @property
    def texts(self) -> tuple[str, ...]:
        """What the policy wrote, turn by turn."""
        return (*(turn.text for turn in self.turns), self.text)

    @property
    def last_ids(self) -> "torch.Tensor":
        """The sampled ids of the last turn."""
        return self.completion_ids[sum(turn.length for turn in self.turns) :]

    @property
    def prompt_columns(self) -> dict[str, Any]:
        """What stands before the text, as plain values: the prompt, and its messages and earlier turns, if any."""
        messages = {"messages": [dict(message) for message in self.messages]} if self.messages else {}
        turns = {"turns": [{"text": one.text, "observation": one.observation} for one in self.turns]}
        return {"prompt": self.prompt, **messages, **(turns if self.turns else {})}

    def to(self, device: "torch.device") -> "Rollout":
        """The same rollout with its tensors on ``device``; Lightning asks for it when it collects predictions."""
        names = ("prompt_ids", "completion_ids", "logprobs", "injection", "masks")
        return replace(self, **{n: value.to(device) for n in names if (value := getattr(self, n)) is not None})


@dataclass(frozen=True, slots=True, eq=False)
class ScoredRollouts:
    """The rollouts of one rollout batch on one process, as they were scored.

    Attributes:
        epoch: the cycle.
        number: the rollout batch within the cycle.
        rollouts: R of them, groups one after another.
        rewards: by name, (R,); NaN where a reward could not score.
        totals: (R,) weighted sums.
        advantages: (R,).
    """

    epoch: int
    number: int
    rollouts: Sequence[Rollout]
    rewards: Mapping[str, "torch.Tensor"]
    totals: "torch.Tensor"
    advantages: "torch.Tensor"
