"""Checkpoints of a long chat under plain `add_messages`: MemOSSaver next to LangGraph's SqliteSaver.

    python -m benchmarks.checkpoint_growth [--quick] [--json FILE] [--url postgresql://…]

A graph of one node answers messages of 200 characters with 800; each turn makes three checkpoints. Every side plays
the same chat on a file of its own, opened with its defaults (ours on the server too, with `--url`). Bytes are all files
after closing. Latencies are medians, the sides taking turns call by call; a `put` adds one message to the latest state.
`vs` says how many times as good ours is: fewer bytes, or fewer milliseconds. `--quick` plays 100 turns instead of 800.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import math
import random
import shutil
import string
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from statistics import median
from typing import Annotated, Any, TypedDict

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.base.id import uuid6
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, StateGraph, add_messages

from benchmarks.report import parser, show
from langgraph.checkpoint.memos import MemOSSaver

SIZES, QUICK_SIZES = (50, 100, 200, 400, 800), (25, 50, 100)
SHORT = 10  # turns of the short chat
CONFIG: Any = {"configurable": {"thread_id": "chat", "checkpoint_ns": ""}}
OURS, PEER, SERVER = "ours", "SqliteSaver", "ours, PostgreSQL"
_TABLES = ("threads", "checkpoints", "checkpoint_chunks", "checkpoint_writes")


class Chat(TypedDict):
    """The state: a list that grows."""

    messages: Annotated[list[AnyMessage], add_messages]


class Side:
    """One saver with the chat in it.

    Args:
        where: what it is opened with; a folder of its own, or a URL.
        open_at: opens a saver there.
    """

    def __init__(self, name: str, where: Path | str, open_at: Callable[[Any], Any]) -> None:
        self.name, self.where = name, where
        self._open_at = open_at
        self._words = random.Random(7)  # the same chat on every side
        self._turns = 0
        self.open()

    def open(self) -> None:
        """Open it, or open it again."""
        self._stack = ExitStack()
        self.saver: BaseCheckpointSaver[Any] = self._stack.enter_context(self._open_at(self.where))
        self._graph = (
            StateGraph(Chat)
            .add_node("answer", lambda _: {"messages": [AIMessage(self._text(800))]})
            .add_edge(START, "answer")
            .add_edge("answer", END)
            .compile(checkpointer=self.saver)
        )

    def close(self) -> None:
        """Close it."""
        self._stack.close()

    def play(self, turns: int) -> None:
        """Go on with the chat until it has so many turns."""
        while self._turns < turns:
            self._graph.invoke({"messages": [HumanMessage(self._text(200))]}, CONFIG)
            self._turns += 1

    def bytes(self) -> int:
        """What the chat takes, closed."""
        self.close()
        size = _server_bytes(self.where) if isinstance(self.where, str) else _folder_bytes(self.where)
        self.open()
        return size

    def copy(self) -> Side:
        """The same chat in a file of its own. On a server there is none: it is the same."""
        if isinstance(self.where, str):
            return self
        self.close()
        target = self.where.with_name(self.where.name + "-copy")
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self.where, target)
        self.open()
        return Side(self.name, target, self._open_at)

    def put_next(self) -> Callable[[], object]:
        """What puts the next checkpoint of the chat, each time another."""
        latest = self.saver.get_tuple(CONFIG)
        assert latest is not None
        state = {"config": latest.config, "messages": latest.checkpoint["channel_values"]["messages"], "n": 0}

        def put() -> None:
            state["n"] += 1
            state["messages"] = [*state["messages"], HumanMessage(self._text(200), id=f"more-{state['n']}")]
            version = self.saver.get_next_version(latest.checkpoint["channel_versions"]["messages"], None)
            checkpoint: Any = {
                **latest.checkpoint,
                "id": str(uuid6(clock_seq=state["n"])),
                "channel_values": {"messages": state["messages"]},
                "channel_versions": {**latest.checkpoint["channel_versions"], "messages": version},
            }
            metadata: Any = {"source": "loop", "step": state["n"], "parents": {}}
            state["config"] = self.saver.put(state["config"], checkpoint, metadata, {"messages": version})

        return put

    def _text(self, size: int) -> str:
        return "".join(self._words.choices(string.ascii_lowercase + "     ", k=size))


def main() -> None:
    """Play the chat, measure, and print the table."""
    options = _options()
    sizes = QUICK_SIZES if options.quick else SIZES
    long = sizes[-1] if options.quick else 400
    with tempfile.TemporaryDirectory(prefix="memos-benchmark-") as folder:
        sides = _sides(Path(folder), options.url)
        rows: list[dict[str, Any]] = []
        try:
            rows += _latency(sides, SHORT, 30 if options.quick else 60)
            grown: dict[str, list[int]] = {side.name: [] for side in sides}
            for size in sizes:
                for side in sides:
                    side.play(size)
                    grown[side.name].append(side.bytes())
                rows.append(_row(size, "bytes on the disk", {n: found[-1] for n, found in grown.items()}))
                if size == long:
                    rows += _latency(sides, size, 20 if options.quick else 30)
                    rows += _listing(sides, size, 1 if options.quick else 2)
            exponents = {n: round(math.log2(found[-1] / found[-2]), 2) for n, found in grown.items()}
            row = _row(sizes[-1], f"growth exponent, {sizes[-2]} to {sizes[-1]} turns", exponents)
            rows.append({name: None if name.startswith("vs") else value for name, value in row.items()})
        finally:
            for side in sides:
                side.close()
    show("A chat under add_messages, three checkpoints a turn", rows, _skipped(options.url), options.json)


def _latency(sides: Sequence[Side], size: int, calls: int) -> list[dict[str, Any]]:
    """Milliseconds of single calls on copies of the chat at this size."""
    for side in sides:
        side.play(size)
    copies = [side.copy() for side in sides]
    try:
        first = {side.name: [_reopened(side) for _ in range(3)] for side in copies}
        gets: dict[str, Callable[[], object]] = {
            s.name: lambda s=s: s.saver.get_tuple(CONFIG) for s in copies
        }  # type: ignore[misc]
        puts = {side.name: side.put_next() for side in copies}
        return [
            _row(size, "put, ms", _medians(puts, calls)),
            _row(size, "get_tuple, ms", _medians(gets, calls)),
            _row(
                size,
                "get_tuple, the first after opening, ms",
                {n: median(found) for n, found in first.items()},
            ),
        ]
    finally:
        for side, copied in zip(sides, copies, strict=True):
            if copied is not side:
                copied.close()


def _reopened(side: Side) -> float:
    side.close()
    side.open()
    return _ms(lambda: side.saver.get_tuple(CONFIG))


def _listing(sides: Sequence[Side], size: int, rounds: int) -> list[dict[str, Any]]:
    ways: dict[str, Callable[[Side], int]] = {
        "list, all kept, ms": lambda side: len(list(side.saver.list(CONFIG))),
        "list, one by one, ms": lambda side: sum(1 for _ in side.saver.list(CONFIG)),
    }
    rows = []
    for label, way in ways.items():
        found: dict[str, list[float]] = {side.name: [] for side in sides}
        for _ in range(rounds):
            for side in sides:
                gc.collect()  # what the side before left behind
                found[side.name].append(_ms(lambda s=side, w=way: w(s)))  # type: ignore[misc]
        rows.append(
            _row(size, f"{label} ({3 * size:,} checkpoints)", {n: median(x) for n, x in found.items()})
        )
    return rows


def _medians(calls: dict[str, Callable[[], object]], count: int) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(count + 2):
        for name, call in calls.items():
            took = _ms(call)
            if turn > 1:  # the first ones warm up
                times[name].append(took)
    return {name: median(found) for name, found in times.items()}


def _ms(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1e3


def _row(size: int, measure: str, found: dict[str, float]) -> dict[str, Any]:
    row: dict[str, Any] = {"turns": size, "measure": measure, **found}
    return row | {
        f"vs {PEER}{name.removeprefix(OURS)}": found[PEER] / found[name] for name in found if name != PEER
    }


def _sides(folder: Path, url: str | None) -> list[Side]:
    for name in (OURS, PEER):
        (folder / name).mkdir()
    sides = [
        Side(OURS, folder / OURS, lambda at: MemOSSaver.from_conn_string(at / "chat.db")),
        Side(PEER, folder / PEER, lambda at: SqliteSaver.from_conn_string(str(at / "chat.db"))),
    ]
    if url:
        sides.append(Side(SERVER, url, MemOSSaver.from_conn_string))
        sides[-1].saver.delete_thread("chat")
    return sides


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _server_bytes(url: str) -> int:
    import psycopg

    with closing(psycopg.connect(url)) as conn:
        sizes = [conn.execute("SELECT pg_total_relation_size(%s)", (table,)).fetchone() for table in _TABLES]
        return sum(int(size[0]) for size in sizes if size)


def _skipped(url: str | None) -> list[str]:
    lines = [] if url else ["PostgreSQL (--url postgresql://… of a scratch database)"]
    if importlib.util.find_spec("langgraph.checkpoint.postgres") is None:
        lines.append("LangGraph's PostgresSaver (langgraph-checkpoint-postgres is not installed)")
    return lines


def _options() -> argparse.Namespace:
    made = parser(__doc__.splitlines()[0] if __doc__ else "")
    made.add_argument("--url", help="also measure ours on PostgreSQL: postgresql://… of a scratch database")
    return made.parse_args()


if __name__ == "__main__":
    main()
