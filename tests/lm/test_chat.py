"""Chat: prompts, answers and their ends are those of the tokenizer's template, and of TRL on the same rows."""

import importlib.util
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from lit_narrative.errors import UserError
from lit_narrative.lm.chat import chat_prompt, turn_end
from lit_narrative.lm.encoding import ExampleReader, PromptReader
from lit_narrative.views import Conversation, Example, Message, Prompt
from tests.helpers import TEXTS
from tests.lm.chat_templates import CASES, EARLIER, QUESTION, SYSTEM, TEMPLATES, chatty
from tests.paths import ROOT

ANSWER = TEXTS[4]
Row = tuple[list[int], list[bool]]


def ours(tokenizer: PreTrainedTokenizerBase, prompt: Conversation, answer: str = ANSWER) -> Row:
    """Ids of an example, and which of them are learned."""
    rows = [Example(prompt, answer)]
    batch = ExampleReader(tokenizer, chat=True).batch(rows)
    return batch.ids[0].tolist(), batch.targets[0].tolist()


def of_template(tokenizer: PreTrainedTokenizerBase, prompt: list[Message]) -> Row:
    """As the template writes them, learned from the character where its text parts from that of the prompt alone."""
    messages: Any = [*prompt, {"role": "assistant", "content": ANSWER}]
    text = str(tokenizer.apply_chat_template(messages, tokenize=False))
    alone = str(tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True))
    encoded: Any = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    start = next((n for n, (left, right) in enumerate(zip(text, alone, strict=False)) if left != right), len(alone))
    assert text[start:].lstrip().removeprefix("<think>\n\n</think>\n\n").startswith(ANSWER)
    return encoded["input_ids"], [end > start for _, end in encoded["offset_mapping"]]


def cell(name: str, case: str) -> str:
    tokenizer, prompt = chatty(TEMPLATES[name]), CASES[case]
    try:
        found = ours(tokenizer, prompt)
    except UserError as error:
        assert re.search("chat template (refuses a conversation of the roles|writes a prompt otherwise)", str(error))
        return "refused"
    return "equal" if found == of_template(tokenizer, prompt) else "differs"


def cut(name: str) -> str:
    """Whether a prompt that is cut keeps the template's form, the system turn and the end of its text."""
    tokenizer = chatty(TEMPLATES[name])
    system = [] if name == "Gemma" else [SYSTEM]
    whole = chat_prompt(tokenizer, [*system, QUESTION])
    reader = PromptReader(tokenizer, None, 8, len(whole) - 4, "truncate_left", chat=True)
    found = reader.encode([[*system, *EARLIER, QUESTION]])[0]
    text, full = tokenizer.decode(found), tokenizer.decode(whole)
    head, tail = full.split(QUESTION["content"])
    kept = text.removeprefix(head).removesuffix(tail)
    right = len(found) == len(whole) - 4 and text == head + kept + tail and QUESTION["content"].endswith(kept)
    return "form kept" if right and 0 < len(kept) < len(QUESTION["content"]) else "form lost"


def table() -> str:
    rows = [["template", *CASES, "truncated", "ends a turn"], ["---"] * (len(CASES) + 3)]
    for name in TEMPLATES:
        tokenizer = chatty(TEMPLATES[name])
        end = tokenizer.convert_ids_to_tokens(turn_end(tokenizer))
        rows.append([name, *(cell(name, case) for case in CASES), cut(name), f"`{end}`".replace("|", r"\|")])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def test_the_table_of_templates() -> None:
    found = table()
    assert "differs" not in found and "form lost" not in found
    assert found.count("refused") == 4  # system turns by Gemma and Mistral v0.3
    ends = [line.rsplit("`", 2)[1].replace(r"\|", "|") for line in found.splitlines()[2:]]
    assert ends == [template.end for template in TEMPLATES.values()]
    assert found in (ROOT / "docs" / "chat.md").read_text(encoding="utf-8"), found


