"""Sets of the task style: zero-shot and few-shot prompts, and what is measured of the texts that answer them."""

import json
from pathlib import Path

import pytest
import torch

from lit_narrative.callbacks.set_evaluation import SetEvaluation
from lit_narrative.datamodules.base import Answered
from lit_narrative.datamodules.style import StyleData
from lit_narrative.datamodules.style_sets import FEW_SHOT, story
from lit_narrative.lm.load import ScratchModel
from lit_narrative.lm.sampler import SamplingParams
from lit_narrative.lm.sentence_encoder import StaticEncoder, build_encoder
from lit_narrative.lm.tokenizer import TrainedTokenizer
from lit_narrative.modules.sft import SFTModule
from lit_narrative.rl.rewards.similarity import SimilarityModel
from lit_narrative.views import Prompt, Rollout
from tests.helpers import trainer


@pytest.fixture(scope="module")
def judges(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Two encoders of different widths, as folders; tokens are alike that the same authors use."""
    folder, corpus = tmp_path_factory.mktemp("judges"), StyleData().corpus
    texts = [" ".join(chunk.text for chunk in corpus.of("train", author)) for author in corpus.authors]
    paths = []
    for name, width in (("a", 8), ("b", 12)):
        encoder = build_encoder(StaticEncoder(width=width, vocab_size=300, sample=300), texts)
        paths.append(str(SimilarityModel(encoder).save(folder / name)))
    return paths[0], paths[1]


@pytest.fixture(scope="module")
def data(judges: tuple[str, str]) -> StyleData:
    return StyleData(judge=judges[0], judge_b=judges[1], window=30, test_size=12, val_size=6)


def answered(prompt: Prompt, text: str) -> Answered:
    empty = torch.zeros(0)
    return Answered(Rollout(empty, empty, empty, True, text, str(prompt.text), prompt.columns), 1.0, None)


def test_few_shot_prompts_are_those_of_the_test_with_the_sample_before_them(data: StyleData) -> None:
    plain, few = data.named_prompts("test"), data.named_prompts(FEW_SHOT)
    for one, two in zip(plain, few, strict=True):
        assert one.columns == two.columns
        assert str(two.text).endswith(str(one.text))
        assert one.columns["sample"] in str(two.text)
        assert one.columns["sample"] not in str(one.text)


def test_the_authors_own_chunks_are_more_like_them_than_those_of_the_other(data: StyleData) -> None:
    prompts = data.named_prompts("test")
    held = {author: [chunk.text for chunk in data.corpus.of("test", author)] for author in data.authors}
    other = dict(zip(data.authors, reversed(data.authors), strict=True))
    right, wrong = (
        data.measure("test", [answered(row, held[named[row.columns["author"]]][n]) for n, row in enumerate(prompts)])
        for named in ({name: name for name in data.authors}, other)
    )
    for judge in ("judge_a", "judge_b"):
        assert right[judge] > wrong[judge]
        assert right[f"{judge}_identified"] > 0.7 > 0.1 > wrong[f"{judge}_identified"]
    assert right["topic_swap"] > 0.9
    assert wrong["topic_swap"] < 0.1
    assert right["copied_span"] > wrong["copied_span"]  # held-out chunks are among what may be copied
    assert right["copied_span_human"] == wrong["copied_span_human"] < right["copied_span"]
    assert right["slop"] == pytest.approx(0, abs=0.05)
    assert set(right["authors"]) == set(data.authors)


def test_the_chunk_in_the_prompt_does_not_count_for_who_repeats_it(data: StyleData) -> None:
    prompts = data.named_prompts(FEW_SHOT)
    echoed = [answered(row, str(row.columns["sample"])) for row in prompts]
    zero, few = (data.measure(name, echoed) for name in ("test", FEW_SHOT))
    assert few["judge_a"] < zero["judge_a"]
    assert few["copied_span"] == zero["copied_span"] > 100


def test_the_line_that_ends_a_text_is_no_part_of_the_story(data: StyleData) -> None:
    prompt = data.named_prompts("test")[0]
    assert story(answered(prompt, "We sailed.\nTHE END.\n")) == "We sailed."
    assert story(answered(prompt, "THE END. We sailed.")) == "THE END. We sailed."


def test_a_model_is_measured_by_sampled_texts_and_leaves_them(data: StyleData, tmp_path: Path) -> None:
    model = ScratchModel("gpt2", hidden_size=16, layers=1, heads=2, positions=400)
    module = SFTModule(model, TrainedTokenizer(kind="words"), sampling=SamplingParams(20))
    callback = SetEvaluation(test=["test", FEW_SHOT], samples=4, greedy=False)
    (metrics,) = trainer(tmp_path, callback).test(module, data, verbose=False)
    record = json.loads((tmp_path / "eval" / "test.json").read_text())
    assert list(record["splits"]) == ["test", FEW_SHOT]
    assert record["config"]["judge_b"] == data.judge_b
    for key in ("judge_a", "judge_b", "copied_span", "diversity", "slop", "finished"):
        assert metrics[f"test/test/{key}"] == pytest.approx(record["splits"]["test"][key])
        assert record["splits"]["test"][f"{key}_ci"] is not None
    rows = [json.loads(line) for line in (tmp_path / "eval" / "test.jsonl").read_text().splitlines()]
    assert [(row["set"], row["author"]) for row in rows[:2]] == [("test", name) for name in data.authors]
    assert len(rows) == 8
