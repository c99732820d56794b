"""``lit-narrative extract`` writes tables and a sidecar that belong together, or says what is wrong at once."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lit_narrative.cli.main import main
from lit_narrative.datamodules.verbalize import VerbalizeData
from lit_narrative.errors import UserError
from lit_narrative.lm.tokenizer import TrainedTokenizer, train_tokenizer
from lit_narrative.tasks.verbalize.prompts import explanation_of
from lit_narrative.tasks.verbalize.sidecar import SPLITS, Sidecar
from lit_narrative.tasks.verbalize.stories import story
from lit_narrative.tasks.verbalize.table import ActivationTable
from tests.helpers import tiny_lm, tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a tiny model."""
    folder = tmp_path_factory.mktemp("model")
    tiny_lm(scale=2.0).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


def extracted(model: str, folder: Path, *arguments: str) -> tuple[Sidecar, dict[str, ActivationTable]]:
    few = ["--documents=12", "--eval_documents=4", "--positions_per_document=3", "--min_position=2"]
    main(["extract", "--model", model, "--layer=1", "--to", str(folder), *few, *arguments])
    return Sidecar.load(folder), {split: ActivationTable(folder / f"{split}.parquet") for split in SPLITS}


def test_tables_and_sidecar_belong_together(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sidecar, tables = extracted(model, tmp_path / "out", "--words=2")
    assert "train 36 activations of 12 documents" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "sidecar.json",
        *sorted(f"{split}.parquet" for split in SPLITS),
    ]
    documents = {split: set(table.column("document")) for split, table in tables.items()}
    assert [len(documents[split]) for split in SPLITS] == [12, 4, 4]
    assert len(set.union(*documents.values())) == 20
    assert sidecar.mean_norm == pytest.approx(np.linalg.norm(tables["train"].vectors, axis=1).mean(), rel=1e-6)
    assert (sidecar.width, sidecar.layer, sidecar.marker, sidecar.corpus) == (16, 1, "<|activation|>", "stories")
    for split, table in tables.items():
        sidecar.check_documents(table.path, split, table.column("document"))
        table.check_markers(sidecar.marker)
        for row in table:
            said = explanation_of(row.response)
            assert said is not None and row.columns["source"].rstrip().endswith(said)
            assert row.prompt == sidecar.actor_prompt.text


def test_vectors_are_the_models_at_their_place(model: str, tmp_path: Path) -> None:
    _, tables = extracted(model, tmp_path / "out")
    texts = [story(0, "train", number).text for number in range(12)]
    for row in list(tables["train"])[:9]:
        text = next(text for text in texts if text.startswith(row.columns["source"]))
        ids = torch.tensor([tokenizer()(text)["input_ids"]])
        states = tiny_lm(scale=2.0)(input_ids=ids, output_hidden_states=True).hidden_states[1]
        expected = states[0, row.columns["position"]].detach().numpy()
        np.testing.assert_allclose(row.vector, expected, rtol=1e-4, atol=1e-5)


def test_answers_have_no_tags_where_the_tokenizer_cannot_write_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = train_tokenizer([story(0, "train", number).text for number in range(40)], TrainedTokenizer(kind="words"))
    tiny_lm(vocabulary=len(words), positions=128).save_pretrained(tmp_path / "model")
    words.save_pretrained(tmp_path / "model")
    sidecar, tables = extracted(str(tmp_path / "model"), tmp_path / "out")
    assert not sidecar.tags and "answers without tags" in capsys.readouterr().out
    assert "explanation tags" not in sidecar.actor_template
    assert all(row.columns["source"].rstrip().endswith(row.response) for row in tables["train"])
    data = VerbalizeData(str(tmp_path / "out"))
    assert data.described("train")[0].text == data.examples("train")[0].completion
    with pytest.raises(SystemExit):
        extracted(str(tmp_path / "model"), tmp_path / "tagged", "--tags=true")
    assert "cannot write the explanation tags" in capsys.readouterr().err


def test_shuffled_gives_each_row_the_vector_of_another_document(model: str, tmp_path: Path) -> None:
    plain = extracted(model, tmp_path / "plain")[1]["train"]
    sidecar, tables = extracted(model, tmp_path / "control", "--shuffled")
    control = tables["train"]
    assert sidecar.shuffled
    assert control.column("source") == plain.column("source")
    assert sorted(map(tuple, control.vectors.tolist())) == sorted(map(tuple, plain.vectors.tolist()))
    owner = {tuple(row.vector.tolist()): row.columns["document"] for row in plain}
    assert all(owner[tuple(row.vector.tolist())] != row.columns["document"] for row in control)


def test_the_same_seed_gives_the_same_tables(model: str, tmp_path: Path) -> None:
    one, two, other = (
        extracted(model, tmp_path / str(number), *arguments)[1]["train"]
        for number, arguments in enumerate((["--batch_size=5"], [], ["--seed=1"]))
    )
    assert one.column("source") == two.column("source") != other.column("source")
    np.testing.assert_allclose(one.vectors, two.vectors, rtol=1e-4, atol=1e-5)


def test_a_checkpoint_a_file_a_folder_and_a_configuration(model: str, tmp_path: Path) -> None:
    book = "\n\n".join(f"{number} rivers. " + "salt and tide " * 70 for number in range(60))
    (tmp_path / "book.txt").write_text(book)
    lines = [json.dumps({"text": f"line {number} of salt and tides"}) for number in range(60)]
    (tmp_path / "lines.jsonl").write_text("\n".join(lines))
    for number, corpus in enumerate((tmp_path / "book.txt", tmp_path, tmp_path / "lines.jsonl", "poetry/sft")):
        sidecar, tables = extracted(model, tmp_path / f"out{number}", "--corpus", str(corpus), "--max_tokens=60")
        assert sidecar.corpus == str(corpus) and all(len(table) >= 6 for table in tables.values())


