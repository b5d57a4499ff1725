"""From LangGraph's `IndexConfig` to an embedder of the vault."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from typing import Any

from langgraph.store.base import IndexConfig, ensure_embeddings

from memos_core.errors import InvalidArgument
from memos_core.retrieval import Embedder, resolve
from memos_core.retrieval.embedder import Matrix


def embedder_of(index: IndexConfig | None) -> Any:
    """What `MemOS.open(embedder=…)` takes, for an index configuration.

    Args:
        index: `embed` may be a function, an async function, an `Embeddings` object, "provider:model" as LangChain's
            `init_embeddings` takes it, or the name or folder of a sentence-transformers model. `dims` is checked
            when the first text is embedded.

    Raises:
        InvalidArgument: `embed` or `dims` cannot be used.
    """
    embed: Any = (index or {}).get("embed")
    dims: Any = (index or {}).get("dims")
    if dims is not None and (isinstance(dims, bool) or not isinstance(dims, int) or dims < 1):
        raise InvalidArgument(f"index: dims must be a whole number above 0, got {dims!r:.80}")
    if embed is None:
        return "auto"
    if isinstance(embed, str) and ":" in embed:
        try:
            embed = ensure_embeddings(embed)
        except (ImportError, ValueError) as err:
            raise InvalidArgument(f"index: embed={embed!r} cannot be used: {err}") from None
    found = resolve(_Waiting(embed) if _is_async(embed) else embed)
    return found if dims is None or found is None else _OfDims(found, dims)


class _OfDims:
    """An embedder whose vectors must have a given length."""

    def __init__(self, embedder: Embedder, dims: int) -> None:
        self.name = embedder.name
        self._embedder, self._dims = embedder, dims

    def embed_documents(self, texts: Sequence[str]) -> Matrix:
        """See `Embedder`."""
        vectors = self._embedder.embed_documents(texts)
        self._check(vectors.shape[1])
        return vectors

    def embed_query(self, text: str) -> Matrix:
        """See `Embedder`."""
        vector = self._embedder.embed_query(text)
        self._check(len(vector))
        return vector

    def _check(self, found: int) -> None:
        if found != self._dims:
            raise InvalidArgument(
                f"index: dims is {self._dims}, but the embedder makes vectors of {found} numbers; pass dims={found}"
            )


class _Waiting:
    """An async embedding function, for code that is not async: it runs on an event loop of its own, always the
    same, because clients belong to the loop they were first used on."""

    def __init__(self, function: Callable[[list[str]], Awaitable[Any]]) -> None:
        self._function = function
        home = function if hasattr(function, "__qualname__") else type(function)
        self.model = f"{home.__module__}.{home.__qualname__}"

    def embed_documents(self, texts: list[str]) -> Any:
        """Vectors of texts."""

        async def ask() -> Any:
            return await self._function(texts)

        return asyncio.run_coroutine_threadsafe(ask(), _loop()).result()


@cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="memos-embed", daemon=True).start()
    return loop


def _is_async(embed: Any) -> bool:
    return asyncio.iscoroutinefunction(embed) or asyncio.iscoroutinefunction(getattr(embed, "__call__", None))  # noqa: B004
