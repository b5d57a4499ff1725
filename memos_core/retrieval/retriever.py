"""Retriever: finds cubes by meaning and by words, inside a scope, including what was written a moment ago."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from memos_core.cube import MemCube
from memos_core.errors import InvalidArgument, missing_extra
from memos_core.retrieval.chroma import MAX_BATCH, ChromaIndex, IndexDamaged
from memos_core.retrieval.embedder import Embedder, installed
from memos_core.retrieval.fusion import fuse, query_words, word_scores
from memos_core.vault import CubeFilter, Vault
from memos_core.vault.vectors import Matrix

log = logging.getLogger("memos_core.retrieval")
IndexKind = Literal["auto", "chroma", "exact"]

# Scopes with at most this many vectors are searched exactly: it is complete, and faster than asking Chroma.
EXACT_BELOW = 5_000
_EMBED_BATCH = 64
_PAGE = 16  # cubes read at a time
_POOL = 100  # candidates taken from each side before fusion


@dataclass(frozen=True)
class Hit:
    """A cube that was found. `score` is 0 to 1, comparable within one search; `similarity` is the cosine to
    the query and `lexical` the BM25 score, each None where that side did not find it."""

    cube: MemCube
    score: float
    similarity: float | None
    lexical: float | None


class Retriever:
    """Search over a vault.

    Args:
        vault: the truth. embedder: None for lexical search only.
        index: "exact" never uses Chroma; "chroma" always feeds it and asks it for every scope; "auto" does
            both from `EXACT_BELOW` vectors on, where chromadb is installed.
    """

    def __init__(self, vault: Vault, embedder: Embedder | None, *, index: IndexKind = "auto") -> None:
        if index not in ("auto", "chroma", "exact"):
            raise InvalidArgument(f"index must be 'auto', 'chroma' or 'exact', got {index!r}")
        if index == "chroma" and not installed("chromadb"):
            raise missing_extra("chromadb", "chroma")
        self.vault = vault
        self.embedder = embedder
        self._kind: IndexKind = index if vault.location.home else "exact"
        self._chroma: ChromaIndex | None = None
        self._lock = threading.RLock()  # one thread embeds and feeds at a time
        self._dims: int | None = None
        if embedder is not None:
            vault.vectors.reset(embedder.name)

    # -- indexing ------------------------------------------------------------------------------------------

    def apply_pending(
        self, which: CubeFilter | None = None, *, should_yield: Callable[[], None] | None = None
    ) -> int:
        """Embed cubes that have no vector yet; all of them, or those that match. Returns how many.

        Args:
            should_yield: called between batches; may raise to give up, what is done stays done.
        """
        if self.embedder is None:
            return 0
        done = 0
        while True:
            with self._lock:
                batch = self.vault.vectors.pending(which, _EMBED_BATCH)
                if not batch:
                    return done
                vectors = self.embedder.embed_documents([text for _, _, text in batch])
                self.vault.vectors.put(
                    [(id_, version) for id_, version, _ in batch], vectors, self.embedder.name
                )
                done += len(batch)
            if should_yield is not None:
                should_yield()

    def feed_index(self, *, should_yield: Callable[[], None] | None = None) -> int:
        """Give Chroma the vectors it does not hold, if this process owns it. Returns how many."""
        if not self._wants_index():
            return 0
        fed = 0
        with self._lock:
            index = self._index()
            if index is None or self.embedder is None:
                return 0
            try:
                self._reconcile(index)
                while rows := self.vault.vectors.outside_index(self.embedder.name, MAX_BATCH):
                    matrix = np.stack([r.vector for r in rows])
                    index.add([r.id for r in rows], [(r.tenant, r.user) for r in rows], matrix)
                    self.vault.vectors.mark_indexed([(r.id, r.version) for r in rows])
                    fed += len(rows)
                    if should_yield is not None:
                        should_yield()
            except IndexDamaged as err:
                self._start_over(index, err)
        return fed

    def forget(self, ids: list[str]) -> None:
        """Take deleted cubes out of Chroma. (A hit that the vault no longer has is dropped in any case; what
        another process deleted goes when this one feeds the index next.)"""
        with self._lock:
            if self._chroma is not None and self._chroma.owned and ids:
                try:
                    self._chroma.remove(ids)
                except IndexDamaged as err:
                    self._start_over(self._chroma, err)

    def _wants_index(self) -> bool:
        """Whether there is anything that Chroma would be asked about."""
        if self._kind == "exact" or self.embedder is None:
            return False
        return self._kind == "chroma" or self.vault.vectors.total() > EXACT_BELOW

    def _reconcile(self, index: ChromaIndex) -> None:
        """Make Chroma hold what the vault says it holds: its files may be lost, or older than the vault."""
        expected = self.vault.vectors.total(only_in_index=True)
        held = index.count()
        if held > expected:
            ids = index.ids()
            known = self.vault.vectors.known(ids)
            index.remove([i for i in ids if i not in known])
        elif held < expected:
            self.vault.vectors.reset_index()

    def _start_over(self, index: ChromaIndex, err: Exception) -> None:
        index.rebuild(err)
        self.vault.vectors.reset_index()

    def _index(self) -> ChromaIndex | None:
        """Chroma, opened at first need; None where it is not wanted, not installed or another process's."""
        home = self.vault.location.home
        if self._kind == "exact" or self.embedder is None or home is None:
            return None
        with self._lock:
            if self._chroma is None:
                try:
                    self._chroma = ChromaIndex(home / "chroma", self.embedder.name, self.vault.id)
                except ImportError as err:
                    if self._kind == "chroma":
                        raise
                    log.warning("large scopes are searched exactly: %s", err)
                    self._kind = "exact"
                    return None
            return self._chroma if self._chroma.owned else None

    # -- search --------------------------------------------------------------------------------------------

    def search(
        self,
        query: str,
        which: CubeFilter,
        *,
        k: int = 10,
        min_similarity: float | None = None,
        accept: Callable[[MemCube], bool] | None = None,
    ) -> list[Hit]:
        """The cubes nearest to a question.

        Args:
            query: the question, in words.
            which: where to look; nothing outside it is ever returned.
            k: how many at most.
            min_similarity: leave out cubes whose cosine to the question is lower; those found by words stay.
            accept: an extra condition on cubes, applied before `k` is counted.
        """
        if k < 1:
            raise InvalidArgument(f"k must be 1 or more, got {k}")
        pool = max(_POOL, 4 * k)
        while True:
            lexical = dict(self.vault.lexical(query_words(query), which, pool))
            semantic = self._semantic(query, which, pool)
            if min_similarity is not None:
                semantic = {i: s for i, s in semantic.items() if s >= min_similarity}
            ranked = sorted(fuse(lexical, semantic).items(), key=lambda x: (-x[1], x[0]))
            hits: list[Hit] = []
            size = max(k, _PAGE)
            for start in range(0, len(ranked), size):  # read cubes in order of rank, and no more than needed
                page = ranked[start : start + size]
                cubes = self.vault.get(which, [id_ for id_, _ in page])
                hits += [
                    Hit(cubes[id_], score, semantic.get(id_), lexical.get(id_))
                    for id_, score in page
                    if id_ in cubes and (accept is None or accept(cubes[id_]))
                ]
                if len(hits) >= k:
                    break
            # Candidates may have been filtered away: look further while there is further to look.
            if len(hits) >= k or max(len(lexical), len(semantic)) < pool:
                return hits[:k]
            pool *= 4

    def _semantic(self, query: str, which: CubeFilter, pool: int) -> dict[str, float]:
        if self.embedder is None or not query.strip():
            return {}
        # A lone surrogate in a question is no reason to find nothing; embedders cannot take one.
        vector = self.embedder.embed_query(query.encode(errors="replace").decode())
        if self._dims != len(vector):  # a model of the same name may have changed since the vault was written
            self.vault.vectors.reset(self.embedder.name, len(vector))
            self._dims = len(vector)
        self.apply_pending(which)
        if self._kind == "exact" or (self._kind == "auto" and self.vault.vectors.count(which) <= EXACT_BELOW):
            return self._exact(which, vector, pool)
        self.feed_index()
        with self._lock:
            index = self._index()
            if index is None:
                return self._exact(which, vector, pool)
            try:
                found = dict(index.query(vector, which.scope, pool))
            except IndexDamaged as err:
                self._start_over(index, err)
                return self._exact(which, vector, pool)
        return {**found, **self._exact(which, vector, pool, only_outside_index=True)}

    def _exact(
        self, which: CubeFilter, vector: Matrix, pool: int, *, only_outside_index: bool = False
    ) -> dict[str, float]:
        assert self.embedder is not None
        if not only_outside_index:
            served = self.vault.vectors.nearest(which, vector, self.embedder.name, pool)
            if served is not None:
                return dict(served)
        ids, matrix = self.vault.vectors.load(
            which, self.embedder.name, only_outside_index=only_outside_index
        )
        return _nearest(ids, matrix, vector, pool)

    def near(self, text: str, which: CubeFilter, similarity: float, limit: int = 10) -> list[str]:
        """The cubes whose meaning is nearest to a text, of at least this cosine, nearest first, by id."""
        found = self._semantic(text, which, _POOL)
        alike = sorted(((s, i) for i, s in found.items() if s >= similarity), key=lambda x: (-x[0], x[1]))
        return [id_ for _, id_ in alike[:limit]]

    def rank(
        self,
        query: str,
        cubes: Sequence[MemCube],
        *,
        k: int = 10,
        min_similarity: float | None = None,
        accept: Callable[[MemCube], bool] | None = None,
    ) -> list[Hit]:
        """Search in cubes that no index holds: of the past, or archived. Slower: each is compared."""
        if k < 1:
            raise InvalidArgument(f"k must be 1 or more, got {k}")
        cubes = [c for c in cubes if c.text.strip() and (accept is None or accept(c))]
        words = word_scores(query_words(query), [c.text for c in cubes])
        lexical = {c.id: s for c, s in zip(cubes, words, strict=True) if s > 0}
        semantic: dict[str, float] = {}
        if self.embedder is not None and cubes and query.strip():
            vector = self.embedder.embed_query(query.encode(errors="replace").decode())
            with self._lock:
                matrix = self.embedder.embed_documents([c.text for c in cubes])
            scores = matrix @ vector
            semantic = {
                c.id: float(s)
                for c, s in zip(cubes, scores, strict=True)
                if min_similarity is None or s >= min_similarity
            }
        by_id = {c.id: c for c in cubes}
        ranked = sorted(fuse(lexical, semantic).items(), key=lambda x: (-x[1], x[0]))
        return [Hit(by_id[i], score, semantic.get(i), lexical.get(i)) for i, score in ranked[:k]]

    def close(self) -> None:
        """Release Chroma's folder."""
        with self._lock:
            if self._chroma is not None:
                self._chroma.close()
                self._chroma = None


def _nearest(ids: list[str], matrix: Matrix, vector: Matrix, k: int) -> dict[str, float]:
    if not ids:
        return {}
    scores = matrix @ vector
    top = np.argpartition(-scores, k - 1)[:k] if len(ids) > k else np.arange(len(ids))
    return {ids[i]: float(scores[i]) for i in top}
