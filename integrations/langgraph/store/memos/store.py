"""MemOSStore: LangGraph's long-term memory as cubes of a MemOS vault."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from langgraph.store.base import (
    BaseStore,
    GetOp,
    IndexConfig,
    ListNamespacesOp,
    Op,
    PutOp,
    Result,
    SearchOp,
    TTLConfig,
)
from pydantic import BaseModel

from langgraph.store.memos import filters, items
from langgraph.store.memos import ttl as ttls
from langgraph.store.memos.checks import check
from langgraph.store.memos.embed import embedder_of
from langgraph.store.memos.schemas import Schemas
from memos_core.cube import MemCube
from memos_core.errors import InvalidArgument
from memos_core.memos import NOT_MEMORIES, MemOS
from memos_core.vault.items import StoredItem

_Address = tuple[tuple[str, ...], str]
_Schemas = Mapping[tuple[str, ...], type[BaseModel]]


class MemOSStore(BaseStore):
    """LangGraph's store over a MemOS view: an item is a cube of the view's user, with the same namespace and
    key, so what one adapter writes, every other finds. Sync and async methods work on this one class.

    What it does where the official stores differ from one another is listed in `docs/langgraph.md`, and checked by
    `langgraph.store.memos.conformance`.

    Args:
        memos: an open view. It stays yours: closing it is up to you.
        index: only `fields` counts here, the paths whose text is searched; None takes the item's own text
            (see `memos_core.cube.text_of`). The embedder is the vault's.
        ttl: `default_ttl` (minutes), `refresh_on_read` (True if not given), `sweep_interval_minutes`. What has expired
            is never returned, whatever `omit_expired` says.
        schemas: pydantic models of namespaces, e.g. `{("users", "*", "preferences"): Preference}`, where "*" is any
            one label. A value that is no such thing is refused; see `Schemas`.

    Raises:
        InvalidArgument: `memos` is no open MemOS, `index` brings an embedder, or another argument cannot be used.
    """

    supports_ttl = True

    def __init__(
        self,
        memos: MemOS,
        *,
        index: IndexConfig | None = None,
        ttl: TTLConfig | None = None,
        schemas: _Schemas | None = None,
    ) -> None:
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
        self.ttl_config = ttls.check_config(ttl)
        self._fields = _fields_of(index)
        self._schemas = Schemas(memos, schemas)
        self._sweeper = ttls.ThreadSweeper(self._sweep)

    @classmethod
    @contextmanager
    def from_conn_string(
        cls,
        url: str | os.PathLike[str],
        *,
        index: IndexConfig | None = None,
        ttl: TTLConfig | None = None,
        schemas: _Schemas | None = None,
        tenant: str = "default",
        user: str | None = None,
    ) -> Iterator[Self]:
        """Open a vault as a store, and close it at the end of the `with` block.

        Args:
            url: what `MemOS.open` takes: a folder, a `.db` file, `sqlite:///PATH`, `:memory:` or `postgresql://…`.
            index: its `embed` is the vault's embedder (see `embedder_of`), without it `MemOS.open`'s default; `dims`
                is checked; `fields` as for the constructor.
            ttl, schemas: as for the constructor.
            tenant, user: whose memory.

        Raises:
            InvalidArgument, VaultError, VaultNewer: see `MemOS.open`.
        """
        with (
            _open(url, index, tenant, user) as memos,
            cls(memos, index=_own(index), ttl=ttl, schemas=schemas) as store,
        ):
            yield store

    def setup(self) -> None:
        """Nothing is left to do: opening the vault made its tables. For the official stores' sake."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the sweeper. The view of the constructor stays open."""
        self._sweeper.stop(None)

    # -- operations ----------------------------------------------------------------------------------------

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Execute operations. Reads see the state before the batch's puts; of several puts to one address the
        last counts. The puts and deletions are one transaction.

        Returns:
            One result for each operation, in order.

        Raises:
            InvalidNamespaceError: a namespace that no store takes. Nothing is executed then.
            InvalidArgument: another argument that cannot be used; the message names it (of a value, its key, and the
                field that its schema does not accept).
        """
        every = list(ops)
        for op in every:
            check(op)
        cubes, gone = self._changes([op for op in every if isinstance(op, PutOp)])
        used: dict[str, StoredItem] = {}
        got = self._get(op for op in every if isinstance(op, GetOp))
        results: list[Result] = []
        for op in every:
            if isinstance(op, GetOp):
                found = got.get((tuple(op.namespace), op.key))
                results.append(items.to_item(found) if found else None)
                if found and op.refresh_ttl:
                    used[found.id] = found
            elif isinstance(op, SearchOp):
                ranked = self._search(op)
                results.append([items.to_search_item(item, score) for item, score in ranked])
                if op.refresh_ttl:
                    used.update((item.id, item) for item, _ in ranked)
            elif isinstance(op, ListNamespacesOp):
                results.append(self._namespaces(op))
            else:
                results.append(None)
        self.memos.prolong(used.values())
        if cubes or gone:
            doomed = [self.memos.item_ids(namespace, keys) for namespace, keys in _by_namespace(gone)]
            self.memos.put(cubes, delete=[id_ for ids in doomed for id_ in ids])
        return results

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Async form of `batch`: it runs in a worker thread."""
        return await asyncio.to_thread(self.batch, list(ops))

    def _changes(self, ops: list[PutOp]) -> tuple[list[MemCube], list[_Address]]:
        last = {(tuple(op.namespace), op.key): op for op in ops}
        # In the order of the puts that count: a later one is the newer update.
        effective = [op for op in ops if last[tuple(op.namespace), op.key] is op]
        cubes = [self._cube(op) for op in effective if op.value is not None]
        return cubes, [(tuple(op.namespace), op.key) for op in effective if op.value is None]

    def _cube(self, op: PutOp) -> MemCube:
        value = items.stored_value(op)
        typed = self._schemas.typed(tuple(op.namespace), value, items.name_of(op))
        if typed is not None:
            value = typed.model_dump(mode="json", round_trip=True)
        return self.memos.cube(
            value if typed is None else typed,
            text=items.searched_text(op, value, self._fields),
            namespace=op.namespace,
            key=op.key,
            semantic_type=items.ITEM,
            ttl=None if op.ttl is None else _minutes(op.ttl),
        )

    def _get(self, ops: Iterable[GetOp]) -> dict[_Address, StoredItem]:
        return {
            (namespace, key): found
            for namespace, keys in _by_namespace((tuple(op.namespace), op.key) for op in ops)
            for key, found in self.memos.items_at(namespace, keys).items()
        }

    def _search(self, op: SearchOp) -> list[tuple[StoredItem, float | None]]:
        """The items of a page, each with its score."""
        if op.limit == 0:
            return []
        prefix, wanted, end = tuple(op.namespace_prefix), op.filter or {}, op.offset + op.limit
        hidden = () if prefix else NOT_MEMORIES
        found: list[tuple[StoredItem, float | None]] = []
        if op.query and op.query.strip():
            found = self._ranked(op.query, prefix, hidden, wanted, end)
        elif not wanted:
            page = self.memos.newest_items(prefix, not_types=hidden, limit=op.limit, offset=op.offset)
            return [(item, None) for item in page]
        if len(found) < end:
            accept = items.condition(wanted, {item.id for item, _ in found})
            rest = self.memos.items_like(accept, prefix, not_types=hidden, limit=end - len(found))
            found += [(item, None) for item in rest]
        return found[op.offset :]

    def _ranked(
        self, query: str, prefix: tuple[str, ...], hidden: Sequence[str], wanted: Mapping[str, Any], end: int
    ) -> list[tuple[StoredItem, float | None]]:
        def accept(cube: MemCube) -> bool:
            return items.is_searched(cube) and (
                not wanted or filters.accepts(items.value_of(cube.json_data, cube.text), wanted)
            )

        hits = self.memos.search(
            query,
            k=end,
            namespace=prefix,
            not_types=hidden,
            accept=accept,
            shared=False,  # a store's items are those that `get` finds
            valid_at=None,
        )
        return [
            (items.seen_as_item(hit.cube), hit.score if hit.similarity is None else hit.similarity)
            for hit in hits
        ]

    def _namespaces(self, op: ListNamespacesOp) -> list[tuple[str, ...]]:
        conditions = op.match_conditions or ()
        prefixes = [tuple(c.path) for c in conditions if c.match_type == "prefix" and "*" not in c.path]
        asked = any(path[:1] == ("kv",) for path in prefixes)
        found = [
            namespace
            for namespace in self.memos.item_namespaces(max(prefixes, key=len, default=()))
            if (asked or namespace[:1] != ("kv",))
            and all(filters.namespace_matches(namespace, c) for c in conditions)
        ]
        if op.max_depth is not None:
            found = sorted({namespace[: op.max_depth] for namespace in found})
        return found[op.offset : op.offset + op.limit]

    # -- items that expire ---------------------------------------------------------------------------------

    def sweep_ttl(self) -> int:
        """Delete the items whose TTL has passed. (They are not returned any more in any case, and go with the vault's
        own life cycle too.)

        Returns:
            How many went.
        """
        return self.memos.drop_expired([items.ITEM])

    def _sweep(self) -> int | None:
        return None if self.memos.closed else self.sweep_ttl()

    def start_ttl_sweeper(self, sweep_interval_minutes: float | None = None) -> Future[None]:
        """Sweep now and then, in a daemon thread; without `ttl=` nothing is done, as in the official stores.

        Args:
            sweep_interval_minutes: None takes the configuration's, else 5.

        Returns:
            What is done when the sweeper has stopped; cancelling it stops the sweeper.
        """
        if not self.ttl_config:
            future: Future[None] = Future()
            future.set_result(None)
            return future
        return self._sweeper.start(ttls.interval_of(self.ttl_config, sweep_interval_minutes))

    def stop_ttl_sweeper(self, timeout: float | None = None) -> bool:
        """Stop the sweeper.

        Args:
            timeout: seconds to wait for a sweep that is going on; None: as long as it takes.

        Returns:
            Whether it has stopped, or was not running.
        """
        return self._sweeper.stop(timeout)


