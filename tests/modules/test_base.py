"""Arguments of modules: values of numpy and paths come in as Python's own, wherever they stand."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule

from lit_narrative.arguments import native
from lit_narrative.lm.load import Lora
from lit_narrative.lm.sampler import SamplingParams
from lit_narrative.lm.sentence_encoder import StaticEncoder
from lit_narrative.modules.base import NarrativeModule
from lit_narrative.modules.classifier import ClassifierModule
from lit_narrative.modules.grpo import GRPOModule
from lit_narrative.modules.reward import RewardModule
from lit_narrative.modules.sae import SAEModule
from lit_narrative.modules.sft import SFTModule
from lit_narrative.rl.loss_settings import LossSettings
from tests.helpers import TinyTask, fit, sizes, tokenizer_folder, weights
from tests.modules.labelled import LabelledTask
from tests.modules.ratings import Ratings
from tests.modules.test_sae import Data

WHOLE: Any = np.int64
REAL: Any = np.float64
SINGLE: Any = np.float32
RATES = np.logspace(-4, -2, 3)


def language(folder: Path) -> dict[str, Any]:
    sampling = SamplingParams(max_new_tokens=WHOLE(4), temperature=SINGLE(0.5))
    model = sizes(hidden_size=WHOLE(16), tie_embeddings=np.bool_(False))
    given = {"model": model, "tokenizer": Path(tokenizer_folder(folder)), "sampling": sampling}
    return {**given, "lr": RATES[1], "weight_decay": SINGLE(0.1), "warmup_steps": WHOLE(2)}


def sft(folder: Path) -> tuple[NarrativeModule, LightningDataModule]:
    task = TinyTask(batch_size=WHOLE(4), eval_batch_size=WHOLE(2))
    return SFTModule(**language(folder), lora=Lora(WHOLE(4), REAL(8), target_modules=["q_proj"])), task


def grpo(folder: Path) -> tuple[NarrativeModule, LightningDataModule]:
    settings: dict[str, Any] = {"num_generations": WHOLE(2), "loss": LossSettings(beta=REAL(0.1), epsilon=SINGLE(0.2))}
    return GRPOModule({"low": REAL(1.0)}, **settings, **language(folder)), TinyTask()


def classifier(folder: Path) -> tuple[NarrativeModule, LightningDataModule]:
    fitted = fit(SFTModule(**language(folder)), TinyTask(), folder, max_steps=1)
    fitted.save_checkpoint(folder / "lm.ckpt")
    return ClassifierModule(np.array(["lantern", "salt", "tide"]), model=folder / "lm.ckpt"), LabelledTask()  # type: ignore[arg-type]


def reward(folder: Path) -> tuple[NarrativeModule, LightningDataModule]:
    sizes: Any = np.array([8, 4])
    return RewardModule(StaticEncoder(WHOLE(8), WHOLE(400)), hidden=sizes, lr=RATES[2]), Ratings(rows=20)


def sae(folder: Path) -> tuple[NarrativeModule, LightningDataModule]:
    return SAEModule("topk", d_sae=WHOLE(16), k=WHOLE(4), lr=RATES[1], warmup_steps=WHOLE(2)), Data()


@pytest.mark.parametrize("make", [sft, grpo, classifier, reward, sae])
def test_a_module_of_numpy_values_and_paths_is_loaded_again(
    make: Callable[[Path], tuple[NarrativeModule, LightningDataModule]], tmp_path: Path
) -> None:
    module, data = make(tmp_path)
    accumulate = WHOLE(1 if isinstance(module, GRPOModule) else 2)
    runner = fit(module, data, tmp_path, max_steps=2, accumulate_grad_batches=accumulate)  # type: ignore[arg-type]
    runner.save_checkpoint(tmp_path / "a.ckpt")
    torch.load(tmp_path / "a.ckpt", weights_only=True)
    again = type(module).load_from_checkpoint(tmp_path / "a.ckpt")
    assert dict(again.hparams) == dict(module.hparams)
    mine, theirs = weights(module), weights(again)
    assert all(torch.equal(theirs[name], mine[name]) for name in mine if name in theirs)


@dataclass
class Settings:
    size: Any
    parts: list[Any] = field(default_factory=list)
    made: int = field(default=0, init=False)


def test_values_are_found_at_any_depth() -> None:
    given = [{np.str_("a"): (Path("b", "c"), Settings(REAL(0.5), [WHOLE(1)]))}, np.array([[1, 2]]), np.bool_(True)]
    made = native(given)
    assert made == [{"a": ("b/c", Settings(0.5, [1]))}, [[1, 2]], True]
    settings = made[0]["a"][1]
    assert [type(value) for value in (settings.size, settings.parts[0], made[2])] == [float, int, bool]


def test_what_holds_none_of_them_is_handed_on_as_it_is() -> None:
    given: Any = [{"a": (1, Settings(0.5, ["b"]))}, torch.ones(2), None]
    assert native(given) is given


def test_the_arguments_of_a_module_can_be_asked_for() -> None:
    assert list(inspect.signature(SAEModule).parameters)[:2] == ["architecture", "d_sae"]
