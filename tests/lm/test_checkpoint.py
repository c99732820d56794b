"""Checkpoints stand on their own: another folder, no network, the original files gone."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_narrative.errors import UserError
from lit_narrative.lm.checkpoint import LANGUAGE_MODEL, load_checkpoint, read_language_model
from lit_narrative.lm.load import Lora
from lit_narrative.lm.sampler import SamplingParams
from lit_narrative.modules.grpo import GRPOModule
from lit_narrative.modules.sft import SFTModule
from tests.helpers import ARCHITECTURES, TEXTS, TinyTask, fit, sizes, tiny_lm, tokenizer, tokenizer_folder, trainer

IDS = torch.tensor([[5, 9, 2, 40, 17]])
LORA = {"lora": Lora(r=2), "lr": 0.1}


def logits(lm: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = lm.eval()(IDS).logits
    return found


def train(folder: Path, model: Any, kind: type[SFTModule] | type[GRPOModule] = SFTModule, **settings: Any) -> Any:
    """Two steps and a checkpoint ``folder/last.ckpt``; the module afterwards."""
    module = kind(model=model, tokenizer=tokenizer_folder(folder), sampling=SamplingParams(8), **settings)
    fit(
        module,
        TinyTask(),
        folder,
        ModelCheckpoint(folder, save_last=True, save_top_k=0),
        max_steps=2,
        enable_checkpointing=True,
    )
    return module


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_model_and_tokenizer_come_back(architecture: str, tmp_path: Path) -> None:
    module = train(tmp_path, sizes(architecture))
    lm, words = read_language_model(tmp_path / "last.ckpt")
    torch.testing.assert_close(logits(lm), logits(module.lm), atol=0, rtol=0)
    again = SFTModule.load_from_checkpoint(tmp_path / "last.ckpt")
    torch.testing.assert_close(logits(again.lm), logits(module.lm), atol=0, rtol=0)
    for found in (words, again.tokenizer):
        assert found(TEXTS[0])["input_ids"] == tokenizer()(TEXTS[0])["input_ids"]
        assert (found.eos_token_id, found.pad_token_id) == (tokenizer().eos_token_id, tokenizer().pad_token_id)


ELSEWHERE = """
import socket, sys
def refuse(*_, **__): raise OSError("the network is off")
socket.socket.connect = socket.getaddrinfo = refuse
import torch
from lit_narrative.modules.sft import SFTModule
from lit_narrative.modules.grpo import GRPOModule
from lit_narrative.views import Prompt
found = {}
for name, kind in {"sft": SFTModule, "lora": SFTModule, "grpo": GRPOModule}.items():
    module = kind.load_from_checkpoint(f"moved/{name}.ckpt")
    with torch.no_grad():
        found[name] = module.lm.eval()(torch.tensor([[5, 9, 2, 40, 17]])).logits
    assert module.generate([Prompt("Write.")])[0].prompt == "Write."
