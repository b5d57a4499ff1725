"""No write is lost: threads, processes, tasks and a restart."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mem0_kit import embed, texts

from mem0_memos import AsyncMemory, Memory
from memos_core.memos import MemOS

ALICE = {"user_id": "alice"}


def test_eight_threads(memory: Memory) -> None:
    def work(n: int) -> None:
        for i in range(20):
            memory.add(f"thread {n} number {i}", user_id=f"u{n % 2}", infer=False)
            memory.search("number", filters={"user_id": f"u{n % 2}"})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    found = [
        r["memory"]
        for u in ("u0", "u1")
        for r in memory.get_all(filters={"user_id": u}, top_k=999)["results"]
    ]
    assert sorted(found) == sorted(f"thread {n} number {i}" for n in range(8) for i in range(20))


def test_concurrent_updates_are_all_kept(memory: Memory) -> None:
    (added,) = memory.add("counter", user_id="alice", infer=False)["results"]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: memory.update(added["id"], metadata={f"k{i}": i}), range(24)))
    item = memory.get(added["id"])
    assert item is not None
    assert item["metadata"] == {f"k{i}": i for i in range(24)}
    assert len(memory.history(added["id"])) == 25


async def test_async_adds(memos: MemOS) -> None:
    memory = await AsyncMemory.from_config({"memos": memos})
    async with memory:
        await asyncio.gather(*(memory.add(f"number {i}", user_id="alice", infer=False) for i in range(50)))
        assert len((await memory.get_all(filters=ALICE, top_k=99))["results"]) == 50
    assert len(memory.memos.scoped(user="alice").find()) == 50


WRITER = """
import sys
from mem0_kit import embed
from mem0_memos import Memory
with Memory(url=sys.argv[1], config={"embedder": embed}) as memory:
    for i in range(40):
        memory.add(f"process {sys.argv[2]} number {i}", user_id="alice", infer=False)
    memory.add("I love green tea.", user_id="alice")
"""


def test_two_processes_and_a_restart(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path / "v")]
    writers = [subprocess.Popen([*command, name], env=_env()) for name in "ab"]
    assert [w.wait(120) for w in writers] == [0, 0]
    wanted = sorted([f"process {p} number {i}" for p in "ab" for i in range(40)] + ["I love green tea."])
    for _ in range(2):
        with Memory(url=tmp_path / "v", config={"embedder": embed}) as memory:
            assert texts(memory.get_all(filters=ALICE, top_k=999)) == wanted
            assert memory.search("green tea", filters=ALICE)["results"][0]["memory"] == "I love green tea."


def _env() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
