"""Chroma, embedded, as an approximate index of vectors. It is derived data: it holds vectors, ids and scope
fields, never text; it is fed in batches behind the vault; one process at a time owns its folder."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from memos_core.cube import ANY_USER, Scope
from memos_core.errors import MemOSError, missing_extra

Matrix = npt.NDArray[np.float32]
log = logging.getLogger("memos_core.retrieval")

MAX_BATCH = 5_000  # Chroma refuses more than 5,461 at once
_COLLECTION = "cubes"


class IndexDamaged(MemOSError):
    """Chroma failed: its files are not what they should be. What it held can be had from the vault."""


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
        self._client: Any = None
        self._collection: Any = None
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Taken in one thread and given back in another.
        self._lock = filelock.FileLock(str(folder) + ".lock", thread_local=False)
        try:
            self._lock.acquire(timeout=0)
            self.owned = True
        except filelock.Timeout:
            self.owned = False
        if self.owned:
            try:
                self._open()
            except BaseException:
                self._lock.release()
                raise

    def _open(self) -> None:
        try:
            self._connect()
        except Exception as err:  # noqa: BLE001 - Chroma raises its own and Rust errors; the index can be rebuilt
            self.rebuild(err)

    def rebuild(self, why: Exception) -> None:
        """Start over with an empty folder."""
        log.warning("the Chroma folder %s is damaged and is made anew: %s", self._folder, why)
        with contextlib.suppress(Exception):
            self._client.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        try:
            self._connect()
        except Exception:  # noqa: BLE001 - a client that failed stays in Chroma's cache for this path once more
            self._connect()

    def _connect(self) -> None:
        settings = self._chromadb.Settings(anonymized_telemetry=False, allow_reset=True)
        self._client = self._chromadb.PersistentClient(path=str(self._folder), settings=settings)
        names = [c.name for c in self._client.list_collections()]
        if _COLLECTION in names:
            found = self._client.get_collection(_COLLECTION, embedding_function=None)
            if {k: (found.metadata or {}).get(k) for k in self._tag} == self._tag:
                self._collection = found
                return
            self._client.delete_collection(_COLLECTION)
        self._collection = self._client.create_collection(
            _COLLECTION, metadata=self._tag, embedding_function=None, configuration={"hnsw": {"space": "ip"}}
        )

    def add(self, ids: Sequence[str], scopes: Sequence[tuple[str, str]], vectors: Matrix) -> None:
        """Add or replace vectors, at most `MAX_BATCH` at a time. `scopes` are (tenant, user) pairs."""
        fields = [{"tenant": tenant, "user": user} for tenant, user in scopes]
        with _failures():
            self._collection.upsert(ids=list(ids), embeddings=vectors, metadatas=fields)

    def remove(self, ids: Sequence[str]) -> None:
        """Forget vectors; unknown ids are ignored."""
        with _failures():
            for i in range(0, len(ids), MAX_BATCH):
                self._collection.delete(ids=list(ids[i : i + MAX_BATCH]))

    def query(self, vector: Matrix, scope: Scope, k: int) -> list[tuple[str, float]]:
        """The nearest vectors in a scope's tenant and user, as (id, cosine), nearest first."""
        where: dict[str, Any] = {"tenant": scope.tenant}
        if scope.user != ANY_USER:
            where = {"$and": [where, {"user": scope.user or ""}]}
        size = min(k, self.count())
        if not size:
            return []
        with _failures():
            found = self._collection.query(
                query_embeddings=vector[None], n_results=size, where=where, include=["distances"]
            )
        return [(i, 1.0 - float(d)) for i, d in zip(found["ids"][0], found["distances"][0], strict=True)]

    def ids(self) -> list[str]:
        """All it holds."""
        with _failures():
            return list(self._collection.get(include=[])["ids"])

    def count(self) -> int:
        """How many vectors it holds."""
        with _failures():
            return int(self._collection.count())

    def close(self) -> None:
        """Give the folder back to other processes."""
        if self.owned:
            self.owned = False
            try:
                self._client.close()
            finally:
                self._lock.release()


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except Exception as err:
        raise IndexDamaged(f"Chroma failed: {err}") from err
