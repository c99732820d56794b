"""Grammars: which tokens may come next, so that every text that is sampled is one of a language.

The mask belongs to the distribution. Logits of tokens that may not come are -inf when a token is drawn, and wherever
its log-probability is computed later, so that a policy learns the distribution that it samples from.

llguidance computes the masks: a parser in Rust that reads JSON Schemas, works with any tokenizer byte by byte, and
needs milliseconds for a grammar, so that each prompt may bring its own.

Notation: R rows, T longest completion, V tokens that the model has logits for, W = V / 32 rounded up, K masks.
"""

import json
import os
import re
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from lit_narrative.errors import UserError
from lit_narrative.files import decode_json, read_utf8
from lit_narrative.lm.load import base_lm, end_ids
from lit_narrative.lookup import shipped_grammars
from lit_narrative.views import Prompt, TokenMasks

if TYPE_CHECKING:
    from llguidance import LLExecutor, LLMatcher, LLTokenizer

PROMPT = "prompt"
"""The grammar of each prompt: its column `grammar`."""
LARGEST = 1_000_000
"""Characters of a schema at most."""
_ESCAPED = re.compile(r"\\.")


def unpack(packed: torch.Tensor, vocab: int) -> torch.Tensor:
    """Masks (n, W) as (n, V) bool."""
    bits = packed.unsqueeze(-1) >> torch.arange(32, dtype=torch.int32, device=packed.device)
    return (bits & 1).flatten(1)[:, :vocab].bool()


def join_masks(masks: Sequence[TokenMasks | None]) -> TokenMasks | None:
    """Masks of completions side by side, (R, T); None where no completion has any.

    Raises:
        UserError: some have, and some have not.
    """
    known = [one for one in masks if one is not None]
    if not known:
        return None
    if len(known) < len(masks):
        raise UserError("some completions were sampled by a grammar and some without; sample all of them alike")
    table, starts = _one_table(known)
    rows = [one.rows + starts[id(one.table)] for one in known]
    return TokenMasks(table, torch.nn.utils.rnn.pad_sequence(rows, batch_first=True))


def join_turns(parts: Sequence[Sequence[TokenMasks]]) -> list[TokenMasks]:
    """Masks of completions, each of the masks of its turns one behind the other; all share one table."""
    table, starts = _one_table([one for turns in parts for one in turns])
    return [TokenMasks(table, torch.cat([one.rows + starts[id(one.table)] for one in turns])) for turns in parts]


def _one_table(masks: Sequence[TokenMasks]) -> tuple[torch.Tensor, dict[int, int]]:
    """The tables of masks, each once, in one; and where each of them begins, by its `id`."""
    tables = {id(one.table): one.table for one in masks}
    starts, start = {}, 0
    for key, table in tables.items():
        starts[key], start = start, start + len(table)
    return torch.cat([*tables.values()]), starts


def read_grammar(name: str) -> str:
    """The JSON Schema of a name or a file, as text.

    Raises:
        UserError: there is none, or it is no JSON object.
    """
    path = shipped_grammars().get(name, Path(name))
    if not path.is_file():  # a folder is none either
        known = ", ".join([*shipped_grammars(), PROMPT])
        raise UserError(
            f"model.sampling.grammar: there is no file '{name}' (looked in {path.resolve().parent}); give a JSON "
            f"Schema, or one of: {known}"
        )
    text = read_utf8(path)
    if not isinstance(decode_json(text, str(path)), dict):
        raise UserError(f"model.sampling.grammar: {path} is not a JSON Schema, an object")
    return text


