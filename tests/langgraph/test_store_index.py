"""The index configuration: embedders of every form, dims, fields and paths."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from langchain_core.embeddings import Embeddings
from langgraph.store.base import IndexConfig, PutOp
from support import bag_of_words as words

from langgraph.store.memos import AsyncMemOSStore, MemOSStore
from memos_core.errors import InvalidArgument
from memos_core.memos import MemOS

A = ("a",)


class Asked(Embeddings):
    """Notes how it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.asked += [("document", text) for text in texts]
        return [list(map(float, vector)) for vector in words(texts)]

    def embed_query(self, text: str) -> list[float]:
        self.asked.append(("query", text))
        return list(map(float, words([text])[0]))


async def embed_later(texts: Sequence[str]) -> list[list[float]]:
    await asyncio.sleep(0)
    return [list(map(float, vector)) for vector in words(list(texts))]


class Later:
    async def __call__(self, texts: Sequence[str]) -> list[list[float]]:
        return await embed_later(texts)


DIMS = len(words(["x"])[0])


@pytest.mark.parametrize(
    "embed", [words, Asked(), embed_later, Later()], ids=["function", "object", "coroutine", "later"]
)
def test_every_form_of_embedder(vault: Path, embed: Any) -> None:
    with MemOSStore.from_conn_string(vault, index={"dims": DIMS, "embed": embed}) as store:
        store.batch(
            [PutOp(A, str(n), {"text": text}) for n, text in enumerate(["green tea", "black coffee"])]
        )
        assert store.search(A, query="coffee")[0].key == "1"
        assert store.search(A, query="green tea")[0].score == pytest.approx(1.0)


async def test_an_async_embedder_in_an_event_loop(vault: Path) -> None:
    index: IndexConfig = {"dims": DIMS, "embed": embed_later}
    async with AsyncMemOSStore.from_conn_string(vault, index=index) as store:
        await asyncio.gather(*(store.aput(A, str(n), {"text": f"tea number {n}"}) for n in range(5)))
        found = await asyncio.gather(*(store.asearch(A, query=f"number {n}", limit=1) for n in range(5)))
        assert [items[0].key for items in found] == list("01234")


def test_texts_and_queries_are_embedded_as_what_they_are(vault: Path) -> None:
    embed = Asked()
    with MemOSStore.from_conn_string(
        vault, index={"dims": DIMS, "embed": embed, "fields": ["title"]}
    ) as store:
        store.put(A, "k", {"title": "green tea", "rest": "secret"})
        store.search(A, query="what tea?")
    assert sorted(embed.asked) == [("document", "green tea"), ("query", "what tea?")]


def test_a_store_opened_again_does_not_embed_again(vault: Path) -> None:
    first, second = Asked(), Asked()
    for embed in (first, second):
        with MemOSStore.from_conn_string(vault, index={"dims": DIMS, "embed": embed}) as store:
            if embed is first:
                store.put(A, "k", {"text": "green tea"})
            assert store.search(A, query="tea")[0].key == "k"
    assert sorted(kind for kind, _ in first.asked) == ["document", "query"]
    assert [kind for kind, _ in second.asked] == ["query"]


def test_dims_are_checked(vault: Path) -> None:
    with MemOSStore.from_conn_string(vault, index={"dims": 3, "embed": words}) as store:
        store.put(A, "k", {"text": "green tea"})
        with pytest.raises(InvalidArgument, match=f"dims is 3, .* vectors of {DIMS} numbers"):
            store.search(A, query="tea")
        assert store.get(A, "k") is not None


@pytest.mark.parametrize(
    ("index", "named"),
    [
        ({"dims": 0, "embed": words}, "dims"),
        ({"dims": "384", "embed": words}, "dims"),
        ({"dims": 3, "embed": 5}, "embedder"),
        ({"dims": 3, "embed": "no-such-provider:model"}, "no-such-provider"),
        ({"fields": "title", "embed": words}, "fields"),
        ({"fields": ["title", 1], "embed": words}, "fields"),
    ],
)
def test_an_index_that_cannot_be_used_is_refused(vault: Path, index: Any, named: str) -> None:
    with pytest.raises(InvalidArgument, match=named), MemOSStore.from_conn_string(vault, index=index):
        pass


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("title", "T"),
        ("meta.author", "M"),
        ("list[0]", "one"),
        ("list[-1]", "three"),
        ("list[*]", "one\ntwo\nthree"),
        ("list[7]", ""),
        ("parts[*].name", "p\nq"),
        ("parts[1].tags[*]", "x\ny"),
        ("{title,meta.author}", "T\nM"),
        ("meta.*", "M\n2026"),
        ("*", None),
        ("missing.path", ""),
        ("meta", '{"author": "M", "year": 2026}'),
        ("number", "7"),
        ("nothing", ""),
    ],
)
def test_every_form_of_path(memos: MemOS, path: str, found: str | None) -> None:
    value = {
        "title": "T",
        "meta": {"author": "M", "year": 2026},
        "list": ["one", "two", "three"],
        "parts": [{"name": "p"}, {"name": "q", "tags": ["x", "y"]}],
        "number": 7,
        "nothing": None,
    }
    by_store, by_put = MemOSStore(memos, index={"fields": [path]}), MemOSStore(memos)
    by_store.put(A, "store", value)
    by_put.put(A, "put", value, index=[path])
    texts = {memos.at(A, key).text for key in ("store", "put")}  # type: ignore[union-attr]
    assert len(texts) == 1
    if found is not None:
        assert texts == {found}


def test_an_item_is_found_by_each_of_its_fields(memos: MemOS) -> None:
    """All fields are embedded as one text: what matches one of two fields still comes before what matches none, and
    an item that says nothing else comes before one that does."""
    store = MemOSStore(memos, index={"fields": ["title", "body"]})
    store.put(A, "title", {"title": "green tea", "body": "served in the morning with bread"})
    store.put(A, "body", {"title": "breakfast", "body": "bread and green tea"})
    store.put(A, "only", {"title": "green tea"})
    for n in range(5):
        store.put(A, f"none{n}", {"title": f"trip number {n}", "body": "by train to the sea"})
    found = [item.key for item in store.search(A, query="green tea", limit=8)]
    assert found[0] == "only"
    assert set(found[:3]) == {"only", "title", "body"}


@pytest.mark.parametrize("index", [True, "title", [1], [""], 5])
def test_an_index_of_a_put_that_cannot_be_used(memos: MemOS, index: Any) -> None:
    store = MemOSStore(memos)
    with pytest.raises(InvalidArgument, match="index"):
        store.put(A, "k", {"n": 1}, index=index)
    assert store.search(A) == []


@pytest.mark.parametrize(
    "query", ["tea \x00 \ud800", "\x00", '" OR * NEAR(', "'; DROP TABLE cubes; --", "%_"]
)
def test_a_query_may_be_any_text(vault_url: str, query: str) -> None:
    with MemOS.open(vault_url, embedder=words, index="exact") as memos:
        store = MemOSStore(memos)
        store.put(A, "k", {"text": "green tea"})
        assert [item.key for item in store.search(A, query=query)] == ["k"]
