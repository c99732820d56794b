"""Measured values of the earlier system: distinct-n, perplexity by a tiny model, the step on the logits."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from lit_narrative.lm.logprobs import completion_batch, score_completions
from tests.paths import GOLDEN
from tests.tasks.poetry.original_metrics import original_distinct_n, original_logit_step, original_perplexity

pytestmark = pytest.mark.golden

FOLDER = GOLDEN
FILE = FOLDER / "poetry_metrics.json"


def golden() -> Any:
    return json.loads(FILE.read_text())


def cases(*keys: str) -> list[Any]:
    """The number of every entry of a list; one that skips where the file is absent."""
    if not FILE.is_file():
        return [pytest.param(0, marks=pytest.mark.skip(f"no golden values at {FOLDER}; set LIT_GOLDEN"))]
    result = golden()
    for key in keys:
        result = result[key]
    return list(range(len(result)))


@pytest.fixture(scope="module")
def scorer() -> GPT2LMHeadModel:
    saved = torch.load(FOLDER / "pplm.pt", weights_only=True)
    lm = GPT2LMHeadModel(GPT2Config(**saved["config"])).eval()
    lm.load_state_dict(saved["state_dict"], strict=False)
    return lm


@torch.no_grad()
def token_nlls(lm: GPT2LMHeadModel, text: str) -> list[float] | None:
    """Of the tokens of a text (numbers in words) but its first; None where it has no tokens."""
    ids = torch.tensor([[int(token) for token in text.split()]])
    if not ids.numel():
        return None
    logprobs = lm(ids).logits[0, :-1].log_softmax(-1)
    return (-logprobs.gather(1, ids[0, 1:, None])[:, 0]).tolist()


@pytest.mark.parametrize("number", cases("distinct"))
def test_distinct(number: int) -> None:
    case = golden()["distinct"][number]
    for n in (1, 2, 3):
        assert original_distinct_n(case["texts"], n) == pytest.approx(case[f"d{n}"], abs=1e-12)


@pytest.mark.parametrize("number", cases("perplexity"))
def test_perplexity(number: int, scorer: GPT2LMHeadModel) -> None:
    case = golden()["perplexity"][number]
    result = original_perplexity([token_nlls(scorer, text) for text in case["texts"]])
    assert result == pytest.approx(float(case["value"]), rel=1e-4, nan_ok=True)


@pytest.mark.parametrize("number", cases("per_text"))
def test_texts_one_by_one(number: int, scorer: GPT2LMHeadModel) -> None:
    case = golden()["per_text"][number]
    nlls = token_nlls(scorer, case["text"])
    assert nlls is not None
    assert len(nlls) == case["scored_tokens"]
    assert math.fsum(nlls) / len(nlls) == pytest.approx(case["mean_nll"], abs=1e-4)


@pytest.mark.skipif(not FILE.is_file(), reason=f"no golden values at {FOLDER}; set LIT_GOLDEN")
def test_weighing_by_tokens(scorer: GPT2LMHeadModel) -> None:
    rows = [[int(token) for token in case["text"].split()] for case in golden()["per_text"]]
    rows = [row for row in rows if len(row) > 1]
    batch = completion_batch([row[:1] for row in rows], [row[1:] for row in rows])
    with torch.no_grad():
        nll = -float(score_completions(scorer, batch).logprobs.sum()) / sum(len(row) - 1 for row in rows)
    assert math.exp(nll) == pytest.approx(golden()["token_weighted_perplexity"], rel=1e-4)


@pytest.mark.parametrize("number", cases("seed_logit_step", "results"))
def test_logit_step(number: int) -> None:
    given = golden()["seed_logit_step"]
    case = given["results"][number]
    result = original_logit_step(
        np.array(given["logits"]), given["bow"], case["step"], given["temperature"], given["top_k"]
    )
    assert result.loss == pytest.approx(case["loss"], abs=1e-5)
    assert result.gradient == pytest.approx(np.array(case["grad"]), abs=1e-6)
    assert result.probabilities == pytest.approx(np.array(case["final"]), abs=1e-6)
    assert result.mass_before == pytest.approx(case["bow_mass_before"], abs=1e-7)
    assert result.mass_after == pytest.approx(case["bow_mass_after"], abs=1e-6)
