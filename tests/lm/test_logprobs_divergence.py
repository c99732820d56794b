"""The divergence from a teacher: TRL's values, and no more memory than a workspace."""

from typing import Any

import pytest
import torch

from lit_narrative.lm.logprobs import (
    CompletionBatch,
    Teacher,
    TokenScores,
    completion_batch,
    score_completions,
    token_divergence,
)
from lit_narrative.views import TokenMasks
from tests.helpers import ARCHITECTURES, tiny_lm

POSITIONS = torch.arange(2 * 3 * 7, dtype=torch.float32).view(2, 3, 7)
STUDENT, TAUGHT = 2 * torch.sin(POSITIONS), 2 * torch.cos(1.7 * POSITIONS)
LABELS = torch.tensor([[1, 2, -100], [3, -100, 4]])
TEMPERATURE = 0.7
TRL = {
    0.0: (2.6446022987365723, 2.1736762523651123),
    0.1: (0.1787664145231247, 0.10872602462768555),
    0.5: (0.4155416488647461, 0.23526626825332642),
    0.9: (0.18187759816646576, 0.11545813828706741),
    1.0: (2.8068583011627197, 2.4822168350219727),
}
"""By beta: ``GKDTrainer.generalized_jsd_loss`` of TRL 1.16.0 for these logits, and the sum of its gradient's sizes."""


@pytest.mark.parametrize("beta", TRL)
def test_it_is_trl_s(beta: float) -> None:
    student, learned = STUDENT.clone().requires_grad_(), LABELS != -100
    found = token_divergence(student[learned] / TEMPERATURE, TAUGHT[learned] / TEMPERATURE, beta)
    assert found.shape == (4,) and bool((found >= 0).all())
    loss = found.sum() / len(found)
    loss.backward()
    assert student.grad is not None
    assert (float(loss), float(student.grad.abs().sum())) == pytest.approx(TRL[beta], abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("beta", TRL)
def test_the_installed_trl_gives_the_checked_in_values(beta: float) -> None:
    gkd = pytest.importorskip("trl.experimental.gkd", reason="the extra 'bench' is not installed")
    loss = gkd.GKDTrainer.generalized_jsd_loss(STUDENT, TAUGHT, LABELS, beta=beta, temperature=TEMPERATURE)
    assert float(loss) == pytest.approx(TRL[beta][0], abs=1e-6)


def test_of_padded_vocabularies_the_common_tokens_are_compared() -> None:
    padded = torch.cat([TAUGHT, torch.full((2, 3, 2), 50.0)], dim=-1)
    torch.testing.assert_close(token_divergence(STUDENT, padded, 1.0), token_divergence(STUDENT, TAUGHT, 1.0))


def batch() -> CompletionBatch:
    return completion_batch([[5, 6, 7], [5, 6, 7], [8]], [[9, 10, 11, 12], [13], [14, 15]])


def scored(lm: Any, teacher: Any, beta: float = 1.0, **given: Any) -> TokenScores:
    return score_completions(lm, given.pop("batch", batch()), teacher=Teacher(teacher, beta), **given)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_scoring_compares_whole_distributions_a_few_positions_at_a_time(architecture: str) -> None:
    """The same values and gradients whatever fits the workspace, and those of the models' own logits."""
    lm, teacher = tiny_lm(architecture, scale=2.0), tiny_lm(architecture, scale=3.0, seed=1)
    found = []
    for workspace in (2**24, 1):
        lm.zero_grad()
        scores = scored(lm, teacher, 0.3, workspace=workspace, temperature=0.8)
        assert scores.divergence is not None
        scores.divergence.sum().backward()
        found.append((scores.divergence.detach(), [p.grad.clone() for p in lm.parameters() if p.grad is not None]))
    given = batch()
    before = given.targets[:, 1:]
    logits = [model(given.ids).logits[:, :-1][before] / 0.8 for model in (lm, teacher)]
    torch.testing.assert_close(found[0][0], token_divergence(*logits, 0.3), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found[1][0], found[0][0])
    for one, other in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_a_model_is_not_apart_from_itself_also_under_a_grammar() -> None:
    lm = tiny_lm(scale=2.0)
    allowed = torch.full((2, -(-lm.config.vocab_size // 32)), -1, dtype=torch.int32)
    allowed[1, 2:] = 0  # the first 64 tokens alone
    masked = batch()._replace(masks=TokenMasks(allowed, torch.ones(3, 4, dtype=torch.long)))
    for beta in (0.0, 0.5, 1.0):
        own, other = (scored(lm, model, beta, batch=masked).divergence for model in (lm, tiny_lm(seed=1, scale=2.0)))
        assert own is not None and other is not None
        torch.testing.assert_close(own, torch.zeros_like(own), atol=1e-5, rtol=0)
        assert bool(other.isfinite().all()) and bool((other > 1e-4).all())


class Peak(torch.utils._python_dispatch.TorchDispatchMode):
    """The most elements of any tensor that was made."""

    most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else [out]:
            if isinstance(value, torch.Tensor):
                self.most = max(self.most, value.numel())
        return out


def test_no_tensor_holds_the_logits_of_the_whole_batch() -> None:
    lm, teacher = tiny_lm(vocabulary=4096), tiny_lm(vocabulary=4096, seed=1)
    weights = max(parameter.numel() for parameter in lm.parameters())
    long = completion_batch([[5]] * 4, [list(range(6, 106))] * 4)
    with Peak() as peak:
        divergence = scored(lm, teacher, batch=long, workspace=2**16).divergence
        assert divergence is not None
        divergence.sum().backward()
    assert peak.most <= max(weights, 2**16) < 400 * 4096
