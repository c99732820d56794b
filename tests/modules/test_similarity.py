"""SimilarityModule: learning from pairs, checkpoints, calibration, and what it refuses."""

import logging
from pathlib import Path

import pytest
import torch
from lightning.pytorch import seed_everything
from sentence_transformers import SentenceTransformer

from lit_narrative.errors import UserError
from lit_narrative.lm.sentence_encoder import StaticEncoder, build_encoder
from lit_narrative.modules.similarity import SimilarityModule, batch_loss, calibration, pair_losses
from lit_narrative.rl.rewards.similarity import SimilarityModel
from tests.helpers import others_slow, trainer, weights
from tests.modules.pairs import SMALL, Habits, text, train

Learned = tuple[SimilarityModule, dict[str, float], Path]


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Learned:
    return train(tmp_path_factory.mktemp("judge"), Habits())


def some_texts() -> list[str]:
    import numpy as np

    return [text(habit, np.random.default_rng(7)) for habit in ("plain", "plain", "ornate")]


def test_losses_are_those_published() -> None:
    found, scores = torch.tensor([0.8, 0.7, -0.2, 0.3]), torch.tensor([1.0, 0.0, 0.0, 0.5])
    torch.testing.assert_close(pair_losses(found, scores), torch.tensor([0.04, 0.49, 0.04, 0.04]))
    expected = torch.tensor([0.04, 0.04, 0.0, 0.0])
    torch.testing.assert_close(pair_losses(found, scores, "contrastive", margin=0.5), expected)


def test_the_loss_of_a_batch_is_that_of_khosla_et_al() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(6, 4, generator=generator), dim=1).requires_grad_()
    labels = torch.tensor([0, 1, 0, -1, 0, 2])
    anchors = []
    for anchor, alike in ((0, (2, 4)), (2, (0, 4)), (4, (0, 2))):  # the texts of 1 and 2 are alone
        others = torch.stack([vectors[anchor] @ vectors[row] / 0.2 for row in (0, 1, 2, 4, 5) if row != anchor])
        terms = [vectors[anchor] @ vectors[row] / 0.2 - others.logsumexp(0) for row in alike]
        anchors.append(-sum(terms) / 2)
    loss = batch_loss(vectors, labels, 0.2)
    torch.testing.assert_close(loss, sum(anchors) / 3)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(batch_loss(vectors, labels, 0.2), loss)
    for few in (torch.tensor([0, 1, 2, -1, -1, -1]), torch.full((6,), -1), torch.tensor([0, -1, -1, -1, -1, -1])):
        nothing = batch_loss(vectors, few, 0.2)
        (gradient,) = torch.autograd.grad(nothing, vectors)
        assert nothing == 0 and gradient.abs().max() == 0


def test_calibration_says_where_pairs_lie() -> None:
    found = calibration(torch.tensor([0.6, 0.8, 0.0, 0.2, 0.9]), torch.tensor([1.0, 1.0, 0.0, 0.0, 0.5]))
    assert found["same_mean"] == pytest.approx(0.7)
    assert found["cross_q25"] == pytest.approx(0.05)
    assert calibration(torch.tensor([0.6]), torch.tensor([1.0])) == {}


@pytest.mark.parametrize("loss", others_slow(["cosine", "contrastive", "supervised_contrastive"], {"contrastive"}))
def test_pairs_are_told_apart(loss: str, tmp_path: Path) -> None:
    module, measured, _ = train(tmp_path, Habits(), loss=loss)
    assert measured["val/auroc"] > 0.95
    assert measured["val/eer"] < 0.1
    assert measured["val/spearman"] > 0.8
    same, cross = (module.model.calibration[name] for name in ("same_mean", "cross_mean"))
    assert same > cross + 0.3


