"""Typed namespaces: values that must be pydantic models, as JSON for LangGraph and as objects for MemOS."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any, Literal

import pytest
from langgraph.store.base import PutOp
from pydantic import BaseModel, ConfigDict, Field

from langgraph.store.memos import AsyncMemOSStore, MemOSStore
from memos_core.errors import InvalidArgument, SchemaError
from memos_core.memos import MemOS


class Address(BaseModel):
    city: str
    floor: int = 0


class Taste(BaseModel):
    theme: Literal["dark", "light"]
    since: date | None = None
    size: int = Field(default=12, ge=6)
    home: Address | None = None


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")

    name: str


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)

    day: date
    pair: tuple[int, int]


class Renamed(BaseModel):
    user_name: str = Field(alias="userName")


TASTES = ("users", "ada", "tastes")
SCHEMAS = {
    ("users", "*", "tastes"): Taste,
    ("open",): Open,
    ("strict",): Strict,
    ("renamed",): Renamed,
    ("*", "*", "tastes"): Strict,  # the first pattern that matches counts
}


@pytest.fixture
def memos(vault_url: str) -> Iterator[MemOS]:
    """On SQLite and on PostgreSQL."""
    with MemOS.open(vault_url, embedder=None) as opened:
        yield opened


@pytest.fixture
def store(memos: MemOS) -> MemOSStore:
    return MemOSStore(memos, schemas=SCHEMAS)


def value(store: MemOSStore, namespace: tuple[str, ...], key: str = "k") -> Any:
    found = store.get(namespace, key)
    return found.value if found else None


def test_a_value_reads_as_json_and_is_an_object_for_memos(store: MemOSStore) -> None:
    store.put(TASTES, "k", {"theme": "dark", "since": "2026-11-26", "home": {"city": "Oslo"}})
    whole = {"theme": "dark", "since": "2026-11-26", "size": 12, "home": {"city": "Oslo", "floor": 0}}
    assert value(store, TASTES) == whole
    assert [item.value for item in store.search(("users",), filter={"home": {"city": "Oslo"}})] == [whole]
    assert [item.value for item in store.search(("users",), query="Oslo")] == [whole]
    cube = store.memos.at(TASTES, "k")
    assert cube is not None
    assert cube.data == Taste(theme="dark", since=date(2026, 11, 26), home=Address(city="Oslo"))
    assert (cube.payload.structure, cube.semantic_type) == ("Taste", "item")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ({}, "theme"),
        ({"theme": "pink"}, "theme"),
        ({"theme": "dark", "size": 3}, "size"),
        ({"theme": "dark", "size": "large"}, "size"),
        ({"theme": "dark", "home": {"floor": 1}}, "home.city"),
        ({"theme": "dark", "colour": "red"}, "colour"),
        ({"theme": "dark", "home": {"city": "Oslo", "zip": "0150"}}, "home.zip"),
    ],
)
def test_a_value_that_does_not_validate_is_refused_by_its_field(
    store: MemOSStore, bad: dict[str, Any], field: str
) -> None:
    store.put(TASTES, "k", {"theme": "light"})
    with pytest.raises(SchemaError, match=rf"'k'.*'tastes'.*Taste: {field}:"):
        store.put(TASTES, "k", bad)
    with pytest.raises(SchemaError, match=field):
        store.batch([PutOp(("other",), "k", {"n": 1}), PutOp(TASTES, "k", bad)])
    assert value(store, TASTES) == {"theme": "light", "since": None, "size": 12, "home": None}
    assert value(store, ("other",)) is None


def test_other_namespaces_take_any_json(store: MemOSStore) -> None:
    for namespace in [("users", "ada"), ("users", "ada", "tastes", "more"), ("open", "x")]:
        store.put(namespace, "k", {"theme": "pink"})
        assert value(store, namespace) == {"theme": "pink"}


def test_models_of_several_kinds(store: MemOSStore) -> None:
    store.put(("open",), "k", {"name": "Ada", "more": [1, {"x": None}]})
    assert value(store, ("open",)) == {"name": "Ada", "more": [1, {"x": None}]}
    store.put(("strict",), "k", {"day": "2026-11-26", "pair": [1, 2]})
    assert value(store, ("strict",)) == {"day": "2026-11-26", "pair": [1, 2]}
    with pytest.raises(SchemaError, match=r"pair\.0"):
        store.put(("strict",), "k", {"day": "2026-11-26", "pair": ["1", 2]})
    for given in ({"userName": "ada"}, {"user_name": "ada"}):
        store.put(("renamed",), "k", given)
        assert value(store, ("renamed",)) == {"user_name": "ada"}


def test_a_store_without_the_schema_reads_the_same_json(store: MemOSStore, vault_url: str) -> None:
    store.put(TASTES, "k", {"theme": "dark"})
    with MemOS.open(vault_url, embedder=None) as again:
        found = MemOSStore(again).get(TASTES, "k")
        assert found is not None
        assert found.value == value(store, TASTES)


def test_items_from_before_the_schema_are_read_as_they_are(memos: MemOS) -> None:
    MemOSStore(memos).put(TASTES, "k", {"theme": "pink"})
    typed = MemOSStore(memos, schemas=SCHEMAS)
    assert value(typed, TASTES) == {"theme": "pink"}
    typed.put(TASTES, "k", {"theme": "dark"})
    assert value(typed, TASTES)["size"] == 12


def test_index_and_ttl_of_a_typed_value(memos: MemOS) -> None:
    store = MemOSStore(memos, schemas=SCHEMAS, index={"fields": ["home.city"]})
    store.put(TASTES, "k", {"theme": "dark", "home": {"city": "Oslo"}}, ttl=5)
    cube = memos.at(TASTES, "k")
    assert cube is not None
    assert cube.text == "Oslo"
    assert cube.header.governance.ttl is not None


async def test_async(vault: Path) -> None:
    async with AsyncMemOSStore.from_conn_string(vault, index={"embed": "none"}, schemas=SCHEMAS) as store:
        await store.aput(TASTES, "k", {"theme": "dark"})
        with pytest.raises(SchemaError, match="theme"):
            await store.aput(TASTES, "k", {"theme": 1})
        assert (await store.aget(TASTES, "k")).value["size"] == 12  # type: ignore[union-attr]


def test_schemas_that_cannot_be_used(memos: MemOS) -> None:
    for bad in ({"users": Taste}, {(): Taste}, {("users", 1): Taste}, {("users",): dict}):
        with pytest.raises(InvalidArgument):
            MemOSStore(memos, schemas=bad)  # type: ignore[arg-type]
    MemOSStore(memos, schemas={("a",): Taste})
    others = [type("Taste", (BaseModel,), {}) for _ in range(2)]
    MemOSStore(memos, schemas={("a",): others[0]})
    with pytest.raises(InvalidArgument, match=r"\.Taste' is already"):
        MemOSStore(memos, schemas={("a",): others[1]})


def test_a_model_may_have_the_name_of_one_of_ours(memos: MemOS, vault_url: str) -> None:
    class Preference(BaseModel):
        theme: str

    MemOSStore(memos, schemas={("a",): Preference}).put(("a",), "k", {"theme": "dark"})
    cube = memos.at(("a",), "k")
    assert cube is not None
    assert cube.data == Preference(theme="dark")
    with MemOS.open(vault_url, embedder=None) as again:
        MemOSStore(again, schemas={("a",): Preference})
        found = again.at(("a",), "k")
        assert found is not None
        assert found.data == Preference(theme="dark")


def test_the_code_of_the_documentation_runs(memos: MemOS) -> None:
    page = (Path(__file__).parents[2] / "docs" / "langgraph.md").read_text()
    [block] = [
        found
        for found in re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
        if "schemas=" in found
    ]
    names: dict[str, Any] = {"memos": memos, "MemOSStore": MemOSStore, "__name__": "docs"}
    with pytest.raises(SchemaError, match="theme: Input should be a valid string"):
        exec(compile(block, "langgraph.md", "exec"), names)
    assert value(names["store"], ("users", "maya", "preferences"), "ui") == {"theme": "dark", "size": 12}
