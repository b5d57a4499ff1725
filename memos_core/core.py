"""What all views of one open vault share: the vault, its indexes, the reader, the scheduler and the model."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memos_core.cube import MemCube, Scope
from memos_core.errors import InvalidArgument, KVError, MemOSError, VaultError
from memos_core.governance import DuplicatePolicy, LifecyclePolicy
from memos_core.lifecycle import MemLifecycle
from memos_core.reader import MemReader
from memos_core.retrieval import Retriever
from memos_core.scheduler import MemScheduler
from memos_core.vault import CubeFilter, Vault

if TYPE_CHECKING:
    from memos_core.activation import ActivationEngine, ServedEngine

    Engine = ActivationEngine | ServedEngine

log = logging.getLogger("memos_core")

_OVERLAP = 2_000  # deletions that are looked at again
_TRY_AGAIN_S = 60.0


class Core:
    """The one state behind every view of a `MemOS.open`.

    Args:
        model: a name, a `LoadedModel`, an `ActivationEngine`, or None; loaded at first use.
        duplicates, lifecycle: the policies. audit_reads: whether the audit log also says what was read.
        encryption: of the KV files.
    """

    def __init__(
        self,
        vault: Vault,
        retriever: Retriever,
        reader: MemReader,
        model: Any,
        *,
        duplicates: DuplicatePolicy | None = None,
        lifecycle: LifecyclePolicy | None = None,
        audit_reads: bool = False,
        encryption: bytes | bool = False,
    ) -> None:
        self.vault = vault
        self.retriever = retriever
        self.reader = reader
        self.duplicates = duplicates or DuplicatePolicy()
        self.lifecycle = MemLifecycle(vault, lifecycle)
        self.audit_reads = audit_reads
        self.scheduler = MemScheduler(vault, retriever, housekeeping=self.keep_house)
        self.model = model
        self._encryption = encryption
        self.engine: Engine | None = None
        self.closed = False
        self._lock = threading.Lock()
        self._following = threading.Lock()
        self._finishing = threading.Lock()
        self._followed = vault.last_deletion()  # the newest deletion that was seen
        self._orphans_looked_for = False
        self._seen: set[int] = set()
        self._erased: set[str] = set()  # here, so not to be followed
        self._next_try = 0.0
        self._take_up_erasure()

    def _take_up_erasure(self) -> None:
        """Finish what a process that died has begun."""
        try:
            if self.vault.erasing:
                self.drop_orphaned_kv()
                self.finish_erasure()
        except MemOSError as err:
            log.warning("an interrupted erasure is finished later: %s", err)

    @property
    def kv_dir(self) -> Path | None:
        """Where KV files of this vault lie; None for a vault in memory."""
        home = self.vault.location.home
        return home / "kv" if home else None

    def load_engine(self) -> Engine:
        """The engine over the model, loaded now if it is not.

        Raises:
            InvalidArgument: opened without a model. MissingExtra, ModelError: it cannot be loaded.
        """
        with self._lock:
            if self.engine is None:
                if self.model is None:
                    raise InvalidArgument(
                        "this MemOS has no model; pass model= to MemOS.open, e.g. model='smollm2-135m'"
                    )
                self.engine = self._open_engine(self.model)
                try:
                    self.follow_deletions()
                except MemOSError as err:
                    log.warning("KV caches of deleted memories are dropped later: %s", err)
                self.scheduler.attach(self.engine)
            return self.engine

    def _open_engine(self, model: Any) -> Engine:
        from memos_core.activation import ServedEngine  # needs no torch

        if isinstance(model, ServedEngine):
            return model
        if isinstance(model, str) and model.startswith(("http://", "https://")):
            return ServedEngine.from_url(model)
        from memos_core.activation import ActivationEngine, LoadedModel

        if isinstance(model, ActivationEngine):
            return model
        if isinstance(model, LoadedModel):
            return ActivationEngine(model, kv_dir=self.kv_dir, encryption=self._encryption)
        return ActivationEngine.open(model, kv_dir=self.kv_dir, encryption=self._encryption)

    def near_duplicates(self, cubes: Sequence[MemCube], policy: DuplicatePolicy) -> dict[str, list[str]]:
        """For each cube, the ids of stored cubes of the same user and agent whose meaning is near, nearest first."""
        if policy.near == "keep":
            return {}
        found: dict[str, list[str]] = {}
        for cube in cubes:
            if policy.covers(cube) and cube.text.strip():
                where = CubeFilter(cube.scope.home, kinds=["plaintext"])
                near = self.retriever.near(cube.text, where, policy.similarity)
                found[cube.id] = [id_ for id_ in near if id_ != cube.id]
        return found

    def forget(self, gone: Sequence[MemCube]) -> None:
        """Take cubes that the vault has deleted out of everything that was derived from them."""
        self.retriever.forget([c.id for c in gone])
        self.forget_kv(gone)
        self.scheduler.forgot(gone)

    def forget_kv(self, cubes: Sequence[MemCube]) -> None:
        """Drop KV caches made from cubes, in memory and on disk: they are gone, or not everybody's any more."""
        self._drop_kv([c.id for c in cubes], [c.scope for c in cubes])

    def _drop_kv(self, ids: Sequence[str], owners: Sequence[Scope], keys: Sequence[str] = ()) -> None:
        if self.engine is not None and ids:
            self.engine.erase(keys=keys, cube_ids=ids, owners=owners)
        if self.kv_dir is not None and ids:
            from memos_core.activation import drop_files

            drop_files(self.kv_dir, ids)

    def follow_deletions(self) -> None:
        """Drop what this process derived from cubes that other processes deleted; the first time, also the KV files
        of cubes that are gone.

        Raises:
            KVError: a file cannot be deleted. VaultError.
        """
        with self._following:
            newest, known = self.vault.last_deletion(), self._followed
            # On PostgreSQL a lower number may be committed after a higher one.
            stones = [s for s in self.vault.deletions(max(0, known - _OVERLAP)) if s.seq not in self._seen]
            if not self._orphans_looked_for:
                self.drop_orphaned_kv()
                self._orphans_looked_for = True
            if stones:
                self.retriever.forget([s.cube_id for s in stones if s.action != "revoke"])
                self._drop_kv(
                    [s.cube_id for s in stones],
                    [s.scope for s in stones],
                    [s.kv_key for s in stones if s.kv_key],
                )
                if any(s.action == "erase" and s.cube_id not in self._erased for s in stones):
                    self.retriever.reset_index_files()
            self._erased -= {s.cube_id for s in stones}
            self._followed = max([newest, *(s.seq for s in stones)])
            self._seen = {n for n in self._seen | {s.seq for s in stones} if n > self._followed - _OVERLAP}

    def orphaned_kv(self) -> dict[Path, str]:
        """KV files of this vault that cannot be used or whose cubes are gone, each with the reason."""
        if self.kv_dir is None:
            return {}
        from memos_core.activation import all_files, read_header

        wrong: dict[Path, str] = {}
        sources: dict[Path, set[str]] = {}
        for path in all_files(self.kv_dir):
            try:
                sources[path] = {id_ for id_, _ in read_header(path).derived_from}
            except KVError as err:
                if path.exists():
                    wrong[path] = str(err)
        alive = self.vault.existing(sorted({id_ for ids in sources.values() for id_ in ids}))
        for path, ids in sources.items():
            if not ids <= alive:
                wrong[path] = f"{path} was made from {len(ids - alive)} memories that are gone"
        return wrong

    def drop_orphaned_kv(self) -> None:
        """Delete the KV files that `orphaned_kv` names.

        Raises:
            KVError: one cannot be deleted.
        """
        wrong = self.orphaned_kv()
        if wrong:
            from memos_core.activation.header import delete_file

            for path in wrong:
                delete_file(path)

    def erased(self, gone: Sequence[MemCube]) -> None:
        """Like `forget`, of cubes whose every trace is to go."""
        self._erased.update(c.id for c in gone)
        self.forget(gone)

    def finish_erasure(self) -> bool:
        """Rewrite the index's and the vault's files without what was erased.

        Returns:
            False: somebody goes on reading an older state of the vault. It is tried again between turns, and by
            `doctor(repair=True)`.

        Raises:
            VaultError: e.g. the disk is full.
        """
        with self._finishing:
            if not self.vault.erasing:
                return True  # by another thread, meanwhile
            self._next_try = time.monotonic() + _TRY_AGAIN_S
            self.retriever.reset_index_files()
            return self.vault.compact()

    def keep_house(self) -> None:
        """Between turns: let the life cycle go on, follow what other processes deleted, and finish an erasure."""
        self.follow_deletions()
        gone = self.lifecycle.sweep()
        if gone:
            self.forget(gone)
        if time.monotonic() >= self._next_try and self.vault.erasing:
            self.finish_erasure()

    def close(self) -> None:
        """Stop the scheduler and close what is open. Safe to call twice."""
        with self._lock:
            if self.closed:
                return
            self.closed = True
        try:
            self.scheduler.stop()
            try:
                self.vault.scrub()
            except VaultError as err:
                log.warning("deleted text is cleared from the files at the next opening: %s", err)
        finally:
            try:
                self.retriever.close()
            finally:
                self.vault.close()
