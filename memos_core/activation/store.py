"""Where KV prefixes are kept: memory first, then disk, each within its budget and by the same key."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import torch

from memos_core.activation.disk import DiskTier
from memos_core.activation.header import KVFile
from memos_core.activation.keys import BLOCK, Identity, Source, chain_hashes
from memos_core.activation.kv import KVPrefix
from memos_core.activation.kvfile import PLAIN, Writing
from memos_core.activation.memory import Held, MemoryTier
from memos_core.activation.pace import Pace
from memos_core.activation.radix import Chain, Ids
from memos_core.errors import InvalidArgument, KVError, KVMismatch

_REMEMBERED = 10_000  # dropped cubes that are told apart from those dropped earlier


class KVStore:
    """Immutable KV of one model in two tiers. Safe to use from many threads.

    In memory, what several prompts of an owner begin with is held once (`MemoryTier`). When the budget asks for it,
    the end of a chain goes that `worth` values least, among equals the least recently used; a pinned one never.
    Files are shared with other processes (`DiskTier`).

    Args:
        identity: the model, tokenizer and dtype everything in here belongs to.
        memory_budget: bytes of KV on `device`.
        host_budget: bytes of KV in the host's memory, for what leaves an accelerator's.
        disk_dir: folder of the files, or None for no disk tier.
        disk_budget: bytes of files under `disk_dir`, all models together.
        device: where KV read from disk should be.
        token_bytes: of the KV of one token; 0 where that is not known.
        how: in which form KV is stored, and whether files are encrypted.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        memory_budget: int = 1 << 30,
        host_budget: int = 0,
        disk_dir: Path | None = None,
        disk_budget: int = 4 << 30,
        device: str | torch.device = "cpu",
        token_bytes: int = 0,
        how: Writing = PLAIN,
    ) -> None:
        if min(memory_budget, host_budget, disk_budget) < 0:
            raise InvalidArgument("memory_budget, host_budget and disk_budget are bytes; pass 0 or more")
        self.identity = identity
        self.token_bytes = token_bytes
        self.disk = None if disk_dir is None else DiskTier(Path(disk_dir), identity, disk_budget, device, how)
        self._lock = threading.RLock()
        dtype = getattr(torch, identity.dtype.split()[0], torch.float32)  # of what is unpacked
        self._memory = MemoryTier(memory_budget, host_budget, device, how.form, dtype)
        self._pace = Pace()
        self._clock = 0
        self._dropped: OrderedDict[str, int] = OrderedDict()
        self._forgotten = 0  # until when it is no longer known what was dropped

    @property
    def clock(self) -> int:
        """Grows with every `drop` of cubes. Read it before computing KV and pass it to `put` and `save`."""
        return self._clock

    @property
    def memory_budget(self) -> int:
        """Bytes of KV in memory. Lowered, it is kept at once, as far as nothing is pinned."""
        return self._memory.budget

    @memory_budget.setter
    def memory_budget(self, nbytes: int) -> None:
        if nbytes < 0:
            raise InvalidArgument(f"memory_budget is bytes; pass 0 or more, got {nbytes}")
        with self._lock:
            self._memory.budget = nbytes
            self._memory.trim()

    @property
    def host_budget(self) -> int:
        """Bytes of KV in the host's memory beside an accelerator; 0 where the model runs on the CPU."""
        return self._memory.host_budget

    @property
    def disk_budget(self) -> int:
        """Bytes of files that all models together may take; 0 without a disk tier."""
        return self.disk.budget if self.disk else 0

    @property
    def worth(self) -> Callable[[str, Ids], float] | None:
        """What holding the end of a chain (its owner's salt, its tokens) is worth, as a planner sees it; None: all is
        worth the same. It is asked while the store is locked, so it only looks up."""
        return self._memory.worth

    @worth.setter
    def worth(self, judge: Callable[[str, Ids], float] | None) -> None:
        with self._lock:
            self._memory.worth = judge

    @property
    def stats(self) -> dict[str, int]:
        """Counters: entries, memory_bytes, host_bytes, disk_files, disk_bytes, evictions, damaged."""
        files, nbytes = (len(self.disk.files()), self.disk.nbytes()) if self.disk else (0, 0)
        with self._lock:
            return {
                "entries": len(self._memory),
                "memory_bytes": self._memory.used,
                "host_bytes": self._memory.host_used,
                "disk_files": files,
                "disk_bytes": nbytes,
                "evictions": self._memory.evictions,
                "damaged": self.disk.damaged if self.disk else 0,
            }

    # Finding

    def match(self, salt: str, tokens: Sequence[int]) -> Held | None:
        """The longest beginning of a prompt that is in memory; None when nothing of it is.

        Args:
            salt: whose KV may match; no other is looked at.
            tokens: token ids of the prompt.
        """
        with self._lock:
            return self._memory.match(salt, tokens)

    def find(self, salt: str, tokens: Sequence[int], *, token_s: float | None = None) -> Held | None:
        """`match`, and where a file has at least one block more, what that file has of these tokens, in memory then.

        A damaged file is a miss: it is logged, counted in `stats`, and not offered again.

        Args:
            token_s: seconds to compute a token: a file that would take longer to read than what it saves is left.
        """
        hit = self.match(salt, tokens)
        clock = self._clock
        known = hit.n_tokens if hit else 0
        for n, about in self.disk.candidates(salt, tokens, known + BLOCK) if self.disk else ():
            if token_s is not None and not self._pace.pays(about.n_tokens, (n - known) * token_s):
                continue
            started = time.perf_counter()
            prefix = self._load_or_report(about)
            if prefix is not None and self._current(prefix.derived_from, clock):
                self._pace.took(prefix.n_tokens, time.perf_counter() - started)
                self.put(prefix, n_tokens=n, since=clock)
                return Held(n, "disk", prefix.derived_from, (prefix.cut(n),), self._memory.device)
        return hit

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

    def put(
        self, prefix: KVPrefix, *, n_tokens: int | None = None, pin: bool = False, since: int | None = None
    ) -> bool:
        """Keep a prefix in memory. What others of this owner begin with, too, is held once.

        Args:
            prefix: what to keep; what it was derived from is added to what is known already.
            n_tokens: keep only so many of its first tokens.
            pin: never evict it.
            since: `clock` before the KV was computed; when one of its cubes was dropped after that, the
                prefix is not kept.

        Returns:
            Whether it is resident now: False when it does not fit beside the pinned ones.

        Raises:
            KVMismatch: the prefix was made by another model.
        """
        self._check(prefix)
        with self._lock:
            if since is not None and not self._current(prefix.derived_from, since):
                return False
            return self._memory.put(prefix, prefix.n_tokens if n_tokens is None else n_tokens, pin=pin)

    def _check(self, prefix: KVPrefix) -> None:
        if chain_hashes(self.identity.seed(prefix.salt), prefix.tokens)[-1].hex() != prefix.key:
            raise KVMismatch("this prefix was made by another model, tokenizer or dtype than this store's")

    def stored_bytes(self, prefix: KVPrefix) -> int:
        """Bytes that a prefix takes in the form in which it is stored."""
        return sum(t.nbytes for k, v in prefix.layers for t in self._memory.form.pack(k, v))

    def usage(self) -> dict[str, int]:
        """Bytes in memory, by salt."""
        with self._lock:
            used: dict[str, int] = {}
            for run in self._memory.runs():
                used[run.salt] = used.get(run.salt, 0) + run.nbytes
            return used

    def chains(self) -> list[Chain]:
        """Every sequence of tokens in memory that no other one continues."""
        with self._lock:
            return [Chain(r.salt, r.tokens(), r.used) for r in self._memory.runs() if not r.children]

    def files(self) -> list[Chain]:
        """Every sequence of tokens that this model has a file of."""
        return [Chain(salt, tokens) for salt, tokens in self.disk.chains()] if self.disk else []

    def release(self, salt: str, tokens: Sequence[int] | Ids, keep: int = 0) -> int:
        """Take what stands behind the first `keep` of these tokens out of memory, with all that continues it, except
        what is pinned; files stay. Returns the bytes."""
        with self._lock:
            return self._memory.release(salt, tokens, keep)

    def pin(self, key: str) -> None:
        """Never evict this prefix.

        Raises:
            KVError: it is not resident.
        """
        self._set_pinned(key, True)

    def unpin(self, key: str) -> None:
        """Let this prefix be evicted again.

        Raises:
            KVError: it is not resident.
        """
        self._set_pinned(key, False)

    def _set_pinned(self, key: str, pinned: bool) -> None:
        with self._lock:
            run = self._memory.named(key)
            if run is None:
                raise KVError(f"no KV prefix {key} is in memory; fetch or prefill it first")
            run.pinned = pinned

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
        self._check(prefix)

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
            run = self._memory.named(key)
            held = self._memory.match(run.salt, run.tokens()) if run else None
        if run is not None and held is not None:
            return KVPrefix.of(
                self.identity, run.salt, run.tokens().tolist(), held.layers(), held.derived_from
            )
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
            self._note_dropped(cube_ids)
            gone = {key for key in keys if self._memory.forget(key)}
            gone |= self._memory.drop(
                lambda run: run.salt in salts or any(cube in cube_ids for cube, _ in run.sources)
            )
        if self.disk:
            gone |= self.disk.drop(keys, cube_ids)
        return len(gone)

    def _note_dropped(self, cube_ids: Collection[str]) -> None:
        self._clock += bool(cube_ids)
        for cube in cube_ids:
            self._dropped[cube] = self._clock
            self._dropped.move_to_end(cube)
        while len(self._dropped) > _REMEMBERED:
            _, self._forgotten = self._dropped.popitem(last=False)

    def _current(self, sources: Collection[Source], since: int) -> bool:
        """Whether none of these cubes was dropped after `since`; where that is no longer known, no."""
        known = since >= self._forgotten or not sources
        return known and all(self._dropped.get(cube, 0) <= since for cube, _ in sources)
