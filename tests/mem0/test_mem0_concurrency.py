"""No write is lost: threads, processes, tasks and a restart."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from mem0_kit import embed, texts

from mem0_memos import AsyncMemory, Memory

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


@pytest.mark.parametrize("where", ["disk", "memory"])
async def test_200_async_adds(tmp_path: Path, where: str) -> None:
    config = {"url": ":memory:" if where == "memory" else tmp_path / "v", "embedder": embed}
    async with await AsyncMemory.from_config(config) as memory:
        added = await asyncio.gather(
            *(memory.add(f"number {i}", user_id="alice", infer=False) for i in range(200))
        )
        assert len({a["results"][0]["id"] for a in added}) == 200
        found = texts(await memory.get_all(filters=ALICE, top_k=999))
        assert found == sorted(f"number {i}" for i in range(200))


WRITER = """
import sys
from mem0_kit import embed
from mem0_memos import Memory
with Memory(url=sys.argv[1], config={"embedder": embed}) as memory:
    for i in range(40):
        memory.add(f"process {sys.argv[2]} number {i}", user_id="alice", infer=False)
    memory.add("I love green tea.", user_id="alice")
"""


def test_four_processes_and_a_restart(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path / "v")]
    writers = [subprocess.Popen([*command, name], env=_env()) for name in "abcd"]
    assert [w.wait(120) for w in writers] == [0, 0, 0, 0]
    wanted = sorted([f"process {p} number {i}" for p in "abcd" for i in range(40)] + ["I love green tea."])
    for _ in range(2):
        with Memory(url=tmp_path / "v", config={"embedder": embed}) as memory:
            assert texts(memory.get_all(filters=ALICE, top_k=999)) == wanted
            assert memory.search("green tea", filters=ALICE)["results"][0]["memory"] == "I love green tea."


KILLED = """
import sys
from mem0_kit import embed
from mem0_memos import Memory
memory = Memory(url=sys.argv[1], config={"embedder": embed})
for i in range(1000):
    print(memory.add(f"number {i}", user_id="alice", infer=False)["results"][0]["id"], flush=True)
"""


def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path / "v")]
    with subprocess.Popen(command, env=_env(), stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        acknowledged = [writer.stdout.readline().strip() for _ in range(25)]
        writer.kill()
        acknowledged += writer.stdout.read().split()
    assert writer.returncode == -signal.SIGKILL
    with Memory(url=tmp_path / "v", config={"embedder": embed}) as memory:
        for number, id_ in enumerate(acknowledged):
            item = memory.get(id_)
            assert item is not None
            assert item["memory"] == f"number {number}"


def _env() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
