"""The saver's options: time to live, conflicts, encryption; and what is refused."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.base import Checkpoint
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command, interrupt
from sqlalchemy import select, text, update
from support import findings

from langgraph.checkpoint.memos import AsyncMemOSSaver, MemOSSaver
from memos_core.errors import InvalidArgument, MemOSError, VaultError, VersionConflict
from memos_core.memos import MemOS
from memos_core.vault import checkpoints, checkqueries, threads
from memos_core.vault import tables as t

Make = Callable[..., Checkpoint]
KEY = b"0123456789abcdef"


def thread(thread_id: str = "1", **more: Any) -> Any:
    return {"configurable": {"thread_id": thread_id, "checkpoint_ns": "", **more}}


def put(saver: MemOSSaver, config: Any, checkpoint: Checkpoint, **metadata: Any) -> Any:
    return saver.put(config, checkpoint, {"source": "loop", **metadata}, checkpoint["channel_versions"])  # type: ignore[typeddict-item]


def chat(saver: MemOSSaver, answer: Callable[[], str] = lambda: "fine") -> Any:
    builder = StateGraph(MessagesState).add_node("answer", lambda _: {"messages": [AIMessage(answer())]})
    return builder.add_edge(START, "answer").compile(checkpointer=saver)


def hello(n: int = 1) -> Any:
    return {"messages": [HumanMessage(f"hello {n}")]}


# -- time to live -------------------------------------------------------------------------------------------


class Clock:
    """The moment that threads' times are counted from."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 22, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def wait(self, minutes: float) -> None:
        self.now += timedelta(minutes=minutes)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (threads, checkpoints, checkqueries):
        monkeypatch.setattr(module, "now", clock)
    return clock


@pytest.mark.parametrize("refresh", [True, False])
def test_a_thread_expires(memos: MemOS, make: Make, clock: Clock, refresh: bool) -> None:
    saver = MemOSSaver(memos, ttl={"default_ttl": 10, "refresh_on_read": refresh})
    put(saver, thread("old"), make(a=1))
    clock.wait(6)
    put(saver, thread("new"), make(a=2))
    assert saver.get_tuple(thread("old")) is not None
    clock.wait(6)
    assert (saver.get_tuple(thread("old")) is not None) == refresh
    assert [f.config["configurable"]["thread_id"] for f in saver.list(None)] == ["new", "old"][: 1 + refresh]
    assert saver.sweep_ttl() == (0 if refresh else 1)
    clock.wait(11)
    assert list(saver.list(None)) == []
    assert saver.get_tuple(thread("old")) is None
    assert saver.sweep_ttl() == 1 + refresh
    assert saver.sweep_ttl() == 0
    with memos.vault.db.read() as conn:
        tables = (t.threads, t.checkpoints, t.checkpoint_chunks, t.checkpoint_writes)
        assert all(conn.execute(select(table)).first() is None for table in tables)


def test_an_expired_thread_begins_anew(memos: MemOS, make: Make, clock: Clock) -> None:
    saver = MemOSSaver(memos, ttl={"default_ttl": 10})
    config = put(saver, thread(), make(a="a" * 500))
    saver.put_writes(config, [("c", 1)], "task")
    clock.wait(5)
    saver.put_writes(config, [("c", 2)], "other")  # puts it off
    clock.wait(6)
    assert saver.get_tuple(config) is not None
    clock.wait(20)
    assert saver.get_tuple(config) is None
    second = put(saver, config, make(b=2))
    assert saver.get_tuple(config) is None
    assert saver.get_tuple(second).checkpoint["channel_values"] == {"b": 2}  # type: ignore[union-attr]
    assert len(list(saver.list(thread()))) == 1
    assert findings(memos) == []
    # A saver without a time puts nothing off, and makes threads that stay.
    put(MemOSSaver(memos), thread("stays"), make(a=1))
    clock.wait(10_000)
    assert MemOSSaver(memos).get_tuple(thread("stays")) is not None
    assert MemOSSaver(memos).get_tuple(second) is None


