"""Chat templates as published models have them, on one small tokenizer that knows all of their tokens."""

from dataclasses import dataclass

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from lit_narrative.views import Message
from tests.helpers import tokenizer


@dataclass(frozen=True)
class Template:
    """A chat template with the tokens of its tokenizer.

    Attributes:
        text: in Jinja.
        eos: the tokenizer's end token.
        end: the token that ends a turn.
        bos: the tokenizer's beginning token.
    """

    text: str
    eos: str
    end: str
    bos: str | None = None


_ALTERNATE = (
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate') }}"
    "{% endif %}"
)
_CHATML = (
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEMPLATES = {
    "ChatML": Template("{% for m in messages %}" + _CHATML, "<|endoftext|>", "<|im_end|>"),
    "SmolLM2": Template(
        "{% for m in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
        "{{ '<|im_start|>system\nYou are a helpful AI assistant.<|im_end|>\n' }}{% endif %}" + _CHATML,
        "<|im_end|>",
        "<|im_end|>",
        "<|im_start|>",
    ),
    "Llama-3": Template(
        "{% for m in messages %}{% if loop.first %}{{ bos_token }}{% endif %}"
        "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}"
        "{% endfor %}{% if add_generation_prompt %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
        "<|end_of_text|>",
        "<|eot_id|>",
        "<|begin_of_text|>",
    ),
    "Gemma": Template(
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
        "{% endif %}{% for m in messages %}" + _ALTERNATE + "{{ '<start_of_turn>' + ('model' if m['role'] == "
        "'assistant' else m['role']) + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
        "<eos>",
        "<end_of_turn>",
        "<bos>",
    ),
    "Phi-3": Template(
        "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}",
        "<|endoftext|>",
        "<|end|>",
        "<s>",
    ),
    "Mistral": Template(
        "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] + '\n\n' %}"
        "{% set turns = messages[1:] %}{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}"
        "{{ bos_token }}{% for m in turns %}" + _ALTERNATE + "{% if m['role'] == 'user' %}"
        "{{ '[INST] ' + (system if loop.first else '') + m['content'] + ' [/INST]' }}"
        "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}",
        "</s>",
        "</s>",
        "<s>",
    ),
    "Mistral v0.3": Template(  # where an answer follows it forgets the system turn
        "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] + '\n\n' %}"
        "{% set turns = messages[1:] %}{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}"
        "{{ bos_token }}{% for m in turns %}" + _ALTERNATE + "{% if m['role'] == 'user' %}"
        "{{ '[INST] ' + (system if loop.last else '') + m['content'] + '[/INST]' }}"
        "{% else %}{{ ' ' + m['content'] | trim + eos_token }}{% endif %}{% endfor %}",
        "</s>",
        "</s>",
        "<s>",
    ),
    "Zephyr": Template(
        "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
        "</s>",
        "</s>",
        "<s>",
    ),
    "Llama-2": Template(
        "{% if messages[0]['role'] == 'system' %}{% set turns = messages[1:] %}"
        "{% set system = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}"
        "{% else %}{% set turns = messages %}{% set system = '' %}{% endif %}{% for m in turns %}" + _ALTERNATE + ""
        "{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + (system if loop.first else '') + m['content'] | trim "
        "+ ' [/INST]' }}{% else %}{{ ' ' + m['content'] | trim + ' ' + eos_token }}{% endif %}{% endfor %}",
        "</s>",
        "</s>",
        "<s>",
    ),
    "Qwen3": Template(
        "{% for m in messages %}{% if m['role'] == 'assistant' and loop.last %}"
        "{{ '<|im_start|>assistant\n<think>\n\n</think>\n\n' + m['content'] + '<|im_end|>\n' }}"
        "{% else %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        "<|im_end|>",
        "<|im_end|>",
    ),
    "Granite": Template(  # a turn's end is the end token, and the roles are tokens
        "{% for m in messages %}{{ '<|start_of_role|>' + m['role'] + '<|end_of_role|>' + m['content'] "
        "+ '<|end_of_text|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_of_role|>assistant<|end_of_role|>' }}{% endif %}",
        "<|end_of_text|>",
        "<|end_of_text|>",
    ),
}
_MARKS = [
    *("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    *("<|begin_of_text|>", "<|end_of_text|>", "<start_of_turn>", "<end_of_turn>", "<bos>", "<eos>", "<s>", "</s>"),
    *("<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|start_of_role|>", "<|end_of_role|>"),
]

SYSTEM: Message = {"role": "system", "content": "You count what the sea takes."}
EARLIER: tuple[Message, ...] = (
    {"role": "user", "content": "How many lanterns?"},
    {"role": "assistant", "content": "Seven, and a tide."},
)
QUESTION: Message = {"role": "user", "content": "Write of the salt road:"}
CASES: dict[str, list[Message]] = {
    "one turn": [QUESTION],
    "system turn": [SYSTEM, QUESTION],
    "several turns": [*EARLIER, QUESTION],
    "system and several turns": [SYSTEM, *EARLIER, QUESTION],
}


def chatty(template: Template | str, eos: str = "<|endoftext|>") -> PreTrainedTokenizerFast:
    """The small tokenizer with a chat template and all marks of the others as special tokens."""
    given = template if isinstance(template, Template) else Template(template, eos, eos)
    backend = Tokenizer.from_str(tokenizer().backend_tokenizer.to_str())
    made = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=given.eos, bos_token=given.bos)
    made.add_special_tokens({"additional_special_tokens": _MARKS})
    made.chat_template = given.text
    return made
