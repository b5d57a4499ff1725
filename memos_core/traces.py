"""Looks for bytes in files, whatever the files' formats: proof that what was erased is gone.

Everything to look for is cut into windows of up to `WIDTH` bytes, and every offset of every file is compared with
all windows at once: eight bytes through a table of bits, then the rest through one 64-bit hash, then byte by byte.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]
Where = tuple[str, str]  # (cube id or "", what it was: "text", "vector", …)
Found = tuple[int, int]  # (number of the fragment, a place)

SHORTEST = 12  # what is shorter may stand anywhere by chance
WIDTH = 24
_PREFIX = 8
_CHUNK = 1 << 22
_STRIDE = 16  # so that every run of WIDTH + 15 bytes that survives holds a whole window
_MOST = 4096  # windows of one text; a longer one is sampled more thinly
_MOST_BINARY = 16  # of a vector, which survives whole or in pieces of pages
_FEW = 4  # windows of fewer distinct bytes say nothing (zeros, spaces)
_MIX = np.uint64(0x9E3779B97F4A7C15)
_MIX2 = np.uint64(0xC2B2AE3D27D4EB4F)
_MIX3 = np.uint64(0x165667B19E3779F9)
# What JSON writes in another form.
_ESCAPED = re.compile(r'["\\\x00-\x1f\x7f\ud800-\udfff]+')


@dataclass(frozen=True)
class Trace:
    """Something erased that is still in a file.

    Args:
        file: its path; for a row that a database still returns, the table.
        what: "text", "vector", "KV cache", …  cube_id: of the cube it belonged to, or "".
        at: where in the file, in bytes.
    """

    file: str
    what: str
    cube_id: str
    at: int = 0


def pieces(text: str) -> Iterator[bytes]:
    """The parts of a text that stand in a file as they are, also inside JSON, and inside JSON in JSON."""
    for part in _ESCAPED.split(text):
        if part:
            yield part.encode()


class Fragments:
    """What to look for: byte strings, each with where it comes from."""

    def __init__(self) -> None:
        self._parts: dict[bytes, tuple[Where, int]] = {}
        self.short = 0

    def add_text(self, text: str, cube_id: str = "", what: str = "text") -> None:
        """Look for a text, in plain or in JSON."""
        for piece in pieces(text):
            self.add(piece, cube_id, what)

    def add(self, content: bytes, cube_id: str = "", what: str = "text", most: int = _MOST) -> None:
        """Look for bytes, in at most so many places of them. What is shorter than `SHORTEST` is only counted."""
        if len(content) < SHORTEST:
            self.short += 1
        else:
            self._parts.setdefault(content, ((cube_id, what), most))

    def add_binary(self, content: bytes, cube_id: str = "", what: str = "vector") -> None:
        """Look for bytes that are no text."""
        self.add(content, cube_id, what, _MOST_BINARY)

    def __len__(self) -> int:
        return len(self._parts)

    def items(self) -> Iterable[tuple[bytes, Where, int]]:
        """The distinct byte strings, where each was first seen, and how many windows it gets."""
        return ((content, where, most) for content, (where, most) in self._parts.items())


class Searcher:
    """Searches byte strings for all fragments at once.

    Args:
        fragments: what to look for.
    """

    def __init__(self, fragments: Fragments) -> None:
        self._content: list[bytes] = []
        self._where: list[Where] = []
        starts: list[npt.NDArray[np.int64]] = []
        owners: list[npt.NDArray[np.int64]] = []
        sizes: list[npt.NDArray[np.int64]] = []
        base = 0
        for n, (content, where, most) in enumerate(fragments.items()):
            self._content.append(content)
            self._where.append(where)
            at = _offsets(len(content), most)
            starts.append(at + base)
            owners.append(np.full(len(at), n, np.int64))
            sizes.append(np.full(len(at), min(len(content), WIDTH), np.int64))
            base += len(content)
        self.bare: set[int] = set()  # fragments of which no window says anything
        self._groups: list[_Group] = []
        self._table = np.zeros(1, np.bool_)
        self._shift = np.uint64(63)
        if not starts:
            return
        whole = b"".join(self._content) + bytes(_PREFIX)
        self._build(whole, np.concatenate(starts), np.concatenate(owners), np.concatenate(sizes))

    def _build(
        self,
        whole: bytes,
        starts: npt.NDArray[np.int64],
        owners: npt.NDArray[np.int64],
        sizes: npt.NDArray[np.int64],
    ) -> None:
        view = _every(whole)
        telling = _telling(whole, starts, sizes)
        self.bare = set(owners.tolist()) - set(owners[telling].tolist())
        starts, owners, sizes = starts[telling], owners[telling], sizes[telling]
        bits = min(26, max(16, int(np.ceil(np.log2(max(1, len(starts))))) + 4))
        self._shift = np.uint64(64 - bits)
        self._table = np.zeros(1 << bits, np.bool_)
        self._table[_slot(view[starts], self._shift)] = True
        for size in np.unique(sizes).tolist():
            mine = sizes == size
            keys = _key(view, starts[mine], size)
            order = np.argsort(keys, kind="stable")
            self._groups.append(_Group(size, keys[order], owners[mine][order]))

    @property
    def empty(self) -> bool:
        """Whether there is nothing to look for."""
        return not self._groups

    def where(self, fragment: int) -> Where:
        """Where a fragment comes from."""
        return self._where[fragment]

    def search(self, content: bytes) -> dict[bytes, Found]:
        """The windows that are in `content`, each with its fragment and a place."""
        found: dict[bytes, Found] = {}
        for start in range(0, max(1, len(content) - SHORTEST + 1), _CHUNK):
            for window, fragment, at in self._in_chunk(content[start : start + _CHUNK + WIDTH]):
                found.setdefault(window, (fragment, start + at))
        return found

    def _in_chunk(self, chunk: bytes) -> Iterator[tuple[bytes, int, int]]:
        if len(chunk) < SHORTEST or self.empty or not chunk.strip(b"\0"):
            return
        found: list[npt.NDArray[np.int64]] = []
        for shift in range(_PREFIX):  # aligned reads are faster than one pass over unaligned ones
            words = (
                np.frombuffer(chunk, "<u8", (len(chunk) - shift) // 8, shift)
                if len(chunk) >= shift + 8
                else None
            )
            if words is not None:
                hits = np.flatnonzero(self._table.take(_slot(words, self._shift)))
                found.append(hits * 8 + shift)
        places = np.concatenate(found) if found else np.empty(0, np.int64)
        view = _every(chunk)
        for group in self._groups:
            fits = places[places <= len(chunk) - group.size]
            if not len(fits):
                continue
            keys = _key(view, fits, group.size)
            first = np.searchsorted(group.keys, keys)
            first[first == len(group.keys)] = 0
            hits = np.flatnonzero(group.keys[first] == keys)
            # What is said often is looked at once.
            for i in hits[np.unique(first[hits], return_index=True)[1]].tolist():
                window = chunk[int(fits[i]) : int(fits[i]) + group.size]
                k = int(first[i])
                while k < len(group.keys) and group.keys[k] == keys[i]:
                    if window in self._content[int(group.owners[k])]:
                        yield window, int(group.owners[k]), int(fits[i])
                        break
                    k += 1

    def search_file(self, path: Path) -> dict[bytes, Found]:
        """Like `search`, of a file. One that goes away meanwhile holds nothing.

        Raises:
            OSError: it cannot be read.
        """
        found: dict[bytes, Found] = {}
        try:
            with path.open("rb") as stream:
                kept, base = b"", 0
                while block := stream.read(_CHUNK):
                    chunk = kept + block
                    for window, fragment, at in self._in_chunk(chunk):
                        found.setdefault(window, (fragment, base + at))
                    kept = chunk[-(WIDTH - 1) :]
                    base += len(chunk) - len(kept)
        except FileNotFoundError:
            return {}
        return found


@dataclass(frozen=True)
class _Group:
    """The windows of one size, sorted by their hash."""

    size: int
    keys: Words
    owners: npt.NDArray[np.int64]


def _offsets(length: int, most: int) -> npt.NDArray[np.int64]:
    """Where the windows of a fragment begin; the last one ends where it ends."""
    last = max(0, length - WIDTH)
    step = max(_STRIDE, -(-last // most))
    return np.unique(np.append(np.arange(0, last + 1, step, dtype=np.int64), last))


def _every(content: bytes) -> Words:
    """The eight bytes at every offset, as numbers, without a copy."""
    return np.ndarray((max(0, len(content) - 7),), "<u8", buffer=content, strides=(1,))


def _slot(words: Words, shift: np.uint64) -> npt.NDArray[np.intp]:
    return ((words * _MIX) >> shift).view(np.intp)


def _key(view: Words, starts: npt.NDArray[np.int64], size: int) -> Words:
    """One number for the `size` bytes (12 to 24) at each place."""
    return np.asarray(
        view[starts] * _MIX
        + view[starts + max(0, min(8, size - 8))] * _MIX2
        + view[starts + size - 8] * _MIX3,
        np.uint64,
    )


def _telling(
    whole: bytes, starts: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """Which windows have enough different bytes to be found by more than chance."""
    raw = np.frombuffer(whole, np.uint8)
    told = np.zeros(len(starts), np.bool_)
    for begin in range(0, len(starts), 1 << 18):
        part = slice(begin, begin + (1 << 18))
        spread = np.minimum(np.arange(WIDTH), sizes[part][:, None] - 1) + starts[part][:, None]
        ordered = np.sort(raw[spread], axis=1)
        told[part] = 1 + (np.diff(ordered, axis=1) != 0).sum(axis=1) >= _FEW
    return told


def files_below(home: Path) -> Iterator[Path]:
    """Every file in a folder and below it."""
    for folder, _, names in os.walk(home):
        for name in names:
            path = Path(folder) / name
            if path.is_file() and not path.is_symlink():
                yield path
