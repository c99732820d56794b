"""Every command of the prose runs, or its page says what it needs.

``# needs: ...`` alone on a line of a block holds for the commands below it, behind a command for that one. A need that
is a command, such as ``# needs: lit-narrative fit --config cards/sft``, is met by running it. All the rest run page by
page, from top to bottom, in an empty folder; jobs for two steps.
"""

import glob
import itertools
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import pytest
import yaml

from lit_narrative.cli.main import main
from lit_narrative.lookup import shipped_configs
from tests.test_docs import JOBS, PAGES

ELSEWHERE = {"extending": "tests/extension/test_extending.py", "quickstart": "tests/test_docs.py"}
"""Pages whose commands run elsewhere, at full length."""
PROGRAMS = (
    "lit-narrative",
    "python",
    "python3",
    "pip",
    "torchrun",
    "srun",
    "docker",
    "wandb",
    "vllm",
    "uv",
    "cp",
    "source",
)
"""What a line begins with that is a command."""
HERE = {"lit-narrative", "cp", "source", "export"}
"""What can be run in a test; the environment that ``source`` enters is its own."""
NEEDS = re.compile(r"# needs: ([^;\n]+)")
SHORT = {
    "fit": ["--trainer.max_steps=2", "--trainer.limit_val_batches=1"],
    "validate": ["--trainer.limit_val_batches=1"],
    "test": ["--trainer.limit_test_batches=1"],
    "predict": ["--trainer.limit_predict_batches=1"],
}
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu"]


@dataclass(frozen=True)
class Command:
    """A command of a page, with its continued lines, and whether the page says what it needs."""

    line: int
    text: str
    marked: bool

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text, comments=True)


def commands(path: Path) -> Iterator[Command]:
    """The commands of a page's blocks, in order, and before them those that they need, once."""
    text, met = path.read_text(encoding="utf-8"), set[str]()
    for block in re.finditer(r"^ *```(?:bash|sh)\n(.*?)```", text, re.DOTALL | re.MULTILINE):
        line, marked = text.count("\n", 0, block.start(1)) + 1, False
        for whole in re.findall(r"(?:.*\\\n)*.*\n", block[1]):
            command = Command(line, whole.replace("\\\n", " ").strip(), marked)
            line += whole.count("\n")
            need = NEEDS.search(whole)
            if need and need[1].startswith("lit-narrative "):
                if need[1] not in met:
                    met.add(need[1])
                    yield Command(command.line, need[1], False)
            elif need and command.words:
                command = replace(command, marked=True)
            elif need:
                marked = True
            if command.words:
                yield command


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_block_of_commands_is_one_of_the_shell(path: Path) -> None:
    """So that the test below sees it."""
    blocks = re.findall(r"^ *```(\w*)\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    lines = [line for language, block in blocks if language not in ("bash", "sh") for line in block.splitlines()]
    assert [line for line in lines if line.strip().startswith(tuple(f"{name} " for name in PROGRAMS))] == []


def shorter(words: list[str]) -> list[str]:
    """The arguments of a command, of a job for two steps on few rows."""
    name, *args = words
    if name not in JOBS or "--print_config" in args or any("help" in word for word in args):
        return words
    config = args[args.index("--config") + 1]
    known = shipped_configs().get(config)
    text = (known or Path(config)).read_text(encoding="utf-8")
    # What a grammar asks for takes more tokens than a few.
    cut = "sampling:" in text and "grammar" not in " ".join(args)
    few = ["--model.sampling.max_new_tokens=16"] if cut else []
    # All prompts of a set are read beforehand, and a million take minutes.
    args = [re.sub(r"(--data\.\w+_size=)\d{5,}", r"\g<1>64", word) for word in args]
    # A variant of a job that has run: it would be refused for what that has left.
    left = Path(yaml.safe_load(text)["trainer"]["default_root_dir"], "checkpoints")
    if name == "fit" and left.is_dir() and "default_root_dir" not in " ".join(args):
        few.append(f"--trainer.default_root_dir=runs/variant_{os.getpid()}")
    # Nothing is left behind, and the analyses are as small as they can be.
    short = ["--trainer.fast_dev_run=true"] if config == "cards/circuits" else SHORT[name]
    return [name, *args, *QUIET, *short, *few]


def in_one_process(text: str, log: Path) -> None:
    """Run a command as a shell would, in this process, which is a copy of one that has read the libraries."""
    for stream, file in ((0, os.devnull), (1, log), (2, log)):
        os.dup2(os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND), stream)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(stream, "rw"[stream > 0]) for stream in range(3))
    os.chdir(log.parent)
    sys.path.insert(0, str(log.parent))
    words = shlex.split(text, comments=True)
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        os.environ[name] = value
    files = [sorted(glob.glob(word)) if "*" in word else [word] for word in words[1:]]
    main(shorter(list(itertools.chain.from_iterable(files))))


def run(command: Command, folder: Path) -> str:
    """Run a command in a folder; what it said where it failed, else nothing."""
    log = folder / f"line_{command.line}.log"
    if command.words[0] == "cp":
        shutil.copy(*(folder / word for word in command.words[1:]))
    if command.words[0] in ("cp", "source"):
        return ""
    processes = get_context("forkserver")
    processes.set_forkserver_preload(["lit_narrative.cli.lightning"])
    process = processes.Process(target=in_one_process, args=(command.text, log))
    process.start()
    process.join()
    return f"{command.line}: {command.text}: {log.read_text()[-600:]}" if process.exitcode else ""


def write_files(path: Path, folder: Path) -> None:
    """The files that a page shows: blocks that begin with a name."""
    text = path.read_text(encoding="utf-8")
    for name, block in re.findall(r"```(?:python|yaml)\n# (\w+\.(?:py|yaml))\n(.*?)```", text, re.DOTALL):
        (folder / name).write_text(block, encoding="utf-8")


def to_run(path: Path) -> list[Command]:
    return [command for command in commands(path) if not command.marked]


@pytest.mark.parametrize("path", [path for path in PAGES if to_run(path)], ids=lambda path: path.stem)
def test_a_command_can_be_run_here_or_says_what_it_needs(path: Path) -> None:
    names = [next(word for word in command.words if "=" not in word) for command in to_run(path)]
    assert {*names} <= HERE


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "path", [path for path in PAGES if to_run(path) and path.stem not in ELSEWHERE], ids=lambda path: path.stem
)
def test_the_commands_of_a_page_run(path: Path, tmp_path: Path) -> None:
    write_files(path, tmp_path)
    assert [said for command in to_run(path) if (said := run(command, tmp_path))] == []
