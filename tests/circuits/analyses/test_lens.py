"""The lens ends in the model's own answer, and direct contributions add up to it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lit_narrative.circuits.analyses.lens import direct_attribution, logit_lens
from lit_narrative.circuits.bridge import build_bridge, run
from lit_narrative.circuits.inputs import IGNORED
from lit_narrative.circuits.records.lens import Direct, Lens
from lit_narrative.errors import UserError
from tests.circuits.analyses.test_patching import random_contrasts
from tests.circuits.planted import planted_contrasts, planted_inputs, planted_lm
from tests.circuits.test_bridge import KINDS, make


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_the_end_of_the_lens_is_the_model(kind: str) -> None:
    bridge, inputs = build_bridge(make(kind)), random_contrasts(padded=2).inputs("clean")
    rows = logit_lens(bridge, inputs, batch_size=2).rows
    logits = run(bridge, inputs.tokens, inputs.mask)[:, -1]
    answer = inputs.targets[:, -1:]
    assert [row.layer for row in rows] == [0, 1, 2]
    right = logits.gather(1, answer)
    assert rows[-1].logprob == pytest.approx(float(logits.log_softmax(-1).gather(1, answer).mean()), abs=1e-5)
    assert rows[-1].rank == pytest.approx(float((logits > right).sum(1).double().mean()))
    assert rows[-1].kl == pytest.approx(0, abs=1e-6)
    assert rows[0].kl > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_direct_contributions_add_up_to_the_logit_difference(kind: str) -> None:
    inputs = random_contrasts(padded=1).inputs("clean")
    assert inputs.distractors is not None
    inputs.targets[:, 3], inputs.distractors[:, 3] = 5, 6
    result = direct_attribution(build_bridge(make(kind)), inputs)
    assert result.values.shape == (len(result.parts), int((inputs.targets != IGNORED).sum()))
    assert result.values.sum(0) == pytest.approx(result.logit_diff, abs=1e-4)
    assert np.abs(result.values[:-1]).max() > 0.1


def test_the_planted_answer_appears_with_the_head_that_writes_it(tmp_path: Path) -> None:
    bridge, inputs = build_bridge(planted_lm()), planted_contrasts().inputs("clean")
    lens, direct = logit_lens(bridge, inputs), direct_attribution(bridge, inputs)
    assert [row.accuracy for row in lens.rows[1:]] == [pytest.approx(1 / 8, abs=0.25), 1.0]
    (first, value), (_, rest) = direct.ranked()[:2]
    assert first == "a1.h1"
    assert value == pytest.approx(float(direct.logit_diff.mean()), rel=0.05)
    assert abs(rest) < 0.1 * value
    assert Lens.load(lens.save(tmp_path)) == lens
    read = Direct.load(direct.save(tmp_path))
    assert read.parts == direct.parts
    assert np.array_equal(read.values, direct.values)


def test_a_distractor_is_asked_for() -> None:
    with pytest.raises(UserError, match="these rows have none"):
        direct_attribution(build_bridge(planted_lm()), planted_inputs(2))
