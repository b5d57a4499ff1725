"""Fixtures for the LlamaIndex tests: a vault on disk with an embedder that needs no model."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llama_index.memory.memos import close_reopened
from memos_core.memos import MemOS


def embed(texts: list[str]) -> list[list[float]]:
    """Hashed bag of words: texts that share words are near, always in the same way."""
    vectors = []
    for text in texts:
        vector = [1e-6] * 128
        for word in re.findall(r"\w+", text.lower()):
            vector[zlib.crc32(word.encode()) % 128] += 1.0
        vectors.append(vector)
    return vectors


@pytest.fixture
def open_memos(tmp_path: Path) -> Iterator[Callable[[], MemOS]]:
    """Opens this test's vault; each call is an independent opening, as after a restart."""
    opened: list[MemOS] = []

    def open_() -> MemOS:
        opened.append(MemOS.open(tmp_path / "vault", embedder=embed))
        return opened[-1]

    yield open_
    close_reopened()
    for memos in opened:
        memos.close()


@pytest.fixture
def memos(open_memos: Callable[[], MemOS]) -> MemOS:
    """An open vault."""
    return open_memos()
