"""The approximate index behind a vault: opened at need, fed in batches, started over where it is damaged."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from memos_core.cube import Scope, new_id
from memos_core.errors import MemOSError, missing_extra
from memos_core.retrieval.chroma import ChromaIndex, IndexDamaged, IndexUnreachable
from memos_core.vault import Vault
from memos_core.vault.vectors import Matrix

log = logging.getLogger("memos_core.retrieval")

_BATCH = 1_000  # vectors fed at a time: a search waits for no more than this
_RETRY_S = 30.0  # a server that did not answer is left alone for so long


class AnnIndex:
    """Chroma for one vault and embedder. What it does not hold, `in_index` of the vault's vectors says.

    Args:
        place: the folder of an embedded Chroma, or a server's URL.
        required: whether a missing chromadb is an error, or a reason to do without.
    """

    def __init__(self, vault: Vault, embedder: str, place: Path | str, *, required: bool) -> None:
        self._vault, self._embedder, self._place, self._required = vault, embedder, place, required
        self._index: ChromaIndex | None = None
        self._lock = threading.RLock()  # one thread feeds, opens or closes at a time
        self._missing = False
        self._closing = threading.Event()
        self._feeder: threading.Thread | None = None
        self._not_before = 0.0

    def opened(self) -> ChromaIndex | None:
        """Chroma, opened at first need; None where it is not installed, not reached, or another process's."""
        with self._lock:
            if self._index is None and not self._missing and not self._closing.is_set():
                if time.monotonic() < self._not_before:
                    return None
                try:
                    self._index = ChromaIndex(
                        self._place, self._embedder, self._vault.id, self._vault.vectors.epoch
                    )
                    if self._index.owned:
                        self._reconcile(self._index)
                except ImportError as err:
                    if self._required:
                        raise
                    log.warning("large scopes are searched exactly: %s", err)
                    self._missing = True
                except IndexUnreachable as err:
                    self._unreachable(err)
                except IndexDamaged as err:
                    assert self._index is not None
                    self.damaged(self._index, err)
            if self._index is not None and not self._index.owned:
                if isinstance(self._place, Path):
                    self._index = None  # looked for again: its owner may have gone
                return None
            return self._index

    def _unreachable(self, err: Exception) -> None:
        log.warning("searching exactly for %d seconds: %s", _RETRY_S, err)
        self._not_before = time.monotonic() + _RETRY_S
        self._index = None

    def feed(self, should_yield: Callable[[], None] | None = None) -> int:
        """Give Chroma the vectors it does not hold, if this process owns it. Returns how many."""
        fed = 0
        checked = False
        while not self._closing.is_set():
            with self._lock:
                index = self.opened()
                if index is None:
                    return fed
                try:
                    if not checked:
                        self._reconcile(index)
                        checked = True
                    rows = self._vault.vectors.outside_index(self._embedder, _BATCH)
                    if not rows:
                        return fed
                    ids, stamp = [r.cube_id for r in rows], ""
                    if not index.remote:
                        stamp = new_id()
                        self._vault.vectors.expect_stamp(stamp)
                    index.add(ids, [(r.tenant, r.user) for r in rows], np.stack([r.vector for r in rows]))
                    if stamp:
                        index.set_stamp(stamp)
                    # Deleted or changed meanwhile, by this process or another: what was just added is wrong.
                    outdated = self._vault.vectors.mark_indexed([(r.cube_id, r.version) for r in rows], stamp)
                    if outdated:
                        index.remove(outdated)
                    fed += len(rows) - len(outdated)
                    if len(outdated) == len(rows):
                        return fed  # nothing was gained: another time
                except IndexDamaged as err:
                    self.damaged(index, err)
                    return fed
            if should_yield is not None:
                should_yield()
        return fed

    def feed_soon(self) -> None:
        """Feed in a thread of its own, if none does so now."""
        with self._lock:
            if self._closing.is_set() or (self._feeder is not None and self._feeder.is_alive()):
                return
            self._feeder = threading.Thread(target=self._feed_quietly, name="memos-index", daemon=True)
            self._feeder.start()

    def _feed_quietly(self) -> None:
        try:
            self.feed()
        except MemOSError as err:
            if not self._closing.is_set():
                log.warning("the index is fed later: %s", err)

    def _reconcile(self, index: ChromaIndex) -> None:
        """Make Chroma hold what the vault says it holds: its files may be lost, or older than the vault."""
        index.check()
        epoch = self._vault.vectors.epoch
        if epoch != index.epoch:  # it holds what was erased
            self._vault.vectors.reset_index()
            index.start_over(epoch)
        elif not index.remote and index.stamp not in self._vault.vectors.stamps:
            log.warning("the Chroma folder %s is another state than the vault's: it is fed anew", self._place)
            self._vault.vectors.reset_index()
            index.start_over(epoch)
        expected = self._vault.vectors.total(only_in_index=True)
        held = index.count()
        if held > expected:
            ids = index.ids()
            known = self._vault.vectors.known(ids)
            index.remove([i for i in ids if i not in known])
        elif held < expected and held < self._vault.vectors.total(only_in_index=True):
            self._vault.vectors.reset_index()

    def query(self, vector: Matrix, scope: Scope, k: int) -> list[str] | None:
        """What Chroma takes for the nearest, by id; None where it cannot be asked now."""
        index = self._index or self.opened()  # without the lock where it is open: a feeder may hold that
        if index is None or not index.owned:
            return None
        try:
            index.check()
            return index.query(vector, scope, k)
        except IndexDamaged as err:
            self.damaged(index, err)
            return None

    def damaged(self, index: ChromaIndex, err: Exception) -> None:
        """Start over, unless it was closed, or another thread has done so, meanwhile."""
        with self._lock:
            if self._closing.is_set() or index is not self._index:
                return
            try:
                index.recover(err, self._vault.vectors.reset_index)
            except IndexUnreachable as unreachable:
                self._unreachable(unreachable)

    def forget(self, ids: Sequence[str]) -> None:
        """Take deleted cubes out of Chroma, if it is open. (A hit that the vault no longer has is dropped in any
        case; what is not taken out now goes when it is fed next.)"""
        with self._lock:
            index = self._index
            if index is not None and index.owned and ids:
                try:
                    index.remove(ids)
                except IndexDamaged as err:
                    self.damaged(index, err)

    def start_over(self) -> None:
        """Remove all files: Chroma keeps deleted vectors in them. Where they are another process's, it does so when
        it feeds next."""
        with self._lock:
            if isinstance(self._place, Path) and self._index is None and not self._place.exists():
                return
            if isinstance(self._place, Path):
                self._remove_folder(self._place)
                return
            self._vault.vectors.reset_index(erased=True)
            index = self.opened()
            if index is not None:
                try:
                    index.start_over(self._vault.vectors.epoch)
                except (
                    IndexUnreachable
                ) as err:  # it is started over when it is fed next: the epoch is another
                    self._unreachable(err)

    def _remove_folder(self, folder: Path) -> None:
        try:
            import filelock
        except ImportError:  # then Chroma is not here either, and nobody has the folder open
            raise missing_extra("filelock", "chroma") from None
        if self._index is not None:
            self._index.close()
            self._index = None
        lock = filelock.FileLock(str(folder) + ".lock", thread_local=False)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            self._vault.vectors.reset_index(erased=True)
            return
        self._vault.vectors.reset_index()
        try:
            shutil.rmtree(folder)
        except OSError as err:
            raise IndexDamaged(f"the folder {folder} cannot be removed: {err.strerror or err}") from err
        finally:
            lock.release()

    def close(self) -> None:
        """Stop feeding and give the folder back."""
        self._closing.set()
        feeder = self._feeder
        if feeder is not None and feeder is not threading.current_thread():
            feeder.join()
        with self._lock:
            if self._index is not None:
                self._index.close()
                self._index = None
