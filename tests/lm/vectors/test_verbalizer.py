"""The verbalizer: any vectors into words, the best of several by the critic, and back."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lit_narrative.errors import UserError
from lit_narrative.lm.checkpoint import store_language_model
from lit_narrative.lm.load import max_positions
from lit_narrative.lm.tokenizer import encode_prompt
from lit_narrative.lm.vectors.inject import InjectionSettings, add_injector
from lit_narrative.lm.vectors.reconstructor import Reconstructor, ReconstructorSettings
from lit_narrative.lm.vectors.verbalizer import Verbalizer
from tests.helpers import tiny_lm, tokenizer

TEMPLATE = "A {marker} tide"
VECTORS = np.random.default_rng(0).normal(size=(4, 16)).astype(np.float32)


def stripped(text: str) -> str | None:
    return text.strip() or None


def verbalizer(parse: Callable[[str], str | None] = stripped, critic: bool = True) -> Verbalizer:
    lm = tiny_lm("llama", scale=3)
    add_injector(lm, tokenizer(), InjectionSettings(marker="~"))
    found = Reconstructor(tiny_lm("llama", scale=3), tokenizer(), ReconstructorSettings(layer=1)).eval()
    return Verbalizer(lm, tokenizer(), TEMPLATE, parse, found if critic else None, max_new_tokens=6)


def test_words_depend_on_the_vector_and_not_on_the_batch() -> None:
    found = verbalizer()
    together = [one.answer for one in found.explain(VECTORS)]
    assert together == [found.explain(torch.tensor(row))[0].answer for row in VECTORS]
    assert len(set(together)) > 1


def test_the_best_of_several_is_chosen_by_the_critic() -> None:
    found = verbalizer()
    best = found.explain(VECTORS, samples=8, seed=3)
    assert best == found.explain(VECTORS, samples=8, seed=3)
    for row, one in zip(VECTORS, best, strict=True):
        assert one.text is not None and one.score == pytest.approx(found.score([one.text], row)[0], abs=1e-5)
    few = found.explain(VECTORS, samples=2, seed=3)
    assert all((a.score or 0) >= (b.score or 0) for a, b in zip(best, few, strict=True))


def test_score_is_the_critics_loss_turned_and_0_at_best() -> None:
    found = verbalizer()
    own = found.reconstruct(["salt", "tide"])
    assert found.score(["salt", "tide"], 7 * own) == pytest.approx([0, 0], abs=1e-5)
    assert found.score(["salt", "tide"], own.flip(0))[0] < -1e-4
    assert found.reconstruct(["salt"], torch.tensor([5.0])).norm() == pytest.approx(5)


def test_an_actor_of_a_chat_reads_the_prompt_by_its_template() -> None:
    lm, words = tiny_lm("llama", scale=3), tokenizer()
    add_injector(lm, words, InjectionSettings(marker="~"))
    words.chat_template = "salt {{ messages[0]['content'] }} sea"
    chat = Verbalizer(lm, words, TEMPLATE, stripped, max_new_tokens=6, chat=True)
    plain = Verbalizer(lm, words, f"salt {TEMPLATE} sea", stripped, max_new_tokens=6)
    assert chat.explain(VECTORS) == plain.explain(VECTORS)
    assert chat.explain(VECTORS) != Verbalizer(lm, words, TEMPLATE, stripped, max_new_tokens=6).explain(VECTORS)


def test_an_answer_ends_where_the_positions_of_the_model_do() -> None:
    found = verbalizer(critic=False)
    found.max_new_tokens = 10_000
    lengths = [len(one.completion_ids) for one in found._answers(torch.as_tensor(VECTORS), 1, 0)]
    positions = max_positions(found.lm) or 0
    assert max(lengths) <= positions - len(encode_prompt(found.tokenizer, found.prompt))


def test_directions_take_a_norm() -> None:
    found = verbalizer()
    direction = VECTORS[0] / np.linalg.norm(VECTORS[0])
    assert (
        found.explain(direction, norm=float(np.linalg.norm(VECTORS[0])))[0].answer
        == found.explain(VECTORS[0])[0].answer
    )


def test_an_answer_without_an_explanation() -> None:
    one = verbalizer(parse=lambda text: None).explain(VECTORS[0], samples=3)[0]
    assert one.text is None and one.score is None


def test_actor_and_critic_from_checkpoints(tmp_path: Path) -> None:
    found = verbalizer()
    checkpoint: dict[str, Any] = {"state_dict": {f"lm.{name}": value for name, value in found.lm.state_dict().items()}}
    store_language_model(checkpoint, found.lm, tokenizer())
    torch.save(checkpoint, tmp_path / "actor.ckpt")
    assert found.critic is not None
    found.critic.save(tmp_path / "critic.ckpt")
    loaded = Verbalizer.load(tmp_path / "actor.ckpt", tmp_path / "critic.ckpt", TEMPLATE, found.parse, 6)
    assert loaded.explain(VECTORS) == found.explain(VECTORS)


def test_what_does_not_fit() -> None:
    found = verbalizer(critic=False)
    for vectors, message in (
        (np.ones((2, 8)), "16 wide"),
        (np.full(16, np.nan), "NaN"),
        (np.ones((1, 1, 16)), "16 wide"),
    ):
        with pytest.raises(UserError, match=message):
            found.explain(vectors)
    with pytest.raises(UserError, match="there is none; give one"):
        found.explain(VECTORS, samples=2)
    with pytest.raises(UserError, match="no critic"):
        found.reconstruct(["a"])
    with pytest.raises(UserError, match="takes no vectors"):
        Verbalizer(tiny_lm(), tokenizer(), TEMPLATE, str)
    with pytest.raises(UserError, match="0 times"):
        Verbalizer(found.lm, tokenizer(), "a", str)
    narrow = Reconstructor(tiny_lm(hidden_size=8), tokenizer(), ReconstructorSettings(layer=1))
    with pytest.raises(UserError, match="8 wide"):
        Verbalizer(found.lm, tokenizer(), TEMPLATE, str, narrow)
