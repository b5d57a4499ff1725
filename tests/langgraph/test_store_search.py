"""MemOSStore's search by meaning and words, and the cubes it shares with other adapters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langgraph.store.base import PutOp

from langgraph.store.memos import MemOSStore
from memos_core.cube import Preference
from memos_core.memos import MemOS

FOOD = ("food",)


def texts(found: list[Any]) -> list[str]:
    return [item.value["text"] for item in found]


@pytest.fixture
def store(memos: MemOS) -> MemOSStore:
    store = MemOSStore(memos)
    for n, text in enumerate(["green tea", "black tea with milk", "coffee", "orange juice", "milk shake"]):
        store.put(FOOD, str(n), {"text": text, "n": n})
    return store


def test_the_best_match_comes_first_with_its_similarity(store: MemOSStore) -> None:
    found = store.search(FOOD, query="green tea")
    assert texts(found)[:2] == ["green tea", "black tea with milk"]
    assert found[0].score == pytest.approx(1.0)
    assert found[1].score == pytest.approx(1 / 8**0.5)
    # As in the official stores, everything that has a vector is ranked.
    assert len(found) == 5
    assert all(item.score is not None for item in found)


def test_pages_of_a_query_join_without_gap_or_double(store: MemOSStore) -> None:
    store.put(FOOD, "hidden", {"text": "green tea in secret", "n": 9}, index=False)
    whole = texts(store.search(FOOD, query="milk tea", limit=10))
    assert len(set(whole)) == 6
    pages = [texts(store.search(FOOD, query="milk tea", limit=4, offset=offset)) for offset in (0, 4, 8)]
    assert [len(page) for page in pages] == [4, 2, 0]
    assert [text for page in pages for text in page] == whole
    assert texts(store.search(FOOD, query="milk tea", filter={"n": {"$gte": 2}}, limit=2))[0] == "milk shake"


def test_unindexed_items_follow_the_ranked_ones(store: MemOSStore) -> None:
    store.put(FOOD, "hidden", {"text": "green tea in secret"}, index=False)
    found = store.search(FOOD, query="green tea", limit=10)
    assert (found[-1].key, found[-1].score) == ("hidden", None)
    assert len(found) == 6
    assert [item.key for item in store.search(FOOD, query="green tea", limit=5)].count("hidden") == 0
    assert store.get(FOOD, "hidden").value == {"text": "green tea in secret"}  # type: ignore[union-attr]


def test_an_update_is_found_by_its_new_text_only(store: MemOSStore) -> None:
    store.put(FOOD, "0", {"text": "rye bread"})
    found = {item.key: item for item in store.search(FOOD, query="green")}
    assert found["0"].score == pytest.approx(0.0)
    assert store.search(FOOD, query="rye bread")[0].key == "0"
    store.put(FOOD, "0", {"text": "rye bread"}, index=False)
    assert {item.key: item.score for item in store.search(FOOD, query="rye bread")}["0"] is None
    store.delete(FOOD, "0")
    assert "0" not in {item.key for item in store.search(FOOD, query="rye bread")}


def test_fields_choose_what_is_searched(memos: MemOS) -> None:
    store = MemOSStore(memos, index={"fields": ["title", "parts[*].name"]})
    value = {"title": "alpha", "secret": "omega", "parts": [{"name": "beta"}, {"name": "gamma"}]}
    store.put(("d",), "own", value)
    store.put(("d",), "other", value, index=["secret"])
    store.put(("d",), "whole", value, index=["$"])
    store.put(("d",), "none", {"secret": "omega"})
    assert memos.at(("d",), "own").text == "alpha\nbeta\ngamma"  # type: ignore[union-attr]
    assert store.search(("d",), query="gamma")[0].key == "own"
    found = store.search(("d",), query="omega")
    assert found[0].key == "other"
    assert (found[-1].key, found[-1].score) == ("none", None)


def test_a_vault_without_embedder_ranks_by_words(vault: Path) -> None:
    with MemOS.open(vault, embedder=None) as memos:
        store = MemOSStore(memos)
        for key, text in {"1": "green tea", "2": "coffee", "3": "tea"}.items():
            store.put(FOOD, key, {"text": text})
        found = store.search(FOOD, query="green tea")
        assert [(item.key, item.score is None) for item in found] == [("1", False), ("3", False), ("2", True)]
        assert [item.key for item in store.search(FOOD, query=" ")] == ["3", "2", "1"]


# -- one memory under every adapter ---------------------------------------------------------------------


def test_a_cube_written_with_memos_is_found_for_its_user_only(memos: MemOS) -> None:
    alice, bob = memos.scoped(user="alice"), memos.scoped(user="bob")
    cube = alice.write("I drink green tea", key="drink")
    mine, other = MemOSStore(alice), MemOSStore(bob)
    assert mine.get(("memories",), "drink").value == {"text": "I drink green tea"}  # type: ignore[union-attr]
    assert [item.key for item in mine.search((), query="tea")] == ["drink"]
    assert mine.search(("memories",))[0].created_at == cube.header.descriptive.created_at
    for search in (other.search((), query="tea"), other.search(()), other.list_namespaces()):
        assert search == []
    assert other.get(("memories",), "drink") is None
    other.delete(("memories",), "drink")
    assert alice.at(("memories",), "drink") is not None


def test_an_item_put_in_the_store_is_found_with_memos(memos: MemOS) -> None:
    alice = memos.scoped(user="alice")
    MemOSStore(alice).put(("profile",), "diet", {"content": "no nuts", "severity": 3})
    hit = alice.search("nuts")[0]
    assert (hit.cube.key, hit.cube.text, hit.cube.semantic_type) == ("diet", "no nuts", "item")
    assert hit.cube.json_data == {"content": "no nuts", "severity": 3}
    assert alice.recall("nuts")[0].cube.key == "diet"
    assert memos.scoped(user="bob").search("nuts") == []


def test_typed_cubes_show_their_fields(memos: MemOS) -> None:
    memos.write(Preference(statement="I like jazz", polarity="like"), key="music")
    memos.write(["a", "list"], key="list")
    store = MemOSStore(memos)
    assert store.get(("memories",), "music").value == {"statement": "I like jazz", "polarity": "like"}  # type: ignore[union-attr]
    assert [item.key for item in store.search((), filter={"polarity": "like"})] == ["music"]
    assert store.get(("memories",), "list").value == {"text": "a, list"}  # type: ignore[union-attr]


@pytest.mark.parametrize("query", [None, "tea"])
def test_conversations_are_shown_only_where_they_are_asked_for(memos: MemOS, query: str | None) -> None:
    alice = memos.scoped(user="alice", session="s1")
    alice.remember([{"role": "user", "content": "tea please"}], extract=False)
    store = MemOSStore(memos.scoped(user="alice"))
    store.put(FOOD, "k", {"text": "tea"})
    assert [item.key for item in store.search((), query=query)] == ["k"]
    said = store.search(("messages",), query=query)
    assert [item.value["content"] for item in said] == ["tea please"]
    assert store.list_namespaces() == [("food",), ("messages", "s1")]


def test_kv_records_are_shown_only_where_they_are_asked_for(memos: MemOS) -> None:
    store = MemOSStore(memos)
    store.put(("kv",), "record", {"text": "tea"})
    memos.write("tea", namespace=("a",), key="k", semantic_type="kv")
    assert [item.key for item in store.search(("kv",))] == ["record"]
    assert [item.namespace for item in store.search((), query="tea")] == [("kv",)]
    assert store.list_namespaces() == [("a",)]
    assert store.list_namespaces(prefix=("kv",)) == [("kv",)]


def test_the_same_text_twice_in_one_batch(memos: MemOS) -> None:
    store = MemOSStore(memos)
    store.batch([PutOp(("a",), key, {"text": "green tea"}) for key in "xy"])
    assert {item.key: item.score for item in store.search(("a",), query="green tea")} == {
        "x": pytest.approx(1.0),
        "y": pytest.approx(1.0),
    }


def test_the_embedder_of_a_connection_string(vault: Path) -> None:
    asked: list[str] = []

    def embed(batch: list[str]) -> list[list[float]]:
        asked.extend(batch)
        return [[1.0, float(len(text))] for text in batch]

    opener: Callable[..., Any] = MemOSStore.from_conn_string
    with opener(vault, index={"dims": 2, "embed": embed, "fields": ["title"]}) as store:
        store.put(("a",), "k", {"title": "abc", "rest": "nothing"})
        assert store.search(("a",), query="xyz")[0].score == pytest.approx(1.0)
    assert sorted(asked) == ["abc", "xyz"]
