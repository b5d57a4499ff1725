"""The memory tier: longest prefix, whole chains in and out, and nothing past the budget."""

from __future__ import annotations

import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memos_core.activation import Identity, KVPrefix, KVStore
from memos_core.activation.keys import shared_length
from memos_core.errors import InvalidArgument, KVError, KVMismatch

from .tiny import IDENTITY, make_kv

TOKEN_BYTES = 256


def store(budget_tokens: int = 10_000) -> KVStore:
    return KVStore(IDENTITY, memory_budget=budget_tokens * TOKEN_BYTES)


def of(tokens: list[int], salt: str = "salt") -> KVPrefix:
    """KV of any tokens; no layers, since only the index is looked at."""
    return KVPrefix.of(IDENTITY, salt, tokens, [])


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=80), min_size=1, max_size=6),
    st.lists(st.integers(0, 2), max_size=80),
)
def test_match_finds_the_longest_shared_prefix(entries: list[list[int]], tokens: list[int]) -> None:
    kept = store()
    for entry in entries:
        kept.put(of(entry))
    best = max(shared_length(entry, tokens) for entry in entries)
    hit = kept.match("salt", tokens)
    assert (hit.n_tokens if hit else 0) == best
    assert kept.match("other", tokens) is None


def numbered(tokens: list[int]) -> KVPrefix:
    """KV that tells each position and all tokens before it, as a model's does."""
    values = [hash(tuple(tokens[: n + 1])) % 1_000_003 for n in range(len(tokens))]
    keys = torch.tensor(values, dtype=torch.float32).reshape(1, 1, -1, 1)
    return KVPrefix.of(IDENTITY, "salt", tokens, [(keys, -keys)] * 2)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["put", "pin", "cut", "forget", "budget"]),
            st.lists(st.integers(0, 1), min_size=1, max_size=12),
        ),
        max_size=25,
    ),
    st.lists(st.integers(0, 1), min_size=1, max_size=14),
    st.sampled_from([0, 9, 40]),
)
def test_whatever_was_put_cut_and_evicted_a_hit_is_the_kv_of_just_these_tokens(
    steps: list[tuple[str, list[int]]], tokens: list[int], host: int
) -> None:
    kept = KVStore(IDENTITY, memory_budget=30 * 16, host_budget=host * 16)
    pinned: list[list[int]] = []
    for step, ids in steps:
        if step == "cut":
            kept.release("salt", ids, len(ids) // 2)
        elif step == "forget":
            kept.drop(keys=[numbered(ids).key])
            pinned = [other for other in pinned if other != ids]
        elif step == "budget":
            kept.memory_budget = 16 * (10 + 2 * len(ids))
        elif kept.put(numbered(ids), pin=step == "pin") and step == "pin":
            pinned.append(ids)
        assert kept.stats["memory_bytes"] + kept.stats["host_bytes"] == sum(kept.usage().values())
        assert kept.stats["host_bytes"] <= host * 16
        assert pinned or kept.stats["memory_bytes"] <= kept.memory_budget
        for ids in pinned:
            hit = kept.match("salt", ids)
            assert hit is not None
            assert hit.n_tokens == len(ids)
    hit = kept.match("salt", tokens)
    if hit is not None:
        whole = numbered(tokens).cut(hit.n_tokens)
        assert all(
            torch.equal(a, b)
            for got, want in zip(hit.layers(), whole, strict=True)
            for a, b in zip(got, want, strict=True)
        )
    for chain in kept.chains():
        assert not any(
            len(c.tokens) > len(chain.tokens) and shared_length(c.tokens, chain.tokens) == len(chain.tokens)
            for c in kept.chains()
        )


def test_what_prompts_begin_with_is_held_once() -> None:
    kept = store()
    kept.put(of_tokens(100, 40, tail=0))
    kept.put(of_tokens(100, 40, tail=5000))
    assert kept.stats["memory_bytes"] == 180 * TOKEN_BYTES
    kept.put(make_kv(100), pin=True)
    assert kept.stats["memory_bytes"] == 180 * TOKEN_BYTES


def of_tokens(n: int, more: int, tail: int) -> KVPrefix:
    """`make_kv(n)` with other tokens behind it."""
    head, rest = make_kv(n), make_kv(more, start=1000 + tail)
    layers = [
        tuple(torch.cat(pair, dim=2) for pair in zip(a, b, strict=True))
        for a, b in zip(head.layers, rest.layers, strict=True)
    ]
    return KVPrefix.of(IDENTITY, "salt", [*head.tokens, *rest.tokens], layers)  # type: ignore[arg-type]


def test_an_extension_adds_what_is_new_and_depends_on_what_it_extends() -> None:
    kept = store()
    kept.put(make_kv(40, sources=[("a", 1)]))
    kept.put(make_kv(20, start=100))
    kept.put(make_kv(80, sources=[("b", 2)]))
    hit = kept.match("salt", range(80))
    assert hit is not None
    assert hit.derived_from == (("a", 1), ("b", 2))
    assert kept.stats["memory_bytes"] == 100 * TOKEN_BYTES
    assert kept.drop(cube_ids=["b"]) == 1
    hit = kept.match("salt", range(80))
    assert hit is not None
    assert hit.n_tokens == 40
    kept.put(make_kv(80, sources=[("b", 2)]))
    assert kept.drop(cube_ids=["a"]) == 2  # what stands behind an erased memory was computed from it
    assert kept.match("salt", range(80)) is None


def test_a_key_is_forgotten_as_far_as_nothing_continues_it() -> None:
    kept = store()
    for n in (40, 80):
        kept.put(make_kv(n))
    assert kept.drop(keys=[make_kv(40).key]) == 1
    hit = kept.match("salt", range(80))
    assert hit is not None
    assert hit.n_tokens == 80
    assert kept.drop(keys=[make_kv(80).key]) == 1
    assert kept.stats["memory_bytes"] == 0


def test_a_long_list_of_dropped_cubes_forgets_none_that_matters() -> None:
    kept = store()
    since = kept.clock
    kept.drop(cube_ids=["mine"])
    for n in range(10_001):
        kept.drop(cube_ids=[f"{n}"])
    assert not kept.put(make_kv(40, sources=[("mine", 1)]), since=since)
    assert kept.put(make_kv(40, sources=[("mine", 1)]), since=kept.clock)
    assert len(kept._dropped) <= 10_000


def test_putting_the_same_again_adds_its_sources_and_keeps_the_pin() -> None:
    kept = store(50)
    kept.put(make_kv(40, sources=[("a", 1)]), pin=True)
    kept.put(make_kv(40, sources=[("b", 1)]))
    assert not kept.put(make_kv(40, start=100))
    hit = kept.match("salt", range(40))
    assert hit is not None
    assert hit.derived_from == (("a", 1), ("b", 1))


def test_the_least_recently_used_chain_goes_first() -> None:
    kept = store(100)
    a, b, c = (make_kv(40, start=start) for start in (0, 1000, 2000))
    kept.put(a)
    kept.put(b)
    assert kept.match("salt", a.tokens)  # now b is the older one
    assert kept.put(c)
    assert kept.match("salt", b.tokens) is None
    assert kept.match("salt", a.tokens) is not None
    assert kept.stats["evictions"] == 1
    assert kept.stats["memory_bytes"] == 80 * TOKEN_BYTES


def test_what_cannot_fit_evicts_nothing() -> None:
    kept = store(100)
    kept.put(make_kv(60), pin=True)
    kept.put(make_kv(30, start=1000))
    assert not kept.put(make_kv(50, start=2000))
    assert kept.stats == kept.stats | {"entries": 2, "evictions": 0}


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 60), st.booleans()), max_size=30))
def test_memory_never_exceeds_the_budget(puts: list[tuple[int, int, bool]]) -> None:
    kept = store(100)
    for start, n, pin in puts:
        kept.put(make_kv(n, start=start * 1000), pin=pin)
        stats = kept.stats
        assert stats["memory_bytes"] <= 100 * TOKEN_BYTES
    kept.drop(keys={make_kv(n, start=start * 1000).key for start, n, _ in puts})
    assert kept.stats["memory_bytes"] == kept.stats["entries"] == 0
    assert kept.match("salt", range(60)) is None


