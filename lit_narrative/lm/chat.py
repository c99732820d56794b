"""Chat templates: the token ids of prompts and answers, as a tokenizer's own template writes them.

A prompt is a text, which is a user's turn, or a list of messages: a system turn, several turns, the user's last.
"""

import warnings
from collections.abc import Sequence
from contextlib import suppress
from itertools import takewhile
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from lit_narrative.errors import UserError, first_line
from lit_narrative.text import unicode_text
from lit_narrative.views import Conversation

_PROBE = "0f7c2e"  # an answer that no template writes by itself
_SYSTEM = {"role": "system", "content": "system"}
_QUESTION = {"role": "user", "content": "question"}
_APART = (
    "the chat template opens an answer that is given otherwise than one to be generated, or the first token of an "
    "answer runs into the prompt's last: training learns from the token at which the two part"
)


def check_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer without a chat template.

    Raises:
        UserError: it has none.
    """
    if not tokenizer.chat_template:
        raise UserError(
            "model.chat=true, but the tokenizer has no chat template; set model.chat=false, or take a model that was "
            "tuned to chat, whose tokenizer brings its template"
        )


def chat_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Conversation) -> list[int]:
    """Token ids of a prompt, up to where the answer begins.

    Raises:
        UserError: the messages are not a prompt, or the template refuses them.
    """
    return _ids(tokenizer, _messages(prompt), generate=True)


def chat_example(
    tokenizer: PreTrainedTokenizerBase, prompt: Conversation, answer: str, end: int | None
) -> tuple[list[int], list[int]]:
    """Token ids of a prompt, and of the answer with all that the template writes behind it.

    They are the template's for both together. The answer begins where they part from those of the prompt alone, as in
    TRL's SFTTrainer.

    Args:
        tokenizer: with a chat template.
        prompt: a text or messages.
        answer: the assistant's text.
        end: the :func:`turn_end`; without one the tokenizer's end token closes the answer.

    Raises:
        UserError: the messages are not a prompt, or the template refuses them, writes them otherwise where an answer
            follows, or leaves the answer out.
    """
    messages = _messages(prompt)
    alone = _ids(tokenizer, messages, generate=True)
    both = _ids(tokenizer, [*messages, {"role": "assistant", "content": unicode_text(answer)}], generate=False)
    start = _shared(alone, both)
    if answer and start == len(both):
        raise UserError("the tokenizer's chat template leaves out an assistant's answer; take another tokenizer")
    if start < len(alone):
        if start < len(alone) - _around(tokenizer, messages, alone)[1]:
            raise UserError(
                "the tokenizer's chat template writes a prompt otherwise when an answer follows (it leaves out the "
                "system turn, say), so that answers would be learned to prompts that are never asked; change the "
                "template, or let the prompts be without such turns"
            )
        warnings.warn(_APART, stacklevel=2)
    return both[:start], both[start:] if end is not None else [*both[start:], tokenizer.eos_token_id]


def turn_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token with which the template ends an answer: the first added token that it writes behind one, None without.

    Raises:
        UserError: the tokenizer has no chat template.
    """
    check_template(tokenizer)
    known = {*tokenizer.added_tokens_decoder, *tokenizer.all_special_ids}
    for beginning in ([], [_SYSTEM]):
        with suppress(TemplateError):  # some templates demand a system turn: the rows will show whether this one does
            answered = [*beginning, _QUESTION, {"role": "assistant", "content": _PROBE}]
            behind = str(tokenizer.apply_chat_template(answered, tokenize=False)).rpartition(_PROBE)[2]
            ids: list[int] = tokenizer(behind, add_special_tokens=False)["input_ids"]
            return next((token for token in ids if token in known), None)
    return None


def cut_chat_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Conversation, limit: int) -> list[int]:
    """Token ids of a prompt's end, ``limit`` at most, in the template's form.

    The oldest turns go first, then the beginning of the last message. A system turn and what the template writes
    around the messages stay.

    Raises:
        UserError: what has to stay is longer.
    """
    messages = _messages(prompt)
    kept = [message for message in messages[:1] if message["role"] == "system"]
    while len(ids := _ids(tokenizer, messages, generate=True)) > limit and (later := _later(messages, len(kept))):
        messages = [*kept, *later]
    if len(ids) <= limit:
        return ids
    head, tail = _around(tokenizer, messages, ids)
    if head + tail >= limit:
        raise UserError(
            f"a prompt may have {limit} tokens, and the chat template writes {head + tail} around its text, of which "
            "nothing would be left; raise model.max_prompt_length or lower model.sampling.max_new_tokens"
        )
    return ids[:head] + ids[len(ids) - (limit - head) :]


def _later(messages: Sequence[dict[str, str]], first: int) -> Sequence[dict[str, str]]:
    """The messages from the second user's turn on; none without one. The first ``first`` do not count."""
    users = [n for n, message in enumerate(messages) if n > first and message["role"] == "user"]
    return messages[users[0] :] if users else ()


def _around(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], ids: Sequence[int]) -> tuple[int, int]:
    """Of a prompt's token ids, how many stand before the text of its last message, and how many behind it."""
    bare = _ids(tokenizer, [*messages[:-1], {**messages[-1], "content": ""}], generate=True)
    head = _shared(ids, bare)
    return head, _shared(ids[head:][::-1], bare[head:][::-1])


def _shared(left: Sequence[int], right: Sequence[int]) -> int:
    """Length of the longest common beginning."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(left, right, strict=False)))


def _messages(prompt: Conversation) -> list[dict[str, str]]:
    if isinstance(prompt, str):
        return [{"role": "user", "content": unicode_text(prompt)}]
    for message in prompt:
        if not isinstance(message.get("role"), str) or not isinstance(message.get("content"), str):
            raise UserError(f"a message of a prompt needs a role and a content, both texts: {dict(message)!r:.200}")
    if not prompt or prompt[-1]["role"] == "assistant":
        raise UserError("a prompt of messages ends with the turn that is to be answered, not with an assistant's")
    return [{**message, "content": unicode_text(message["content"])} for message in prompt]


def _ids(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], generate: bool) -> list[int]:
    check_template(tokenizer)
    try:
        encoded: Any = tokenizer.apply_chat_template(messages, add_generation_prompt=generate, return_dict=True)
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        raise UserError(
            f"the tokenizer's chat template refuses a conversation of the roles {roles} ({first_line(error)}); let the "
            "task's prompts be lists of messages that it takes, or set model.chat=false"
        ) from error
    return list(encoded["input_ids"])
