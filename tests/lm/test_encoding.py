"""Prompts and examples as token ids: what fits, what is cut, and what is refused."""

from collections.abc import Sequence
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from lit_narrative.circuits import inputs
from lit_narrative.errors import UserError
from lit_narrative.lm.encoding import ExampleIds, ExampleReader, PromptReader
from lit_narrative.lm.logprobs import CompletionBatch
from lit_narrative.lm.tokenizer import encode_prompt, tokenizer_files, tokenizer_from_files
from lit_narrative.text import appended_tokens
from lit_narrative.views import Example, Prompt
from tests.helpers import PROMPTS, TEXTS, tokenizer

LENGTHS = [len(encode_prompt(tokenizer(), text)) for text in PROMPTS]


def reader(**settings: Any) -> PromptReader:
    return PromptReader(**{"tokenizer": tokenizer(), "positions": 128, "max_new_tokens": 8, **settings})


def rows(texts: Sequence[str] = PROMPTS) -> list[Prompt]:
    return [Prompt(text, {"index": n}) for n, text in enumerate(texts)]


def test_prompts_become_their_own_tokens() -> None:
    assert reader().encode(PROMPTS) == [encode_prompt(tokenizer(), text) for text in PROMPTS]
    assert reader().encode([]) == []


@pytest.mark.parametrize(
    ("settings", "limit"),
    [
        ({}, 120),
        ({"max_length": 30}, 30),
        ({"max_length": 120}, 120),
        ({"positions": None}, None),
        ({"positions": None, "max_length": 30}, 30),
        ({"max_new_tokens": 127}, 1),
    ],
)
def test_the_longest_prompt(settings: dict[str, Any], limit: int | None) -> None:
    assert reader(**settings).limit == limit


@pytest.mark.parametrize("budget", [128, 129, 1000])
def test_a_budget_that_leaves_no_room(budget: int) -> None:
    with pytest.raises(UserError, match=rf"max_new_tokens={budget} leaves no room .* 128 positions; lower it to 127"):
        reader(max_new_tokens=budget)


def test_prompts_and_completions_that_do_not_fit_together() -> None:
    with pytest.raises(UserError, match=r"max_prompt_length=121 plus .*max_new_tokens=8 exceeds the model's 128 pos"):
        reader(max_length=121)


def test_a_long_prompt_is_an_error_by_default() -> None:
    longest = max(LENGTHS)
    assert reader(max_length=longest).encode(PROMPTS) and reader(max_length=longest).validate_rows(rows())
    place = LENGTHS.index(longest)
    expected = (
        rf"prompt {place} \('{PROMPTS[place][:10]}.*has {longest} tokens.*max_prompt_length={longest - 1}; .*drop"
    )
    for read in (lambda r: r.encode(PROMPTS), lambda r: r.validate_rows(rows())):
        with pytest.raises(UserError, match=expected):
            read(reader(max_length=longest - 1))
    with pytest.raises(UserError, match=r"only 1 of the model's 128 positions are left by .*max_new_tokens=127"):
        reader(max_new_tokens=127).encode(PROMPTS)


def test_long_prompts_can_be_left_out() -> None:
    limit = sorted(LENGTHS)[1]
    kept = reader(max_length=limit, long_prompts="drop").validate_rows(rows())
    assert [row.columns["index"] for row in kept] == [n for n, length in enumerate(LENGTHS) if length <= limit]
    assert 1 < len(kept) < len(PROMPTS)
    with pytest.raises(UserError, match=rf"prompt .* only {limit} are allowed .*truncate_left"):
        reader(max_length=limit, long_prompts="drop").encode(PROMPTS)


def test_what_is_not_touched_is_handed_back() -> None:
    """A lazy view stays lazy."""
    given = rows()
    assert reader(long_prompts="drop").validate_rows(given) is given
    assert reader(long_prompts="truncate_left", max_length=2).validate_rows(given) is given
    assert reader().validate_rows([]) == []


