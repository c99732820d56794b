"""The benchmark against TRL: its clock, and its sides on a tiny model, each in its own process."""

import importlib.util
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.rl import products
from benchmarks.rl.clock import Clock, Round, Step
from benchmarks.rl.compare import breakdown, costs, floor, run_worker
from benchmarks.rl.shape import Lengths, Shape, write_model
from tests.helpers import tiny_lm

TINY = Shape(
    prompts=2,
    group=2,
    prompt_tokens=3,
    completion_tokens=4,
    hidden_size=64,
    layers=1,
    vocabulary=32,
    warmup=1,
    steps=2,
)
OURS = "ours"
THEIRS = pytest.param(
    "theirs",
    marks=[
        pytest.mark.slow,
        pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="the extra 'bench' is not installed"),
    ],
)
SLOW_OURS = pytest.param("ours", marks=pytest.mark.slow)


def work(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_parts_exclude_each_other_and_cover_the_step() -> None:
    owner = SimpleNamespace(inner=lambda: work(0.02))
    owner.outer = lambda: (work(0.03), owner.inner())
    clock = Clock(warmup=1)
    clock.wrap(owner, "inner", "decode", tokens=lambda result: 7)
    clock.wrap(owner, "outer", "backward")
    for _ in range(2):
        owner.outer()
        work(0.01)
        clock.tick()
    (step,) = clock.steps
    assert step.tokens == 7
    assert step.parts["decode"] == pytest.approx(0.02, abs=0.008)
    assert step.parts["backward"] == pytest.approx(0.03, abs=0.008)
    assert sum(step.parts.values()) == pytest.approx(step.cpu, abs=1e-3)


@pytest.mark.parametrize("side", [SLOW_OURS, THEIRS])
def test_a_step_of_grpo_is_measured_whole(side: str, tmp_path: Path) -> None:
    write_model(TINY, tmp_path)
    measured = run_worker(side, "grpo", TINY, tmp_path)
    assert [step.tokens for step in measured.steps] == [16, 16]
    learning = {"prefill", "decode", "reference", "policy forward", "backward", "optimiser", "rewards"}
    for step in measured.steps:
        assert set(step.parts) == learning | {"other"}
        assert sum(step.parts.values()) == pytest.approx(step.cpu, abs=1e-3)
    assert measured.peak >= measured.imported > 0


@pytest.mark.parametrize("side", [SLOW_OURS, THEIRS])
def test_a_step_of_sft_reads_every_token(side: str, tmp_path: Path) -> None:
    write_model(TINY, tmp_path)
    assert [step.tokens for step in run_worker(side, "sft", TINY, tmp_path).steps] == [28, 28]


@pytest.mark.slow
@pytest.mark.parametrize("lengths", ["constant", "ragged"])
def test_lengths_are_what_they_are_called(lengths: Lengths, tmp_path: Path) -> None:
    shape = Shape(**{**TINY.as_dict(), "completion_tokens": 100, "steps": 1, "lengths": lengths, "vocabulary": 1024})
    write_model(shape, tmp_path)
    (step,) = run_worker("ours", "grpo", shape, tmp_path).steps
    assert step.tokens == 400 if lengths == "constant" else 4 < step.tokens < 400


def test_the_bare_products_of_a_pretrained_model_are_a_side(tmp_path: Path) -> None:
    tiny_lm().save_pretrained(tmp_path)
    for run, parts in (
        (products.run_grpo, {"decode", "reference", "policy forward"}),
        (products.run_sft, {"policy forward"}),
    ):
        clock = Clock(TINY.warmup)
        run(TINY, tmp_path, clock)
        assert [set(step.parts) for step in clock.steps] == [parts | {"other"}] * 2


def test_ratios_are_those_of_neighbouring_rounds_and_above_one_in_our_favour() -> None:
    def rounds(seconds: list[float]) -> list[Round]:
        return [Round(100, {}, [Step(s, 0.1, s, 50, {"decode": s / 2, "other": s / 2})], 200) for s in seconds]

    ours, theirs = rounds([1.0, 2.0, 3.0]), rounds([2.0, 6.0, 3.0])
    table = {row[0]: row[1:] for row in costs(ours, theirs)}
    assert table["CPU seconds a step"] == ["2.00", "3.00", "2.00 (1.00–3.00)"]
    assert table["tokens a CPU second"][2] == "2.00 (1.00–3.00)"
    assert breakdown(ours, theirs)[0] == ["decode", "1.000", "50.0%", "1.500", "50.0%"]
    assert floor(ours, theirs, rounds([1.0, 1.0, 2.4])).endswith(
        "1.00 CPU seconds: 80% of a step of ours and 50% of a step of TRL."
    )
