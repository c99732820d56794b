"""Every module in every precision of Lightning: what docs/command_line.md tells is what happens."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.precision import MixedPrecision

from lit_narrative.callbacks.evaluation import Verifiers
from lit_narrative.errors import UserError
from lit_narrative.lm.load import Lora
from lit_narrative.lm.sampler import SamplingParams
from lit_narrative.lm.sentence_encoder import StaticEncoder, build_encoder
from lit_narrative.modules.base import PRECISIONS, NarrativeModule, check_precision
from lit_narrative.modules.classifier import ClassifierModule
from lit_narrative.modules.grpo import GRPOModule
from lit_narrative.modules.preference import PreferenceModule
from lit_narrative.modules.reward import RewardModule
from lit_narrative.modules.sae import SAEModule
from lit_narrative.modules.sft import SFTModule
from lit_narrative.modules.similarity import SimilarityModule
from lit_narrative.modules.steering import SteeringModule
from lit_narrative.rl.loss_settings import LossSettings
from lit_narrative.rl.rewards import model as reward_storage
from lit_narrative.rl.rewards.learned import LearnedReward
from lit_narrative.sae.autoencoder import ARCHITECTURES, Architecture
from lit_narrative.steering.pplm.settings import PPLMSettings
from lit_narrative.steering.settings import ActivationSettings, Attribute, BestOfSettings
from tests.helpers import Recorder, TinyTask, fit, sizes, tokenizer_folder, trainer, weights
from tests.modules.labelled import LabelledTask
from tests.modules.pairs import Habits
from tests.modules.ratings import Ratings, texts
from tests.modules.test_preference import Preferring
from tests.modules.test_sae import Data
from tests.paths import ROOT

PAGE = (ROOT / "docs" / "command_line.md").read_text(encoding="utf-8")


class PromptsOnly(TinyTask):
    """A task without examples: validation reads prompts too."""

    views = ("prompts",)


@dataclass
class Case:
    """A module with a task, and what the Trainer can do with it."""

    make: Callable[[Path], NarrativeModule]
    data: Callable[[], Any]
    jobs: tuple[str, ...]


def language(kind: Any, *args: Any, data: Any = TinyTask, jobs: Any = ("fit", "test", "predict"), **given: Any) -> Case:
    settings = {"model": sizes(), "sampling": SamplingParams(4), **given}
    make = lambda folder: kind(*args, tokenizer=tokenizer_folder(folder), **settings)  # noqa: E731
    return Case(make, lambda: data(rows=4, batch_size=2), jobs)


def grpo(**given: Any) -> Case:
    return language(GRPOModule, {"low": 1.0}, num_generations=2, **given)


def steering(method: str, **given: Any) -> Case:
    bag = [Attribute(bag=["a", "e"], policy="first_token")]
    settings: dict[str, Any] = {"attributes": bag, "pplm": PPLMSettings(stepsize=0.2), **given}
    return language(SteeringModule, method, data=LabelledTask, jobs=("test", "predict"), **settings)


def reward(**given: Any) -> RewardModule:
    return RewardModule(StaticEncoder(8, 300), hidden=[4], **given)


def autoencoder(architecture: Architecture) -> Case:
    return Case(lambda _: SAEModule(architecture, d_sae=16, lr=1e-2, warmup_steps=2), Data, ("fit", "test"))


CASES = {
    "`SFTModule`": language(SFTModule),
    "`SFTModule` with `lora`": language(SFTModule, lora=Lora(4)),
    "`GRPOModule`": grpo(loss=LossSettings(beta=0.1)),
    "`GRPOModule` with `gae`": grpo(advantage="gae"),
    "`GRPOModule` on prompts alone": grpo(data=PromptsOnly),
    "`PreferenceModule`": language(PreferenceModule, data=Preferring),
    "`SimilarityModule`": Case(lambda _: SimilarityModule(StaticEncoder(8, 300)), lambda: Habits(20), ("fit", "test")),
    "`RewardModule`": Case(lambda _: reward(), lambda: Ratings(rows=20), ("fit", "test")),
    "`RewardModule` with `finetune_encoder`": Case(
        lambda _: reward(finetune_encoder=True), lambda: Ratings(rows=20, kind="both"), ("fit", "test")
    ),
    "`ClassifierModule`": language(ClassifierModule, data=LabelledTask, jobs=("fit", "test", "predict")),
    "`SteeringModule`, `pplm`": steering("pplm"),
    "`SteeringModule`, `bias`": steering("bias"),
    "`SteeringModule`, `activation`": steering("activation", activation=ActivationSettings(layer=0, label="tide")),
    "`SteeringModule`, `none`": steering("none", best_of=BestOfSettings(2)),
    # A transcoder learns from pairs of vectors, which other tests have.
    **{f"`SAEModule`, `{kind}`": autoencoder(kind) for kind in ARCHITECTURES if kind != "transcoder"},
}
QUICK = (
    "`SFTModule`",
    "`GRPOModule` on prompts alone",
    "`RewardModule` with `finetune_encoder`",
    "`ClassifierModule`",
    "`SteeringModule`, `bias`",
    "`SAEModule`, `jumprelu`",
)


def told() -> dict[str, dict[str, str]]:
    """The page's table: precision -> module -> what can be done in it."""
    part = PAGE.split("## Precision\n")[1].split("\n## ")[0]
    head, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if line.startswith("|")
    ]
    return {name.strip("`"): {row[0]: row[number] for row in rows} for number, name in enumerate(head) if number}