def test_many_prompts_are_counted_through() -> None:
    texts = ["A"] * 1500 + [PROMPTS[3]] + ["A"] * 1500
    kept = reader(max_length=2, long_prompts="drop").validate_rows(rows(texts))
    assert [row.columns["index"] for row in kept] == [n for n in range(3001) if n != 1500]
    with pytest.raises(UserError, match=r"prompt 1500 \('A lantern"):
        reader(max_length=2).validate_rows(rows(texts))
    with pytest.raises(UserError, match=r"1 of the prompts .* prompt 2999\)"):
        reader().validate_rows(rows(["A"] * 2999 + [""]))


def test_if_all_are_too_long_nothing_is_left() -> None:
    with pytest.raises(UserError, match=r"all 2 prompts are longer than 2 tokens, and .*drop leaves none; shorten"):
        reader(max_length=2, long_prompts="drop").validate_rows(rows([PROMPTS[1], PROMPTS[3]]))


def test_long_prompts_can_lose_their_beginning() -> None:
    ids = reader(max_length=4, long_prompts="truncate_left").encode(PROMPTS)
    assert ids == [encode_prompt(tokenizer(), text)[-4:] for text in PROMPTS]
    assert {len(row) for row in ids} == {4, LENGTHS[2]}


def with_bos() -> PreTrainedTokenizerFast:
    """The tokenizer with a token that opens every text."""
    from tokenizers.processors import TemplateProcessing

    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer().backend_tokenizer.from_str(tokenizer().backend_tokenizer.to_str()),
        bos_token="<|pad|>",
        eos_token="<|end|>",
    )
    made.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|pad|> $A", special_tokens=[("<|pad|>", made.bos_token_id)]
    )
    return made


def with_ends(bos: bool) -> PreTrainedTokenizerFast:
    """The tokenizer with a token that closes every text, and perhaps one that opens it."""
    from tokenizers.processors import TemplateProcessing

    made, tokens = with_bos(), [("<|pad|>", 0), ("<|end|>", 1)]
    made.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|pad|> $A <|end|>" if bos else "$A <|end|>", special_tokens=tokens
    )
    return made


@pytest.mark.parametrize("bos", [True, False])
def test_a_prompt_never_ends_with_an_end_token_that_the_tokenizer_appends(bos: bool) -> None:
    made = with_ends(bos)
    assert made("A")["input_ids"][-1] == made.eos_token_id
    front = [made.bos_token_id] if bos else []
    plain = [[*front, *tokenizer()(text)["input_ids"]] for text in PROMPTS]
    assert reader(tokenizer=made).encode(PROMPTS) == plain
    assert [inputs.encode(made, text)[0] for text in PROMPTS] == plain
    assert reader(tokenizer=made, max_length=len(plain[3]) - 1, long_prompts="truncate_left").encode(PROMPTS[3:]) == [
        [*front, *plain[3][len(front) + 1 :]]
    ]
    found = ExampleReader(made).batch(ROWS)
    assert token_rows(found, False) == [[*front, *tokenizer()(row.prompt)["input_ids"]] for row in ROWS]
    assert token_rows(found, True) == token_rows(batch(), True)
    assert appended_tokens(made) == 1 and appended_tokens(with_bos()) == appended_tokens(tokenizer()) == 0


@pytest.mark.parametrize("limit", [1, 2, 4])
def test_a_cut_prompt_keeps_its_opening_token(limit: int) -> None:
    opened = with_bos()
    whole = encode_prompt(opened, PROMPTS[3])
    assert whole[0] == opened.bos_token_id and len(whole) == LENGTHS[3] + 1
    (ids,) = reader(tokenizer=opened, max_length=limit, long_prompts="truncate_left").encode([PROMPTS[3]])
    assert ids == [whole[0], *whole[len(whole) - limit + 1 :]]
    assert len(ids) == limit


@pytest.mark.parametrize("policy", ["error", "drop", "truncate_left"])
def test_empty_prompts_are_named(policy: str) -> None:
    texts = ["A", "", "B", ""]
    for tokens in (tokenizer(), with_bos()):  # an opening token alone is no prompt either
        made = reader(tokenizer=tokens, long_prompts=policy)
        for read in (lambda r: r.encode(texts), lambda r: r.validate_rows(rows(texts))):
            with pytest.raises(UserError, match=r"2 of the prompts have no text .* prompt 1, 3\); remove them"):
                read(made)
    with pytest.raises(UserError, match=r"9 of .* prompt 0, 1, 2, 3, 4, …\)"):
        reader().encode([""] * 9)


