"""A model's own texts as examples, the best by a score."""

import json
from pathlib import Path
from typing import Any

import pytest

from lit_narrative.callbacks.evaluation import Verifiers
from lit_narrative.datamodules.poetry import PoetryData
from lit_narrative.datamodules.rejection_sampling import RejectionSampling, best_texts
from lit_narrative.errors import UserError
from lit_narrative.lm.sampler import SamplingParams
from lit_narrative.modules.sft import SFTModule
from tests.helpers import TinyTask, fit, sizes, tiny_lm, tokenizer, tokenizer_folder, trainer, weights


def sample(number: int, finished: bool = True, **scores: float) -> dict[str, Any]:
    given = {"reward": number / 10, "components": {"learned": 1 - number / 10, **scores}}
    return {"prompt": "Write.", "text": f"tide {number}", "finished": finished, **given}


@pytest.fixture
def file(tmp_path: Path) -> str:
    """Ten texts; those with an odd number were cut off."""
    path = tmp_path / "samples.jsonl"
    path.write_text("".join(f"{json.dumps(sample(n, n % 2 == 0))}\n" for n in range(10)))
    return str(path)


@pytest.mark.parametrize(
    ("settings", "texts"),
    [
        ({}, [8]),
        ({"share": 0.4}, [8, 6]),
        ({"share": 1.0}, [8, 6, 4, 2, 0]),
        ({"share": 0.01}, [8]),
        ({"by": "learned", "share": 0.6}, [0, 2, 4]),
        ({"threshold": 0.4}, [8, 6, 4]),
        ({"threshold": 0.8, "by": "learned"}, [0, 2]),
    ],
)
def test_the_best_that_came_to_their_end_are_kept(settings: dict[str, Any], texts: list[int], file: str) -> None:
    rows = best_texts(RejectionSampling(file, **settings))
    assert [row.completion for row in rows] == [f"tide {n}" for n in texts]
    assert {row.prompt for row in rows} == {"Write."}
    assert all(0 <= row.meta["score"] <= 1 for row in rows)


def test_they_take_the_place_of_training_examples_alone(file: str) -> None:
    own = PoetryData(train_size=5, val_size=5, test_size=5)
    made = PoetryData(train_size=5, val_size=5, test_size=5, preferred=RejectionSampling(file))
    assert [row.completion for row in made.view("examples", "train")] == ["tide 8"]
    assert made.view("examples", "val") == own.view("examples", "val")
    assert made.view("prompts", "train") == own.view("prompts", "train")
    assert made.view("labelled", "train") == own.view("labelled", "train")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"file": "elsewhere.jsonl"}, "no file 'elsewhere.jsonl'; `lit-narrative predict` with the callback Verifiers"),
        ({"by": "lerned"}, "has no score 'lerned'.*learned"),
        ({"threshold": 0.9}, "the best text of .* has 0.8; lower it"),
        ({"share": 0.0}, "share=0.0 must be above 0"),
        ({"share": 1.1}, "share=1.1 must be above 0, and 1 at most"),
        ({"threshold": float("nan")}, "threshold=nan must be a number"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str, file: str) -> None:
    with pytest.raises(UserError, match=message):
        best_texts(RejectionSampling(**{"file": file, **settings}))


@pytest.mark.parametrize("line", ["no JSON", "[]", '{"prompt": "", "text": "", "finished": true, "reward": 1}'])
def test_what_is_no_judged_sample_is_named_by_its_line(line: str, file: str) -> None:
    with Path(file).open("a") as more:
        more.write(line + "\n")
    with pytest.raises(UserError, match="line 11 is not a judged sample"):
        best_texts(RejectionSampling(file))


def test_texts_that_were_all_cut_off_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.jsonl"
    path.write_text(json.dumps(sample(1, finished=False)) + "\n")
    with pytest.raises(UserError, match=r"none of 1 texts came to its end; raise model\.sampling\.max_new_tokens"):
        best_texts(RejectionSampling(str(path)))


def test_a_model_writes_is_judged_and_learns_from_its_best(tmp_path: Path) -> None:
    """By the command's own steps: predict with Verifiers on training prompts, then SFT on what they preferred."""
    writer = SFTModule(sizes(), sampling=SamplingParams(40))
    writer.set_model(tiny_lm(scale=4), tokenizer())
    task = TinyTask(rows=60, predict_split="train")
    trainer(tmp_path, Verifiers(rewards=["low"])).predict(writer, task)
    file = str(tmp_path / "samples" / "predict.jsonl")
    rows = [json.loads(line) for line in Path(file).read_text().splitlines()]
    whole = sorted((row["components"]["low"] for row in rows if row["finished"]), reverse=True)
    assert len(whole) > 1
    chosen = RejectionSampling(file, "low", 0.5)
    assert [row.meta["score"] for row in best_texts(chosen)] == whole[: round(len(whole) / 2)]
    learner = SFTModule(sizes(), tokenizer_folder(tmp_path), lr=0.01)
    fit(learner, TinyTask(rows=60, preferred=chosen), tmp_path, max_steps=1, limit_train_batches=1)
    before = weights(SFTModule(sizes(), tokenizer_folder(tmp_path)).source.build()[0])
    assert any(not after.equal(before[name]) for name, after in weights(learner.lm).items())


def test_predict_completes_the_prompts_of_the_split_that_is_asked_for() -> None:
    made = PoetryData(prompt_size=4, test_size=4, predict_split="train")
    assert made.predict_split == "train"
    assert not {row.text for row in made.prompts("train")} & {row.text for row in made.prompts("test")}
