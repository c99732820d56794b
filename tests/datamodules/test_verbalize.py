"""Rows of a folder of activations in every view, its controls, and what is said of one that does not fit."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lit_narrative.cli.commands.extract import extract
from lit_narrative.datamodules.verbalize import PromptTemplates, VerbalizeData
from lit_narrative.errors import UserError
from lit_narrative.lm.tokenizer import TrainedTokenizer
from lit_narrative.lm.vectors.inject import InjectionSettings
from lit_narrative.modules.sft import SFTModule
from lit_narrative.tasks.verbalize.prompts import TAGS, answer
from lit_narrative.tasks.verbalize.sidecar import Sidecar
from lit_narrative.tasks.verbalize.stories import bucket_of, claims, facts
from lit_narrative.tasks.verbalize.table import ActivationTable
from tests.helpers import fit, sizes, tiny_lm, tokenizer, trainer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint of a tiny model of the stories."""
    folder = tmp_path_factory.mktemp("model")
    module = SFTModule(model=sizes("gpt2"), tokenizer=TrainedTokenizer(kind="words"))
    fit(module, VerbalizeData(train_size=32), folder, max_steps=2).save_checkpoint(folder / "subject.ckpt")
    return str(folder / "subject.ckpt")


@pytest.fixture(scope="module")
def folder(model: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    to = str(tmp_path_factory.mktemp("extracted") / "activations")
    extract(model, 1, to=to, documents=20, eval_documents=6, positions_per_document=4)
    return to


# --- stories ----------------------------------------------------------------------------------------------------------


def test_stories_are_examples_where_there_are_no_activations() -> None:
    data = VerbalizeData(train_size=30, val_size=5)
    rows = data.examples("train")
    assert (len(rows), len(data.examples("val")), len(data.examples("test"))) == (30, 5, 200)
    for row in rows:
        assert row.completion.startswith(" ") and " " not in row.prompt
        assert bucket_of(dict(claims(row.prompt + row.completion))) == "train"
    prompt = data.prompts("train")[0]
    assert (prompt.text, prompt.columns["reference"]) == (rows[0].prompt, rows[0].completion)
    assert VerbalizeData(train_size=30, seed=1).examples("train") != rows
    assert data.injected_vectors is None and data.critic_layer is None
    with pytest.raises(UserError, match="what a critic learns is made of activations"):
        data.described("train")


def test_a_world_settles_what_its_stories_say() -> None:
    for world in ("first", "second"):
        known = facts(world)
        assert known is not None
        for row in VerbalizeData(facts=world, train_size=30).examples("train"):
            said = dict(claims(row.prompt + row.completion))
            assert said["animal"] == known.values[said["who"]]


def test_a_tokenizer_knows_every_word_and_tag(model: str, folder: str) -> None:
    known = SFTModule.load_from_checkpoint(model).tokenizer
    data = VerbalizeData(folder)
    texts = [row.prompt + row.completion for row in data.examples("train")]
    texts += [data.critic_template.format(explanation=row.text) for row in data.described("val")]
    for text in texts:
        assert known.unk_token_id not in known(text.replace("<|activation|>", ""))["input_ids"]
    for tag in TAGS:
        assert len(known(tag)["input_ids"]) == 1


# --- activations ------------------------------------------------------------------------------------------------------


def test_views_tell_of_the_same_rows(folder: str) -> None:
    data = VerbalizeData(folder)
    table = ActivationTable(Path(folder, "train.parquet"))
    examples, prompts, described = (data.view(name, "train") for name in ("examples", "prompts", "described"))
    assert len(examples) == len(prompts) == len(described) == len(table) == 80
    for number in (0, 7, 79):
        row, example, prompt, pair = table[number], examples[number], prompts[number], described[number]
        assert (example.prompt, example.completion) == (row.prompt, row.response)
        assert (prompt.text, prompt.columns["reference"]) == (row.prompt, row.response)
        assert pair.text == prompt.columns["explanation"] and answer(pair.text) == row.response
        for vector in (example.injection, prompt.injection, pair.vector, prompt.columns["target"]):
            assert (vector == row.vector).all()
        for columns in (example.meta, prompt.columns, pair.meta):
            assert columns["document"] == row.columns["document"] and columns["source"] == row.columns["source"]
    sidecar = Sidecar.load(folder)
    vectors = data.injected_vectors
    assert vectors is not None and (vectors.marker, vectors.width) == (sidecar.marker, 16)
    assert vectors.mean_norm == pytest.approx(sidecar.mean_norm)
    assert (data.critic_template, data.critic_layer) == (sidecar.critic_template, 1)


def test_sizes_are_those_asked_for(folder: str) -> None:
    data = VerbalizeData(folder, train_size=10, test_size=1000)
    assert [len(data.prompts(split)) for split in ("train", "val", "test")] == [10, 24, 24]


@pytest.mark.parametrize("injected", ["shuffled", "mean", "none"])
def test_what_is_injected_as_a_control_leaves_the_target(folder: str, injected: Any) -> None:
    real, control = (VerbalizeData(folder, injected=kind).prompts("val") for kind in ("real", injected))
    table = ActivationTable(Path(folder, "val.parquet"))
    owner = {tuple(row.vector.tolist()): row.columns["document"] for row in table}
    mean = ActivationTable(Path(folder, "train.parquet")).vectors.mean(0)
    for before, after in zip(real, control, strict=True):
        assert (after.columns["target"] == before.injection).all() and after.text == before.text
        if injected == "none":
            assert after.injection is None
        elif injected == "mean":
            np.testing.assert_allclose(after.injection, mean, rtol=1e-5, atol=1e-6)
        else:
            assert owner[tuple(after.injection.tolist())] != after.columns["document"]


def test_an_actor_may_read_the_text_or_nothing(folder: str) -> None:
    for reads in ("text", "nothing"):
        rows = VerbalizeData(folder, reads=reads).examples("val")
        for row in rows:
            said = row.meta["source"] if reads == "text" else ""
            assert f"<concept>{said}</concept>" in row.prompt and row.injection is None
            assert row.meta["target"].shape == (16,)


def test_plain_tables_are_read_unchanged(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32)
    columns = {"prompt": ["say <INJECT>"] * 100, "response": [f"words {n}" for n in range(100)]}
    table = pa.table({**columns, "activation_vector": vectors.tolist()})
    pq.write_table(table, tmp_path / "all.parquet")
    data = VerbalizeData(str(tmp_path / "all.parquet"), tags=False)
    rows = [row for split in ("train", "val", "test") for row in data.examples(split)]
    assert sorted(row.completion for row in rows) == sorted(columns["response"])
    assert all((row.injection == vectors[int(row.completion.split()[1])]).all() for row in rows)
    assert data.described("val")[0].text.startswith("words")
    assert data.injected_vectors is not None and data.injected_vectors.marker == "<INJECT>"
    for split in ("train", "val", "test"):
        pq.write_table(table, tmp_path / f"{split}.parquet")
    assert len(VerbalizeData(str(tmp_path), tags=False, injected="shuffled").prompts("test")) == 100
    with pytest.raises(UserError, match=r"row 0: its response is none between tags .*data\.tags=false"):
        VerbalizeData(str(tmp_path)).examples("train")
    with pytest.raises(UserError, match=r"no column|column 'source'"):
        VerbalizeData(str(tmp_path), reads="text")
    with pytest.raises(UserError, match="compared with a sidecar"):
        VerbalizeData(str(tmp_path), layer=1)
    pq.write_table(table.slice(0, 2), tmp_path / "all.parquet")
    with pytest.raises(UserError, match="too small to split"):
        VerbalizeData(str(tmp_path / "all.parquet"))


def test_an_answer_is_parsed_as_the_task_writes_it(folder: str) -> None:
    assert VerbalizeData(folder).parse(answer("a fox")) == "a fox"
    assert VerbalizeData(folder).parse("a fox") is None
    assert VerbalizeData(tags=False).parse(" a fox ") == "a fox"
    assert VerbalizeData(tags=False).parse(" ") is None


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"activations": "none"}, r"no folder or Parquet file none"),
        ({"layer": 2}, "data.layer is 2, and the activations are of layer 1"),
        ({"model": "other"}, "data.model is 'other'"),
        ({"prompt": PromptTemplates(actor="read {marker}")}, r"data\.prompt\.actor"),
        ({"prompt": PromptTemplates(critic="read {explanation} =")}, r"data\.prompt\.critic"),
        ({"injected": "zero"}, "data.injected"),
        ({"reads": "all"}, "data.reads"),
        ({"reads": "text", "injected": "mean"}, "means nothing with"),
        ({"activations": None, "injected": "mean"}, "data.activations is missing"),
        ({"train_size": 0}, "data.train_size"),
        ({"tags": False}, "data.tags is false, and the responses were written with tags=true"),
        ({"facts": "third"}, "data.facts=third"),
    ],
)
def test_settings_that_do_not_fit_are_refused(folder: str, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        VerbalizeData(**{"activations": folder, **settings})


def test_tables_of_another_extraction_are_refused(folder: str, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "mixed")
    shutil.copy(Path(folder, "val.parquet"), tmp_path / "mixed" / "test.parquet")
    with pytest.raises(UserError, match=r"test\.parquet does not hold the documents"):
        VerbalizeData(str(tmp_path / "mixed"))


def test_a_reward_needs_a_critic(folder: str) -> None:
    with pytest.raises(UserError, match=r"data\.critic"):
        VerbalizeData(folder).reward_functions(["reconstruction"])


# --- with a module ----------------------------------------------------------------------------------------------------

INJECTION = InjectionSettings(scale="mean_norm")


def test_an_actor_learns_and_its_checkpoint_explains(model: str, folder: str, tmp_path: Path) -> None:
    module = SFTModule(model=model, injection=INJECTION, lr=0.01, sampling={"max_new_tokens": 6})  # type: ignore[arg-type]
    data = VerbalizeData(folder, batch_size=20)
    runner = fit(module, data, tmp_path, max_epochs=2)
    runner.save_checkpoint(tmp_path / "actor.ckpt", weights_only=True)
    loaded = SFTModule.load_from_checkpoint(tmp_path / "actor.ckpt")
    rows = list(data.prompts("val"))[:4]
    assert [r.text for r in loaded.generate(rows)] == [r.text for r in module.generate(rows)]
    injector = loaded.lm.injector
    assert injector.settings.scale == pytest.approx(Sidecar.load(folder).mean_norm)
    [results] = trainer(tmp_path, limit_val_batches=1.0).validate(loaded, data, verbose=False)
    assert results["val/loss"] < 6


def test_a_model_that_reads_no_vectors_or_other_prompts_is_refused(model: str, folder: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"set model\.injection"):
        fit(SFTModule(model=model), VerbalizeData(folder), tmp_path)
    tiny_lm().save_pretrained(tmp_path / "other")
    tokenizer().save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match="the actor's tokenizer must be that of"):
        fit(SFTModule(model=str(tmp_path / "other"), injection=INJECTION), VerbalizeData(folder), tmp_path)


@pytest.mark.parametrize("settings", [{"reads": "text"}, {"reads": "nothing"}, {"injected": "none"}])
def test_an_actor_without_vectors_learns_too(model: str, folder: str, tmp_path: Path, settings: dict[str, Any]) -> None:
    module = SFTModule(model=model, injection=INJECTION)
    runner = fit(module, VerbalizeData(folder, **settings), tmp_path, max_steps=2)
    assert runner.global_step == 2
