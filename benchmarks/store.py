"""LangGraph's long-term store: ours next to InMemoryStore and SqliteStore.

    python -m benchmarks.store [--quick] [--json FILE] [--sizes 1000,10000] [--url postgresql://…]

Every side holds the same items, a tenth of them each of ten users, and is asked in turn, in rounds. All have the same
embedder, which costs nothing and makes 384 numbers. Milliseconds are medians of all calls. `vs` columns say how many
times as fast as the peer ours is. InMemoryStore writes nothing to the disk, and embeds within the put; ours embeds in
the background: "until a search has found them" counts that in. Where SqliteStore cannot load sqlite-vec it has no
search by a query, and makes no vectors when it writes.
"""

from __future__ import annotations

import argparse
import sqlite3
import tempfile
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from langgraph.store.base import BaseStore, IndexConfig, PutOp
from langgraph.store.memory import InMemoryStore
from langgraph.store.sqlite import SqliteStore

from benchmarks.corpus import DIMS, InstantEmbedder, Sentences
from benchmarks.report import parser, show
from langgraph.store.memos import MemOSStore
from memos_core import MemOS

BATCH, USERS, TOPICS = 100, 10, 10
SIZES, QUICK_SIZES = (1_000, 10_000), (1_000, 2_000)
PEERS = ("InMemoryStore", "SqliteStore")
LIMIT_S = 4.0  # of one measure in one round

Samples = dict[str, dict[str, list[float]]]  # milliseconds by measure and side


@dataclass
class Side:
    """A store under test.

    Args:
        settle: waits until nothing of it runs in the background. queries: whether it has search by a query.
    """

    name: str
    store: BaseStore
    settle: Callable[[], object]
    queries: bool = True


def main() -> None:
    """Measure every size and print the table."""
    options = _options()
    skipped: list[str] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="memos-benchmark-")))
        race = Race(_sides(stack, folder, options.url, skipped), rounds=2 if options.quick else 5)
        rows = [row for size in options.sizes for row in race.run(size)]
    title = (
        f"Items in LangGraph's store, ms, langgraph-checkpoint {version('langgraph-checkpoint')}, "
        f"langgraph-checkpoint-sqlite {version('langgraph-checkpoint-sqlite')}; vs: how many times as fast ours is"
    )
    notes = ["durability: ours and SqliteStore as they are opened by default; InMemoryStore: none"]
    show(title, rows, skipped, options.json, [*notes, InstantEmbedder().cost()])


def _sides(stack: ExitStack, folder: Path, url: str | None, skipped: list[str]) -> list[Side]:
    embedder = InstantEmbedder()

    def embed(texts: Sequence[str]) -> list[list[float]]:
        found: list[list[float]] = embedder.embed_documents(texts).tolist()
        return found

    index: IndexConfig = {"dims": DIMS, "embed": embed}
    made: list[Side] = []
    for name, where in (("ours", str(folder / "ours")), ("ours, PostgreSQL", url)):
        if where is not None:
            memos = stack.enter_context(
                MemOS.open(where, tenant=f"benchmark-{uuid.uuid4().hex[:8]}", embedder=embedder)
            )
            made.append(Side(name, MemOSStore(memos), memos.scheduler.wait_idle))
    if url is None:
        skipped.append("ours on PostgreSQL (--url postgresql://… of a scratch database)")
    made.append(Side(PEERS[0], InMemoryStore(index=index), lambda: None))
    file, queries = str(folder / "peer.db"), True
    try:
        peer = stack.enter_context(SqliteStore.from_conn_string(file, index=index))
        peer.setup()
    except (AttributeError, sqlite3.OperationalError) as err:
        skipped.append(
            f"SqliteStore's search by a query: sqlite-vec is an extension of SQLite, and this Python loads none ({err})"
        )
        peer, queries = stack.enter_context(SqliteStore.from_conn_string(file)), False
        peer.setup()
    made.append(Side(PEERS[1], peer, lambda: None, queries))
    return made