def test_the_sweeper_sweeps_until_it_is_stopped(memos: MemOS, make: Make, clock: Clock) -> None:
    saver = MemOSSaver(memos, ttl={"default_ttl": 1, "sweep_interval_minutes": 1e-5})
    put(saver, thread(), make(a=1))
    clock.wait(2)
    ended = saver.start_ttl_sweeper()
    again = saver.start_ttl_sweeper()
    with memos.vault.db.read() as conn:
        pass
    for _ in range(10_000):
        with memos.vault.db.read() as conn:
            if conn.execute(select(t.threads)).first() is None:
                break
    else:
        raise AssertionError("nothing was swept")
    assert saver.stop_ttl_sweeper()
    assert ended.result(10) is None
    assert not again.done()
    assert saver.stop_ttl_sweeper()
    cancelled = saver.start_ttl_sweeper(sweep_interval_minutes=60)
    assert cancelled.cancel()
    assert saver.stop_ttl_sweeper(timeout=10)
    assert MemOSSaver(memos).start_ttl_sweeper().result() is None


@pytest.mark.parametrize(
    ("ttl", "names"),
    [
        ({"default_ttl": 0}, "default_ttl"),
        ({"default_ttl": "5"}, "default_ttl"),
        ({"default_ttl": True}, "default_ttl"),
        ({"sweep_interval_minutes": -1}, "sweep_interval_minutes"),
        ({"refresh_on_read": 1}, "refresh_on_read"),
        ({"strategy": "delete"}, "strategy"),
        (5, "ttl"),
    ],
)
def test_a_wrong_ttl_is_refused(memos: MemOS, ttl: Any, names: str) -> None:
    with pytest.raises(InvalidArgument, match=names):
        MemOSSaver(memos, ttl=ttl)


# -- conflicts ----------------------------------------------------------------------------------------------


def test_the_second_of_two_runs_is_refused(memos: MemOS, make: Make) -> None:
    strict, lenient = MemOSSaver(memos, on_conflict="error"), MemOSSaver(memos)
    root = put(strict, thread(), make(a="root"))
    id_ = root["configurable"]["checkpoint_id"]
    first = put(strict, root, make(a="first"), run_id="r1")
    with pytest.raises(VersionConflict, match=rf"thread '1'.*{id_}"):
        put(strict, root, make(a="second"), run_id="r2")
    with pytest.raises(VersionConflict, match=r"thread '1'"):
        put(strict, thread(), make(a="another beginning"))
    assert [f.checkpoint["channel_values"]["a"] for f in strict.list(thread())] == ["first", "root"]
    assert findings(memos) == []
    put(strict, root, make(a="the same run"), run_id="r1")
    put(strict, first, make(a="goes on"), run_id="r1")
    put(strict, thread("2"), make(a="another thread"))
    put(strict, {"configurable": {**root["configurable"], "checkpoint_ns": "sub"}}, make(a="another lane"))
    put(lenient, root, make(a="LangGraph's way"), run_id="r3")
    with pytest.raises(InvalidArgument, match="on_conflict"):
        MemOSSaver(memos, on_conflict="raise")  # type: ignore[arg-type]


def test_a_run_that_raced_with_another_is_refused(memos: MemOS) -> None:
    saver = MemOSSaver(memos, on_conflict="error")
    graph = chat(saver)
    graph.invoke(hello(1), thread())

    def meanwhile() -> str:
        with ThreadPoolExecutor(1) as pool:  # another run, not one within this
            pool.submit(chat(saver, lambda: "first").invoke, hello(2), thread()).result()
        return "second"

    with pytest.raises(VersionConflict, match=r"thread '1'"):
        chat(saver, meanwhile).invoke(hello(3), thread(), durability="sync")
    said = [m.content for m in graph.get_state(thread()).values["messages"]]
    assert said[-2:] == ["hello 2", "first"]
    graph.invoke(hello(4), thread())  # and the thread goes on
    assert len(graph.get_state(thread()).values["messages"]) == len(said) + 2


async def test_a_run_that_raced_with_another_is_refused_async(vault: Path) -> None:
    async with AsyncMemOSSaver.from_conn_string(vault, on_conflict="error") as saver:
        graph = chat(saver)
        await graph.ainvoke(hello(1), thread())
        latest = await saver.aget_tuple(thread())
        assert latest is not None
        await graph.ainvoke(hello(2), thread())
        checkpoint = {**latest.checkpoint, "id": "f" * 36}
        with pytest.raises(VersionConflict, match=r"thread '1'"):
            await saver.aput(latest.config, checkpoint, {"source": "loop"}, {})  # type: ignore[typeddict-item]
        # By its id, the same is a fork.
        await saver.aget_tuple(latest.config)
        await saver.aput(latest.config, checkpoint, {"source": "loop"}, {})  # type: ignore[typeddict-item]