def test_a_checkpoint_is_enough(learned: Learned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, _, path = learned
    monkeypatch.chdir(tmp_path)
    torch.load(path, weights_only=True)
    again = SimilarityModule.load_from_checkpoint(path)
    judge = SimilarityModel.load(str(path))
    expected = module.model.vectors(some_texts())
    torch.testing.assert_close(again.model.vectors(some_texts()), expected)
    torch.testing.assert_close(judge.vectors(some_texts()), expected)
    assert judge.calibration == again.model.calibration == module.model.calibration
    assert judge.examination is None


def test_a_folder_is_read_by_sentence_transformers(learned: Learned, tmp_path: Path) -> None:
    module, _, _ = learned
    folder = module.save(tmp_path / "judge")
    plain = SentenceTransformer(str(folder), device="cpu").encode(some_texts()[0], normalize_embeddings=True)
    torch.testing.assert_close(torch.from_numpy(plain), module.model.vectors(some_texts())[0], atol=1e-5, rtol=1e-5)
    assert SimilarityModel.load(str(folder)).calibration == module.model.calibration


def test_a_run_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    whole, _, _ = train(tmp_path / "whole", Habits(48), epochs=4)
    _, _, path = train(tmp_path / "part", Habits(48), epochs=2)
    module = SimilarityModule(**SMALL)
    seed_everything(0, verbose=False)
    trainer(tmp_path, max_epochs=4).fit(module, Habits(48), ckpt_path=path, weights_only=True)
    for name, value in weights(whole.model).items():
        torch.testing.assert_close(weights(module.model)[name], value, msg=name)


def test_a_judge_is_tested_by_its_checkpoint_and_as_it_stands(learned: Learned, tmp_path: Path) -> None:
    options = {"limit_test_batches": 1.0}
    (result,) = trainer(tmp_path, **options).test(
        SimilarityModule(**SMALL), Habits(), ckpt_path=learned[2], weights_only=True, verbose=False
    )
    assert result["test/auroc"] > 0.95
    (untrained,) = trainer(tmp_path, **options).test(SimilarityModule(**SMALL), Habits(), verbose=False)
    assert untrained["test/loss"] > result["test/loss"]


def test_windows_beyond_the_limit_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from transformers import BertConfig, BertModel

    from lit_narrative.lm.tokenizer import TrainedTokenizer, train_tokenizer

    folder = tmp_path / "encoder"
    tokenizer = train_tokenizer(some_texts(), TrainedTokenizer(300, split_words=True))
    tokenizer.model_max_length = 16
    tokenizer.save_pretrained(folder)
    config = BertConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    config.intermediate_size, config.max_position_embeddings = 16, 16
    BertModel(config).save_pretrained(folder)
    with caplog.at_level(logging.WARNING):
        train(tmp_path / "cut", Habits(16, words=60), epochs=1, encoder=str(folder), window=40)
    assert [message for message in caplog.messages if "100 % of windows of 40 words are longer" in message]
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        module, _, _ = train(tmp_path / "fits", Habits(16, words=60), epochs=1, encoder=str(folder), window=2)
    assert not [message for message in caplog.messages if "are longer" in message]
    # Only by windows does the end of the text count.
    body = some_texts()[0]
    assert float(module.model.similarity([body], [body + " gull" * 10])[0]) < 0.9999


def test_what_is_refused(tmp_path: Path) -> None:
    for settings, message in (
        ({"lr": -1.0}, "model.lr"),
        ({"loss": "cosin"}, "cosine"),
        ({"margin": 1.0}, "model.margin"),
        ({"temperature": 0.0}, "model.temperature"),
        ({"window": 0}, "model.window"),
        ({"train_windows": 0}, "model.train_windows"),
    ):
        with pytest.raises(UserError, match=message):
            SimilarityModule(**settings)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="nothing to learn"):
        train(tmp_path, Habits(16, score=1.0))
    with pytest.raises(UserError, match="labels of pairs, and none has some"):
        train(tmp_path, Habits(16, labels=False), loss="supervised_contrastive")
    with pytest.raises(UserError, match="no rows"):
        train(tmp_path, Habits(0))


def test_a_damaged_folder_is_told(tmp_path: Path) -> None:
    build_encoder(StaticEncoder(8, 300), some_texts()).save_pretrained(str(tmp_path))
    assert SimilarityModel.load(str(tmp_path)).examination is None
    (tmp_path / "judge.json").write_text("[1]")
    with pytest.raises(UserError, match="judge's folder"):
        SimilarityModel.load(str(tmp_path))
    (tmp_path / "judge.json").write_text('{"window": 5, "calibration": {"same_mean": "x"}, "examination": null}')
    with pytest.raises(UserError, match="calibration"):
        SimilarityModel.load(str(tmp_path))


def test_a_judge_that_is_not_there_is_told_by_the_setting_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"^data\.judge_b: no sentence-transformers model at .* or train one: `fit`"):
        SimilarityModel.load(str(tmp_path / "empty"), setting="data.judge_b")
