"""Messages as jsonargparse writes them, and the one line that is made of each."""

import pytest

from lit_narrative.cli.messages import explain

OPTIONS = ["config", "trainer.max_epochs", "trainer.min_epochs", "model", "data", "ckpt_path"]

UNION = """\
Parser key "trainer.callbacks":
  Does not validate against any of the Union subtypes
  Subtypes: [list[lightning.pytorch.callbacks.callback.Callback], <class 'NoneType'>]
  Errors:
    - Problem with given class_path 'lightning.pytorch.callbacks.Timer':
        {leaf}
    - Not a valid subclass of Callback
      Subclass types expect one of:
      - a class path (str)
    - Expected a <class 'NoneType'>
  Given value type: <class 'list'>
  Given value: [{{'class_path': 'Timer'}}]"""

NESTED = """\
Parser key "model":
  Errors:
    - Problem with given class_path 'lit_narrative.modules.sft.SFTModule':
        Parser key "model":
          Does not validate against any of the Union subtypes
          Errors:
            - Expected a <class 'str'>
            - Problem with given class_path 'lit_narrative.lm.load.ScratchModel':
                Option 'hiden_size' is not accepted
          Given value: {'hiden_size': 3}
    - Expected a <class 'NoneType'>
  Given value: {'class_path': 'SFTModule', 'init_args': {'model': {'hiden_size': 3}}}"""


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (
            "unrecognized arguments: --trainer.max_epoch 3",
            "there is no setting 'trainer.max_epoch'; did you mean 'trainer.max_epochs'?",
        ),
        (
            "Subcommand 'fit' does not accept option 'traner.max_epochs'",
            "there is no setting 'traner.max_epochs'; did you mean 'trainer.max_epochs'?",
        ),
        (
            "Subcommand 'fit' does not accept option 'modl.class_path'",
            "there is no setting 'modl.class_path'; did you mean 'model'?",
        ),
        ("unrecognized arguments: --zzz=3", "there is no setting 'zzz'"),
        (
            UNION.format(leaf="Option 'intervall' is not accepted"),
            "trainer.callbacks: Timer has no argument 'intervall'; did you mean 'interval'?",
        ),
        (
            UNION.format(leaf="Option 'zzz' is not accepted"),
            "trainer.callbacks: Timer has no argument 'zzz'; it takes duration, interval, verbose",
        ),
        (UNION.format(leaf="the following arguments are required: monitor"), "trainer.callbacks: Timer needs monitor"),
        (
            UNION.format(leaf="Parser key \"verbose\":\n          Expected a <class 'bool'>. Got value: loud"),
            "trainer.callbacks.verbose: expected bool, got 'loud'",
        ),
        (NESTED, "model.model: ScratchModel has no argument 'hiden_size'; did you mean 'hidden_size'?"),
        (
            NESTED.replace("Option 'hiden_size' is not accepted", "Group 'a' does not accept option 'b'"),
            "model.model: ScratchModel has no argument 'a.b'; it takes "
            "architecture, hidden_size, layers, heads, intermediate_size, positions, tie_embeddings, dropout, seed",
        ),
        (
            'Parser key "model":\n  Errors:\n'
            "    - Problem with given class_path 'lit_narrative.modules.sft.SFTModule':\n"
            "        unrecognized arguments: --sampling.temprature=3\n    - Expected a <class 'NoneType'>",
            "model: SFTModule has no argument 'sampling.temprature'; did you mean 'sampling.temperature'?",
        ),
        (
            'Parser key "data":\n  Errors:\n    - Expected a dot import path string: EarlyStoping\n'
            "  Given value: EarlyStoping",
            "data: there is no class 'EarlyStoping'; did you mean 'EarlyStopping'?",
        ),
        (
            'Parser key "trainer.precision":\n  Errors:\n    - Expected a typing.Literal[64, 32]\n'
            "    - Expected a <class 'NoneType'>\n  Given value type: <class 'str'>\n  Given value: 17",
            "trainer.precision: expected 64, 32 or null, got '17'",
        ),
        (
            "Parser key \"mode\":\n  Expected a typing.Literal['strict', 'original']. Got value: orginal",
            "mode: expected 'strict' or 'original', got 'orginal'; did you mean 'original'?",
        ),
        (
            "the following arguments are required: fit.data, fit.model",
            "not given: data, model; name a configuration (`--config storyworld/sft`), or give --data and --model",
        ),
        (
            'Parser key "model":\n  Errors:\n    - Parser key "sampling":\n    Unable to load config \'x\'\n  Given: x',
            "model.sampling: Unable to load config 'x'",
        ),
        ("something\n  new", "something new"),
    ],
)
def test_one_line(message: str, line: str) -> None:
    import lightning.pytorch.callbacks  # the classes that a configuration may name

    assert lightning.pytorch.callbacks
    assert explain(message, OPTIONS) == line
