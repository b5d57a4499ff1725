"""Writes, reads and searches of one user's memories: our vault next to mem0 and LangGraph's SqliteStore.

    python -m benchmarks.vault [--quick] [--json FILE] [--sizes 1000,10000,100000] [--url postgresql://…]
    python -m benchmarks.vault --scale [--quick] [--json FILE] [--url postgresql://…]

Every side holds the same sentences in one user's scope and is asked in turn, in rounds; the embedder costs nothing.
Rates are medians of the rounds, milliseconds are percentiles of all calls. mem0 stores with `infer=False`.
SqliteStore has no search by meaning or words here, so that its searches are its filter over a namespace: it does
less than the others. `vs` columns say how many times as good as the peer ours is: more writes, or fewer
milliseconds or bytes. `--scale` is another question, of ours alone: one user among a thousand, see `vault_scale`.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import os
import sqlite3
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import numpy as np

from benchmarks import vault_scale
from benchmarks.corpus import InstantEmbedder, Sentences
from benchmarks.report import parser, show
from benchmarks.vault_sides import LangGraphStore, Mem0, Side, sides, versions

BATCH = 100
TOPICS = 10
SIZES, QUICK_SIZES = (1_000, 10_000, 100_000), (1_000, 2_000)
PEERS = (Mem0.name, LangGraphStore.name)
ROUND_LIMIT_S = 6.0  # a side that is slow does fewer calls a round

T = TypeVar("T")
Samples = dict[str, dict[str, list[float]]]  # by measure, by side
# What is printed, the samples it is made of, and whether more is better.
_MEASURES: tuple[tuple[str, str, bool], ...] = (
    ("writes/s, single", "single", True),
    ("writes/s, batches of 100", "batch", True),
    ("writes/s, batches of 100, until the next search has answered", "found", True),
    ("reads/s, by id", "read", True),
    ("search, ms, p50", "search", False),
    ("search, ms, p95", "search", False),
    ("first search after a batch, ms, p50", "first", False),
    ("10 of one type without a query, ms, p50", "listing", False),
    ("bytes a cube on the disk", "bytes", False),
)


def main() -> None:
    """Measure every size and print the table."""
    options = _options()
    if options.scale:
        vault_scale.run(options.quick, options.json, options.url, options.index)
        return
    with tempfile.TemporaryDirectory(prefix="memos-benchmark-") as folder:
        made, skipped = sides(Path(folder), options.url, options.index)
        try:
            race = Race(
                made, rounds=3 if options.quick else 5, calls=20 if options.quick else 40, cap=options.cap
            )
            rows = [row for size in options.sizes for row in race.run(size)]
            skipped += race.skipped
            notes = [f"durability of {side.name}: {side.durability()}" for side in made]
        finally:
            for side in made:
                side.close()
        notes.append(f"an fsync of 4 kB here takes {_fsync_ms(Path(folder)):.2f} ms")
    notes.append(InstantEmbedder().cost())
    skipped += [
        f"SqliteStore's search by meaning (sqlite-vec is an extension of SQLite{_extensions()}): its searches are "
        "its filter over the namespace, and its writes make no vector",
        *_extras(),
    ]
    title = f"One user's memories, {versions()}; vs: how many times as good as the peer ours is"
    show(title, rows, skipped, options.json, notes)


class Race:
    """Grows all sides together and measures them in turn.

    Args:
        rounds: how often each side has its turn. calls: searches in a turn; other calls follow from it.
        cap: seconds a side may take to grow to a size; one that is not done is left out from there on.
    """

    def __init__(self, made: Sequence[Side], *, rounds: int, calls: int, cap: float) -> None:
        self._sides, self._rounds, self._calls, self._cap = list(made), rounds, calls, cap
        self._names = [side.name for side in made]
        self._texts = {side.name: Sentences(1) for side in made}
        self._ids: dict[str, list[str]] = {side.name: [] for side in made}
        self._random = np.random.default_rng(5)
        self.skipped: list[str] = []

    def run(self, size: int) -> Iterator[dict[str, Any]]:
        """The rows of one size."""
        self._sides = [side for side in self._sides if self._grow(side, size)]
        samples: Samples = defaultdict(lambda: defaultdict(list))
        for side in self._sides:
            samples["bytes"][side.name].append(side.size() / len(self._ids[side.name]))
        gc.collect()
        gc.freeze()  # mem0 keeps all memories as objects: no other side should pay for looking through them
        questions = Sentences(2).questions(self._calls * self._rounds)
        for turn in range(self._rounds):
            asked = questions[turn * self._calls : (turn + 1) * self._calls]
            for side in self._in_turn(turn):
                self._look(side, asked, samples)
        for turn in range(self._rounds):
            for side in self._in_turn(turn):
                self._write(side, samples)
        for label, key, more in _MEASURES:
            yield self._row(size, label, samples[key], more)

    def _in_turn(self, turn: int) -> list[Side]:
        """Each round begins with another side."""
        start = turn % max(1, len(self._sides))
        return [*self._sides[start:], *self._sides[:start]]

    def _grow(self, side: Side, size: int) -> bool:
        ids, deadline = self._ids[side.name], time.perf_counter() + self._cap
        while len(ids) < size:
            self._batch(side, min(BATCH, size - len(ids)))
            if time.perf_counter() > deadline and len(ids) < size:
                self.skipped.append(
                    f"{side.name} at {size:,}: it had {len(ids):,} memories when the {self._cap:.0f} s for growing "
                    "were over (--cap SECONDS)"
                )
                return False
        side.settle()
        return True

    def _batch(self, side: Side, count: int) -> float:
        texts, ids = self._texts[side.name].take(count), self._ids[side.name]
        topic = f"topic{len(ids) // BATCH % TOPICS}"
        return timed(lambda: ids.extend(side.write_batch(texts, topic)))

    def _look(self, side: Side, questions: Sequence[str], samples: Samples) -> None:
        ids = self._ids[side.name]
        some = [ids[i] for i in self._random.integers(len(ids), size=self._calls * 5)]
        known = min(TOPICS, max(1, len(ids) // BATCH))
        topics = [f"topic{i % known}" for i in range(len(questions))]
        side.search("warm up", "topic0")
        samples["search"][side.name] += each(
            zip(questions, topics, strict=True), lambda x: expect(side.search(*x))
        )
        samples["listing"][side.name] += each(topics, lambda topic: expect(side.listing(topic)))
        samples["read"][side.name].append(rate(each(some, side.read)))

    def _write(self, side: Side, samples: Samples) -> None:
        name, ids = side.name, self._ids[side.name]
        texts = self._texts[name].take(self._calls)
        singles = each(texts, lambda text: ids.append(side.write(text, "topic0")))
        samples["single"][name].append(rate(singles))
        side.settle()
        for question in Sentences(len(ids)).questions(3):
            wrote = self._batch(side, BATCH)
            first = timed(lambda q=question: expect(side.search(q, "topic0")))  # type: ignore[misc]
            samples["batch"][name].append(BATCH / wrote)
            samples["first"][name].append(first * 1e3)
            samples["found"][name].append(BATCH / (wrote + first))
            side.settle()

    def _row(self, size: int, label: str, found: dict[str, list[float]], more: bool) -> dict[str, Any]:
        values: dict[str, float] = {}
        for name, samples in found.items():
            values[name] = float(np.percentile(samples, 95)) if label.endswith("p95") else median(samples)
        row: dict[str, Any] = {"cubes": size, "measure": label}
        for name in self._names:
            value = values.get(name)
            row[name] = value if value is None or "ms" in label else round(value)
        for ours in (name for name in self._names if name not in PEERS):
            for peer in (name for name in self._names if name in PEERS):
                mine, theirs = values.get(ours), values.get(peer)
                better = None if mine is None or theirs is None else mine / theirs if more else theirs / mine
                row[f"{ours.removeprefix('ours').removeprefix(', ')} vs {peer}".strip()] = better
        return row


def timed(call: Callable[[], object]) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def each(items: Iterable[T], call: Callable[[T], object]) -> list[float]:
    """Milliseconds of each call, as many as fit into a round."""
    times: list[float] = []
    deadline = time.perf_counter() + ROUND_LIMIT_S
    for item in items:
        started = time.perf_counter()
        call(item)
        times.append((time.perf_counter() - started) * 1e3)
        if started > deadline:
            break
    return times


def rate(times: Sequence[float]) -> float:
    """Calls a second, of milliseconds each."""
    return len(times) / sum(times) * 1e3


def expect(found: int) -> None:
    """A search that finds nothing is no measurement."""
    if not found:
        raise SystemExit("a search of the benchmark found nothing")


def _fsync_ms(folder: Path) -> float:
    with (folder / "fsync").open("wb") as file:

        def once() -> None:
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())

        return median(timed(once) for _ in range(50)) * 1e3


def _extensions() -> str:
    return "" if hasattr(sqlite3.Connection, "enable_load_extension") else ", and this Python loads none"


def _extras() -> list[str]:
    absent = [name for name in ("fastembed", "spacy") if importlib.util.find_spec(name) is None]
    return (
        [f"mem0's search by words and entities (without {', '.join(absent)} it has vectors only)"]
        if absent
        else []
    )


def _options() -> argparse.Namespace:
    made = parser(__doc__.splitlines()[0] if __doc__ else "")
    made.add_argument("--sizes", type=_sizes, help="cubes in the user's scope, e.g. 1000,10000,100000")
    made.add_argument(
        "--url", help="also measure our vault on PostgreSQL: postgresql://… of a scratch database"
    )
    made.add_argument("--cap", type=float, default=300.0, help="seconds a side may take to grow to a size")
    made.add_argument("--index", choices=["auto", "chroma", "exact"], default="auto", help="see MemOS.open")
    made.add_argument("--scale", action="store_true", help="ours alone: search of one user among a thousand")
    options = made.parse_args()
    options.sizes = options.sizes or list(QUICK_SIZES if options.quick else SIZES)
    return options


def _sizes(given: str) -> list[int]:
    return sorted(int(size) for size in given.split(","))


if __name__ == "__main__":
    main()
