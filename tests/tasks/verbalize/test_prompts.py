"""Prompts hold their field once, and an answer is read strictly, whatever a model wrote."""

import pytest

from lit_narrative.errors import UserError
from lit_narrative.tasks.verbalize.prompts import TAGS, ActorPrompt, CriticPrompt, answer, explanation_of


def test_actor_prompt_holds_the_marker_once() -> None:
    prompt = ActorPrompt("read <concept>{marker}</concept> {x}\n", "㈀")
    assert prompt.text == "read <concept>㈀</concept> {x}\n"
    assert ActorPrompt().text.count("<|activation|>") == 1


@pytest.mark.parametrize("template", ["no field", "{marker} {marker}", "㈀ {marker}"])
def test_actor_template_without_one_field_is_refused(template: str) -> None:
    with pytest.raises(UserError, match=r"data\.prompt\.actor"):
        ActorPrompt(template, "㈀")
    with pytest.raises(UserError, match="empty"):
        ActorPrompt(marker=" ")


def test_critic_text_ends_alike_for_every_explanation() -> None:
    prompt = CriticPrompt()
    assert all(prompt.text(words).endswith(prompt.suffix) for words in ("a fox", "", "{explanation}", "</text>"))
    assert prompt.text("{explanation}").count("{explanation}") == 1
    assert CriticPrompt("say {explanation} =").text("a fox") == "say a fox ="


@pytest.mark.parametrize("template", ["no field", "{explanation}", "{explanation} \n", "{explanation}{explanation}="])
def test_critic_template_without_field_or_suffix_is_refused(template: str) -> None:
    with pytest.raises(UserError, match=r"data\.prompt\.critic"):
        CriticPrompt(template)


def test_templates_use_the_tags_that_tokenizers_keep() -> None:
    written = ActorPrompt().text + CriticPrompt().text("") + answer("")
    assert all(tag in written for tag in TAGS)


def test_answer_is_read_back() -> None:
    assert explanation_of(answer("a fox\nin the rain")) == "a fox\nin the rain"
    assert explanation_of(" \n<explanation>\n a < b \n</explanation>\n") == "a < b"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a fox",
        "<explanation> a fox",  # cut off
        "<explanation> a fox </explanation",
        "a fox </explanation>",
        "<explanation> a fox </explanation> and more",
        "so: <explanation> a fox </explanation>",
        "<explanation> a </explanation> <explanation> b </explanation>",
        "<explanation> <explanation> a </explanation>",
        "<explanation> a </explanation> b </explanation>",
        "<explanation>  </explanation>",  # empty
        "<explanation></explanation>",
        "</explanation> a <explanation>",
        "<Explanation> a </Explanation>",
        "\ud800" * 50,
        "<explanation>" * 20_000,
    ],
)
def test_anything_else_is_a_failed_format(text: str) -> None:
    assert explanation_of(text) is None


def test_without_tags_an_answer_is_the_explanation() -> None:
    assert explanation_of(f" {answer('a fox', tags=False)} ", tags=False) == "a fox"
    assert explanation_of(" ", tags=False) is None
