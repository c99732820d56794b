"""Sentence numbers of real text under real tokenizers."""

import itertools

import pytest
import torch
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from lit_narrative.lm.sentences import edge_table, sentence_ids
from lit_narrative.lm.tokenizer import TrainedTokenizer, pad_right, train_tokenizer

TWAIN = [
    "You don’t know about me without you have read a book by the name of The Adventures of Tom Sawyer; but that ain’t"
    " no matter. ",
    "That book was made by a man, and he told the truth, mainly.\n\n",
    "“Say, who is you? ",
    "Whar is you? ",
    "Dog my cats ef I didn’ hear sumf’n.” ",
    "Well, I know what I’s gwyne to do: I’s gwyne to set down here and listen tell I hears it agin.”\n",
    "So he set down on the ground betwixt me and Tom (he leaned his back up against a tree). ",
    "My nose begun to itch… ",
    "It cost 3.14 dollars! ",
    '"Stop!" he said. ',
    '"Why?" ',
    '"Because.") ',
    "Then I begun to itch e.g. on the inside.",
]
TEXT = "".join(TWAIN)


def word_tokenizer() -> PreTrainedTokenizerBase:
    return train_tokenizer([TEXT] * 3, TrainedTokenizer(600, split_words=True))


def spanning_tokenizer() -> PreTrainedTokenizerBase:
    """Merges across words, so that a token may hold the end of one sentence and the start of the next."""
    return train_tokenizer([TEXT] * 3, TrainedTokenizer(520))


def letters() -> PreTrainedTokenizerBase:
    return train_tokenizer([TEXT], TrainedTokenizer(258))


def metaspace_tokenizer() -> PreTrainedTokenizerBase:
    """As SentencePiece writes: a space is part of the word behind it, and dropped where a text begins."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>", "</s>"], show_progress=False)
    tokenizer.train_from_iterator([TEXT] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>")


def pieces(tokenizer: PreTrainedTokenizerBase, text: str) -> list[str]:
    """The text of every sentence."""
    ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
    numbers = sentence_ids(tokenizer, ids, torch.ones_like(ids, dtype=torch.bool))[0].tolist()
    assert numbers == sorted(numbers)
    assert set(numbers) == set(range(numbers[-1] + 1))
    runs = itertools.groupby(zip(numbers, ids[0].tolist(), strict=True), key=lambda pair: pair[0])
    return [tokenizer.decode([token for _, token in run], clean_up_tokenization_spaces=False) for _, run in runs]


def test_a_page_of_twain_word_by_word() -> None:
    found = pieces(word_tokenizer(), TEXT)
    assert "".join(found) == TEXT
    assert [text.strip() for text in found] == [text.strip() for text in TWAIN]


def test_a_page_of_twain_with_spaces_in_front_of_words() -> None:
    found = pieces(metaspace_tokenizer(), TEXT.replace("\n", " "))  # it would merge across lines
    assert [text.strip() for text in found] == [text.strip() for text in TWAIN]


def test_tokens_that_span_an_edge_count_with_the_sentence_they_begin_in() -> None:
    tokenizer = spanning_tokenizer()
    ids = tokenizer(TEXT)["input_ids"]
    assert any(". " in tokenizer.decode([token])[:-1] for token in ids)
    found = pieces(tokenizer, TEXT)
    assert len(found) == len(TWAIN)
    starts = [0, *itertools.accumulate(map(len, found))]
    expected = [0, *itertools.accumulate(map(len, TWAIN))]
    longest = max(len(tokenizer.decode([token])) for token in ids)
    assert all(abs(a - b) < longest for a, b in zip(starts, expected, strict=True))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two.", ["One.", " Two."]),
        ('He left. "Stay!" Nobody came.', ["He left.", ' "Stay!"', " Nobody came."]),
        ("\n\nA verse\nand another", ["\n\nA verse\n", "and another"]),
        ("No end", ["No end"]),
        ("3.5 and a.b", ["3.5 and a.b"]),
        ("Why? \n\n\n Then.", ["Why? \n\n\n", " Then."]),
    ],
)
def test_edges(text: str, expected: list[str]) -> None:
    assert [piece.strip() for piece in pieces(word_tokenizer(), text)] == [piece.strip() for piece in expected]


def test_byte_by_byte_an_opening_quote_behind_a_space_begins_the_sentence() -> None:
    assert pieces(letters(), 'Go. "Stay." (Now!) end') == ["Go. ", '"Stay." ', "(Now!) end"]


def test_quotes_cut_into_several_tokens_close_and_open_as_whole_ones_do() -> None:
    assert len(letters()("”")["input_ids"]) == 3
    assert pieces(letters(), "“Go.” “Stay.” End") == ["“Go.” ", "“Stay.” ", "End"]


def test_rows_padding_and_the_end_token() -> None:
    tokenizer = word_tokenizer()
    end = int(tokenizer.eos_token_id)
    rows = [[*tokenizer(text)["input_ids"], end] for text in ("One. Two.", "One")]
    ids = pad_right(rows)
    mask = torch.arange(ids.shape[1]) < torch.tensor([[len(row)] for row in rows])
    numbers = sentence_ids(tokenizer, ids, mask)
    assert numbers.dtype == torch.int64
    assert numbers[0, len(rows[0]) - 1] == 1  # the end token belongs to the last sentence
    assert not numbers[1].any()
    alone = sentence_ids(tokenizer, ids[:1], mask[:1])
    assert torch.equal(alone[0], numbers[0])


def test_ids_beyond_the_vocabulary_are_text_like_any_other() -> None:
    tokenizer = word_tokenizer()
    ids = torch.tensor([[*tokenizer("One.")["input_ids"], len(tokenizer) + 50, *tokenizer(" Two")["input_ids"]]])
    assert not sentence_ids(tokenizer, ids, torch.ones_like(ids, dtype=torch.bool)).any()


def test_the_table_is_built_once_for_a_tokenizer_and_re_created_when_it_grows() -> None:
    tokenizer = word_tokenizer()
    first = edge_table(tokenizer)
    assert edge_table(tokenizer) is first
    assert len(first.end) == len(tokenizer) + 1
    tokenizer.add_tokens(["Finn!"])
    assert len(edge_table(tokenizer).end) == len(first.end) + 1
