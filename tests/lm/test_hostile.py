"""Model folders and checkpoints that bring code along: none of it runs unless the person has allowed it."""

import io
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_narrative.cli.main import main
from lit_narrative.datamodules.storyworld import StoryworldData
from lit_narrative.errors import UserError
from lit_narrative.lm.checkpoint import load_checkpoint, read_language_model
from lit_narrative.lm.load import Lora, load_lm
from lit_narrative.lm.sampler import SamplingParams
from lit_narrative.lm.sentence_encoder import load_encoder
from lit_narrative.lm.tokenizer import load_tokenizer
from lit_narrative.modules.grpo import GRPOModule
from lit_narrative.modules.sft import SFTModule
from lit_narrative.rl.rewards.model import RewardModel
from tests.helpers import TinyTask, fit, sizes, tiny_lm, tokenizer, tokenizer_folder, trainer

NEEDS_CODE = r"needs Python code that it brings along, and such code does not run by itself.*model\.trust_remote_code"
CODE = """
from pathlib import Path
Path({mark!r}).touch()
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
class Config(LlamaConfig):
    model_type = "foreign"
class Model(LlamaForCausalLM):
    config_class = Config
class Words(PreTrainedTokenizerFast):
    pass
"""
MODEL = {
    "model_type": "foreign",
    "auto_map": {f"Auto{name}": f"foreign.{kind}" for name, kind in
                 (("Config", "Config"), ("ModelForCausalLM", "Model"), ("Model", "Model"))},
}  # fmt: skip
WORDS = {"tokenizer_class": "Words", "auto_map": {"AutoTokenizer": ["foreign.Words", "foreign.Words"]}}
TRANSFORMER = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}


class Pickled:
    """What a pickle does when it is read: touch the mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.open, (str(self.mark), os.O_CREAT)


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that foreign code makes where it runs; whoever asks whether to run it is told yes."""
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 20))
    monkeypatch.syspath_prepend(tmp_path)  # as of a person who stands in the folder
    (tmp_path / "foreign_module.py").write_text(CODE.format(mark=str(tmp_path / "mark")))
    return tmp_path / "mark"


def change(path: Path, **values: Any) -> None:
    known = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**known, **values}))


def folder(mark: Path, name: str) -> str:
    """A model with its tokenizer and Python code beside them that leaves the mark, changed by ``name``."""
    made = mark.parent / name
    tiny_lm(layers=1).save_pretrained(made)
    tokenizer().save_pretrained(made)
    (made / "foreign.py").write_text(CODE.format(mark=str(mark)))
    match name:
        case "config":
            change(made / "config.json", **MODEL)
        case "words":
            change(made / "tokenizer_config.json", **WORDS)
        case "kernel":
            change(made / "config.json", _attn_implementation="someone/kernel")
        case "generation":
            (made / "custom_generate").mkdir()
            shutil.copy(made / "foreign.py", made / "custom_generate" / "generate.py")
            change(made / "generation_config.json", custom_generate=str(made), trust_remote_code=True)
        case "pickle":
            (made / "model.safetensors").unlink()
            torch.save({"lm_head.weight": Pickled(mark)}, made / "pytorch_model.bin")
        case "adapter":
            shutil.rmtree(made)
            made.mkdir()
            values = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "target_modules": ["q_proj"]}
            change(made / "adapter_config.json", base_model_name_or_path=folder(mark, "config"), **values)
    return str(made)


def encoder(mark: Path, name: str, source: str, settings: dict[str, Any], *modules: str) -> str:
    """A sentence encoder on a model folder, with further modules by their class paths."""
    made = Path(folder(mark, source)).rename(mark.parent / name)
    more = [{"idx": n, "name": str(n), "path": "", "type": path} for n, path in enumerate(modules, 1)]
    (made / "modules.json").write_text(json.dumps([TRANSFORMER, *more]))
    (made / "sentence_bert_config.json").write_text(json.dumps(settings))
    return str(made)


