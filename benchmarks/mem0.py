"""mem0's `Memory`: ours next to mem0ai itself over its local Qdrant and over its Chroma.

    python -m benchmarks.mem0 [--quick] [--json FILE] [--sizes 1000,5000]

The same calls to each, with `infer=False` and the same embedder, which costs nothing and makes 384 numbers. Every side
holds as many memories, a tenth of them each of ten users, and is asked in turn, in rounds. Figures are calls a second
(memories a second for a batch), from the median time of a call. "times" says how many times as fast ours is as the
faster of the two.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.corpus import DIMS, InstantEmbedder, Sentences
from benchmarks.report import parser, show
from benchmarks.vault_sides import open_mem0
from mem0_memos import Memory
from memos_core import MemOS

BATCH, USERS, TOPICS = 100, 10, 10
THREADS, PER_THREAD = 8, 40
SIZES, QUICK_SIZES = (1_000, 5_000), (300, 600)
LIMIT_S = 4.0  # of one measure in one round

Samples = dict[str, dict[str, list[float]]]  # seconds a call, or a memory of a batch, by measure and side


@dataclass
class Side:
    """A memory under test.

    Args:
        settle: waits until nothing of it runs in the background. count: its memories. calls: of `add`.
    """

    name: str
    memory: Any
    settle: Callable[[], object] = lambda: None
    count: int = 0
    calls: int = 0


def main() -> None:
    """Measure every size and print the table."""
    options = _options()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="memos-benchmark-")))
        memos = stack.enter_context(MemOS.open(folder / "ours", embedder=InstantEmbedder()))
        sides = [Side("ours", Memory(memos), memos.scheduler.wait_idle)]
        for store in ("qdrant", "chroma"):
            sides.append(Side(f"mem0, {store}", open_mem0(folder / store, store)))
        race = Race(sides, rounds=1 if options.quick else 3)
        rows = [row for size in options.sizes for row in race.run(size)]
        row, failures = crowd(folder, 1 if options.quick else 3)
    show(
        f"mem0's calls, per second, {DIMS}-d vectors, {_versions()}; times: ours by the faster of the others",
        [*rows, row],
        ["mem0's search by words and entities (its optional spacy model)", *failures],
        options.json,
        [
            "durability: ours syncs every write to the disk (WAL, synchronous=FULL); mem0 writes vectors and history "
            "to SQLite files of their own, with their defaults"
        ],
    )


class Race:
    """Grows all sides together and measures them in turn.

    Args:
        rounds: how often each side has its turn.
    """

    def __init__(self, sides: Sequence[Side], rounds: int) -> None:
        self._sides, self._rounds = list(sides), rounds
        self._texts = Sentences(1).take(20_000)

    def run(self, size: int) -> list[dict[str, Any]]:
        """The rows of one size."""
        for side in self._sides:
            while side.count < size:
                self._add(side, min(BATCH, size // USERS, size - side.count))
            side.settle()
        gc.collect()
        gc.freeze()  # mem0's stores keep all memories as objects: no other side should pay for looking through them
        samples: Samples = defaultdict(lambda: defaultdict(list))
        for turn in range(self._rounds):
            for part in (self._reads, self._writes):
                for side in [
                    *self._sides[turn % len(self._sides) :],
                    *self._sides[: turn % len(self._sides)],
                ]:
                    side.settle()
                    part(side, turn, samples)
        return [self._row(size, measure, found) for measure, found in samples.items()]

    def _add(self, side: Side, count: int) -> list[str]:
        """Add so many memories of one user in one call, as a person would: a message each."""
        start = side.count
        side.count += count
        said = [
            {"role": "user", "content": self._texts[n % len(self._texts)]}
            for n in range(start, start + count)
        ]
        user, topic = f"user{side.calls % USERS}", f"t{side.calls // USERS % TOPICS}"
        side.calls += 1
        added = side.memory.add(said, user_id=user, metadata={"topic": topic}, infer=False)["results"]
        if len(added) != count:
            raise SystemExit(f"{side.name} added {len(added)} of {count}")
        return [str(one["id"]) for one in added]

    def _reads(self, side: Side, turn: int, samples: Samples) -> None:
        memory, questions = side.memory, Sentences(100 + turn).questions(20)
        users = [{"user_id": f"user{n % USERS}"} for n in range(20)]
        some = self._add(side, 20)
        side.settle()
        _note(
            samples,
            "search",
            side,
            zip(questions, users, strict=True),
            lambda x: memory.search(x[0], filters=x[1], top_k=10, threshold=0.0)["results"],
        )
        _note(
            samples,
            "search, one topic",
            side,
            zip(questions, users, strict=True),
            lambda x: memory.search(x[0], filters={**x[1], "topic": "t0"}, top_k=10, threshold=0.0)[
                "results"
            ],
        )
        _note(samples, "get", side, some, memory.get)
        _note(samples, "get_all", side, users, lambda u: memory.get_all(filters=u, top_k=20)["results"])

    def _writes(self, side: Side, turn: int, samples: Samples) -> None:
        memory = side.memory
        new: list[str] = []
        _note(samples, "add", side, range(30), lambda _: new.extend(self._add(side, 1)) or new)
        _note(samples, "update", side, new, lambda id_: memory.update(id_, f"changed {id_}"))
        _note(samples, "history", side, new, memory.history)
        _note(samples, "delete", side, new, memory.delete)
        side.count -= len(new)
        side.settle()
        started = time.perf_counter()
        self._add(side, BATCH)
        samples[f"add, {BATCH} in one call (memories)"][side.name].append(
            (time.perf_counter() - started) / BATCH
        )

    def _row(self, size: int, measure: str, found: dict[str, list[float]]) -> dict[str, Any]:
        rates = {name: 1 / median(times) for name, times in found.items()}
        row: dict[str, Any] = {"memories": size, "measure": measure}
        row.update((side.name, round(rates[side.name], 1)) for side in self._sides)
        others = [rate for name, rate in rates.items() if name != self._sides[0].name]
        row["times"] = round(rates[self._sides[0].name] / max(others), 1)
        return row


def crowd(folder: Path, rounds: int) -> tuple[dict[str, Any], list[str]]:
    """Threads that add at the same moment, each of another user, to new memories; every memory must be there.

    Returns:
        The row of the table, and what a side could not do.
    """
    rates: dict[str, float] = {}
    failures: list[str] = []
    times: dict[str, list[float]] = defaultdict(list)
    for turn in range(rounds):
        with MemOS.open(folder / f"crowd{turn}", embedder=InstantEmbedder()) as memos:
            sides = {"ours": Memory(memos)}
            for store in ("qdrant", "chroma"):
                sides[f"mem0, {store}"] = open_mem0(folder / f"crowd{turn}{store}", store)
            for name, memory in sides.items():
                try:
                    times[name].append(_crowd(memory))
                except Exception as err:  # noqa: BLE001 - whatever the other side raises
                    failures.append(f"{name}, {THREADS} threads at once: {' '.join(str(err).split())[:120]}")
    for name in ("ours", "mem0, qdrant", "mem0, chroma"):
        rates[name] = round(1 / median(times[name]), 1) if len(times[name]) == rounds else 0.0
    best = max(rates["mem0, qdrant"], rates["mem0, chroma"])
    row: dict[str, Any] = {"memories": 0, "measure": f"add, {THREADS} threads at once", **rates}
    return {**row, "times": round(rates["ours"] / best, 1) if best else "-"}, list(dict.fromkeys(failures))


def _crowd(memory: Any) -> float:
    """Seconds an `add`."""
    texts = Sentences(5).take(THREADS * PER_THREAD)

    def work(thread: int) -> None:
        for n in range(PER_THREAD):
            memory.add(texts[thread * PER_THREAD + n], user_id=f"user{thread}", infer=False)

    started = time.perf_counter()
    with ThreadPoolExecutor(THREADS) as pool:
        done = [pool.submit(work, thread) for thread in range(THREADS)]
    seconds = time.perf_counter() - started
    for future in done:
        future.result()
    for thread in range(THREADS):
        found = memory.get_all(filters={"user_id": f"user{thread}"}, top_k=2 * PER_THREAD)["results"]
        if len(found) != PER_THREAD:
            raise RuntimeError(f"{len(found)} of {PER_THREAD} memories of one user are there")
    return seconds / (THREADS * PER_THREAD)


def _note(
    samples: Samples, measure: str, side: Side, arguments: Iterable[Any], call: Callable[[Any], Any]
) -> None:
    """Time a call with each argument, as many as fit into a round."""
    deadline = time.perf_counter() + LIMIT_S
    for argument in arguments:
        started = time.perf_counter()
        found = call(argument)
        ended = time.perf_counter()
        if not found:
            raise SystemExit(f"{side.name}, {measure}: found nothing")
        samples[measure][side.name].append(ended - started)
        if ended > deadline:
            break


def _versions() -> str:
    return ", ".join(f"{name} {version(name)}" for name in ("mem0ai", "qdrant-client", "chromadb"))


def _options() -> argparse.Namespace:
    made = parser(__doc__.splitlines()[0] if __doc__ else "")
    made.add_argument("--sizes", help="how many memories, e.g. 1000,5000")
    options = made.parse_args()
    sizes = [int(size) for size in options.sizes.split(",")] if options.sizes else None
    options.sizes = sizes or list(QUICK_SIZES if options.quick else SIZES)
    return options


if __name__ == "__main__":
    main()