@pytest.mark.parametrize("name", TEMPLATES)
def test_rows_are_those_of_trl(name: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("trl") is None:
        pytest.skip("TRL is not installed (pip install 'lit-narrative[bench]')")
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from tests.helpers import tiny_lm

    tokenizer, refused = chatty(TEMPLATES[name]), name in ("Gemma", "Mistral v0.3")
    prompts = [prompt for case, prompt in CASES.items() if not (refused and "system" in case)]
    rows = [{"prompt": prompt, "completion": [{"role": "assistant", "content": ANSWER}]} for prompt in prompts]
    config = SFTConfig(output_dir=str(tmp_path), report_to=[], use_cpu=True, bf16=False, max_length=None)
    lm = tiny_lm(vocabulary=len(tokenizer))
    trainer = SFTTrainer(lm, config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    found = [ours(tokenizer, prompt) for prompt in prompts]
    assert [list(row["input_ids"]) for row in trainer.train_dataset] == [ids for ids, _ in found]
    learned = [[label != -100 for label in row["labels"]] for row in trainer.train_dataset]
    assert learned == [targets for _, targets in found]


# --- prompts ----------------------------------------------------------------------------------------------------------


def test_a_text_is_a_users_turn() -> None:
    for template in TEMPLATES.values():
        tokenizer = chatty(template)
        assert ours(tokenizer, QUESTION["content"]) == ours(tokenizer, [QUESTION])


def test_no_prompt_ends_with_an_end_token_that_the_tokenizer_appends() -> None:
    from tests.lm.test_encoding import with_ends

    for bos in (True, False):
        tokenizer = with_ends(bos)
        tokenizer.chat_template = TEMPLATES["Zephyr"].text
        ids, targets = ours(tokenizer, [QUESTION])
        text = tokenizer.decode(ids)
        assert text.endswith(f"<|assistant|>\n{ANSWER}<|end|>\n") and text.count("<|end|>") == 2
        assert tokenizer.decode(ids[: targets.index(True)]).endswith("<|assistant|>\n")


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ([], "ends with the turn that is to be answered"),
        (list(EARLIER), "ends with the turn that is to be answered"),
        ([{"role": "user"}], "needs a role and a content"),
        ([{"role": "user", "content": ["a", "b"]}], "needs a role and a content"),
        (["Write."], "needs a role and a content"),
        ([[QUESTION]], "needs a role and a content"),
        (QUESTION, "a prompt is a text or a list of messages"),
        (None, "a prompt is a text or a list of messages"),
    ],
)
def test_messages_that_are_not_a_prompt(prompt: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        ours(chatty(TEMPLATES["ChatML"]), prompt)


@pytest.mark.parametrize("chat", [True, False])
def test_a_completion_is_a_text(chat: bool) -> None:
    completion: Any = [{"role": "assistant", "content": ANSWER}]
    with pytest.raises(UserError, match="the completion of an example is a text, in a chat the assistant's"):
        ExampleReader(chatty(TEMPLATES["ChatML"]), chat=chat).batch([Example("Write.", completion)])


@pytest.mark.parametrize("name", TEMPLATES)
def test_an_answer_that_is_begun_goes_on(name: str) -> None:
    tokenizer = chatty(TEMPLATES[name])
    begun: list[Message] = [QUESTION, {"role": "assistant", "content": "Seven, and"}]
    asked, found = chat_prompt(tokenizer, [QUESTION]), chat_prompt(tokenizer, begun)
    assert found[: len(asked)] == asked and tokenizer.decode(found[len(asked) :]) == "Seven, and"
    reader = PromptReader(tokenizer, None, 8, len(found) - 2, "truncate_left", chat=True)
    assert reader.encode([[*EARLIER, *begun]])[0] == [*asked, *found[len(asked) + 2 :]]


def test_messages_need_chat() -> None:
    tokenizer = chatty(TEMPLATES["ChatML"])
    with pytest.raises(UserError, match=r"list of messages, which only a module with model\.chat=true reads"):
        ExampleReader(tokenizer).batch([Example([QUESTION], "a")])
    with pytest.raises(UserError, match=r"list of messages, which only a module with model\.chat=true reads"):
        PromptReader(tokenizer, None, 8).encode([[QUESTION]])


def test_an_empty_message_is_an_empty_prompt() -> None:
    reader = PromptReader(chatty(TEMPLATES["ChatML"]), None, 8, chat=True)
    with pytest.raises(UserError, match=r"2 of the prompts have no text .* prompt 0, 2\)"):
        reader.encode(["", [QUESTION], [{"role": "user", "content": ""}]])


def test_a_template_longer_than_the_limit_cannot_be_cut() -> None:
    reader = PromptReader(chatty(TEMPLATES["ChatML"]), None, 8, 4, "truncate_left", chat=True)
    with pytest.raises(UserError, match=r"may have 4 tokens, and the chat template writes \d+ around its text"):
        reader.encode([[SYSTEM, QUESTION]])
    with pytest.raises(UserError, match="may have 4 tokens"):  # before training
        reader.validate_rows([Prompt([SYSTEM, QUESTION])])


# --- templates that are missing, or ask for something -----------------------------------------------------------------


def test_a_tokenizer_without_a_template() -> None:
    tokenizer = chatty("")
    for read in (lambda: turn_end(tokenizer), lambda: ours(tokenizer, "A"), lambda: chat_prompt(tokenizer, "A")):
        with pytest.raises(UserError, match=r"model\.chat=true, but the tokenizer has no chat template; set model\.ch"):
            read()


NEEDS_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}{{ raise_exception('A system prompt is required') }}{% endif %}"
    + TEMPLATES["ChatML"].text
)


