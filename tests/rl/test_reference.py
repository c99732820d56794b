"""Which policy is the reference, and how it follows."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lit_narrative.errors import UserError
from lit_narrative.lm.load import Lora
from lit_narrative.lm.logprobs import score_completions, to_rows
from lit_narrative.lm.sampler import SamplingParams
from lit_narrative.lm.tokenizer import TrainedTokenizer, train_tokenizer
from lit_narrative.modules.grpo import GRPOModule
from lit_narrative.rl.loss_settings import LossSettings
from lit_narrative.rl.reference import ReferenceSettings, adapters_of_reference
from tests.helpers import TEXTS, Recorder, TinyTask, fit, grpo, sizes, tiny_lm, tokenizer_folder, weights

LORA = Lora(r=2)
EVERY_TWO = ReferenceSettings(sync_ref_model=True, ref_model_sync_steps=2, ref_model_mixup_alpha=0.25)


def policy(folder: Path, **settings: Any) -> GRPOModule:
    given: dict[str, Any] = {"model": sizes(layers=2), "num_generations": 4, "sampling": SamplingParams(8), "lr": 5e-2}
    return grpo(folder, **{**given, **settings})


@pytest.mark.parametrize(
    ("settings", "beta", "lora", "kind"),
    [
        (ReferenceSettings(), 0.0, False, "none"),
        (ReferenceSettings(), 0.1, False, "copy"),
        (ReferenceSettings(), 0.1, True, "adapter_off"),
        (EVERY_TWO, 0.1, True, "adapter_copy"),
        (ReferenceSettings("adapter_copy"), 0.0, True, "adapter_copy"),
        (ReferenceSettings("copy"), 0.1, True, "copy"),
        (ReferenceSettings(model="another"), 0.0, True, "copy"),
    ],
)
def test_the_kind_follows_from_what_is_needed(settings: ReferenceSettings, beta: float, lora: bool, kind: str) -> None:
    assert settings.resolve(beta, lora) == kind


@pytest.mark.parametrize(
    ("settings", "beta", "lora", "message"),
    [
        ({"kind": "none"}, 0.1, False, r"reference\.kind is none, but model\.loss\.beta=0\.1 needs a reference"),
        ({"kind": "adapter_off"}, 0.1, False, r"'adapter_off' needs adapters: set model\.lora"),
        ({"kind": "copy", "sync_ref_model": True}, 0.1, True, r"choose adapter_copy"),
        ({"sync_ref_model": True}, 0.0, False, r"sync_ref_model: there is no reference"),
        ({"kind": "adapter_off", "sync_ref_model": True}, 0.1, True, r"has no weights that could follow"),
        ({"kind": "adapter_off", "model": "x"}, 0.1, True, r"reference\.model is a second model"),
        ({"ref_model_sync_steps": 0}, 0.1, False, r"ref_model_sync_steps=0 must be at least 1"),
        ({"ref_model_mixup_alpha": 1.5}, 0.1, False, r"ref_model_mixup_alpha=1\.5 must be above 0"),
    ],
)
def test_contradictions_are_refused(settings: dict[str, Any], beta: float, lora: bool, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ReferenceSettings(**settings).resolve(beta, lora)


def test_a_copy_moves_towards_the_policy_every_few_steps(tmp_path: Path) -> None:
    """Against the same run with a reference that stays: after two steps a quarter of the way, and not before."""
    still = policy(tmp_path, lr=0.0)
    fit(still, TinyTask(), tmp_path, max_steps=1)
    start = weights(still.lm)
    for steps, share in ((1, 0.0), (2, 0.25), (3, 0.25)):
        module = policy(tmp_path, reference=EVERY_TWO)
        # the policy of step 2 is what the reference moved to
        reached = policy(tmp_path, reference=ReferenceSettings())
        fit(reached, TinyTask(), tmp_path, max_steps=min(steps, 2))
        fit(module, TinyTask(), tmp_path, max_steps=steps)
        for name, value in weights(module.reference).items():
            expected = torch.lerp(start[name], weights(reached.lm)[name], share)
            torch.testing.assert_close(value, expected, atol=1e-6, rtol=0)


def test_a_copy_of_the_adapters_moves_too_and_the_base_stays(tmp_path: Path) -> None:
    module, seen = policy(tmp_path, lora=LORA, reference=EVERY_TWO), Recorder()
    fit(module, TinyTask(rows=4), tmp_path, seen, max_epochs=5)
    own = {name: value for name, value in weights(module.lm).items() if ".default." in name}
    for name, value in own.items():
        reference = weights(module.lm)[name.replace(".default.", ".reference.")]
        assert not torch.equal(reference, value)
        if "lora_B" in name:
            assert reference.abs().max() > 0
    batch = seen.batches[-1]
    with adapters_of_reference(module.lm), torch.no_grad():
        expected = to_rows(score_completions(module.lm, batch.batch).logprobs, batch.mask)
    torch.testing.assert_close(batch.reference, expected, atol=1e-5, rtol=0)
    assert (batch.reference - batch.old).abs().max() > 1e-3
    trained = {name for name, parameter in module.lm.named_parameters() if parameter.requires_grad}
    assert trained == set(own)


def test_without_moving_a_copy_of_the_adapters_is_the_policy_that_the_run_began_from(tmp_path: Path) -> None:
    off, copied = Recorder(), Recorder()
    for kind, seen in (("adapter_off", off), ("adapter_copy", copied)):
        module = policy(tmp_path, lora=LORA, reference=ReferenceSettings(kind))
        fit(module, TinyTask(rows=4), tmp_path, seen, max_epochs=3)
    for one, other in zip(off.batches, copied.batches, strict=True):
        torch.testing.assert_close(one.reference, other.reference, atol=1e-6, rtol=0)


def test_another_model_can_be_the_reference(tmp_path: Path) -> None:
    folder, seen = tmp_path / "other", Recorder()
    other = tiny_lm(hidden_size=8, seed=3)
    other.save_pretrained(folder)
    module = policy(tmp_path, reference=ReferenceSettings(model=str(folder)), tokenizer=tokenizer_folder(tmp_path))
    tokenizer_of(folder)
    fit(module, TinyTask(), tmp_path, seen, max_steps=1)
    with torch.no_grad():
        expected = to_rows(score_completions(other, seen.batches[0].batch).logprobs, seen.batches[0].mask)
    torch.testing.assert_close(seen.batches[0].reference, expected, atol=1e-5, rtol=0)


def tokenizer_of(folder: Path) -> None:
    from tests.helpers import tokenizer

    tokenizer().save_pretrained(folder)


def test_a_reference_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "other"
    tiny_lm(vocabulary=280).save_pretrained(folder)
    train_tokenizer(TEXTS, TrainedTokenizer(280)).save_pretrained(folder)
    module = policy(tmp_path, reference=ReferenceSettings(model=str(folder)))
    with pytest.raises(UserError, match=r"has another vocabulary \(280 tokens\) than the policy \(300 tokens\)"):
        fit(module, TinyTask(), tmp_path, max_steps=1)


def test_a_reference_without_a_penalty_only_tells_how_far_the_policy_went(tmp_path: Path) -> None:
    found = []
    for kind in ("none", "copy"):
        module, seen = policy(tmp_path, loss=LossSettings(beta=0.0), reference=ReferenceSettings(kind)), Recorder()
        fit(module, TinyTask(), tmp_path, seen, max_epochs=2)
        found.append(weights(module.lm))
    assert seen.metrics[-1]["kl"] > 1e-4
    for name, value in found[0].items():
        assert torch.equal(value, found[1][name])
