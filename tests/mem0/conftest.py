"""Fixtures: a vault in memory, our Memory over it, and one black box: ours, ours in async, and mem0ai."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mem0_kit import Blocking, embed, real_mem0

from mem0_memos import AsyncMemory, Memory
from memos_core.memos import MemOS


@pytest.fixture
def memos() -> Iterator[MemOS]:
    with MemOS.open(":memory:", embedder=embed) as opened:
        yield opened


@pytest.fixture
def memory(memos: MemOS) -> Memory:
    return Memory(memos)


@pytest.fixture(params=["ours", "ours-async", "mem0"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """The same black box three times."""
    if request.param == "mem0":
        theirs = real_mem0(tmp_path)
        yield theirs
        theirs.vector_store.client.close()
        theirs.close()
        return
    with MemOS.open(tmp_path / "vault", embedder=embed) as opened:
        yield Memory(opened) if request.param == "ours" else Blocking(AsyncMemory(opened))