torch.save(found, "found.pt")
"""


def test_loads_without_network_elsewhere_with_the_original_files_gone(tmp_path: Path) -> None:
    made, moved = tmp_path / "made", tmp_path / "elsewhere" / "moved"
    moved.mkdir(parents=True)
    jobs: dict[str, Any] = {
        "sft": (SFTModule, {}),
        "lora": (SFTModule, LORA),
        "grpo": (GRPOModule, {"rewards": {"low": 1.0}}),
    }
    expected = {}
    for name, (kind, settings) in jobs.items():
        folder = made / name
        folder.mkdir(parents=True)
        expected[name] = logits(train(folder, sizes("gpt2"), kind, **settings).lm)
        shutil.move(folder / "last.ckpt", moved / f"{name}.ckpt")
    shutil.rmtree(made)
    subprocess.run([sys.executable, "-c", ELSEWHERE], cwd=moved.parent, check=True, timeout=120)
    found = torch.load(moved.parent / "found.pt", weights_only=True)
    for name in jobs:  # kernels round by the alignment of memory, which differs between processes
        torch.testing.assert_close(found[name], expected[name], atol=1e-6, rtol=0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_adapters_over_a_new_model_bring_their_base_along(architecture: str, tmp_path: Path) -> None:
    module = train(tmp_path, sizes(architecture), **LORA)
    stored = load_checkpoint(tmp_path / "last.ckpt")
    assert stored[LANGUAGE_MODEL]["base"] is None
    assert any("lora_" not in name for name in stored["state_dict"])
    adapted = logits(module.lm)
    torch.testing.assert_close(
        logits(SFTModule.load_from_checkpoint(tmp_path / "last.ckpt").lm), adapted, atol=0, rtol=0
    )
    with module.lm.disable_adapter():
        assert (adapted - logits(module.lm)).abs().max() > 1e-3


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_adapters_over_a_folder_are_all_that_is_saved(architecture: str, tmp_path: Path) -> None:
    base = str(tmp_path / "base")
    tiny_lm(architecture, scale=3).save_pretrained(base)
    module = train(tmp_path, base, **LORA)
    stored = load_checkpoint(tmp_path / "last.ckpt")
    assert stored[LANGUAGE_MODEL]["base"] == base
    assert stored["state_dict"]
    assert all("lora_" in name for name in stored["state_dict"])
    again = SFTModule.load_from_checkpoint(tmp_path / "last.ckpt")
    torch.testing.assert_close(logits(again.lm), logits(module.lm), atol=0, rtol=0)


def test_adapters_are_not_tested_as_if_they_were_weights(tmp_path: Path) -> None:
    train(tmp_path, sizes(), **LORA)
    plain = SFTModule(sizes(), sampling=SamplingParams(8))
    with pytest.raises(UserError, match=r"holds adapters: give it as --model\.model, which merges them$"):
        trainer(tmp_path).test(
            plain, TinyTask(), ckpt_path=str(tmp_path / "last.ckpt"), weights_only=True, verbose=False
        )


def test_adapters_of_another_rank_are_refused(tmp_path: Path) -> None:
    train(tmp_path, sizes(), **LORA)
    other = SFTModule(sizes(), lora=Lora(r=5))
    with pytest.raises(
        UserError, match=r"lora_A.* has shape \(\d+, 16\) there and \(5, 16\) here; give the model\.lora"
    ):
        trainer(tmp_path).test(
            other, TinyTask(), ckpt_path=str(tmp_path / "last.ckpt"), weights_only=True, verbose=False
        )


def test_adapters_over_a_checkpoint_bring_their_base_along(tmp_path: Path) -> None:
    train(tmp_path, sizes())
    (tmp_path / "adapted").mkdir()
    module = SFTModule(str(tmp_path / "last.ckpt"), **LORA)
    saver = ModelCheckpoint(tmp_path / "adapted", save_last=True, save_top_k=0)
    fit(module, TinyTask(), tmp_path / "adapted", saver, max_steps=2, enable_checkpointing=True)
    (tmp_path / "last.ckpt").unlink()
    again = SFTModule.load_from_checkpoint(tmp_path / "adapted" / "last.ckpt")
    torch.testing.assert_close(logits(again.lm), logits(module.lm), atol=0, rtol=0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("named", [True, False])
def test_merged_weights_say_what_the_adapters_said(architecture: str, named: bool, tmp_path: Path) -> None:
    tiny_lm(architecture).save_pretrained(tmp_path / "base")
    module = train(tmp_path, str(tmp_path / "base") if named else sizes(architecture), **LORA)
    lm, _ = read_language_model(tmp_path / "last.ckpt")
    assert not any("lora" in name for name, _ in lm.named_parameters())
    torch.testing.assert_close(logits(lm), logits(module.lm), atol=1e-5, rtol=0)


def test_a_policy_starts_from_a_checkpoint(tmp_path: Path) -> None:
    module = train(tmp_path, sizes())
    other = SFTModule(str(tmp_path / "last.ckpt"), lr=0.0)
    fit(other, TinyTask(), tmp_path, max_steps=1)
    torch.testing.assert_close(logits(other.lm), logits(module.lm), atol=0, rtol=0)


def test_a_file_that_is_not_there_or_holds_no_language_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no checkpoint at '.*nowhere\.ckpt'"):
        read_language_model(tmp_path / "nowhere.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match="holds no language model"):
        read_language_model(tmp_path / "other.ckpt")


class Payload:
    """What a hostile file would run."""

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return Path.write_text, (Path("owned"), "yes")  # type: ignore[return-value]


def test_a_file_that_would_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {}, LANGUAGE_MODEL: Payload()}, tmp_path / "evil.ckpt")
    with pytest.raises(UserError, match="read safely: it holds objects, which could run code, or is damaged; give"):
        read_language_model(tmp_path / "evil.ckpt")
    assert not (tmp_path / "owned").exists()


# --- the base of adapters ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def adapted_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.Tensor]:
    """Adapters trained on a base with a relative path: the run's folder, and what the adapted model says."""
    folder = tmp_path_factory.mktemp("adapted")
    tiny_lm(scale=3).save_pretrained(folder / "base")
    tokenizer().save_pretrained(folder / "base")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        module = train(folder, "base", **LORA)
    return folder, logits(module.lm)


@pytest.fixture
def adapted(adapted_run: tuple[Path, torch.Tensor], tmp_path: Path) -> tuple[Path, torch.Tensor]:
    """The run whose base a test may change."""
    folder, expected = adapted_run
    stored = torch.load(folder / "last.ckpt", weights_only=True)
    shutil.copytree(folder / "base", tmp_path / "base")
    stored[LANGUAGE_MODEL]["base"] = str(tmp_path / "base")
    torch.save(stored, tmp_path / "last.ckpt")
    return tmp_path, expected


