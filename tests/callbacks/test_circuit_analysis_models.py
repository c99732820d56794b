"""Circuit analysis of models that others made: folders as the hub has them, with tokenizers that split numbers."""

import json
from itertools import islice
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from lit_narrative.circuits.bridge import build_bridge, run
from lit_narrative.circuits.inputs import ask_all, encode_inputs
from lit_narrative.circuits.records.ablation import Ablation
from lit_narrative.cli.main import main
from lit_narrative.datamodules.cards import CardsData
from lit_narrative.lm.checkpoint import read_language_model
from lit_narrative.lm.load import Lora, load_lm
from lit_narrative.lm.tokenizer import load_tokenizer
from lit_narrative.modules.sft import SFTModule
from lit_narrative.tasks.cards.game import CardGame
from tests.helpers import fit

SIZES = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48}
GROUPED = {**SIZES, "num_key_value_heads": 2, "max_position_embeddings": 256}
SMALL = {
    "patching": {"sites": ["z"]},
    "attribution": {"steps": 1},
    "faithfulness": {"fractions": [0.5], "random": 1},
    "acdc": {"max_pairs": 2, "max_edges": 4, "draws": 1},
    "sae": {"steps": 2, "expansion": 1},
}


def save_tokenizer(folder: Path) -> None:
    """Byte pairs, every digit by itself, and a token before every text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([row.prompt + row.completion for row in task().examples("train")], learner)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(folder)


def task() -> CardsData:
    return CardsData(CardGame(lengths=(2, 3), long_lengths=(5, 6)), train_size=100, test_size=12)


def save_model(kind: str, folder: Path) -> str:
    """A tiny random model with its tokenizer, as ``save_pretrained`` leaves them."""
    words = {"vocab_size": 512, "bos_token_id": 0, "eos_token_id": 1}
    save_tokenizer(folder)
    torch.manual_seed(0)
    lm: PreTrainedModel = {
        "gpt2": lambda: GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=256, **words)),
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**GROUPED, **words)),
        "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**GROUPED, **words)),
        "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(head_dim=8, **GROUPED, **words)),
    }[kind]()
    with torch.no_grad():
        for parameter in lm.parameters():
            parameter.mul_(3 if parameter.ndim > 1 else 1)
    lm.save_pretrained(folder)
    return str(folder)


def settings() -> list[str]:
    """Hardly any work."""
    return [
        f"--trainer.callbacks.settings.{name}.{key}={json.dumps(value)}"
        for name, values in SMALL.items()
        for key, value in values.items()
    ]


def analyse(*args: str) -> None:
    """The shipped configuration on a few rows of one split, into ``run``."""
    quiet = ("--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false")
    few = ("--data.test_size=12", "--trainer.callbacks.splits=[id_test]", "--trainer.callbacks.examples=6")
    main(["test", "--config", "cards/circuits", "--trainer.default_root_dir=run", *quiet, *few, *args])


@pytest.mark.parametrize(
    "kind", ["llama", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("gpt2", "qwen2", "qwen3"))]
)
def test_every_analysis_of_a_folder(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = save_model(kind, tmp_path / "hub")
    lm, tokens = load_lm(folder).eval(), encode_inputs([task().questions("val")[0]], load_tokenizer(folder)).tokens
    assert tokens[0, 0] == 0 or kind.startswith("qwen")  # those tokenizers begin no text by themselves
    expected, result = lm(tokens).logits, run(build_bridge(lm), tokens)
    assert (result - expected).abs().max() <= 1e-4 * max(1.0, float(expected.abs().max()))
    analyse("--model.model", folder, *settings())
    stored = json.loads(Path("run/circuits/manifest.json").read_text())
    assert stored["errors"] == {}
    assert stored["splits"]["id_test"]["pairs"] > 0
    of_pairs = (
        "patching.csv",
        "circuit.json",
        "nodes.json",
        "faithfulness.csv",
        "acdc.json",
        "lens.csv",
        "direct.json",
    )
    everywhere = {"probes.csv", "ablation.csv", "jaccard.json", "id_test/attention.csv"}
    everywhere |= {f"sae/blocks.1.hook_resid_pre/{name}" for name in ("features.csv", "patterns.csv", "effects.csv")}
    assert everywhere | {f"id_test/{name}" for name in of_pairs} <= set(stored["files"])


def test_adapters_of_a_checkpoint_are_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is analysed is the model with its adapters, not its base."""
    monkeypatch.chdir(tmp_path)
    folder = save_model("llama", tmp_path / "hub")
    saver = ModelCheckpoint(tmp_path, save_last=True, save_top_k=0)
    fit(SFTModule(folder, lora=Lora(r=2), lr=0.3), task(), tmp_path, saver, max_steps=2, enable_checkpointing=True)
    analyse("--model.model=last.ckpt", "--trainer.callbacks.analyses=[ablation]")
    result = Ablation.load("run/circuits").base("id_test").logprob
    asked = encode_inputs(list(islice(shipped().questions("id_test"), 6)), load_tokenizer(folder))
    merged, base = (
        ask_all(build_bridge(lm), asked, 6).means()["logprob"]
        for lm in (read_language_model("last.ckpt")[0], load_lm(folder))
    )
    assert result == pytest.approx(merged, rel=1e-4)
    assert abs(merged - base) > 0.1


def shipped() -> CardsData:
    """The task of the shipped configuration."""
    return CardsData(CardGame({"classification": ["sum_above_13"]}, (2, 4), (6, 8)), test_size=12)
