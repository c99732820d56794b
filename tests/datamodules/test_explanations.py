"""The judge of explanations: both critics, the subject for the causal test, and rows for the record."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from lit_narrative.datamodules.explanations import ExplanationJudge, Subject, TrainingRows, answer_row, from_stories
from lit_narrative.datamodules.task import Answered
from lit_narrative.lm.load import ScratchModel, build_lm, scratch_config
from lit_narrative.lm.tokenizer import TrainedTokenizer, encode_prompts, train_tokenizer
from lit_narrative.lm.vectors.activations import read_block_output
from lit_narrative.lm.vectors.reconstructor import Reconstructor, ReconstructorSettings
from lit_narrative.tasks.verbalize.prompts import answer, explanation_of
from lit_narrative.tasks.verbalize.stories import stories, vocabulary_texts
from lit_narrative.views import Rollout

WIDTH, LAYER = 16, 1
FURTHER = "An activation of a language model in words : <text> </text> <summary>"
TOKENIZER = train_tokenizer([*vocabulary_texts(), FURTHER], TrainedTokenizer(kind="words"))


def model() -> Any:
    spec = ScratchModel("llama", hidden_size=WIDTH, layers=2, heads=2, positions=128, seed=0)
    lm = build_lm(scratch_config(spec, len(TOKENIZER), TOKENIZER.eos_token_id), seed=0).eval()
    with torch.no_grad():
        for parameter in lm.parameters():
            if parameter.ndim > 1:
                parameter.mul_(5)
    return lm


def read(lm: Any, source: str) -> np.ndarray:
    ids = torch.tensor(encode_prompts(TOKENIZER, [source]))
    vector: np.ndarray = read_block_output(lm, ids, torch.ones_like(ids), LAYER)[0, -1].numpy()
    return vector


def answers(lm: Any, texts: dict[int, str] | None = None, count: int = 8) -> list[Answered]:
    """The last words of stories as explanations, five positions of each story."""
    made, nothing = [], torch.zeros(0)
    for number, story in enumerate(stories(0, "test", count)):
        words = story.text.split()
        for cut in range(9, 19, 2):
            source, reference = " ".join(words[:cut]), answer(" ".join(words[cut - 2 : cut]))
            columns = {
                "target": read(lm, source), "document": f"story {number}", "position": cut, "source": source,
                "reference": reference, "index": len(made),
            }  # fmt: skip
            text = (texts or {}).get(len(made), reference)
            made.append(Answered(Rollout(nothing.long(), nothing.long(), nothing, True, text, "p", columns), 0.5, -1.0))
    return made


def judge(lm: Any, **other: Any) -> ExplanationJudge:
    sources = [story.text for story in stories(0, "train", 20)]

    def training() -> TrainingRows:
        return TrainingRows(np.stack([read(lm, text) for text in sources]), [text[-9:] for text in sources], sources)

    return ExplanationJudge(training, "~", stories=True, **other)


def critic() -> Reconstructor:
    return Reconstructor(model(), TOKENIZER, ReconstructorSettings(layer=LAYER)).eval()


def test_both_critics_and_the_causal_test() -> None:
    lm = model()
    found = judge(lm, frozen=critic(), subject=lambda: Subject(lm, TOKENIZER, LAYER), causal_rows=12)
    scores = found.scores(answers(lm), references=True, causal=True)
    assert scores["fve"] == scores["fve_frozen"]
    assert scores["claims_precision"] == scores["format"] == 1
    assert 0 < scores["causal_n"] <= 12 and scores["causal_kl"] > 0
    assert {"teacher", "nearest_neighbour_frozen", "fve_paraphrase", "position_match", "causal_shift"} <= scores.keys()
    json.dumps(scores, allow_nan=False)
    found.co_trained = lambda texts: torch.ones(len(texts), WIDTH)
    other = found.scores(answers(lm), references=False, causal=False)
    assert other["fve_frozen"] == scores["fve_frozen"] and other["fve"] != scores["fve"] and "causal_n" not in other


def test_own_activation_changes_nothing_and_a_claimed_word_is_a_token() -> None:
    lm = model()
    subject = Subject(lm, TOKENIZER, LAYER)
    sources = [str(row.rollout.columns["source"]) for row in answers(lm)]
    own = np.stack([read(lm, source) for source in sources])
    assert subject.predict(sources, own) == pytest.approx(subject.predict(sources, None), abs=1e-4)
    assert subject.token("fox") is not None and subject.token("dragonfly") is None


def test_without_a_critic_words_are_judged_alone() -> None:
    lm = model()
    scores = judge(lm).scores(answers(lm), references=True, causal=True)
    assert "fve" not in scores and scores["claims_precision"] == 1 and "floor_constant" in scores


def test_rows_of_the_record() -> None:
    made = answers(model(), {0: answer("fox in the market"), 1: "\ud800 <explanation>"}, count=1)
    row, broken = (answer_row(one, explanation_of, stories=True) for one in made[:2])
    assert row["explanation"] == "fox in the market" and {*row["right"], *row["wrong"]} == {
        "animal: fox",
        "place: market",
    }
    assert broken["explanation"] is None and broken["right"] == []
    assert row["source"].endswith(row["reference"])
    json.dumps(row)
    assert answer_row(made[0], explanation_of, stories=False)["right"] == []
    cut_off = made[0]._replace(rollout=replace(made[0].rollout, finished=False))
    assert answer_row(cut_off, explanation_of, stories=True)["explanation"] is None


def test_stories_are_known_by_their_words() -> None:
    told = [story.text for story in stories(0, "val", 20)]
    assert from_stories(told) and from_stories(text[:40] for text in told)
    assert not from_stories([*told, "The red fox ran over the bridge of the old town."])
