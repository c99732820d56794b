"""Learning from preferences as a run: references, steps, resuming, and what is learned."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_narrative.datamodules.base import Split
from lit_narrative.errors import UserError
from lit_narrative.lm.load import Lora
from lit_narrative.lm.logprobs import score_completions, to_rows
from lit_narrative.modules.preference import PreferenceModule
from lit_narrative.rl.preferences import PreferenceSettings
from lit_narrative.rl.reference import ReferenceSettings
from lit_narrative.views import Scored
from tests.helpers import TEXTS, Recorder, TinyTask, fit, sizes, tokenizer_folder, trainer, weights

LORA = Lora(4, 8)


class Preferring(TinyTask):
    """Completions of eight prompts: those with an even number are good, however long they are."""

    def scored(self, split: Split) -> list[Scored]:
        first = {"train": 0, "val": 40, "test": 60}[split]
        return [
            Scored(f"{'tide' if good else 'salt'} {TEXTS[(first + 3 * n + int(good)) % len(TEXTS)][: 4 + n % 5]}", good,
                   prompt=f"Write {first + n}:")
            for n in range(self.rows) for good in (1.0, 0.0)
        ]  # fmt: skip


def module(folder: Path, **settings: Any) -> PreferenceModule:
    given: dict[str, Any] = {"model": sizes(layers=2, dropout=0.0), "tokenizer": tokenizer_folder(folder), "lr": 1e-2}
    return PreferenceModule(**{**given, **settings})


REFERENCES: dict[str, dict[str, Any]] = {
    "copy": {},
    "adapters off": {"lora": LORA},
    "precomputed": {"precompute_reference": True},
    "kto": {"loss": PreferenceSettings("kto")},
    "kto precomputed": {"loss": PreferenceSettings("kto"), "precompute_reference": True},
}


@pytest.mark.parametrize("name", REFERENCES)
def test_the_policy_begins_as_its_reference(name: str, tmp_path: Path) -> None:
    policy, seen = module(tmp_path, **REFERENCES[name]), Recorder()
    runner = fit(policy, Preferring(), tmp_path, seen, max_steps=2, limit_val_batches=1.0, val_check_interval=1)
    first = seen.metrics[0]
    assert first["loss"] == pytest.approx(0.5 if "kto" in name else math.log(2), abs=1e-5)
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-5)
    assert seen.losses[1] != pytest.approx(seen.losses[0], abs=1e-4)
    held_out = {key.removeprefix("val/") for key in runner.callback_metrics if key.startswith("val/")}
    assert held_out >= {"loss", "rewards/accuracies", "rewards/margins", "rewards/chosen", "rewards/rejected"}
    assert (policy.reference_copy is not None) == (name in ("copy", "kto"))


@pytest.mark.parametrize("kind", ["sigmoid", "kto"])
def test_held_out_preferences_are_learned(kind: Any, tmp_path: Path) -> None:
    policy, data = module(tmp_path, loss=PreferenceSettings(kind)), Preferring(rows=16, batch_size=8)
    runner = fit(policy, data, tmp_path, max_steps=16, limit_val_batches=1.0, check_val_every_n_epoch=4)
    # Sixteen pairs, or 32 completions.
    assert float(runner.callback_metrics["val/rewards/accuracies"]) > (0.9 if kind == "sigmoid" else 0.75)
    assert float(runner.callback_metrics["val/rewards/margins"]) > 0.1


def test_a_step_does_not_depend_on_how_it_is_cut(tmp_path: Path) -> None:
    found = []
    for size, parts in ((8, 1), (3, 3)):
        seen = Recorder()
        fit(module(tmp_path), Preferring(batch_size=size), tmp_path, seen, max_steps=1, accumulate_grad_batches=parts)
        found.append((seen.gradients[0], seen.metrics[-1]["loss"]))
    (whole, logged), (cut, again) = found
    assert logged == pytest.approx(again, abs=1e-6)
    for name, value in cut.items():
        torch.testing.assert_close(value, whole[name], atol=1e-6, rtol=1e-4)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Four steps with each kind of reference, saved after two and after four."""
    folders = {}
    for name in ("copy", "precomputed"):
        folders[name] = tmp_path_factory.mktemp(name)
        saved = ModelCheckpoint(folders[name], filename="{step}", every_n_train_steps=2, save_top_k=-1)
        runs = {"max_steps": 4, "enable_checkpointing": True}
        fit(module(folders[name], **REFERENCES[name]), Preferring(), folders[name], saved, **runs)
    return folders


def test_precomputed_log_probabilities_teach_what_the_reference_does(ran: dict[str, Path]) -> None:
    """The checkpoint holds them in place of the second model."""
    copied, precomputed = (
        torch.load(ran[name] / "step=4.ckpt", weights_only=True)["state_dict"] for name in ("copy", "precomputed")
    )
    assert any(name.startswith("reference.") for name in copied)
    assert precomputed.keys() == {name for name in copied if name.startswith("lm.")}
    for name, value in precomputed.items():
        torch.testing.assert_close(value, copied[name], atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["copy", "precomputed"])