def test_unpinned_entries_can_go_again() -> None:
    kept = store(50)
    kv = make_kv(40)
    kept.put(kv, pin=True)
    kept.unpin(kv.key)
    kept.put(make_kv(30, start=100))
    assert kept.match("salt", range(40)) is None
    with pytest.raises(KVError, match="in memory"):
        kept.pin(kv.key)


def test_dropping_by_cube_takes_pinned_entries_and_what_is_under_way() -> None:
    kept = store()
    since = kept.clock
    kept.put(make_kv(40, sources=[("a", 1), ("b", 1)]), pin=True)
    kept.put(make_kv(40, start=100, sources=[("c", 1)]))
    assert kept.drop(cube_ids=["a"]) == 1
    assert not kept.put(make_kv(50, sources=[("a", 1)]), since=since)
    assert kept.put(make_kv(50, start=200, sources=[("b", 1)]), since=since)
    assert kept.put(make_kv(50, sources=[("a", 2)]), since=kept.clock)  # written anew after the drop


def test_another_models_prefix_is_refused() -> None:
    for changes in ({"model": "x"}, {"tokenizer": "x"}, {"dtype": "bfloat16"}):
        other = Identity(
            **({"model": IDENTITY.model, "tokenizer": IDENTITY.tokenizer, "dtype": "float32"} | changes)
        )
        with pytest.raises(KVMismatch):
            store().put(make_kv(40, identity=other))


