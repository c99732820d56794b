"""Models from sizes, from folders, with adapters."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPTNeoConfig

from lit_narrative.errors import UserError
from lit_narrative.lm.load import (
    Lora,
    ScratchModel,
    add_lora,
    attention_name,
    base_lm,
    build_lm,
    check_vocabulary,
    config_from_dict,
    load_lm,
    max_positions,
    scratch_config,
)
from tests.helpers import ARCHITECTURES, sizes, tiny_lm

IDS = torch.tensor([[5, 9, 2, 40]])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_seed_makes_the_weights_and_leaves_the_global_stream_alone(architecture: str) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    config = scratch_config(sizes(architecture), 50, 1)
    first, again, other = build_lm(config, seed=3), build_lm(config, seed=3), build_lm(config, seed=4)
    torch.testing.assert_close(torch.rand(3), expected, atol=0, rtol=0)
    for name, value in first.state_dict().items():
        torch.testing.assert_close(value, again.state_dict()[name], atol=0, rtol=0)
    assert not torch.equal(first.get_input_embeddings().weight, other.get_input_embeddings().weight)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sizes_are_what_was_asked_for(architecture: str) -> None:
    spec = sizes(architecture, hidden_size=24, layers=3, heads=4, positions=40, intermediate_size=20, dropout=0.25)
    config = scratch_config(spec, 60, 1)
    assert (config.vocab_size, config.hidden_size, config.num_hidden_layers) == (60, 24, 3)
    assert (config.num_attention_heads, config.max_position_embeddings, config.eos_token_id) == (4, 40, 1)
    assert (config.n_inner if architecture == "gpt2" else config.intermediate_size) == 20
    assert (config.attn_pdrop if architecture == "gpt2" else config.attention_dropout) == 0.25
    assert max_positions(build_lm(config)) == 40


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("tied", [True, False])
def test_embeddings_are_tied_on_demand(architecture: str, tied: bool) -> None:
    lm = tiny_lm(architecture, tie_embeddings=tied)
    assert (lm.get_input_embeddings().weight is lm.get_output_embeddings().weight) == tied


def test_dtype_and_attention_reach_the_model() -> None:
    lm = build_lm(scratch_config(sizes(), 50, 1), dtype="bfloat16", attention="eager")
    assert lm.dtype == torch.bfloat16
    assert lm.config._attn_implementation == "eager"


def no_sdpa() -> GPTNeoConfig:
    """The config of an architecture that transformers has no SDPA for."""
    sizes: dict[str, Any] = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "max_position_embeddings": 64}
    return GPTNeoConfig(vocab_size=50, attention_types=[[["global", "local"], 1]], **sizes)


def test_an_architecture_without_sdpa_attends_by_eager(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lm = build_lm(no_sdpa(), seed=3).eval()
    lm.save_pretrained(tmp_path)
    again = load_lm(str(tmp_path)).eval()
    assert attention_name(lm) == attention_name(again) == "eager"
    torch.testing.assert_close(again(IDS).logits, lm(IDS).logits, atol=0, rtol=0)
    line = "GPTNeoForCausalLM has no attention by sdpa: it attends by eager, which is slower"
    assert [record.message for record in caplog.records if record.name == "lit_narrative.lm.load"] == [line, line]


def test_another_attention_that_an_architecture_lacks_is_refused(tmp_path: Path) -> None:
    build_lm(no_sdpa()).save_pretrained(tmp_path)
    for attention in ("flex_attention", "flash_attention_2"):
        with pytest.raises(UserError, match=rf"^model\.attention={attention}: .*leave it out, or choose eager$"):
            load_lm(str(tmp_path), attention=attention)  # type: ignore[arg-type]


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(UserError, match=r"^model\.model\.heads=3 does not divide model\.model\.hidden_size=16"):
        ScratchModel(hidden_size=16, heads=3)


def test_rotary_positions_need_an_even_head_width() -> None:
    with pytest.raises(UserError, match=r"^model\.model\.hidden_size=6 over model\.model\.heads=2.*even"):
        ScratchModel("llama", hidden_size=6, heads=2)
    assert ScratchModel("gpt2", hidden_size=6, heads=2).hidden_size == 6


def test_folder_that_is_not_there_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no causal language model at '.*nowhere'.*config\.json.*architecture"):
        load_lm(str(tmp_path / "nowhere"))


def test_a_folder_gives_the_same_model_back(tmp_path: Path) -> None:
    lm = tiny_lm()
    lm.save_pretrained(tmp_path)
    torch.testing.assert_close(load_lm(str(tmp_path))(IDS).logits, lm(IDS).logits, atol=0, rtol=0)
    assert load_lm(str(tmp_path), dtype="bfloat16").dtype == torch.bfloat16


class Touch:
    """What a pickle may do as it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_the_folder_of_a_trl_run_is_a_model_and_its_pickle_is_not_read(tmp_path: Path) -> None:
    lm = tiny_lm()
    for place in ("whole", "steps/checkpoint-90", "steps/checkpoint-200"):
        lm.save_pretrained(tmp_path / place)
        (tmp_path / place / "training_args.bin").write_bytes(pickle.dumps(Touch(tmp_path / "read")))
    torch.testing.assert_close(load_lm(str(tmp_path / "whole"))(IDS).logits, lm(IDS).logits, atol=0, rtol=0)
    with pytest.raises(UserError, match=r"the newest model of that run is in '.*steps/checkpoint-200'"):
        load_lm(str(tmp_path / "steps"))
    assert not (tmp_path / "read").exists()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("no weights", "no causal language model at '.*' \\(.*model.safetensors.*\\); give a hub name, a folder with"),
        ("no shard", "no causal language model at '.*' \\(.*model-00002-of-.*\\); give"),
        (
            "no tensor",
            "lacks 1 of the model's weights, such as 'model.norm.weight': a file is missing.*copy or",
        ),
    ],
)
def test_a_folder_that_is_not_whole_is_refused(damage: str, says: str, tmp_path: Path) -> None:
    tiny_lm().save_pretrained(tmp_path, max_shard_size="30KB" if damage == "no shard" else "1GB")
    match damage:
        case "no weights":
            (tmp_path / "model.safetensors").unlink()
        case "no shard":
            next(tmp_path.glob("model-00002-of-*")).unlink()
        case "no tensor":
            weights = load_file(tmp_path / "model.safetensors")
            del weights["model.norm.weight"]
            save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=says) as error:
        load_lm(str(tmp_path))
    assert "\n" not in str(error.value)


