import json
import re
from pathlib import Path

import pytest

from lit_narrative.cli.main import main
from tests.circuits.make_results import make_results


@pytest.mark.slow
def test_two_folders_become_a_page_and_figures(
    circuits: Path, noisy_circuits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "page.html"
    folders = [str(circuits), str(noisy_circuits)]
    main(["compare", *folders, "--out", str(out), "--old_name", "SFT", "--new_name", "<RL>"])
    assert capsys.readouterr().out == f"comparison: {out}\nchanges: {out.with_suffix('.json')}\n"
    page = out.read_text()
    assert "What changed from SFT to &lt;RL&gt;" in page and "<RL>" not in page
    assert not re.search(r"<script|https?://", page)
    assert page.count("data:image/png;base64,") > 10
    assert out.stat().st_size < 2_000_000
    changes = json.loads(out.with_suffix(".json").read_text())
    assert set(changes["important_parts"]) == {"id_test", "other"}
    shared = changes["circuits"]["id_test"]
    assert f"{shared['shared']} of the top {shared['k']} edges are the same in both" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "'nowhere' is not a folder of circuit analyses"),
        (["circuits", "--new_name", "old"], "two different names, not 'old', 'old'"),
        (["other"], "it takes models of the same shape"),
        (["circuits", "--out", "page.json"], "cannot end in .json"),
    ],
)
def test_an_error_is_one_line_and_nothing_is_written(
    arguments: list[str], message: str, circuits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_results(tmp_path / "other", model={"layers": 9}) if arguments == ["other"] else None
    places = {"circuits": str(circuits), "other": str(tmp_path / "other")}
    given = [places.get(argument, argument) for argument in arguments]
    with pytest.raises(SystemExit):
        main(["compare", str(circuits), given[0], "--out", str(tmp_path / "out" / "page.html"), *given[1:]])
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error
    assert not (tmp_path / "out").exists()
