"""Retriever: finds cubes by meaning and by words, inside a scope, including what was written a moment ago."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from memos_core import arguments
from memos_core.cube import ANY_USER, MemCube
from memos_core.errors import InvalidArgument, VaultReadOnly, missing_extra
from memos_core.retrieval.ann import AnnIndex
from memos_core.retrieval.chroma import ChromaIndex, server_of
from memos_core.retrieval.embedder import Embedder, installed
from memos_core.retrieval.fusion import fuse, query_words
from memos_core.retrieval.matrix import BUDGET, MatrixCache, Ranking
from memos_core.vault import CubeFilter, Vault
from memos_core.vault.vectors import Matrix, Owner
from memos_core.vault.words import bm25

log = logging.getLogger("memos_core.retrieval")
IndexKind = str  # "auto", "chroma", "exact", or a Chroma server's URL

# "auto" asks Chroma about scopes of more vectors than this: so many that the matrices' budget decides in most cases, as
# a matrix was faster and complete at every size that fits in it (`python -m benchmarks.index`).
EXACT_BELOW = 1_000_000
_EMBED_BATCH = 64
_PAGE = 8  # cubes read at first, at least
_MOST_READ = 128  # cubes read at a time
_POOL = 100  # candidates taken from each side before fusion
_LOOKED_UP = 2_000  # hits that are looked up one by one; then the vault names all that match
_NEARBY = 4_000  # what Chroma is asked for at most before the vault's vectors are compared instead
_KEPT_VECTORS = 8_192  # of texts that no index holds


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
        index: "exact" compares with every vector of the scope, from a matrix in memory (pgvector on PostgreSQL);
            "chroma" always feeds Chroma and asks it for every scope, "http://HOST:PORT" a Chroma server; "auto" is
            "exact", and Chroma for scopes beyond `EXACT_BELOW` or `matrix_bytes`, where chromadb is installed.
        matrix_bytes: how much memory the matrices may take together.

    Raises:
        InvalidArgument: another index. MissingExtra: "chroma" or a server without chromadb.
    """

    def __init__(
        self,
        vault: Vault,
        embedder: Embedder | None,
        *,
        index: IndexKind = "auto",
        matrix_bytes: int = BUDGET,
    ) -> None:
        if index not in ("auto", "chroma", "exact"):
            server_of(index if isinstance(index, str) else repr(index))
        if index not in ("auto", "exact") and not installed("chromadb"):
            raise missing_extra("chromadb", "chroma")
        self.vault = vault
        self.embedder = embedder
        self._lock = threading.RLock()  # one thread embeds at a time
        self._dims: int | None = None
        # Whether Chroma is asked: from the start, or since a search found a scope that "auto" would rather have there.
        self._asked = False
        self._kept: OrderedDict[tuple[str, int], Matrix] = OrderedDict()
        self._kind = index
        self._ann: AnnIndex | None = None
        home = vault.location.home
        server = index not in ("auto", "chroma", "exact")
        name = embedder.name if embedder is not None else ""
        self._matrices = MatrixCache(vault.vectors, name, matrix_bytes)
        if server:
            self._ann = AnnIndex(vault, name, index, required=True)
        elif home is not None:
            self._ann = AnnIndex(vault, name, home / "chroma", required=index != "auto")
        if embedder is None or self._ann is None:
            self._kind = "exact"
        self._asked = self._kind not in ("auto", "exact")
        if embedder is not None:
            self._reset()

    def _reset(self, dims: int | None = None) -> None:
        assert self.embedder is not None
        try:
            self.vault.vectors.reset(self.embedder.name, dims)
        except VaultReadOnly:
            log.warning(
                "another embedder made the vectors of this vault, which may only be read: they are not used"
            )

    # -- indexing ------------------------------------------------------------------------------------------

    def apply_pending(
        self, which: CubeFilter | None = None, *, should_yield: Callable[[], None] | None = None
    ) -> int:
        """Embed cubes that have no vector yet; all of them, or those that match. Returns how many. What is written
        meanwhile is left for the next time.

        Args:
            should_yield: called between batches; may raise to give up, what is done stays done.
        """
        if self.embedder is None:
            return 0
        done = 0
        while True:
            batch = self.vault.vectors.pending(which, _EMBED_BATCH)
            if not batch:
                return done
            with self._lock:
                # Looked at again: another thread may have embedded them while this one waited.
                batch = self.vault.vectors.pending(which, _EMBED_BATCH)
                if not batch:
                    return done
                vectors = self.embedder.embed_documents([text for _, _, text in batch])
                self.vault.vectors.put(
                    [(id_, version) for id_, version, _ in batch], vectors, self.embedder.name
                )
                done += len(batch)
            if len(batch) < _EMBED_BATCH:
                return done
            if should_yield is not None:
                should_yield()

    def feed_index(self, *, should_yield: Callable[[], None] | None = None) -> int:
        """Give Chroma the vectors it does not hold, if this process owns it. Returns how many."""
        if self._ann is None or not self._asked:
            return 0
        return self._ann.feed(should_yield)

    def forget(self, ids: list[str]) -> None:
        """Take deleted cubes out of what is kept beside the vault. (A hit that the vault no longer has is dropped in
        any case.)"""
        gone = set(ids)
        self.vault.forget()
        with self._lock:
            for key in [key for key in self._kept if key[0] in gone]:
                del self._kept[key]
        if self._ann is not None:
            self._ann.forget(ids)

    def reset_index_files(self) -> None:
        """After an erasure: drop the index with all its files, which keep deleted vectors, and what is in memory. It
        is fed again from the vault.

        Raises:
            MemOSError: the folder cannot be removed.
        """
        with self._lock:
            self._kept.clear()
        self._matrices.clear()
        self.vault.forget(erased=True)
        if self._ann is not None:
            self._ann.start_over()

    def _index(self) -> ChromaIndex | None:
        return None if self._ann is None or self._kind == "exact" else self._ann.opened()

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
        words, vector = query_words(query), self._question(query)
        unstored = self._bring_in(which, vector)
        pool = max(_POOL, 4 * k)
        # Read cubes in order of rank, and no more than needed; those that are refused, once.
        judged: dict[str, MemCube | None] = {}
        size = k if accept is None else max(k, _PAGE)
        while True:
            # Not while Chroma is asked, which may change what the vault says of it.
            with self.vault.db.held() if not self._asked else nullcontext():
                which = self.vault.narrowed(which)
                lexical = dict(self.vault.lexical(words, which, pool))
                semantic = {**self._semantic(vector, which, pool), **unstored}
                if min_similarity is not None:
                    semantic = {i: s for i, s in semantic.items() if s >= min_similarity}
                ranked = sorted(fuse(lexical, semantic).items(), key=lambda x: (-x[1], x[0]))
                first = self._read(which, ranked[:size], judged)
            hits: list[Hit] = []
            start = 0
            while start < len(ranked) and len(hits) < k:
                page = ranked[start : start + size]
                cubes = first if start == 0 else self._read(which, page, judged)
                for id_, cube in cubes.items():
                    judged[id_] = cube if accept is None or accept(cube) else None
                hits += [
                    Hit(found, score, semantic.get(id_), lexical.get(id_))
                    for id_, score in page
                    if (found := judged.get(id_)) is not None
                ]
                start += len(page)
                size = min(2 * size, max(k, _MOST_READ))
            # Candidates may have been refused: look further while there is further to look.
            if len(hits) >= k or max(len(lexical), len(semantic)) < pool:
                return hits[:k]
            pool *= 4

    def _read(
        self, which: CubeFilter, page: Sequence[tuple[str, float]], judged: Mapping[str, MemCube | None]
    ) -> dict[str, MemCube]:
        """The cubes of a page of hits that were not looked at before."""
        return self.vault.get(which, [id_ for id_, _ in page if id_ not in judged])

    def _bring_in(self, which: CubeFilter, vector: Matrix | None) -> dict[str, float]:
        """Have a vector for every cube that matches. Where they cannot be stored, the cosines of those without one."""
        if vector is None:
            return {}
        try:
            self.apply_pending(which)
        except VaultReadOnly:
            waiting = [id_ for id_, _, _ in self.vault.vectors.pending(which, _LOOKED_UP)]
            return self._compare_texts(list(self.vault.get(which, waiting).values()), vector)
        return {}

    def _question(self, query: str) -> Matrix | None:
        """The vector of a question; None where there is nothing to compare."""
        if self.embedder is None or not query.strip():
            return None
        # A lone surrogate in a question is no reason to find nothing; embedders cannot take one.
        vector = self.embedder.embed_query(arguments.whole(query))
        if self._dims != len(vector):  # a model of the same name may have changed since the vault was written
            self._reset(len(vector))
            self._dims = len(vector)
        return vector

    def _semantic(self, vector: Matrix | None, which: CubeFilter, pool: int) -> dict[str, float]:
        """The `pool` cubes nearest to a vector among those that match, with their cosines."""
        if self.embedder is None or vector is None:
            return {}
        if self._kind in ("auto", "exact"):
            served = self.vault.vectors.nearest(which, vector, self.embedder.name, pool)
            if served is not None:
                return dict(served)
            ranking = self._matrices.compare(_owner(which), vector)
            if ranking is not None and (self._kind == "exact" or len(ranking.scores) <= EXACT_BELOW):
                found = self._matching(ranking, which, pool)
                if which.granted is not None:  # these lie in the matrices of others
                    found.update(self._compared(which, vector, pool, granted=True))
                return _best(found, pool)
            if self._kind == "exact":
                return self._compared(which, vector, pool)
            if not self._asked:  # the next search may ask it
                self._asked = True
                return self._compared(which, vector, pool)
        return self._approximate(vector, which, pool)

    def _matching(self, ranking: Ranking, which: CubeFilter, pool: int) -> dict[str, float]:
        """The best rows of a matrix that match and are up to date."""
        if which.namespace:  # often few of the owner's: then it is quicker to ask for all of them
            some = self.vault.vectors.versions(which, limit=_LOOKED_UP + 1)
            if len(some) <= _LOOKED_UP:
                return _best(ranking.among(some), pool)
        found: dict[str, float] = {}
        looked_up = 0
        for page in ranking.pages(pool):
            if looked_up >= _LOOKED_UP:  # few match: let the vault say which
                return _best(ranking.among(self.vault.vectors.versions(which)), pool)
            current = self.vault.vectors.versions(which, list(page))
            for id_, (version, score) in page.items():
                if version >= current.get(id_, version + 1) and len(found) < pool:
                    found[id_] = score
            looked_up += len(page)
            if len(found) >= pool:
                break
        return found

    def _approximate(self, vector: Matrix, which: CubeFilter, pool: int) -> dict[str, float]:
        """Chroma nominates; the vault's own vectors say how near. What Chroma does not hold is compared too."""
        assert self._ann is not None
        self._ann.feed_soon()
        # Before Chroma is asked: what is fed meanwhile is found twice, not never.
        state = self.vault.vectors.index_state
        outside = self._compared(which, vector, pool, outside_index=True)
        if which.granted is not None:  # these are not in the scope that Chroma is asked about
            outside.update(self._compared(which, vector, pool, granted=True))
        size = 2 * pool
        while size <= max(_NEARBY, 2 * pool):
            ids = self._ann.query(vector, which.scope, size)
            if ids is None or self.vault.vectors.index_state != state:
                break  # it cannot be asked, or was emptied just now
            found = self._compared(which, vector, pool, ids=ids)
            if len(found) >= pool or len(ids) + len(outside) >= self.vault.vectors.size(_owner(which)):
                return _best({**found, **outside}, pool)
            if len(ids) < size:
                break  # it does not name all that it has
            size *= 4
        return self._compared(which, vector, pool)

    def _compared(self, which: CubeFilter, vector: Matrix, pool: int, **part: Any) -> dict[str, float]:
        """The nearest of the vectors that `VectorTable.scan` gives, without keeping more than a part of them."""
        assert self.embedder is not None
        best: dict[str, float] = {}
        for ids, matrix in self.vault.vectors.scan(which, self.embedder.name, len(vector), **part):
            scores = matrix @ vector
            top = np.argpartition(-scores, pool - 1)[:pool] if len(ids) > pool else range(len(ids))
            best.update((ids[i], float(scores[i])) for i in top)
            if len(best) > 2 * pool:
                best = _best(best, pool)
        return _best(best, pool)

    def nearest(
        self,
        vector: Sequence[float],
        which: CubeFilter,
        *,
        k: int = 10,
        accept: Callable[[MemCube], bool] | None = None,
    ) -> list[Hit]:
        """The cubes nearest to a vector of the vault's embedder, nearest first. Its length does not count.

        Raises:
            InvalidArgument: there is no embedder, or it makes vectors of another length.
        """
        if self.embedder is None:
            raise InvalidArgument("vector: this vault has no embedder, so nothing can be compared with it")
        if self._dims is None:
            self._question("a")  # to learn how long its vectors are
        given = np.asarray(vector, np.float32)
        size = float(np.linalg.norm(given))
        if given.shape != (self._dims,) or not np.isfinite(size) or not size:
            raise InvalidArgument(
                f"vector must be {self._dims} finite numbers, not all 0, as the vault's embedder makes them"
            )
        given = given / size
        unstored, pool = self._bring_in(which, given), max(_POOL, k)
        while True:
            found = {**self._semantic(given, which, pool), **unstored}
            cubes = self.vault.get(which, list(found))
            hits = [
                Hit(cubes[id_], max(0.0, score), score, None)
                for id_, score in sorted(found.items(), key=lambda x: (-x[1], x[0]))
                if id_ in cubes and (accept is None or accept(cubes[id_]))
            ]
            if len(hits) >= k or len(found) < pool:
                return hits[:k]
            pool *= 4

    def near(self, text: str, which: CubeFilter, similarity: float, limit: int = 10) -> list[str]:
        """The cubes whose meaning is nearest to a text, of at least this cosine, nearest first, by id."""
        vector = self._question(text)
        unstored = self._bring_in(which, vector)
        found = {**self._semantic(vector, which, _POOL), **unstored}
        alike = sorted(((s, i) for i, s in found.items() if s >= similarity), key=lambda x: (-x[0], x[1]))
        return [id_ for _, id_ in alike[:limit]]

    def rank(
        self,
        query: str,
        cubes: Iterable[MemCube],
        *,
        k: int = 10,
        min_similarity: float | None = None,
        accept: Callable[[MemCube], bool] | None = None,
    ) -> list[Hit]:
        """Search in cubes that no index holds: of the past, or archived. Slower: each is compared, and embedded
        where the vault has no vector of just this version."""
        if k < 1:
            raise InvalidArgument(f"k must be 1 or more, got {k}")
        by_id = {c.id: c for c in cubes if c.text.strip() and (accept is None or accept(c))}
        texts = [c.text for c in by_id.values()]
        words = bm25(query_words(query), texts)
        lexical = {id_: s for id_, s in zip(by_id, words, strict=True) if s > 0}
        semantic: dict[str, float] = {}
        vector = self._question(query) if by_id else None
        if vector is not None:
            every = list(by_id.values())
            for start in range(0, len(every), _EMBED_BATCH * 4):
                semantic.update(self._compare_texts(every[start : start + _EMBED_BATCH * 4], vector))
        if min_similarity is not None:
            semantic = {i: s for i, s in semantic.items() if s >= min_similarity}
        ranked = sorted(fuse(lexical, semantic).items(), key=lambda x: (-x[1], x[0]))
        return [Hit(by_id[i], score, semantic.get(i), lexical.get(i)) for i, score in ranked[:k]]

    def _compare_texts(self, cubes: Sequence[MemCube], vector: Matrix) -> dict[str, float]:
        assert self.embedder is not None
        vectors = self.vault.vectors.stored({c.id: c.version for c in cubes}, self.embedder.name, len(vector))
        with self._lock:
            for cube in cubes:
                kept = self._kept.get((cube.id, cube.version))
                if kept is not None and len(kept) == len(vector):
                    vectors.setdefault(cube.id, kept)
            missing = [c for c in cubes if c.id not in vectors]
            if missing:
                made = self.embedder.embed_documents([c.text for c in missing])
                for cube, one in zip(missing, made, strict=True):
                    vectors[cube.id] = self._kept[cube.id, cube.version] = np.array(one, np.float32)
                while len(self._kept) > _KEPT_VECTORS:
                    self._kept.popitem(last=False)
        return {id_: float(one @ vector) for id_, one in vectors.items()}

    def close(self) -> None:
        """Stop feeding Chroma and release its folder."""
        if self._ann is not None:
            self._ann.close()
        self._matrices.clear()


def _owner(which: CubeFilter) -> Owner:
    return which.scope.tenant, None if which.scope.user == ANY_USER else which.scope.user or ""


def _best(scores: dict[str, float], n: int) -> dict[str, float]:
    if len(scores) <= n:
        return scores
    return dict(sorted(scores.items(), key=lambda x: (-x[1], x[0]))[:n])