def test_a_config_survives_as_plain_values() -> None:
    lm = tiny_lm("gpt2")
    assert config_from_dict(lm.config.to_dict()).to_dict() == lm.config.to_dict()


def test_a_tokenizer_larger_than_the_model_is_refused() -> None:
    lm = tiny_lm(vocabulary=50)
    check_vocabulary(lm, 50)
    with pytest.raises(UserError, match="has 51 tokens but the model embeds 50"):
        check_vocabulary(lm, 51)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_adapters_alone_are_trained_and_change_nothing_at_first(architecture: str) -> None:
    lm = tiny_lm(architecture)
    before = lm(IDS).logits
    adapted = add_lora(lm, Lora(r=3)).eval()
    trained = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    assert {min(p.shape) for p in trained.values()} == {3}
    torch.testing.assert_close(adapted(IDS).logits, before)
    assert base_lm(adapted) is lm
    assert base_lm(lm) is lm


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_alpha_scales_the_adapters(architecture: str) -> None:
    shifts = []
    for alpha in (3.0, 6.0):
        adapted = add_lora(tiny_lm(architecture, layers=1), Lora(r=3, alpha=alpha, target_modules=["lm_head"])).eval()
        before = adapted(IDS).logits
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if "lora_" in name:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator))
        shifts.append(adapted(IDS).logits - before)
    torch.testing.assert_close(shifts[1], 2 * shifts[0])


@pytest.mark.parametrize(("architecture", "layer"), [("gpt2", "c_attn"), ("llama", "q_proj")])
def test_a_layer_that_is_not_there_is_refused_with_those_that_are(architecture: str, layer: str) -> None:
    with pytest.raises(UserError, match=rf"model\.lora: .*nope.*layers of this model:.*{layer}"):
        add_lora(tiny_lm(architecture), Lora(target_modules=["nope"]))
