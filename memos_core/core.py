"""What all views of one open vault share: the vault, its indexes, the reader, the scheduler and the model."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memos_core.cube import MemCube
from memos_core.errors import InvalidArgument, VaultError
from memos_core.reader import MemReader
from memos_core.retrieval import Retriever
from memos_core.scheduler import MemScheduler
from memos_core.vault import Actor, Vault

if TYPE_CHECKING:
    from memos_core.activation import ActivationEngine

log = logging.getLogger("memos_core")
_EXPIRY = Actor("expiry", "memos")


class Core:
    """The one state behind every view of a `MemOS.open`.

    Args:
        model: a name, a `LoadedModel`, an `ActivationEngine`, or None; loaded at first use.
    """

    def __init__(self, vault: Vault, retriever: Retriever, reader: MemReader, model: Any) -> None:
        self.vault = vault
        self.retriever = retriever
        self.reader = reader
        self.scheduler = MemScheduler(vault, retriever, expire=self.expire)
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

    def forget(self, gone: Sequence[MemCube]) -> None:
        """Take cubes that the vault has deleted out of everything that was derived from them."""
        ids = [c.id for c in gone]
        self.retriever.forget(ids)
        if self.engine is not None and ids:
            from memos_core.activation import salt_for

            # A user's conversations may hold the words too, and their KV names no cube: it is made again.
            self.engine.store.drop(cube_ids=ids, salts={salt_for(c.scope) for c in gone})
        elif self.kv_dir is not None and ids:
            from memos_core.activation import drop_files

            drop_files(self.kv_dir, ids)
        self.scheduler.forgot(gone)

    def expire(self) -> None:
        """Delete for good what has outlived its ttl; searches have not seen it since."""
        gone = self.vault.purge_expired(_EXPIRY)
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
