"""The order of eviction that a planner gives the store."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="the [hf] extra is not installed")

from activation.tiny import IDENTITY, make_kv
from hypothesis import given
from hypothesis import strategies as st

from memos_core.activation import KVStore
from memos_core.scheduler import Tiers

TOKEN = 256  # bytes of a token of `make_kv`


def full_store(*salts: str, budget: int = 4) -> KVStore:
    """Room for so many entries of 32 tokens; one of each owner is put, in this order."""
    store = KVStore(IDENTITY, memory_budget=budget * 32 * TOKEN)
    for n, salt in enumerate(salts):
        assert store.put(make_kv(32, start=100 * n, salt=salt))
    return store


def test_the_store_is_what_the_scheduler_asks_for() -> None:
    assert isinstance(full_store(), Tiers)


def test_the_least_worth_goes_first_and_then_the_least_recently_used() -> None:
    store = full_store("a", "b", "c", "d")
    store.worth = {"a": 2.0, "b": 1.0, "c": 1.0, "d": 3.0}.get  # type: ignore[assignment]
    for n, left in ((10, {"a", "c", "d"}), (11, {"a", "d"})):
        assert store.put(make_kv(32, start=100 * n, salt="d"))
        assert set(store.usage()) == left
    store.worth = None
    assert store.put(make_kv(32, start=1200, salt="d"))
    assert set(store.usage()) == {"d"}


@given(st.lists(st.sampled_from("abc"), max_size=4), st.sampled_from("abc"))
def test_release_takes_an_owners_entries_and_nobody_elses(salts: list[str], gone: str) -> None:
    store = full_store(*salts)
    before = store.usage()
    assert store.release(gone) == before.get(gone, 0)
    assert store.usage() == {salt: n for salt, n in before.items() if salt != gone}
    assert store.stats["memory_bytes"] == sum(store.usage().values())


def test_what_is_pinned_is_not_released() -> None:
    store = KVStore(IDENTITY, memory_budget=1 << 20)
    store.put(make_kv(32, salt="a"), pin=True)
    assert store.release("a") == 0
    assert store.match("a", range(32)) is not None
