"""A conformance suite for LangGraph stores: what each does where the official stores differ from one another.

    python -m langgraph.store.memos.conformance [--async] [--postgres postgresql://…] [STORE ...]

prints a table of InMemoryStore, SqliteStore and MemOSStore (and PostgresStore, with a URL of a scratch database). For
a store of your own:

    for outcome in run(lambda index, ttl: MyStore.from_conn_string(":memory:", index=index, ttl=ttl)):  # a with block
        print(outcome.name, outcome.verdict, outcome.said)

It needs no vault of ours. Checks of TTL wait for some seconds, unless `wait` says how time passes."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import inspect
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast
from uuid import uuid4

from langgraph.store.base import BaseStore, IndexConfig, Item, PutOp, TTLConfig

from langgraph.store.memos import conformance_checks, conformance_search  # they fill CHECKS, in this order
from langgraph.store.memos.conformance_kit import CHECKS, Check, Difference, Subject, Words

__all__ = [
    "Make",
    "Outcome",
    "Wait",
    "conformance_checks",
    "conformance_search",
    "main",
    "names",
    "run",
    "table",
]

_WIDTH = 70  # characters of a cell
_LIFE, _LONG_LIFE = 0.05, 60.0  # minutes that a TTL lasts: where one sleeps, and where nobody waits for it
Opened = AbstractContextManager[BaseStore] | AbstractAsyncContextManager[BaseStore]
Make = Callable[[IndexConfig | None, TTLConfig | None], Opened]
Wait = Callable[[BaseStore, float], None]
Verdict = Literal["as decided", "differs", "cannot"]


@dataclass(frozen=True)
class Outcome:
    """What came of one check.

    Args:
        name: the behaviour that is expected. said: what the store does instead, or why it cannot be asked.
    """

    name: str
    verdict: Verdict
    said: str = ""


def names() -> list[str]:
    """The names of all checks, in order."""
    return [check.name for check in CHECKS]


def run(
    make: Make, *, asynchronous: bool = False, only: Sequence[str] | None = None, wait: Wait | None = None
) -> Iterator[Outcome]:
    """Check a store.

    Args:
        make: called with the `index` and `ttl` configuration (or None) of each check; gives a context manager of an
            empty store, which is entered.
        asynchronous: ask the store through its async methods; `make` is called, and an async context manager entered,
            in an event loop.
        only: the names of the checks to run; None: all.
        wait: lets so many minutes pass for a store, without sleeping: the TTLs are long then; None sleeps.
    """
    for check in CHECKS:
        if only is None or check.name in only:
            yield _outcome(check, make, asynchronous, wait)


def _outcome(check: Check, make: Make, asynchronous: bool, wait: Wait | None) -> Outcome:
    wait, life = (wait, _LONG_LIFE) if wait is not None else (_sleep, _LIFE)
    embedder = Words() if check.index is not None else None
    index: IndexConfig | None = None
    if check.index is not None and embedder is not None:
        index = {**check.index, "embed": embedder}
    with ExitStack() as stack:
        try:
            store, call = _open(stack, make, asynchronous, index, check.configured(life))
        except Exception as err:  # noqa: BLE001 - whatever a store raises
            return Outcome(check.name, "cannot", _line(err))
        if check.ttl is not None and not store.supports_ttl:
            return Outcome(check.name, "cannot", "it has no TTL")
        try:
            check.run(Subject(call, partial(wait, store), life, embedder))
        except Difference as err:
            return Outcome(check.name, "differs", str(err))
        except NotImplementedError as err:
            return Outcome(check.name, "cannot", _line(err))
        except Exception as err:  # noqa: BLE001 - whatever a store raises
            return Outcome(check.name, "differs", _line(err))
    return Outcome(check.name, "as decided")


def _open(
    stack: ExitStack, make: Make, asynchronous: bool, index: IndexConfig | None, ttl: TTLConfig | None
) -> tuple[BaseStore, Callable[..., Any]]:
    """An open store, and what calls its methods: the sync ones, or the async ones in an event loop."""
    if not asynchronous:
        store = stack.enter_context(cast("AbstractContextManager[BaseStore]", make(index, ttl)))
        return store, lambda name, *args, **how: getattr(store, name)(*args, **how)
    runner = stack.enter_context(asyncio.Runner())
    opened = AsyncExitStack()

    async def enter() -> BaseStore:
        manager = make(index, ttl)
        if isinstance(manager, AbstractAsyncContextManager):
            return await opened.enter_async_context(manager)
        return opened.enter_context(manager)

    store = runner.run(enter())
    stack.callback(lambda: runner.run(opened.aclose()))

    def call(name: str, *args: Any, **how: Any) -> Any:
        async def ask() -> Any:
            found = getattr(store, name if name == "sweep_ttl" else f"a{name}")(*args, **how)
            return await found if inspect.isawaitable(found) else found

        return runner.run(ask())

    return store, call


def _sleep(store: BaseStore, minutes: float) -> None:
    time.sleep(60 * minutes)


def _line(err: Exception) -> str:
    said = " ".join(str(err).split())
    return f"{type(err).__name__}: {said}" if said else type(err).__name__


# -- the command ----------------------------------------------------------------------------------------


def table(outcomes: Mapping[str, Sequence[Outcome]]) -> str:
    """The outcomes of several stores side by side, as Markdown: a row a check.

    Args:
        outcomes: by the name of the store, of the same checks.
    """
    stores = list(outcomes)
    lines = [f"| Decided behaviour | {' | '.join(stores)} |", "| --- |" + " --- |" * len(stores)]
    for row in zip(*outcomes.values(), strict=True):
        lines.append(f"| {row[0].name} | {' | '.join(map(_cell, row))} |")
    counts = [
        f"{sum(o.verdict == 'as decided' for o in found)} of {len(found)}" for found in outcomes.values()
    ]
    return "\n".join([*lines, f"| **as decided** | {' | '.join(counts)} |"])


def _cell(outcome: Outcome) -> str:
    said = outcome.said if len(outcome.said) <= _WIDTH else outcome.said[: _WIDTH - 1] + "…"
    said = said.replace("|", "\\|").replace("<", "&lt;")
    return {"as decided": "yes", "differs": said, "cannot": f"(cannot: {said})"}[outcome.verdict]


def main() -> None:
    """Check the stores that the command names, and print the table."""
    options = _options()
    makers = _makers(options.postgres, options.asynchronous)
    unknown = [name for name in options.stores if name not in makers]
    if unknown:
        sys.exit(f"conformance: {unknown[0]} is not available; choose from {', '.join(makers)}")
    chosen = options.stores or list(makers)
    with ThreadPoolExecutor() as threads:  # the checks of TTL mostly wait
        found = threads.map(lambda name: list(run(makers[name], asynchronous=options.asynchronous)), chosen)
        sys.stdout.write(table(dict(zip(chosen, found, strict=True))) + "\n")


def _options() -> argparse.Namespace:
    made = argparse.ArgumentParser(
        prog="python -m langgraph.store.memos.conformance",
        description="What LangGraph stores do where the official ones differ, as a Markdown table.",
    )
    made.add_argument("stores", nargs="*", metavar="STORE", help="e.g. InMemoryStore; all if none is named")
    made.add_argument("--async", dest="asynchronous", action="store_true", help="through the async methods")
    made.add_argument("--postgres", metavar="URL", help="of a scratch database: its tables are emptied")
    return made.parse_args()


def _makers(postgres: str | None, asynchronous: bool) -> dict[str, Make]:
    """What opens each store that is installed, by its name."""
    from langgraph.store.memory import InMemoryStore

    from langgraph.store import memos

    makers: dict[str, Make] = {"InMemoryStore": lambda index, ttl: nullcontext(InMemoryStore(index=index))}
    prefix, prepared = ("Async", _aset_up) if asynchronous else ("", _set_up)
    for module, name, where in (
        ("sqlite.aio", "SqliteStore", ":memory:"),
        ("postgres.aio", "PostgresStore", postgres),
    ):
        official = _official(module, prefix + name)
        if official is not None and where is not None:
            makers[prefix + name] = partial(_conn_string, official, where, prepared)
    ours = getattr(memos, f"{prefix}MemOSStore")
    for name, where in ((ours.__name__, ":memory:"), (f"{ours.__name__}, PostgreSQL", postgres)):
        if where is not None:
            makers[name] = partial(_ours, ours, where)
    return makers


def _official(module: str, name: str) -> Any:
    try:
        package = f"langgraph.store.{module}".removesuffix("" if name.startswith("Async") else ".aio")
        return getattr(importlib.import_module(package), name)
    except ImportError:
        return None


def _conn_string(
    kind: Any, where: str, prepared: Any, index: IndexConfig | None, ttl: TTLConfig | None
) -> Any:
    return prepared(kind.from_conn_string(where, index=index, ttl=ttl))


def _ours(kind: Any, where: str, index: IndexConfig | None, ttl: TTLConfig | None) -> Any:
    without: IndexConfig = {"embed": "none"}
    return kind.from_conn_string(where, index=index or without, ttl=ttl, tenant=uuid4().hex)


@contextmanager
def _set_up(manager: AbstractContextManager[Any]) -> Iterator[BaseStore]:
    """A store as its documentation says it is opened, and emptied."""
    with manager as store:
        store.setup()
        store.batch(_deletions(store.search((), limit=10_000)))
        yield store


@asynccontextmanager
async def _aset_up(manager: AbstractAsyncContextManager[Any]) -> AsyncIterator[BaseStore]:
    async with manager as store:
        await store.setup()
        await store.abatch(_deletions(await store.asearch((), limit=10_000)))
        yield store


def _deletions(found: Sequence[Item]) -> list[PutOp]:
    # What was put into () comes back as in ("",).
    return [PutOp(tuple(filter(None, item.namespace)), item.key, None) for item in found]


if __name__ == "__main__":
    main()
