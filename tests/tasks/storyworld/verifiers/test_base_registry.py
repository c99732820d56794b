"""The registry: custom components by name and by path, and the optional ones."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lit_narrative.errors import UserError
from lit_narrative.tasks.storyworld.verifiers.base import COMPONENTS, SIX, Context, VerifierConfig, component
from lit_narrative.tasks.storyworld.verifiers.score import score
from tests.tasks.storyworld.lighthouse import lighthouse

TEXT = json.dumps(lighthouse())


@pytest.fixture
def brevity() -> Iterator[None]:
    @component("brevity")
    def brevity(context: Context) -> float:
        return 1 / len(context.story.encounters)

    yield
    del COMPONENTS["brevity"]


@pytest.mark.usefixtures("brevity")
def test_a_function_and_its_name_are_all_it_takes() -> None:
    config = VerifierConfig(weights={"brevity": 0.5, "endings": 0.5})
    result = score(TEXT, config=config)
    assert list(result.components) == [*SIX, "brevity"]
    assert result.components["brevity"] == 0.2
    assert result.total == pytest.approx(0.6)
    assert score("{", config=config).components["brevity"] == 0.0


@pytest.mark.usefixtures("brevity")
def test_a_name_is_given_once() -> None:
    with pytest.raises(ValueError, match="'brevity' exists already"):
        component("brevity")(lambda context: 0.0)


def test_a_function_may_be_named_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_taste.py").write_text("def cast(context):\n    return len(context.story.characters) / 4\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        result = score(TEXT, config=VerifierConfig(weights={"my_taste:cast": 1.0}))
        assert result.components["my_taste:cast"] == result.total == 0.5
    finally:
        sys.modules.pop("my_taste", None)


def test_an_error_inside_a_users_module_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_taste.py").write_text("import no_such_library\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        VerifierConfig(weights={"broken_taste:cast": 1.0})


def test_json_prefix_pays_for_the_sound_part_of_a_broken_text() -> None:
    config = VerifierConfig(weights={"valid_json": 0.5, "json_prefix": 0.5})
    assert score(TEXT, config=config).total == pytest.approx(1.0)
    assert 0.4 < score(TEXT[:-1], config=config).total < 0.5
    assert score("Once", config=config).total == 0.0


def test_playability_is_the_share_of_plays_that_end_well() -> None:
    config = VerifierConfig(weights={"playability": 1.0}, plays=200)
    assert score(TEXT, config=config).total == 1.0
    lost = TEXT.replace('"next_encounter": "boat"', '"next_encounter": "nowhere"', 1)
    assert score(lost, seed=1, config=config).total == pytest.approx(0.5, abs=0.1)


def test_the_mode_original_has_its_six_components_only() -> None:
    with pytest.raises(UserError, match="the mode 'original' has only"):
        score(TEXT, mode="original", config=VerifierConfig(weights={"playability": 1.0}))