def test_texts_of_an_earlier_extraction(model: str, tmp_path: Path) -> None:
    table = extracted(model, tmp_path / "first", "--teacher=none")[1]
    assert set(table["train"].column("response")) == {""}
    rows = [
        {"document": row.columns["document"], "position": row.columns["position"], "explanation": f"at {number}"}
        for split in SPLITS
        for number, row in enumerate(table[split])
        if number % 3
    ]
    (tmp_path / "texts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    _, tables = extracted(model, tmp_path / "next", "--teacher=file", "--explanations", str(tmp_path / "texts.jsonl"))
    assert tables["train"].column("response")[:2] == [f"<explanation> at {n} </explanation>" for n in (1, 2)]
    assert len(tables["train"]) == 24


def test_settings_of_a_file_and_over_it(model: str, tmp_path: Path) -> None:
    (tmp_path / "extract.yaml").write_text(f"model: {model}\nlayer: 2\nto: {tmp_path / 'out'}\ndocuments: 4\n")
    main(["extract", "--config", str(tmp_path / "extract.yaml"), "--eval_documents=3", "--layer=0"])
    sidecar = Sidecar.load(tmp_path / "out")
    assert (sidecar.layer, sidecar.splits["train"].documents, sidecar.splits["val"].documents) == (0, 4, 3)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--layer=3"], "--layer is 3, and the model has the layers 0"),
        (["--corpus=none.txt"], "no such folder"),
        (["--corpus={tmp}/small.txt"], "too small to split"),
        (["--max_tokens=5", "--min_position=9"], "lower --min_position"),
        (["--teacher=file"], "--explanations"),
        (["--words=0"], "--words is 0"),
        (["--actor_template=nothing"], "must hold it once"),
        (["--critic_template={{explanation}}"], "ends with"),
        (["--documents=1"], "--documents is 1"),
        (["--corpus=trainer/ddp"], "has no `data`"),
        (["--model=none"], "no tokenizer at 'none'"),
        (["--device=gpu"], "device"),
        (["--to={tmp}"], "exists already"),
    ],
)
def test_what_is_wrong_is_one_clear_error_and_leaves_nothing(
    model: str, tmp_path: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "small.txt").write_text("a short text")
    given = ["--model", model, "--layer=1", "--to", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as end:
        main(["extract", *given, *(argument.format(tmp=tmp_path) for argument in arguments)])
    assert end.value.code == 2
    assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["small.txt"]


@pytest.mark.parametrize("missing", ["--model", "--layer", "--to"])
def test_what_is_missing_is_named(missing: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = {"--model": "m", "--layer": "1", "--to": "out"}
    del given[missing]
    with pytest.raises(SystemExit):
        main(["extract", *(f"{name}={value}" for name, value in given.items())])
    assert f"{missing} is missing" in capsys.readouterr().err


# --- the sidecar ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("extracted") / "out"
    extracted(model, where)
    return where


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "x"}, "no sidecar"),
        ({"version": 2}, "version 2, and this release reads 1"),
        ({"layer": "1"}, "layer is '1'"),
        ({"more": 1}, "'more'"),
        ({"neighbours": [1]}, "neighbours"),
        ({"splits": {}}, "splits"),
        ({"splits": {"train": 1, "val": 1, "test": 1}}, "splits"),
    ],
)
def test_a_sidecar_that_is_none_is_refused(folder: Path, tmp_path: Path, change: dict[str, Any], said: str) -> None:
    content = json.loads((folder / "sidecar.json").read_text())
    (tmp_path / "sidecar.json").write_text(json.dumps({**content, **change}))
    with pytest.raises(UserError, match=said):
        Sidecar.load(tmp_path)
    with pytest.raises(UserError, match=r"no sidecar\.json"):
        Sidecar.load(tmp_path / "none")


def test_a_sidecar_agrees_with_its_tokenizer_templates_and_source_alone(folder: Path, model: str) -> None:
    sidecar = Sidecar.load(folder)
    vocabulary = tokenizer().__class__.from_pretrained(model)
    with pytest.raises(UserError, match="no token of its own"):
        sidecar.check_tokenizer(vocabulary)
    vocabulary.add_tokens(["<|activation|>"], special_tokens=True)
    sidecar.check_tokenizer(vocabulary)
    other = tokenizer().__class__.from_pretrained(model)
    other.add_tokens(["<|other|>", "<|activation|>"], special_tokens=True)
    with pytest.raises(UserError, match=f"is id {sidecar.marker_id + 1} between"):
        sidecar.check_tokenizer(other)
    sidecar.check_source(model, 1)
    sidecar.check_source(None, None)
    for expected, said in (((None, 2), "layer is 2"), (("m", None), "model is 'm'")):
        with pytest.raises(UserError, match=said):
            sidecar.check_source(*expected)
    sidecar.check_templates(sidecar.actor_template, None)
    with pytest.raises(UserError, match=r"data\.prompt\.critic"):
        sidecar.check_templates(None, "other {explanation} =")
    with pytest.raises(UserError, match="does not hold the documents"):
        sidecar.check_documents("train.parquet", "train", ["a", "b"])
