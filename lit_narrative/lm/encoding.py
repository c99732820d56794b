"""Prompts, and examples of prompt and completion, as token ids that fit the model.

A prompt is *long* if it has more tokens than `PromptReader.limit`. By the user's setting a long prompt is an
error, is left out of the data before training begins, or loses its beginning. An example that is longer than
`ExampleReader.limit` is an error, is left out, or is cut on the right. Nothing is cut without being asked for.
"""

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from typing import Literal, TypeVar

import torch
from transformers import PreTrainedTokenizerBase

from lit_narrative.errors import UserError
from lit_narrative.lm.chat import chat_example, chat_prompt, cut_chat_prompt, turn_end
from lit_narrative.lm.logprobs import CompletionBatch, completion_batch
from lit_narrative.lm.tokenizer import encode_completions, encode_prompts
from lit_narrative.lm.turns import TurnSettings, observation_ids
from lit_narrative.views import Conversation, Example, Prompt, check_prompt, plain_prompt, prompt_text

Row = TypeVar("Row")
LongPrompts = Literal["error", "drop", "truncate_left"]
_BLOCK = 1024  # rows that are tokenised together
_NAMED = 5  # prompts that an error lists


@dataclass(frozen=True)
class PromptReader:
    """Converts prompts to token ids for one model and one length of completions.

    Args:
        tokenizer: the model's.
        positions: the model's; None if it has no limit.
        max_new_tokens: longest completion.
        max_length: longest prompt in tokens; None: what the positions leave beside the completion.
        long_prompts: treatment of a longer one. ``truncate_left`` keeps its last tokens, and its first one if that is
            the tokenizer's BOS token; with ``chat`` all that the template writes around them, too.
        chat: write prompts by the tokenizer's chat template; only then may they be messages.
        turns: of a completion, all of which have to fit; None: one.

    Raises:
        UserError: completions, or prompts and completions, do not fit the positions.
    """

    tokenizer: PreTrainedTokenizerBase
    positions: int | None
    max_new_tokens: int
    max_length: int | None = None
    long_prompts: LongPrompts = "error"
    chat: bool = False
    turns: TurnSettings | None = None

    def __post_init__(self) -> None:
        if self.positions is None:
            return
        if self._behind >= self.positions:
            lower = f"it to {self.positions - 1} or less" if self.turns is None else "one of them"
            raise UserError(
                f"{self._lengths} leaves no room for a prompt in the model's {self.positions} positions; lower "
                f"{lower}, or take a model with more positions"
            )
        if self.max_length is not None and self.max_length + self._behind > self.positions:
            raise UserError(
                f"model.max_prompt_length={self.max_length} plus {self._lengths} exceeds the model's {self.positions} "
                "positions; lower one of them"
            )

    @property
    def _behind(self) -> int:
        """Tokens behind a prompt at most."""
        return self.max_new_tokens if self.turns is None else self.max_new_tokens * self.turns.most + self.turns.tokens

    @property
    def _lengths(self) -> str:
        each = f"model.sampling.max_new_tokens={self.max_new_tokens}"
        if self.turns is None:
            return each
        between = f"observations of model.turns.observation_tokens={self.turns.observation_tokens}"
        return f"{each} in model.turns.most={self.turns.most} turns, with {between} between them"

    @property
    def limit(self) -> int | None:
        """Longest prompt in tokens; None if nothing limits it."""
        if self.max_length is not None or self.positions is None:
            return self.max_length
        return self.positions - self._behind

    def encode(self, prompts: Sequence[Conversation]) -> list[list[int]]:
        """Token ids of prompts.

        Raises:
            UserError: a prompt is empty, or too long and may not be cut.
        """
        rows = self._tokenize(prompts)
        self._check_empty(prompts, rows)
        if self.limit is None:
            return rows
        for index, row in enumerate(rows):
            if len(row) > self.limit:
                rows[index] = self._cut(index, prompts[index], row, self.limit)
        return rows

    def validate_rows(self, prompts: Sequence[Prompt]) -> Sequence[Prompt]:
        """The prompts that can be completed, in order.

        Raises:
            UserError: a prompt is empty, too long and may neither be cut nor left out, or all are too long.
        """
        none = f"longer than {self.limit} tokens, and model.long_prompts=drop leaves none; {self._remedy}"
        return _kept(prompts, self._usable, f"prompts are {none}")

    def _usable(self, block: Sequence[Prompt], first: int) -> Iterator[bool]:
        texts = [prompt.text for prompt in block]
        rows = self._tokenize(texts)
        self._check_empty(texts, rows, first)
        for index, (prompt, row) in enumerate(zip(block, rows, strict=True), first):
            if self.limit is not None and len(row) > self.limit:
                if self.long_prompts == "drop":
                    yield False
                    continue
                self._cut(index, prompt.text, row, self.limit)  # fails where it may not, or cannot be
            yield True

    def _tokenize(self, prompts: Sequence[Conversation]) -> list[list[int]]:
        if self.chat:
            return [chat_prompt(self.tokenizer, prompt) for prompt in prompts]
        return encode_prompts(self.tokenizer, [*map(plain_prompt, prompts)])

    def _check_empty(self, prompts: Sequence[Conversation], rows: Sequence[Sequence[int]], first: int = 0) -> None:
        # A prompt without text may still have a token: some tokenizers add BOS.
        empty = [index for index, row in enumerate(rows, first) if not row or not prompt_text(prompts[index - first])]
        if empty:
            numbers = ", ".join(map(str, empty[:_NAMED])) + (", …" if len(empty) > _NAMED else "")
            raise UserError(
                f"{len(empty)} of the prompts have no text to continue (counted from 0: prompt {numbers}); remove "
                "them, or give them a text: a line break will do to write from nothing"
            )

    def _cut(self, index: int, prompt: Conversation, row: list[int], limit: int) -> list[int]:
        if self.long_prompts != "truncate_left":
            raise self._too_long(index, prompt, len(row))
        if self.chat:
            return cut_chat_prompt(self.tokenizer, prompt, limit)
        first = row[:1] if row[0] == self.tokenizer.bos_token_id else []
        return first + row[len(row) - limit + len(first) :]

    def _too_long(self, index: int, prompt: Conversation, length: int) -> UserError:
        beginning = " ".join(prompt_text(prompt)[:60].split())
        return UserError(
            f"prompt {index} ('{beginning}…') has {length} tokens, and only {self.limit} {self._reason}; {self._remedy}"
        )

    @property
    def _reason(self) -> str:
        if self.max_length is not None:
            return f"are allowed by model.max_prompt_length={self.max_length}"
        return f"of the model's {self.positions} positions are left by {self._lengths.removeprefix('model.')}"

    @property
    def _remedy(self) -> str:
        change = "raise it" if self.max_length is not None else "lower max_new_tokens"
        other = {"error": "drop or truncate_left", "drop": "truncate_left", "truncate_left": "drop"}[self.long_prompts]
        return f"shorten the prompt, {change}, or set model.long_prompts={other}"


