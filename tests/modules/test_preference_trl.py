"""Our losses of preferences against those of the installed TRL (the extra ``bench``), with ``pytest -m slow``."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from lit_narrative.lm.logprobs import CompletionBatch
from lit_narrative.modules.preference import PreferenceBatch
from lit_narrative.rl.preferences import PreferenceSettings
from tests.helpers import sizes, tiny_lm, tokenizer
from tests.modules.test_preference import Preferring, module
from tests.rl import test_preferences as golden

trl = pytest.importorskip("trl", reason="the extra 'bench' is not installed")
pytestmark = pytest.mark.slow


def trainer(kind: str, folder: Path, policy: nn.Module, reference: nn.Module, beta: float, **settings: Any) -> Any:
    """TRL's trainer of two models, ``dpo`` or ``kto``; its rows are not read."""
    from datasets import Dataset

    quiet = {"output_dir": str(folder), "report_to": [], "use_cpu": True, "bf16": False, "max_length": None}
    pairs = [{"prompt": "A", "chosen": "b", "rejected": "c"}] * 4
    marked = [{"prompt": "A", "completion": "b", "label": number % 2 == 0} for number in range(4)]
    if kind == "dpo":
        kinds: Any = (trl.DPOTrainer, trl.DPOConfig)
    else:
        kinds, settings = (trl.KTOTrainer, trl.KTOConfig), {"train_sampling_strategy": "sequential", **settings}
    return kinds[0](
        model=policy,
        ref_model=reference,
        args=kinds[1](beta=beta, **quiet, **settings),
        train_dataset=Dataset.from_list(pairs if kind == "dpo" else marked),
        processing_class=tokenizer(),
    )


class Answers(nn.Module):
    """A model that returns given log-probabilities, a batch of them each time it is asked."""

    def __init__(self, *answers: list[list[float]]) -> None:
        super().__init__()
        self.answers = list(answers)

    def forward(self, **_: Any) -> Any:
        rows, self.answers = self.answers[0], self.answers[1:] or self.answers
        found = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
        zeros = torch.zeros_like(found)
        return SimpleNamespace(log_probs=found, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool())


def inputs(rows: list[list[float]], prefix: str = "") -> dict[str, torch.Tensor]:
    mask = torch.tensor([[0] + [1] * len(row) + [0] * (3 - len(row)) for row in rows])
    return {
        f"{prefix}input_ids": torch.zeros_like(mask),
        f"{prefix}attention_mask": torch.ones_like(mask),
        f"{prefix}completion_mask": mask,
    }


@pytest.mark.parametrize("name", golden.TRL)
def test_the_checked_in_losses_of_pairs_are_trl_s(name: str, tmp_path: Path) -> None:
    given = {"label_smoothing": 0.2} if name == "robust" else {}
    theirs = trainer("dpo", tmp_path, tiny_lm(), tiny_lm(), golden.BETA, loss_type=[name], **given)
    theirs.ref_model = Answers(golden.REFERENCE)
    loss = theirs._compute_loss(Answers(golden.POLICY), inputs(golden.POLICY), False)
    assert float(loss) == pytest.approx(golden.TRL[name][1], abs=1e-6)


def test_the_checked_in_loss_of_completions_by_themselves_is_trl_s(tmp_path: Path) -> None:
    theirs = trainer("kto", tmp_path, tiny_lm(), tiny_lm(), golden.BETA, undesirable_weight=1.5)
    theirs.ref_model = Answers(golden.BESIDE_REFERENCE, golden.REFERENCE)
    batch = {**inputs(golden.POLICY), **inputs(golden.BESIDE, "KL_"), "label": golden.DESIRABLE}
    loss = theirs._compute_loss(Answers(golden.BESIDE, golden.POLICY), batch, False)
    assert float(loss) == pytest.approx(golden.TRL_KTO, abs=1e-6)


def as_trl(batch: CompletionBatch, prefix: str = "") -> dict[str, torch.Tensor]:
    """Our right-padded batch as TRL's."""
    ends = (batch.targets * torch.arange(1, batch.ids.shape[1] + 1)).amax(1, keepdim=True)
    seen = torch.arange(batch.ids.shape[1]) < ends
    return {
        f"{prefix}input_ids": batch.ids.long(),
        f"{prefix}attention_mask": seen.long(),
        f"{prefix}completion_mask": batch.targets.long(),
    }


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@pytest.mark.parametrize("loss_type", ["sigmoid", "sigmoid_norm", "ipo", "kto"])
def test_a_step_on_a_model_is_trl_s(loss_type: Any, architecture: str, tmp_path: Path) -> None:
    """The loss and its gradients, of a policy that has left its reference."""
    policy = module(tmp_path, model=sizes(architecture, layers=2), loss=PreferenceSettings(loss_type, 0.3))
    policy.set_model(tiny_lm(architecture), tokenizer())
    reference = tiny_lm(architecture)
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.lm.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=noise))
    policy.reference = reference
    policy._trainer = SimpleNamespace(training=False)  # type: ignore[assignment]
    batch: PreferenceBatch = policy.collate(policy.validate_rows(Preferring().scored("train")))
    losses, _ = policy._compare(batch)
    assert losses is not None
    losses.mean().backward()
    ours = {name: p.grad.clone() for name, p in policy.lm.named_parameters() if p.grad is not None}
    policy.zero_grad()
    given = as_trl(batch.examples)
    if batch.beside is None:
        theirs = trainer("dpo", tmp_path, policy.lm, reference, 0.3, loss_type=[loss_type])
    else:
        theirs = trainer("kto", tmp_path, policy.lm, reference, 0.3)
        given |= {**as_trl(batch.beside, "KL_"), "label": batch.desirable}
    loss = theirs._compute_loss(theirs.model, given, False)
    loss.backward()
    assert float(loss) == pytest.approx(float(losses.mean()), abs=1e-5)
    for name, parameter in policy.lm.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, atol=1e-5, rtol=1e-3)