@pytest.mark.parametrize(
    ("name", "load", "reason"),
    [
        ("config", load_lm, NEEDS_CODE),
        ("config", load_encoder, NEEDS_CODE),
        ("adapter", load_lm, NEEDS_CODE),
        ("words", load_tokenizer, NEEDS_CODE),
        ("pickle", load_lm, "could run code; get them as safetensors|needs Python code"),
        ("kernel", load_lm, None),
        ("generation", load_lm, None),
    ],
)
def test_code_beside_a_model_does_not_run(
    mark: Path, name: str, load: Callable[[str], Any], reason: str | None
) -> None:
    path = folder(mark, name)
    if reason is None:
        load(path)
    else:
        with pytest.raises(UserError, match=reason) as error:
            load(path)
        assert path in str(error.value) and "\n" not in str(error.value)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("source", "settings", "modules"),
    [
        ("words", {}, ()),
        ("plain", {}, ("foreign_module.Model",)),
        ("config", {key: {"trust_remote_code": True} for key in ("model_args", "config_args", "tokenizer_args")}, ()),
        ("pickle", {"model_args": {"weights_only": False, "use_safetensors": False}}, ()),
        ("pickle", {"model_kwargs": {"weights_only": False, "use_safetensors": False}}, ()),
    ],
)
def test_an_encoder_cannot_allow_its_own_code(
    mark: Path, source: str, settings: dict[str, Any], modules: tuple[str, ...]
) -> None:
    path = encoder(mark, "encoder", source, settings, *modules)
    with pytest.raises(UserError, match=f"{path}.*{NEEDS_CODE}"):
        load_encoder(path)
    assert not mark.exists()


def test_the_person_can_allow_it_for_each_load(mark: Path) -> None:
    load_lm(folder(mark, "config"), trust_remote_code=True)
    assert mark.exists()
    mark.unlink()
    load_tokenizer(folder(mark, "words"), trust_remote_code=True)
    assert mark.exists()
    mark.unlink()
    load_encoder(encoder(mark, "encoder", "config", {}), trust_remote_code=True)
    assert mark.exists()


def trained(mark: Path, kind: type[SFTModule] = SFTModule, **settings: Any) -> Path:
    """A checkpoint after one step."""
    module = kind(tokenizer=tokenizer_folder(mark.parent), sampling=SamplingParams(8), **settings)
    runner = fit(module, TinyTask(), mark.parent, max_steps=1)
    runner.save_checkpoint(mark.parent / "last.ckpt")
    return mark.parent / "last.ckpt"