def runner(folder: Path, precision: str, *callbacks: Any) -> Trainer:
    few: dict[str, Any] = {f"limit_{stage}_batches": 2 for stage in ("train", "val", "test", "predict")}
    if precision == "16-mixed":  # Lightning takes bf16-mixed for it on the CPU, which can do it
        few["plugins"] = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    else:
        few["precision"] = precision
    return trainer(folder, *callbacks, max_epochs=1, num_sanity_val_steps=1, **few)


def found(name: str, precision: str, folder: Path) -> str:
    """What can be done with a module in a precision; the rest is refused before any work."""
    case, done = CASES[name], []
    module = case.make(folder)
    for job in case.jobs:
        seen = Recorder()
        judge = [Verifiers(2)] if job == "test" and isinstance(module, SFTModule | GRPOModule | SteeringModule) else []
        try:
            getattr(runner(folder, precision, seen, *judge), job)(
                module, datamodule=case.data(), **({"verbose": False} if job == "test" else {})
            )
        except UserError as error:
            assert "float16" in str(error)
            assert not seen.batches
            if job == "fit":
                assert not getattr(module, "ready", False)  # nothing was built
                runner(folder, "32-true").fit(module, case.data())
            continue
        if job == "fit":
            assert len(seen.losses) > 1
            assert all(math.isfinite(loss) for loss in seen.losses)
            assert all(bool(value.isfinite().all()) for value in weights(module).values())
        done.append(job)
    return ", ".join(done) or "refused"


@pytest.mark.parametrize("name", QUICK)
def test_a_module_in_pure_bfloat16(name: str, tmp_path: Path) -> None:
    assert found(name, "bf16-true", tmp_path) == told()["bf16-true"][name]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_module_in_every_precision(name: str, tmp_path: Path) -> None:
    assert {precision: found(name, precision, tmp_path) for precision in told()} == {
        precision: rows[name] for precision, rows in told().items()
    }


def test_the_page_names_every_module_and_precision() -> None:
    assert list(told()) == [*PRECISIONS, "16-true"]
    assert all(list(rows) == list(CASES) for rows in told().values())


@pytest.mark.parametrize("precision", ["transformer-engine", "transformer-engine-float16", "bitsandbytes", "16-true"])
def test_what_nothing_is_learned_in_is_refused(precision: str) -> None:
    with pytest.raises(UserError, match=f"trainer.precision={precision} .*choose from 32-true, bf16-mixed"):
        check_precision(precision, fits=True)


