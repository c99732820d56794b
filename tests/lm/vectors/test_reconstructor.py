"""The reconstructor: what it reads, where it stops, its losses, and its files."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel
from transformers.models.gemma2 import Gemma2Config
from transformers.models.mistral import MistralConfig
from transformers.models.qwen3 import Qwen3Config

from lit_narrative.errors import UserError
from lit_narrative.lm.load import Lora, blocks
from lit_narrative.lm.tokenizer import TrainedTokenizer, train_tokenizer
from lit_narrative.lm.vectors.reconstructor import Reconstructor, ReconstructorSettings, pool
from tests.helpers import tiny_lm, tokenizer
from tests.paths import GOLDEN

TEXTS = ["salt", "a lantern and the tide, no more than that", "", "tide \ud800 " * 3]
SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 300,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}


def critic(architecture: str = "llama", lora: Lora | None = None, **settings: Any) -> Reconstructor:
    lm = tiny_lm(architecture, layers=3, scale=3.0)
    return Reconstructor(lm, tokenizer(), ReconstructorSettings(**settings), lora).eval()


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    if not (GOLDEN / "nla.pt").is_file():
        pytest.skip(f"no golden values at {GOLDEN}; set LIT_GOLDEN")
    return torch.load(GOLDEN / "nla.pt", weights_only=True)  # type: ignore[no-any-return]


def golden_lm(golden: dict[str, Any]) -> GPT2LMHeadModel:
    lm = GPT2LMHeadModel(GPT2Config(**golden["config"]))
    lm.load_state_dict(golden["state_dict"])
    return lm.eval()  # type: ignore[return-value]


# --- where it stops ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [MistralConfig, Qwen3Config, Gemma2Config, "gpt2", "llama"])
@pytest.mark.parametrize("layer", [1, 2, 3])
def test_it_begins_as_the_state_of_the_last_token_after_its_block(config: Any, layer: int) -> None:
    torch.manual_seed(0)
    lm = tiny_lm(config, layers=3) if isinstance(config, str) else AutoModelForCausalLM.from_config(config(**SMALL))
    whole = copy.deepcopy(lm).eval()
    model = Reconstructor(lm, tokenizer(), ReconstructorSettings(layer=layer)).eval()
    states: list[torch.Tensor] = []
    blocks(whole)[layer - 1].register_forward_hook(
        lambda module, args, output: states.append(output[0] if isinstance(output, tuple) else output)
    )
    for row, vector in zip(model.encode(TEXTS), model.reconstruct(TEXTS), strict=True):
        whole(input_ids=torch.tensor([row]))
        assert torch.allclose(vector, states.pop()[0, -1], atol=1e-5)


def test_by_default_it_ends_at_two_thirds_of_the_blocks() -> None:
    model = critic()
    assert model.settings.layer == 2
    assert model.backbone.config.num_hidden_layers == 2


def test_a_layer_past_the_model_is_refused() -> None:
    with pytest.raises(UserError, match=r"critic\.layer=4, and the model has the blocks 1 to 3"):
        critic(layer=4)


def test_the_final_norm_is_kept_where_it_is_asked_for() -> None:
    lm = tiny_lm("gpt2", layers=3)
    whole = copy.deepcopy(lm)
    model = Reconstructor(lm, tokenizer(), ReconstructorSettings(layer=3, final_norm=True)).eval()
    row = torch.tensor([model.encode(["salt"])[0]])
    expected = whole(input_ids=row, output_hidden_states=True).hidden_states[-1][0, -1]
    assert torch.allclose(model.reconstruct(["salt"])[0], expected, atol=1e-5)


# --- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@pytest.mark.parametrize("pooling", ["last", "mean", "max", "cls", "weighted"])
def test_padding_makes_no_difference(architecture: str, pooling: str) -> None:
    model = critic(architecture, pooling=pooling)
    (row,) = model.encode(["a lantern"])
    alone = model(torch.tensor([row]), torch.ones(1, len(row), dtype=torch.long))
    for left, right in ((0, 3), (4, 0), (2, 5)):
        ids = torch.tensor([[7] * left + row + [9] * right])
        mask = torch.tensor([[0] * left + [1] * len(row) + [0] * right])
        assert torch.allclose(model(ids, mask), alone, atol=1e-5)


def test_a_long_text_is_cut_and_not_its_template() -> None:
    model = critic()
    (row,) = model.encode(["salt " * 500])
    assert len(row) == model.limit
    (short,) = model.encode([""])
    assert row[-5:] == short[-5:]
    assert model.reconstruct(["salt " * 500]).isfinite().all()


def test_a_space_before_the_text_is_part_of_its_first_word() -> None:
    words = train_tokenizer(["in words: a fox = a"], TrainedTokenizer(kind="words"))
    made = Reconstructor(tiny_lm(), words, ReconstructorSettings(layer=1, template="in words: {explanation} ="))
    assert made.encode(["a fox"]) == [words("in words: a fox =")["input_ids"]]


def test_vectors_do_not_depend_on_the_batch() -> None:
    model = critic()
    many = [f"{'a lantern ' * (n % 7)}{n}" for n in range(150)]
    together = model.reconstruct(many)
    assert torch.allclose(together[100:103], model.reconstruct(many[100:103]), atol=1e-5)
    assert torch.allclose(together[:5], model.read(many[:5]), atol=1e-5)


def test_an_empty_text_reads_as_its_template_and_without_one_is_an_error() -> None:
    assert critic().reconstruct([""]).isfinite().all()
    with pytest.raises(UserError, match=r"text 1 \(counted from 0\) of 2 is empty"):
        critic(template="{explanation}").reconstruct(["a", ""])
    assert critic().reconstruct([]).shape == (0, 16)


def test_reading_leaves_the_mode_as_it_was() -> None:
    model = critic(head="mlp", dropout=0.5).train()
    first, second = model.reconstruct(["salt"]), model.reconstruct(["salt"])
    assert model.training
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"head": "none", "width": 8}, "choose linear or mlp"),
        ({"head": "mean"}, "there is no 'mean'"),
        ({"pooling": "first"}, "there is no 'first'"),
        ({"scale": -1.0}, "must be above 0"),
        ({"template": "no place"}, "once, where the text goes"),
        ({"mlp_layers": 1}, "2 or more"),
        ({"dropout": 1.0}, "below 1"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        critic(**settings)


# --- pooling ----------------------------------------------------------------------------------------------------------


def test_no_row_is_read_without_a_token() -> None:
    with pytest.raises(UserError, match="row 1"):
        pool(torch.zeros(2, 3, 4), torch.tensor([[1, 0, 0], [0, 0, 0]]), "mean")


# --- golden values ----------------------------------------------------------------------------------------------------


@pytest.mark.golden
@pytest.mark.parametrize("side", ["right", "left"])
def test_the_truncated_model_is_the_golden_one(golden: dict[str, Any], side: str) -> None:
    model = Reconstructor(golden_lm(golden), tokenizer(), ReconstructorSettings(layer=2)).eval()
    given = golden["critic_inputs"]
    found = model(given[f"ids_{side}"], given[f"mask_{side}"])
    assert torch.allclose(found, golden["ours"][f"ar_identity_head_K1_{side}"], atol=1e-5)


@pytest.mark.golden
@pytest.mark.parametrize("block", [1, 2, 3])
def test_states_after_a_block_are_the_golden_ones(golden: dict[str, Any], block: int) -> None:
    given = golden["critic_inputs"]
    model = Reconstructor(golden_lm(golden), tokenizer(), ReconstructorSettings(layer=block, head="none")).eval()
    expected = golden["ours"]["resid_post_block"][block - 1]
    last = golden["ours"]["last_index_right"]
    found = model(given["ids_right"], given["mask_right"])
    assert torch.allclose(found, expected[torch.arange(3), last], atol=1e-5)


def full_depth(golden: dict[str, Any], pooling: str) -> Reconstructor:
    settings = ReconstructorSettings(layer=3, width=8, head="mlp", pooling=pooling, final_norm=True)  # type: ignore[arg-type]
    model = Reconstructor(golden_lm(golden), tokenizer(), settings).eval()
    state = golden["critic"][pooling]["head_state"]
    head = {name.removeprefix("projection_head."): value for name, value in state.items() if "projection" in name}
    model.readout.head.load_state_dict(head)
    if pooling == "weighted":
        model.readout.weights = nn.Parameter(state["pooling_weights"])
    return model


@pytest.mark.golden
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("pooling", ["last", "mean", "max", "cls", "weighted"])
def test_the_model_of_full_depth_is_the_golden_one(golden: dict[str, Any], pooling: str, side: str) -> None:
    model, given = full_depth(golden, pooling), golden["critic_inputs"]
    ids, mask = given[f"ids_{side}"], given[f"mask_{side}"]
    if pooling == "cls":  # the original put its token behind the padding
        ids, mask = golden["ours"]["cls_ids"], golden["ours"]["cls_mask"]
    expected = model.readout.head(golden["ours"][f"pool/{pooling}"])
    if pooling != "cls":
        assert torch.allclose(expected, golden["critic"][pooling]["pred_right"], atol=1e-5)
    assert torch.allclose(model(ids, mask), expected, atol=1e-5)


@pytest.mark.golden
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_heads_are_built_as_the_golden_ones(golden: dict[str, Any], layers: int) -> None:
    head = "linear" if layers == 1 else "mlp"
    settings = ReconstructorSettings(head=head, width=8, mlp_layers=max(layers, 2))  # type: ignore[arg-type]
    model = Reconstructor(golden_lm(golden), tokenizer(), settings)
    parts = [model.readout.head] if head == "linear" else model.readout.head
    assert [str(part) for part in parts] == golden["critic"]["nproj"][layers]  # type: ignore[union-attr]


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [None, Lora(r=2)])
@pytest.mark.parametrize("settings", [{}, {"head": "mlp", "width": 5, "pooling": "weighted", "scale": 3.0}])
def test_a_saved_one_reads_the_same(tmp_path: Path, lora: Lora | None, settings: dict[str, Any]) -> None:
    model = critic("gpt2", lora, **settings)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    model.save(tmp_path / "critic.ckpt")
    again = Reconstructor.load(tmp_path / "critic.ckpt")
    assert torch.allclose(again.reconstruct(TEXTS), model.reconstruct(TEXTS), atol=1e-6)
    assert again.settings == model.settings
    trained = {name for name, parameter in again.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert bool(lora) == any("lora" in name for name in trained)


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    model = critic()
    model.readout.head.weight.data[0, 0] = torch.nan  # type: ignore[union-attr, index]
    with pytest.raises(UserError, match=r"'critic\.readout\.head\.weight' is not finite"):
        model.save(tmp_path / "critic.ckpt")
    assert list(tmp_path.iterdir()) == []


def test_a_file_without_one_says_so(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match="it holds no reconstructor"):
        Reconstructor.load(tmp_path / "other.ckpt")
