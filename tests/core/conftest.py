"""The behaviour suite of the core runs on every back end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support import bag_of_words

from memos_core import MemOS


@pytest.fixture
def memos(vault_url: str) -> Iterator[MemOS]:
    """The operator's view of a fresh vault on each back end."""
    with MemOS.open(vault_url, embedder=bag_of_words, index="exact") as opened:
        yield opened
