"""Tokenizers: trained, loaded, carried in a checkpoint."""

import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import GPTSw3Tokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from lit_narrative.errors import UserError
from lit_narrative.lm.tokenizer import (
    END,
    PAD,
    TrainedTokenizer,
    encode_completion,
    encode_prompt,
    load_tokenizer,
    pad_left,
    pad_right,
    tokenizer_files,
    tokenizer_from_files,
    train_tokenizer,
)
from tests.helpers import TEXTS, tokenizer
from tests.rewards import VOCABULARY


def sentencepiece_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """A tokenizer whose vocabulary is a binary file, ``spiece.model``."""
    from sentencepiece import SentencePieceTrainer

    model = folder / "words"
    options = {"vocab_size": 120, "byte_fallback": False, "user_defined_symbols": ["<|endoftext|>"]}
    SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_prefix=str(model), hard_vocab_limit=False, minloglevel=2, **options
    )
    return GPTSw3Tokenizer(f"{model}.model")


def test_training_is_deterministic() -> None:
    again = train_tokenizer(iter(TEXTS), TrainedTokenizer(VOCABULARY))
    assert tokenizer_files(again) == tokenizer_files(tokenizer())


def test_only_the_sample_is_read() -> None:
    few = train_tokenizer(TEXTS, TrainedTokenizer(VOCABULARY, sample=3))
    assert tokenizer_files(few) == tokenizer_files(train_tokenizer(TEXTS[:3], TrainedTokenizer(VOCABULARY)))
    assert tokenizer_files(few) != tokenizer_files(tokenizer())


def test_special_tokens_and_size() -> None:
    assert len(tokenizer()) == VOCABULARY
    assert (tokenizer().pad_token, tokenizer().eos_token) == (PAD, END)
    assert tokenizer().pad_token_id != tokenizer().eos_token_id


def test_merges_cross_punctuation_unless_words_are_split() -> None:
    """What makes storyworlds short: a fragment of the JSON skeleton is one token."""
    split = train_tokenizer(TEXTS, TrainedTokenizer(VOCABULARY, split_words=True))
    crossing = [
        piece for piece in tokenizer().get_vocab() if '":' in piece and any(letter.isalpha() for letter in piece)
    ]
    assert crossing
    assert not [piece for piece in split.get_vocab() if '":' in piece and any(letter.isalpha() for letter in piece)]
    assert len(tokenizer()(TEXTS[0])["input_ids"]) < len(split(TEXTS[0])["input_ids"])


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60).filter(lambda text: "<|" not in text))
def test_any_text_survives_the_round_trip(text: str) -> None:
    ids = encode_completion(tokenizer(), text)
    assert ids[-1] == tokenizer().eos_token_id
    assert tokenizer().decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False) == text


def test_half_a_character_is_read_as_the_replacement_character() -> None:
    for halves, read in (("Rain \ud83d.", "Rain \ufffd."), ("\udc00\ud800", "\ufffd\ufffd")):
        assert encode_completion(tokenizer(), halves) == encode_completion(tokenizer(), read)
        assert encode_prompt(tokenizer(), halves) == encode_prompt(tokenizer(), read)
    train_tokenizer(["Rain \ud83d."], TrainedTokenizer(VOCABULARY))


def test_files_bring_the_same_tokenizer_back() -> None:
    again = tokenizer_from_files(tokenizer_files(tokenizer()))
    assert [again(text)["input_ids"] for text in TEXTS] == [tokenizer()(text)["input_ids"] for text in TEXTS]
    assert (again.pad_token_id, again.eos_token_id) == (tokenizer().pad_token_id, tokenizer().eos_token_id)


def test_binary_files_ride_in_a_checkpoint_as_bytes(tmp_path: Path) -> None:
    """As those of tokenizers that keep a sentencepiece model."""
    words = sentencepiece_tokenizer(tmp_path)
    torch.save(tokenizer_files(words), tmp_path / "tokenizer.pt")
    files = torch.load(tmp_path / "tokenizer.pt", weights_only=True)
    assert isinstance(files["spiece.model"], bytes)
    assert isinstance(files["tokenizer_config.json"], str)
    again = tokenizer_from_files(files)
    assert [again(text)["input_ids"] for text in TEXTS] == [words(text)["input_ids"] for text in TEXTS]


@pytest.mark.parametrize("name", ["../evil.json", "/tmp/evil.json", "inner/../../evil.json"])
def test_files_stay_in_their_folder(name: str) -> None:
    with pytest.raises(UserError, match="unsafe file name"):
        tokenizer_from_files({**tokenizer_files(tokenizer()), name: "{}"})


def test_folder_that_is_not_there_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no tokenizer at '.*nowhere'.*vocab_size"):
        load_tokenizer(str(tmp_path / "nowhere"))


def test_a_tokenizer_needs_an_end_token(tmp_path: Path) -> None:
    plain = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a")))
    plain.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no end-of-text token"):
        load_tokenizer(str(tmp_path))


def test_no_padding_token_is_made_up(tmp_path: Path) -> None:
    inner = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="b").save_pretrained(tmp_path)
    assert load_tokenizer(str(tmp_path)).pad_token_id is None


