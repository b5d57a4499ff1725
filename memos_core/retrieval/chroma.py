"""Chroma, embedded, as an approximate index of vectors. It is derived data: it holds vectors, ids and scope
fields, never text; it is fed in batches behind the vault; one process at a time owns its folder."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from memos_core.cube import Scope
from memos_core.errors import missing_extra

Matrix = npt.NDArray[np.float32]
log = logging.getLogger("memos_core.retrieval")

MAX_BATCH = 5_000  # Chroma refuses more than 5,461 at once
_COLLECTION = "cubes"


class ChromaIndex:
    """One collection in `<home>/chroma`, for one embedder.

    Opening takes the folder's lock. A second process that asks gets `owned == False` and must search exactly:
    two processes on one embedded Chroma corrupt it silently.

    Args:
        folder: where Chroma keeps its files; made anew if it is damaged.
        embedder: name of the embedder; a collection made for another one is dropped.
        vault_id: a folder that belonged to another vault is dropped too.

    Raises:
        MissingExtra: chromadb or filelock is not installed.
    """

    def __init__(self, folder: Path, embedder: str, vault_id: str) -> None:
        try:
            import chromadb
            import filelock
        except ImportError:
            raise missing_extra("chromadb", "chroma") from None
        self._chromadb = chromadb
        self._folder = folder
        self._tag = {"memos_embedder": embedder, "memos_vault": vault_id}
        self._collection: Any = None
        folder.parent.mkdir(parents=True, exist_ok=True)
        self._lock = filelock.FileLock(str(folder) + ".lock")
        try:
            self._lock.acquire(timeout=0)
            self.owned = True
        except filelock.Timeout:
            self.owned = False
        self.was_empty = False
        if self.owned:
            self._open()

    def _open(self) -> None:
        try:
            self._connect()
        except Exception as err:  # noqa: BLE001 - Chroma raises its own and Rust errors; the index can be rebuilt
            log.warning("the Chroma folder %s is damaged and is made anew: %s", self._folder, err)
            shutil.rmtree(self._folder, ignore_errors=True)
            self._connect()

    def _connect(self) -> None:
        settings = self._chromadb.Settings(anonymized_telemetry=False, allow_reset=True)
        self._client = self._chromadb.PersistentClient(path=str(self._folder), settings=settings)
        names = [c.name for c in self._client.list_collections()]
        if _COLLECTION in names:
            found = self._client.get_collection(_COLLECTION, embedding_function=None)
            if {k: (found.metadata or {}).get(k) for k in self._tag} == self._tag:
                self._collection = found
                self.was_empty = found.count() == 0
                return
            self._client.delete_collection(_COLLECTION)
        self._collection = self._client.create_collection(
            _COLLECTION, metadata=self._tag, embedding_function=None, configuration={"hnsw": {"space": "ip"}}
        )
        self.was_empty = True

    def add(self, ids: Sequence[str], scopes: Sequence[tuple[str, str]], vectors: Matrix) -> None:
        """Add or replace vectors, at most `MAX_BATCH` at a time. `scopes` are (tenant, user) pairs."""
        fields = [{"tenant": tenant, "user": user} for tenant, user in scopes]
        self._collection.upsert(ids=list(ids), embeddings=vectors, metadatas=fields)

    def remove(self, ids: Sequence[str]) -> None:
        """Forget vectors; unknown ids are ignored."""
        for i in range(0, len(ids), MAX_BATCH):
            self._collection.delete(ids=list(ids[i : i + MAX_BATCH]))

    def query(self, vector: Matrix, scope: Scope, k: int) -> list[tuple[str, float]]:
        """The nearest vectors in a scope's tenant and user, as (id, cosine), nearest first."""
        where: dict[str, Any] = {"tenant": scope.tenant}
        if scope.user is not None:
            where = {"$and": [where, {"user": scope.user}]}
        size = min(k, self._collection.count())
        if not size:
            return []
        found = self._collection.query(query_embeddings=vector[None], n_results=size, where=where, include=["distances"])
        return [(i, 1.0 - float(d)) for i, d in zip(found["ids"][0], found["distances"][0], strict=True)]

    def count(self) -> int:
        """How many vectors it holds."""
        return int(self._collection.count())

    def close(self) -> None:
        """Give the folder back to other processes."""
        if self.owned:
            self._client.close()
            self._lock.release()
            self.owned = False
