"""A task as data: views, loaders, and the order of rows."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, Trainer, seed_everything
from torch.multiprocessing import ProcessRaisedException

from lit_narrative.datamodules.base import Split, TaskDataModule
from lit_narrative.errors import UserError
from lit_narrative.lm.sampler import SamplingParams
from lit_narrative.modules.grpo import GRPOModule
from lit_narrative.modules.sft import SFTModule
from lit_narrative.views import Labelled, Prompt
from tests.helpers import Recorder, TinyTask, fit, sizes, tiny_lm, tokenizer, tokenizer_folder, trainer
from tests.rewards import LowTokens


class Moods(TaskDataModule):
    """A task of labels and prompts."""

    def labelled(self, split: Split) -> list[Labelled]:
        return [Labelled("calm", 0)]

    def prompts(self, split: Split) -> list[Prompt]:
        return []


def test_a_task_names_the_views_that_it_has() -> None:
    assert Moods().views == ("prompts", "labelled")
    assert Moods().view("labelled", "train") == [Labelled("calm", 0)]
    with pytest.raises(UserError, match=r"Moods offers no 'states' view; it has: prompts, labelled\. Choose another"):
        Moods().view("states", "train")


def test_a_task_without_rewards_and_verifiers_says_so() -> None:
    with pytest.raises(UserError, match="Moods: there is no 'calmness'"):
        Moods().reward_functions(["calmness"])
    with pytest.raises(UserError, match="Moods has no verifiers"):
        Moods().verify([])
    assert Moods().unique_shares(["a", "b", "a", "c"]) == {"unique": 0.75}


def test_an_algorithm_and_a_task_that_do_not_fit(tmp_path: Path) -> None:
    module = SFTModule(sizes(), tokenizer_folder(tmp_path))
    with pytest.raises(UserError, match=r"Moods offers no 'examples' view"):
        fit(module, Moods(), tmp_path, max_steps=1)
    with pytest.raises(UserError, match="Moods: no rows to read"):
        policy = GRPOModule({"low": 1.0})
        policy.set_model(tiny_lm(), tokenizer())
        trainer(tmp_path).test(policy, Moods(), verbose=False)


@pytest.mark.parametrize(("name", "wrong"), [("batch_size", 0), ("eval_batch_size", 0), ("num_workers", -1)])
def test_settings_of_the_loaders_out_of_range_are_refused(name: str, wrong: int) -> None:
    with pytest.raises(UserError, match=rf"data\.{name} is {wrong}; it must be {wrong + 1} or more"):
        TinyTask(**{name: wrong})


def sft(folder: Path) -> SFTModule:
    return SFTModule(sizes(), tokenizer_folder(folder), lr=0.0, sampling=SamplingParams(4))


def test_batch_sizes_and_workers(tmp_path: Path) -> None:
    seen, data = Recorder(), TinyTask(rows=7, batch_size=3, eval_batch_size=5, num_workers=1)
    module = sft(tmp_path)
    fit(module, data, tmp_path, seen, max_epochs=1)
    assert [len(batch.ids) for batch in seen.batches] == [3, 3, 1]
    runner = trainer(tmp_path)
    runner.test(module, data, verbose=False)
    assert runner.num_test_batches == [2]
    assert [len(batch) for batch in runner.predict(module, data) or []] == [5, 2]


class Counts(Callback):
    """Writes to a file of each process how many rows it evaluated."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.rows = folder, 0

    def on_test_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        self.rows += len(batch.ids)
        (self.folder / f"test_{trainer.global_rank}").write_text(str(self.rows))

    def on_validation_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        self.rows += len(batch.ids)
        (self.folder / f"val_{trainer.global_rank}").write_text(str(self.rows))


@pytest.mark.ddp
def test_two_processes_evaluate_every_row_once(tmp_path: Path) -> None:
    processes = {"devices": 2, "strategy": "ddp_fork"}
    module, data = sft(tmp_path), TinyTask(rows=5, batch_size=2)
    fit(module, data, tmp_path, Counts(tmp_path), max_epochs=1, limit_val_batches=1.0, **processes)
    module.set_model(tiny_lm(), tokenizer())
    trainer(tmp_path, Counts(tmp_path), **processes).test(module, data, verbose=False)
    for name in ("val", "test"):  # three rows in two batches, and two in one
        assert [int((tmp_path / f"{name}_{rank}").read_text()) for rank in (0, 1)] == [3, 2]
    with pytest.raises(ProcessRaisedException, match="UserError: TinyTask: 1 rows for 2 processes to evaluate"):
        trainer(tmp_path, **processes).test(module, TinyTask(rows=1), verbose=False)


def test_evaluation_falls_back_on_the_batch_size_of_training(tmp_path: Path) -> None:
    runner = trainer(tmp_path)
    module = sft(tmp_path)
    module.set_model(tiny_lm(), tokenizer())
    runner.test(module, TinyTask(rows=7, batch_size=3), verbose=False)
    assert runner.num_test_batches == [3]


def test_an_algorithm_that_counts_batches_gets_whole_batches_of_prompts_only(tmp_path: Path) -> None:
    module, seen = (
        GRPOModule({"low": 1.0}, model=sizes(), tokenizer=tokenizer_folder(tmp_path), num_generations=2),
        Recorder(),
    )
    module.sampling = SamplingParams(4)
    fit(module, TinyTask(rows=7, batch_size=3), tmp_path, seen, max_epochs=1)
    assert [len(batch.mask) for batch in seen.batches] == [6, 6]


