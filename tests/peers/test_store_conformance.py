"""The store conformance suite that we publish: on our store, on stores that are broken on purpose, on the official
ones."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from langgraph.store.base import BaseStore, GetOp, IndexConfig, PutOp, SearchOp, TTLConfig
from langgraph.store.memory import InMemoryStore
from langgraph.store.sqlite import SqliteStore
from sqlalchemy import update

from langgraph.store.memos import AsyncMemOSStore, MemOSStore, conformance
from langgraph.store.memos.conformance import CHECKS, Outcome, run
from memos_core.vault import tables as t

PAGE = Path(__file__).parents[2] / "docs" / "langgraph.md"
NO_TTL = [check.name for check in CHECKS if check.ttl is None]


def pass_time(store: BaseStore, minutes: float) -> None:
    """Nobody waits: what expires does so earlier."""
    assert isinstance(store, MemOSStore)
    store.memos.scheduler.wait_idle()
    with store.memos.vault.db.write() as conn:
        conn.execute(update(t.cubes).values(expires_at=t.cubes.c.expires_at - round(minutes * 60e6)))


def ours(kind: Any, url: str) -> conformance.Make:
    """Opens an empty store of this class: of a tenant of its own."""

    def make(index: IndexConfig | None, ttl: TTLConfig | None) -> Any:
        return kind.from_conn_string(url, index=index or {"embed": "none"}, ttl=ttl, tenant=uuid4().hex)

    return make


@pytest.mark.parametrize("kind", [MemOSStore, AsyncMemOSStore])
def test_our_store_does_what_was_decided(vault_url: str, kind: type[MemOSStore]) -> None:
    outcomes = list(run(ours(kind, vault_url), asynchronous=kind is AsyncMemOSStore, wait=pass_time))
    assert [o for o in outcomes if o.verdict != "as decided"] == []
    assert len(outcomes) == len(CHECKS) == len(set(conformance.names()))


def test_our_sync_class_does_the_same_through_its_async_methods(tmp_path: Path) -> None:
    make = ours(MemOSStore, str(tmp_path / "vault"))
    outcomes = list(run(make, asynchronous=True, wait=pass_time))
    assert [o for o in outcomes if o.verdict != "as decided"] == []


# -- the suite notices ----------------------------------------------------------------------------------


class Broken(MemOSStore):
    """A store with one fault, for the suite to find."""

    def batch(self, ops: Iterable[Any]) -> list[Any]:
        return super().batch([self.asked(op) for op in ops])

    def asked(self, op: Any) -> Any:
        return op


class PutsFirst(Broken):
    def batch(self, ops: Iterable[Any]) -> list[Any]:
        every = list(ops)
        MemOSStore.batch(self, [op for op in every if isinstance(op, PutOp)])
        return MemOSStore.batch(self, [GetOp(("x",), "x") if isinstance(op, PutOp) else op for op in every])


class FirstPutCounts(Broken):
    def batch(self, ops: Iterable[Any]) -> list[Any]:
        return super().batch(reversed(list(ops)))[::-1]


class NoOffset(Broken):
    def asked(self, op: Any) -> Any:
        return op._replace(offset=0) if isinstance(op, SearchOp) else op


class AtLeastOne(Broken):
    def asked(self, op: Any) -> Any:
        return op._replace(limit=max(1, op.limit)) if isinstance(op, SearchOp) else op


class AlwaysIndexed(Broken):
    def asked(self, op: Any) -> Any:
        return op._replace(index=None) if isinstance(op, PutOp) else op


class NeverIndexed(Broken):
    def asked(self, op: Any) -> Any:
        return op._replace(index=False) if isinstance(op, PutOp) else op


class NoNul(Broken):
    def asked(self, op: Any) -> Any:
        if isinstance(op, PutOp) and op.value and "text" in op.value:
            return op._replace(value={"text": str(op.value["text"]).replace("\x00", "")})
        return op


class Floats(Broken):
    def asked(self, op: Any) -> Any:
        if isinstance(op, PutOp) and op.value and "n" in op.value and isinstance(op.value["n"], int):
            return op._replace(value={**op.value, "n": float(op.value["n"])})
        return op


class WideFilter(Broken):
    def asked(self, op: Any) -> Any:
        return op._replace(filter=None) if isinstance(op, SearchOp) else op


class WidePrefix(Broken):
    def asked(self, op: Any) -> Any:
        return op._replace(namespace_prefix=()) if isinstance(op, SearchOp) else op


class NoTTL(Broken):
    def asked(self, op: Any) -> Any:
        return op._replace(ttl=None) if isinstance(op, PutOp) else op


class NoRefresh(Broken):
    def asked(self, op: Any) -> Any:
        return op._replace(refresh_ttl=False) if isinstance(op, GetOp | SearchOp) else op


class AlwaysRefreshes(Broken):
    def asked(self, op: Any) -> Any:
        return op._replace(refresh_ttl=True) if isinstance(op, GetOp | SearchOp) else op


class NoSweep(Broken):
    def sweep_ttl(self) -> int:
        return 0


@pytest.mark.parametrize(
    ("broken", "notices"),
    [
        (PutsFirst, "reads of a batch see what was there before its puts"),
        (FirstPutCounts, "of several puts to one address in a batch the last one counts"),
        (NoOffset, "pages reach every item once"),
        (NoOffset, "pages of a query reach every item once"),
        (AtLeastOne, "`limit=0` finds nothing"),
        (AlwaysIndexed, "`index=False` after an indexed put takes the item out of the index"),
        (AlwaysIndexed, "items without a vector follow those that were found"),
        (AlwaysIndexed, "an item that was deleted and put again without an index has no vector"),
        (NeverIndexed, "a query ranks by meaning, with scores"),
        (NoNul, "a NUL character in a value is kept or refused clearly"),
        (Floats, "an integer beyond 64 bits is kept or refused clearly"),
        (Floats, "1 is 1.0, and large integers are compared exactly"),
        (WideFilter, "several operators on one key all count"),
        (WideFilter, "`{'k': None}` matches null and a missing key"),
        (WideFilter, "a list in a filter matches an equal list"),
        (WideFilter, "a filter applies before the limit of a query"),
        (WidePrefix, "a prefix is made of whole labels, and is compared letter by letter"),
        (NoTTL, "an item that has expired is not returned, before any sweep"),
        (NoTTL, "`default_ttl` applies to `put`, and `ttl=None` overrides it"),
        (NoRefresh, "`get` extends the life of an item, if `refresh_on_read` is not given"),
        (NoRefresh, "`search` extends the lives of what it returns"),
        (NoRefresh, "`refresh_ttl=True` extends in spite of `refresh_on_read=False`"),
        (AlwaysRefreshes, "`refresh_ttl=False` extends nothing"),
        (NoSweep, "the sweep deletes what has expired, and says how much"),
    ],
)
def test_a_fault_is_noticed(tmp_path: Path, broken: type[Broken], notices: str) -> None:
    [outcome] = run(ours(broken, str(tmp_path / "vault")), only=[notices], wait=pass_time)
    assert outcome.verdict == "differs"
    assert outcome.said


# -- the official stores --------------------------------------------------------------------------------


def in_memory(index: IndexConfig | None, ttl: TTLConfig | None) -> Any:
    return nullcontext(InMemoryStore(index=index))


def sqlite(index: IndexConfig | None, ttl: TTLConfig | None) -> Any:
    if index is not None:  # sqlite-vec: extensions are not in every build of Python
        raise RuntimeError("no index in this test")
    return SqliteStore.from_conn_string(":memory:", ttl=ttl)


def documented() -> dict[str, list[str]]:
    """The rows of the table in the documentation, by check: InMemoryStore, SqliteStore, PostgresStore and ours."""
    cell = r" (.+?) \|"
    rows = re.findall(rf"^\|{4 * cell} (yes) \|$", PAGE.read_text(), re.MULTILINE)
    return {name: [*cells] for name, *cells in rows}


def test_the_page_has_the_table_of_all_checks() -> None:
    assert list(documented()) == conformance.names()


@pytest.mark.parametrize(("column", "make"), [(0, in_memory), (1, sqlite)])
def test_the_official_stores_do_what_the_page_says(column: int, make: Callable[..., Any]) -> None:
    page = documented()
    for outcome in run(make, only=NO_TTL):
        if outcome.verdict != "cannot":
            assert (outcome.verdict == "as decided") == (page[outcome.name][column] == "yes"), outcome


def test_a_table_shows_stores_side_by_side() -> None:
    left = [Outcome("one", "as decided"), Outcome("two", "differs", "a | b <c>")]
    right = [Outcome("one", "cannot", "no index"), Outcome("two", "as decided")]
    assert conformance.table({"L": left, "R": right}).splitlines() == [
        "| Decided behaviour | L | R |",
        "| --- | --- | --- |",
        "| one | yes | (cannot: no index) |",
        r"| two | a \| b &lt;c> | yes |",
        "| **as decided** | 1 of 2 | 1 of 2 |",
    ]


def test_the_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["conformance", "NoSuchStore"])
    with pytest.raises(
        SystemExit, match=r"NoSuchStore is not available; choose from InMemoryStore, SqliteStore"
    ):
        conformance.main()
    monkeypatch.setattr("sys.argv", ["conformance", "InMemoryStore"])
    conformance.main()
    assert (
        f"| **as decided** | {sum(o.verdict == 'as decided' for o in run(in_memory))} of"
        in capsys.readouterr().out
    )
