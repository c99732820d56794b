"""A model as a folder, and servers of it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers import tiny_lm, tokenizer
from tests.rl.served.server import InferenceServer

Serve = Callable[..., InferenceServer]


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy, and no waiting."""
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr("lit_narrative.rl.served.client.FIRST_PAUSE", 0.01)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with choices that are not even, and its tokenizer."""
    folder = tmp_path_factory.mktemp("base")
    tiny_lm(scale=4.0).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def serve(base: Path) -> Iterator[Serve]:
    """Starts servers, of ``base`` unless another folder is given."""
    servers: list[InferenceServer] = []

    def start(engine: str = "vllm", folder: Path = base, **options: object) -> InferenceServer:
        servers.append(InferenceServer(engine, folder, **options))  # type: ignore[arg-type]
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
