"""Cutting values: what is joined again is what was cut, and a small change makes few new parts."""

from __future__ import annotations

import random
from hashlib import blake2b
from typing import Any

import ormsgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memos_core.vault.chunking import (
    INLINE,
    Cutter,
    Damaged,
    Made,
    Ref,
    children,
    joined,
    read_entries,
    write_entries,
)


def name(blob: bytes) -> Ref:
    return Ref(blake2b(blob, digest_size=16).digest())


CUTTER = Cutter(name)
WORDS = random.Random(3).choices(["the", "harbour", "keeps", "a", "record", "of", "every", "boat"], k=400_000)


def text(n: int, size: int) -> str:
    """The n-th of many different texts of this size."""
    return f"{n}: " + " ".join(WORDS[n * 97 : n * 97 + size])[:size]


def whole(made: Made) -> bytes:
    """What a cut value stands for."""
    return joined(made.entries, made.blobs.__getitem__)


def cut(value: Any) -> Made:
    return CUTTER.cut(("msgpack", ormsgpack.packb(value)))


def fresh(before: Any, after: Any) -> tuple[int, int]:
    """How many parts the second value has that the first has not, and their bytes."""
    old, new = cut(before).blobs, cut(after).blobs
    parts = [blob for ref, blob in new.items() if ref not in old]
    return len(parts), sum(map(len, parts))


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=300)
    | st.binary(max_size=300),
    lambda inner: st.lists(inner, max_size=40) | st.dictionaries(st.text(max_size=8), inner, max_size=20),
    max_leaves=60,
)  # fmt: skip


@given(plain)
def test_msgpack_is_joined_as_it_was(value: Any) -> None:
    data = ormsgpack.packb(value)
    assert whole(CUTTER.cut(("msgpack", data))) == data


@given(st.binary(max_size=5000), st.sampled_from(["msgpack", "bytes", "json", "aes"]))
def test_any_bytes_are_joined_as_they_were(data: bytes, kind: str) -> None:
    made = CUTTER.cut((kind, data))
    assert whole(made) == data
    assert len(write_entries(made.entries)) <= INLINE


@given(st.lists(plain, min_size=1, max_size=8), st.data())
def test_damaged_msgpack_is_joined_as_it_was(value: list[Any], data: st.DataObject) -> None:
    packed = bytearray(ormsgpack.packb(value * 20))
    for _ in range(3):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(packed)))
    assert whole(CUTTER.cut(("msgpack", bytes(packed[:end])))) == bytes(packed[:end])


@pytest.mark.parametrize("size", [3, 10, 100, 3000])
def test_deep_and_long_values(size: int) -> None:
    deep: Any = text(1, 500)
    for _ in range(size):
        deep = [deep, 1] if size % 2 else {"a": deep}
    data = ormsgpack.packb(deep) if size <= 100 else b"\x91" * size + b"\x01"
    assert whole(CUTTER.cut(("msgpack", data))) == data
    long = b"\xdd" + (2**32 - 1).to_bytes(4, "big") + b"\x01" * 500  # says that it is longer than it is
    assert whole(CUTTER.cut(("msgpack", long))) == long


@pytest.mark.parametrize("n", [20, 200, 2000])
@pytest.mark.parametrize("kind", ["texts", "messages", "numbers", "small dicts"])
def test_a_small_change_makes_few_new_parts(n: int, kind: str) -> None:
    make: dict[str, Any] = {
        "texts": lambda i: text(i, 300),
        "messages": lambda i: {"content": text(i, 400), "id": f"id-{i}", "more": {"role": "user", "n": i}},
        "numbers": lambda i: i * 7919,
        "small dicts": lambda i: {"id": i, "name": text(i, 20)},
    }
    items = [make[kind](i) for i in range(n)]
    one = make[kind](n + 5)
    middle = [*items[: n // 2], one, *items[n // 2 :]]
    size = len(ormsgpack.packb(one))
    for after in ([*items, one], [one, *items], middle, items[:-1], items[1:]):
        parts, bytes_ = fresh(items, after)
        assert parts <= 16, parts
        assert bytes_ <= 12_000 + size, bytes_


def test_a_change_in_a_long_text_makes_few_new_parts() -> None:
    said = " ".join(WORDS[:40_000])
    assert len(cut(said).blobs) > 40
    for after in ("x" + said, said + "x", said[:90_000] + "something" + said[90_000:]):
        assert fresh(said, after)[0] <= 12


def test_equal_elements_are_one_part() -> None:
    message = {"content": text(1, 600), "id": "a"}
    other = {"content": text(2, 600), "id": "b"}
    assert len(cut([message, other] * 50).blobs) < len(cut([message, other]).blobs) + 30
    # The same message in a list, in a list in a dict, and alone: its text is one part.
    texts = [ref for ref, blob in cut([message, other]).blobs.items() if text(1, 600).encode() in blob]
    assert len(texts) == 1
    for value in ({"messages": [message]}, [message], {"a": message, "b": other}):
        assert texts[0] in cut(value).blobs


def test_elements_that_were_cut_before_are_cut_alike() -> None:
    packed = [
        ormsgpack.packb(ormsgpack.Ext(5, ormsgpack.packb({"c": text(i, 500), "i": i}))) for i in range(100)
    ]
    array = b"\xdc\x00\x64" + b"".join(packed)
    made, again = CUTTER.cut(("msgpack", array)), CUTTER.array([CUTTER.element(data) for data in packed])
    assert again.entries == made.entries
    inside = {ref: blob for blobs in again.elements.values() for ref, blob in blobs.items()}
    assert inside | again.blobs == made.blobs


@given(st.lists(st.binary(min_size=1, max_size=200) | st.binary(min_size=16, max_size=16).map(Ref)))
def test_entries_are_read_as_they_were_written(entries: list[bytes]) -> None:
    found = read_entries(write_entries(entries))
    assert found == entries
    assert [type(e) for e in found] == [type(e) for e in entries]


@pytest.mark.parametrize("bad", [b"\x00short", b"\x05ab", b"\x80", b"\xff\xff\xff\xff\xff"])
def test_damaged_entries_are_refused(bad: bytes) -> None:
    with pytest.raises(Damaged):
        read_entries(bad)
    with pytest.raises(Damaged):
        children(b"\x01" + bad)
    with pytest.raises(Damaged):
        children(b"\x07")