class Race:
    """Grows all sides together and measures them in turn.

    Args:
        rounds: how often each side has its turn.
    """

    def __init__(self, sides: Sequence[Side], rounds: int) -> None:
        self._sides, self._rounds = list(sides), rounds
        self._texts = Sentences(1).take(20_000)
        self._count = dict.fromkeys((side.name for side in sides), 0)

    def run(self, size: int) -> list[dict[str, Any]]:
        """The rows of one size."""
        for side in self._sides:
            while self._count[side.name] < size:
                side.store.batch(self._puts(side, BATCH))
            side.settle()
            side.store.search((), query="warm up")
        samples: Samples = defaultdict(lambda: defaultdict(list))
        for part in (self._read, self._write):  # reads first: writes change the size
            for turn in range(self._rounds):
                for side in [
                    *self._sides[turn % len(self._sides) :],
                    *self._sides[: turn % len(self._sides)],
                ]:
                    side.settle()
                    part(side, turn, samples)
        return [self._row(size, measure, found) for measure, found in samples.items()]

    def _puts(self, side: Side, count: int) -> list[Any]:
        start = self._count[side.name]
        self._count[side.name] += count
        return [
            PutOp(
                _place(n),
                f"key{n}",
                {"text": self._texts[n % len(self._texts)], "topic": f"t{n // USERS % TOPICS}", "n": n},
            )
            for n in range(start, start + count)
        ]

    def _read(self, side: Side, turn: int, samples: Samples) -> None:
        store, questions = side.store, Sentences(100 + turn).questions(10)
        users = [_place(n) for n in range(USERS)]
        if side.queries:
            _note(
                samples,
                "search of all, by a query",
                side,
                questions,
                lambda q: _found(store.search((), query=q)),
            )
            _note(
                samples,
                "search of one user's, by a query",
                side,
                zip(users, questions, strict=True),
                lambda x: _found(store.search(x[0], query=x[1])),
            )
        topics = [{"topic": f"t{n % TOPICS}"} for n in range(10)]
        _note(
            samples, "search of all, by a filter", side, topics, lambda f: _found(store.search((), filter=f))
        )
        _note(
            samples,
            "search of one user's, by a filter",
            side,
            zip(users, topics, strict=True),
            lambda x: _found(store.search(x[0], filter=x[1])),
        )
        _note(samples, "search of all, newest first", side, range(20), lambda _: _found(store.search(())))
        _note(samples, "search of one user's, newest first", side, users, lambda u: _found(store.search(u)))
        some = range(0, self._count[side.name], max(1, self._count[side.name] // 50))
        _note(samples, "get", side, some, lambda n: _found([store.get(_place(n), f"key{n}")]))
        _note(samples, "list_namespaces", side, range(10), lambda _: _found(store.list_namespaces()))

    def _write(self, side: Side, turn: int, samples: Samples) -> None:
        singles = (self._puts(side, 1)[0] for _ in range(30))
        _note(
            samples, "put, single", side, singles, lambda op: side.store.put(op.namespace, op.key, op.value)
        )
        side.settle()
        _note(samples, f"put, batch of {BATCH}", side, [self._puts(side, BATCH)], side.store.batch)
        side.settle()
        if side.queries:

            def until_found(ops: list[Any]) -> None:
                side.store.batch(ops)
                _found(side.store.search((), query=ops[-1].value["text"]))

            _note(
                samples,
                f"put, batch of {BATCH}, until a search has found them",
                side,
                [self._puts(side, BATCH)],
                until_found,
            )

    def _row(self, size: int, measure: str, found: dict[str, list[float]]) -> dict[str, Any]:
        values = {name: median(times) for name, times in found.items()}
        row: dict[str, Any] = {"items": size, "measure": measure}
        row.update((side.name, values.get(side.name)) for side in self._sides)
        for ours in (side.name for side in self._sides if side.name not in PEERS):
            for peer in PEERS:
                label = f"{ours.removeprefix('ours').removeprefix(', ')} vs {peer}".strip()
                row[label] = values[peer] / values[ours] if peer in values else None
        return row


def _place(n: int) -> tuple[str, ...]:
    return ("users", f"user{n % USERS}", "memories")


def _found(found: Sequence[Any]) -> None:
    if not found or found[0] is None:
        raise LookupError("a read of the benchmark found nothing")


def _note(
    samples: Samples, measure: str, side: Side, arguments: Iterable[Any], call: Callable[[Any], object]
) -> None:
    """Time a call with each argument, as many as fit into a round."""
    deadline = time.perf_counter() + LIMIT_S
    for argument in arguments:
        started = time.perf_counter()
        try:
            call(argument)
        except LookupError as err:
            raise SystemExit(f"{side.name}, {measure}: {err}") from None
        samples[measure][side.name].append((time.perf_counter() - started) * 1e3)
        if started > deadline:
            break


def _options() -> argparse.Namespace:
    made = parser(__doc__.splitlines()[0] if __doc__ else "")
    made.add_argument("--sizes", help="how many items, e.g. 1000,10000")
    made.add_argument("--url", help="also measure ours on PostgreSQL: postgresql://… of a scratch database")
    options = made.parse_args()
    sizes = [int(size) for size in options.sizes.split(",")] if options.sizes else None
    options.sizes = sizes or list(QUICK_SIZES if options.quick else SIZES)
    return options


if __name__ == "__main__":
    main()
