"""ClassifierModule: a head is trained on a frozen model, kept and loaded."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lit_narrative.cli.main import main
from lit_narrative.errors import UserError
from lit_narrative.lm.checkpoint import export_model, load_checkpoint, read_language_model
from lit_narrative.lm.vectors.hidden_states import mean_states
from lit_narrative.modules.classifier import ClassifierModule
from lit_narrative.modules.sft import SFTModule
from lit_narrative.steering.heads import load_head
from tests.helpers import tokenizer, trainer
from tests.modules.labelled import LabelledTask
from tests.paths import EARLIER


def test_a_head_learns_and_the_model_does_not(folder: Path) -> None:
    module = ClassifierModule(model=str(folder / "lm0.ckpt"), lr=0.1)
    run = trainer(folder, max_epochs=80, limit_val_batches=1.0)
    task = LabelledTask(batch_size=30)
    run.fit(module, datamodule=task)
    figures = {name: float(value) for name, value in run.callback_metrics.items()}
    assert figures["val/accuracy"] > 0.8
    assert figures["val/f1"] > 0.8
    assert 0 <= figures["val/calibration_error"] <= 1
    plain = SFTModule(str(folder / "lm0.ckpt")).source.build()[0]
    for (name, weight), (_, before) in zip(module.lm.named_parameters(), plain.named_parameters(), strict=True):
        assert torch.equal(weight, before), name


def test_there_are_no_turns_in_texts_to_classify() -> None:
    with pytest.raises(UserError, match=r"reads whole texts as they stand; leave model\.chat=true out"):
        ClassifierModule(chat=True)


def test_each_text_is_read_once(folder: Path) -> None:
    module = ClassifierModule(model=str(folder / "lm0.ckpt"))
    calls: list[int] = []

    class Counting(Callback):
        def on_fit_start(self, run: Trainer, module: LightningModule) -> None:
            module.lm.get_decoder().register_forward_hook(lambda *args: calls.append(1))  # type: ignore[operator,union-attr]

    trainer(folder, Counting(), max_epochs=3).fit(module, datamodule=LabelledTask(batch_size=60))
    assert len(calls) == 2  # 60 texts, 32 at a time, and never again


def test_a_checkpoint_says_for_which_model_its_head_is(head: Path, folder: Path) -> None:
    again = ClassifierModule.load_from_checkpoint(head, map_location="cpu")
    assert again.card is not None
    assert again.card.classes == ("lantern", "salt", "tide")
    found, held_out = load_head(head, again.lm), LabelledTask().labelled("test")
    states = mean_states(again.lm.eval(), tokenizer(), [row.text for row in held_out])
    right = (again.head(states).argmax(1) == torch.tensor([row.label for row in held_out])).float()
    assert right.mean() > 0.8
    assert torch.equal(found.weight, again.head.weight)


def test_over_a_base_with_a_folder_the_head_alone_is_saved(folder: Path, tmp_path: Path) -> None:
    base, file = export_model(folder / "lm0.ckpt", tmp_path / "base"), tmp_path / "head.ckpt"
    module = ClassifierModule(model=str(base), lr=0.1)
    run = trainer(tmp_path, max_epochs=2)
    run.fit(module, datamodule=LabelledTask(batch_size=30))
    run.save_checkpoint(file)
    assert set(load_checkpoint(file)["state_dict"]) == {"head.weight", "head.bias"}
    again = ClassifierModule.load_from_checkpoint(file, map_location="cpu")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in module.state_dict().items())
    assert torch.equal(load_head(file, again.lm).weight, module.head.weight)
    # As the model of another module, and where a run resumes.
    read, _ = read_language_model(file)
    assert all(torch.equal(value, read.state_dict()[name]) for name, value in module.lm.state_dict().items())
    resumed = ClassifierModule(model=str(base), lr=0.1)
    trainer(tmp_path, max_epochs=3).fit(resumed, datamodule=LabelledTask(batch_size=30), ckpt_path=file)
    assert not torch.equal(resumed.head.weight, module.head.weight)
    base.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"its base model is no longer at '/.*/base': put it back, or say where it is"):
        ClassifierModule.load_from_checkpoint(file, map_location="cpu")
    moved = ClassifierModule.load_from_checkpoint(file, map_location="cpu", model=str(tmp_path / "elsewhere"))
    assert torch.equal(moved.head.weight, module.head.weight)


def test_a_label_beyond_the_classes_is_refused(folder: Path) -> None:
    module = ClassifierModule(model=str(folder / "lm0.ckpt"), classes=["lantern", "salt"])
    with pytest.raises(UserError, match=r"label 2; classes are 0 to 1 \(lantern, salt\)"):
        trainer(folder, max_epochs=1).fit(module, datamodule=LabelledTask())


def test_adapters_are_refused() -> None:
    with pytest.raises(UserError, match=r"model\.lora"):
        ClassifierModule(lora={"r": 2})


def test_test_measures_the_head_on_the_test_split(head: Path, folder: Path) -> None:
    (result,) = trainer(folder).test(ClassifierModule(), LabelledTask(), ckpt_path=head, verbose=False)
    assert set(result) == {f"test/{name}" for name in ("accuracy", "f1", "calibration_error", "loss")}
    assert result["test/accuracy"] > 0.8


def test_a_checkpoint_of_a_class_of_the_release_before_loads() -> None:
    """It was written by the command line, with the class path of `AttributeModule`."""
    module = ClassifierModule.load_from_checkpoint(EARLIER / "attribute.ckpt", map_location="cpu")
    assert module.card is not None
    assert len(module.card.classes) == len(module.classes) == module.head.out_features
    assert not any(parameter.requires_grad for parameter in module.lm.parameters())


def test_a_configuration_of_the_release_before_trains_a_head(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It asks for ``fit`` with SteeringModule, which trained heads then."""
    config = ["--config", str(EARLIER / "steering.yaml"), "--trainer.default_root_dir", str(tmp_path)]
    main(["fit", *config, "--model.lr", "0.05"])
    (notice,) = [message for message in caplog.messages if "ClassifierModule" in message]
    assert "SteeringModule" in notice
    module = ClassifierModule.load_from_checkpoint(tmp_path / "checkpoints" / "last.ckpt", map_location="cpu")
    assert module.card is not None
    assert (module.lr, module.weight_decay) == (0.05, 0.0)