def test_a_run_resumes_with_its_reference(name: str, ran: dict[str, Path], tmp_path: Path) -> None:
    resumed = module(tmp_path, **REFERENCES[name])
    trainer(tmp_path, max_steps=4).fit(resumed, Preferring(), ckpt_path=str(ran[name] / "step=2.ckpt"))
    ended = torch.load(ran[name] / "step=4.ckpt", weights_only=True)["state_dict"]
    for key, value in weights(resumed).items():
        torch.testing.assert_close(value, ended[key], atol=1e-6, rtol=0)


def test_a_run_that_resumes_with_other_rows_says_so(ran: dict[str, Path], tmp_path: Path) -> None:
    policy = module(tmp_path, precompute_reference=True)
    with pytest.raises(UserError, match="holds no log-probabilities of some rows"):
        trainer(tmp_path, max_steps=6).fit(
            policy, Preferring(rows=9), ckpt_path=str(ran["precomputed"] / "step=4.ckpt")
        )


def test_a_test_measures_rewards_by_the_reference_of_the_checkpoint(ran: dict[str, Path], tmp_path: Path) -> None:
    def tested(name: str) -> dict[str, float]:
        path = str(ran[name] / "step=4.ckpt")
        (found,) = trainer(tmp_path).test(module(tmp_path, **REFERENCES[name]), Preferring(), path, verbose=False)
        return {**found}

    found, alone = tested("copy"), tested("precomputed")
    assert found["test/rewards/margins"] > 0
    # The reference is nowhere then, and the test's rows were not scored.
    assert alone["test/logps/accuracies"] == found["test/logps/accuracies"] and "test/rewards/margins" not in alone
    assert PreferenceModule.load_from_checkpoint(ran["copy"] / "step=4.ckpt").reference_copy is None


def test_the_reference_may_follow_the_policy(tmp_path: Path) -> None:
    """Every second step the whole way: the third step begins where the policy is its reference."""
    follows = ReferenceSettings(sync_ref_model=True, ref_model_sync_steps=2, ref_model_mixup_alpha=1.0)
    seen = Recorder()
    fit(module(tmp_path, reference=follows), Preferring(), tmp_path, seen, max_steps=3, max_epochs=-1)
    assert [abs(metrics["loss"] - math.log(2)) < 1e-6 for metrics in seen.metrics] == [True, False, True]


def test_the_prompt_of_a_pair_is_read_once(tmp_path: Path) -> None:
    policy, seen = module(tmp_path, lr=0.0), Recorder()
    fit(policy, Preferring(), tmp_path, seen, max_steps=1)
    batch = seen.batches[0].examples
    read = []
    decoder = policy.lm.get_decoder()
    with decoder.register_forward_pre_hook(lambda _, a, given: read.append(given["input_ids"].shape), with_kwargs=True):
        scored = to_rows(score_completions(policy.lm, batch).logprobs, batch.targets).sum(1)
    assert read[0][0] == len(batch.ids) // 2
    alone = [
        score_completions(policy.lm, batch.select(torch.tensor([row]), batch.ids.shape[1])).logprobs.sum()
        for row in range(len(batch.ids))
    ]
    torch.testing.assert_close(scored, torch.stack(alone), atol=1e-4, rtol=0)


def test_what_is_too_long_is_refused_or_left_out_with_its_pair(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"exceeds model\.max_length=14"):
        fit(module(tmp_path, max_length=14), Preferring(), tmp_path, max_steps=1)
    seen = Recorder()
    fit(module(tmp_path, max_length=14, long_examples="drop"), Preferring(batch_size=99), tmp_path, seen, max_steps=1)
    assert 0 < seen.batches[0].rows < 8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": 0.5}, "threshold is of loss_type kto"),
        ({"loss": PreferenceSettings("kto"), "pairs_per_prompt": 2}, "makes no pairs"),
        ({"pairs_per_prompt": 0}, "pairs_per_prompt is 0"),
        ({"lora": Lora(4, 8, dropout=0.1)}, "dropout is off here"),
        ({"precompute_reference": True, "reference": ReferenceSettings(sync_ref_model=True)}, "leave one of them out"),
        ({"precompute_reference": True, "lora": LORA, "reference": ReferenceSettings("adapter_off")}, "leave that out"),
        ({"reference": ReferenceSettings("none")}, "needs a reference"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        module(tmp_path, **settings)


def test_a_task_without_scored_completions_says_where_they_may_come_from(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"offers no 'scored' view.*data\.judged"):
        fit(module(tmp_path), TinyTask(), tmp_path, max_steps=1)
