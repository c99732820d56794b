"""Optimizer groups, schedules, and gradients before a step: norm, clipping, skipped steps."""

import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from lit_narrative.errors import UserError
from lit_narrative.lm.load import Lora, add_lora
from lit_narrative.lm.logprobs import CompletionBatch
from lit_narrative.lm.optim import (
    GradientGuard,
    Muon,
    MuonAdamW,
    Schedule,
    adamw,
    gradient_norm,
    orthogonal,
    schedule_by_step,
)
from lit_narrative.lm.sampler import SamplingParams
from lit_narrative.modules.sft import SFTModule
from tests.helpers import Recorder, TinyTask, fit, sizes, tiny_lm, tokenizer_folder, weights


def test_decay_on_matrices_only() -> None:
    optimizer = adamw(tiny_lm("gpt2"), lr=0.1, weight_decay=0.5)
    by_decay = {group["weight_decay"]: group["params"] for group in optimizer.param_groups}
    assert all(p.ndim >= 2 for p in by_decay[0.5])
    assert all(p.ndim < 2 for p in by_decay[0.0])
    assert sum(map(len, by_decay.values())) == len(list(tiny_lm("gpt2").parameters()))


def test_adapters_alone_are_optimised() -> None:
    adapted = add_lora(tiny_lm(), Lora(r=2))
    found = {id(p) for group in adamw(adapted, 0.1, 0.0).param_groups for p in group["params"]}
    assert found == {id(p) for p in adapted.parameters() if p.requires_grad}


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0, 0.5, 1, 1, 1, 1, 1]),
        ("linear", [0, 0.5, 1, 0.75, 0.5, 0.25, 0]),
        ("cosine", [0, 0.5, 1, 0.853553, 0.5, 0.146447, 0]),
        ("cosine_with_min_lr", [0, 0.5, 1, 0.882843, 0.6, 0.317157, 0.2]),
    ],
)
def test_rates_by_step(schedule: Schedule, expected: list[float]) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    steps = schedule_by_step(optimizer, schedule, 2, None if schedule == "constant" else 6)
    found = []
    for _ in expected:
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        steps.step()
    assert found == pytest.approx(expected, abs=1e-6)


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


def backward(model: nn.Module) -> torch.optim.AdamW:
    """Gradients of a fixed loss; the optimizer that would use them."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.arange(12.0).reshape(3, 4)).square().sum().backward()
    return optimizer


def gradients(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def test_the_norm_is_of_all_gradients_as_one() -> None:
    model = network()
    backward(model)
    assert gradient_norm(p.grad for p in model.parameters()).allclose(gradients(model).norm())
    assert float(gradient_norm([None])) == 0


@pytest.mark.parametrize(("value", "algorithm"), [(0.5, "norm"), (0.5, None), (1e9, "norm"), (0.3, "value")])
def test_clipping_is_that_of_pytorch(value: float, algorithm: str | None) -> None:
    ours, theirs = network(), network()
    optimizer, _ = backward(ours), backward(theirs)
    norm = GradientGuard(1).clip(optimizer, value, algorithm)
    if algorithm == "value":
        expected = gradients(theirs).norm()
        torch.nn.utils.clip_grad_value_(theirs.parameters(), value)
    else:
        expected = torch.nn.utils.clip_grad_norm_(theirs.parameters(), value)
    torch.testing.assert_close(norm, expected)
    torch.testing.assert_close(gradients(ours), gradients(theirs))


@pytest.mark.parametrize("value", [None, 0, 0.0])
def test_without_a_value_nothing_is_clipped(value: float | None) -> None:
    model, other = network(), network()
    GradientGuard(1).clip(backward(model), value, None)
    backward(other)
    assert gradients(model).equal(gradients(other))


def sharded(rank: int, port: int, folder: Path) -> None:
    """On each of two processes: a sharded part, a whole part, a step that is clipped, and one that is not finite."""
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", world_size=2, rank=rank)
    model, guard = network(), GradientGuard(3)
    fully_shard(model[0], mesh=torch.distributed.device_mesh.init_device_mesh("cpu", (2,)))
    optimizer = backward(model)
    assert isinstance(model[0].weight.grad, DTensor)
    norm = guard.clip(optimizer, 0.5, "norm")
    whole = [p.grad.full_tensor() if isinstance(p.grad, DTensor) else p.grad for p in model.parameters()]
    optimizer.zero_grad()
    backward(model)
    guard.clip(optimizer, 0.3, "value")
    capped = [p.grad.full_tensor() if isinstance(p.grad, DTensor) else p.grad for p in model.parameters()]
    if rank == 0:
        model[0].weight.grad.to_local()[0, 0] = torch.nan  # only this process holds it
    broken = guard.clip(optimizer, 0.5, "norm")
    gone = all(p.grad is None for p in model.parameters())
    torch.save((norm, whole, capped, broken, gone, guard.state_dict()), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.ddp
def test_sharded_gradients_are_judged_as_a_whole(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.start_processes(sharded, (port, tmp_path), nprocs=2, start_method="fork")
    model = network()
    backward(model)
    norm = gradients(model).norm()
    clipped = gradients(model) * 0.5 / norm
    for rank in (0, 1):
        seen, whole, capped, broken, gone, state = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(seen, norm)
        torch.testing.assert_close(torch.cat([g.flatten() for g in whole]), clipped)
        torch.testing.assert_close(torch.cat([g.flatten() for g in capped]), gradients(model).clamp(-0.3, 0.3))
        assert broken.isnan() and gone
        assert state == {"skipped": 1, "in_a_row": 1}


def test_the_scaler_of_half_floats_may_search_for_its_scale() -> None:
    """Its scale starts at 16 and is halved after every overflow: four steps to 1, and only then do two speak."""
    model, guard = network(), GradientGuard(2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=16.0)

    def step(scale: float) -> None:
        optimizer.zero_grad()
        scaler.scale(model(torch.ones(1, 4)).sum() * scale).backward()
        scaler.unscale_(optimizer)
        guard.clip(optimizer, None, None, scaler)
        scaler.step(optimizer)
        scaler.update()

    before = weights(model)
    for _ in range(4):
        step(torch.inf)
    assert guard.state_dict() == {"skipped": 4, "in_a_row": 0}
    assert all(value.equal(before[name]) for name, value in weights(model).items())
    step(1.0)
    assert not weights(model)["0.weight"].equal(before["0.weight"])
    step(torch.inf)
    with pytest.raises(UserError, match="gradients of 2 optimizer steps in a row were not finite"):
        step(torch.inf)


class Faulty(SFTModule):
    """Multiplies the loss of chosen batches by a number that is none."""

    faults: frozenset[int] = frozenset()
    fault = torch.nan

    def training_step(self, batch: CompletionBatch, batch_idx: int) -> torch.Tensor:
        loss = super().training_step(batch, batch_idx)
        return loss * self.fault if batch_idx in self.faults else loss


class Weights(Recorder):
    """Keeps the weights before each batch and at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[dict[str, torch.Tensor]] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        self.weights.append(weights(pl_module))