def test_forks_on_purpose_go_through(memos: MemOS) -> None:
    graph = chat(MemOSSaver(memos, on_conflict="error"))
    for n in range(3):
        graph.invoke(hello(n), thread())
    history = list(graph.get_state_history(thread()))
    first = next(s for s in history if len(s.values["messages"]) == 2 and not s.next)
    fork = graph.update_state(first.config, {"messages": [HumanMessage("blue")]}, as_node=START)
    assert [m.content for m in graph.invoke(None, fork)["messages"]][-2:] == ["blue", "fine"]
    before = next(s for s in history if s.next == ("answer",))
    assert len(graph.invoke(None, before.config)["messages"]) == len(before.values["messages"]) + 1
    assert len(graph.invoke(hello(9), first.config)["messages"]) == 4
    graph.update_state(thread(), {"messages": [HumanMessage("update")]})
    graph.invoke(hello(10), thread())


def test_subgraphs_loops_and_interrupts_do_not_conflict(memos: MemOS) -> None:
    def ask(_: MessagesState) -> Any:
        return {"messages": [AIMessage(f"you are {interrupt('who?')}")]}

    for checkpointer in (None, True):
        said = []
        for saver in (MemOSSaver(memos, on_conflict="error"), InMemorySaver()):
            inner = StateGraph(MessagesState).add_node("ask", ask).add_edge(START, "ask")
            outer = StateGraph(MessagesState).add_node("inner", inner.compile(checkpointer=checkpointer))
            graph = outer.add_edge(START, "inner").compile(checkpointer=saver)
            config = thread(f"sub-{checkpointer}")
            for turn in range(2):
                graph.invoke(hello(turn), config)
                asked = graph.get_state(config)
                assert graph.invoke(Command(resume="Ada"), config)["messages"][-1].content == "you are Ada"
            graph.invoke(hello(3), asked.config)
            graph.invoke(Command(resume="Eve"), asked.config)
            graph.invoke(hello(4), config)
            said.append([m.content for m in graph.get_state(config).values["messages"]])
        assert said[0] == said[1]


# -- encryption ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [16, 24, 32])
def test_nothing_of_an_encrypted_thread_is_readable(vault: Path, size: int) -> None:
    with MemOSSaver.from_conn_string(vault, encryption=b"k" * size) as saver:
        graph = chat(saver, lambda: "the harbour lies in fog " * 40)
        config = {**thread("addressed"), "metadata": {"topic": "a secret topic"}}
        for n in range(5):
            graph.invoke({"messages": [HumanMessage(f"where is the ferry {n} " * 20)]}, config)
        saver.put_writes(saver.get_tuple(config).config, [("c", "a pending secret")], "task")  # type: ignore[union-attr]
        assert [
            f.metadata["topic"] for f in saver.list(config, filter={"topic": "a secret topic", "step": 1})
        ] == [
            "a secret topic"  # type: ignore[typeddict-item]
        ]
        assert findings(saver.memos) == []
        before = list(saver.list(config))
    content = b"".join(path.read_bytes() for path in vault.glob("vault.db*"))
    for word in (b"harbour", b"ferry", b"secret", b"HumanMessage", b"versions_seen"):
        assert word not in content
    assert b"addressed" in content
    with MemOSSaver.from_conn_string(vault, encryption=b"k" * size) as saver:
        assert list(saver.list(config)) == before
        saver.copy_thread("addressed", "copied")
        assert [f.checkpoint for f in saver.list(thread("copied"))] == [f.checkpoint for f in before]
    for other in (b"x" * size, False):
        with (
            MemOSSaver.from_conn_string(vault, encryption=other) as saver,
            pytest.raises(VaultError, match="addressed"),
        ):
            saver.get_tuple(config)