class AsyncMemOSStore(MemOSStore):
    """`MemOSStore` under the name that async code looks for. Opening, `setup` and the TTL methods are coroutines, as
    in the official async stores; the rest is the same."""

    _task: asyncio.Task[None] | None = None
    _stop: asyncio.Event

    @classmethod
    @asynccontextmanager
    async def from_conn_string(  # type: ignore[override]
        cls,
        url: str | os.PathLike[str],
        *,
        index: IndexConfig | None = None,
        ttl: TTLConfig | None = None,
        schemas: _Schemas | None = None,
        tenant: str = "default",
        user: str | None = None,
    ) -> AsyncIterator[Self]:
        """Async form of `MemOSStore.from_conn_string`, for `async with`."""
        memos = await asyncio.to_thread(_open, url, index, tenant, user)
        try:
            async with cls(memos, index=_own(index), ttl=ttl, schemas=schemas) as store:
                yield store
        finally:
            await asyncio.to_thread(memos.close)

    async def setup(self) -> None:  # type: ignore[override]
        """Nothing is left to do; see `MemOSStore.setup`."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the sweeper. The view of the constructor stays open."""
        await self.stop_ttl_sweeper()

    async def sweep_ttl(self) -> int:  # type: ignore[override]
        """Async form of `MemOSStore.sweep_ttl`."""
        return await asyncio.to_thread(super().sweep_ttl)

    def _sweep(self) -> int | None:
        return None if self.memos.closed else super().sweep_ttl()

    async def start_ttl_sweeper(  # type: ignore[override]
        self, sweep_interval_minutes: float | None = None
    ) -> asyncio.Task[None]:
        """Async form of `MemOSStore.start_ttl_sweeper`: the sweeper is a task, which is returned."""
        if not self.ttl_config:
            return asyncio.create_task(asyncio.sleep(0))
        if self._task is None or self._task.done() or self._stop.is_set():
            seconds = ttls.interval_of(self.ttl_config, sweep_interval_minutes)
            self._stop = asyncio.Event()
            self._task = asyncio.create_task(ttls.sweep_forever(self._sweep, seconds, self._stop))
        return self._task

    async def stop_ttl_sweeper(self, timeout: float | None = None) -> bool:  # type: ignore[override]
        """Async form of `MemOSStore.stop_ttl_sweeper`."""
        if self._task is None or self._task.done():
            return True
        self._stop.set()
        done, _ = await asyncio.wait([self._task], timeout=timeout)
        return bool(done)


