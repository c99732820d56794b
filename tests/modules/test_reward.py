"""RewardModule: learning from ratings and preferences, checkpoints, and what it refuses."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from sentence_transformers import SentenceTransformer

from lit_narrative.errors import UserError
from lit_narrative.lm.sentence_encoder import StaticEncoder, build_encoder, encode
from lit_narrative.modules.reward import RewardModule
from lit_narrative.rl.rewards import model as reward_storage
from lit_narrative.views import Scored
from tests.helpers import fit, trainer, weights
from tests.modules.ratings import Ratings, share, texts, train

SMALL: dict[str, Any] = {"encoder": StaticEncoder(width=32, vocab_size=400), "hidden": [16], "dropout": 0.0, "lr": 1e-2}


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[RewardModule, dict[str, float], Path]:
    return train(tmp_path_factory.mktemp("reward"), Ratings(), epochs=10)


def accuracy(module: RewardModule) -> float:
    """Of pairs of texts that the module has not seen, by what the ratings mean."""
    found = texts(200, 9)
    scores, true = torch.tensor(module.score(found)), torch.tensor([share(text) for text in found])
    right, order = torch.sign(true[:, None] - true), torch.sign(scores[:, None] - scores)
    return float((right == order)[right != 0].float().mean())


def test_ratings_are_learned(learned: tuple[RewardModule, dict[str, float], Path]) -> None:
    module, measured, _ = learned
    assert measured["val/pair_accuracy"] >= 0.9
    assert measured["val/pearson"] >= 0.85
    assert measured["val/mse"] < 0.02
    assert set(measured) == {
        "loss",
        "val/loss",
        *(f"val/{name}" for name in ("mse", "mae", "pearson", "spearman", "kendall", "pair_accuracy")),
    }
    assert accuracy(module) >= 0.9


def test_scores_are_in_the_units_of_the_ratings(tmp_path: Path) -> None:
    module, measured, _ = train(tmp_path, Ratings(rows=100, scale=100.0), epochs=10, **SMALL)
    assert measured["val/mae"] < 15
    assert max(module.score(texts(50, 5))) > 30


@pytest.mark.parametrize("kind", [pytest.param("preferences", marks=pytest.mark.slow), "both"])
def test_preferences_are_learned(kind: str, tmp_path: Path) -> None:
    module, measured, _ = train(tmp_path, Ratings(kind=kind, noise=0.0), epochs=8, **SMALL)
    assert measured["val/preference_accuracy"] >= 0.85
    assert measured["val/preference_auroc"] >= 0.85
    assert 0 <= measured["val/preference_calibration_error"] < 0.35
    assert ("val/mse" in measured) == (kind == "both")
    assert accuracy(module) >= 0.85


def test_a_checkpoint_is_enough(
    learned: tuple[RewardModule, dict[str, float], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, _, path = learned
    monkeypatch.chdir(tmp_path)
    torch.load(path, weights_only=True)
    again = RewardModule.load_from_checkpoint(path)
    found = texts(20, 4)
    assert again.score(found) == pytest.approx(module.score(found), abs=1e-6)
    assert again.training  # scoring leaves the mode as it was
    low, high = again.head.score_range.tolist()
    training = [row.text for row in Ratings().scored("train")]
    assert (min(again.score(training)), max(again.score(training))) == pytest.approx((low, high), abs=1e-5)


def test_texts_far_from_training_are_far(learned: tuple[RewardModule, dict[str, float], Path]) -> None:
    module, _, _ = learned
    near, far = texts(20, 4), ["wave " * 30, "zzz qqq %%%", ""]
    distances = torch.tensor(module.score_and_distance([*near, *far])[1])
    assert distances[:20].square().mean() == pytest.approx(1.0, abs=0.5)
    assert distances[20:22].min() > distances[:20].max()


def test_half_a_character_is_read_as_the_replacement_character(
    learned: tuple[RewardModule, dict[str, float], Path],
) -> None:
    module = learned[0]
    assert module.score(["Rain \ud83d.", "\udc00"]) == module.score(["Rain \ufffd.", "\ufffd"])


def test_a_run_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    whole, _, _ = train(tmp_path / "whole", Ratings(rows=48), epochs=4, **SMALL)
    _, _, path = train(tmp_path / "part", Ratings(rows=48), epochs=2, **SMALL)
    module = RewardModule(**SMALL)
    seed_everything(0, verbose=False)
    trainer(tmp_path, max_epochs=4).fit(module, Ratings(rows=48), ckpt_path=path, weights_only=True)
    for name, value in weights(whole.head).items():
        torch.testing.assert_close(weights(module.head)[name], value, msg=name)


def test_an_untrained_model_scores_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="never trained"):
        RewardModule().score(["a"])
    with pytest.raises(UserError, match="never trained"):
        trainer(tmp_path).test(RewardModule(**SMALL), Ratings(rows=16), verbose=False)
    module = RewardModule(**SMALL)
    module.set_model(build_encoder(SMALL["encoder"], texts(5, 0)))
    with pytest.raises(UserError, match="never trained"):
        module.score(["a"])


def test_test_by_checkpoint(learned: tuple[RewardModule, dict[str, float], Path], tmp_path: Path) -> None:
    (result,) = trainer(tmp_path).test(RewardModule(), Ratings(), ckpt_path=learned[2], verbose=False)
    assert result["test/pair_accuracy"] >= 0.9


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sentence-transformers folder."""
    build_encoder(StaticEncoder(24, 400), texts(100, 0)).save_pretrained(str(tmp_path / "encoder"))
    return tmp_path / "encoder"