def test_the_base_of_adapters_is_found_from_any_folder(
    adapted_run: tuple[Path, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, expected = adapted_run
    monkeypatch.chdir(tmp_path)
    again = SFTModule.load_from_checkpoint(folder / "last.ckpt")
    torch.testing.assert_close(logits(again.lm), expected, atol=0, rtol=0)
    torch.testing.assert_close(logits(read_language_model(folder / "last.ckpt")[0]), expected, atol=1e-5, rtol=0)


def load_as_module(path: Path, base: Path | None = None) -> Any:
    return SFTModule.load_from_checkpoint(path, **({} if base is None else {"model": str(base)})).lm


def load_merged(path: Path, base: Path | None = None) -> Any:
    return read_language_model(path, base=None if base is None else str(base))[0]


@pytest.mark.parametrize("load", [load_as_module, load_merged])
def test_a_base_that_moved_is_asked_for_and_can_be_given(load: Any, adapted: tuple[Path, torch.Tensor]) -> None:
    folder, expected = adapted
    (folder / "base").rename(folder / "moved")
    with pytest.raises(UserError, match=r"its base model is no longer at '/.*/base': put it back, or say where"):
        load(folder / "last.ckpt")
    torch.testing.assert_close(logits(load(folder / "last.ckpt", folder / "moved")), expected, atol=1e-5, rtol=0)
    tiny_lm(scale=2).save_pretrained(folder / "other")
    with pytest.raises(UserError, match=r"no longer at '/.*/base', and '.*/other' is another model: put it back"):
        load(folder / "last.ckpt", folder / "other")


@pytest.mark.parametrize("load", [load_as_module, load_merged])
def test_a_base_that_changed_in_place_is_refused(load: Any, adapted: tuple[Path, torch.Tensor]) -> None:
    folder, expected = adapted
    (folder / "base").rename(folder / "moved")
    changed = tiny_lm(scale=3)
    with torch.no_grad():
        changed.model.norm.weight[0] += 1e-3  # the same sizes, one number
    changed.save_pretrained(folder / "base")
    with pytest.raises(UserError, match=r"its base model has changed at '/.*/base' since .* bytes and sha256"):
        load(folder / "last.ckpt")
    torch.testing.assert_close(logits(load(folder / "last.ckpt", folder / "moved")), expected, atol=1e-5, rtol=0)


def test_a_base_whose_config_changed_is_refused(adapted: tuple[Path, torch.Tensor]) -> None:
    folder, _ = adapted
    config = folder / "base" / "config.json"
    text = config.read_text()
    release = re.sub(r'"transformers_version": ".*"', '"transformers_version": "99"', text)
    assert release != text
    config.write_text(release)
    load_merged(folder / "last.ckpt")
    config.write_text(text.replace('"rope_theta": 10000.0', '"rope_theta": 500.0'))
    with pytest.raises(UserError, match="has changed at"):
        load_merged(folder / "last.ckpt")


def test_a_run_over_a_base_that_moved_resumes_and_remembers_the_new_place(
    adapted: tuple[Path, torch.Tensor],
) -> None:
    folder, _ = adapted
    (folder / "base").rename(folder / "moved")
    (folder / "resumed").mkdir()
    module = SFTModule(str(folder / "moved"), sampling=SamplingParams(8), **LORA)
    saver = ModelCheckpoint(folder / "resumed", save_last=True, save_top_k=0)
    runner = trainer(folder, saver, max_steps=3, enable_checkpointing=True)
    runner.fit(module, TinyTask(), ckpt_path=str(folder / "last.ckpt"), weights_only=True)
    assert load_checkpoint(folder / "resumed" / "last.ckpt")[LANGUAGE_MODEL]["base"] == str(folder / "moved")
    load_merged(folder / "resumed" / "last.ckpt")


def test_adapters_of_older_checkpoints_have_a_base_without_a_digest(adapted: tuple[Path, torch.Tensor]) -> None:
    folder, expected = adapted
    stored = torch.load(folder / "last.ckpt", weights_only=True)
    del stored[LANGUAGE_MODEL]["base_files"]
    torch.save(stored, folder / "last.ckpt")
    torch.testing.assert_close(logits(load_as_module(folder / "last.ckpt")), expected, atol=0, rtol=0)
    stored[LANGUAGE_MODEL]["base"] = "base"
    torch.save(stored, folder / "last.ckpt")
    with pytest.raises(UserError, match="its base model: no causal language model at 'base'"):
        load_as_module(folder / "last.ckpt")
