"""Fixtures for the LangChain tests: a vault on disk with an embedder that needs no model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import bag_of_words

from memos_core.memos import MemOS


@pytest.fixture
def open_memos(tmp_path: Path) -> Iterator[Callable[[], MemOS]]:
    """Opens this test's vault; each call is an independent opening, as after a restart."""
    opened: list[MemOS] = []

    def open_() -> MemOS:
        opened.append(MemOS.open(tmp_path / "vault", embedder=bag_of_words))
        return opened[-1]

    yield open_
    for memos in opened:
        memos.close()


@pytest.fixture
def memos(open_memos: Callable[[], MemOS]) -> MemOS:
    """An open vault."""
    return open_memos()