def test_a_small_encoder_from_a_folder_rides_along(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    given = {**SMALL, "encoder": str(folder), "cache": str(cache)}
    module, _, path = train(tmp_path / "run", Ratings(rows=32), epochs=1, **given)
    assert len(list(cache.rglob("*.safetensors"))) == 2  # training and held-out texts
    (folder / "model.safetensors").unlink()
    assert RewardModule.load_from_checkpoint(path).score(["wave"]) == pytest.approx(module.score(["wave"]))
    assert len(list(cache.rglob("*.safetensors"))) == 2  # scoring after the run remembers nothing


def test_a_big_encoder_is_named_and_known_again(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reward_storage, "MAX_FILES", 1000)
    monkeypatch.chdir(tmp_path)
    given = {**SMALL, "encoder": "encoder", "cache": None}
    module, _, path = train(tmp_path / "run", Ratings(rows=32), epochs=1, **given)
    assert path.stat().st_size < folder.joinpath("model.safetensors").stat().st_size
    monkeypatch.chdir("/")
    assert RewardModule.load_from_checkpoint(path).score(["wave"]) == pytest.approx(module.score(["wave"]))
    build_encoder(StaticEncoder(24, 400), texts(100, 1)).save_pretrained(str(folder))
    with pytest.raises(UserError, match="gives other vectors"):
        RewardModule.load_from_checkpoint(path)
    for file in sorted(folder.iterdir()):
        file.unlink()
    with pytest.raises(UserError, match="no sentence-transformers model at"):
        RewardModule.load_from_checkpoint(path)


def transformer(folder: Path) -> Path:
    """A tiny bidirectional encoder with pooled states, as a sentence-transformers folder."""
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    from lit_narrative.lm.tokenizer import TrainedTokenizer, train_tokenizer

    tokenizer = train_tokenizer(texts(200, 0), TrainedTokenizer(400, split_words=True))
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(0)
    bert = BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=64, **sizes))
    bert.save_pretrained(folder / "bert")
    tokenizer.save_pretrained(folder / "bert")
    states = Transformer(str(folder / "bert"))
    SentenceTransformer(modules=[states, Pooling(16)], device="cpu").save_pretrained(str(folder / "encoder"))
    return folder / "encoder"


