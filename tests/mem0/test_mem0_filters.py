"""The filter language: its laws, and the same answers as mem0 over qdrant where both understand a filter."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mem0_kit import embed, real_mem0, texts

from mem0_memos import Memory
from mem0_memos.filters import condition
from memos_core.errors import InvalidArgument
from memos_core.memos import MemOS

KEYS = st.sampled_from(["a", "b", "c"])
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from(["x", "xy", "Xyz", "2024-05-01"])
)
VALUES = st.one_of(SCALARS, st.lists(SCALARS, max_size=3))
FIELDS = st.dictionaries(KEYS, VALUES, max_size=3)
NUMBERS = st.integers(-3, 3)
LEAVES = st.one_of(
    st.builds(lambda k, v: {k: v}, KEYS, SCALARS.filter(lambda v: v is not None)),
    st.builds(lambda k, v: {k: {"ne": v}}, KEYS, SCALARS),
    st.builds(lambda k, v: {k: {"in": v}}, KEYS, st.lists(SCALARS)),
    st.builds(lambda k, v: {k: {"nin": v}}, KEYS, st.lists(SCALARS)),
    st.builds(lambda k, o, v: {k: {o: v}}, KEYS, st.sampled_from(["gt", "gte", "lt", "lte"]), NUMBERS),
    st.builds(
        lambda k, o, v: {k: {o: v}}, KEYS, st.sampled_from(["contains", "icontains"]), st.sampled_from("xyX")
    ),
)
FILTERS = st.recursive(
    LEAVES,
    lambda inner: st.builds(
        lambda op, parts: {op: parts},
        st.sampled_from(["AND", "OR", "NOT"]),
        st.lists(inner, min_size=1, max_size=3),
    ),
    max_leaves=6,
)


@given(FILTERS, FILTERS, FIELDS)
def test_logic(p: dict[str, Any], q: dict[str, Any], fields: dict[str, Any]) -> None:
    a, b = condition(p)(fields), condition(q)(fields)
    assert condition({"AND": [p, q]})(fields) is (a and b)
    assert condition({"OR": [p, q]})(fields) is (a or b)
    assert condition({"NOT": [p, q]})(fields) is not (a or b)
    assert condition({"NOT": [{"NOT": [p]}]})(fields) is a
    assert condition({})(fields) is True


@given(FIELDS, SCALARS, st.lists(SCALARS, max_size=3))
def test_operators(fields: dict[str, Any], value: Any, values: list[Any]) -> None:
    there = condition({"a": "*"})(fields)
    assert there is (fields.get("a") is not None)
    equal = condition({"a": {"eq": value}})(fields)
    assert condition({"a": {"ne": value}})(fields) is (there and not equal)
    member = any(condition({"a": {"eq": v}})(fields) for v in values)
    assert condition({"a": {"in": values}})(fields) is member
    assert condition({"a": values})(fields) is member
    assert condition({"a": {"nin": values}})(fields) is (there and not member)
    if not there:
        assert not equal


@given(NUMBERS, NUMBERS)
def test_ranges(found: int, bound: int) -> None:
    fields = {"n": found}
    assert condition({"n": {"gt": bound}})(fields) is (found > bound)
    assert condition({"n": {"gte": bound}})(fields) is (found >= bound)
    assert condition({"n": {"lt": bound}})(fields) is (found < bound)
    assert condition({"n": {"lte": bound}})(fields) is (found <= bound)
    assert condition({"n": {"gte": bound, "lte": bound}})(fields) is (found == bound)


def test_dates_text_and_types() -> None:
    day = {"at": "2024-05-01T10:00:00+02:00", "n": 1, "flag": True, "tags": ["Red", "blue"]}
    assert condition({"at": {"gte": "2024-05-01", "lt": "2024-05-02T00:00:00Z"}})(day)
    assert not condition({"at": {"lt": 5}})(day)
    assert condition({"tags": {"contains": "Re"}})(day)
    assert not condition({"tags": {"contains": "re"}})(day)
    assert condition({"tags": {"icontains": "BLU"}})(day)
    assert condition({"tags": "blue"})(day)
    assert not condition({"flag": 1})(day)
    assert not condition({"n": True})(day)
    assert not condition({"n": {"contains": "1"}})(day)


@pytest.mark.parametrize(
    "filters",
    [
        {"k": {"like": 1}},
        {"k": {}},
        {"k": {"gt": "soon"}},
        {"k": {"gt": None}},
        {"k": {"in": "abc"}},
        {"k": {"contains": 1}},
        {"AND": {"a": 1}},
        {"OR": []},
        {"NOT": []},
        {"OR": ["a"]},
        {"AND": [{"OR": [{"k": {"like": 1}}]}]},
        {"$or": [{"a": 1}]},
        {1: 2},
        [],
    ],
)
def test_errors_come_before_matching(filters: Any) -> None:
    with pytest.raises(InvalidArgument):
        condition(filters)


SAMPLES: list[dict[str, Any]] = [
    {"n": n, "s": s, "ok": n % 2 == 0} for n in (-1, 0, 1, 2) for s in ("tea", "green tea", "coffee")
]
WORDS = st.sampled_from(["tea", "green tea", "coffee", "milk"])
SHARED = st.recursive(
    st.one_of(
        st.builds(lambda v: {"n": v}, NUMBERS),
        st.builds(lambda v: {"ok": v}, st.booleans()),
        st.builds(lambda v: {"s": {"ne": v}}, WORDS),
        st.builds(lambda o, v: {"s": {o: v}}, st.sampled_from(["in", "nin"]), st.lists(WORDS, min_size=1)),
        st.builds(lambda v: {"s": v}, st.lists(WORDS, min_size=1)),
        st.builds(lambda o, v: {"n": {o: v}}, st.sampled_from(["gt", "gte", "lt", "lte"]), NUMBERS),
        st.builds(lambda v, w: {"n": {"gt": v, "lte": w}}, NUMBERS, NUMBERS),
        st.builds(lambda v: {"s": {"contains": v}}, st.sampled_from(["tea", "green", "coffee"])),
    ),
    lambda inner: st.builds(
        lambda op, parts: {op: parts},
        st.sampled_from(["AND", "OR", "NOT"]),
        st.lists(inner, min_size=1, max_size=3),
    ),
    max_leaves=5,
)


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Memory, Any]]:
    folder: Path = tmp_path_factory.mktemp("mem0")
    where = str(folder / "vault")
    if request.param == "postgres":
        where = request.getfixturevalue("postgres_server").new_database()
    theirs = real_mem0(folder)
    with MemOS.open(where, embedder=embed) as memos:
        ours = Memory(memos)
        for i, metadata in enumerate(SAMPLES):
            for memory in (ours, theirs):
                memory.add(f"sample {i}", user_id="alice", metadata=metadata, infer=False)
        yield ours, theirs
    theirs.vector_store.client.close()
    theirs.close()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(filters=SHARED)
def test_same_answers_as_mem0(pair: tuple[Memory, Any], filters: dict[str, Any]) -> None:
    ours, theirs = pair
    asked = {"user_id": "alice", **filters}
    assert texts(ours.get_all(filters=asked)) == texts(theirs.get_all(filters=asked))
    assert texts(ours.search("sample", filters=asked)) == texts(ours.get_all(filters=asked))