def _open(url: str | os.PathLike[str], index: IndexConfig | None, tenant: str, user: str | None) -> MemOS:
    return MemOS.open(url, tenant=tenant, user=user, embedder=embedder_of(index))


def _own(index: IndexConfig | None) -> IndexConfig | None:
    """What of an index configuration is the store's, not the vault's."""
    return IndexConfig(fields=index.get("fields")) if index else None


def _by_namespace(addresses: Iterable[_Address]) -> list[tuple[tuple[str, ...], list[str]]]:
    """Each namespace with the keys in it, each key once."""
    keys: dict[tuple[str, ...], dict[str, None]] = {}
    for namespace, key in addresses:
        keys.setdefault(namespace, {})[key] = None
    return [(namespace, list(some)) for namespace, some in keys.items()]


def _fields_of(index: IndexConfig | None) -> list[str] | None:
    fields = (index or {}).get("fields")
    if fields is not None and (
        not isinstance(fields, list | tuple) or not all(isinstance(path, str) and path for path in fields)
    ):
        raise InvalidArgument(f"index: fields must be a list of paths, or None, got {fields!r:.80}")
    return None if fields is None else list(fields)


def _minutes(number: float) -> timedelta:
    try:
        return timedelta(minutes=number)
    except OverflowError:
        raise InvalidArgument(f"ttl of {number} minutes is too long, leave it out instead") from None
