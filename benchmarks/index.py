"""Search by vectors inside one scope: our matrix in memory, Chroma, and the vault's vectors streamed from SQL.

    python -m benchmarks.index [--quick] [--json FILE]

Rows: sizes of the scope, vectors of 384 numbers, from 1,000 clusters. Columns for each way: the time of one search
(p50 and p95 in ms: nearest 10 of 100 candidates, each checked against the vault, without the embedder), recall@10
against all of them compared by brute force, and what had to be done before the first search in seconds (`load`: the
matrix read from SQL; `feed`: Chroma, default settings, fed behind the vault). Ways take turns.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import arguments, show
from memos_core.cube import MemCube, Plaintext, Scope
from memos_core.retrieval import Retriever
from memos_core.vault import Actor, CubeFilter, Vault

SIZES, QUICK = (1_000, 5_000, 10_000, 50_000, 100_000, 200_000), (1_000, 5_000)
DIMS, CLUSTERS, QUESTIONS, NEAREST = 384, 1_000, 100, 10
SCOPE = Scope(user="benchmark")
SKIPPED = ("a Chroma server (its time is the embedded one's and a round trip)",)


class Given:
    """An embedder that costs nothing: texts are numbers of vectors made before."""

    name = "given"

    def __init__(self, vectors: np.ndarray[Any, Any], questions: np.ndarray[Any, Any]) -> None:
        self._vectors, self._questions = vectors, questions

    def embed_documents(self, texts: Sequence[str]) -> Any:
        """The vectors of these numbers."""
        return self._vectors[[int(text) for text in texts]]

    def embed_query(self, text: str) -> Any:
        """The question of this number."""
        return self._questions[int(text)]


def main() -> None:
    """Measure every size and print the table."""
    options = arguments(__doc__.splitlines()[0] if __doc__ else "")
    rows = [_measure(n, 20 if options.quick else QUESTIONS) for n in (QUICK if options.quick else SIZES)]
    show("Search by vectors in one scope, ms", rows, SKIPPED, options.json)


def _measure(n: int, questions: int) -> dict[str, float | int]:
    vectors, asked = _vectors(n, questions)
    embedder = Given(vectors, asked)
    with tempfile.TemporaryDirectory() as folder:
        vault = Vault(Path(folder))
        filler = Retriever(vault, embedder, index="exact")
        names: dict[str, int] = {}
        for start in range(0, n, 5_000):
            cubes = [
                MemCube(scope=SCOPE, payload=Plaintext(text=str(i)))
                for i in range(start, min(n, start + 5_000))
            ]
            names.update((c.id, int(c.text)) for c in vault.put(cubes, Actor("benchmark", "benchmark")))
            filler.apply_pending()
        ways = {
            "matrix": Retriever(vault, embedder, index="exact"),
            "chroma": Retriever(vault, embedder, index="chroma"),
            "sql": Retriever(vault, embedder, index="exact", matrix_bytes=0),
        }
        row: dict[str, float | int] = {"vectors": n}
        which = CubeFilter(SCOPE)
        started = time.perf_counter()
        ways["chroma"].feed_index()
        row["chroma feed s"] = time.perf_counter() - started
        started = time.perf_counter()
        ways["matrix"].near("0", which, -1.0, NEAREST)
        row["matrix load s"] = time.perf_counter() - started
        times: dict[str, list[float]] = {name: [] for name in ways}
        recall: dict[str, list[float]] = {name: [] for name in ways}
        for i in range(questions):
            best = set(np.argsort(-(vectors @ asked[i]))[:NEAREST].tolist())
            for name, way in ways.items():
                if name == "sql" and i >= 20:
                    continue
                started = time.perf_counter()
                found = way.near(str(i), which, -1.0, NEAREST)
                times[name].append(1e3 * (time.perf_counter() - started))
                recall[name].append(len(best & {names[id_] for id_ in found}) / NEAREST)
        for name in ways:
            row[f"{name} p50"] = statistics.median(times[name])
            row[f"{name} p95"] = sorted(times[name])[int(len(times[name]) * 0.95)]
            row[f"{name} recall"] = statistics.mean(recall[name])
        for way in ways.values():
            way.close()
        vault.close()
        return row


def _vectors(n: int, questions: int) -> tuple[Any, Any]:
    """Vectors around centres, and questions near some of them; the same every time."""
    random = np.random.default_rng(n)
    centres = random.standard_normal((CLUSTERS, DIMS), np.float32)
    made = centres[random.integers(0, CLUSTERS, n)] + random.standard_normal((n, DIMS), np.float32)
    asked = made[random.integers(0, n, questions)] + random.standard_normal((questions, DIMS), np.float32)
    return _unit(made), _unit(asked)


def _unit(vectors: Any) -> Any:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


if __name__ == "__main__":
    main()
