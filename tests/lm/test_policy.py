"""Sources of a policy."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lit_narrative.errors import UserError
from lit_narrative.lm.checkpoint import store_language_model
from lit_narrative.lm.load import Lora, end_ids
from lit_narrative.lm.policy import PolicySource
from lit_narrative.lm.sampler import SamplingParams
from lit_narrative.lm.tokenizer import TrainedTokenizer, check_same_tokens, train_tokenizer
from lit_narrative.modules.sft import SFTModule
from lit_narrative.views import Prompt
from tests.helpers import TEXTS, sizes, tiny_lm, tokenizer, tokenizer_folder
from tests.rewards import VOCABULARY

SCRATCH = PolicySource(sizes(), TrainedTokenizer(VOCABULARY), None, "float32", "sdpa", False)
IDS = torch.tensor([[5, 9, 2]])


@pytest.mark.parametrize(
    ("model", "given", "trains"),
    [
        (sizes(), None, True),
        (sizes(), TrainedTokenizer(), True),
        (sizes(), "folder", False),
        ("folder", None, False),
        ("a.ckpt", None, False),
    ],
)
def test_a_tokenizer_is_trained_for_a_new_model(model: object, given: object, trains: bool) -> None:
    assert replace(SCRATCH, model=model, tokenizer=given).trains_tokenizer is trains


@pytest.mark.parametrize(("model", "why"), [("folder", "embeddings of 'folder' belong"), ("a.ckpt", "brings its own")])
def test_a_pretrained_model_takes_no_tokenizer_that_is_new_to_it(model: str, why: str) -> None:
    with pytest.raises(UserError, match=rf"{why}.*--model\.tokenizer=null"):
        replace(SCRATCH, model=model)


def test_a_new_model_with_a_trained_tokenizer(tmp_path: Path) -> None:
    SCRATCH.prepare(TEXTS, tmp_path / "words")
    lm, words = SCRATCH.build(tmp_path / "words")
    assert words(TEXTS[0])["input_ids"] == tokenizer()(TEXTS[0])["input_ids"]
    assert lm.get_input_embeddings().num_embeddings == len(words) == VOCABULARY
    assert lm.config.eos_token_id == words.eos_token_id


def test_the_weights_come_from_the_models_seed_or_the_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = replace(SCRATCH, tokenizer=tokenizer_folder(tmp_path))

    def embedding(seed: int | None) -> torch.Tensor:
        lm, _ = replace(source, model=sizes(seed=seed)).build(tmp_path)
        return lm.get_input_embeddings().weight

    monkeypatch.setenv("PL_GLOBAL_SEED", "5")
    assert torch.equal(embedding(None), embedding(5))
    assert not torch.equal(embedding(None), embedding(6))


def test_a_folder_brings_its_own_tokenizer(tmp_path: Path) -> None:
    lm = tiny_lm()
    lm.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    found, words = replace(SCRATCH, model=str(tmp_path), tokenizer=None).build(tmp_path / "unused")
    torch.testing.assert_close(found(IDS).logits, lm(IDS).logits, atol=0, rtol=0)
    assert len(words) == VOCABULARY


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    tiny_lm(vocabulary=100).save_pretrained(tmp_path)
    source = replace(SCRATCH, model=str(tmp_path), tokenizer=tokenizer_folder(tmp_path))
    with pytest.raises(UserError, match="the tokenizer has 300 tokens but the model embeds 100"):
        source.build(tmp_path)


def test_what_comes_on_top(tmp_path: Path) -> None:
    settings = {
        "tokenizer": tokenizer_folder(tmp_path),
        "lora": Lora(r=2),
        "dtype": "bfloat16",
        "gradient_checkpointing": True,
    }
    lm, _ = replace(SCRATCH, **settings).build(tmp_path)
    assert any("lora_" in name for name, _ in lm.named_parameters())
    assert lm.get_base_model().dtype == torch.bfloat16
    assert lm.is_gradient_checkpointing


def test_chat_without_a_template_is_said_before_the_model_is_read(tmp_path: Path) -> None:
    source = replace(SCRATCH, model=str(tmp_path / "nowhere"), tokenizer=tokenizer_folder(tmp_path), chat=True)
    with pytest.raises(UserError, match=r"model\.chat=true, but the tokenizer has no chat template"):
        source.build()


def test_every_end_of_a_loaded_model_outlives_a_checkpoint(tmp_path: Path) -> None:
    lm = tiny_lm()
    lm.generation_config.eos_token_id = [1, 7]
    lm.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    found, words = replace(SCRATCH, model=str(tmp_path), tokenizer=None).build(tmp_path / "unused")
    checkpoint: dict[str, object] = {"state_dict": {}}
    store_language_model(checkpoint, found, words)
    assert [end_ids(*policy) for policy in ((found, words), SCRATCH.restore(checkpoint))] == [[1, 7], [1, 7]]


def test_a_tokenizer_of_another_model_is_refused_before_the_model_is_read(tmp_path: Path) -> None:
    model, other = tmp_path / "model", tmp_path / "other"
    tiny_lm(vocabulary=VOCABULARY).save_pretrained(model)
    tokenizer().save_pretrained(model)
    train_tokenizer(["another corpus of other words"] * 9, TrainedTokenizer(VOCABULARY)).save_pretrained(other)
    (model / "model.safetensors").unlink()  # never looked for
    source = replace(SCRATCH, model=str(model), tokenizer=str(other))
    with pytest.raises(UserError, match=r"model\.tokenizer=.*other is of another model than .*; leave it out"):
        source.build()
    same = deepcopy(tokenizer())  # the model's own and more
    same.add_tokens(["<more>"])
    check_same_tokens(same, "more", str(model))
    check_same_tokens(same, "more", "a/hub-name")
    (model / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer\.json' is damaged .*copy it again, or remove it"):
        source.build()


def test_a_vocabulary_wider_than_the_tokenizer_is_sampled_scored_and_read(tmp_path: Path) -> None:
    """Hub models pad their embeddings; a token that the tokenizer does not know has no text."""
    wide = VOCABULARY + 40
    tiny_lm(vocabulary=wide).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    module = SFTModule(str(tmp_path), sampling=SamplingParams(12))
    rollouts = module.generate([Prompt(TEXTS[0], {"index": n}) for n in range(16)])
    beyond = [rollout for rollout in rollouts if rollout.completion_ids.max() >= VOCABULARY]
    assert beyond  # at random, most have such a token
    for rollout in beyond:
        known = [token for token in rollout.completion_ids.tolist() if token < VOCABULARY]
        assert rollout.text == tokenizer().decode(known, skip_special_tokens=True)
