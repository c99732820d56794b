"""Examples as token batches."""

from collections.abc import Sequence
from typing import Literal

from transformers import PreTrainedTokenizerBase

from lit_narrative.errors import UserError
from lit_narrative.lm.logprobs import CompletionBatch, completion_batch
from lit_narrative.lm.tokens import encode_completion, encode_prompt
from lit_narrative.views import Example

LongExamples = Literal["error", "truncate"]


def example_batch(
    rows: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    *,
    limit: int | None,
    long_examples: LongExamples,
    chat: bool,
) -> CompletionBatch:
    """Tokenise examples into one right-padded batch.

    Args:
        rows: the examples.
        tokenizer: the model's.
        limit: the model's positions; None if it has no limit.
        long_examples: whether a longer example is an error or is cut on the right.
        chat: wrap prompts as a user's turn.

    Raises:
        UserError: an example is too long, and may not or cannot be cut.
    """
    prompts = [encode_prompt(tokenizer, row.prompt, chat) for row in rows]
    completions = [encode_completion(tokenizer, row.completion) for row in rows]
    for number, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        length = len(prompt) + len(completion)
        if limit is None or length <= limit:
            continue
        if long_examples == "error" or len(prompt) >= limit:
            raise UserError(
                f"an example of {length} tokens (prompt {len(prompt)}) exceeds the model's {limit} positions; shorten "
                "it, use a model with more positions, or set model.long_examples=truncate"
            )
        completions[number] = completion[: limit - len(prompt)]
    return completion_batch(prompts, completions)
