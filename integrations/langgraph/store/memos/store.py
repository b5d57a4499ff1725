"""MemOSStore: LangGraph's long-term memory as cubes of a MemOS vault."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Any, Self

from langgraph.store.base import (
    BaseStore,
    GetOp,
    IndexConfig,
    InvalidNamespaceError,
    Item,
    ListNamespacesOp,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
    validate_op_namespace,
)

from langgraph.store.memos import filters, items
from memos_core.cube import MemCube
from memos_core.errors import InvalidArgument
from memos_core.memos import NOT_MEMORIES, MemOS

_PAGE = 200


class MemOSStore(BaseStore):
    """LangGraph's store over a MemOS view: an item is a cube of the view's user, with the same namespace and
    key, so what one adapter writes, every other finds. Sync and async methods work on this one class.

    Where the official stores differ from one another, this one does:

    - `search` with a query is the vault's own retrieval, by meaning (where the vault has an embedder) and by
      words. `score` is the cosine similarity where the item was found by meaning, else the fused score from 0
      to 1; the order is that of the fused score. Items that the query did not find (`index=False`, nothing in
      the indexed fields, or no common word in a vault without embedder) follow behind, newest update first,
      with score None; so paging through the results reaches every item once.
    - `search` without a query returns the newest update first. See `filters.accepts` for filters.
    - An empty prefix leaves out conversations and KV records (cubes of the semantic types "message" and
      "kv"); name their namespace to see them: `search(("messages",))`. `list_namespaces` shows what is below
      "kv" only if a prefix asks for it.
    - A cube that another adapter wrote shows its JSON, or `{"text": …}` where it has none.
    - Values are JSON: what JSON cannot hold is refused. `created_at` stays when an item is put again.
    - `fields` and `index=[…]` choose the text of an item; it is embedded as one text, not field by field.
    - TTL: not supported by `put`, because reads do not extend it. A `PutOp` with `ttl` in a batch lives for
      that many minutes from the write on.

    Args:
        memos: an open view. It stays yours: closing it is up to you.
        index: only `fields` counts here, the paths whose text is searched; None takes the item's own text
            (see `memos_core.cube.text_of`). The embedder is the vault's.

    Raises:
        InvalidArgument: `memos` is no open MemOS, or `index` brings an embedder.
    """

    supports_ttl = False

    def __init__(self, memos: MemOS, *, index: IndexConfig | None = None) -> None:
        if not isinstance(memos, MemOS):
            name = type(self).__name__
            raise InvalidArgument(
                f"memos must be an open MemOS, got {memos!r}; for a URL use {name}.from_conn_string"
            )
        if index and index.get("embed") is not None:
            raise InvalidArgument(
                "index: an open MemOS has its embedder already; pass it to MemOS.open(embedder=…)"
            )
        self.memos = memos
        self.index_config = index
        self._fields = (index or {}).get("fields")

    @classmethod
    @contextmanager
    def from_conn_string(
        cls,
        url: str | os.PathLike[str],
        *,
        index: IndexConfig | None = None,
        tenant: str = "default",
        user: str | None = None,
    ) -> Iterator[Self]:
        """Open a vault as a store, and close it at the end of the `with` block.

        Args:
            url: what `MemOS.open` takes: a folder, a `.db` file, `sqlite:///PATH` or `:memory:`.
            index: its `embed` is the vault's embedder, see `MemOS.open`; without it, that function's default.
            tenant, user: whose memory.

        Raises:
            InvalidArgument, VaultError, VaultNewer: see `MemOS.open`.
        """
        memos, fields = _open(url, index, tenant, user)
        with memos:
            yield cls(memos, index=fields)

    def setup(self) -> None:
        """Nothing is left to do: opening the vault made its tables. For the official stores' sake."""

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Execute operations. Reads see the state before the batch's puts; of several puts to one address the
        last counts. The puts are one transaction, and so are the deletions.

        Returns:
            One result for each operation, in order.

        Raises:
            InvalidNamespaceError: a namespace that no store takes. Nothing is executed then.
            InvalidArgument: another argument that cannot be used; the message names it (of a value, its key).
        """
        every = list(ops)
        for op in every:
            _check(op)
        cubes, deletions = self._changes([op for op in every if isinstance(op, PutOp)])
        results: list[Result] = []
        for op in every:
            if isinstance(op, GetOp):
                results.append(self._get(op))
            elif isinstance(op, SearchOp):
                results.append(self._search(op))
            elif isinstance(op, ListNamespacesOp):
                results.append(self._namespaces(op))
            else:
                results.append(None)
        doomed = [found.id for op in deletions if (found := self.memos.at(op.namespace, op.key))]
        if doomed:
            self.memos.delete(doomed)
        if cubes:
            self.memos.put(cubes)
        return results

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Async form of `batch`: it runs in a worker thread."""
        return await asyncio.to_thread(self.batch, list(ops))

    def _changes(self, ops: list[PutOp]) -> tuple[list[MemCube], list[PutOp]]:
        last = {(tuple(op.namespace), op.key): op for op in ops}
        # In the order of the puts that count: a later one is the newer update.
        effective = [op for op in ops if last[tuple(op.namespace), op.key] is op]
        cubes = [self._cube(op) for op in effective if op.value is not None]
        return cubes, [op for op in effective if op.value is None]

    def _cube(self, op: PutOp) -> MemCube:
        value = items.stored_value(op)
        return self.memos.cube(
            value,
            text=items.searched_text(op, value, self._fields),
            namespace=op.namespace,
            key=op.key,
            semantic_type=items.ITEM,
            ttl=None if op.ttl is None else timedelta(minutes=op.ttl),
        )

    def _get(self, op: GetOp) -> Item | None:
        found = self.memos.at(op.namespace, op.key)
        return items.to_item(found) if found else None

    def _search(self, op: SearchOp) -> list[SearchItem]:
        if op.limit == 0:
            return []
        end = op.offset + op.limit
        wanted = op.filter or {}

        def accept(cube: MemCube) -> bool:
            return not wanted or filters.accepts(items.value_of(cube), wanted)

        hidden = () if op.namespace_prefix else NOT_MEMORIES
        found: list[SearchItem] = []
        seen: set[str] = set()
        if op.query:
            hits = self.memos.search(
                op.query,
                k=end,
                namespace=op.namespace_prefix,
                not_types=hidden,
                accept=lambda cube: items.is_searched(cube) and accept(cube),
                shared=False,  # a store's items are those that `get` finds
                valid_at=None,
            )
            for hit in hits:
                score = hit.score if hit.similarity is None else hit.similarity
                found.append(items.to_search_item(hit.cube, score))
            seen = {hit.cube.id for hit in hits}
        for cube in self._newest(op.namespace_prefix, hidden):
            if len(found) >= end:
                break
            if cube.id not in seen and accept(cube):
                found.append(items.to_search_item(cube))
                seen.add(cube.id)
        return found[op.offset : end]

    def _newest(self, prefix: tuple[str, ...], hidden: tuple[str, ...]) -> Iterator[MemCube]:
        kinds = None if prefix else ("plaintext",)
        offset = 0
        while True:
            page = self.memos.find(
                namespace=prefix, not_types=hidden, kinds=kinds, order="-updated", limit=_PAGE, offset=offset
            )
            yield from page
            if len(page) < _PAGE:
                return
            offset += _PAGE

    def _namespaces(self, op: ListNamespacesOp) -> list[tuple[str, ...]]:
        conditions = op.match_conditions or ()
        asked = any(c.match_type == "prefix" and c.path[:1] == ("kv",) for c in conditions)
        found = [
            namespace
            for namespace in self.memos.namespaces()
            if (asked or namespace[:1] != ("kv",))
            and all(filters.namespace_matches(namespace, c) for c in conditions)
        ]
        if op.max_depth is not None:
            found = sorted({namespace[: op.max_depth] for namespace in found})
        return found[op.offset : op.offset + op.limit]


