"""The view of a recipe that runs: what it says of a job, in a terminal and without one."""

import io
import os
import re
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from lit_narrative.cli.main import main
from lit_narrative.cli.recipes.meter import VARIABLE, Meter, ProgressPipe, Reading, clock, figures_of
from lit_narrative.cli.recipes.process import Started
from lit_narrative.cli.recipes.recipe import Job, Recipe, read_recipe
from lit_narrative.cli.recipes.watch import LiveWatch, Watch, watch_of

CLASSES = "tests.cli.test_lightning"
LEARN, EXAM = Job("learn", "fit", share=3), Job("exam", "test", share=1)


def started(job: Job, meter: Meter | None, gone: float = 0, log: Path | None = None, script: str = "") -> Started:
    with (log or Path(os.devnull)).open("ab") as output:
        process = subprocess.Popen(["sh", "-c", script], stdout=output)
    return Started(job, "", process, log, time.monotonic() - gone, 0, meter)


def told(reading: Reading) -> Meter:
    meter = Meter()
    meter.latest = reading
    return meter


def test_the_pipe_carries_the_latest_and_no_job_waits_for_a_reader() -> None:
    meter = Meter()
    pipe = ProgressPipe(meter.given)
    assert meter.read() == Reading()
    pipe.begin(2)
    for step in range(3, 5001):  # of which most fall within one interval, and are left out
        pipe.tell("learning", step, 5000, "step", "epoch 1 of 2")
    pipe.tell_figures({"reward": 0.5, "val/sound": 0.25, "grad_norm": 3.0, "loss": float("nan")})
    pipe.tell_phase("validating")
    read = meter.read()
    assert (read.phase, read.done, read.epoch, read.share, read.left) == ("validating", 5000, "epoch 1 of 2", 1.0, 0.0)
    assert read.figures == {"reward": 0.5, "sound": 0.25}
    for number in range(5000):  # more than a pipe holds
        pipe.tell_phase(f"phase {number}")
    os.close(meter._read)
    pipe.tell_phase("nobody reads")


def test_what_a_validation_says_of_a_figure_comes_before_the_batch() -> None:
    metrics = {"reward": 0.1, "val/verifiers": 0.2, "val/sound": 0.4, "rewards/sound/mean": 0.3}
    assert figures_of(metrics) == {"reward": 0.1, "verifiers": 0.2, "sound": 0.4}
    assert (clock(59.6), clock(3725), clock(-1)) == ("1:00", "1:02:05", "0:00")


def test_time_left_is_told_as_far_as_it_is_known(tmp_path: Path) -> None:
    plan = Recipe(tmp_path, (LEARN, EXAM))
    unknown = Watch(plan, {}).words(started(LEARN, told(Reading("learning", 7)), gone=65))
    assert unknown == ["step 7", "1:05 gone", "time left not known"]
    reading = Reading("learning", 50, 100, "step", "epoch 1 of 2", 30, {"loss": 0.5, "reward": 0.25, "sound": 0.1})
    words = Watch(plan, {}).words(started(LEARN, told(reading), gone=30), percentage=True)
    assert words[:5] == ["50%", "epoch 1 of 2", "step 50 of 100", "reward 0.250", "sound 10%"]
    assert words[5:] == ["0:30 gone", "about 0:30 left", "recipe about 0:50"]  # a minute for 3 of 4 shares
    later = Watch(plan, {"learn": 60.0}).words(started(EXAM, told(Reading("evaluating", 4, None, "batch")), gone=5))
    assert later == ["evaluating", "batch 4", "0:05 gone", "about 0:15 left"]
    late = Watch(plan, {"learn": 60.0}).words(started(EXAM, None, gone=50))
    assert late == ["0:50 gone", "time left not known"]
    beside = Watch(Recipe(tmp_path, (LEARN, EXAM), workers=2), {}).words(started(LEARN, told(reading), gone=30))
    assert beside[-1] == "about 0:30 left"  # how jobs side by side share the time is not known


def test_shares_of_a_recipe_hold_only_as_it_was_measured() -> None:
    assert all(job.share for job in read_recipe("storyworld").jobs)
    assert not any(job.share for job in read_recipe("storyworld", changes=["sft.trainer.max_steps=5"]).jobs)


def test_without_a_terminal_a_line_comes_every_few_seconds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = started(LEARN, told(Reading("learning", 1, 4)))
    with watch_of(Recipe(tmp_path, (LEARN, EXAM)), {}) as view:
        assert not view.live
        view.tick([one])
        assert not capsys.readouterr().out
        view._shown -= 6
        view.tick([one])
        view.tick([one])
    assert capsys.readouterr().out == "  job 1 of 2, learn: 25%, step 1 of 4, 0:00 gone, time left not known\n"


@pytest.mark.parametrize("width", [30, 100])
def test_a_terminal_shows_what_jobs_print_above_one_view(
    tmp_path: Path, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=20, markup=False, highlight=False)
    log = tmp_path / "log.txt"
    script = r"printf 'one\n10%%\r20%%\r30%%\n\033[31mred\007\n'; printf '%0100d\n' 7; printf 'no end'"
    one = started(LEARN, told(Reading("learning", 1, 4, left=9)), log=log, script=script)
    one.process.wait()
    with LiveWatch(Recipe(tmp_path, (LEARN, EXAM)), {}, console) as view:
        view.tick([one])
        shown = console.file.getvalue()  # type: ignore[attr-defined]
        assert "no end" not in shown and "25%" in shown
        view.ended(one)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    lines = {re.sub(r".*\x1b\[[?0-9;]*[A-Za-z]", "", line.replace("\r", "")) for line in shown.split("\n")}
    assert {"one", "30%", "\ufffd[31mred\ufffd", "0" * 99 + "7", "no end"} <= lines
    assert "\x1b[3" not in shown and shown.endswith("\x1b[1A\x1b[2K")
    frame = shown.partition("job 1 of 2")[2].partition("\x1b[2K")[0]
    assert max(map(len, frame.split("\n")[1:])) <= width


def test_the_last_words_of_jobs_are_shown_when_the_recipe_is_ended(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=20)
    one = started(LEARN, None, log=tmp_path / "log.txt", script="sleep 0.2; echo stopped by SIGTERM")
    with pytest.raises(SystemExit), LiveWatch(Recipe(tmp_path, (LEARN,)), {}, console) as view:
        view.tick([one])
        one.process.wait()
        raise SystemExit(143)
    assert "stopped by SIGTERM" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_job_tells_its_recipe_in_place_of_a_bar(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = {"accelerator": "cpu", "max_epochs": 2, "log_every_n_steps": 1, "limit_val_batches": 0}
    model, data = {"class_path": f"{CLASSES}.TinyModule"}, {"class_path": f"{CLASSES}.TinyData"}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({"trainer": trainer, "model": model, "data": data}))
    command = [f"--config={tmp_path / 'tiny.yaml'}", f"--trainer.default_root_dir={tmp_path / 'run'}"]
    for name, expected in (("fit", ("learning", 8, 8, "step")), ("test", ("evaluating", 4, None, "batch"))):
        meter = Meter()
        monkeypatch.setenv(VARIABLE, str(meter.given))
        main([name, *command])
        read = meter.read()
        assert (read.phase, read.done, read.total, read.unit) == expected
        assert read.figures.keys() == ({"loss"} if name == "fit" else set())
        assert VARIABLE not in os.environ
        meter.close()
        os.close(meter.given)
    printed = "".join(capfd.readouterr())
    for noise in ("GPU available", "TPU available", "Tip:", "Seed set", "Params", "Epoch", "Test metric"):
        assert noise not in printed
