"""What the tests share: a deterministic embedder, our AsyncMemory waited for, and mem0ai if installed."""

from __future__ import annotations

import asyncio
import inspect
import os
import tempfile
import zlib
from functools import wraps
from pathlib import Path
from typing import Any

import pytest

from mem0_memos import AsyncMemory

# Read by mem0 when it is imported.
_HOME = tempfile.TemporaryDirectory(prefix="mem0-")
os.environ.update(MEM0_TELEMETRY="False", MEM0_DIR=_HOME.name)

DIMS = 512
STATEMENTS = "I love green tea. My dog is called Bo. What time is it?"


def embed(texts: list[str]) -> list[list[float]]:
    """Hashed bag of words: the same words, the same vector, in every process."""
    vectors = [[0.0] * DIMS for _ in texts]
    for vector, text in zip(vectors, texts, strict=True):
        for word in text.lower().split():
            vector[zlib.crc32(word.strip(".,!?").encode()) % DIMS] += 1.0
    return vectors


class Blocking:
    """An AsyncMemory whose methods are waited for, so that one suite tests both."""

    def __init__(self, memory: AsyncMemory) -> None:
        self._memory = memory

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._memory, name)
        if not inspect.iscoroutinefunction(method):
            return method

        @wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            return asyncio.run(method(*args, **kwargs))

        return call


def mem0_module() -> Any:
    """mem0ai; the test is skipped where it is not installed."""
    return pytest.importorskip("mem0.memory.main")


def real_mem0(folder: Path) -> Any:
    """mem0ai's own Memory: local qdrant, our embedder, a language model that answers from a fixed list."""
    mem0 = mem0_module()
    embeddings = pytest.importorskip("langchain_core.embeddings")
    pytest.importorskip("qdrant_client")

    class Hashed(embeddings.Embeddings):  # type: ignore[misc, name-defined]
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return embed(texts)

        def embed_query(self, text: str) -> list[float]:
            return embed([text])[0]

    memory = mem0.Memory.from_config(
        {
            "vector_store": {
                "provider": "qdrant",
                "config": {"path": str(folder / "qdrant"), "embedding_model_dims": DIMS},
            },
            "embedder": {"provider": "langchain", "config": {"model": Hashed()}},
            "llm": {"provider": "openai", "config": {"api_key": "none"}},
            "history_db_path": str(folder / "history.db"),
        }
    )
    memory.llm.generate_response = lambda **_: (
        '{"memory": [{"text": "I love green tea."}, {"text": "My dog is called Bo."}]}'
    )
    return memory


def texts(found: dict[str, Any]) -> list[str]:
    """The memories of a result, sorted."""
    return sorted(r["memory"] for r in found["results"])
