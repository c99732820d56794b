"""Activations on disk: what was written is read, row by row, and damage is said."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from lit_narrative.errors import UserError
from lit_narrative.sae.activation_file import ActivationFile, write_activations
from lit_narrative.views import Activation


def rows(count: int, targets: bool = False) -> list[Activation]:
    draw = np.random.default_rng(0)
    vectors, aims = draw.standard_normal((count, 5), np.float32), draw.standard_normal((count, 3), np.float32)
    return [Activation(vectors[n], n // 4, n % 4, aims[n] if targets else None) for n in range(count)]


@pytest.mark.parametrize("targets", [False, True])
def test_rows_come_back(targets: bool, tmp_path: Path) -> None:
    given = rows(11, targets)
    file = write_activations(tmp_path / "kept", iter(given), {"hook": "here"})
    for found in (file, ActivationFile(tmp_path / "kept"), pickle.loads(pickle.dumps(file))):  # as workers get it
        assert len(found) == 11
        for one, other in zip(found, given, strict=True):
            assert np.array_equal(one.vector, other.vector) and one.vector.dtype == np.float32
            assert (one.text, one.position) == (other.text, other.position)
            assert np.array_equal(one.target, other.target) if targets else one.target is None
    assert np.array_equal(file[-1].vector, given[-1].vector)
    with pytest.raises(IndexError):
        file[11]


def test_a_writing_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> object:
        yield from rows(3)
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        write_activations(tmp_path / "kept", broken(), {})  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="there are no activations to keep"):
        write_activations(tmp_path / "kept", [], {})


def test_damage_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    write_activations(folder, rows(4), {})
    (folder / "vectors.f32").write_bytes((folder / "vectors.f32").read_bytes()[:-4])
    with pytest.raises(UserError, match=r"damaged: vectors.f32 has 76 bytes, 4 rows of 5 numbers have 80; remove"):
        ActivationFile(folder)
    (folder / "about.json").write_text("{}")
    with pytest.raises(UserError, match=r"cannot be read .*width.*; remove the folder"):
        ActivationFile(folder)
