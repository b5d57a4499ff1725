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
    """Room for so many chains of 32 tokens; one of each owner is put, in this order."""
    store = KVStore(IDENTITY, memory_budget=budget * 32 * TOKEN)
    for n, salt in enumerate(salts):
        assert store.put(make_kv(32, start=100 * n, salt=salt))
    return store


def test_the_store_is_what_the_scheduler_asks_for() -> None:
    assert isinstance(full_store(), Tiers)


def test_the_least_worth_goes_first_and_then_the_least_recently_used() -> None:
    store = full_store("a", "b", "c", "d")
    store.worth = lambda salt, tokens: {"a": 2.0, "b": 1.0, "c": 1.0, "d": 3.0}[salt]
    for n, left in ((10, {"a", "c", "d"}), (11, {"a", "d"})):
        assert store.put(make_kv(32, start=100 * n, salt="d"))
        assert set(store.usage()) == left
    store.worth = None
    assert store.put(make_kv(32, start=1200, salt="d"))
    assert set(store.usage()) == {"d"}


def test_ends_of_chains_go_before_their_beginnings_whatever_they_are_worth() -> None:
    store = KVStore(IDENTITY, memory_budget=160 * TOKEN)
    store.worth = lambda salt, tokens: float(len(tokens))
    for n in (64, 96, 128):
        assert store.put(make_kv(n))
    assert store.put(make_kv(64, start=1000))
    hit = store.match("salt", range(128))
    assert hit is not None
    assert hit.n_tokens == 96


@given(st.lists(st.sampled_from("abc"), max_size=4), st.sampled_from("abc"), st.integers(0, 40))
def test_release_takes_the_end_of_a_chain_and_nobody_elses(salts: list[str], gone: str, keep: int) -> None:
    store = full_store(*salts)
    before = store.usage()
    for chain in store.chains():
        if chain.salt == gone:
            assert store.release(gone, chain.tokens, keep) == max(0, 32 - keep) * TOKEN
    left = salts.count(gone) * min(keep, 32) * TOKEN
    assert store.usage() == {k: n for k, n in (before | {gone: left}).items() if n}
    assert store.stats["memory_bytes"] == sum(store.usage().values())


def test_what_is_pinned_is_not_released() -> None:
    store = KVStore(IDENTITY, memory_budget=1 << 20)
    store.put(make_kv(32, salt="a"), pin=True)
    store.put(make_kv(64, salt="a"))
    assert store.release("a", range(64)) == 32 * TOKEN
    hit = store.match("a", range(64))
    assert hit is not None
    assert hit.n_tokens == 32
