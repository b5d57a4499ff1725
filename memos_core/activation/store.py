"""Where KV prefixes are kept: memory first, then disk, each within its budget and by the same key."""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from memos_core.activation.disk import DiskTier
from memos_core.activation.header import KVFile
from memos_core.activation.keys import (
    BLOCK,
    Identity,
    Source,
    Tier,
    chain_hashes,
    merge_sources,
    shared_length,
)
from memos_core.activation.kv import KVPrefix
from memos_core.errors import InvalidArgument, KVError, KVMismatch


@dataclass
class _Entry:
    """A resident prefix with what the index needs of it."""

    prefix: KVPrefix
    ids: NDArray[np.int64]
    blocks: list[bytes]
    pinned: bool


class KVStore:
    """Immutable KV prefixes of one model in two tiers. Safe to use from many threads.

    Memory holds whole chains, found by the hashes of their blocks and compared token by token before use. When the
    budget asks for it, the chain whose owner `worth` values least goes, among equals the least recently used; a
    pinned one never. Files are shared with other processes (`DiskTier`).

    Args:
        identity: the model, tokenizer and dtype everything in here belongs to.
        memory_budget: bytes of KV in memory.
        disk_dir: folder of the files, or None for no disk tier.
        disk_budget: bytes of files under `disk_dir`, all models together.
        device: where KV read from disk should be.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        memory_budget: int = 1 << 30,
        disk_dir: Path | None = None,
        disk_budget: int = 4 << 30,
        device: str | torch.device = "cpu",
    ) -> None:
        if memory_budget < 0 or disk_budget < 0:
            raise InvalidArgument("memory_budget and disk_budget are bytes; pass 0 or more")
        self.identity = identity
        self.memory_budget = memory_budget
        self.disk = None if disk_dir is None else DiskTier(Path(disk_dir), identity, disk_budget, device)
        self.worth: Callable[[str], float] | None = None
        """What holding an owner's KV is worth, by salt, as a planner sees it; None: everybody's is worth the same.
        It is asked while the store is locked, so it only looks up."""
        self._lock = threading.RLock()
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._index: dict[bytes, set[str]] = {}
        self._used = 0
        self._evictions = 0
        self._clock = 0
        self._dropped: dict[str, int] = {}

    @property
    def clock(self) -> int:
        """Grows with every `drop` of cubes. Read it before computing KV and pass it to `put` and `save`."""
        return self._clock

    @property
    def disk_budget(self) -> int:
        """Bytes of files that all models together may take; 0 without a disk tier."""
        return self.disk.budget if self.disk else 0

    @property
    def stats(self) -> dict[str, int]:
        """Counters: entries, memory_bytes, disk_files, disk_bytes, evictions, damaged."""
        files, nbytes = (len(self.disk.files()), self.disk.nbytes()) if self.disk else (0, 0)
        return {
            "entries": len(self._entries),
            "memory_bytes": self._used,
            "disk_files": files,
            "disk_bytes": nbytes,
            "evictions": self._evictions,
            "damaged": self.disk.damaged if self.disk else 0,
        }

    # Finding

    def match(self, salt: str, tokens: Sequence[int]) -> tuple[KVPrefix, int] | None:
        """The resident entry that shares the most leading tokens, and how many; None when none shares any.

        Args:
            salt: whose entries may match; no others are looked at.
            tokens: token ids of the prompt.
        """
        ids = np.asarray(tokens, dtype=np.int64)
        root = self.identity.seed(salt)
        with self._lock:
            for block in reversed([root, *chain_hashes(root, tokens)[: len(ids) // BLOCK]]):
                best = max(
                    (
                        (shared_length(self._entries[key].ids, ids), -len(self._entries[key].ids), key)
                        for key in self._index.get(block, ())
                    ),
                    default=(0, 0, ""),
                )
                if best[0]:
                    self._entries.move_to_end(best[2])
                    return self._entries[best[2]].prefix, best[0]
        return None

    def find(self, salt: str, tokens: Sequence[int]) -> tuple[KVPrefix, int, Tier] | None:
        """`match`, and where a file has at least one block more, that file's prefix, then resident.

        A damaged file is a miss: it is logged, counted in `stats`, and not offered again.

        Returns:
            (prefix, shared tokens, tier it came from), or None.
        """
        hit = self.match(salt, tokens)
        n = hit[1] if hit else 0
        clock = self._clock
        for about in self.disk.candidates(salt, tokens, n + BLOCK) if self.disk else ():
            prefix = self._load_or_report(about)
            if prefix is not None and self._current(prefix.derived_from, clock):
                self.put(prefix, since=clock)
                return prefix, shared_length(prefix.tokens, tokens), "disk"
        return (*hit, "memory") if hit else None

    def _load_or_report(self, about: KVFile) -> KVPrefix | None:
        """The file's prefix, or None with a warning."""
        assert self.disk is not None
        try:
            return self.disk.load(about.path)
        except KVError as err:
            self.disk.report(err)
            self.disk.ignore(about)
            return None

    # Memory

    def put(self, prefix: KVPrefix, *, pin: bool = False, since: int | None = None) -> bool:
        """Keep a prefix in memory. Unpinned entries that it extends are replaced by it.

        Args:
            prefix: what to keep; what it was derived from is added to what is known already.
            pin: never evict it.
            since: `clock` before the KV was computed; when one of its cubes was dropped after that, the
                prefix is not kept.

        Returns:
            Whether it is resident now: False when it does not fit beside the pinned entries.

        Raises:
            KVMismatch: the prefix was made by another model.
        """
        root = self.identity.seed(prefix.salt)
        blocks = chain_hashes(root, prefix.tokens)
        if blocks[-1].hex() != prefix.key:
            raise KVMismatch("this prefix was made by another model, tokenizer or dtype than this store's")
        ids = np.asarray(prefix.tokens, dtype=np.int64)
        with self._lock:
            if since is not None and not self._current(prefix.derived_from, since):
                return False
            twin = self._entries.get(prefix.key)
            replaced = [twin] if twin else []
            for key in self._index.get(root, ()):
                other = self._entries[key]
                n = len(other.ids)
                if n < len(ids) and not other.pinned and shared_length(other.ids, ids) == n:
                    replaced.append(other)
            pinned = pin or (twin is not None and twin.pinned)
            if not self._make_room(prefix.nbytes, replaced):
                return False
            sources = merge_sources(prefix.derived_from, *(e.prefix.derived_from for e in replaced))
            whole = [root, *blocks[: len(ids) // BLOCK]]
            entry = _Entry(replace(prefix, derived_from=sources), ids, whole, pinned)
            self._entries[prefix.key] = entry
            self._used += prefix.nbytes
            for block in entry.blocks:
                self._index.setdefault(block, set()).add(prefix.key)
            return True

    def _make_room(self, nbytes: int, replaced: list[_Entry]) -> bool:
        """Remove the replaced entries and evict until `nbytes` fit; nothing happens when they never will."""
        gone = {entry.prefix.key for entry in replaced}
        fixed = sum(e.prefix.nbytes for k, e in self._entries.items() if e.pinned and k not in gone)
        if fixed + nbytes > self.memory_budget:
            return False
        for key in gone:
            self._remove(key)
        for key in self._leaving():
            if self._used + nbytes <= self.memory_budget:
                break
            self._remove(key)
            self._evictions += 1
        return True

    def _leaving(self) -> list[str]:
        """The entries that are not pinned, in the order in which they are evicted."""
        free = [(key, entry.prefix.salt) for key, entry in self._entries.items() if not entry.pinned]
        if self.worth is not None:
            worth = {salt: self.worth(salt) for _, salt in free}
            free.sort(key=lambda item: worth[item[1]])  # stable: the order of use remains
        return [key for key, _ in free]

    def usage(self) -> dict[str, int]:
        """Bytes in memory, by salt."""
        with self._lock:
            used: dict[str, int] = {}
            for entry in self._entries.values():
                used[entry.prefix.salt] = used.get(entry.prefix.salt, 0) + entry.prefix.nbytes
            return used

    def release(self, salt: str) -> int:
        """Take an owner's entries out of memory, except pinned ones; files stay. Returns the bytes."""
        with self._lock:
            gone = [e for e in self._entries.values() if e.prefix.salt == salt and not e.pinned]
            for entry in gone:
                self._remove(entry.prefix.key)
                self._evictions += 1
            return sum(entry.prefix.nbytes for entry in gone)

    def _remove(self, key: str) -> None:
        """Take an entry out of memory and out of the index."""
        entry = self._entries.pop(key)
        self._used -= entry.prefix.nbytes
        for block in entry.blocks:
            self._index[block].discard(key)
            if not self._index[block]:
                del self._index[block]

    def pin(self, key: str) -> None:
        """Never evict this entry.

        Raises:
            KVError: it is not resident.
        """
        self._set_pinned(key, True)

    def unpin(self, key: str) -> None:
        """Let this entry be evicted again.

        Raises:
            KVError: it is not resident.
        """
        self._set_pinned(key, False)

    def _set_pinned(self, key: str, pinned: bool) -> None:
        with self._lock:
            if key not in self._entries:
                raise KVError(f"no KV prefix {key} is in memory; fetch or prefill it first")
            self._entries[key].pinned = pinned

    # Disk

    def save(self, prefix: KVPrefix, *, since: int | None = None) -> Path:
        """Write a prefix to disk, in one step that leaves a whole file or none.

        Args:
            prefix: what to write.
            since: as in `put`.

        Raises:
            KVError: no disk tier, over its budget, not writable, or one of its cubes was dropped meanwhile.
            KVMismatch: the prefix was made by another model.
        """
        disk = self._disk()
        if chain_hashes(self.identity.seed(prefix.salt), prefix.tokens)[-1].hex() != prefix.key:
            raise KVMismatch("this prefix was made by another model, tokenizer or dtype than this store's")

        @contextlib.contextmanager
        def allowed() -> Iterator[None]:
            with self._lock:
                if since is not None and not self._current(prefix.derived_from, since):
                    raise KVError("not saved: a memory this was computed from was dropped meanwhile")
                yield

        return disk.save(prefix, allowed)

    def load(self, path: Path) -> KVPrefix:
        """Read and verify one file, without making it resident.

        Raises:
            KVMismatch: made by another model, tokenizer, dtype or format.
            KVCorrupt: truncated, or the checksum does not match.
            KVError: no disk tier, or it cannot be opened.
        """
        return self._disk().load(Path(path))

    def fetch(self, key: str) -> KVPrefix:
        """The prefix with this key, resident afterwards if it fits.

        Raises:
            KVError: neither in memory nor on disk; KVCorrupt, KVMismatch: as `load`.
        """
        with self._lock:
            clock = self._clock
            if key in self._entries:
                self._entries.move_to_end(key)
                return self._entries[key].prefix
        prefix = self.load(self._disk().path(key))
        if not self._current(prefix.derived_from, clock):
            raise KVError(f"KV prefix {key} was dropped while it was read")
        self.put(prefix, since=clock)
        return prefix

    def scan(self, salt: str | None = None) -> list[KVFile]:
        """The files of this model, tokenizer and dtype, of one salt or of all; only headers are read."""
        return [f for f in self.disk.files() if salt in (None, f.salt)] if self.disk else []

    def _disk(self) -> DiskTier:
        if self.disk is None:
            raise KVError("this store has no disk tier; pass disk_dir (kv_dir of the engine)")
        return self.disk

    # Erasure

    def drop(
        self, *, keys: Collection[str] = (), cube_ids: Collection[str] = (), salts: Collection[str] = ()
    ) -> int:
        """Remove prefixes from memory and disk, pinned ones too.

        Args:
            keys: prefixes by key (this model's).
            cube_ids: everything derived from these cubes: every model's files, and what is being computed
                from them right now (see `put`, `since`).
            salts: owners whose working KV goes: what is in memory only, such as conversations, which no cube
                answers for.

        Returns:
            How many prefixes were removed.

        Raises:
            KVError: a file cannot be deleted.
        """
        keys, cube_ids = set(keys), set(cube_ids)
        with self._lock:
            self._clock += bool(cube_ids)
            self._dropped.update(dict.fromkeys(cube_ids, self._clock))
            gone = {
                key
                for key, entry in self._entries.items()
                if key in keys
                or entry.prefix.salt in salts
                or any(cube in cube_ids for cube, _ in entry.prefix.derived_from)
            }
            for key in gone:
                self._remove(key)
        if self.disk:
            gone |= self.disk.drop(keys, cube_ids)
        return len(gone)

    def _current(self, sources: Collection[Source], since: int) -> bool:
        """Whether none of these cubes was dropped after `since`."""
        return all(self._dropped.get(cube, 0) <= since for cube, _ in sources)