def test_a_store_without_disk_says_so() -> None:
    with pytest.raises(KVError, match="disk_dir"):
        store().save(make_kv(10))
    with pytest.raises(KVError, match="disk_dir"):
        store().fetch("0" * 32)
    assert store().scan() == []
    with pytest.raises(InvalidArgument):
        KVStore(IDENTITY, memory_budget=-1)


def test_many_threads() -> None:
    kept = store(300)
    errors: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for i in range(60):
                start = (seed * 7 + i) % 10 * 1000
                kept.put(make_kv(20 + i % 40, start=start, sources=[(f"cube-{start}", 1)]))
                hit = kept.match("salt", range(start, start + 60))
                assert hit is None or len(hit.layers()[0][0][0, 0]) == hit.n_tokens
                if i % 10 == 0:
                    kept.drop(cube_ids=[f"cube-{start}"])
        except BaseException as err:
            errors.append(err)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert kept.stats["memory_bytes"] <= 300 * TOKEN_BYTES


def test_what_leaves_an_accelerator_waits_on_its_host_and_comes_back() -> None:
    kept = KVStore(IDENTITY, memory_budget=100 * TOKEN_BYTES, host_budget=100 * TOKEN_BYTES)
    a, b = make_kv(80), make_kv(80, start=1000)
    kept.put(a)
    kept.put(b)
    assert (kept.stats["memory_bytes"], kept.stats["host_bytes"]) == (80 * TOKEN_BYTES, 80 * TOKEN_BYTES)
    hit = kept.match("salt", a.tokens)
    assert hit is not None
    assert (hit.tier, hit.n_tokens) == ("host", 80)
    assert all(
        torch.equal(x, y)
        for got, want in zip(hit.layers(), a.layers, strict=True)
        for x, y in zip(got, want, strict=True)
    )
    kept.put(a)  # a request that used it ends
    hit = kept.match("salt", a.tokens)
    assert hit is not None
    assert hit.tier == "memory"
    hit = kept.match("salt", b.tokens)
    assert hit is not None
    assert hit.tier == "host"
    kept.put(make_kv(90, start=2000))
    assert kept.match("salt", b.tokens) is None  # the host is full, too
    assert kept.drop(salts=["salt"]) == 2
    assert kept.stats["host_bytes"] == 0
