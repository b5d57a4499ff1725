"""Exact search in memory: the vectors of one user (or of all users of a tenant) as one float32 matrix.

A matrix follows the vault: before each search it takes what was written since, by any process, which is one look
into an index. What was deleted stays in it until enough is dead to be worth a rebuild; the vault is asked about
every hit, so it is never found."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt

from memos_core.vault.rows import ahead
from memos_core.vault.vectors import Matrix, Owner, VectorRow, VectorTable

BUDGET = 512 * 2**20
_ROW_OVERHEAD = 300  # bytes of Python for a row's id and its places in list and dict, roughly
_CHUNK = 4_096
_COUNT_EVERY = 64  # searches between two looks at how much is dead
_DEAD = 0.2
_GONE = float("-inf")


@dataclass(frozen=True)
class Ranking:
    """What a matrix says about one question: each of its rows with its cosine.

    Args:
        ids, versions: of the rows, at least as many as `scores`.
        scores: the cosine of each row, minus infinity where it is out of date.
    """

    ids: list[str]
    versions: list[int]
    scores: npt.NDArray[np.float32]

    def pages(self, size: int) -> Iterator[dict[str, tuple[int, float]]]:
        """The rows in pages, best first: id to (version, cosine). Each page is four times the one before."""
        start, n = 0, len(self.scores)
        order = np.argpartition(-self.scores, size)[:size] if size < n else np.arange(n)
        order = order[np.argsort(-self.scores[order], kind="stable")]
        while True:
            rows = order[start : start + size]
            page = {
                self.ids[i]: (self.versions[i], score)
                for i, score in zip(rows.tolist(), self.scores[rows].tolist(), strict=True)
                if score > _GONE
            }
            if page:
                yield page
            start, size = start + size, size * 4
            if start >= n:
                return
            if len(order) < n:
                order = np.argsort(-self.scores, kind="stable")

    def among(self, versions: dict[str, int]) -> dict[str, float]:
        """The cosines of these ids, where the row is not older than the version given."""
        rows = [i for i, id_ in enumerate(islice(self.ids, len(self.scores))) if id_ in versions]
        return {
            self.ids[i]: float(self.scores[i])
            for i in rows
            if self.scores[i] > -np.inf and self.versions[i] >= versions[self.ids[i]]
        }


class _Scope:
    """The vectors of one owner. Rows are only appended: a thread that compares may go on while another adds."""

    def __init__(self, vectors: VectorTable, owner: Owner, embedder: str, dims: int) -> None:
        self._vectors, self._owner, self._embedder, self._dims = vectors, owner, embedder, dims
        self._lock = threading.Lock()
        self._clear()

    def _clear(self, rows: int = 0) -> None:
        self._matrix: Matrix = np.empty((rows, self._dims), np.float32)
        self._ids: list[str] = []
        self._versions: list[int] = []
        self._rows: dict[str, int] = {}
        self._dead: list[int] = []
        self._seen = 0
        self._searches = 0

    @property
    def nbytes(self) -> int:
        return self._matrix.nbytes + len(self._ids) * _ROW_OVERHEAD

    def compare(self, vector: Matrix, limit: int) -> Ranking | None:
        """Every row against a question; None where they do not fit in `limit` bytes."""
        with self._lock:
            if not self._catch_up(limit):
                return None
            # Held by this thread, whatever another one does to the scope meanwhile.
            n, matrix, ids, versions = len(self._ids), self._matrix, self._ids, self._versions
            dead = np.asarray(self._dead, np.intp)
        scores = matrix[:n] @ np.asarray(vector, np.float32)
        scores[dead] = -np.inf
        return Ranking(ids, versions, scores)

    def _catch_up(self, limit: int) -> bool:
        self._searches += 1
        if self._seen == 0 or self._searches % _COUNT_EVERY == 0:
            size = self._vectors.size(self._owner)
            if size * (self._dims * 4 + _ROW_OVERHEAD) > limit:
                return False
            if self._seen == 0 or len(self._ids) > size / (1 - _DEAD) + 8:
                self._clear(size)
        while rows := self._vectors.after(self._owner, self._seen, _CHUNK):
            mine = [r for r in rows if r.embedder == self._embedder and r.dims == self._dims]
            for row in rows:
                old = self._rows.pop(row.cube_id, None)
                if old is not None:
                    self._dead.append(old)
            if mine and not self._append(mine, limit):
                return False
            self._seen = ahead(self._seen, rows[-1].seq, "vectors")
        return True

    def _append(self, rows: list[VectorRow], limit: int) -> bool:
        start = len(self._ids)
        needed = start + len(rows)
        if needed > len(self._matrix):
            capacity = max(needed, len(self._matrix) * 3 // 2)
            if capacity * (self._dims * 4 + _ROW_OVERHEAD) > limit:
                capacity = needed
                if capacity * (self._dims * 4 + _ROW_OVERHEAD) > limit:
                    return False
            larger = np.empty((capacity, self._dims), np.float32)
            larger[:start] = self._matrix[:start]
            self._matrix = larger
        self._matrix[start:needed] = np.frombuffer(b"".join(r.vector for r in rows), "<f4").reshape(
            len(rows), self._dims
        )
        for place, row in enumerate(rows, start):
            self._rows[row.cube_id] = place
        self._versions += [r.version for r in rows]
        self._ids += [r.cube_id for r in rows]
        return True


class MatrixCache:
    """The matrices of the owners that were searched last, within a budget of memory. Safe from many threads.

    Args:
        vectors: the vault's. embedder: whose vectors. budget: bytes for all matrices together.
    """

    def __init__(self, vectors: VectorTable, embedder: str, budget: int = BUDGET) -> None:
        self._vectors, self._embedder, self._budget = vectors, embedder, budget
        self._scopes: OrderedDict[tuple[Owner, int], _Scope] = OrderedDict()
        self._sizes: dict[tuple[Owner, int], int] = {}
        self._total = 0
        self._lock = threading.Lock()

    def compare(self, owner: Owner, vector: Matrix) -> Ranking | None:
        """Every vector of an owner against a question; None where they are more than the budget allows.

        Args:
            owner: tenant and user; user None is every user of the tenant.
        """
        key = (owner, len(vector))
        with self._lock:
            scope = self._scopes.get(key) or _Scope(self._vectors, owner, self._embedder, len(vector))
            self._scopes[key] = scope
            self._scopes.move_to_end(key)
        found = scope.compare(vector, self._budget)
        with self._lock:
            if found is None and self._scopes.get(key) is scope:
                self._drop(key)
            if found is not None and self._scopes.get(key) is scope:
                self._total += scope.nbytes - self._sizes.get(key, 0)
                self._sizes[key] = scope.nbytes
            while self._total > self._budget and len(self._scopes) > 1:
                self._drop(next(iter(self._scopes)))
        return found

    @property
    def nbytes(self) -> int:
        """What the matrices take now."""
        with self._lock:
            return self._total

    @property
    def owners(self) -> list[Owner]:
        """Whose matrices are kept, the one used last at the end."""
        with self._lock:
            return [owner for owner, _ in self._scopes]

    def clear(self) -> None:
        """Give the memory back."""
        with self._lock:
            self._scopes.clear()
            self._sizes.clear()
            self._total = 0

    def _drop(self, key: tuple[Owner, int]) -> None:
        del self._scopes[key]
        self._total -= self._sizes.pop(key, 0)
