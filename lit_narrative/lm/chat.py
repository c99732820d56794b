"""Chat templates: the token ids of prompts and answers, as a tokenizer's own template writes them.

A prompt is a text, which is a user's turn, or a list of messages: a system turn, several turns, the user's last. One to
complete may end with an answer that is begun.
"""

import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import takewhile
from typing import Any

from transformers import PreTrainedTokenizerBase

from lit_narrative.errors import UserError, first_line
from lit_narrative.text import unicode_text
from lit_narrative.views import Conversation, check_prompt

_PROBE = "0f7c2e"  # an answer that no template writes by itself
_SYSTEM = {"role": "system", "content": "system"}
_QUESTION = {"role": "user", "content": "question"}
_LEFT_OUT = (
    "the chat template leaves out a part of a conversation, such as a system turn, or the thoughts before an answer: "
    "only what it writes is read and learned"
)
_APART = (
    "the chat template opens an answer that is given otherwise than one to be generated, or the first token of an "
    "answer runs into the prompt's last: training learns from the token at which the two part"
)


def check_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer without a chat template, or with several and no default.

    Raises:
        UserError: naming what it lacks.
    """
    if not tokenizer.chat_template:
        raise UserError(
            "model.chat=true, but the tokenizer has no chat template; set model.chat=false, or take a model that was "
            "tuned to chat, whose tokenizer brings its template"
        )
    if isinstance(tokenizer.chat_template, dict) and "default" not in tokenizer.chat_template:
        names = ", ".join(map(str, tokenizer.chat_template))
        raise UserError(
            f"model.chat=true takes the chat template 'default', and the tokenizer has: {names}; rename one"
        )


def chat_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Conversation) -> list[int]:
    """Token ids of a prompt, up to where the answer begins, or goes on where its beginning is the last message.

    Raises:
        UserError: the messages are not a prompt, or the template refuses them.
    """
    messages, begun = _to_complete(prompt)
    return _ids(tokenizer, _text(tokenizer, messages, generate=True)) + _ids(tokenizer, begun)


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
        end: the `turn_end`; without one the tokenizer's end token closes the answer.

    Raises:
        UserError: the messages are not a prompt, or the template refuses them, writes them otherwise where an answer
            follows, or leaves the answer out.
    """
    messages, answer = _messages(prompt), unicode_text(answer)
    alone = _ids(tokenizer, _text(tokenizer, messages, generate=True))
    text = _text(tokenizer, [*messages, {"role": "assistant", "content": answer}], generate=False)
    both = _ids(tokenizer, text)
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
        with suppress(UserError):  # some templates demand a system turn: the rows will show whether this one does
            answered = [*beginning, _QUESTION, {"role": "assistant", "content": _PROBE}]
            behind = _text(tokenizer, answered, generate=False).rpartition(_PROBE)[2]
            return next((token for token in _ids(tokenizer, behind) if token in known), None)
    return None


def chat_observation(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a user's turn that answers a completion, up to where the next completion begins.

    They are what the template writes behind the token that ends a turn.

    Raises:
        UserError: the template refuses a second turn, or writes it otherwise.
    """
    end = turn_end(tokenizer)
    answered = [_QUESTION, {"role": "assistant", "content": _PROBE}]
    # The first of them: a text may hold whatever the policy wrote.
    behind = _text(tokenizer, [*answered, {"role": "user", "content": text}], generate=True).partition(_PROBE)[2]
    ids = _ids(tokenizer, behind)
    if end is None:
        return ids
    if end not in ids:
        raise UserError(
            "the tokenizer's chat template does not end an answer that is not the last one as it ends the last, so "
            "that turns cannot be read as they are written; leave model.turns out, or take another template"
        )
    return ids[ids.index(end) + 1 :]


def cut_chat_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Conversation, limit: int) -> list[int]:
    """Token ids of a prompt's end, ``limit`` at most, in the template's form.

    The oldest turns go first, then the beginning of the last message, or of the answer that is begun. A system turn and
    what the template writes around the messages stay.

    Raises:
        UserError: what has to stay is longer.
    """
    messages, begun = _to_complete(prompt)
    kept, answer = [message for message in messages[:1] if message["role"] == "system"], _ids(tokenizer, begun)
    while True:
        ids = _ids(tokenizer, _text(tokenizer, messages, generate=True)) + answer
        if len(ids) <= limit:
            return ids
        if not (later := _later(messages, len(kept))):
            break
        messages = [*kept, *later]
    head, tail = (len(ids) - len(answer), 0) if answer else _around(tokenizer, messages, ids)
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
    bare = _ids(tokenizer, _text(tokenizer, [*messages[:-1], {**messages[-1], "content": ""}], generate=True))
    head = _shared(ids, bare)
    return head, _shared(ids[head:][::-1], bare[head:][::-1])


def _shared(left: Sequence[int], right: Sequence[int]) -> int:
    """Length of the longest common beginning."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(left, right, strict=False)))


def _to_complete(prompt: Conversation) -> tuple[list[dict[str, str]], str]:
    """The messages of a prompt, and the beginning of the answer to them: the assistant's last message, or nothing."""
    messages = _known(prompt)
    begun = messages.pop()["content"] if len(messages) > 1 and messages[-1]["role"] == "assistant" else ""
    return _messages(messages), begun


def _messages(prompt: Conversation) -> list[dict[str, str]]:
    messages = _known(prompt)
    if not messages or messages[-1]["role"] == "assistant":
        raise UserError("a prompt of messages ends with the turn that is to be answered, not with an assistant's")
    return messages


def _known(prompt: Conversation) -> list[dict[str, str]]:
    check_prompt(prompt)
    if isinstance(prompt, str):
        return [{"role": "user", "content": unicode_text(prompt)}]
    return [{**message, "content": unicode_text(message["content"])} for message in prompt]


def _text(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, str]], generate: bool) -> str:
    """What the template writes; ``generate``: up to where an answer begins."""
    check_template(tokenizer)
    conversation: Any = messages
    try:
        text = str(tokenizer.apply_chat_template(conversation, add_generation_prompt=generate, tokenize=False))
    except Exception as error:  # a template is a program, which may raise anything
        roles = ", ".join(message["role"] for message in messages)
        raise UserError(
            f"the tokenizer's chat template refuses a conversation of the roles {roles} ({first_line(error)}); let the "
            "task's prompts be lists of messages that it takes, or set model.chat=false"
        ) from error
    # Templates trim spaces, and may add some; from earlier answers they take the thoughts by design.
    written, known = "".join(text.split()), [m for m in messages[:-1] if m["role"] != "assistant"] + [*messages[-1:]]
    if any("".join(message["content"].split()) not in written for message in known):
        warnings.warn(_LEFT_OUT, stacklevel=2)
    return text


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    # The template writes all special tokens itself.
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
