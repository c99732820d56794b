"""The order of rows: every row once an epoch, the same one after a kill, and rows of like lengths side by side."""

import math
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything

from lit_narrative.datamodules.base import Split, TaskDataModule
from lit_narrative.datamodules.order import EpochSampler, ShardSampler
from lit_narrative.lm.load import ScratchModel
from lit_narrative.modules.sft import SFTModule
from lit_narrative.progress import begin_at
from lit_narrative.views import Example
from tests.helpers import Recorder, fit, sizes, tokenizer_folder, trainer, weights


def order(done: int = 0, state: dict[str, int] | None = None, **settings: Any) -> list[int]:
    """The rows of a process, of which ``done`` batches are done, or as many as ``state`` says."""
    given: dict[str, Any] = {"num_replicas": 1, "rank": 0, "shuffle": True, "seed": 3, "batch_size": 1, **settings}
    epoch, batches = given.pop("epoch", 0), given.pop("batches", 0)
    run = Trainer(accelerator="cpu", logger=False, barebones=True)
    begin_at(run, done, 10)
    sampler = EpochSampler(range(10), run, **given)
    sampler.set_epoch(epoch)
    if state:
        sampler.load_state_dict(state, batches)
    return list(sampler)


@pytest.mark.parametrize(("done", "processes"), [((), 1), ((0, 2), 2), ((), 3), ((1, 2, 3), 4)])
def test_shards_are_shared_out_whole(done: tuple[int, ...], processes: int) -> None:
    """Eleven rows in shards of three; a process without one has a row to read all the same."""
    dealt = [[*ShardSampler(range(11), 3, done, num_replicas=processes, rank=rank)] for rank in range(processes)]
    assert all(
        len(rows) == len(ShardSampler(range(11), 3, done, num_replicas=processes, rank=n))
        for n, rows in enumerate(dealt)
    )
    left = [row for row in range(11) if row // 3 not in done]
    idle = max(0, processes - (4 - len(done)))
    busy = dealt[: processes - idle]
    assert sorted(chain.from_iterable(busy)) == left and dealt[processes - idle :] == [[0]] * idle
    for rows in busy:
        assert rows == sorted(rows)
        assert all({3 * (row // 3) + n for n in range(3)} & set(left) <= set(rows) for row in rows)


def test_order_depends_on_seed_and_epoch_only() -> None:
    torch.manual_seed(1)
    first = order()
    torch.manual_seed(2)
    assert order() == first
    assert sorted(first) == list(range(10))
    assert order(epoch=1) != first
    assert order(seed=4) != first
    assert order(shuffle=False) == list(range(10))


@pytest.mark.parametrize("done", [0, 1, 4, 10])
def test_after_a_kill_the_epoch_goes_on_where_it_stopped(done: int) -> None:
    assert order(done) == order()[done:]


def test_processes_share_the_rows() -> None:
    ranks = [order(num_replicas=2, rank=rank) for rank in (0, 1)]
    assert sorted(ranks[0] + ranks[1]) == list(range(10))
    assert order(2, num_replicas=2, rank=1) == ranks[1][2:]


@pytest.mark.parametrize(("processes", "batch_size"), [(1, 1), (1, 4), (2, 3), (4, 1), (3, 2)])
def test_a_run_may_resume_with_other_sizes_and_sees_every_row_once(processes: int, batch_size: int) -> None:
    """Six rows are done: three batches of one row on each of two processes."""
    done = [row for pair in zip(*(order(num_replicas=2, rank=rank) for rank in (0, 1)), strict=True) for row in pair][
        :6
    ]
    batches = math.ceil(10 / (processes * batch_size))
    settings = {"num_replicas": processes, "batch_size": batch_size, "batches": batches}
    rest = [order(state={"epoch": 0, "rows": 6}, rank=rank, **settings) for rank in range(processes)]
    assert len({len(rows) for rows in rest}) == 1
    seen = [row for rows in zip(*rest, strict=True) for row in rows]
    assert sorted(done + seen[:4]) == list(range(10))


# --- rows of like lengths side by side --------------------------------------------------------------------------------

ROWS = 1003
LENGTHS = [40 + row * 7919 % 101 for row in range(ROWS)]


def grouped(done: int = 0, state: dict[str, int] | None = None, accumulate: int = 1, **settings: Any) -> list[int]:
    """The rows of a process, grouped by length, as `order`."""
    given: dict[str, Any] = {"num_replicas": 1, "rank": 0, "shuffle": True, "seed": 3, "batch_size": 4, **settings}
    epoch, batches = given.pop("epoch", 0), given.pop("batches", 0)
    run = Trainer(accelerator="cpu", logger=False, barebones=True, accumulate_grad_batches=accumulate)
    begin_at(run, done, ROWS)
    sampler = EpochSampler(range(ROWS), run, lengths=LENGTHS, **given)
    sampler.set_epoch(epoch)
    if state:
        sampler.load_state_dict(state, batches)
    return list(sampler)


def padded(rows: list[int], batch_size: int) -> float:
    """Tokens of batches of ``rows`` with their padding, for each token."""
    batches = [[LENGTHS[row] for row in rows[n : n + batch_size]] for n in range(0, len(rows), batch_size)]
    return sum(max(batch) * len(batch) for batch in batches) / sum(LENGTHS[row] for row in rows)


def test_micro_batches_of_like_lengths_hold_little_padding_and_every_row_once() -> None:
    first = grouped(accumulate=4)
    assert sorted(first) == list(range(ROWS)) and first == grouped(accumulate=4)
    assert padded(first, 4) < 1.13 < 1.25 < padded(torch.randperm(ROWS).tolist(), 4)
    assert grouped(epoch=1, accumulate=4) != first and grouped(seed=4, accumulate=4) != first
    assert grouped(shuffle=False) == list(range(ROWS))


def test_steps_are_a_fair_sample_whatever_the_lengths_of_their_rows() -> None:
    plain = EpochSampler(range(ROWS), Trainer(barebones=True, accelerator="cpu"), 4, num_replicas=1, rank=0, seed=3)
    shuffled, first = list(plain), grouped()
    for start in range(0, ROWS, 4):
        assert sorted(shuffled[start : start + 4]) == sorted(first[start : start + 4])


def test_a_step_holds_the_same_rows_however_it_is_cut_and_spread() -> None:
    whole = grouped(batch_size=8)
    assert grouped(batch_size=2, accumulate=4) == whole
    ranks = [grouped(batch_size=2, accumulate=2, num_replicas=2, rank=rank) for rank in (0, 1)]
    assert list(chain.from_iterable(zip(*ranks, strict=True)))[:ROWS] == whole


@pytest.mark.parametrize("done", [0, 1, 100, 251])
def test_a_grouped_epoch_goes_on_where_it_stopped(done: int) -> None:
    assert grouped(done) == grouped()[4 * done :]


@pytest.mark.parametrize(("processes", "batch_size", "accumulate"), [(1, 4, 1), (1, 3, 1), (2, 5, 2)])
def test_a_grouped_epoch_may_go_on_with_other_sizes(processes: int, batch_size: int, accumulate: int) -> None:
    """Its rows stay in the order of the run that began it."""
    settings = {
        "num_replicas": processes,
        "batch_size": batch_size,
        "batches": math.ceil(ROWS / processes / batch_size),
    }
    state = {"epoch": 0, "rows": 400, "step_rows": 4}
    rest = [grouped(state=state, rank=rank, accumulate=accumulate, **settings) for rank in range(processes)]
    assert list(chain.from_iterable(zip(*rest, strict=True)))[: ROWS - 400] == grouped()[400:]


def test_a_checkpoint_of_a_run_without_groups_goes_on_without() -> None:
    plain = EpochSampler(range(ROWS), Trainer(barebones=True, accelerator="cpu"), 4, num_replicas=1, rank=0, seed=3)
    assert grouped(state={"epoch": 0, "rows": 400}, batches=251) == list(plain)[400:]


class Lengths(TaskDataModule):
    """Examples of many lengths."""

    def examples(self, split: Split) -> list[Example]:
        return [Example(f"{row}:", "la " * (row * 7 % 13 + 1)) for row in range(64)]


class Kept(Recorder):
    """Saves in the middle of the second epoch, and keeps the widths of batches that are evaluated."""

    def __init__(self) -> None:
        super().__init__()
        self.widths: list[int] = []

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        super().on_train_batch_end(trainer, *args)
        if len(self.batches) == 26:  # an epoch has 16 batches
            trainer.save_checkpoint(Path(trainer.default_root_dir, "middle.ckpt"))

    def on_validation_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        self.widths.append(batch.ids.shape[1])


def learn(folder: Path, seen: Recorder, ckpt_path: Path | None = None, **options: Any) -> SFTModule:
    seed_everything(0, verbose=False)
    model = ScratchModel("gpt2", hidden_size=16, layers=1, heads=2, positions=64, dropout=0.5)
    module = SFTModule(model, tokenizer_folder(folder))
    given = {"max_epochs": 2, "accumulate_grad_batches": 2, "limit_val_batches": 1.0, **options}
    trainer(folder, seen, **given).fit(module, Lengths(batch_size=4), ckpt_path=ckpt_path)
    return module


def test_a_grouped_run_resumes_exactly_within_an_epoch(tmp_path: Path) -> None:
    whole = learn(tmp_path, seen := Kept())
    resumed = learn(tmp_path, again := Kept(), tmp_path / "middle.ckpt")
    assert len(again.batches) == 6
    assert all(a.ids.equal(b.ids) for a, b in zip(seen.batches[-6:], again.batches, strict=True))
    expected = weights(whole)
    assert all(torch.equal(value, expected[name]) for name, value in weights(resumed).items())


def test_sft_and_its_evaluation_read_rows_by_length(tmp_path: Path) -> None:
    learn(tmp_path, seen := Kept())
    held = sum(int(batch.ids.numel()) for batch in seen.batches[:16])
    assert held < 1.3 * sum(int((batch.ids != 0).sum()) for batch in seen.batches[:16])
    assert seen.widths[:16] == sorted(seen.widths[:16], reverse=True)
    # A limit keeps the first rows of the task: those of all lengths, not the longest.
    learn(tmp_path, some := Kept(), limit_val_batches=2, max_epochs=1)
    assert some.widths != seen.widths[:2]


def test_the_likelihood_is_that_of_rows_in_order(tmp_path: Path) -> None:
    module, data = SFTModule(sizes(), tokenizer_folder(tmp_path)), Lengths(batch_size=4)
    fit(module, data, tmp_path, max_steps=1)
    found = [
        trainer(tmp_path, limit_val_batches=batches).validate(module, data, verbose=False)[0]["val/loss"]
        for batches in (1.0, 16)
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-5)
