"""MemOSStore as a key-value store: batches, filters, paging, namespaces, what is refused."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.store.base import (
    BaseStore,
    GetOp,
    IndexConfig,
    InvalidNamespaceError,
    ListNamespacesOp,
    MatchCondition,
    PutOp,
    SearchOp,
)
from langgraph.store.memory import InMemoryStore
from sqlalchemy import update

from langgraph.store.memos import AsyncMemOSStore, MemOSStore
from memos_core.errors import InvalidArgument, VaultError
from memos_core.memos import MemOS
from memos_core.vault import tables as t


@pytest.fixture
def store(memos: MemOS) -> MemOSStore:
    return MemOSStore(memos)


def keys(found: list[Any]) -> list[str]:
    return [item.key for item in found]


def test_put_get_update_delete(store: MemOSStore) -> None:
    begun = datetime.now(UTC)
    value = {"theme": "dark", "n": 1, "nested": {"list": [1, None, True, "ü", 2**80]}}
    store.put(("users", "1"), "prefs", value)
    first = store.get(("users", "1"), "prefs")
    assert first is not None
    assert (first.namespace, first.key, first.value) == (("users", "1"), "prefs", value)
    assert begun <= first.created_at == first.updated_at <= datetime.now(UTC)
    assert first.created_at.utcoffset() is not None
    store.put(("users", "1"), "prefs", {"theme": "light"})
    second = store.get(("users", "1"), "prefs")
    assert second is not None
    assert second.value == {"theme": "light"}
    assert second.created_at == first.created_at
    assert second.updated_at > first.updated_at
    assert store.get(("users",), "prefs") is None
    assert store.get(("users", "1"), "other") is None
    store.delete(("users", "1"), "prefs")
    store.delete(("users", "1"), "prefs")
    assert store.get(("users", "1"), "prefs") is None
    assert store.list_namespaces() == []
    store.put(("users", "1"), "prefs", {"theme": "new"})
    third = store.get(("users", "1"), "prefs")
    assert third is not None
    assert third.created_at > first.created_at


async def test_async_and_from_conn_string(vault: Path, index: IndexConfig) -> None:
    async with AsyncMemOSStore.from_conn_string(vault, index=index, user="ada") as store:
        await store.setup()
        await store.aput(("a",), "k", {"x": 1})
        assert (await store.aget(("a",), "k")).value == {"x": 1}  # type: ignore[union-attr]
        assert keys(await store.asearch(("a",), filter={"x": 1})) == ["k"]
        assert await store.alist_namespaces() == [("a",)]
        await store.adelete(("a",), "k")
        assert await store.aget(("a",), "k") is None
        await store.aput(("a",), "k", {"x": 2})
        assert store.get(("a",), "k").value == {"x": 2}  # type: ignore[union-attr]
    with MemOSStore.from_conn_string(vault, index=index, user="ada") as again:
        again.setup()
        assert again.get(("a",), "k").value == {"x": 2}  # type: ignore[union-attr]
    with MemOSStore.from_conn_string(vault, index=index, user="bob") as other:
        assert other.get(("a",), "k") is None


def test_reads_of_a_batch_see_the_state_before_its_puts(store: MemOSStore) -> None:
    store.put(("a",), "kept", {"n": 0})
    store.put(("a",), "gone", {"n": 0})
    results = store.batch(
        [
            PutOp(("a",), "kept", {"n": 1}),
            GetOp(("a",), "kept"),
            PutOp(("a",), "kept", {"n": 2}),
            PutOp(("a",), "gone", {"n": 3}),
            PutOp(("a",), "gone", None),
            PutOp(("b",), "back", None),
            PutOp(("b",), "back", {"n": 4}),
            SearchOp(("a",), filter={"n": 0}),
            ListNamespacesOp(),
            GetOp(("b",), "back"),
        ]
    )
    assert results[1].value == {"n": 0}  # type: ignore[union-attr]
    assert sorted(keys(results[7])) == ["gone", "kept"]  # type: ignore[arg-type]
    assert results[8] == [("a",)]
    assert [r for i, r in enumerate(results) if i not in (1, 7, 8)] == [None] * 7
    assert {(i.namespace, i.key): i.value for i in store.search(())} == {
        (("a",), "kept"): {"n": 2},
        (("b",), "back"): {"n": 4},
    }


def test_a_batch_with_an_error_changes_nothing(store: MemOSStore) -> None:
    good = PutOp(("a",), "k", {"n": 1})
    for bad in (
        PutOp(("a.b",), "k", {"n": 1}),
        PutOp((), "k", {"n": 1}),
        PutOp(("langgraph", "x"), "k", {"n": 1}),
        PutOp(("a", ""), "k", {"n": 1}),
        PutOp(("a\x00",), "k", {"n": 1}),
        PutOp("users", "k", {"n": 1}),  # type: ignore[arg-type]
        GetOp(("a.b",), "k"),
        SearchOp(("a", 1)),  # type: ignore[arg-type]
        ListNamespacesOp((MatchCondition("prefix", ("a.b",)),)),
    ):
        with pytest.raises(InvalidNamespaceError):
            store.batch([good, bad])
    for wrong in (
        PutOp(("a",), "", {"n": 1}),
        PutOp(("a",), "\ud800", {"n": 1}),
        PutOp(("a",), "k2", {"n": 1}, ttl=0),
        PutOp(("a",), "k2", ["no mapping"]),  # type: ignore[arg-type]
        SearchOp(("a",), limit=-1),
        SearchOp(("a",), filter={"n": {"$near": 1}}),
        ListNamespacesOp((MatchCondition("infix", ("a",)),)),  # type: ignore[arg-type]
        "get",
    ):
        with pytest.raises(InvalidArgument):
            store.batch([good, wrong])  # type: ignore[list-item]
    assert store.search(()) == []


@pytest.mark.parametrize(
    "value", [{"x": {1, 2}}, {"x": float("nan")}, {"x": {1: 2}}, {1: 2}, {"x": object()}, {"x": b"y"}]
)
def test_a_value_that_is_no_json_is_refused_by_its_key(store: MemOSStore, value: Any) -> None:
    with pytest.raises(InvalidArgument, match=r"'the key'.*JSON"):
        store.put(("a",), "the key", value)


def test_odd_texts_are_kept_or_refused(store: MemOSStore) -> None:
    odd = {"nul": "a\x00b", "emoji": "🧠", "empty": ""}
    store.put(("a",), "odd", odd)
    assert store.get(("a",), "odd").value == odd  # type: ignore[union-attr]
    with pytest.raises(InvalidArgument, match=r"'half'.*surrogate"):
        store.put(("a",), "half", {"x": "\ud800"})


def test_nobody_can_change_what_is_stored(store: MemOSStore) -> None:
    value = {"list": [1], "pair": (1, 2)}
    store.put(("a",), "k", value)
    value["list"].append(2)  # type: ignore[attr-defined]
    read = store.get(("a",), "k")
    assert read is not None
    assert read.value == {"list": [1], "pair": [1, 2]}
    read.value["list"].append(3)
    store.search(("a",))[0].value["list"].append(4)
    assert store.get(("a",), "k").value["list"] == [1]  # type: ignore[union-attr]


def test_a_damaged_item_is_named_and_spoils_no_other(
    store: MemOSStore, caplog: pytest.LogCaptureFixture
) -> None:
    for key in ("good", "bad"):
        store.put(("a",), key, {"key": key})
    with store.memos.vault.db.write() as conn:
        conn.execute(update(t.cubes).where(t.cubes.c.key == "bad").values(payload='{"data":{"key":"other"}}'))
    with pytest.raises(VaultError, match=r"'bad'.*damaged"):
        store.get(("a",), "bad")
    for found in (store.search(("a",)), store.search(("a",), filter={"key": {"$ne": 1}})):
        assert keys(found) == ["good"]
    assert "'bad') is damaged" in caplog.text
    assert store.get(("a",), "good") is not None
    store.delete(("a",), "bad")
    store.put(("a",), "bad", {"key": "again"})
    assert sorted(keys(store.search(("a",)))) == ["bad", "good"]


# -- search without a query -----------------------------------------------------------------------------


def test_the_newest_update_comes_first_and_pages_are_exact(store: MemOSStore) -> None:
    for n in range(450):
        store.batch([PutOp(("a", str(n % 3)), f"{n:03}", {"n": n, "even": n % 2 == 0})])
    store.put(("ab",), "not below a", {"n": 0})
    store.put(("a", "1"), "001", {"n": 1, "even": False})
    expected = ["001", *(f"{n:03}" for n in range(449, -1, -1) if n != 1)]
    assert keys(store.search(("a",), limit=1000)) == expected
    pages = [keys(store.search(("a",), limit=7, offset=offset)) for offset in range(0, 460, 7)]
    assert [key for page in pages for key in page] == expected
    assert keys(store.search(("a",), filter={"even": True}, limit=5, offset=220)) == [
        "008",
        "006",
        "004",
        "002",
        "000",
    ]
    assert keys(store.search(("a", "2"), limit=2)) == ["449", "446"]
    assert store.search(("a",), limit=0) == []
    assert all(item.score is None for item in store.search(("a",)))


VALUES: dict[str, dict[str, Any]] = {
    "a": {"n": 1, "s": "x", "flag": True, "deep": {"n": 1, "more": 2}, "tags": ["p", "q"]},
    "b": {"n": 2.5, "s": "10", "flag": False, "deep": {"n": 2}, "tags": []},
    "c": {"n": None, "s": None, "flag": None, "deep": None},
    "d": {"n": "3", "flag": 1},
}


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"n": 1}, "a"),
        ({"n": 1.0}, "a"),
        ({"n": True}, ""),
        ({"flag": True}, "a"),
        ({"flag": 1}, "d"),
        ({"n": None}, "c"),
        ({"s": None}, "cd"),
        ({"missing": None}, "abcd"),
        ({"n": {"$eq": 2.5}}, "b"),
        ({"n": {"$ne": 1}}, "bcd"),
        ({"missing": {"$ne": 1}}, "abcd"),
        ({"n": {"$gt": 1}}, "bd"),
        ({"n": {"$gte": 1, "$lt": 3}}, "ab"),
        ({"n": {"$lte": "2.5"}}, "ab"),
        ({"missing": {"$gt": 0}}, ""),
        ({"s": {"$gt": "w"}}, "a"),
        ({"s": {"$gt": 9}}, "b"),
        ({"deep": {"n": 1}}, "a"),
        ({"deep": {"n": {"$gt": 0}}}, "ab"),
        ({"deep": {"$eq": {"n": 1}}}, ""),
        ({"deep": {"$eq": {"more": 2, "n": 1}}}, "a"),
        ({"tags": ["p", "q"]}, "a"),
        ({"tags": ("p", {"$ne": "p"})}, "a"),
        ({"tags": []}, "b"),
        ({"tags": "p"}, ""),
        ({"flag": True, "n": 2.5}, ""),
    ],
)
def test_filters(store: MemOSStore, wanted: dict[str, Any], found: str) -> None:
    for key, value in VALUES.items():
        store.put(("f",), key, value)
    assert "".join(sorted(keys(store.search(("f",), filter=wanted)))) == found


@pytest.mark.parametrize(
    "wanted", [{"n": {"$in": [1]}}, {"a": {"b": {"$x": 1}}}, {"n": {"$gt": 1, "plain": 2}}]
)
def test_an_unknown_operator_is_refused_even_where_nothing_is_stored(
    store: MemOSStore, wanted: dict[str, Any]
) -> None:
    with pytest.raises(InvalidArgument, match=r"operator"):
        store.search(("f",), filter=wanted)


# -- namespaces -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "question",
    [
        {},
        {"prefix": ("a",)},
        {"prefix": ("*", "b")},
        {"suffix": ("c",)},
        {"suffix": ("b", "*")},
        {"prefix": ("a",), "suffix": ("c",)},
        {"max_depth": 1},
        {"max_depth": 2, "prefix": ("a",)},
        {"limit": 2, "offset": 1},
        {"prefix": ("x", "y", "z", "w")},
    ],
)
def test_namespaces_are_listed_as_in_memory(store: MemOSStore, question: dict[str, Any]) -> None:
    official = InMemoryStore()
    for namespace in [("a", "b", "c"), ("a", "b"), ("a", "d", "c"), ("ab",), ("x", "b"), ("c",)]:
        for each in (store, official):
            each.put(namespace, "k", {"n": 1})
    assert store.list_namespaces(**question) == official.list_namespaces(**question)


def test_a_graph_uses_the_store(memos: MemOS) -> None:
    def note(state: MessagesState, *, store: BaseStore) -> dict[str, Any]:
        store.put(("notes",), "last", {"text": str(state["messages"][-1].content)})
        return {}

    graph = StateGraph(MessagesState).add_node("note", note).add_edge(START, "note")
    graph.compile(store=MemOSStore(memos.scoped(user="ada"))).invoke({"messages": [HumanMessage("buy milk")]})
    assert [hit.cube.text for hit in memos.scoped(user="ada").search("milk")] == ["buy milk"]
    assert memos.search("milk") == []


def test_wrong_constructors(memos: MemOS) -> None:
    with pytest.raises(InvalidArgument, match=r"from_conn_string"):
        MemOSStore("vault.db")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match=r"embedder"):
        MemOSStore(memos, index={"dims": 3, "embed": lambda texts: [[1.0, 0.0, 0.0] for _ in texts]})