class _Chosen(Sequence[Row]):
    """Some rows of a sequence, in order; none is made before it is asked for."""

    def __init__(self, rows: Sequence[Row], numbers: Sequence[int]) -> None:
        self.rows, self.numbers = rows, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Row:  # type: ignore[override]
        return self.rows[self.numbers[index]]


def _kept(rows: Sequence[Row], usable: Callable[[Sequence[Row], int], Iterable[bool]], none_left: str) -> Sequence[Row]:
    """The rows that can be used, in order; the very same sequence where all can.

    Args:
        rows: of any number; they are not kept in memory.
        usable: (a block of rows, the number of its first one) -> for each whether it can be used.
        none_left: what is said of all of them if none can.

    Raises:
        UserError: there are rows, and none can be used.
    """
    numbers, total = array("q"), 0
    for block in _blocks(rows):
        numbers.extend(number for number, good in enumerate(usable(block, total), total) if good)
        total += len(block)
    if total and not numbers:
        raise UserError(f"all {total} {none_left}")
    return _Chosen(rows, numbers) if len(numbers) < total else rows


def _blocks(rows: Sequence[Row]) -> Iterator[list[Row]]:
    left = iter(rows)
    while block := list(islice(left, _BLOCK)):
        yield block


LongExamples = Literal["error", "drop", "truncate"]