def test_rows_are_padded_on_either_side() -> None:
    rows = [[1, 2, 3], torch.tensor([4])]
    assert pad_right(rows, value=9).tolist() == [[1, 2, 3], [4, 9, 9]]
    assert pad_left(rows).tolist() == [[1, 2, 3], [0, 0, 4]]
    assert pad_left(rows).dtype == pad_right(rows).dtype == torch.int64


# --- words ------------------------------------------------------------------------------------------------------------

WORDS = ["Rule: add the RED cards\nRED 3\n\nAnswer: 3 -12 ; -12", " -1 0 1 2"]


def test_words_numbers_and_line_breaks_are_one_token_each() -> None:
    words = train_tokenizer(WORDS, TrainedTokenizer(kind="words"))
    tokens = words.convert_ids_to_tokens(words(WORDS[0])["input_ids"])
    assert tokens[:6] == ["Rule", ":", " add", " the", " RED", " cards"]
    assert tokens[-10:] == ["RED", " 3", "\n", "\n", "Answer", ":", " 3", " -12", " ;", " -12"]


def test_words_come_back_as_they_were_and_through_files(tmp_path: Path) -> None:
    words = train_tokenizer(WORDS, TrainedTokenizer(kind="words"))
    words.save_pretrained(tmp_path)
    for found in (words, load_tokenizer(str(tmp_path)), tokenizer_from_files(tokenizer_files(words))):
        for text in WORDS:
            ids = encode_completion(found, text)
            assert ids == encode_completion(words, text)
            assert found.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False) == text
        assert found.eos_token_id is not None
        assert found.unk_token_id is not None


def test_an_unknown_word_is_one_unknown_token() -> None:
    words = train_tokenizer(WORDS, TrainedTokenizer(kind="words"))
    assert words("RED zebra")["input_ids"] == [*words("RED")["input_ids"], words.unk_token_id]


def test_words_keep_the_tags_of_a_task_whole() -> None:
    names = ["<text>", "</text>", "salt"]
    words = train_tokenizer(["<text> salt </text>\nsalty <b"], TrainedTokenizer(kind="words"), names)
    pieces = [words.decode([token]) for token in words("<text> salt </text>\nsalty <b")["input_ids"]]
    assert pieces == ["<text>", " salt", " </text>", "\n", "salty", " <", "b"]


def test_the_same_words_give_the_same_tokenizer() -> None:
    spec = TrainedTokenizer(kind="words")
    assert tokenizer_files(train_tokenizer(WORDS, spec)) == tokenizer_files(train_tokenizer(iter(WORDS), spec))
    few = train_tokenizer(WORDS, TrainedTokenizer(kind="words", sample=1))
    assert len(few) < len(train_tokenizer(WORDS, spec))


def test_more_words_than_admitted_are_refused() -> None:
    with pytest.raises(UserError, match=r"corpus has 19 words, model\.tokenizer\.vocab_size=10 is smaller"):
        train_tokenizer(WORDS, TrainedTokenizer(10, kind="words"))
    with pytest.raises(UserError, match="split_words means nothing with kind=words"):
        TrainedTokenizer(kind="words", split_words=True)


# --- whole names ------------------------------------------------------------------------------------------------------

NAMED = [f'{{"who":{{"{a}":1,"{b}":2}},"next":"{b}"}}' for a, b in (("Bram", "Mara"), ("Mara", "Bram"), ("Ma", "Bram"))]


def test_a_name_is_a_piece_of_its_own_wherever_it_stands() -> None:
    found = train_tokenizer(NAMED, TrainedTokenizer(400, kind="names"), ["Bram", "Mara", "Ma"])
    pieces = {name: found(name)["input_ids"] for name in ("Bram", "Mara", "Ma")}
    assert all(len(ids) == 1 for ids in pieces.values())
    for text in (*NAMED, "Bram_trust", 'x"Mara"y', "Mara, Ma."):
        ids = found(text, add_special_tokens=False)["input_ids"]
        assert found.decode(ids) == text
        for name, (piece,) in pieces.items():
            assert ids.count(piece) == len(re.findall(rf"(?<![A-Za-z]){name}(?![A-Za-z])", text))
    # Whatever stands between names merges: the skeleton of these texts is a few tokens.
    assert (
        len(found(NAMED[0])["input_ids"])
        <= 7
        < len(train_tokenizer(NAMED, TrainedTokenizer(258))(NAMED[0])["input_ids"])
    )


def test_names_are_kept_by_a_folder() -> None:
    found = train_tokenizer(NAMED, TrainedTokenizer(400, kind="names"), ["Bram", "Mara"])
    again = tokenizer_from_files(tokenizer_files(found))
    assert again(NAMED)["input_ids"] == found(NAMED)["input_ids"]


def test_a_task_without_names_is_told_so() -> None:
    with pytest.raises(UserError, match="kind=names finds no names in this task's texts; choose kind=bpe"):
        train_tokenizer(NAMED, TrainedTokenizer(400, kind="names"))
