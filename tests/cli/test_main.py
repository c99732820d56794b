"""The command itself: what it answers without the heavy libraries, and what it says to a wrong name."""

import os
import resource
import subprocess
import sys
from contextlib import redirect_stdout

import pytest

import lit_narrative
from lit_narrative.cli.main import COMMANDS, JOBS, main, quiet_closed_pipe
from lit_narrative.lookup import shipped_configs

HEAVY = ("torch", "lightning", "transformers", "sae_lens", "plotly")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["configs", "list"], ["run", "--help"]])
def test_answers_at_once(arguments: list[str]) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    subprocess.run([sys.executable, "-m", "lit_narrative", *arguments], check=True, capture_output=True)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 2  # of the processor, however busy it is


HELP = f"""
import sys
from contextlib import redirect_stdout
from io import StringIO
from lit_narrative.cli.main import COMMANDS, main
for arguments in [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)]:
    with redirect_stdout(StringIO()) as said:
        try:
            main(arguments)
        except SystemExit as end:
            assert not end.code, (arguments, end.code)
    assert said.getvalue().strip(), arguments
    heavy = [name for name in {HEAVY} if name in sys.modules]
    assert not heavy, (arguments, heavy)
    print(arguments[0])
"""


def test_help_imports_nothing_heavy() -> None:
    """In one process, which ends at the first command whose help imports what is heavy."""
    done = subprocess.run([sys.executable, "-c", HELP], check=True, stdout=subprocess.PIPE, text=True)
    assert done.stdout.split() == ["--help", "--version", *COMMANDS]


@pytest.mark.parametrize(("given", "expected"), [({}, "10000"), ({"OMP_WAIT_POLICY": "active"}, None)])
def test_waiting_threads_sleep_unless_the_environment_decides(
    given: dict[str, str], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "")  # so that what is set here is taken back
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    main(["--version"])
    assert os.environ.get("GOMP_SPINCOUNT") == expected


# The file is not there, which is a row of the table that `score` prints by Rich.
@pytest.mark.parametrize("arguments", [["configs", "show", "storyworld/cycle"], ["--help"], ["score", "nowhere.json"]])
def test_a_closed_pipe_ends_a_command_without_a_word(arguments: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "lit_narrative", *arguments]
    done = subprocess.run(command, check=False, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def test_another_broken_pipe_is_a_fault() -> None:
    with pytest.raises(BrokenPipeError), open(os.devnull, "w") as output, redirect_stdout(output), quiet_closed_pipe():
        raise BrokenPipeError


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    words = capsys.readouterr().out.split()
    assert {*JOBS, *COMMANDS} <= set(words)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--version"])
    assert capsys.readouterr().out == f"lit-narrative {lit_narrative.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["fti"], "command: there is no 'fti'; did you mean 'fit'?"),
        (["configs", "lst"], "did you mean 'list'?"),
        (["configs", "show", "storyworld/nothing"], "no configuration 'storyworld/nothing'"),
        (["configs", "copy", "--too", "x"], "--too"),
        (["run"], "recipe"),
        (["run", "nothing"], "no configuration 'nothing'"),
        (["run", "--set", "a=b", "c=d", "nothing"], "no configuration 'nothing'"),
        (["run", "--seed", "1", "nothing", "--out", "x"], "no configuration 'nothing'"),
        (["run", "--set", "a=b", "c=d"], "arguments are required: recipe"),
        (["run", "x", "--sed", "1"], "did you mean '--seed'?"),
        (["run", "x", "--seed", "one"], "--seed: invalid int"),
        (["score", "x", "--mode", "orginal"], "'strict', 'original' or 'seed', got 'orginal'; did you mean"),
    ],
)
def test_wrong_arguments_are_one_clear_error(
    arguments: list[str], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert part in error
    assert len(error.splitlines()) == 1


def test_nothing_asked_is_help_and_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([])
    assert end.value.code == 2
    assert "usage" in capsys.readouterr().out


def test_shipped_configurations_can_be_listed_shown_and_copied(
    tmp_path: object, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(str(tmp_path))
    main(["configs", "list"])
    listed = {line.split()[0]: line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()}
    assert list(listed) == list(shipped_configs())
    assert [name for name, parts in listed.items() if len(parts) < 2] == [], "a configuration without a headline"
    for name, path in shipped_configs().items():
        main(["configs", "show", name])
        assert capsys.readouterr().out == path.read_text()
    main(["configs", "copy", "storyworld/sft"])
    assert capsys.readouterr().out == "sft.yaml\n"
    with pytest.raises(SystemExit):
        main(["configs", "copy", "storyworld/sft"])
    assert "exists already" in capsys.readouterr().err