ROWS = [Example("Write of the salt road:", TEXTS[0]), Example("A", TEXTS[2])]


def batch(**settings: Any) -> CompletionBatch:
    return ExampleReader(tokenizer(), **settings).batch(ROWS)


def token_rows(found: CompletionBatch, wanted: bool) -> list[list[int]]:
    """Ids that are targets, or those before them."""
    starts = found.targets.int().argmax(1).tolist()
    pairs = zip(found.ids, found.targets, starts, strict=True)
    return [ids[mask].tolist() if wanted else ids[:start].tolist() for ids, mask, start in pairs]


def test_the_completion_and_its_end_are_the_targets() -> None:
    found, words = batch(), tokenizer()
    assert token_rows(found, True) == [[*words(row.completion)["input_ids"], words.eos_token_id] for row in ROWS]
    assert token_rows(found, False) == [words(row.prompt)["input_ids"] for row in ROWS]


def test_a_chat_template_wraps_the_prompt_only() -> None:
    chatty = tokenizer_from_files(tokenizer_files(tokenizer()))
    chatty.chat_template = (
        "{% for m in messages %}{{ ('<%s>' if m['role'] == 'user' else '%s') % m['content'] }}{% endfor %}"
    )
    found = ExampleReader(chatty, chat=True).batch(ROWS)
    assert [chatty.decode(ids) for ids in token_rows(found, False)] == [f"<{row.prompt}>" for row in ROWS]
    assert token_rows(found, True) == token_rows(batch(), True)


def test_a_longer_example_is_an_error_or_is_cut() -> None:
    longest = batch().ids.shape[1]
    assert batch(positions=longest).ids.tolist() == batch().ids.tolist()
    with pytest.raises(UserError, match=rf"example \d \({longest} tokens, .* the model's {longest - 1} positions"):
        batch(positions=longest - 1)
    cut = batch(positions=longest - 1, long_examples="truncate")
    assert cut.ids.shape[1] == longest - 1
    assert token_rows(cut, False) == token_rows(batch(), False)
    assert token_rows(cut, True) == [
        ids[: longest - 1 - len(p)]
        for ids, p in zip(token_rows(batch(), True), token_rows(batch(), False), strict=True)
    ]


def test_a_prompt_that_leaves_no_room_cannot_be_cut() -> None:
    prompt = len(tokenizer()(ROWS[0].prompt)["input_ids"])
    with pytest.raises(UserError, match="exceeds the model's"):
        batch(positions=prompt, long_examples="truncate")


def test_an_example_is_tokenised_once_by_its_content() -> None:
    ids = ExampleIds(tokenizer(), chat=False)
    first = ids(ROWS)
    ids.tokenizer = None  # type: ignore[assignment]
    again = ids([Example(row.prompt, row.completion, {"other": 1}) for row in reversed(ROWS)])
    assert all(
        a.equal(b) for old, new in zip(first, reversed(again), strict=True) for a, b in zip(old, new, strict=True)
    )
    with pytest.raises(TypeError):
        ids([Example(ROWS[0].prompt, ROWS[0].completion + ".")])


def test_what_exceeds_the_memory_for_ids_is_read_all_the_same() -> None:
    whole, none = ExampleIds(tokenizer(), chat=False)(ROWS), ExampleIds(tokenizer(), chat=False, most=0)
    for _ in range(2):
        assert [[part.tolist() for part in pair] for pair in none(ROWS)] == [[p.tolist() for p in w] for w in whole]


def test_lengths_are_those_of_the_rows_in_a_batch() -> None:
    for limit in (None, 23):
        made = ExampleReader(tokenizer(), max_length=limit, long_examples="truncate")
        batch = made.batch(ROWS)
        found = [int(row.nonzero().max()) + 1 for row in batch.targets]
        assert made.lengths(ROWS) == found
