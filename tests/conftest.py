"""Fixtures for all tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import postgres
import pytest
from support import bag_of_words

from memos_core import MemOS

if TYPE_CHECKING:
    from memos_core.activation import LoadedModel


@pytest.fixture
def memos(tmp_path: Path) -> Iterator[MemOS]:
    """The operator's view of a fresh vault, searched by words and by `bag_of_words`."""
    with MemOS.open(tmp_path / "vault", embedder=bag_of_words, index="exact") as opened:
        yield opened


@pytest.fixture(scope="session")
def loaded() -> LoadedModel:
    """A tiny random Llama, read and never changed."""
    from activation.tiny import make_model, make_tokenizer  # torch, for those who ask

    from memos_core.activation import LoadedModel

    tokenizer = make_tokenizer()
    return LoadedModel(make_model(len(tokenizer)), tokenizer, "tiny")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres.Server]:
    """The session's PostgreSQL server; tests that need one are skipped where none can run."""
    try:
        server = postgres.start_server()
    except postgres.CannotRun as err:
        if postgres.OWN:
            raise
        pytest.skip(f"no PostgreSQL: {err}")
    yield server
    server.close()


@pytest.fixture
def postgres_url(postgres_server: postgres.Server) -> Iterator[str]:
    """The URL of an empty PostgreSQL database with the extension `vector`."""
    url = postgres_server.new_database()
    yield url
    postgres_server.take_back(url)


@pytest.fixture(params=["sqlite", "postgres"])
def vault_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """What `MemOS.open` is given for a fresh vault, on each back end."""
    if request.param == "sqlite":
        return str(tmp_path / "vault")
    return str(request.getfixturevalue("postgres_url"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest comes first: of several workers, none is left alone with it at the end."""
    items.sort(key=lambda item: item.get_closest_marker("model") is None)
