"""What all views of one open vault share: the vault, its indexes, the reader, the scheduler and the model."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memos_core.cube import MemCube
from memos_core.errors import InvalidArgument, VaultError
from memos_core.governance import DuplicatePolicy, LifecyclePolicy
from memos_core.lifecycle import MemLifecycle
from memos_core.reader import MemReader
from memos_core.retrieval import Retriever
from memos_core.scheduler import MemScheduler
from memos_core.vault import CubeFilter, Vault

if TYPE_CHECKING:
    from memos_core.activation import ActivationEngine

log = logging.getLogger("memos_core")


class Core:
    """The one state behind every view of a `MemOS.open`.

    Args:
        model: a name, a `LoadedModel`, an `ActivationEngine`, or None; loaded at first use.
        duplicates, lifecycle: the policies. audit_reads: whether the audit log also says what was read.
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
    ) -> None:
        self.vault = vault
        self.retriever = retriever
        self.reader = reader
        self.duplicates = duplicates or DuplicatePolicy()
        self.lifecycle = MemLifecycle(vault, lifecycle)
        self.audit_reads = audit_reads
        self.scheduler = MemScheduler(vault, retriever, housekeeping=self.keep_house)
        self.model = model
        self.engine: ActivationEngine | None = None
        self.closed = False
        self._lock = threading.Lock()

    @property
    def kv_dir(self) -> Path | None:
        """Where KV files of this vault lie; None for a vault in memory."""
        home = self.vault.location.home
        return home / "kv" if home else None

    def load_engine(self) -> ActivationEngine:
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
                from memos_core.activation import ActivationEngine, LoadedModel

                if isinstance(self.model, ActivationEngine):
                    self.engine = self.model
                elif isinstance(self.model, LoadedModel):
                    self.engine = ActivationEngine(self.model, kv_dir=self.kv_dir)
                else:
                    self.engine = ActivationEngine.open(self.model, kv_dir=self.kv_dir)
                self.scheduler.attach(self.engine)
            return self.engine

    def near_duplicates(self, cubes: Sequence[MemCube], policy: DuplicatePolicy) -> dict[str, list[str]]:
        """For each cube, the ids of stored cubes of the same user and agent whose meaning is near, nearest first."""
        if policy.near == "keep":
            return {}
        found: dict[str, list[str]] = {}
        for cube in cubes:
            if policy.covers(cube) and cube.text.strip():
                where = CubeFilter(cube.scope.model_copy(update={"session": None}), kinds=["plaintext"])
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
        ids = [c.id for c in cubes]
        if self.engine is not None and ids:
            from memos_core.activation import salt_for

            # A user's conversations may hold the words too, and their KV names no cube: it is made again.
            self.engine.store.drop(cube_ids=ids, salts={salt_for(c.scope) for c in cubes})
        elif self.kv_dir is not None and ids:
            from memos_core.activation import drop_files

            drop_files(self.kv_dir, ids)

    def keep_house(self) -> None:
        """Between turns: let the life cycle go on, and follow what other processes deleted."""
        gone = self.lifecycle.sweep()
        if gone:
            self.forget(gone)

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