def faulty(folder: Path, faults: set[int], fault: float = torch.nan, **settings: Any) -> Faulty:
    made = Faulty(sizes(), tokenizer_folder(folder), sampling=SamplingParams(4), lr=1e-2, **settings)
    made.faults, made.fault = frozenset(faults), fault
    return made


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> bool:
    return any(not after[name].equal(value) for name, value in before.items())


@pytest.mark.parametrize("fault", [torch.nan, torch.inf])
@pytest.mark.parametrize("clip", [None, 0.5])
def test_a_step_that_is_not_finite_moves_nothing_and_training_goes_on(
    fault: float, clip: float | None, tmp_path: Path
) -> None:
    seen = Weights()
    module = faulty(tmp_path, {2}, fault)
    runner = fit(module, TinyTask(rows=20), tmp_path, seen, max_epochs=1, gradient_clip_val=clip)
    seen.weights.append(weights(module))
    steps = [moved(a, b) for a, b in zip(seen.weights, seen.weights[1:], strict=False)]
    assert steps == [True, True, False, True, True]
    assert [row["skipped_steps"] for row in seen.metrics] == [0, 0, 1, 1, 1]
    assert [torch.tensor(row["grad_norm"]).isfinite().item() for row in seen.metrics] == steps
    assert runner.global_step == 5


class OnOneProcess(Faulty):
    """Only the first process has the fault; each writes down where it ends."""

    def training_step(self, batch: CompletionBatch, batch_idx: int) -> torch.Tensor:
        if self.global_rank:
            return SFTModule.training_step(self, batch, batch_idx)
        return super().training_step(batch, batch_idx)

    def on_train_end(self) -> None:
        end = (self.guard.state_dict(), weights(self.lm))
        torch.save(end, Path(self.trainer.default_root_dir, f"end_{self.global_rank}.pt"))


@pytest.mark.ddp
def test_a_fault_on_one_process_skips_the_step_on_all(tmp_path: Path) -> None:
    module = OnOneProcess(sizes(), tokenizer_folder(tmp_path), sampling=SamplingParams(4), lr=1e-2)
    module.faults = frozenset({1})
    fit(module, TinyTask(rows=24), tmp_path, max_epochs=1, devices=2, strategy="ddp_fork")
    ends = [torch.load(tmp_path / f"end_{rank}.pt") for rank in (0, 1)]
    assert [state for state, _ in ends] == [{"skipped": 1, "in_a_row": 0}] * 2
    for name, value in ends[0][1].items():
        assert value.isfinite().all() and value.equal(ends[1][1][name])


def test_one_bad_micro_batch_drops_its_step_only(tmp_path: Path) -> None:
    seen = Weights()
    module = faulty(tmp_path, {0})
    fit(module, TinyTask(rows=16), tmp_path, seen, max_epochs=1, accumulate_grad_batches=2)
    assert not moved(seen.weights[0], seen.weights[2])
    assert moved(seen.weights[2], weights(module))