def test_a_template_that_demands_a_system_turn() -> None:
    tokenizer = chatty(NEEDS_SYSTEM)
    assert tokenizer.convert_ids_to_tokens(turn_end(tokenizer)) == "<|im_end|>"
    assert ours(tokenizer, [SYSTEM, QUESTION]) == of_template(tokenizer, [SYSTEM, QUESTION])
    with pytest.raises(UserError, match=r"refuses .* the roles user \(A system prompt is required\); let the task's"):
        chat_prompt(tokenizer, "Write.")


def test_an_answer_that_the_template_does_not_end_is_closed_by_the_end_token() -> None:
    tokenizer = chatty("{% for m in messages %}{{ '\n' + m['role'] + ': ' + m['content'] }}{% endfor %}")
    assert turn_end(tokenizer) is None
    ids, targets = ours(tokenizer, [QUESTION])
    assert ids[-1] == tokenizer.eos_token_id and targets[-1]
    assert tokenizer.decode(ids[:-1]).endswith(f"assistant: {ANSWER}")


def test_a_template_that_leaves_answers_out() -> None:
    with pytest.raises(UserError, match="chat template leaves out an assistant's answer"):
        ours(chatty("<{{ messages[0]['content'] }}>"), "Write.")


def test_a_template_that_leaves_out_a_part_of_a_conversation_is_said() -> None:
    thoughts = "m['content'].split('</think>')[-1]"
    tokenizer = chatty(TEMPLATES["ChatML"].text.replace("m['content']", thoughts))
    with pytest.warns(UserWarning, match="leaves out a part of a conversation, .* the thoughts before an answer"):
        ours(tokenizer, "Write.", f"<think>Of what?</think>{ANSWER}")
    body = TEMPLATES["Phi-3"].text
    deaf = chatty(body.replace("{{", "{% if m['role'] != 'system' %}{{", 1).replace("}}", "}}{% endif %}", 1))
    assert chat_prompt(deaf, [QUESTION])  # of which nothing is said
    with pytest.warns(UserWarning, match="leaves out a part of a conversation, such as a system turn"):
        assert chat_prompt(deaf, [SYSTEM, QUESTION]) == chat_prompt(deaf, [QUESTION])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in TEMPLATES:  # spaces that a template trims or adds are none of it
            ours(chatty(TEMPLATES[name]), "Write.", "\n Seven, and a tide. \n")


@pytest.mark.parametrize("wrong", ["{{ 1 / 0 }}", "{{ 'a' + 1 }}", "{% for m in"])
def test_a_template_that_fails_is_one_error(wrong: str) -> None:
    with pytest.raises(UserError, match="chat template refuses a conversation of the roles user"):
        chat_prompt(chatty(wrong), "Write.")


def test_templates_without_a_default() -> None:
    tokenizer = chatty("")
    tokenizer.chat_template = {"rag": "", "tool_use": ""}
    with pytest.raises(UserError, match=r"takes the chat template 'default', and the tokenizer has: rag, tool_use"):
        turn_end(tokenizer)


def test_a_template_that_writes_prompts_otherwise_with_an_answer_is_said() -> None:
    """As TRL does: the ids are those of prompt and answer together, learned from where the two part."""
    thinks = TEMPLATES["ChatML"].text.replace(
        "'<|im_start|>assistant\n' }}{% endif", "'<|im_start|>assistant\n<think>' }}{% endif"
    )
    tokenizer = chatty(thinks)
    assert tokenizer.decode(chat_prompt(tokenizer, [QUESTION])).endswith("<think>")
    with pytest.warns(UserWarning, match="the chat template opens an answer that is given otherwise"):
        found = ours(tokenizer, [QUESTION])
    assert found == of_template(chatty(TEMPLATES["ChatML"]), [QUESTION])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours(chatty(TEMPLATES["ChatML"]), [QUESTION])
