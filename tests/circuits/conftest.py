"""A tokenizer for analyses of tokens."""

import pytest
from transformers import PreTrainedTokenizerBase


@pytest.fixture
def letters() -> PreTrainedTokenizerBase:
    """One token a character, so that lengths are plain to see."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(
        models.WordLevel({"?": 0, **{chr(code): code - 31 for code in range(32, 127)}}, unk_token="?")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="?", pad_token="?")