def test_equal_messages_are_stored_once_encrypted_too(vault: Path, make: Make) -> None:
    messages = [HumanMessage(f"{n}" * 300, id=str(n)) for n in range(50)]
    with MemOSSaver.from_conn_string(vault, encryption=KEY) as saver:
        config = thread()
        sizes = []
        for n in range(1, 50):
            config = put(saver, config, make({"m": str(n)}, m=messages[:n]))
            with saver.memos.vault.db.read() as conn:
                sizes.append(sum(len(row.data) for row in conn.execute(select(t.checkpoint_chunks))))
        assert sizes[-1] - sizes[-10] < 2 * (sizes[10] - sizes[1])


CHANGES: dict[str, tuple[str, str]] = {
    "a changed value": (
        "UPDATE checkpoint_chunks SET data = substr(data, 1, length(data) - 1) || x'00'",
        "'a'",
    ),
    "a value under another name": (
        "UPDATE checkpoint_chunks SET data = (SELECT data FROM checkpoint_chunks ORDER BY hash LIMIT 1)",
        "'[ab]'",
    ),
    "a changed checkpoint": (
        "UPDATE checkpoints SET checkpoint = x'00' || substr(checkpoint, 2)",
        "checkpoint",
    ),
    "a checkpoint of another id": ("UPDATE checkpoints SET checkpoint_id = 'x'", "checkpoint x"),
    "another parent": ("UPDATE checkpoints SET parent_id = 'x'", "checkpoint"),
    "another run": ("UPDATE checkpoints SET run_id = 'x'", "checkpoint"),
    "a thread of another name": ("UPDATE threads SET thread_id = 'x'", "'x'"),
    "a thread of another user": ("UPDATE threads SET tenant = 'default' || x'1f' || 'eve'", "'1'"),
    "a write to another channel": ("UPDATE checkpoint_writes SET channel = 'x'", "'x'"),
    "a write of another task": ("UPDATE checkpoint_writes SET task_id = 'x'", "'c'"),
    "plain rows": ("UPDATE checkpoints SET type = 'msgpack'", "not encrypted"),
    "plain writes": ("UPDATE checkpoint_writes SET type = 'msgpack'", "not encrypted"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_changed_and_moved_rows_are_refused(vault: Path, make: Make, what: str) -> None:
    statement, names = CHANGES[what]
    with MemOSSaver.from_conn_string(vault, encryption=KEY) as saver:
        config = put(saver, thread(), make(a="a" * 300, b="b" * 300), run_id="r")
        saver.put_writes(config, [("c", "c" * 300)], "task")
        with saver.memos.vault.db.write() as conn:
            conn.execute(text(statement))
    with MemOS.open(vault, embedder=None) as memos:
        view = memos.scoped(user="eve") if "user" in what else memos
        saver = MemOSSaver(view, encryption=KEY)
        with pytest.raises(VaultError, match=names):
            list(saver.list(thread("x" if "name" in what and "thread" in what else "1")))


def test_plain_rows_are_refused_and_left_alone(memos: MemOS, make: Make) -> None:
    plain, sealed = MemOSSaver(memos), MemOSSaver(memos, encryption=KEY)
    config = put(plain, thread(), make(a="a" * 300))
    for call in (
        lambda: sealed.get_tuple(config),
        lambda: list(sealed.list(None)),
        lambda: sealed.prune(["1"]),
    ):
        with pytest.raises(VaultError, match="not encrypted"):
            call()
    assert plain.get_tuple(config) is not None
    assert findings(memos) == []


def test_keys(memos: MemOS, monkeypatch: pytest.MonkeyPatch, make: Make) -> None:
    for wrong in (b"short", "0123456789abcdef", 5):
        with pytest.raises(InvalidArgument, match="encryption"):
            MemOSSaver(memos, encryption=wrong)  # type: ignore[arg-type]
    monkeypatch.delenv("LANGGRAPH_AES_KEY", raising=False)
    with pytest.raises(InvalidArgument, match="LANGGRAPH_AES_KEY"):
        MemOSSaver(memos, encryption=True)
    monkeypatch.setenv("LANGGRAPH_AES_KEY", KEY.decode())
    config = put(MemOSSaver(memos, encryption=True), thread(), make(a=1))
    assert MemOSSaver(memos, encryption=KEY).get_tuple(config) is not None


def test_an_erased_user_is_found_in_encrypted_threads_too(memos: MemOS, make: Make) -> None:
    saver = MemOSSaver(memos, encryption=KEY)
    put(saver, thread("hers", user_id="ada"), make(a=1))
    put(saver, thread("his", user_id="bob"), make(a=1))
    erased = memos.scoped(user="ada").erase(verify=True)
    assert erased.threads == ("hers",)
    assert erased.traces == ()
    assert [f.config["configurable"]["thread_id"] for f in saver.list(None)] == ["his"]


def test_langgraphs_own_encrypted_serializer_works(memos: MemOS, make: Make) -> None:
    class Cipher:
        def encrypt(self, plaintext: bytes) -> tuple[str, bytes]:
            return "xor", bytes(b ^ 7 for b in plaintext)

        def decrypt(self, ciphername: str, ciphertext: bytes) -> bytes:
            assert ciphername == "xor"
            return bytes(b ^ 7 for b in ciphertext)

    saver = MemOSSaver(memos, serde=EncryptedSerializer(Cipher()))
    messages = [HumanMessage("hello " * 100, id="1"), AIMessage("there " * 100, id="2")]
    config = put(saver, thread(), make(a=messages))
    assert saver.get_tuple(config).checkpoint["channel_values"] == {"a": messages}  # type: ignore[union-attr]
    with memos.vault.db.read() as conn:
        assert not any(b"hello" in row.data for row in conn.execute(select(t.checkpoint_chunks)))


# -- bad input ----------------------------------------------------------------------------------------------


class Odd:
    pass


@pytest.mark.parametrize(
    ("value", "at"),
    [
        (
            [HumanMessage("a"), AIMessage("b", additional_kwargs={"x": Odd()})],
            r"\[1\]\.additional_kwargs\['x'\]",
        ),
        ({"a": [1, {"b": (2, Odd())}]}, r"\['a'\]\[1\]\['b'\]\[1\]"),
        ([1, [2, 2**70]], r"\[1\]\[1\]"),
    ],
)
def test_the_place_of_what_cannot_be_stored_is_named(
    saver: MemOSSaver, make: Make, value: Any, at: str
) -> None:
    with pytest.raises(InvalidArgument, match=rf"channel 'messages', at {at}, holds a (Odd|int)"):
        put(saver, thread(), make(good=1, messages=value))
    with pytest.raises(InvalidArgument, match=rf"channel 'c', at {at}, holds"):
        saver.put_writes(thread(checkpoint_id="x"), [("ok", 1), ("c", value)], "task")
    assert saver.get_tuple(thread()) is None
    assert findings(saver.memos) == []


def test_a_vault_that_cannot_be_written_says_so(vault: Path, make: Make) -> None:
    with MemOSSaver.from_conn_string(vault) as saver:
        config = put(saver, thread(), make(a="a" * 500))
        with sqlite3.connect(vault / "vault.db") as conn:
            conn.execute("DROP TABLE checkpoint_chunks")
        with pytest.raises(MemOSError, match=r"vault\.db"):
            put(saver, config, make(a="b" * 500))
        with sqlite3.connect(vault / "vault.db") as conn:
            assert conn.execute("SELECT count(*) FROM checkpoints").fetchone() == (1,)


def test_setup_is_idempotent_and_options_go_through(vault: Path, make: Make) -> None:
    options: dict[str, Any] = {
        "ttl": {"default_ttl": 5},
        "on_conflict": "error",
        "encryption": KEY,
        "allowed_msgpack_modules": [Odd],
    }
    with MemOSSaver.from_conn_string(vault, tenant="acme", **options) as saver:
        saver.setup()
        saver.setup()
        saver.start_ttl_sweeper()
        config = put(saver, thread(), make(a=1))
        clone = saver.with_allowlist([("decimal", "Decimal")])
        assert clone.get_tuple(config) == saver.get_tuple(config)
    assert saver.stop_ttl_sweeper()
    with MemOSSaver.from_conn_string(vault, encryption=KEY) as other:
        assert other.get_tuple(config) is None
    with pytest.raises(TypeError, match="colour"), MemOSSaver.from_conn_string(vault, colour="red"):
        pass


def test_updates_of_the_digest_are_needed(memos: MemOS, make: Make) -> None:
    """That the checks above can fail: what nobody changed is read."""
    saver = MemOSSaver(memos)
    config = put(saver, thread(), make(a=1))
    with memos.vault.db.write() as conn:
        conn.execute(update(t.checkpoints).values(parent_id=None))
    assert saver.get_tuple(config) is not None
