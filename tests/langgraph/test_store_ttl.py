"""Items that expire: beyond what the conformance suite checks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from langgraph.store.base import GetOp, ListNamespacesOp, PutOp, SearchOp, TTLConfig
from sqlalchemy import select, update

from langgraph.store.memos import AsyncMemOSStore, MemOSStore
from memos_core.errors import InvalidArgument
from memos_core.memos import MemOS
from memos_core.vault import tables as t

A = ("a",)


def pass_time(memos: MemOS, minutes: float) -> None:
    """Nobody waits: what expires does so earlier."""
    memos.scheduler.wait_idle()
    with memos.vault.db.write() as conn:
        conn.execute(update(t.cubes).values(expires_at=t.cubes.c.expires_at - round(minutes * 60e6)))


def keys_in_vault(memos: MemOS) -> set[str]:
    with memos.vault.db.read() as conn:
        return set(conn.execute(select(t.cubes.c.key)).scalars())


@pytest.fixture
def memos(vault_url: str) -> Iterator[MemOS]:
    """On SQLite and on PostgreSQL."""
    with MemOS.open(vault_url, embedder=None) as opened:
        yield opened


@pytest.mark.parametrize(
    "read",
    [
        [GetOp(A, "k")],
        [SearchOp(A)],
        [SearchOp(A, filter={"text": "green tea"})],
        [SearchOp(A, query="tea")],
        [GetOp(A, "k", refresh_ttl=False), SearchOp(A, query="tea")],
    ],
)
def test_each_kind_of_read_extends_a_life_by_the_whole_ttl(memos: MemOS, read: list[Any]) -> None:
    store = MemOSStore(memos)
    store.put(A, "k", {"text": "green tea"}, ttl=10)
    for _ in range(3):
        pass_time(memos, 9)
        store.batch(read)
    assert store.get(A, "k", refresh_ttl=False) is not None
    cube = memos.at(A, "k")
    assert cube is not None
    governance = cube.header.governance
    assert governance.ttl == timedelta(minutes=10)
    pass_time(memos, 11)
    assert store.get(A, "k") is None


@pytest.mark.parametrize("read", [GetOp(A, "k", False), SearchOp(A, refresh_ttl=False), ListNamespacesOp()])
def test_other_reads_extend_nothing(memos: MemOS, read: Any) -> None:
    store = MemOSStore(memos)
    store.put(A, "k", {"n": 1}, ttl=10)
    pass_time(memos, 6)
    store.batch([read])
    pass_time(memos, 6)
    assert store.batch([GetOp(A, "k"), SearchOp(A), ListNamespacesOp()]) == [None, [], []]


def test_what_has_expired_does_not_come_back_by_being_read(memos: MemOS) -> None:
    store = MemOSStore(memos)
    store.put(A, "k", {"n": 1}, ttl=10)
    before = memos.items_at(A, ["k"])["k"]
    pass_time(memos, 11)
    memos.prolong([before])  # it was read just before, and expired meanwhile
    assert store.get(A, "k") is None


def test_only_items_with_a_ttl_are_extended(memos: MemOS) -> None:
    store = MemOSStore(memos)
    store.put(A, "forever", {"n": 1})
    memos.write("in a day", namespace=A, key="fixed", ttl=timedelta(days=1))
    store.search(A)
    forever, fixed = memos.at(A, "forever"), memos.at(A, "fixed")
    assert forever is not None and fixed is not None  # noqa: PT018
    assert forever.header.governance.expires_at is None
    assert fixed.header.governance.ttl == timedelta(days=1)


def test_a_put_begins_a_new_life(memos: MemOS) -> None:
    store = MemOSStore(memos, ttl={"default_ttl": 10})
    store.put(A, "k", {"n": 1})
    created = store.get(A, "k")
    pass_time(memos, 9)
    store.put(A, "k", {"n": 2}, ttl=20)
    pass_time(memos, 15)
    found = store.get(A, "k")
    assert found is not None
    assert created is not None
    assert (found.value, found.created_at) == ({"n": 2}, created.created_at)
    pass_time(memos, 21)
    assert store.get(A, "k") is None
    store.put(A, "k", {"n": 3})
    again = store.get(A, "k")
    assert again is not None
    assert again.created_at > created.created_at


def test_the_sweep_is_of_items_of_this_view_alone(memos: MemOS) -> None:
    ada, bob = memos.scoped(user="ada"), memos.scoped(user="bob")
    for n in range(3):
        MemOSStore(ada).put(A, f"ada{n}", {"n": n}, ttl=10)
    MemOSStore(ada).put(A, "ada stays", {"n": 1}, ttl=100)
    MemOSStore(bob).put(A, "bob", {"n": 1}, ttl=10)
    ada.write("a memory", key="memory", ttl=timedelta(minutes=10))
    pass_time(memos, 11)
    assert MemOSStore(ada).sweep_ttl() == 3
    assert keys_in_vault(memos) == {"ada stays", "bob", "memory"}
    assert MemOSStore(ada).sweep_ttl() == 0
    assert not memos.doctor().findings


def test_the_vaults_own_life_cycle_removes_items_too(memos: MemOS) -> None:
    store = MemOSStore(memos)
    store.put(A, "k", {"n": 1}, ttl=10)
    pass_time(memos, 11)
    store.put(A, "other", {"n": 1})  # after a write the house is kept
    memos.scheduler.wait_idle()
    assert keys_in_vault(memos) == {"other"}


def test_a_ttl_of_every_length(memos: MemOS) -> None:
    store = MemOSStore(memos)
    store.put(A, "short", {"n": 1}, ttl=1e-6)  # 60 microseconds
    store.put(A, "long", {"n": 1}, ttl=60 * 24 * 365 * 100)
    assert store.get(A, "long") is not None
    found = memos.items_at(A, ["long"])["long"]
    assert found.ttl == timedelta(days=36500)


# -- what is refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize("ttl", [0, -1, float("nan"), float("inf"), "10", True, 1e300])
def test_a_ttl_that_is_none_is_refused(memos: MemOS, ttl: Any) -> None:
    store = MemOSStore(memos)
    with pytest.raises(InvalidArgument, match="ttl"):
        store.put(A, "k", {"n": 1}, ttl=ttl)
    with pytest.raises(InvalidArgument, match="ttl"):
        store.batch([PutOp(A, "other", {"n": 1}), PutOp(A, "k", {"n": 1}, ttl=ttl)])
    assert store.search(A) == []


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"default_ttl": 0}, "default_ttl"),
        ({"default_ttl": "an hour"}, "default_ttl"),
        ({"sweep_interval_minutes": -1}, "sweep_interval_minutes"),
        ({"refresh_on_read": "yes"}, "refresh_on_read"),
        ({"ttl": 5}, "'ttl' is unknown"),
        (5, "TTLConfig"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_refused(memos: MemOS, config: Any, named: str) -> None:
    with pytest.raises(InvalidArgument, match=named):
        MemOSStore(memos, ttl=config)


# -- the sweepers ---------------------------------------------------------------------------------------

CONFIG: TTLConfig = {"default_ttl": 10, "sweep_interval_minutes": 1}


class Counted(MemOSStore):
    """Says when it sweeps."""

    swept: threading.Event

    def sweep_ttl(self) -> int:
        gone = super().sweep_ttl()
        if gone:
            self.swept.set()
        return gone


@pytest.fixture
def swept() -> threading.Event:
    return threading.Event()


def test_the_sweeper_sweeps_until_it_is_stopped(memos: MemOS, swept: threading.Event) -> None:
    store = Counted(memos, ttl=CONFIG)
    store.swept = swept
    store.put(A, "k", {"n": 1})
    pass_time(memos, 11)
    running = store.start_ttl_sweeper(0.0001)
    assert isinstance(running, Future)
    assert swept.wait(30)
    assert store.start_ttl_sweeper() is running
    assert store.stop_ttl_sweeper()
    assert running.result(30) is None
    assert store.stop_ttl_sweeper(timeout=1)
    assert keys_in_vault(memos) == set()
    again = store.start_ttl_sweeper(60)
    assert again is not running
    assert again.cancel()
    assert store.stop_ttl_sweeper()


def test_the_sweeper_goes_on_after_an_error(
    memos: MemOS, swept: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    class Fails(Counted):
        failed = False

        def sweep_ttl(self) -> int:
            if not self.failed:
                self.failed = True
                raise InvalidArgument("once")
            return super().sweep_ttl()

    store = Fails(memos, ttl=CONFIG)
    store.swept = swept
    store.put(A, "k", {"n": 1})
    pass_time(memos, 11)
    store.start_ttl_sweeper(0.0001)
    assert swept.wait(30)
    assert store.stop_ttl_sweeper()
    assert "the TTL sweep failed, the next one tries again: once" in caplog.text


def test_without_a_configuration_there_is_no_sweeper(memos: MemOS) -> None:
    store = MemOSStore(memos)
    assert store.start_ttl_sweeper().result(0) is None
    assert store.stop_ttl_sweeper()
    with pytest.raises(InvalidArgument, match="sweep_interval_minutes"):
        MemOSStore(memos, ttl=CONFIG).start_ttl_sweeper(-1)


def test_the_sweeper_ends_with_its_vault(vault: Path) -> None:
    memos = MemOS.open(vault, embedder=None)
    running = MemOSStore(memos, ttl=CONFIG).start_ttl_sweeper(0.0001)
    memos.close()
    assert running.result(30) is None


def test_a_with_block_stops_the_sweeper(vault: Path) -> None:
    with MemOSStore.from_conn_string(vault, index={"embed": "none"}, ttl=CONFIG) as store:
        running = store.start_ttl_sweeper()
        assert not running.done()
    assert running.result(30) is None


async def test_the_async_sweeper(memos: MemOS) -> None:
    async with AsyncMemOSStore(memos, ttl=CONFIG) as store:
        await store.aput(A, "k", {"n": 1})
        await asyncio.to_thread(pass_time, memos, 11)
        task = await store.start_ttl_sweeper(0.0001)
        assert await store.start_ttl_sweeper() is task
        while await asyncio.to_thread(keys_in_vault, memos):
            await asyncio.wait([task], timeout=0.01)
        assert await store.stop_ttl_sweeper(timeout=60)
        assert task.done()
        assert await store.stop_ttl_sweeper()
        task = await store.start_ttl_sweeper()
    assert task.done()
    await (await AsyncMemOSStore(memos).start_ttl_sweeper())
    await store.aput(A, "k", {"n": 1}, ttl=10)
    await asyncio.to_thread(pass_time, memos, 11)
    assert await store.sweep_ttl() == 1


def test_threads_that_read_and_sweep_do_not_wait_for_one_another(memos: MemOS) -> None:
    store = MemOSStore(memos, ttl={"default_ttl": 10})
    errors: list[BaseException] = []

    def loop(call: Callable[[int], object]) -> Callable[[], None]:
        def work() -> None:
            try:
                for n in range(15):
                    call(n)
            except BaseException as err:
                errors.append(err)

        return work

    work = [
        loop(lambda n: store.put(A, f"{n % 4}", {"n": n})),
        loop(lambda n: store.batch([PutOp(A, f"{n % 3}", {"n": n}), PutOp(A, f"{n % 5}", None)])),
        loop(lambda n: store.search(A)),
        loop(lambda n: store.get(A, f"{n % 4}")),
        loop(lambda n: store.sweep_ttl()),
    ]
    threads = [threading.Thread(target=w) for w in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert errors == []
    assert not memos.doctor().findings
