"""Fixtures for all tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support import bag_of_words

from memos_core import MemOS


@pytest.fixture
def memos(tmp_path: Path) -> Iterator[MemOS]:
    """The operator's view of a fresh vault, searched by words and by `bag_of_words`."""
    with MemOS.open(tmp_path / "vault", embedder=bag_of_words, index="exact") as opened:
        yield opened
