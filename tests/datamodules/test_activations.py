"""Activations of a model as rows, and a sparse autoencoder that learns on them."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from transformers import PreTrainedModel
from transformers.models.gpt2.modeling_gpt2 import GPT2Block

from lit_narrative.cli.commands.export import export
from lit_narrative.datamodules.activations import ActivationSettings, BookData, read_activations
from lit_narrative.datamodules.cards import CardsData
from lit_narrative.errors import UserError
from lit_narrative.lm.tokenizer import TrainedTokenizer, load_tokenizer, train_tokenizer
from lit_narrative.modules.sae import SAEModule
from lit_narrative.modules.sft import SFTModule
from lit_narrative.sae.activation_file import ActivationFile
from lit_narrative.tasks.cards.game import CardGame
from tests.helpers import fit, tiny_lm, trainer

HOOK = "blocks.1.hook_resid_pre"


def data(**settings: Any) -> CardsData:
    small = {"train_size": 40, "prompt_size": 8, "val_size": 12, "test_size": 12, "batch_size": 16}
    return CardsData(CardGame(lengths=(2, 3), long_lengths=(5, 6)), activations=ActivationSettings(**settings), **small)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that knows the words of the game."""
    path = tmp_path_factory.mktemp("model")
    tokenizer = train_tokenizer(data().tokenizer_texts(), TrainedTokenizer(kind="words"))
    tiny_lm("gpt2", scale=3, vocabulary=len(tokenizer), positions=64).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