@dataclass(frozen=True)
class ExampleReader:
    """Converts examples to token ids for one model; each is tokenised once (`ExampleIds`).

    Args:
        tokenizer: the model's.
        positions: the model's; None if it has no limit.
        max_length: longest example in tokens, prompt and completion together; None: the positions.
        long_examples: treatment of a longer one. ``truncate`` cuts the end of its completion.
        chat: write prompt and completion by the tokenizer's chat template.

    Raises:
        UserError: ``max_length`` exceeds the positions.
    """

    tokenizer: PreTrainedTokenizerBase
    positions: int | None = None
    max_length: int | None = None
    long_examples: LongExamples = "error"
    chat: bool = False
    _known: "ExampleIds" = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_known", ExampleIds(self.tokenizer, self.chat))
        if self.positions is not None and (self.max_length or 0) > self.positions:
            raise UserError(
                f"model.max_length={self.max_length} exceeds the model's {self.positions} positions; lower it, or "
                "leave it out"
            )

    @property
    def limit(self) -> int | None:
        """Longest example in tokens; None if nothing limits it."""
        return self.positions if self.max_length is None else self.max_length

    def batch(self, rows: Sequence[Example]) -> CompletionBatch:
        """One right-padded batch of examples.

        Raises:
            UserError: an example has no token before its completion, or is too long and may not or cannot be cut.
        """
        prompts, completions = map(list, zip(*self._known(rows), strict=True))
        for number, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            if self._too_long(number, prompt, completion):
                if self.long_examples == "drop":  # it should not have come here
                    raise self._refusal(number, prompt, completion)
                completions[number] = completion[: self.limit - len(prompt)]  # type: ignore[operator]
        return completion_batch(prompts, completions, [row.injection for row in rows])

    def lengths(self, rows: Sequence[Example]) -> list[int]:
        """Tokens of each example in a batch.

        Raises:
            UserError: an example cannot be written as tokens.
        """
        totals = [len(prompt) + len(completion) for block in _blocks(rows) for prompt, completion in self._known(block)]
        return totals if self.limit is None else [min(total, self.limit) for total in totals]

    def validate_rows(self, rows: Sequence[Example]) -> tuple[Sequence[Example], int]:
        """The examples that can be used, in order, and how many are too long: cut, or not among them.

        Raises:
            UserError: as for `batch`, or all are too long and are to be dropped.
        """
        long: list[bool] = []

        def usable(block: Sequence[Example], first: int) -> list[bool]:
            found = [self._too_long(number, *pair) for number, pair in enumerate(self._known(block), first)]
            long.extend(found)
            return [not one or self.long_examples == "truncate" for one in found]

        none = f"longer than {self.limit} tokens, and model.long_examples=drop leaves none; {self._remedy}"
        return _kept(rows, usable, f"examples are {none}"), sum(long)

    def _too_long(self, number: int, prompt: torch.Tensor, completion: torch.Tensor) -> bool:
        """Whether an example is to be cut or dropped."""
        if not len(prompt):
            raise UserError(
                f"example {number} has an empty prompt, and the tokenizer begins texts with no token of its own, from "
                "which its completion could be predicted; give it a prompt (a line break will do), or leave it out"
            )
        if self.limit is None or len(prompt) + len(completion) <= self.limit:
            return False
        cannot = self.long_examples == "truncate" and len(prompt) >= self.limit
        if cannot or self.long_examples == "error":
            raise self._refusal(number, prompt, completion)
        return True

    def _refusal(self, number: int, prompt: torch.Tensor, completion: torch.Tensor) -> UserError:
        most = f"model.max_length={self.max_length}" if self.max_length else f"the model's {self.positions} positions"
        return UserError(
            f"example {number} ({len(prompt) + len(completion)} tokens, prompt {len(prompt)}) exceeds {most}; "
            f"{self._remedy}"
        )

    @property
    def _remedy(self) -> str:
        longer = "use a model with more positions (model.model.positions of one that is built)"
        change = "raise it" if self.max_length is not None else longer
        other = {"error": "truncate or drop", "drop": "truncate", "truncate": "drop"}[self.long_examples]
        return f"shorten it, {change}, or set model.long_examples={other}"


