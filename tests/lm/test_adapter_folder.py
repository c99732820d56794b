"""Folders of PEFT's adapters as a model: merged, trained on, or the base of new ones."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from lit_narrative.errors import UserError
from lit_narrative.lm.checkpoint import LANGUAGE_MODEL, export_adapter, export_model, load_checkpoint
from lit_narrative.lm.load import Lora, load_lm
from lit_narrative.lm.sampler import SamplingParams
from lit_narrative.modules.grpo import GRPOModule
from lit_narrative.modules.sft import SFTModule
from lit_narrative.rl.loss_settings import LossSettings
from lit_narrative.rl.reference import ReferenceSettings, reference_model
from tests.helpers import TEXTS, TinyTask, fit, tiny_lm, tokenizer

IDS = torch.tensor([[5, 9, 2, 40, 17]])


@torch.no_grad()
def logits(lm: Any) -> torch.Tensor:
    result: torch.Tensor = lm.eval()(input_ids=IDS).logits
    return result


def write_adapters(folder: Path, change: Callable[[nn.Module], object] = lambda lm: None, **settings: Any) -> str:
    """Adapters over ``folder/base``, as PEFT itself writes them: ``folder/adapters``, without a tokenizer."""
    tiny_lm(scale=3).save_pretrained(folder / "base")
    tokenizer().save_pretrained(folder / "base")
    config = LoraConfig(**{"r": 3, "lora_alpha": 12, "target_modules": ["q_proj", "down_proj"], **settings})
    adapted = get_peft_model(load_lm(str(folder / "base")), config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    change(adapted)
    adapted.save_pretrained(str(folder / "adapters"))
    return str(folder / "adapters")


@pytest.fixture
def adapters(tmp_path: Path) -> str:
    """A folder of adapters."""
    return write_adapters(tmp_path)


def says(folder: str) -> torch.Tensor:
    """What PEFT's own reading of a folder of adapters says."""
    return logits(PeftModel.from_pretrained(tiny_lm(scale=3), folder))


def train(module: Any, folder: Path) -> Any:
    """One step; the checkpoint is ``folder/last.ckpt``."""
    folder.mkdir()
    saver = ModelCheckpoint(folder, save_last=True, save_top_k=0)
    fit(module, TinyTask(4), folder, saver, max_steps=1, enable_checkpointing=True)
    return module


def test_they_are_merged_into_their_base(adapters: str, tmp_path: Path) -> None:
    torch.testing.assert_close(logits(load_lm(adapters)), says(adapters), atol=1e-4, rtol=1e-4)
    module = train(SFTModule(adapters, sampling=SamplingParams(4), lr=1e-5), tmp_path / "run")
    assert not any("lora" in name for name, _ in module.lm.named_parameters())
    assert module.tokenizer(TEXTS[0])["input_ids"] == tokenizer()(TEXTS[0])["input_ids"]
    torch.testing.assert_close(logits(module.lm), says(adapters), atol=1e-2, rtol=1e-2)
    shutil.rmtree(tmp_path / "base")
    again = SFTModule.load_from_checkpoint(tmp_path / "run" / "last.ckpt")
    torch.testing.assert_close(logits(again.lm), logits(module.lm), atol=0, rtol=0)


@pytest.mark.parametrize("kind", [SFTModule, pytest.param(GRPOModule, marks=pytest.mark.slow)])
def test_they_are_trained_on_when_asked_for(kind: type, adapters: str, tmp_path: Path) -> None:
    given = {"rewards": {"low": 1.0}} if kind is GRPOModule else {}
    module = kind(model=adapters, adapters="train", sampling=SamplingParams(4), lr=0.0, **given)
    train(module, tmp_path / "run")
    torch.testing.assert_close(logits(module.lm), says(adapters), atol=1e-4, rtol=1e-4)
    trained = [name for name, parameter in module.lm.named_parameters() if parameter.requires_grad]
    assert len(trained) == 2 * 2 * 2 and all("lora_" in name for name in trained)
    # From here on it is a run with these settings over the base: the folder of adapters is not needed.
    shutil.rmtree(adapters)
    path = tmp_path / "run" / "last.ckpt"
    assert load_checkpoint(path)[LANGUAGE_MODEL]["base"] == str(tmp_path / "base")
    again = kind.load_from_checkpoint(path)
    assert again.lora == Lora(r=3, alpha=12, target_modules=["down_proj", "q_proj"])
    torch.testing.assert_close(logits(again.lm), logits(module.lm), atol=0, rtol=0)
    torch.testing.assert_close(says(str(export_adapter(path, tmp_path / "out"))), logits(module.lm))


def test_a_reference_of_another_name_has_none_of_them(adapters: str, tmp_path: Path) -> None:
    module = SFTModule(adapters, adapters="train")
    lm, words = module.source.build()
    reference = reference_model(ReferenceSettings(model=str(tmp_path / "base")), lm, words, module.source)
    torch.testing.assert_close(logits(reference), logits(tiny_lm(scale=3)), atol=0, rtol=0)