class Constraint:
    """The grammars of completions that are sampled side by side.

    Args:
        grammar: of `SamplingParams.grammar`.
        prompts: the prompt of each completion, R.
        tokenizer: of the model.
        vocab: V.
        ends: ids that end a text, allowed where the grammar lets it end.
        steps: T.

    Raises:
        UserError: there is no such grammar, the tokenizer cannot write it, or it does not end within T tokens.
    """

    def __init__(
        self,
        grammar: str,
        prompts: Sequence[Prompt],
        tokenizer: PreTrainedTokenizerBase,
        vocab: int,
        ends: Sequence[int],
        steps: int,
    ) -> None:
        texts = [read_grammar(grammar)] * len(prompts) if grammar != PROMPT else [_of_prompt(one) for one in prompts]
        self.vocab, self.ends = vocab, tuple(ends)
        made = {text: _matcher(text, grammar, tokenizer, vocab, self.ends) for text in dict.fromkeys(texts)}
        # Grammars of prompts are alike, so that one of them shows what the tokenizer can write and how long it gets.
        check_grammar(texts[0], grammar, tokenizer, vocab, self.ends, steps)
        self.matchers = [made[text].deep_copy() for text in texts]
        self.table = [np.full(-(-vocab // 32), -1, dtype=np.int32)]
        self.known = {self.table[0].tobytes(): 0}
        self.places, self.numbers = np.arange(len(texts)), np.zeros((len(texts), steps), dtype=np.int64)
        self.step = 0
        self.pending = self._begin(None)

    def allow(self, logits: torch.Tensor) -> torch.Tensor:
        """The logits (rows, V) of the next tokens, set to -inf where a token may not come."""
        return logits.masked_fill_(torch.from_numpy(self.pending.result()).to(logits.device), -torch.inf)

    def advance(self, tokens: torch.Tensor) -> None:
        """Read the tokens (rows,) that were drawn, and begin to compute what may follow, beside the model's work."""
        self.step += 1
        self.pending = self._begin(tokens.tolist())

    def select(self, rows: torch.Tensor) -> None:
        """Keep only ``rows``; the next call is `advance`."""
        kept = rows.tolist()
        self.matchers, self.places = [self.matchers[row] for row in kept], self.places[kept]

    @property
    def masks(self) -> TokenMasks:
        """Of all completions, (R, T)."""
        return TokenMasks(torch.from_numpy(np.stack(self.table)), torch.from_numpy(self.numbers))

    def _begin(self, tokens: Sequence[int] | None) -> "Future[np.ndarray]":
        thread, executor = _workers(os.getpid())
        return thread.submit(self._refused, executor, tokens)

    def _refused(self, executor: "LLExecutor", tokens: Sequence[int] | None) -> np.ndarray:
        """The tokens (rows, V) bool that may not come, once ``tokens`` were read; notes the masks of this step."""
        from llguidance.numpy import consume_token_par, fill_next_token_bitmask_par

        # All that takes long runs without Python's lock, so that the model's thread goes on.
        if tokens is not None:  # a text that has ended takes no more, and says nothing of it
            consume_token_par(executor, [*zip(self.matchers, tokens, strict=True)])
        packed = np.zeros((len(self.matchers), len(self.table[0])), dtype=np.int32)
        fill_next_token_bitmask_par(executor, [*zip(self.matchers, range(len(packed)), strict=True)], packed)
        if not (full := packed.any(1)).all():
            # The parser gave up on a text that is too complex for it: it has to end here.
            packed[~full] = _only(self.ends, packed.shape[1])
        keys: list[bytes] = packed.view(np.dtype((np.void, packed.strides[0]))).ravel().tolist()  # type: ignore[assignment]
        numbers = [self.known.get(key, -1) for key in keys]
        if -1 in numbers:
            numbers = [self._number(*row) for row in zip(keys, packed, strict=True)]
        self.numbers[self.places, self.step] = numbers
        return np.unpackbits((~packed).view(np.uint8), axis=1, count=self.vocab, bitorder="little").view(np.bool_)

    def _number(self, key: bytes, mask: np.ndarray) -> int:
        """The number of a mask in the table."""
        number = self.known.setdefault(key, len(self.table))
        if number == len(self.table):
            self.table.append(mask.copy())
        return number


def _of_prompt(prompt: Prompt) -> str:
    """The grammar of a prompt.

    Raises:
        UserError: it has none.
    """
    match prompt.columns.get("grammar"):
        case str(text):
            return text
        case dict(schema):
            return json.dumps(schema)
        case other:
            raise UserError(
                f"model.sampling.grammar={PROMPT}: a prompt's column `grammar` holds {other!r:.80}, and not a JSON "
                "Schema; set it in the task's data, or name a grammar"
            )


@lru_cache(maxsize=8)
def _parser(tokenizer: PreTrainedTokenizerBase, vocab: int, ends: tuple[int, ...]) -> "LLTokenizer":
    """The tokenizer as llguidance reads it; a second for a large one.

    Raises:
        UserError: it is not a fast tokenizer of a kind that llguidance knows, or has no end.
    """
    from llguidance.hf import from_tokenizer

    # llguidance reads the bytes of other kinds (words, WordPiece) wrongly, and says nothing of it.
    kind = type(tokenizer.backend_tokenizer.model).__name__ if tokenizer.is_fast else "slow"  # type: ignore[attr-defined]
    if kind not in ("BPE", "Unigram") or not ends:
        raise UserError(
            f"model.sampling.grammar needs a tokenizer of kind BPE or Unigram (in tokenizer.json) with an end token; "
            f"this is one of kind {kind}{'' if ends else ', without an end'}"
        )
    return from_tokenizer(tokenizer, vocab, list(ends))  # type: ignore[arg-type] # it is a fast one


@lru_cache(maxsize=1024)
def _matcher(
    text: str, name: str, tokenizer: PreTrainedTokenizerBase, vocab: int, ends: tuple[int, ...]
) -> "LLMatcher":
    """A grammar at its beginning; the caller copies it.

    Raises:
        UserError: it is none, or too large.
    """
    from llguidance import LLMatcher

    where = f"model.sampling.grammar '{name}'"
    if len(text) > LARGEST:
        raise UserError(f"{where} has {len(text)} characters; at most {LARGEST} are read")
    parser = _parser(tokenizer, vocab, ends)
    try:
        matcher = LLMatcher(parser, LLMatcher.grammar_from_json_schema(text), log_level=0)
    except ValueError as error:
        raise UserError(f"{where} is not a JSON Schema: {error}") from error
    if matcher.is_error():
        raise UserError(f"{where} cannot be used: {matcher.get_error():.300}")
    return matcher


def check_named(name: str, lm: nn.Module, tokenizer: PreTrainedTokenizerBase, steps: int) -> None:
    """Check a grammar before a run; those of prompts are looked at when they are asked for.

    Raises:
        UserError: it cannot be used with this model.
    """
    if name != PROMPT:
        vocab = base_lm(lm).config.get_text_config().vocab_size
        check_grammar(read_grammar(name), name, tokenizer, vocab, tuple(end_ids(lm, tokenizer)), steps)


@lru_cache(maxsize=1024)
def check_grammar(
    text: str, name: str, tokenizer: PreTrainedTokenizerBase, vocab: int, ends: tuple[int, ...], steps: int
) -> None:
    """Write a short text of a grammar, by closing whatever may be closed.

    Raises:
        UserError: there is a place where the tokenizer has no token, or the text does not end within ``steps`` tokens.
    """
    from llguidance.numpy import fill_next_token_bitmask

    where = f"model.sampling.grammar '{name}'"
    matcher = _matcher(text, name, tokenizer, vocab, ends).deep_copy()
    packed = np.zeros((1, -(-vocab // 32)), dtype=np.int32)
    texts, orders = _closing_orders(tokenizer)
    written, in_string = "", False
    for _ in range(steps):
        fill_next_token_bitmask(matcher, packed)
        allowed = unpack(torch.from_numpy(packed), vocab)[0]
        if matcher.is_accepting() and allowed[list(ends)].any():
            return
        order = orders[in_string]
        choices = order[allowed[order]]
        # In a dead end llguidance reports an error, and asks for the end token.
        if matcher.is_error() or not len(choices):
            raise UserError(
                f"{where} cannot be written with this tokenizer: behind {written[-60:]!r} it has no token that fits"
            )
        text = texts[int(choices[0])]
        written, in_string = written + text, in_string != bool(_ESCAPED.sub("", text).count('"') % 2)
        matcher.consume_token(int(choices[0]))
    raise UserError(
        f"{where}: no text of it was found that ends within model.sampling.max_new_tokens={steps} tokens; raise that, "
        f"or let the schema ask for less (tried: {written[:200]!r})"
    )


@lru_cache(maxsize=8)
def _closing_orders(tokenizer: PreTrainedTokenizerBase) -> tuple[list[str], tuple[torch.Tensor, torch.Tensor]]:
    """The text of each token, and the order in which to try them outside and inside of a string.

    First come those that close what is open, objects and lists or else the string, and open least.
    """

    def outside(text: str) -> int:
        return sum(map(text.count, "]}")) - 4 * sum(map(text.count, '{[,:"'))

    def inside(text: str) -> int:
        return 100 + outside(text[1:]) if text.startswith('"') else -len(text)

    texts = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
    orders = [torch.tensor([score(text) for text in texts]) for score in (outside, inside)]
    return texts, tuple(one.argsort(descending=True, stable=True) for one in orders)  # type: ignore[return-value]


@lru_cache(maxsize=1)
def _workers(process: int) -> tuple[ThreadPoolExecutor, "LLExecutor"]:
    """The thread that waits for masks, and that of llguidance which computes them, without Python's lock.

    Args:
        process: this one's id; threads do not come along with a fork.
    """
    from llguidance import LLExecutor

    return ThreadPoolExecutor(1, "grammar"), LLExecutor(num_threads=1)  # for so little work more threads cost time


def _only(ids: Sequence[int], words: int) -> np.ndarray:
    """The mask (W,) of some tokens."""
    mask = np.zeros(words, dtype=np.uint32)
    for token in ids:
        mask[token // 32] |= np.uint32(1 << token % 32)
    return mask.view(np.int32)
