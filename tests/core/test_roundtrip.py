"""What is written is read back equal, after reopening; what cannot be kept faithfully is refused whole."""

from __future__ import annotations

import tempfile
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, computed_field

from memos_core import MemCube, MemOS, Plaintext
from memos_core.errors import InvalidArgument

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
LABEL = st.text(st.characters(exclude_categories=["Cs"], min_codepoint=32), min_size=1, max_size=9)
NAME = TEXT.filter(lambda text: "\0" not in text)  # names go into keys and indexes
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Inner(BaseModel):
    when: date
    numbers: tuple[int, ...]


class Trip(BaseModel):
    """Everything that makes a model's JSON differ from its fields: aliases, enums, sets, computed fields."""

    model_config = ConfigDict(extra="forbid")

    place: str = Field(alias="where")
    price: Decimal
    colours: frozenset[Colour]
    inner: Inner | None = None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def shout(self) -> str:
        return self.place.upper()


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)

    at: datetime
    pair: tuple[int, int]


TRIPS = st.builds(
    Trip,
    where=TEXT,
    price=st.decimals(allow_nan=False, allow_infinity=False, places=2),
    colours=st.frozensets(st.sampled_from(Colour)),
    inner=st.none() | st.builds(Inner, when=st.dates(), numbers=st.tuples(st.integers(), st.integers())),
)
STRICT = st.builds(
    Strict, at=st.datetimes(timezones=st.just(UTC)), pair=st.tuples(st.integers(), st.integers())
)


def through_disk(cubes: list[dict[str, Any]], *structures: type[BaseModel]) -> list[MemCube]:
    """Write cubes, close, open again, read."""
    with tempfile.TemporaryDirectory() as folder:
        with MemOS.open(Path(folder, "v"), user="u", embedder=None, structures=structures) as memos:
            written = [memos.write(**details) for details in cubes]
        with MemOS.open(Path(folder, "v"), user="u", embedder=None, structures=structures) as memos:
            read = [memos.read(cube.id) for cube in written]
            assert read == written
            return read


@settings(max_examples=30, deadline=None)
@given(st.lists(JSON.filter(lambda v: not isinstance(v, str)), min_size=1, max_size=5))
def test_any_json_is_read_back_equal(values: list[Any]) -> None:
    found = through_disk([{"content": value} for value in values])
    assert [cube.data for cube in found] == values
    assert [type(cube.data) for cube in found] == [type(value) for value in values]


@settings(max_examples=30, deadline=None)
@given(st.lists(TEXT.filter(str.strip), min_size=1, max_size=5))
def test_any_text_is_read_back_equal(texts: list[str]) -> None:
    assert [cube.text for cube in through_disk([{"content": text} for text in texts])] == texts


@settings(max_examples=25, deadline=None)
@given(st.lists(TRIPS | STRICT, min_size=1, max_size=3))
def test_typed_structures_are_read_back_equal_and_typed(values: list[BaseModel]) -> None:
    found = through_disk([{"content": value} for value in values], Trip, Strict)
    assert [cube.data for cube in found] == values


@settings(max_examples=25, deadline=None)
@given(
    st.fixed_dictionaries(
        {
            "content": st.just("a fact"),
            "namespace": st.lists(LABEL, max_size=4).map(tuple),
            "tags": st.lists(NAME, max_size=3).map(tuple),
            "sensitivity": st.lists(NAME, max_size=3).map(tuple),
            "priority": st.integers(-(2**40), 2**40),
            "semantic_type": st.sampled_from(["fact", "event", "ünïcode"]),
            "ttl": st.none() | st.timedeltas(timedelta(hours=1), timedelta(days=99_999)),
            "spoken_at": st.none() | st.datetimes(timezones=st.just(UTC)),
            "valid_from": st.none() | st.datetimes(timezones=st.just(UTC)),
            "origin": st.sampled_from(["user", "tool", "import"]),
        }
    )
)
def test_every_detail_is_read_back_equal(details: dict[str, Any]) -> None:
    [found] = through_disk([details])
    assert (found.namespace, found.header.descriptive.tags) == (details["namespace"], details["tags"])
    assert found.header.governance.priority == details["priority"]
    assert isinstance(found.payload, Plaintext)
    assert found.payload.spoken_at == details["spoken_at"]