class AsyncMemOSStore(MemOSStore):
    """`MemOSStore` under the name that async code looks for; only opening and `setup` differ."""

    @classmethod
    @asynccontextmanager
    async def from_conn_string(  # type: ignore[override]
        cls,
        url: str | os.PathLike[str],
        *,
        index: IndexConfig | None = None,
        tenant: str = "default",
        user: str | None = None,
    ) -> AsyncIterator[Self]:
        """Async form of `MemOSStore.from_conn_string`, for `async with`."""
        memos, fields = await asyncio.to_thread(_open, url, index, tenant, user)
        try:
            yield cls(memos, index=fields)
        finally:
            await asyncio.to_thread(memos.close)

    async def setup(self) -> None:  # type: ignore[override]
        """Nothing is left to do; see `MemOSStore.setup`."""


def _open(
    url: str | os.PathLike[str], index: IndexConfig | None, tenant: str, user: str | None
) -> tuple[MemOS, IndexConfig | None]:
    embed: Any = (index or {}).get("embed")
    memos = MemOS.open(url, tenant=tenant, user=user, embedder="auto" if embed is None else embed)
    return memos, IndexConfig(fields=index.get("fields")) if index else None


def _check(op: Op) -> None:
    """Refuse what no operation can be done with.

    Raises:
        InvalidNamespaceError, InvalidArgument: see `MemOSStore.batch`.
    """
    for namespace in (getattr(op, "namespace", ()), getattr(op, "namespace_prefix", ())):
        if isinstance(namespace, str):
            raise InvalidNamespaceError(f"A namespace is a tuple of labels, got the string {namespace!r}")
    validate_op_namespace(op)
    if isinstance(op, PutOp | GetOp):
        if not isinstance(op.key, str) or not op.key or not _is_text(op.key):
            raise InvalidArgument(f"key must be a non-empty string of valid Unicode, got {op.key!r}")
        if isinstance(op, PutOp) and op.value is not None:
            if not op.namespace:
                raise InvalidNamespaceError("Namespace cannot be empty.")
            if op.namespace[0] == "langgraph":
                raise InvalidNamespaceError(
                    f'Root label for namespace cannot be "langgraph". Got: {op.namespace}'
                )
            if not all(map(_is_text, op.namespace)):
                raise InvalidNamespaceError(f"Namespace labels must be valid Unicode, got {op.namespace!r}")
    elif isinstance(op, SearchOp | ListNamespacesOp):
        if op.limit < 0 or op.offset < 0:
            raise InvalidArgument(f"limit and offset must be 0 or more, got {op.limit} and {op.offset}")
        if isinstance(op, SearchOp) and op.filter:
            filters.check_filter(op.filter)
        if isinstance(op, ListNamespacesOp):
            for condition in op.match_conditions or ():
                filters.check_condition(condition)
    else:
        raise InvalidArgument(
            f"unknown operation {type(op).__name__}; use GetOp, PutOp, SearchOp or ListNamespacesOp"
        )


def _is_text(text: str) -> bool:
    return not any("\ud800" <= ch <= "\udfff" for ch in text)
