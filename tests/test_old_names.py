"""Names of the release before: its settings, checkpoints and reward paths still work, with a notice of today's name.

``tests/data/old_names`` holds settings and checkpoints that the release before the move wrote: a GRPO run of the card
game and a classifier of poems, both of one tiny model.
"""

import logging
from importlib import import_module
from pathlib import Path

import pytest
import torch
import yaml

from lit_narrative.cli.lightning import with_current_names, with_current_paths
from lit_narrative.cli.main import main
from lit_narrative.lookup import RENAMED, current_path
from lit_narrative.modules.language import LanguageModule
from lit_narrative.rl.rewards.loading import import_reward
from lit_narrative.rl.rewards.penalties import SoftOverlong

OLD = Path(__file__).parent / "data" / "old_names"


@pytest.fixture(autouse=True)
def notices(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What is logged, each notice given again."""
    current_path.cache_clear()
    caplog.set_level(logging.WARNING, "lit_narrative")
    return caplog


@pytest.mark.parametrize("old", RENAMED)
def test_each_old_name_gives_what_it_names_today(old: str, notices: pytest.LogCaptureFixture) -> None:
    former, _, name = old.rpartition(".")
    module, _, today = RENAMED[old].rpartition(".")
    assert getattr(import_module(former), name) is getattr(import_module(module), today)
    assert notices.messages == [f"'{old}' is now '{RENAMED[old]}'; the old name works for one more release"]


def test_a_former_module_has_no_other_names() -> None:
    with pytest.raises(ImportError, match="SoftOverlng"):
        from lit_narrative.rl.penalties import SoftOverlng  # type: ignore[import-not-found] # noqa: F401


def test_old_settings_train_and_their_checkpoint_is_tested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, notices: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = OLD / "grpo.yaml"
    main(["fit", "--config", str(settings)])
    assert (tmp_path / "runs" / "grpo" / "checkpoints" / "last.ckpt").is_file()
    saved = yaml.safe_load((tmp_path / "runs" / "grpo" / "config.yaml").read_text())
    used = {"lit_narrative." + word for word in settings.read_text().replace(":", ".").split("lit_narrative.")}
    moved = {old for old in RENAMED if any(word.startswith(old) for word in used)}
    paths = {callback["class_path"] for callback in saved["trainer"]["callbacks"]}
    assert len(moved) == 8 and paths >= {RENAMED[old] for old in moved if ".callbacks." in old}
    assert {message.split("'")[1] for message in notices.messages} == moved
    main(["test", "--config", str(settings), "--ckpt_path", str(OLD / "grpo.ckpt")])
    assert (tmp_path / "runs" / "grpo" / "eval" / "test.json").is_file()


@pytest.mark.parametrize("name", ["grpo", "attribute"])
def test_an_old_checkpoint_loads_alone(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stored = torch.load(OLD / f"{name}.ckpt", weights_only=True)
    old = stored["hyper_parameters"]["_class_path"]
    module_name, _, class_name = RENAMED.get(old, old).rpartition(".")
    kind: type[LanguageModule] = getattr(import_module(module_name), class_name)
    module = kind.load_from_checkpoint(OLD / f"{name}.ckpt", weights_only=True)
    assert type(module) is kind
    state = module.state_dict()
    assert all(torch.equal(value, stored["state_dict"][weight]) for weight, value in state.items())


def test_a_renamed_class_is_known_by_its_name_alone(
    monkeypatch: pytest.MonkeyPatch, notices: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(RENAMED, "lit_narrative.old.Former", "lit_narrative.modules.sft.SFTModule")
    today = "lit_narrative.modules.sft.SFTModule"
    assert with_current_names(["fit", "--model.class_path=Former", "--model", "Former"]) == [
        "fit",
        f"--model.class_path={today}",
        "--model",
        today,
    ]
    given = {"trainer": {"callbacks": [{"class_path": "Former", "init_args": {"text": "Former"}}]}}
    assert with_current_paths(given)["trainer"]["callbacks"] == [{"class_path": today, "init_args": {"text": "Former"}}]
    assert len(notices.messages) == 1


def test_an_old_reward_path_gives_the_reward() -> None:
    path = "lit_narrative.rl.penalties:SoftOverlong(max_completion_length=8, soft_punish_cache=4)"
    assert isinstance(import_reward(path), SoftOverlong)