def test_a_structure_this_process_does_not_know_is_plain_data_and_stays_typed(tmp_path: Path) -> None:
    trip = Trip(where="Oslo", price=Decimal("1.50"), colours=frozenset({Colour.RED}))
    with MemOS.open(tmp_path, user="u", embedder=None, structures=[Trip]) as memos:
        cube = memos.write(trip, key="k")
    with MemOS.open(tmp_path, user="u", embedder=None) as stranger:
        assert stranger.read(cube.id).data["place"] == "Oslo"
        stranger.update(cube.id, tags=["seen"])
    with MemOS.open(tmp_path, user="u", embedder=None, structures=[Trip]) as memos:
        assert memos.read(cube.id).data == trip
        assert [v.data for v in memos.history(cube.id)] == [trip, trip]


def test_a_newer_schema_is_plain_data(tmp_path: Path) -> None:
    with MemOS.open(tmp_path, user="u", embedder=None) as memos:
        memos.register(Strict, version=2)
        cube = memos.write(Strict(at=datetime(2026, 1, 1, tzinfo=UTC), pair=(1, 2)))
    with MemOS.open(tmp_path, user="u", embedder=None, structures=[Strict]) as older:
        assert older.read(cube.id).data == {"at": "2026-01-01T00:00:00Z", "pair": [1, 2]}


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def loop() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


class Loose(BaseModel):
    anything: Any


@pytest.mark.parametrize(
    "details",
    [
        {"content": {"x": float("nan")}},
        {"content": [float("inf")]},
        {"content": {"x": "\ud800"}},
        {"content": {"x": "\ud800"}, "text": "fine"},
        {"content": {"\udfff": 1}, "text": "fine"},
        {"content": "lone \udc80"},
        {"content": "fine", "text": "lone \udc80"},
        {"content": "fine", "key": "\ud800"},
        {"content": "fine", "namespace": ("a", "\ud800")},
        {"content": "fine", "tags": ["\ud800"]},
        {"content": "fine", "semantic_type": "\ud800"},
        {"content": {1: "a"}},
        {"content": {"a": [{None: 1}]}},
        {"content": {1, 2}},
        {"content": {"x": object()}},
        {"content": b"bytes"},
        {"content": deep(5_000)},
        {"content": deep(101)},
        {"content": loop()},
        {"content": ""},
        {"content": " \n"},
        {"content": Loose(anything=float("nan"))},
        {"content": Loose(anything=object())},
        {"content": Strict(at=datetime(2026, 1, 1, tzinfo=UTC), pair=(1, 2))},  # not registered
        {"content": "fine", "ttl": timedelta(0)},
        {"content": "fine", "ttl": timedelta(seconds=-1)},
        {"content": "fine", "ttl": timedelta.max},
        {"content": "fine", "spoken_at": datetime(2026, 1, 1)},
        {"content": "fine", "valid_to": datetime(2026, 1, 1)},
        {"content": "fine", "namespace": ("a", "")},
        {"content": "fine", "namespace": ("a\x1fb",)},
        {"content": "fine", "namespace": "abc"},
        {"content": "fine", "tags": "abc"},
        {"content": "fine", "priority": "high"},
        {"content": "fine", "origin": "nowhere"},
    ],
)
def test_what_cannot_be_kept_is_refused_and_nothing_is_stored(memos: MemOS, details: dict[str, Any]) -> None:
    memos.register(Loose)
    view = memos.scoped(user="u")
    good = view.cube("a good one")
    with pytest.raises(InvalidArgument):
        view.put([good, view.cube(**details)])
    with pytest.raises(InvalidArgument):
        view.write(**details)
    assert view.find() == []
    assert view.audit_log() == []


def test_depth_of_100_is_kept_and_can_be_changed(memos: MemOS) -> None:
    cube = memos.write(deep(99), text="deep")
    memos.update(cube.id, tags=["still"])
    assert [v.data for v in memos.history(cube.id)] == [deep(99), deep(99)]


@pytest.mark.parametrize("bad", ["", "\ud800", "x" * 100_000, "'; DROP TABLE cubes; --", "\x00"])
def test_odd_ids_are_simply_not_there(memos: MemOS, bad: str) -> None:
    from memos_core.errors import MemOSError

    for call in (memos.read, memos.history):
        with pytest.raises(MemOSError):
            call(bad)
    assert memos.namespaces() == []