def test_epochs_see_the_rows_in_another_order(tmp_path: Path) -> None:
    seen = Recorder()
    fit(sft(tmp_path), TinyTask(rows=8), tmp_path, seen, max_epochs=2)
    first, second = ([tuple(ids.tolist()) for batch in seen.batches[n : n + 2] for ids in batch.ids] for n in (0, 2))
    assert first != second


def test_the_tokenizer_reads_the_training_examples() -> None:
    data = TinyTask(rows=3)
    assert list(data.tokenizer_texts()) == [row.prompt + row.completion for row in data.examples("train")]


class Bare(TaskDataModule):
    """Prompts alone, every third of them long; each split has others."""

    def prompts(self, split: Split) -> list[Prompt]:
        return [Prompt(f"{split} {n}" + n % 3 // 2 * " and no more than that", {"index": n}) for n in range(9)]

    def reward_functions(self, names: Sequence[str]) -> dict[str, Any]:
        return {name: LowTokens() for name in names}


class Seen(Recorder):
    """Keeps what each loader gave."""

    def __init__(self) -> None:
        super().__init__()
        self.prompts: dict[str, list[str]] = {"val": [], "test": [], "predict": []}

    def on_validation_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        self.prompts["val"] += [prompt.text for prompt in batch]

    def on_test_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        self.prompts["test"] += [prompt.text for prompt in batch]

    def on_predict_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        self.prompts["predict"] += [prompt.text for prompt in batch]


def dropping(folder: Path, **settings: Any) -> GRPOModule:
    given: dict[str, Any] = {"max_prompt_length": 14, "sampling": SamplingParams(4), "num_generations": 2, **settings}
    return GRPOModule({"low": 1.0}, model=sizes(), tokenizer=tokenizer_folder(folder), long_prompts="drop", **given)


def test_prompts_that_are_left_out_are_in_no_loader(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    module, data, seen = dropping(tmp_path), Bare(batch_size=3), Seen()
    with caplog.at_level(logging.WARNING, "lit_narrative"):
        runner = fit(module, data, tmp_path, seen, max_epochs=2, limit_val_batches=1.0)
        runner.test(module, data, verbose=False)
        runner.predict(module, data)
    short = [n for n in range(9) if n % 3 < 2]
    assert seen.prompts["val"] == [f"val {n}" for n in short] * 2
    assert seen.prompts["test"] == seen.prompts["predict"] == [f"test {n}" for n in short]
    lengths = {int(length) for batch in seen.batches for length in batch.batch.targets.int().argmax(1)}
    assert len(seen.batches) == 4 and max(lengths) <= 14
    lines = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert lines == ["left out 3 of 9 prompts that exceed 14 tokens"] * 4  # train, val, test, predict


def test_if_all_prompts_are_left_out_nothing_begins(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="all 9 prompts are longer than 2 tokens"):
        fit(dropping(tmp_path, max_prompt_length=2), Bare(), tmp_path, max_epochs=1)


def test_a_module_is_asked_once_a_run_for_each_view(tmp_path: Path) -> None:
    class Picky(SFTModule):
        asked = 0

        def validate_rows(self, rows: Sequence[Any]) -> Sequence[Any]:
            self.asked += 1
            return list(rows)[:: self.asked]

    module, data, seen = Picky(sizes(), tokenizer_folder(tmp_path)), TinyTask(rows=8), Recorder()
    runner = fit(module, data, tmp_path, seen, max_epochs=2)
    assert module.asked == 1 and len(seen.batches) == 4
    runner.test(module, data, verbose=False)
    assert module.asked == 2 and runner.num_test_batches == [1]
    other = Picky(sizes(), tokenizer_folder(tmp_path))
    other.set_model(tiny_lm(), tokenizer())
    trainer(tmp_path).test(other, data, verbose=False)
    assert other.asked == 1


class Broad(SFTModule):
    """Reads twice as many rows as the task offers at once."""

    def train_batch_size(self, batch_size: int, world_size: int) -> int:
        return 2 * batch_size * world_size


class Until(Recorder):
    """Leaves a checkpoint after the given number of batches."""

    def __init__(self, batches: int, path: Path) -> None:
        super().__init__()
        self.until, self.path = batches, path

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        super().on_train_batch_end(trainer, *args)
        if len(self.batches) == self.until:
            trainer.save_checkpoint(self.path)


def test_the_module_may_set_the_batch_size_of_training(tmp_path: Path) -> None:
    module, seen = Broad(sizes(), tokenizer_folder(tmp_path)), Until(2, tmp_path / "middle.ckpt")
    fit(module, TinyTask(rows=10, batch_size=2, eval_batch_size=5), tmp_path, seen, max_epochs=1)
    assert [len(batch.ids) for batch in seen.batches] == [4, 4, 2]
    resumed, rest = trainer(tmp_path, again := Recorder(), max_epochs=1), seen.batches[2:]
    seed_everything(0, verbose=False)
    resumed.fit(Broad(), TinyTask(rows=10, batch_size=2), ckpt_path=tmp_path / "middle.ckpt")
    assert len(again.batches) == 1 and again.batches[0].ids.equal(rest[0].ids)