def test_it_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    module = SFTModule(sizes(), tokenizer_folder(tmp_path))
    with pytest.raises(UserError, match="precision=16-true keeps weights in float16"):
        trainer(tmp_path, precision="16-true").fit(module, TinyTask())
    assert not module.ready


def test_weights_of_float16_are_tested_and_not_trained(tmp_path: Path) -> None:
    module = SFTModule(sizes(), tokenizer_folder(tmp_path), dtype="float16")
    with pytest.raises(UserError, match=r"float16 cannot be trained.*set model\.dtype"):
        trainer(tmp_path, max_steps=1).fit(module, TinyTask())
    assert trainer(tmp_path).test(module, TinyTask(), verbose=False)[0]["test/loss"] < 10


def test_adapters_on_weights_of_float16_are_trained(tmp_path: Path) -> None:
    module, seen = SFTModule(sizes(), tokenizer_folder(tmp_path), dtype="float16", lora=Lora(4)), Recorder()
    trainer(tmp_path, seen, max_steps=3).fit(module, TinyTask())
    assert all(math.isfinite(loss) for loss in seen.losses)
    assert all(bool(value.isfinite().all()) for value in weights(module).values())


def test_what_was_learned_in_bfloat16_serves_elsewhere(tmp_path: Path) -> None:
    module, data = reward(), Ratings(rows=20)
    run = runner(tmp_path, "bf16-true")
    run.fit(module, data)
    run.save_checkpoint(tmp_path / "reward.ckpt")
    assert LearnedReward(str(tmp_path / "reward.ckpt")).rate(texts(5, 9)) == pytest.approx(
        module.score(texts(5, 9)), abs=0.02
    )
    sae = SAEModule("topk", d_sae=16, d_in=12)
    runner(tmp_path, "bf16-true").fit(sae, Data())
    latents, reconstruction = sae.encoder()(np.zeros((3, 12), np.float32))
    assert (latents.dtype, reconstruction.dtype, sae.decoder().dtype) == (np.float32, np.float32, np.float32)


def test_a_named_encoder_is_known_again_in_the_precision_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_encoder(StaticEncoder(8, 300), texts(40, 0)).save_pretrained(str(tmp_path / "encoder"))
    monkeypatch.setattr(reward_storage, "MAX_FILES", 0)  # as of a large one, which is named
    module = RewardModule(str(tmp_path / "encoder"), hidden=[4], cache=None)
    run = runner(tmp_path, "bf16-true")
    run.fit(module, Ratings(rows=20))
    run.save_checkpoint(tmp_path / "reward.ckpt")
    again = RewardModule.load_from_checkpoint(tmp_path / "reward.ckpt")
    assert next(again.encoder.parameters()).dtype == torch.bfloat16


@pytest.mark.parametrize("precision", ["64-true", "bf16-true"])
def test_an_autoencoder_resumes(precision: str, tmp_path: Path) -> None:
    made = [SAEModule("jumprelu", d_sae=16, lr=1e-2, d_in=12) for _ in range(2)]
    first = runner(tmp_path, precision)
    first.fit(made[0], Data())
    first.save_checkpoint(tmp_path / "sae.ckpt")
    second = trainer(tmp_path, max_epochs=2, limit_train_batches=2, precision=precision)
    second.fit(made[1], Data(), ckpt_path=tmp_path / "sae.ckpt", weights_only=True)
    assert second.global_step == 4


def test_a_run_in_double_precision_resumes_exactly(tmp_path: Path) -> None:
    made = [language(SFTModule).make(tmp_path) for _ in range(3)]
    data = lambda: TinyTask(rows=4, batch_size=2)  # noqa: E731
    fit(made[0], data(), tmp_path, max_epochs=2, precision="64-true")
    fit(made[1], data(), tmp_path, max_epochs=1, precision="64-true").save_checkpoint(tmp_path / "half.ckpt")
    second = trainer(tmp_path, max_epochs=2, precision="64-true")
    second.fit(made[2], data(), ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    whole = weights(made[0])
    assert all(torch.equal(value, whole[name]) for name, value in weights(made[2]).items())
