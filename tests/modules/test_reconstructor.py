"""Training of a reconstructor: it learns, says how well, and its checkpoints are whole."""

import socket
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_narrative.datamodules.base import Split
from lit_narrative.errors import UserError
from lit_narrative.lm.vectors.fve import FVE
from lit_narrative.lm.vectors.reconstructor import Reconstructor
from lit_narrative.modules.reconstructor import ReconstructorModule
from lit_narrative.views import Described
from tests.helpers import Recorder, TinyTask, fit, grpo, trainer, weights
from tests.modules.described import Describing, folder, module, texts, vectors

VALIDATED: dict[str, Any] = {"limit_val_batches": 1.0}


def resume(where: Path, data: Describing, checkpoint: Path) -> None:
    trainer(where, max_steps=2).fit(module(where), data, ckpt_path=str(checkpoint))


def test_it_learns_and_validation_says_how_well(tmp_path: Path) -> None:
    model = module(tmp_path)
    runner = fit(model, Describing(80), tmp_path, max_epochs=20, **VALIDATED)
    found = {name: float(value) for name, value in runner.callback_metrics.items()}
    assert found["val/fve"] > max(found["val/floor"], 0) + 0.3
    assert found["val/fve_median"] > found["val/fve"] - 0.2
    rows = texts("val", 80)
    expected = FVE(16, 4.0)
    expected.update(model.critic.reconstruct(rows), torch.tensor(vectors(rows)))
    figures = expected.compute()
    assert {f"val/{name}": pytest.approx(float(value), abs=1e-5) for name, value in figures.items()}.items() <= (
        found.items()
    )


def test_from_the_subject_itself_it_begins_at_the_end(tmp_path: Path) -> None:
    model = ReconstructorModule(model=folder(tmp_path), critic={"layer": 2, "template": "{explanation}"}, lr=0.0)
    runner = fit(model, Describing(), tmp_path, max_epochs=1, **VALIDATED)
    assert runner.callback_metrics["val/fve"] > 1 - 1e-5


def test_the_loss_of_a_step_is_the_mean_of_its_rows(tmp_path: Path) -> None:
    recorder, model = Recorder(), module(tmp_path, lr=0.0)
    fit(model, Describing(), tmp_path, recorder, max_steps=2)
    model.eval().requires_grad_(False)
    for batch, loss in zip(recorder.batches, recorder.losses, strict=True):
        found = model.critic.losses(model.critic(batch.ids, batch.mask), batch.vectors).mean()
        assert float(found) == pytest.approx(loss, abs=1e-5)


@pytest.mark.parametrize("lora", [None, {"r": 2}])
def test_a_checkpoint_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lora: dict[str, Any] | None) -> None:
    saves = ModelCheckpoint(tmp_path / "kept", save_last=True)
    model = module(tmp_path, lora=lora)
    fit(model, Describing(), tmp_path, saves, max_steps=3, enable_checkpointing=True)
    (tmp_path / "subject").rename(tmp_path / "gone")

    def refused(*args: object) -> None:
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refused)
    path = tmp_path / "kept" / "last.ckpt"
    again, plain = ReconstructorModule.load_from_checkpoint(path), Reconstructor.load(path)
    rows = texts("val", 5)
    expected = model.critic.reconstruct(rows)
    assert torch.allclose(again.critic.reconstruct(rows), expected, atol=1e-6)
    assert torch.allclose(plain.reconstruct(rows), expected, atol=1e-6)
    changed = {name for name, parameter in plain.named_parameters() if parameter.requires_grad}
    assert any("lora" in name for name in changed) == bool(lora)


def test_a_resumed_run_ends_as_an_unbroken_one(tmp_path: Path) -> None:
    whole = module(tmp_path, warmup_steps=2)
    fit(whole, Describing(), tmp_path, max_epochs=2)
    saves = ModelCheckpoint(tmp_path / "kept", save_last=True)
    fit(module(tmp_path, warmup_steps=2), Describing(), tmp_path, saves, max_epochs=1, enable_checkpointing=True)
    resumed = module(tmp_path, warmup_steps=2)
    trainer(tmp_path, max_epochs=2).fit(resumed, Describing(), ckpt_path=str(tmp_path / "kept" / "last.ckpt"))
    expected = weights(whole)
    assert all(torch.allclose(value, expected[name], atol=1e-6) for name, value in weights(resumed).items())