def test_for_ever_not_finite_is_a_clear_stop(tmp_path: Path) -> None:
    seen = Weights()
    module = faulty(tmp_path, set(range(1, 100)), max_skipped_steps=3)
    with pytest.raises(UserError, match=r"3 optimizer steps in a row .* norm is nan\).*lower model\.lr.*precision=32"):
        fit(module, TinyTask(rows=80), tmp_path, seen, max_epochs=1)
    assert len(seen.batches) == 4
    assert not moved(seen.weights[1], weights(module))


def test_a_good_step_between_starts_the_count_again(tmp_path: Path) -> None:
    module = faulty(tmp_path, {0, 1, 3, 4}, max_skipped_steps=3)
    fit(module, TinyTask(rows=24), tmp_path, max_epochs=1)
    assert module.guard.state_dict() == {"skipped": 4, "in_a_row": 0}


def test_the_counts_are_in_the_checkpoint(tmp_path: Path) -> None:
    module = faulty(tmp_path, {1, 3, 4})
    fit(module, TinyTask(rows=20), tmp_path, max_epochs=1).save_checkpoint(tmp_path / "last.ckpt")
    again = SFTModule.load_from_checkpoint(tmp_path / "last.ckpt")
    assert again.guard.state_dict() == {"skipped": 3, "in_a_row": 2}


def test_norm_and_learning_rate_are_logged_before_clipping(tmp_path: Path) -> None:
    free, clipped = Recorder(), Recorder()
    for seen, value in ((free, None), (clipped, 1e-3)):
        module = faulty(tmp_path, set(), warmup_steps=2, schedule="linear")
        fit(module, TinyTask(rows=16), tmp_path, seen, max_epochs=1, gradient_clip_val=value)
    norm = torch.cat([g.flatten() for g in free.gradients[0].values()]).norm()
    assert free.metrics[0]["grad_norm"] == pytest.approx(float(norm))
    assert clipped.metrics[0]["grad_norm"] == pytest.approx(float(norm))
    assert [row["learning_rate"] for row in free.metrics] == pytest.approx([0, 0.005, 0.01, 0.005])


@pytest.mark.parametrize("limit", [0, -1])
def test_the_limit_is_at_least_one(limit: int) -> None:
    with pytest.raises(UserError, match=r"model\.max_skipped_steps is"):
        GradientGuard(limit)


def test_muon_takes_the_matrices_of_the_blocks_and_adamw_the_rest() -> None:
    lm = tiny_lm()
    optimizer = MuonAdamW(lm, lr=0.1, weight_decay=0.5, muon_lr=0.02)
    shapes = {name: p for name, p in lm.named_parameters()}
    turned = {id(p) for group in optimizer.parts[-1].param_groups for p in group["params"]}
    assert {name for name, p in shapes.items() if id(p) in turned} == {
        name for name, p in shapes.items() if ".layers." in name and p.ndim == 2
    }
    together = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(together) == sorted(map(id, lm.parameters()))


@pytest.mark.parametrize("shape", [(24, 16), (16, 24), (16, 16)])
def test_steps_of_muon_are_orthogonal_and_those_of_torch(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(shape, generator=generator)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    steps = [Muon([ours], 0.1, 0.5), torch.optim.Muon([theirs], lr=0.1, weight_decay=0.5)]
    for _ in range(4):
        ours.grad = torch.randn(shape, generator=generator)
        theirs.grad = ours.grad.clone()
        for optimizer in steps:
            optimizer.step()
    torch.testing.assert_close(ours, theirs, atol=5e-3, rtol=0)  # theirs in bfloat16
    values = torch.linalg.svdvals(orthogonal(ours.grad))
    assert 0.5 < values.min() < values.max() < 1.3


def test_muon_trains_adapters_which_leave_nothing_for_adamw() -> None:
    adapted = add_lora(tiny_lm(), Lora(r=2))
    trained = {name: p.clone() for name, p in adapted.named_parameters() if p.requires_grad}
    optimizer = MuonAdamW(adapted, lr=0.1, weight_decay=0.0, muon_lr=0.02)
    for _ in range(2):  # the second factor of an adapter begins at 0, and holds back the gradients of the first
        adapted(input_ids=torch.tensor([[3, 4, 5]]), labels=torch.tensor([[3, 4, 5]])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert all(not p.equal(trained[name]) for name, p in adapted.named_parameters() if name in trained)


def test_muon_without_matrices_to_train_is_an_error() -> None:
    lm = tiny_lm().requires_grad_(False)
    lm.get_output_embeddings().requires_grad_(True)
    with pytest.raises(UserError, match="no matrix to train in the model's blocks; take adamw"):
        MuonAdamW(lm, 0.1, 0.0, 0.02)
    with pytest.raises(UserError, match=r"model\.muon_lr=0\.1 is of optimizer=muon"):
        SFTModule(muon_lr=0.1)
    with pytest.raises(UserError, match=r"model\.optimizer.*'mun'.*muon"):
        SFTModule(optimizer="mun")  # type: ignore[arg-type]
