"""Cuts serialized values into pieces that are stored once each. Pure rules, no I/O.

A value is a list of entries: bytes that stand there as they are, and references to blobs. A blob is named by its hash.
It is a leaf (bytes) or a node (entries again). Written one after the other, with every reference replaced by what it
refers to, the entries are the serialized value, bit by bit. So reading is right whatever the cuts are; that equal parts
of two values become equal blobs is all that depends on them. Where a value is msgpack, a cut falls before and after
each large element and long text; elsewhere, and within long runs of small things, the content decides, so that what is
put in at the front does not move the cuts behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

Typed = tuple[str, bytes]  # what a serializer makes of a value: (type, bytes)

LARGE = 128  # an element, a text or a byte string of this size becomes a blob of its own
INLINE = 96  # entries that are no longer than this when written stand with the row that refers to them
_WHOLE = 2048  # a run of bytes up to this size is one leaf
_LONGEST = 128  # entries of a node
_DEPTH = 60  # containers in containers; what lies deeper is not looked into
_LEAF, _NODE = b"\x00", b"\x01"
# A run of bytes is cut behind every window of 32 bytes whose hash is rare: one in 1,024.
_RARE, _SHORTEST, _LONGEST_LEAF = np.uint32(1 << 22), 256, 8192
_HASHES = np.frombuffer(b"".join(blake2b(bytes((i,)), digest_size=4).digest() for i in range(256)), "<u4")


class Ref(bytes):
    """The name of a blob: its hash."""

    __slots__ = ()


Entry = bytes  # a `Ref`, or bytes that stand for themselves
Blobs = dict[Ref, bytes]
Namer = Callable[[bytes], Ref]  # the hash of a blob


@dataclass(frozen=True)
class Made:
    """A value, cut.

    Args:
        kind: the serializer's type. entries: at most `INLINE` bytes of them, when written.
        blobs: what they refer to, and what that refers to. elements: the same for elements that were cut before.
    """

    kind: str
    entries: Sequence[Entry]
    blobs: Blobs
    elements: Mapping[Ref, Blobs]


@dataclass(frozen=True)
class Element:
    """One element of a list, cut."""

    ref: Ref
    blobs: Blobs


class Damaged(Exception):
    """Stored bytes that are not what this module writes."""


# -- entries as bytes ------------------------------------------------------------------------------------------


def number(n: int) -> bytes:
    """A number from 0 in few bytes."""
    if n < 128:
        return bytes((n,))
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    out.append(n)
    return bytes(out)


def read_number(data: bytes, pos: int) -> tuple[int, int]:
    """The inverse of `number`, and where it ends."""
    n = data[pos]
    pos += 1
    if n < 128:
        return n, pos
    n &= 127
    shift = 7
    while True:
        b = data[pos]
        pos += 1
        n |= (b & 127) << shift
        if b < 128:
            return n, pos
        shift += 7


def write_entries(entries: Iterable[Entry]) -> bytes:
    """Entries as bytes: a zero and 16 bytes for a reference, else a length and bytes."""
    return b"".join(
        [b"\x00" + e if type(e) is Ref else number(len(e)) + e for e in entries if e or type(e) is Ref]
    )


def read_entries(data: bytes, pos: int = 0) -> list[Entry]:
    """The inverse of `write_entries`.

    Raises:
        Damaged: it wrote something else.
    """
    found: list[Entry] = []
    end = len(data)
    try:
        while pos < end:
            n, pos = read_number(data, pos)
            stop = pos + (n or 16)
            found.append(data[pos:stop] if n else Ref(data[pos:stop]))
            pos = stop
    except IndexError:
        pos = end + 1
    if pos != end:
        raise Damaged("a list of entries ends too early")
    return found


def children(blob: bytes) -> list[Entry] | None:
    """The entries of a node; None for a leaf.

    Raises:
        Damaged: it is neither.
    """
    if blob[:1] == _NODE:
        return read_entries(blob, 1)
    if blob[:1] == _LEAF:
        return None
    raise Damaged("a blob is neither leaf nor node")


def joined(entries: Iterable[Entry], blob: Callable[[Ref], bytes]) -> bytes:
    """The bytes that entries stand for.

    Args:
        blob: what a reference refers to.
    """
    return b"".join(_parts(entries, blob))


def _parts(entries: Iterable[Entry], blob: Callable[[Ref], bytes]) -> Iterator[bytes]:
    for entry in entries:
        if type(entry) is Ref:
            found = blob(entry)
            below = children(found)
            if below is None:
                yield found[1:]
            else:
                yield from _parts(below, blob)
        else:
            yield entry


# -- cutting ---------------------------------------------------------------------------------------------------


class Cutter:
    """Cuts values. The same bytes are always cut in the same way.

    Args:
        name: the hash of a blob.
    """

    def __init__(self, name: Namer) -> None:
        self._name = name

    def cut(self, value: Typed) -> Made:
        """A serialized value in pieces. Bytes that are not what their type says are cut as plain bytes."""
        kind, data = value
        if len(data) < INLINE:
            return Made(kind, [data] if data else [], {}, {})
        blobs: Blobs = {}
        entries = self._run(data, blobs)
        if kind == "msgpack":
            tried: Blobs = {}
            try:
                walk = _Walk(data, self, tried)
                end, found = walk.item(0, len(data), 0)
                if end == len(data):
                    entries, blobs = found or [data], tried
            except (IndexError, ValueError):
                pass
        return Made(kind, self._rooted(entries, blobs), blobs, {})

    def element(self, data: bytes) -> Element:
        """A large element of a list, which is one msgpack item, cut as `cut` cuts it inside the list."""
        blobs: Blobs = {}
        _, found = _Walk(data, self, blobs).item(0, len(data), 0)
        return Element(self.node(found or [data], blobs), blobs)

    def array(self, elements: Sequence[Element]) -> Made:
        """A msgpack array of elements, cut as `cut` cuts it whole."""
        blobs: Blobs = {}
        entries: list[Entry] = [_array_head(len(elements)), *[e.ref for e in elements]]
        inside = {e.ref: e.blobs for e in elements}
        return Made("msgpack", self._rooted(entries, blobs), blobs, inside)

    def node(self, entries: list[Entry], blobs: Blobs) -> Ref:
        """One reference for entries; what it refers to is added to `blobs`."""
        entries = self._grouped(entries, blobs)
        if len(entries) == 1:
            only = entries[0]
            return only if type(only) is Ref else self.leaf(only, blobs)
        return self._add(_NODE + write_entries(entries), blobs)

    def leaf(self, data: bytes, blobs: Blobs) -> Ref:
        """A reference for bytes."""
        return self._add(_LEAF + data, blobs)

    def run(self, data: bytes, blobs: Blobs) -> list[Entry]:
        """Bytes without a form, in leaves."""
        return self._run(data, blobs)

    def _run(self, data: bytes, blobs: Blobs) -> list[Entry]:
        if len(data) <= _WHOLE:
            return [self.leaf(data, blobs)]
        return [self.leaf(part, blobs) for part in _runs(data)]

    def _add(self, blob: bytes, blobs: Blobs) -> Ref:
        ref = self._name(blob)
        blobs[ref] = blob
        return ref

    def _rooted(self, entries: list[Entry], blobs: Blobs) -> Sequence[Entry]:
        entries = self._grouped(entries, blobs)
        if len(entries) == 1 and type(entries[0]) is Ref:
            return entries
        written = write_entries(entries)
        return entries if len(written) <= INLINE else [self._add(_NODE + written, blobs)]

    def _grouped(self, entries: list[Entry], blobs: Blobs) -> list[Entry]:
        """The same in few entries: neighbours go into nodes, again and again. The references themselves say where a
        node ends, so that a change moves only the ends beside it. A short head (how long the list is) changes with
        every step: it stays outside."""
        head: list[Entry] = []
        if entries and type(entries[0]) is not Ref and len(entries[0]) < 16:
            head, entries = entries[:1], entries[1:]
        while len(entries) > 16:
            groups: list[list[Entry]] = [[]]
            size = 0
            for entry in entries:
                groups[-1].append(entry)
                size += 1
                if (size > 1 and type(entry) is Ref and entry[0] < 20) or size >= _LONGEST:
                    groups.append([])
                    size = 0
            if not groups[-1]:
                groups.pop()
            entries = [
                group[0]
                if len(group) == 1 and type(group[0]) is Ref
                else self._add(_NODE + write_entries(group), blobs)
                for group in groups
            ]
        return head + entries


def _runs(data: bytes) -> Iterator[bytes]:
    """A run of bytes in parts. Where one ends depends on the bytes before it, and not on where they stand."""
    hashes = _HASHES[np.frombuffer(data, np.uint8)]
    for step in (1, 2, 4, 8, 16):  # then each is that of the 32 bytes that end there
        hashes[step:] += hashes[:-step] << np.uint32(step)
    start = 0
    for end in [*(np.flatnonzero(hashes < _RARE) + 1).tolist(), len(data)]:
        while end - start > _LONGEST_LEAF:
            yield data[start : start + _LONGEST_LEAF]
            start += _LONGEST_LEAF
        if end - start >= _SHORTEST or (end == len(data) and end > start):
            yield data[start:end]
            start = end


# -- msgpack, as far as one must know it to find its parts -----------------------------------------------------

# By the first byte: the size of items of one size; how many bytes say the length; what follows ("s" bytes, "e" the
# same after a type, "a" items, "m" pairs of items).
_FIXED = [0] * 256
_LENGTH: dict[int, tuple[int, str]] = {}
for _b in (*range(0x80), *range(0xE0, 0x100), 0xC0, 0xC2, 0xC3):
    _FIXED[_b] = 1
for _b in range(0xA0, 0xC0):
    _FIXED[_b] = 1 + (_b & 31)
for _b, _size in zip((0xCA, 0xCB, *range(0xCC, 0xD4)), (5, 9, 2, 3, 5, 9, 2, 3, 5, 9), strict=True):
    _FIXED[_b] = _size
for _b, _size in zip(range(0xD4, 0xD9), (3, 4, 6, 10, 18), strict=True):
    _FIXED[_b] = _size
for _b, _size, _what in (
    *((0xC4 + i, 1 << i, "s") for i in range(3)),
    *((0xC7 + i, 1 << i, "e") for i in range(3)),
    *((0xD9 + i, 1 << i, "s") for i in range(3)),
    *((0xDC + i, 2 << i, "a") for i in range(2)),
    *((0xDE + i, 2 << i, "m") for i in range(2)),
):
    _LENGTH[_b] = (_size, _what)


def _array_head(n: int) -> bytes:
    if n < 16:
        return bytes((0x90 + n,))
    return b"\xdc" + n.to_bytes(2, "big") if n < 1 << 16 else b"\xdd" + n.to_bytes(4, "big")


@dataclass(frozen=True)
class _Child:
    """A large item in a container: from where to where, its entries, and whether it is a container itself (or one
    that is wrapped in a type)."""

    start: int
    end: int
    entries: list[Entry]
    what: str


class _Walk:
    """Goes through one serialized value."""

    def __init__(self, data: bytes, cutter: Cutter, blobs: Blobs) -> None:
        self._data = data
        self._cutter = cutter
        self._blobs = blobs

    def item(self, pos: int, limit: int, depth: int) -> tuple[int, list[Entry] | None]:
        """Where the item at `pos` ends, and its entries where it is large.

        Raises:
            ValueError, IndexError: it does not end before `limit`, or is no msgpack.
        """
        end, entries, _ = self._item(pos, limit, depth)
        return end, entries

    def _item(self, pos: int, limit: int, depth: int) -> tuple[int, list[Entry] | None, str]:
        data = self._data
        first = data[pos]
        if fixed := _FIXED[first]:
            return self._within(pos + fixed, limit), None, "s"
        if first < 0xA0:
            return self._container(pos, pos + 1, (first & 15) * (2 if first < 0x90 else 1), limit, depth)
        size, what = _LENGTH.get(first, (0, ""))
        if not size:
            raise ValueError("no msgpack")
        start = pos + 1 + size
        n = int.from_bytes(data[pos + 1 : start], "big")
        if what in "am":
            return self._container(pos, start, n * (2 if what == "m" else 1), limit, depth)
        if what == "e":
            start += 1
        end = self._within(start + n, limit)
        if end - pos < LARGE:
            return end, None, what
        inner = (
            self._wrapped(start, end, depth)
            if what == "e"
            else self._cutter.run(data[start:end], self._blobs)
        )
        return end, _merged([data[pos:start], *inner]), what

    def _wrapped(self, start: int, end: int, depth: int) -> list[Entry]:
        """What a typed item holds: mostly msgpack again."""
        if depth < _DEPTH:
            try:
                stop, entries = self.item(start, end, depth + 1)
                if stop == end:
                    return entries or [self._data[start:end]]
            except (ValueError, IndexError):
                pass
        return self._cutter.run(self._data[start:end], self._blobs)

    def _container(
        self, pos: int, start: int, n: int, limit: int, depth: int
    ) -> tuple[int, list[Entry] | None, str]:
        if depth > _DEPTH or n > limit - start:
            raise ValueError("too deep, or longer than its content")
        data, at = self._data, start
        large: list[_Child] = []
        for _ in range(n):
            fixed = _FIXED[data[at]]
            if fixed:
                at += fixed
                continue
            end, entries, what = self._item(at, limit, depth + 1)
            if entries is not None:
                large.append(_Child(at, end, entries, what))
            at = end
        end = self._within(at, limit)
        if end - pos < LARGE:
            return end, None, "c"
        return end, self._parts(pos, end, large), "c"

    def _parts(self, pos: int, end: int, large: list[_Child]) -> list[Entry]:
        """The entries of a container: each large element becomes one reference, a single one stands as it is."""
        entries: list[Entry] = []
        at = pos
        for child in large:
            entries += self._literal(at, child.start)
            if child.what == "e" or (child.what == "c" and len(large) > 1):
                entries.append(self._cutter.node(child.entries, self._blobs))
            else:
                entries += child.entries
            at = child.end
        return _merged(entries + self._literal(at, end))

    def _literal(self, start: int, end: int) -> list[Entry]:
        if end - start > _WHOLE:
            return self._cutter.run(self._data[start:end], self._blobs)
        return [self._data[start:end]] if end > start else []

    @staticmethod
    def _within(end: int, limit: int) -> int:
        if end > limit:
            raise ValueError("an item goes on behind the end")
        return end


def _merged(entries: list[Entry]) -> list[Entry]:
    """The same with bytes that follow bytes put together."""
    found: list[Entry] = []
    for entry in entries:
        if found and type(entry) is not Ref and type(found[-1]) is not Ref:
            found[-1] += entry
        else:
            found.append(entry)
    return found
