"""The vault under savers of several processes, one of which may die at any moment."""

from __future__ import annotations

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.graph import START, MessagesState, StateGraph
from support import findings

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
        assert findings(saver.memos) == []


def test_processes_share_a_vault(vault: Path, environment: dict[str, str]) -> None:
    names = list("abcdefgh")
    with MemOSSaver.from_conn_string(vault) as saver:
        writers = [start(vault, name, 10, environment) for name in names]
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "0\n"
        # While they write, this process reads whole checkpoints.
        for name in names:
            assert check(saver, name) >= 0
        for writer in writers:
            writer.communicate()
            assert writer.returncode == 0
        assert [check(saver, name) for name in names] == [10] * 8
        assert findings(saver.memos) == []


ONE_THREAD = """
import sys
from langgraph.checkpoint.memos import MemOSSaver

url, name = sys.argv[1:]
with MemOSSaver.from_conn_string(url) as saver:
    for n in range(12):
        id_ = f"{n:04}-{name}"
        versions = {"log": id_}
        checkpoint = {
            "v": 4, "id": id_, "ts": "", "channel_values": {"log": [f"{m} {name} " * 50 for m in range(n)]},
            "channel_versions": versions, "versions_seen": {},
        }
        config = {"configurable": {"thread_id": "shared", "checkpoint_ns": ""}}
        saver.put(config, checkpoint, {"source": "loop", "step": n}, versions)
        if n % 5 == 4:
            saver.prune(["shared"])
"""


def test_processes_write_and_prune_one_thread(vault: Path, environment: dict[str, str]) -> None:
    with MemOSSaver.from_conn_string(vault) as saver:
        command = [sys.executable, "-c", ONE_THREAD, str(vault)]
        writers = [subprocess.Popen([*command, name], env=environment) for name in "abc"]
        assert [writer.wait() for writer in writers] == [0] * 3
        for found in saver.list({"configurable": {"thread_id": "shared"}}):
            n, name = found.metadata["step"], found.checkpoint["id"][-1]
            assert found.checkpoint["channel_values"] == {"log": [f"{m} {name} " * 50 for m in range(n)]}
        assert findings(saver.memos) == []


def test_32_threads_on_postgres(postgres_url: str) -> None:
    def reply(state: MessagesState) -> Any:
        return {"messages": [AIMessage(f"{state['messages'][-1].content} answered " * 30)]}

    with MemOSSaver.from_conn_string(postgres_url) as saver:
        builder = StateGraph(MessagesState).add_node("reply", reply).add_edge(START, "reply")
        graph = builder.compile(checkpointer=saver)

        def talk(n: int) -> list[str]:
            mine: Any = {"configurable": {"thread_id": f"own-{n}", "checkpoint_ns": ""}}
            shared: Any = {"configurable": {"thread_id": "shared", "checkpoint_ns": ""}}
            for turn in range(3):
                graph.invoke({"messages": [HumanMessage(f"{n} says {turn}")]}, mine)
                graph.update_state(shared, {"messages": [HumanMessage(f"{n} shares {turn} " * 20)]})
                if n % 8 == 0:
                    saver.prune([f"own-{n}", "shared"])
                if n % 8 == 1:
                    list(saver.list(shared))
            return [m.content for m in graph.get_state(mine).values["messages"]]

        with ThreadPoolExecutor(32) as pool:
            said = list(pool.map(talk, range(32)))
        for n, messages in enumerate(said):
            assert messages[::2] == [f"{n} says {turn}" for turn in range(3)]
            assert messages[1::2] == [f"{text} answered " * 30 for text in messages[::2]]
        shared = {"configurable": {"thread_id": "shared"}}
        assert graph.get_state(shared).values["messages"]
        graph.update_state(shared, {"messages": [HumanMessage("the last")]})
        saver.prune(["shared"])  # a write may have come after its checkpoint was pruned
        assert findings(saver.memos) == []
