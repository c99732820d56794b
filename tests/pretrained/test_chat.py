"""SmolLM2's own chat template: ids, ends of turns and cut prompts, and the export of a bfloat16 run."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lit_narrative.lm.chat import turn_end
from lit_narrative.lm.checkpoint import export_model
from lit_narrative.lm.load import Lora, end_ids
from lit_narrative.lm.sampler import SamplingParams
from lit_narrative.modules.sft import SFTModule
from lit_narrative.views import Message, Prompt
from tests.helpers import fit
from tests.lm.chat_templates import CASES, EARLIER, QUESTION, SYSTEM
from tests.lm.test_chat import of_template, ours
from tests.modules.test_language_chat import Talks

pytestmark = [pytest.mark.pretrained, pytest.mark.timeout(600)]

GREEDY = SamplingParams(max_new_tokens=24, top_k=1)
ASKED: list[Message] = [
    {"role": "system", "content": "You answer with one word."},
    {"role": "user", "content": "What is the capital of France?"},
]


def test_rows_are_those_of_the_template(smollm2: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    assert tokenizer.convert_ids_to_tokens(turn_end(tokenizer)) == "<|im_end|>"
    for prompt in CASES.values():
        assert ours(tokenizer, prompt) == of_template(tokenizer, prompt)
        # At a border of prompt and completion where tokens could merge, too.
        for answer in ("\n\nIt runs along the sea.", " 12", "", "<|im_start|>"):
            ids, _ = ours(tokenizer, prompt, answer)
            answered: Any = [*prompt, {"role": "assistant", "content": answer}]
            assert ids == tokenizer.apply_chat_template(answered, return_dict=True)["input_ids"]


def test_answers_are_those_of_generate_and_end_with_their_turn(smollm2: Path) -> None:
    module = SFTModule(str(smollm2), chat=True, sampling=GREEDY)
    module.set_model(*module.source.build())
    (rollout,) = module.generate([Prompt(ASKED)])
    ids = rollout.prompt_ids[None]
    assert module.tokenizer.decode(rollout.prompt_ids).startswith(
        f"<|im_start|>system\n{ASKED[0]['content']}<|im_end|>"
    )
    expected = module.lm.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False)  # type: ignore[operator]
    assert rollout.completion_ids.tolist() == expected[0, ids.shape[1] :].tolist()
    assert rollout.finished and "Paris" in rollout.text and "<|im_end|>" not in rollout.text

    long: list[Message] = [
        SYSTEM,
        *EARLIER * 30,
        {"role": "user", "content": "salt, tide, " * 60 + QUESTION["content"]},
    ]
    cut = SFTModule(str(smollm2), chat=True, sampling=GREEDY, max_prompt_length=60, long_prompts="truncate_left")
    cut.set_model(module.lm, module.tokenizer)
    (row,) = cut.prompt_reader().encode([long])
    text = module.tokenizer.decode(row)
    assert len(row) == 60
    assert text.startswith(f"<|im_start|>system\n{SYSTEM['content']}<|im_end|>\n<|im_start|>user\n")
    assert text.endswith(f"tide, {QUESTION['content']}<|im_end|>\n<|im_start|>assistant\n")


def test_a_bfloat16_run_is_exported_as_such(smollm2: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    module = SFTModule(str(smollm2), chat=True, dtype="bfloat16", lora=Lora(r=4, target_modules=["q_proj"]))
    fit(module, Talks(batch_size=2), tmp_path, max_steps=1).save_checkpoint(tmp_path / "last.ckpt")
    again = SFTModule.load_from_checkpoint(tmp_path / "last.ckpt")
    assert not [row for row in recwarn if "not in the checkpoint" in str(row.message)]
    (im_end,) = again.tokenizer.convert_tokens_to_ids(["<|im_end|>"])
    assert end_ids(again.lm, again.tokenizer) == [im_end]
    out = export_model(tmp_path / "last.ckpt", tmp_path / "out")
    assert (out / "model.safetensors").stat().st_size < 280e6  # 135 million weights of two bytes
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
    assert AutoModelForCausalLM.from_pretrained(out).dtype == torch.bfloat16
    before, after = (json.loads((path / "generation_config.json").read_text()) for path in (smollm2, out))
    assert {name: after.get(name) for name in ("bos_token_id", "pad_token_id", "use_cache")} == {
        name: before.get(name) for name in ("bos_token_id", "pad_token_id", "use_cache")
    }
    assert after["eos_token_id"] in (im_end, [im_end])
