"""Invariant 8: an option that is parsed is used. Unknown ones are errors in ``tests/cli/test_lightning.py``."""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

import lit_narrative
from lit_narrative.sae.autoencoder import OPTIONS

ROOT = Path(lit_narrative.__file__).parent
ROOMS = ("callbacks", "datamodules", "modules")


@functools.cache
def trees() -> dict[Path, ast.Module]:
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(ROOT.rglob("*.py"))}


@functools.cache
def read_attributes() -> frozenset[str]:
    """Every name that is read as an attribute anywhere in the package."""
    return frozenset(
        node.attr
        for tree in trees().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    )


def classes() -> Iterator[tuple[Path, ast.ClassDef]]:
    for path, tree in trees().items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                yield path, node


def initializer(node: ast.ClassDef) -> ast.FunctionDef | None:
    found = [item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"]
    return found[0] if found else None


def settings() -> list[str]:
    """Fields of the dataclasses that the command line fills in, as Class.field."""
    wanted = {
        "ScratchModel",
        "Lora",
        "SamplingParams",
        "TrainedTokenizer",
        "LossSettings",
        "ReferenceSettings",
        "ScoringSettings",
        "ValueSettings",
        "Skew",
        "CardGame",
        "ContrastBag",
        "ActivationSettings",
        "RejectionSampling",
        "VerifierConfig",
        "Limits",
        "FeatureQualitySettings",
        "StaticEncoder",
        "StyleRewardSettings",
        "ContentSettings",
        "CompletenessSettings",
    }
    nodes = {node.name: node for _, node in classes() if node.name in wanted}
    assert set(nodes) == wanted
    return [
        f"{name}.{item.target.id}"
        for name, node in nodes.items()
        for item in node.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    ]


def arguments(room: str) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Arguments of what the command line builds, as Class.argument, each with the function that takes it."""
    for path, node in classes():
        if path.parent.name == room and (function := initializer(node)):
            for argument in (*function.args.args[1:], *function.args.kwonlyargs):
                # SAEModule hands on whatever is in OPTIONS by its name; tests/sae/test_autoencoder.py has those.
                if argument.arg not in OPTIONS:
                    yield f"{node.name}.{argument.arg}", function


def stores(function: ast.FunctionDef, argument: str) -> dict[ast.Name, str]:
    """Where an argument is kept as an attribute and nothing more: its use, and the attribute's name."""
    found = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign):
            for kept, given in zip(_parts(node.targets[0]), _parts(node.value), strict=False):
                if isinstance(kept, ast.Attribute) and isinstance(given, ast.Name) and given.id == argument:
                    found[given] = kept.attr
    return found


def _parts(node: ast.expr) -> list[ast.expr]:
    return node.elts if isinstance(node, ast.Tuple) else [node]


@pytest.mark.parametrize("room", ROOMS)
def test_every_argument_is_used(room: str) -> None:
    options = list(arguments(room))
    assert options
    assert {option: fault for option, function in options if (fault := unused(function, option.split(".")[1]))} == {}


def unused(function: ast.FunctionDef, argument: str) -> str | None:
    """What becomes of an argument that changes nothing."""
    uses = [node for node in ast.walk(function) if isinstance(node, ast.Name) and node.id == argument]
    if not uses:
        return "is parsed and ignored"
    kept = stores(function, argument)
    used = any(use not in kept for use in uses) or set(kept.values()) & read_attributes()
    return None if used else "is kept and never read"


def test_every_setting_is_read() -> None:
    assert [option for option in settings() if option.split(".")[1] not in read_attributes()] == []


def test_an_argument_that_is_only_kept_is_found() -> None:
    """The check itself can fail."""
    tree = ast.parse("class A:\n def __init__(self, kept, used):\n  self.kept_and_forgotten, self.x = kept, used + 1")
    node = tree.body[0]
    assert isinstance(node, ast.ClassDef)
    function = initializer(node)
    assert function is not None
    assert list(stores(function, "kept").values()) == ["kept_and_forgotten"]
    assert not stores(function, "used")
    assert unused(function, "kept") == "is kept and never read" and unused(function, "used") is None
    assert unused(function, "other") == "is parsed and ignored"
    assert "kept_and_forgotten" not in read_attributes()