def stream(lm: PreTrainedModel, text: str, folder: str) -> np.ndarray:
    """The residual stream before the second block, of one text by itself."""
    tokens = load_tokenizer(folder)(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return lm(tokens, output_hidden_states=True).hidden_states[1][0].numpy()


def test_rows_are_the_models_hidden_states_token_by_token(folder: str) -> None:
    task = data(model=folder, batch_size=5)
    rows, lm = task.activations("val"), tiny_lm("gpt2", scale=3, vocabulary=len(load_tokenizer(folder)), positions=64)
    assert task.activations("val") is rows
    for number, example in enumerate(task.examples("val")):
        own = [row for row in rows if row.text == number]
        expected = stream(lm, example.prompt + example.completion, folder)[:-1]
        assert [row.position for row in own] == list(range(len(expected)))
        assert np.allclose(np.stack([row.vector for row in own]), expected, atol=1e-4)
    assert own[0].vector.dtype == np.float32
    assert not torch.is_tensor(own[0].vector)


def test_some_places_or_so_many_rows(folder: str) -> None:
    rows = data(model=folder, places=("answer", "card3_value")).activations("val")
    hands = [len(row.meta["cards"]) for row in data().examples("val")]
    assert [row.text for row in rows] == [n for n, cards in enumerate(hands) for _ in range(cards - 1)]
    everything = data(model=folder).activations("val")
    few = data(model=folder, rows=31, batch_size=1).activations("val")
    assert [(row.text, row.position) for row in few] == [(row.text, row.position) for row in everything[:31]]


def test_a_second_hook_gives_what_a_transcoder_predicts(folder: str) -> None:
    rows = data(model=folder, target_hook="blocks.1.hook_mlp_out", rows=40, batch_size=5).activations("val")
    out = "blocks.1.hook_mlp_out"
    plain, targets = (data(model=folder, hook=hook, rows=40).activations("val") for hook in (HOOK, out))
    for row, one, other in zip(rows, plain, targets, strict=True):
        assert (row.text, row.position) == (one.text, one.position)
        assert one.target is None
        np.testing.assert_allclose(row.vector, one.vector, atol=1e-5)
        np.testing.assert_allclose(row.target, other.vector, atol=1e-5)


@pytest.mark.slow
def test_an_autoencoder_is_fitted_measured_and_exported(folder: str, tmp_path: Path) -> None:
    from sae_lens import SAE

    task = data(model=folder, hook=HOOK)
    module = SAEModule(view="activations", d_sae=32, k=4, seed=0)
    run = fit(
        module,
        task,
        tmp_path,
        ModelCheckpoint(tmp_path, save_last=True, save_top_k=0),
        max_epochs=20,
        enable_checkpointing=True,
        limit_val_batches=1.0,
    )
    figures = {name: float(value) for name, value in run.callback_metrics.items()}
    assert {f"val/{name}" for name in ("explained_variance", "l0", "dead_fraction", "mse")} <= set(figures)
    assert figures["val/explained_variance"] > 0.6
    assert figures["val/l0"] == pytest.approx(4, abs=0.1)
    (metrics,) = trainer(tmp_path).test(module, task, verbose=False)
    assert metrics["test/explained_variance"] > 0.5
    export(str(tmp_path / "last.ckpt"), str(tmp_path / "own"), "sae")
    x = torch.from_numpy(np.stack([row.vector for row in task.activations("val")]))
    assert torch.allclose(SAE.load_from_disk(str(tmp_path / "own")).encode(x), module._frozen[0].encode(x), atol=1e-4)


def test_a_checkpoint_is_read_as_a_folder_is(folder: str, tmp_path: Path) -> None:
    saver = ModelCheckpoint(tmp_path, save_last=True, save_top_k=0)
    fit(SFTModule(folder, lr=0.0), data(), tmp_path, saver, max_steps=1, enable_checkpointing=True)
    expected, found = (data(model=name).activations("val") for name in (folder, str(tmp_path / "last.ckpt")))
    assert len(found) == len(expected) > 0
    assert all(np.allclose(a.vector, b.vector, atol=1e-5) for a, b in zip(found, expected, strict=True))


def test_bad_settings_are_named(folder: str) -> None:
    with pytest.raises(UserError, match=r"set data\.activations\.model to a checkpoint, a folder"):
        data().activations("train")
    with pytest.raises(UserError, match=r"no checkpoint at 'none.ckpt'"):
        data(model="none.ckpt").activations("train")
    with pytest.raises(UserError, match=r"no hook 'blocks.2.hook_resid_pre'; near names: blocks"):
        data(model=folder, hook="blocks.2.hook_resid_pre").activations("train")
    with pytest.raises(UserError, match=r"one vector a token, but blocks.0.attn.hook_z has the shape"):
        data(model=folder, hook="blocks.0.attn.hook_z").activations("train")
    with pytest.raises(UserError, match="no position is named 'answr'; did you mean 'answer'"):
        read_activations(data().questions("val"), ActivationSettings(folder, places=("answr",)))
    for name in ("rows", "batch_size"):
        with pytest.raises(UserError, match=rf"data\.activations\.{name} is 0"):
            ActivationSettings(**{name: 0})


def test_a_cache_is_read_where_model_texts_and_settings_are_the_same(folder: str, tmp_path: Path) -> None:
    plain = data(model=folder, rows=50, target_hook="blocks.1.hook_mlp_out").activations("val")
    given = {"model": folder, "rows": 50, "target_hook": "blocks.1.hook_mlp_out", "cache": str(tmp_path)}
    for _ in range(2):
        kept = data(**given).activations("val")
        assert [(row.text, row.position) for row in kept] == [(row.text, row.position) for row in plain]
        for one, other in zip(kept, plain, strict=True):
            assert np.array_equal(one.vector, other.vector) and np.array_equal(one.target, other.target)
        (made,) = tmp_path.iterdir()
    before = made.stat().st_mtime_ns
    data(**given).activations("val")
    assert made.stat().st_mtime_ns == before  # not written again
    other = shutil.copytree(folder, tmp_path / "other")
    tiny_lm("gpt2", scale=2, vocabulary=len(load_tokenizer(folder)), positions=64).save_pretrained(other)
    assert not np.allclose(data(**given | {"model": str(other)}).activations("val")[0].vector, plain[0].vector)
    data(**given | {"rows": 40}).activations("val")
    data(**given).activations("test")
    assert len([path for path in tmp_path.iterdir() if path != other]) == 4


def test_the_first_tokens_of_texts_are_left_out(folder: str) -> None:
    every, some = (data(model=folder, skip=skip).activations("val") for skip in (0, 2))
    assert [(row.text, row.position) for row in some] == [
        (row.text, row.position) for row in every if row.position >= 2
    ]


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """A hundred and twenty paragraphs in the words of the game."""
    texts = [(row.prompt + row.completion).replace("\n\n", "\n") for row in data().examples("train")]
    path = tmp_path / "book.txt"
    path.write_text("\n\n".join(f"{text} {n}" for n, text in enumerate(texts * 3)))
    return path


def test_a_book_is_read_in_passages_that_are_in_one_split_each(folder: str, book: Path, tmp_path: Path) -> None:
    settings = ActivationSettings(folder, HOOK, rows=60, cache=str(tmp_path / "kept"))
    task = BookData(str(book), passage_words=2, activations=settings, batch_size=8)
    texts = {split: [row.prompt + row.completion for row in task.examples(split)] for split in ("train", "val", "test")}
    whole = [text for found in texts.values() for text in found]
    assert len(whole) == len(set(whole)) == 120
    assert min(map(len, texts.values())) > 0 and len(texts["train"]) > 60
    assert " ".join(" ".join(sorted(whole)).split()) == " ".join(
        " ".join(sorted(part.strip() for part in book.read_text().split("\n\n"))).split()
    )
    assert len(BookData(str(book), passage_words=2, train_size=3).examples("train")) == 3
    module = SAEModule(view="activations", d_sae=32, k=4, seed=0)
    figures = fit(module, task, tmp_path, max_epochs=4, limit_val_batches=1.0).callback_metrics
    assert figures["val/explained_variance"] > 0.3
    assert isinstance(task.activations("train"), ActivationFile)
    lm = tiny_lm("gpt2", scale=3, vocabulary=len(load_tokenizer(folder)), positions=64)
    expected = stream(lm, texts["train"][0], folder)
    assert np.allclose(task.activations("train")[3].vector, expected[3], atol=1e-4)


def test_bad_books_are_named(folder: str, book: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.books: no file or folder none"):
        BookData("none")
    with pytest.raises(UserError, match=r"data\.passage_words is 1"):
        BookData(str(book), passage_words=1)
    with pytest.raises(UserError, match=r"a text of \d+ tokens is longer than the 64 positions of .*passage_words"):
        BookData(str(book), activations=ActivationSettings(folder)).activations("train")
    with pytest.raises(UserError, match=r"data\.activations\.cache is empty"):
        ActivationSettings(folder, cache="")
    with pytest.raises(UserError, match=r"no checkpoint at 'none.ckpt'"):
        data(model="none.ckpt", cache=str(tmp_path)).activations("train")


@pytest.mark.parametrize("places", ["all", ["answer"], ["answer", "card1_value"]])
def test_the_model_reads_no_more_examples_than_the_rows_need(places: Any, folder: str) -> None:
    every = data(model=folder, places=places).activations("train")
    seen: list[int] = []

    def count(module: torch.nn.Module, given: Any) -> None:
        if isinstance(module, GPT2Block):
            seen.append(len(given[0]))

    hook = torch.nn.modules.module.register_module_forward_pre_hook(count)
    few = data(model=folder, places=places, rows=10).activations("train")
    hook.remove()
    assert [(row.text, row.position) for row in few] == [(row.text, row.position) for row in every[:10]]
    assert np.allclose(np.stack([row.vector for row in few]), np.stack([row.vector for row in every[:10]]), atol=1e-5)
    assert seen[-1] == few[-1].text + 1
