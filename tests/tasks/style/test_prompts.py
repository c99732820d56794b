"""Prompts of the style task: templates filled once, and what is wrong with others."""

import pytest

from lit_narrative.errors import UserError
from lit_narrative.tasks.style.prompts import StylePrompt


def test_templates() -> None:
    assert StylePrompt().fill("Ann", "Sea", "a boat", "x") == "Write like Ann about a boat.\n"
    full = StylePrompt("full", end="Finis").fill("Ann", "Sea", "a boat", "x")
    assert full.startswith("Write an original story in the style of Ann, about a boat.") and full.endswith("\nFinis\n")
    own = StylePrompt("{title}: {plot}; {brace} {end}", shots=1, sample="<{sample}> ")
    assert (
        own.fill("Ann", "Sea", "a {end}", "It said {plot} {0}.")
        == "<It said {plot} {0}.> Sea: a {end}; {brace} THE END."
    )
    assert StylePrompt(end="").close("text") == "text" and StylePrompt().close("text") == "text\nTHE END."


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"template": "shrot"}, r"must hold \{plot\}, or be one of: short, full"),
        ({"shots": 2}, "0 samples or 1"),
        ({"sample": "none"}, r"must hold \{sample\}"),
    ],
)
def test_wrong_templates_are_said(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        StylePrompt(**settings)
