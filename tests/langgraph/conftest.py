"""Shared by the tests of the LangGraph adapters: an embedder without a model, vaults, checkpoints."""

from __future__ import annotations

import os
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.base import Checkpoint
from langgraph.checkpoint.base.id import uuid6
from langgraph.store.base import IndexConfig

from langgraph.checkpoint.memos import MemOSSaver
from memos_core.memos import MemOS

ROOT = Path(__file__).parents[2]
DIMS = 64


def bag_of_words(texts: Sequence[str]) -> list[list[float]]:
    """Texts that share words are near one another: each word counts in the dimension its hash names."""
    vectors = []
    for text in texts:
        vector = [0.0] * DIMS
        for word in text.lower().split():
            vector[zlib.crc32(word.strip(".,?!").encode()) % DIMS] += 1.0
        vectors.append(vector)
    return vectors


@pytest.fixture
def vault(tmp_path: Path) -> Path:
    """Where a vault may be made."""
    return tmp_path / "vault"


@pytest.fixture
def index() -> IndexConfig:
    """The embedder, as LangGraph's stores are given it."""
    return {"dims": DIMS, "embed": bag_of_words}


@pytest.fixture
def memos(vault: Path) -> Iterator[MemOS]:
    """An open vault in a file, with the embedder."""
    with MemOS.open(vault, embedder=bag_of_words, index="exact") as opened:
        yield opened


@pytest.fixture
def saver(memos: MemOS) -> MemOSSaver:
    """A saver over `memos`."""
    return MemOSSaver(memos)


@pytest.fixture
def environment() -> dict[str, str]:
    """For a Python subprocess that finds our packages."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "integrations"), *sys.path])}


@pytest.fixture
def make() -> Callable[..., Checkpoint]:
    """Makes a checkpoint by hand: `make(messages=…)` has these channel values, each at version 1 unless
    `versions` says otherwise."""
    count = 0

    def checkpoint(versions: dict[str, Any] | None = None, **values: Any) -> Checkpoint:
        nonlocal count
        count += 1
        return {
            "v": 4,
            "id": str(uuid6(clock_seq=count)),
            "ts": "2026-11-22T12:00:00+00:00",
            "channel_values": values,
            "channel_versions": versions if versions is not None else dict.fromkeys(values, "1"),
            "versions_seen": {},
            "updated_channels": None,
        }

    return checkpoint
