"""Names on a command line are checked, and help is given, without the heavy libraries."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lit_narrative.cli.job_help import job_help
from lit_narrative.cli.lightning import see_nameable_classes
from lit_narrative.cli.main import JOBS
from lit_narrative.cli.messages import argument_names
from lit_narrative.cli.names import check_names
from lit_narrative.cli.sources import PACKAGE, arguments, descends, find_class, nameable, option_names, settings_of
from lit_narrative.errors import UserError
from lit_narrative.lookup import shipped_configs
from tests.cli.test_main import HEAVY

OWN = sorted(name for name, module in nameable(PACKAGE).items() if (one := find_class(module, name)) and descends(one))
JOB_CONFIGS = [
    name
    for name, path in shipped_configs().items()
    if not name.startswith(("recipes/", "sweeps/")) and {"trainer", "data"} & set(yaml.safe_load(path.read_text()))
]


@pytest.mark.parametrize(
    ("args", "answer"),
    [
        (["fit", "--config", "storyworld/stf"], "error: no configuration 'storyworld/stf'"),
        (["fit", "--config", "storyworld/sft", "--model.lrr=1"], "error: model: SFTModule has no argument 'lrr'"),
        (["fit", "--config", "storyworld/cycle", "--trainer.callbacks.wrlds=1"], "did you mean 'worlds'?"),
        (["fit", "--config", "storyworld/sft", "--model.lr"], "error: --model.lr: no value is given"),
        (["fit", "--help"], "usage: lit-narrative fit"),
    ],
)
def test_names_and_help_are_answered_at_once(args: list[str], answer: str) -> None:
    code = (
        "import sys; from lit_narrative.cli.main import main\n"
        f"try: main({args})\n"
        "finally: print([name for name in {HEAVY} if name in sys.modules])".replace("{HEAVY}", repr(HEAVY))
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 2  # of the processor, however busy it is
    assert (done.stdout + done.stderr).count(answer) == 1, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", OWN)
def test_the_sources_tell_what_the_parser_will(name: str) -> None:
    see_nameable_classes()
    source = find_class(nameable()[name], name)
    assert source is not None
    parsed = argument_names(source.path)
    assert set(arguments(source) or ()) == {one.partition(".")[0] for one in parsed}
    inner = {one for one in parsed if one.count(".") == 1 and settings_of(source, one.partition(".")[0])}
    assert inner <= set(option_names(source) or ())


@pytest.mark.parametrize("name", JOB_CONFIGS)
def test_shipped_configurations_have_no_wrong_name(name: str) -> None:
    for command in ("fit", "test"):
        check_names(command, ["--config", name])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--trainer.max_epoch", "3"], "there is no setting 'trainer.max_epoch'; did you mean 'trainer.max_epochs'?"),
        (["--modl.lr=1"], "there is no setting 'modl.lr'; did you mean 'model'?"),
        (["--model=GRPOModul"], "model: there is no class 'GRPOModul'; did you mean 'GRPOModule'?"),
        (["--model.sampling.temprature=1"], "did you mean 'sampling.temperature'?"),
        (["--model.learning_rate=1"], "GRPOModule has no argument 'learning_rate'; did you mean 'lr'?"),
        (["--data=CardsData", "--data.worlds=x"], "data: CardsData has no argument 'worlds'"),
        (["--config", "THERE"], "trainer.callbacks: SAERefresh has no argument 'wrlds'"),
    ],
)
def test_a_wrong_name_is_said_with_the_nearest(args: list[str], message: str, tmp_path: Path) -> None:
    there = tmp_path / "there.yaml"
    callback = {"class_path": "SAERefresh", "init_args": {"wrlds": 3}}
    there.write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
    with pytest.raises(UserError) as error:
        check_names("fit", ["--config=storyworld/grpo", *(arg.replace("THERE", str(there)) for arg in args)])
    assert message in str(error.value)


def test_what_the_sources_do_not_tell_is_left_to_the_parser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "module_of_mine.py").write_text(
        "from lit_narrative import SFTModule\nfrom torch import nn\n\n\n"
        "class Mine(SFTModule):\n    def __init__(self, warmth=1, **kwargs): ...\n\n\n"
        "class Layer(nn.Linear):\n    def __init__(self, **kwargs): ...\n"
    )
    base = ["--config=storyworld/sft"]
    check_names("fit", [*base, "--model=module_of_mine.Mine", "--model.warmth=2", "--model.lr=1"])
    check_names("fit", [*base, "--model=module_of_mine.Layer", "--model.anything=2"])
    check_names("fit", [*base, "--model=module_of_mine.Absent", "--model.anything=2", "--data=Sibling"])
    check_names("fit", [*base, "--trainer.callbacks=[{class_path: Absent}]", "--model.help", "SFTModule"])
    check_names("test", [*base, "--verbose=false", "--model", "model.yaml", "--model.x", "-1"])
    with pytest.raises(UserError, match="Mine has no argument 'warmht'; did you mean 'warmth'"):
        check_names("fit", [*base, "--model=module_of_mine.Mine", "--model.warmht=2"])


@pytest.mark.parametrize("command", JOBS)
def test_help_has_this_packages_own_first(command: str) -> None:
    text = job_help(command, JOBS[command])
    lines = text.splitlines()
    assert max(map(len, lines)) <= 120 and len(lines) < 110
    first = ("GRPOModule", "StoryworldData", "SAERefresh", "  --config ", "--trainer.max_epochs")
    places = [text.index(word) for word in first]
    assert places == sorted(places)
    assert ("--session" in text) == (command == "write")
    assert "LanguageModule " not in text and "TaskDataModule " not in text.partition("callbacks:")[0]