def test_new_adapters_stand_on_the_merged_ones(adapters: str, tmp_path: Path) -> None:
    lora = Lora(r=2, target_modules=["v_proj"])
    module = train(SFTModule(adapters, lora=lora, sampling=SamplingParams(4), lr=0.1), tmp_path / "run")
    path = tmp_path / "run" / "last.ckpt"
    exported = load_lm(str(export_model(path, tmp_path / "merged")))
    torch.testing.assert_close(logits(exported), logits(module.lm), atol=1e-4, rtol=1e-4)
    with pytest.raises(UserError, match=r"has adapters merged into it; export 'model'$"):
        export_adapter(path, tmp_path / "out")
    changed = tiny_lm(scale=2)
    changed.save_pretrained(tmp_path / "base")
    with pytest.raises(UserError, match="has changed at"):
        export_model(path, tmp_path / "again")


def test_other_kinds_are_merged_and_not_trained_on(tmp_path: Path) -> None:
    folder = write_adapters(tmp_path, use_rslora=True, alpha_pattern={"q_proj": 3})
    torch.testing.assert_close(logits(load_lm(folder)), says(folder), atol=1e-4, rtol=1e-4)
    with pytest.raises(UserError, match=r"cannot be trained on here, for their use_rslora, alpha_pattern: merge them"):
        SFTModule(folder, adapters="train")


def test_trained_tokens_of_tied_embeddings_are_refused(tmp_path: Path) -> None:
    folder = write_adapters(tmp_path, trainable_token_indices=[5, 9])
    with pytest.raises(UserError, match="cannot be merged: other layers share its weight"):
        load_lm(folder)


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_adapters_that_took_a_part_of_their_base_are_merged_and_not_trained_on(start: Any, tmp_path: Path) -> None:
    folder = write_adapters(tmp_path, init_lora_weights=start)
    torch.testing.assert_close(logits(load_lm(folder)), says(folder), atol=1e-4, rtol=1e-4)
    with pytest.raises(UserError, match="cannot be trained on here, for their init_lora_weights: merge them"):
        SFTModule(folder, adapters="train")


def test_a_policy_of_given_adapters_stays_near_to_them(adapters: str) -> None:
    """And not to their base."""
    given: dict[str, Any] = {"rewards": {"low": 1.0}, "adapters": "train"}
    module = GRPOModule(model=adapters, loss=LossSettings(beta=0.1), **given)
    assert module.reference_kind == "adapter_copy"
    assert GRPOModule(**module.hparams).reference_kind == "adapter_copy"
    assert GRPOModule(model=adapters, loss=LossSettings(beta=0.0), **given).reference_kind == "none"
    off = ReferenceSettings("adapter_off")
    assert GRPOModule(model=adapters, loss=LossSettings(beta=0.1), reference=off, **given).reference_kind == off.kind


def test_what_cannot_be_trained_on_is_said(adapters: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.adapters=train, but '.*base' has no adapter_config\.json"):
        SFTModule(str(tmp_path / "base"), adapters="train")
    with pytest.raises(UserError, match=r"model\.adapters=train, but 'ScratchModel.*' has no adapter_config\.json"):
        SFTModule(adapters="train")
    with pytest.raises(UserError, match=r"model\.lora is given, but with model\.adapters=train"):
        SFTModule(adapters, adapters="train", lora=Lora())


def edit(folder: str, **values: Any) -> None:
    path = Path(folder, "adapter_config.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize("adapters_setting", ["merge", "train"])
def test_a_base_that_is_not_there_or_not_theirs_is_said(adapters_setting: Any, adapters: str, tmp_path: Path) -> None:
    def build() -> None:
        SFTModule(adapters, adapters=adapters_setting).source.build()

    (tmp_path / "base").rename(tmp_path / "moved")
    with pytest.raises(
        UserError, match=r"not at '/.*/base': write where it is into .*adapter_config\.json, as base_mo"
    ):
        build()
    tiny_lm(scale=3, hidden_size=32).save_pretrained(tmp_path / "wide")
    tokenizer().save_pretrained(tmp_path / "wide")
    edit(adapters, base_model_name_or_path=str(tmp_path / "wide"))
    with pytest.raises(UserError, match="do not fit their base"):
        build()
    edit(adapters, base_model_name_or_path=str(tmp_path / "moved"), target_modules=["q_proj"])
    with pytest.raises(UserError, match=r"do not fit their base: '.*down_proj.*' is on one side only"):
        build()
    edit(adapters, target_modules=["q_proj", "down_proj"])
    build()


def test_damaged_files_are_said(adapters: str) -> None:
    weights = Path(adapters, "adapter_model.safetensors")
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(UserError, match="do not fit their base"):
        load_lm(adapters)
    edit(adapters, base_model_name_or_path=adapters)
    with pytest.raises(UserError, match="names its own folder"):
        load_lm(adapters)
    Path(adapters, "adapter_config.json").write_text("{")
    with pytest.raises(UserError, match=r"adapter_config\.json cannot be read"):
        load_lm(adapters)
