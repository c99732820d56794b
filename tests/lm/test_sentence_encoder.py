"""Sentence encoders offline, as files, and their cache."""

import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from lit_narrative.errors import UserError
from lit_narrative.lm.sentence_encoder import (
    RememberedVectors,
    StaticEncoder,
    build_encoder,
    encode,
    encode_to_learn,
    encoder_files,
    encoder_from_files,
    load_encoder,
)
from tests.helpers import TEXTS, tiny_lm, tokenizer

SPEC = StaticEncoder(width=4, vocab_size=300)
OTHER = StaticEncoder(width=3, vocab_size=300)
SENTENCES = ["the salt road", "", "a tide, a lantern", "the salt road", "a road", "the lantern", "salt", "a tide"]


def built() -> SentenceTransformer:
    return build_encoder(SPEC, SENTENCES)


def test_the_built_in_encoder_needs_nothing_and_is_the_same_each_time() -> None:
    first, second = encode(built(), SENTENCES), encode(built(), SENTENCES)
    assert first.shape == (8, 4)
    assert torch.equal(first, second)
    assert torch.equal(first[1], torch.zeros(4))


def test_words_of_the_same_texts_have_like_vectors() -> None:
    rng = np.random.default_rng(0)
    topics = [["wave", "tide", "gull", "salt"], ["oak", "moss", "fern", "root"]]
    texts = [" ".join(rng.choice(topics[n % 2], 6)) for n in range(200)]
    encoder = build_encoder(StaticEncoder(width=2, vocab_size=400), texts)
    wave, tide, oak = torch.nn.functional.normalize(encode(encoder, [" wave", " tide", " oak"]), dim=1)
    assert wave @ tide > 0.9
    assert abs(float(wave @ oak)) < 0.3


def test_no_texts_have_no_vectors() -> None:
    assert encode(built(), []).shape == (0, 4)


def test_vectors_with_a_graph_are_the_same_and_reach_the_weights() -> None:
    encoder = built()
    found = encode_to_learn(encoder, SENTENCES)
    torch.testing.assert_close(found.detach(), encode(encoder, SENTENCES))
    found.sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())


def test_files_rebuild_the_encoder() -> None:
    again = encoder_from_files(encoder_files(built()))
    assert torch.equal(encode(again, SENTENCES), encode(built(), SENTENCES))
    with pytest.raises(UserError, match="unsafe file name"):
        encoder_from_files({"../x": torch.zeros(1, dtype=torch.uint8)})


def test_blank_texts_have_vectors_of_zeros_with_any_encoder(tmp_path: Path) -> None:
    tiny_lm("gpt2").save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    encoder = load_encoder(str(tmp_path))
    for found in (encode(encoder, ["", "a", " \n"]), encode_to_learn(encoder, ["", "a", " \n"]).detach()):
        assert found.abs().sum(1).gt(0).tolist() == [False, True, False]
    assert torch.equal(encode_to_learn(encoder, [""]), torch.zeros(1, found.shape[1]))


def test_a_folder_of_sentence_transformers(tmp_path: Path) -> None:
    built().save_pretrained(str(tmp_path / "encoder"))
    assert torch.equal(encode(load_encoder(str(tmp_path / "encoder")), SENTENCES), encode(built(), SENTENCES))


def test_a_language_model_gives_the_mean_of_its_states(tmp_path: Path) -> None:
    lm = tiny_lm("gpt2")
    lm.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    text = TEXTS[0]
    with torch.no_grad():
        states = lm.base_model(**tokenizer()(text, return_tensors="pt")).last_hidden_state
    torch.testing.assert_close(encode(load_encoder(str(tmp_path)), [text, "a"])[0], states[0].mean(0))


@pytest.mark.parametrize("name", ["sentence-transformers/no-such-model", "all-mpnet-base-v2", "/no/such/folder", "."])
def test_an_encoder_that_is_not_there(name: str) -> None:
    with pytest.raises(UserError, match=r"no sentence-transformers model at .* built-in `encoder: \{width: 64\}`"):
        load_encoder(name)


@pytest.mark.parametrize("settings", [{"width": 0}, {"vocab_size": 100}, {"sample": 0}])
def test_settings_out_of_range(settings: dict[str, int]) -> None:
    with pytest.raises(UserError, match=rf"model\.encoder\.{next(iter(settings))} is"):
        StaticEncoder(**settings)


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


def test_vectors_are_remembered_on_disk(tmp_path: Path) -> None:
    encoder = built()
    expected = encode(encoder, SENTENCES)
    assert torch.equal(RememberedVectors(encoder, tmp_path)(SENTENCES), expected)
    (first,) = files(tmp_path)
    with torch.no_grad():
        memory = RememberedVectors(encoder, tmp_path)
        encoder[0].embedding.weight.zero_()  # type: ignore[operator, union-attr]
    assert torch.equal(memory(SENTENCES), expected)  # read, not encoded again
    assert files(tmp_path) == [first]
    assert torch.equal(memory(["new"]), torch.zeros(1, 4))  # encoded now, by weights of zero
    assert len(files(tmp_path)) == 2


def test_another_encoder_has_a_memory_of_its_own(tmp_path: Path) -> None:
    RememberedVectors(built(), tmp_path)(SENTENCES)
    other = build_encoder(OTHER, SENTENCES)
    assert torch.equal(RememberedVectors(other, tmp_path)(SENTENCES), encode(other, SENTENCES))


def test_in_memory_alone_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    RememberedVectors(built())(SENTENCES)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    RememberedVectors(built(), tmp_path)(SENTENCES)
    (path,) = files(tmp_path)
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(UserError, match=f"{path}.*delete the file"):
        RememberedVectors(built(), tmp_path)(["salt"])


def test_of_all_that_is_on_disk_only_what_is_asked_for_is_in_memory(tmp_path: Path) -> None:
    RememberedVectors(built(), tmp_path)([f"text {n}" for n in range(50)])
    memory = RememberedVectors(built(), tmp_path)
    assert torch.equal(memory(["text 7", "text 3"]), encode(built(), ["text 7", "text 3"]))
    assert len(memory._known) == 2
    assert len(files(tmp_path)) == 1


def _remember(folder: Path, number: int) -> None:
    memory = RememberedVectors(built(), folder)
    for turn in range(20):
        memory([f"shared {turn}", f"own {number} {turn}"])
        memory([f"shared again {turn}"])


def test_two_processes_write_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_remember, args=(tmp_path, number)) for number in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    wanted = [f"shared {turn}" for turn in range(20)] + [f"own {n} {turn}" for n in range(2) for turn in range(20)]
    encoder = built()
    before = files(tmp_path)
    torch.testing.assert_close(RememberedVectors(encoder, tmp_path)(wanted), encode(encoder, wanted))
    assert files(tmp_path) == before
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".tmp")]
