"""Search of one user's scope in a vault of many users: `python -m benchmarks.vault --scale`.

100,000 cubes of 1,000 users (`--quick`: 10,000 of 100), written in the order in which users come and go; then 2,000
searches, each of another user drawn at random. Once in the process that wrote, once in a new process over the same
vault, which begins with cold caches. Peak memory is the whole process's, Python and its libraries included.
"""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.corpus import InstantEmbedder, Sentences
from benchmarks.report import show
from benchmarks.vault_sides import K, database_size, folder_size
from memos_core import MemOS

SEARCHES = 2_000
EACH = 10  # cubes of one user in one transaction


def run(quick: bool, path: Path | None, url: str | None, index: str) -> None:
    """Build, search here, search in a new process, print."""
    users, cubes = (100, 10_000) if quick else (1_000, 100_000)
    searches = 500 if quick else SEARCHES
    tenant = f"scale-{uuid.uuid4().hex[:8]}"
    with tempfile.TemporaryDirectory(prefix="memos-benchmark-") as folder:
        where = url or str(Path(folder) / "vault")
        before, bare = database_size(url) if url else 0, _rss()
        memos = _open(where, tenant, index)
        try:
            written, indexed = _build(memos, users, cubes)
            here = _search(memos, users, searches)
        finally:
            memos.close()
        size = database_size(url) - before if url else folder_size(Path(folder))
        job = json.dumps([where, tenant, index, users, searches])
        line = [sys.executable, "-m", "benchmarks.vault_scale", job]
        answer = subprocess.run(line, check=True, capture_output=True, text=True).stdout
        there = json.loads(answer.splitlines()[-1])
        if url:
            with _open(where, tenant, index) as memos:
                for user in range(users):
                    memos.scoped(user=_user(user)).delete_where()
    kind = "PostgreSQL" if url else "SQLite"
    rows: list[dict[str, Any]] = [
        {"searched by": "the process that wrote", **here},
        {"searched by": "a new process", **there},
    ]
    notes = [
        f"writing took {written:.1f} s ({cubes / written:,.0f} cubes/s, {EACH} a transaction, indexing beside it); "
        f"all was indexed after {indexed:.1f} s",
        f"{size / cubes:,.0f} bytes a cube on the disk; this process had {bare} MB before it opened the vault",
        InstantEmbedder().cost(),
    ]
    title = (
        f"{searches:,} searches of one user's {cubes // users} in {cubes:,} cubes, {users:,} users, {kind}"
    )
    show(title, rows, [], path, notes)


def _open(where: str, tenant: str, index: str) -> MemOS:
    return MemOS.open(where, tenant=tenant, embedder=InstantEmbedder(), index=index)  # type: ignore[arg-type]


def _build(memos: MemOS, users: int, cubes: int) -> tuple[float, float]:
    """Seconds until all was written, and until all was indexed."""
    turns = [user for user in range(users) for _ in range(cubes // users // EACH)]
    random.Random(3).shuffle(turns)
    texts = Sentences(1)
    started = time.perf_counter()
    for user in turns:
        view = memos.scoped(user=_user(user))
        view.put([view.cube(text) for text in texts.take(EACH)])
    written = time.perf_counter() - started
    memos.scheduler.wait_idle()
    return written, time.perf_counter() - started


def _search(memos: MemOS, users: int, searches: int) -> dict[str, float | int]:
    questions, chosen = Sentences(2).questions(searches), random.Random(4).choices(range(users), k=searches)
    times, cpu = [], time.process_time()
    for question, user in zip(questions, chosen, strict=True):
        view = memos.scoped(user=_user(user))
        started = time.perf_counter()
        hits = view.search(question, k=K)
        times.append((time.perf_counter() - started) * 1e3)
        if len(hits) < K or any(hit.cube.scope.user != _user(user) for hit in hits):
            raise SystemExit(f"a search of {_user(user)} found {len(hits)} cubes, or another user's")
    return {
        "first ms": times[0],
        "p50 ms": float(np.percentile(times, 50)),
        "p95 ms": float(np.percentile(times, 95)),
        "max ms": max(times[1:]),
        "mean CPU ms": (time.process_time() - cpu) / searches * 1e3,
        "peak MB": _rss(),
    }


def _user(number: int) -> str:
    return f"user{number:04}"


def _rss() -> int:
    """The most memory this process has had, in MB. On Linux `getrusage` counts what its parent had before `exec`,
    the kernel's own high-water mark does not."""
    status = Path("/proc/self/status")
    if status.exists():
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return round(int(peak.split()[1]) * 1024 / 1e6)
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6)


def _search_only(job: str) -> None:
    where, tenant, index, users, searches = json.loads(job)
    with _open(where, tenant, index) as memos:
        print(json.dumps(_search(memos, users, searches)))


if __name__ == "__main__":
    _search_only(sys.argv[1])