@pytest.mark.slow
def test_the_encoder_is_trained_end_to_end(tmp_path: Path) -> None:
    name = str(transformer(tmp_path))
    given = {**SMALL, "encoder": name, "cache": str(tmp_path / "cache"), "finetune_encoder": True, "encoder_lr": 3e-3}
    module, measured, path = train(tmp_path / "run", Ratings(rows=200), epochs=8, **given)
    frozen, alone, _ = train(tmp_path / "alone", Ratings(rows=200), epochs=8, **{**given, "finetune_encoder": False})
    assert measured["val/pair_accuracy"] > alone["val/pair_accuracy"]
    assert measured["val/pair_accuracy"] >= 0.85
    before = encode(SentenceTransformer(name, device="cpu"), ["wave"])
    assert torch.equal(encode(frozen.encoder, ["wave"]), before)
    again = RewardModule.load_from_checkpoint(path)
    assert again.score(["wave oak"]) == pytest.approx(module.score(["wave oak"]), abs=1e-5)
    module.save(tmp_path / "export")
    exported = encode(SentenceTransformer(str(tmp_path / "export"), device="cpu"), ["wave"])
    torch.testing.assert_close(exported, encode(module.encoder, ["wave"]))
    assert not torch.allclose(exported, before, atol=1e-3)


def test_dropout_of_the_encoder_is_on_only_in_training(tmp_path: Path) -> None:
    module = RewardModule(encoder=str(transformer(tmp_path)))
    module.set_model(SentenceTransformer(module.source, device="cpu"))
    assert not module.train().encoder.training
    tuned = RewardModule(encoder=str(tmp_path / "encoder"), finetune_encoder=True)
    tuned.set_model(SentenceTransformer(str(tmp_path / "encoder"), device="cpu"))
    assert tuned.train().encoder.training


class Watched(RewardModule):
    """Keeps the mode of its encoder in each training step."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.modes = [*getattr(self, "modes", []), *(part.training for part in self.encoder.modules())]
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("tuned", [True, False])
def test_the_mode_of_the_encoder_in_the_first_training_step(tuned: bool, tmp_path: Path) -> None:
    given = {**SMALL, "encoder": str(transformer(tmp_path)), "cache": None, "finetune_encoder": tuned}
    module = Watched(**given)
    fit(module, Ratings(rows=16), tmp_path, max_steps=1)
    assert set(module.modes) == {tuned}


class Given(Ratings):
    """Rows as given."""

    def __init__(self, rows: list[Scored]) -> None:
        super().__init__()
        self.given = rows

    def scored(self, split: Any) -> list[Scored]:
        return self.given


@pytest.mark.parametrize(
    ("rows", "part"),
    [
        ([Scored("a", 1.0), Scored("b", float("nan"))], "row 1 of the view 'scored' is rated nan"),
        ([Scored("a", 1.0), Scored("b", 1.0)], "all 2 training rows are rated 1.0"),
        ([], "the view 'scored' has no rows"),
    ],
)
def test_rows_that_teach_nothing(rows: list[Scored], part: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=part):
        fit(RewardModule(**SMALL), Given(rows), tmp_path, max_epochs=1)


@pytest.mark.parametrize("settings", [{"lr": -1.0}, {"encoder_lr": float("nan")}, {"weight_decay": -1.0}])
def test_rates_out_of_range(settings: dict[str, float]) -> None:
    with pytest.raises(UserError, match=rf"model\.{next(iter(settings))}="):
        RewardModule(**settings)


def test_a_checkpoint_of_another_module() -> None:
    with pytest.raises(UserError, match="holds no reward model"):
        reward_storage.restore_encoder({"state_dict": {}})


def test_the_same_seed_gives_the_same_model(tmp_path: Path) -> None:
    first, _, _ = train(tmp_path / "a", Ratings(rows=32), epochs=1, **SMALL)
    second, _, _ = train(tmp_path / "b", Ratings(rows=32), epochs=1, **SMALL)
    assert first.score(["wave oak"]) == second.score(["wave oak"])
    assert isinstance(first.trainer, Trainer)
