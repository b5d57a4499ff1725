"""The vault under savers of several processes, one of which may die at any moment."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from langgraph.checkpoint.memos import MemOSSaver

# Puts checkpoints and writes, and says so after each; it ends only if `last` is given.
WRITER = """
import itertools, sys
from langgraph.checkpoint.memos import MemOSSaver

url, thread_id, last = sys.argv[1], sys.argv[2], int(sys.argv[3])
with MemOSSaver.from_conn_string(url) as saver:
    config = {"configurable": {"thread_id": thread_id, "checkpoint_ns": ""}}
    for n in itertools.count():
        versions = {"n": f"{n:08}", "copy": f"{n:08}"}
        checkpoint = {
            "v": 4, "id": f"{n:08}", "ts": "", "channel_values": {"n": n, "copy": [n] * 2000},
            "channel_versions": versions, "versions_seen": {},
        }
        config = saver.put(config, checkpoint, {"source": "loop", "step": n, "parents": {}}, versions)
        saver.put_writes(config, [("n", n), ("copy", n)], f"task-{n}")
        print(n, flush=True)
        if n == last:
            break
"""


def start(vault: Path, thread_id: str, last: int, environment: dict[str, str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(vault), thread_id, str(last)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def check(saver: MemOSSaver, thread_id: str) -> int:
    """Every checkpoint that can be seen is whole and has its parent. Returns the newest one's number."""
    listed = list(saver.list({"configurable": {"thread_id": thread_id}}))
    newest = len(listed) - 1
    assert [found.metadata["step"] for found in listed] == list(range(newest, -1, -1))
    for found in listed:
        n = found.metadata["step"]
        assert found.checkpoint["channel_values"] == {"n": n, "copy": [n] * 2000}
        assert (found.parent_config is None) == (n == 0)
        if n < newest:
            assert found.pending_writes == [(f"task-{n}", "n", n), (f"task-{n}", "copy", n)]
    return newest


@pytest.mark.parametrize("acknowledged", [0, 3, 17])
def test_what_was_acknowledged_survives_sigkill(
    vault: Path, environment: dict[str, str], acknowledged: int
) -> None:
    with start(vault, "1", -1, environment) as writer:
        assert writer.stdout is not None
        for n in range(acknowledged + 1):
            assert writer.stdout.readline() == f"{n}\n"
        writer.send_signal(signal.SIGKILL)
        said = [*range(acknowledged + 1), *(int(line) for line in writer.stdout.read().split())]
    assert writer.returncode == -signal.SIGKILL
    with MemOSSaver.from_conn_string(vault) as saver:
        assert check(saver, "1") >= said[-1]


def test_processes_share_a_vault(vault: Path, environment: dict[str, str]) -> None:
    names = ["a", "b", "c"]
    with MemOSSaver.from_conn_string(vault) as saver:
        writers = [start(vault, name, 25, environment) for name in names]
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "0\n"
        # While they write, this process reads whole checkpoints.
        for name in names:
            assert check(saver, name) >= 0
        for writer in writers:
            writer.communicate()
            assert writer.returncode == 0
        assert [check(saver, name) for name in names] == [25, 25, 25]