def changed(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    content = load_checkpoint(path)
    change(content)
    torch.save(content, path.with_name("changed.ckpt"))
    return path.with_name("changed.ckpt")


@pytest.fixture
def based(mark: Path) -> Path:
    """A checkpoint of adapters whose base is a folder that needs code, and which claims that it is trusted."""
    path = trained(mark, model=folder(mark, "plain"), lora=Lora(r=2, target_modules=["q_proj"]))
    base = folder(mark, "config")

    def change(content: dict[str, Any]) -> None:
        content["language_model"] |= {"base": base, "base_files": None}
        content["hyper_parameters"]["trust_remote_code"] = True

    return changed(path, change)


def test_a_checkpoint_over_such_a_folder_is_refused_wherever_it_is_read(
    mark: Path, based: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for read in (read_language_model, SFTModule.load_from_checkpoint):
        with pytest.raises(UserError, match=NEEDS_CODE):
            read(based)
    for what in ("model", "adapter"):
        with pytest.raises(SystemExit) as end:
            main(["export", str(based), str(mark.parent / "out"), "--what", what])
        assert end.value.code == 2
        problem = f"its base model: '{mark.parent / 'config'}' needs Python code"
        assert capsys.readouterr().err.startswith(f"error: '{based}': {problem}")
    for module in (SFTModule(str(based)), SFTModule(sizes(), lora=Lora(r=2, target_modules=["q_proj"]))):
        resumed = None if isinstance(module.source.model, str) else str(based)
        with pytest.raises(UserError, match=NEEDS_CODE):
            trainer(mark.parent).validate(module, TinyTask(), ckpt_path=resumed, verbose=False, weights_only=True)
    assert not mark.exists()
    lm, _ = read_language_model(based, trust_remote_code=True)
    assert mark.exists() and type(lm).__name__ == "Model"


def test_a_run_over_trusted_code_can_be_read_again_by_who_trusts_it(mark: Path) -> None:
    path = trained(mark, model=folder(mark, "config"), trust_remote_code=True)
    assert "trust_remote_code" not in load_checkpoint(path)["hyper_parameters"]
    again = SFTModule.load_from_checkpoint(path, trust_remote_code=True)
    lm, _ = read_language_model(path, trust_remote_code=True)
    assert type(again.lm).__name__ == type(lm).__name__ == "Model"


@pytest.mark.parametrize(
    "arguments",
    [
        {"_instantiator": "foreign_module.Model"},
        {"_class_path": "foreign_module.Model"},
        {"_instantiator": "lightning.pytorch.cli.instantiate_module", "lora": {"class_path": "foreign_module.Model"}},
        {"_instantiator": "lightning.pytorch.cli.instantiate_module", "model": "{class_path: foreign_module.Model}"},
    ],
)
def test_class_paths_in_a_checkpoint_import_nothing(mark: Path, arguments: dict[str, Any]) -> None:
    path = changed(trained(mark, model=sizes()), lambda content: content["hyper_parameters"].update(arguments))
    with suppress(TypeError, ValueError, UserError):  # an argument that is none; nothing is imported to find out
        SFTModule.load_from_checkpoint(path)
    assert not mark.exists()


@pytest.mark.parametrize("builder", ["lightning.pytorch.cli.instantiate_module", "foreign_module.Model"])
def test_class_paths_of_a_task_in_a_checkpoint_import_nothing(mark: Path, builder: str) -> None:
    path = mark.parent / "task.ckpt"
    arguments = {"_instantiator": builder, "skew": {"class_path": "foreign_module.Model"}, "train_size": 3}
    torch.save({"state_dict": {}, "pytorch-lightning_version": "2.6.6", "datamodule_hyper_parameters": arguments}, path)
    with pytest.raises(UserError, match="there is no 'class_path'"):
        StoryworldData.load_from_checkpoint(path)
    assert not mark.exists()


def test_rewards_that_a_checkpoint_names_by_path_are_not_called(mark: Path) -> None:
    path = trained(mark, GRPOModule, model=sizes(), rewards={"low": 1.0}, num_generations=4)
    run = f"subprocess:Popen(['touch', '{mark}'])"
    path = changed(path, lambda content: content["hyper_parameters"].update(rewards={run: 1.0}))
    module = GRPOModule.load_from_checkpoint(path)
    with pytest.raises(
        UserError, match=r"the checkpoint names 'subprocess:Popen.*load_from_checkpoint\(\.\.\., rewards="
    ):
        fit(module, TinyTask(), mark.parent, max_steps=1)
    assert not mark.exists()
    fit(GRPOModule.load_from_checkpoint(path, rewards={"low": 1.0}), TinyTask(), mark.parent, max_steps=1)


def test_a_reward_model_whose_encoder_needs_code_is_refused(mark: Path) -> None:
    checkpoint = {"state_dict": {}, "reward": {"name": folder(mark, "config")}, "hyper_parameters": {}}
    torch.save(checkpoint, mark.parent / "reward.ckpt")
    with pytest.raises(UserError, match=NEEDS_CODE):
        RewardModel.load(mark.parent / "reward.ckpt")
    assert not mark.exists()


@pytest.mark.parametrize("sizes_", [{"hidden_size": 2**20}, {"num_hidden_layers": 10**6}, {"vocab_size": 2**33}])
def test_a_config_of_other_sizes_than_the_weights_is_refused_before_it_is_built(
    mark: Path, sizes_: dict[str, int]
) -> None:
    path = trained(mark, model=sizes())
    path = changed(path, lambda content: content["language_model"]["config"].update(sizes_))
    for read in (read_language_model, SFTModule.load_from_checkpoint):
        with pytest.raises(UserError, match=r"is damaged: its weight|config has 1000000 layers"):
            read(path)


@pytest.mark.parametrize(
    "stored",
    [3, {"config": 3}, {"tokenizer": {"a.json": 3}}, {"base": ["b"]}, {"tokenizer": {"../../a.json": "{}"}}],
)
def test_a_checkpoint_of_other_shapes_is_one_line_that_names_it(
    mark: Path, stored: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(content: dict[str, Any]) -> None:
        content["language_model"] = {**content["language_model"], **stored} if isinstance(stored, dict) else stored

    path = changed(trained(mark, model=sizes()), change)
    with pytest.raises(SystemExit) as end:
        main(["export", str(path), str(mark.parent / "out")])
    error = capsys.readouterr().err
    assert end.value.code == 2 and str(path) in error and ("is damaged" in error or "unsafe file name" in error)


@pytest.mark.parametrize("damage", ["header", "cut", "empty", "config", "deep"])
def test_a_damaged_model_folder_is_one_line(mark: Path, damage: str) -> None:
    made = Path(folder(mark, "plain"))
    (made / "foreign.py").unlink()
    weights = made / "model.safetensors"
    match damage:
        case "header":
            weights.write_bytes(b"\xff" * 100)
        case "cut":
            weights.write_bytes(weights.read_bytes()[:-100])
        case "empty":
            weights.write_bytes(b"")
        case "config":
            change(made / "config.json", hidden_size="wide")
        case "deep":
            (made / "config.json").write_text("[" * 100_000)
    settings = damage in ("config", "deep")
    said = (
        r"no causal language model at '.*plain' \(.*\); give"
        if settings
        else r"'.*safetensors' is damaged \(.*\); copy"
    )
    with pytest.raises(UserError, match=f"^{said}") as error:
        load_lm(str(made))
    assert "\n" not in str(error.value)