class ExampleIds:
    """Token ids of examples by their content, so that an example is tokenised once however often it is read.

    Args:
        tokenizer: of the ids.
        chat: see `example_ids`.
        most: tokens that are kept, 4 bytes each; examples beyond are tokenised whenever they are read.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, chat: bool, most: int = 2**25) -> None:
        self.tokenizer, self.chat, self.left = tokenizer, chat, most
        self._known: dict[bytes, tuple[torch.Tensor, torch.Tensor]] = {}

    def __call__(self, rows: Sequence[Example]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Token ids of each example's prompt and completion, int32.

        Raises:
            UserError: see `example_ids`.
        """
        keys = [example_key(row) for row in rows]
        new = {key: row for key, row in zip(keys, rows, strict=True) if key not in self._known}
        pairs = zip(*example_ids([*new.values()], self.tokenizer, self.chat), strict=True)
        read = {key: (_int32(prompt), _int32(completion)) for key, (prompt, completion) in zip(new, pairs, strict=True)}
        found = [read[key] if key in read else self._known[key] for key in keys]
        for key, pair in read.items():
            self.left -= sum(map(len, pair))
            if self.left < 0:
                break
            self._known[key] = pair
        return found


def _check_completion(completion: object) -> None:
    """Refuse what is no text.

    Raises:
        UserError: showing what was given.
    """
    if not isinstance(completion, str):
        raise UserError(
            f"the completion of an example is a text, in a chat the assistant's, and not {completion!r:.200}"
        )


def example_key(row: Example) -> bytes:
    """A key of an example's content; not the texts themselves, which would stay in memory."""
    check_prompt(row.prompt)
    _check_completion(row.completion)
    prompt = row.prompt if isinstance(row.prompt, str) else [dict(message) for message in row.prompt]
    return blake2b(repr((prompt, row.completion, row.turns)).encode(), digest_size=16).digest()


def _int32(ids: Sequence[int]) -> torch.Tensor:
    return torch.tensor(ids, dtype=torch.int32)


def example_ids(
    rows: Sequence[Example], tokenizer: PreTrainedTokenizerBase, chat: bool
) -> tuple[list[list[int]], list[list[int]]]:
    """Token ids of the prompts of examples, and of their completions with what ends these.

    Earlier turns stand behind the prompt as a rollout has them: text, end, observation.

    Raises:
        UserError: a prompt is one of messages without ``chat``, or one that the chat template refuses; or a completion
            is no text.
    """
    for row in rows:
        _check_completion(row.completion)
    prompts, completions = _pairs(rows, tokenizer, chat)
    turns = [(number, turn) for number, row in enumerate(rows) for turn in row.turns]
    if not turns:
        return prompts, completions
    end = turn_end(tokenizer) if chat else None
    _, texts = _pairs([Example(rows[number].prompt, turn.text) for number, turn in turns], tokenizer, chat)
    for (number, turn), ids in zip(turns, texts, strict=True):
        # As they are sampled: a text ends with the token that ends a turn, whatever a template writes behind it.
        written = ids[: ids.index(end) + 1] if end in ids else ids
        prompts[number] = [*prompts[number], *written, *observation_ids(tokenizer, turn.observation, chat)]
    return prompts, completions


def _pairs(
    rows: Sequence[Example], tokenizer: PreTrainedTokenizerBase, chat: bool
) -> tuple[list[list[int]], list[list[int]]]:
    """Token ids of prompts and of completions, earlier turns left out."""
    if chat:
        end = turn_end(tokenizer)
        pairs = [chat_example(tokenizer, row.prompt, row.completion, end) for row in rows]
        return [prompt for prompt, _ in pairs], [completion for _, completion in pairs]
    prompts = encode_prompts(tokenizer, [plain_prompt(row.prompt) for row in rows])
    return prompts, encode_completions(tokenizer, [row.completion for row in rows])
