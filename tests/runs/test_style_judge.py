"""A judge of style on real books: it knows held-out chunks of their authors better than counting does."""

from pathlib import Path

import pytest

from lit_narrative.books.shelf import read_shelf
from lit_narrative.datamodules.style import StyleData
from lit_narrative.lm.sentence_encoder import StaticEncoder
from lit_narrative.modules.similarity import SimilarityModule
from lit_narrative.tasks.style.chunks import ChunkWords
from tests.books.test_clean import BOOKS, real
from tests.helpers import fit

pytestmark = pytest.mark.slow


@real
def test_a_judge_of_real_books_is_fit(tmp_path: Path) -> None:
    assert len(read_shelf(BOOKS)) >= 9
    data = StyleData(
        books=str(BOOKS), split_by="book", chunk_words=ChunkWords(300), pair_size=1000, val_size=50, batch_size=32
    )
    module = SimilarityModule(StaticEncoder(64, 4096), lr=3e-3)
    fit(module, data, tmp_path, max_epochs=3)
    found = data.examine_judge(lambda texts, others: module.model.similarity(texts, others).numpy())
    assert found["fit"], found["why"]
    figures = found["sets"]["books"]
    assert figures["authors"] >= 6
    assert figures["judge"]["auroc_masked"] > 0.9
    assert figures["judge"]["auroc"] > 0.9
    for baseline in ("delta", "function_words", "length"):
        assert figures[baseline]["judge_above_masked_ci"][0] > 0
