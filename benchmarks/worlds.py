"""Worlds read, compiled, checked and played on one core: ``python -m benchmarks.worlds [FILE or FOLDER…]``.

Targets: reading and compiling the largest file in less than 1 s, 200 plays a second of it, 5,000 of small worlds, and a
check of 2.5 MB in less than 1 s. Times are CPU time, the best of three rounds, so that a busy machine does not change
them. Plays are those of ``simulate``: uniform, at most 200 steps, every step kept and counted.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from lit_narrative.tasks.storyworld.formats.files import read_any, write_world
from lit_narrative.tasks.storyworld.generator import Skew, corpus
from lit_narrative.tasks.storyworld.simulator.engine import Engine
from lit_narrative.tasks.storyworld.simulator.statistics import tally

LIGHT = Path(__file__).parents[1] / "tests" / "data" / "sweepweave_light.json"
RICH = Skew(encounters=(0, 0, 0.4, 0.3, 0.3), second_ending=0.9, gates=0.6, variables=(0, 0, 1), options=(0, 0.6, 0.4))
CHECKED = 2_500_000
"""Characters of the file that is checked."""
RUNS = 200
Result = TypeVar("Result")


def texts(names: list[str]) -> Iterator[tuple[str, str]]:
    """(name, text) of our small worlds, and of the files named."""
    yield "generated, rich", next(iter(corpus(1, 0, RICH))).completion
    yield LIGHT.name, LIGHT.read_text(encoding="utf-8")
    files = [file for name in names for file in (sorted(Path(name).glob("*.json")) if os.path.isdir(name) else [name])]
    for file in sorted(map(Path, files), key=os.path.getsize):
        yield file.name, file.read_text(encoding="utf-8-sig")


def large_text() -> str:
    """A SweepWeave file of ``CHECKED`` characters: many generated worlds one behind the other."""
    values = [json.loads(row.completion) for row in corpus(400, 1, RICH)]
    whole = {"characters": {}, "initial_state": {}, "properties": {}, "encounters": []}
    text = ""
    for number, value in enumerate(values):
        for key in ("characters", "initial_state", "properties"):
            whole[key].update(value[key])  # type: ignore[attr-defined]
        renamed = {encounter["id"]: f"{encounter['id']}_{number}" for encounter in value["encounters"]}
        for encounter in value["encounters"]:
            encounter["id"] = renamed[encounter["id"]]
            for option in encounter["options"]:
                for reaction in option["reactions"]:
                    if reaction.get("next_encounter") is not None:
                        reaction["next_encounter"] = renamed.get(reaction["next_encounter"], "nowhere")
        whole["encounters"] += value["encounters"]  # type: ignore[operator]
        if number % 20 == 19:
            world = read_any(json.dumps(whole)).world
            assert world is not None
            text = write_world(world, "sweepweave")
            if len(text) >= CHECKED:
                break
    return text


def timed(work: Callable[[], Result]) -> tuple[float, Result]:
    """Seconds of the fastest of three rounds, and what it gave."""
    best, result = float("inf"), None
    for _ in range(3):
        start = time.process_time()
        result = work()
        best = min(best, time.process_time() - start)
    return best, result  # type: ignore[return-value]


def compiled(text: str) -> Engine:
    """A world read and compiled, every encounter of it."""
    world = read_any(text).world
    assert world is not None
    engine = Engine(world)
    engine.compile()
    return engine


def main() -> None:
    """Print a line for each world, and the time of a check."""
    print(f"{'world':<56}{'characters':>11}{'read+compile, ms':>18}{'steps/play':>12}{'plays/s':>9}")
    for name, text in texts(sys.argv[1:]):
        seconds, engine = timed(lambda text=text: compiled(text))  # type: ignore[misc]
        played, found = timed(lambda engine=engine: tally(engine, RUNS, 0, max_steps=200))  # type: ignore[misc]
        steps = sum(found.course.counts) / RUNS
        print(f"{name[:54]:<56}{len(text):>11,}{1000 * seconds:>18.1f}{steps:>12.1f}{RUNS / played:>9,.0f}")
    large = large_text()
    seconds, reading = timed(lambda: read_any(large))
    print(f"check of {len(large):,} characters: {seconds:.2f} s ({len(reading.issues)} issues)")


if __name__ == "__main__":
    main()
