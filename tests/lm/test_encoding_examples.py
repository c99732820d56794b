"""Examples as token batches."""

from typing import Any

import pytest

from lit_narrative.errors import UserError
from lit_narrative.lm.encoding import example_batch
from lit_narrative.lm.logprobs import CompletionBatch
from lit_narrative.lm.tokenizer import tokenizer_files, tokenizer_from_files
from lit_narrative.views import Example
from tests.helpers import TEXTS, tokenizer

ROWS = [Example("Write of the salt road:", TEXTS[0]), Example("A", TEXTS[2])]


def batch(**settings: Any) -> CompletionBatch:
    return example_batch(ROWS, tokenizer(), **{"limit": None, "long_examples": "error", "chat": False, **settings})


def rows(found: CompletionBatch, wanted: bool) -> list[list[int]]:
    """Ids that are targets, or those before them."""
    starts = found.targets.int().argmax(1).tolist()
    pairs = zip(found.ids, found.targets, starts, strict=True)
    return [ids[mask].tolist() if wanted else ids[:start].tolist() for ids, mask, start in pairs]


def test_the_completion_and_its_end_are_the_targets() -> None:
    found, words = batch(), tokenizer()
    assert rows(found, True) == [[*words(row.completion)["input_ids"], words.eos_token_id] for row in ROWS]
    assert rows(found, False) == [words(row.prompt)["input_ids"] for row in ROWS]


def test_a_chat_template_wraps_the_prompt_only() -> None:
    chatty = tokenizer_from_files(tokenizer_files(tokenizer()))
    chatty.chat_template = "<{{ messages[0]['content'] }}>"
    found = example_batch(ROWS, chatty, limit=None, long_examples="error", chat=True)
    assert [chatty.decode(ids) for ids in rows(found, False)] == [f"<{row.prompt}>" for row in ROWS]
    assert rows(found, True) == rows(batch(), True)


def test_a_longer_example_is_an_error_or_is_cut() -> None:
    longest = batch().ids.shape[1]
    assert batch(limit=longest).ids.tolist() == batch().ids.tolist()
    with pytest.raises(UserError, match=rf"an example of {longest} tokens .* the model's {longest - 1} positions"):
        batch(limit=longest - 1)
    cut = batch(limit=longest - 1, long_examples="truncate")
    assert cut.ids.shape[1] == longest - 1
    assert rows(cut, False) == rows(batch(), False)
    assert rows(cut, True) == [
        ids[: longest - 1 - len(p)] for ids, p in zip(rows(batch(), True), rows(batch(), False), strict=True)
    ]


def test_a_prompt_that_leaves_no_room_cannot_be_cut() -> None:
    prompt = len(tokenizer()(ROWS[0].prompt)["input_ids"])
    with pytest.raises(UserError, match="exceeds the model's"):
        batch(limit=prompt, long_examples="truncate")