def test_a_gradient_that_is_not_finite_changes_nothing(tmp_path: Path) -> None:
    class Broken(ReconstructorModule):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return super().training_step(batch, batch_idx) * (torch.nan if batch_idx == 1 else 1)

    states: list[dict[str, torch.Tensor]] = []

    class Watch(Recorder):
        def on_train_batch_end(self, *args: Any) -> None:
            states.append(weights(args[1]))

    model = Broken(model=folder(tmp_path), critic={"layer": 2})
    fit(model, Describing(), tmp_path, Watch(), max_steps=3)
    moved = [any(not torch.equal(a[n], b[n]) for n in a) for a, b in pairwise(states)]
    assert moved == [False, True]
    assert model.guard.skipped == 1


class Odd(Describing):
    """One row is another than it should be."""

    def __init__(self, text: str = "salt", vector: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.odd = Described(text, np.ones(16, np.float32) if vector is None else np.array(vector, np.float32))

    def described(self, split: Split) -> list[Described]:
        rows = super().described(split)
        return [*rows[:3], self.odd, *rows[3:]]


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        ({"text": " \n"}, "row 3 of the view 'described' has an empty text"),
        ({"vector": [1.0] * 8}, r"row 3 .* shape \(8,\), and the reconstructor gives vectors 16 wide"),
        ({"vector": [np.nan] * 16}, "row 3 .* NaN or infinity"),
    ],
)
def test_rows_that_cannot_be_learned_from_are_refused(tmp_path: Path, odd: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        fit(module(tmp_path), Odd(**odd), tmp_path, max_steps=1)


def test_vectors_that_are_all_the_same_are_refused(tmp_path: Path) -> None:
    class Same(Describing):
        def described(self, split: Split) -> list[Described]:
            return [Described(row.text, np.ones(16, np.float32)) for row in super().described(split)]

    with pytest.raises(UserError, match=r"all 40 vectors .* are the same"):
        fit(module(tmp_path), Same(), tmp_path, max_steps=1)


def test_the_template_is_the_tasks_and_another_one_is_refused(tmp_path: Path) -> None:
    class Templated(Describing):
        template = "In words: {explanation} so"

    model = module(tmp_path)
    saves = ModelCheckpoint(tmp_path / "kept", save_last=True)
    fit(model, Templated(), tmp_path, saves, max_steps=1, enable_checkpointing=True)
    assert model.critic.settings.template == Templated.template
    with pytest.raises(UserError, match="the task has the template 'In words"):
        fit(module(tmp_path, {"template": "{explanation} then"}), Templated(), tmp_path, max_steps=1)
    Templated.template = "In other words: {explanation} so"
    with pytest.raises(UserError, match="the task has the template 'In other words"):
        trainer(tmp_path, max_steps=2).fit(
            module(tmp_path), Templated(), ckpt_path=str(tmp_path / "kept" / "last.ckpt")
        )


def test_the_layer_is_the_tasks_unless_another_is_given(tmp_path: Path) -> None:
    class Deep(Describing):
        critic_layer = 3

    for given, expected in ((None, 3), (1, 1)):
        model = module(tmp_path, {"layer": given})
        fit(model, Deep(), tmp_path, max_steps=1)
        assert model.critic.settings.layer == expected


def test_a_checkpoint_of_another_module_is_refused(tmp_path: Path) -> None:
    saves = ModelCheckpoint(tmp_path / "kept", save_last=True)
    fit(
        grpo(tmp_path, sampling={"max_new_tokens": 8}),
        TinyTask(),
        tmp_path,
        saves,
        max_steps=1,
        enable_checkpointing=True,
    )
    with pytest.raises(UserError, match="holds no reconstructor"):
        resume(tmp_path, Describing(), tmp_path / "kept" / "last.ckpt")
