"""The chat stores and the memory block: each does what LlamaIndex's own does, and keeps users apart."""

from __future__ import annotations

import asyncio
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage, TextBlock, ToolCallBlock
from llama_index.core.llms.mock import MockLLM
from llama_index.core.memory import ChatMemoryBuffer, ChatSummaryMemoryBuffer, Memory, StaticMemoryBlock
from llama_index.core.storage.chat_store import SimpleChatStore
from llama_index.core.storage.chat_store.base_db import MessageStatus
from llama_index.core.storage.chat_store.sql import SQLAlchemyChatStore
from llama_index.core.utils import get_tokenizer
from support import environment, findings

from langchain_memos import MemOSMemory as LangChainMemory
from llama_index.memory.memos import (
    MemOSChatStore,
    MemOSMemory,
    MemOSMemoryBlock,
    MemOSSimpleChatStore,
    close_reopened,
)
from memos_core.errors import AccessDenied, InvalidArgument
from memos_core.memos import MemOS

ACTIVE, ARCHIVED = MessageStatus.ACTIVE, MessageStatus.ARCHIVED
Open = Callable[[], MemOS]


def said(*texts: str) -> list[ChatMessage]:
    """A conversation, the user first."""
    return [ChatMessage(role="assistant" if i % 2 else "user", content=text) for i, text in enumerate(texts)]


def contents(messages: list[ChatMessage] | None) -> list[str | None]:
    return [m.content for m in messages or ()]


# -- the store of `Memory`: LlamaIndex's own and ours, by the same tests ---------------------------------------


@pytest.fixture(params=["sqlalchemy", "memos"])
def store(request: pytest.FixtureRequest, memos: MemOS) -> Any:
    if request.param == "memos":
        return MemOSChatStore(memos, user="maya")
    return SQLAlchemyChatStore(table_name="messages")


async def test_messages_are_kept_by_key_in_order(store: Any) -> None:
    assert await store.get_messages("one") == []
    await store.add_message("one", said("a")[0])
    await store.add_messages("one", said("b", "c", "d"))
    await store.add_messages("two", said("x"))
    assert contents(await store.get_messages("one")) == ["a", "b", "c", "d"]
    assert contents(await store.get_messages("two")) == ["x"]
    assert contents(await store.get_messages("one", limit=2)) == ["a", "b"]
    assert contents(await store.get_messages("one", limit=2, offset=1)) == ["b", "c"]
    assert await store.get_messages("one", limit=2, offset=9) == []
    assert sorted(await store.get_keys()) == ["one", "two"]
    assert [await store.count_messages(key) for key in ("one", "two", "three")] == [4, 1, 0]


async def test_statuses(store: Any) -> None:
    await store.add_messages("one", said("a", "b", "c", "d"))
    await store.add_message("one", said("old")[0], status=ARCHIVED)
    assert contents(await store.archive_oldest_messages("one", 2)) == ["a", "b"]
    assert contents(await store.get_messages("one")) == ["c", "d"]
    assert contents(await store.get_messages("one", status=ARCHIVED)) == ["a", "b", "old"]
    assert contents(await store.get_messages("one", status=None)) == ["a", "b", "c", "d", "old"]
    assert [await store.count_messages("one", status=s) for s in (ACTIVE, ARCHIVED, None)] == [2, 3, 5]
    assert contents(await store.delete_oldest_messages("one", 1)) == ["c"]
    assert (
        await store.archive_oldest_messages("none", 3) == await store.delete_oldest_messages("none", 1) == []
    )
    await store.delete_messages("one", status=ACTIVE)
    assert contents(await store.get_messages("one", status=None)) == ["a", "b", "old"]
    assert await store.get_keys() == ["one"]  # what is archived counts
    await store.delete_messages("one")
    assert await store.get_messages("one", status=None) == await store.get_keys() == []


async def test_setting_replaces_every_status(store: Any) -> None:
    await store.add_messages("one", said("a", "b"))
    await store.archive_oldest_messages("one", 1)
    await store.add_messages("two", said("x"))
    await store.set_messages("one", said("c", "d"))
    assert contents(await store.get_messages("one", status=None)) == ["c", "d"]
    await store.set_messages("one", said("e"), status=ARCHIVED)
    assert await store.get_messages("one") == []
    assert contents(await store.get_messages("one", status=ARCHIVED)) == ["e"]
    await store.set_messages("one", [])
    assert await store.get_messages("one", status=None) == []
    assert contents(await store.get_messages("two")) == ["x"]


async def test_messages_come_back_whole(store: Any) -> None:
    call = ToolCallBlock(tool_call_id="1", tool_name="add", tool_kwargs={"a": 2})
    messages = [
        ChatMessage(role="user", blocks=[TextBlock(text="one"), TextBlock(text="two")]),
        ChatMessage(role="assistant", blocks=[call]),
        ChatMessage(role="tool", content="4", additional_kwargs={"tool_call_id": "1"}),
    ]
    await store.add_messages("one", messages)
    assert await store.get_messages("one") == messages


def test_memory_over_the_store(store: Any) -> None:
    """The queue of `Memory`: what is too much is archived, in whole turns."""
    memory = Memory.from_defaults(
        session_id="s", chat_store=store, token_limit=30, chat_history_token_ratio=0.5, token_flush_size=5
    )
    for n in range(6):
        memory.put_messages(said(f"question {n}", f"answer {n} is four"))
    shown = contents(memory.get())
    assert shown[0] == f"question {6 - len(shown) // 2}"
    assert shown[-1] == "answer 5 is four"
    assert len(shown) < 12
    everything = contents(memory.get_all())
    assert everything[0] == "question 0"
    assert len(everything) == 12
    assert contents(memory.get_all(status=ARCHIVED)) == everything[: 12 - len(shown)]
    memory.set(said("anew"))
    assert contents(memory.get_all()) == ["anew"]
    memory.reset()
    assert memory.get_all() == []


# -- what is ours --------------------------------------------------------------------------------------------


async def test_deleting_by_position(memos: MemOS) -> None:
    store = MemOSChatStore(memos, user="maya")
    await store.add_messages("one", said("a", "b", "c"))
    await store.archive_oldest_messages("one", 1)
    deleted = [await store.delete_message("one", at) for at in (3, 0, 0, 5)]
    assert [m and m.content for m in deleted] == [None, "a", "b", None]
    assert contents(await store.get_messages("one", status=None)) == ["c"]
    with pytest.raises(InvalidArgument, match=r"^idx must be a position"):
        await store.delete_message("one", "0")


async def test_a_store_is_one_users_and_its_keys_are_sessions(memos: MemOS) -> None:
    mayas, bobs = (MemOSChatStore(memos, user=user) for user in ("maya", "bob"))
    await mayas.add_messages("s", said("I keep bees.", "Sweet."))
    await mayas.add_messages("t", said("Hello"))
    assert await bobs.get_messages("s", status=None) == await bobs.get_keys() == []
    await bobs.set_messages("s", said("mine"))
    await bobs.delete_messages("s")
    assert await bobs.delete_message("t", 0) is None
    # The same conversation under the other classes, and what is known from it elsewhere.
    assert MemOSMemory.from_defaults(memos, user="maya", session="s").get_all() == await mayas.get_messages(
        "s"
    )
    langchain = LangChainMemory(memos=memos, user="maya", session="s", return_messages=True, k=0)
    assert [m.content for m in langchain.load_memory_variables({})["history"]] == ["I keep bees.", "Sweet."]
    other = MemOSMemory.from_defaults(memos, user="maya", session="t")
    assert "I keep bees." in str(other.get("What do I keep?")[0].content)
    fixed = MemOSChatStore(memos.scoped(user="maya", session="t"))
    assert await fixed.get_keys() == ["t"]
    with pytest.raises(AccessDenied):
        await fixed.get_messages("s")
    with pytest.raises(AccessDenied):
        MemOSChatStore(memos.scoped(user="maya"), user="bob")


async def test_wrong_arguments_change_nothing(memos: MemOS) -> None:
    store, simple = MemOSChatStore(memos, user="maya"), MemOSSimpleChatStore(memos, user="maya")
    await store.add_messages("s", said("stays"))
    bad = [*said("fine"), ChatMessage(role="user", content="x", additional_kwargs={"x": object()})]
    for write in (store.add_messages, store.set_messages):
        with pytest.raises(InvalidArgument, match=r"^messages\[1\] must be JSON"):
            await write("s", bad)
    with pytest.raises(InvalidArgument, match=r"^messages\[1\] must be JSON"):
        simple.set_messages("s", bad)
    for key in ("", "  ", "a\x00b"):
        with pytest.raises(InvalidArgument):
            await store.add_messages(key, said("x"))
    with pytest.raises(InvalidArgument):
        await store.get_messages("s", limit=-1)
    for made in (MemOSChatStore, MemOSSimpleChatStore, MemOSMemoryBlock):
        with pytest.raises(InvalidArgument, match=r"^memos must be an open MemOS"):
            made("vault")
        with pytest.raises(InvalidArgument, match="user"):
            made(memos, user="")
    with pytest.raises(InvalidArgument, match=r"^k must be"):
        MemOSMemoryBlock(memos, k=-1)
    assert contents(await store.get_messages("s")) == ["stays"]


async def test_set_messages_is_one_transaction(memos: MemOS, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is gone where the writing fails."""
    store, memory = MemOSChatStore(memos, user="m"), MemOSMemory.from_defaults(memos, user="m", session="s")
    await store.add_messages("s", said("a", "b"))
    from memos_core.vault.writer import Writer

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "put_all", fail)
        with pytest.raises(RuntimeError, match="full"):
            await store.set_messages("s", said("c"))
        with pytest.raises(RuntimeError, match="full"):
            memory.set(said("d"))
    assert contents(await store.get_messages("s")) == ["a", "b"]
    memory.set(said("e"))
    assert contents(await store.get_messages("s", status=None)) == ["e"]
    assert findings(memos) == []


async def test_the_stores_are_only_locators(memos: MemOS, open_memos: Open) -> None:
    store, simple = MemOSChatStore(memos, user="maya"), MemOSSimpleChatStore(memos, user="maya")
    block = MemOSMemoryBlock(memos, user="maya", name="kept", k=3)
    await store.add_messages("s", said("I keep bees."))
    memos.close()
    for made in (store, simple, block):
        stored = json.loads(json.dumps(made.model_dump(mode="json")))
        assert {*stored} >= {"vault", "user", "embedder"}
        for again in (type(made).model_validate(stored), pickle.loads(pickle.dumps(made))):
            assert again.memos.scope.user == "maya"
            assert again.model_dump() == made.model_dump()
    assert contents(MemOSSimpleChatStore.from_dict(simple.to_dict()).get_messages("s")) == ["I keep bees."]
    with MemOS.open(":memory:", embedder=None) as gone, pytest.raises(InvalidArgument, match="is in memory"):
        pickle.dumps(MemOSChatStore(gone))


async def test_the_default_vault(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMOS_VAULT", str(tmp_path / "env"))
    monkeypatch.setattr("memos_core.memos.resolve", lambda _: None)
    await MemOSChatStore(user="maya").add_messages("s", said("Hello"))
    assert contents(MemOSSimpleChatStore(user="maya").get_messages("s")) == ["Hello"]
    assert (tmp_path / "env" / "vault.db").exists()


async def test_restoring_works_on_each_back_end(vault_url: str) -> None:
    with MemOS.open(vault_url, embedder=None) as memos:
        memory = MemOSMemory.from_defaults(memos, user="maya", session="s")
        await memory.aput_messages(said("I keep bees.", "Sweet.", "Yes."))
        store = MemOSChatStore(memos, user="maya")
        await store.archive_oldest_messages("s", 2)
        dumps = memory.to_dict(), store.model_dump(), MemOSMemoryBlock(memos, user="maya").model_dump()
    try:
        again, chats = MemOSMemory.from_dict(dumps[0]), MemOSChatStore.model_validate(dumps[1])
        assert [again.get_all(status) for status in (ACTIVE, ARCHIVED)] == [
            await chats.get_messages("s", status=status) for status in (ACTIVE, ARCHIVED)
        ]
        assert contents(again.get_all()) == ["I keep bees.", "Sweet.", "Yes."]
        assert contents(again.get())[-1] == "Yes."  # the archived ones are not shown
        await again.aset(said("Anew", "Well"))
        assert await chats.get_messages("s", status=None) == again.get_all() == said("Anew", "Well")
        await chats.archive_oldest_messages("s", 1)
        again.reset(ARCHIVED)
        assert contents(await again.aget_all()) == ["Well"]
        await again.areset()
        assert await chats.get_keys() == []
        block = MemOSMemoryBlock.model_validate(dumps[2])
        assert "bees" in await block.aget(said("What do I keep?"))
    finally:
        close_reopened()


# -- the store of the older buffers --------------------------------------------------------------------------


@pytest.fixture(params=["simple", "memos"])
def simple(request: pytest.FixtureRequest, memos: MemOS) -> Any:
    return MemOSSimpleChatStore(memos, user="maya") if request.param == "memos" else SimpleChatStore()


async def test_the_simple_store(simple: Any) -> None:
    assert simple.get_messages("one") == simple.get_keys() == []
    assert simple.delete_messages("one") is simple.delete_message("one", 0) is None
    assert simple.delete_last_message("one") is None
    simple.set_messages("one", said("a", "b", "c"))
    simple.add_message("one", said("d")[0])
    simple.add_message("one", said("first")[0], idx=0)
    simple.add_message("two", said("x")[0])
    assert contents(simple.get_messages("one")) == ["first", "a", "b", "c", "d"]
    assert sorted(simple.get_keys()) == ["one", "two"]
    assert simple.delete_message("one", 1).content == "a"
    assert simple.delete_message("one", 9) is None
    assert simple.delete_last_message("one").content == "d"
    assert contents(simple.delete_messages("one")) == ["first", "b", "c"]
    await simple.aset_messages("one", said("y"))
    await simple.async_add_message("one", said("z")[0])
    assert contents(await simple.aget_messages("one")) == ["y", "z"]
    assert (await simple.adelete_last_message("one")).content == "z"
    assert (await simple.adelete_message("one", 0)).content == "y"
    await simple.adelete_messages("two")
    assert "two" not in await simple.aget_keys()


def test_the_older_buffers_over_the_store(simple: Any) -> None:
    buffer = ChatMemoryBuffer.from_defaults(
        chat_history=said("a", "b"), chat_store=simple, chat_store_key="k", token_limit=8
    )
    buffer.put_messages(said("one two three", "four five six", "seven"))
    assert contents(buffer.get()) == ["one two three", "four five six", "seven"]
    assert contents(buffer.get_all()) == ["a", "b", "one two three", "four five six", "seven"]
    summary = ChatSummaryMemoryBuffer.from_defaults(
        llm=MockLLM(max_tokens=3), chat_store=simple, chat_store_key="s", token_limit=8
    )
    summary.set(said("one two three four five", "six seven eight nine", "ten", "eleven", "twelve"))
    got = summary.get()
    assert [m.role.value for m in got] == ["system", "user", "assistant", "user"]
    assert summary.get_all() == got
    buffer.reset()
    assert buffer.get() == []
    assert simple.get_messages("s") == got


def test_a_buffer_finds_its_store_again(memos: MemOS) -> None:
    """LlamaIndex restores a buffer's store by its name; of others than its own it says `Invalid ChatStore name`."""
    store = MemOSSimpleChatStore(memos, user="maya")
    buffer = ChatMemoryBuffer.from_defaults(chat_store=store, chat_store_key="s")
    buffer.put_messages(said("I keep bees.", "Sweet."))
    restored = ChatMemoryBuffer.from_dict(json.loads(json.dumps(buffer.to_dict())))
    assert restored.get() == buffer.get()
    restored.put_messages(said("And tea."))
    assert contents(buffer.get_all()) == ["I keep bees.", "Sweet.", "And tea."]
    simple = MemOSSimpleChatStore(memos, user="bob")
    simple.persist(persist_path="nowhere.json")
    assert simple.get_keys() == []


# -- the block -----------------------------------------------------------------------------------------------


def memory_with(block: Any, session: str, **how: Any) -> Memory:
    """A short window, so that what was said soon leaves it."""
    small: dict[str, Any] = {"token_limit": 60, "chat_history_token_ratio": 0.3, "token_flush_size": 5}
    return Memory.from_defaults(session_id=session, memory_blocks=[block], **{**small, **how})


TALK = [
    said("I live in Lisbon.", "Noted."),
    said("The code of the door is 4711.", "I will not tell anybody."),
    said("Let us talk about the weather for a while.", "It is sunny and warm today."),
    said("How nice. And tomorrow, what will it be?", "It will rain all day tomorrow."),
]


@pytest.mark.parametrize("own_store", [True, False])
async def test_what_leaves_the_window_is_recalled(memos: MemOS, own_store: bool) -> None:
    block = MemOSMemoryBlock(memos, user="maya")
    store = MemOSChatStore(memos, user="maya") if own_store else None
    memory = memory_with(block, "s", chat_store=store)
    for turn in TALK:
        await memory.aput_messages(turn)
    shown = await memory.aget()
    assert [m.role.value for m in shown] == ["system", "user", "assistant"]
    asked = str((await memory.aget(input="What is the code of the door?"))[0].content)
    assert "<MemOS>" in asked
    assert "- user: The code of the door is 4711." in asked
    assert "- I live in Lisbon." in asked
    # Once each, in whatever way it is kept.
    assert asked.count("Lisbon") == asked.count("4711") == 1
    assert [m.content for m in await memory.aget_all()] == [m.content for turn in TALK for m in turn]
    assert [c.text for c in memos.scoped(user="maya").find(not_types=("message",))] == ["I live in Lisbon."]
    assert findings(memos) == []


async def test_the_block_recalls_across_sessions_of_its_user_only(memos: MemOS) -> None:
    first = memory_with(MemOSMemoryBlock(memos, user="maya"), "s")
    for turn in TALK:
        first.put_messages(turn)  # sync, in a running event loop
    for user, sees in (("maya", True), ("bob", False)):
        other = memory_with(MemOSMemoryBlock(memos, user=user), "another")
        await other.aput_messages(said("What is the code of the door, and where do I live?"))
        got = str([m.content for m in await other.aget()])
        assert ("4711" in got) == ("Lisbon" in got) == sees
    # Facts reach a chat of another framework; what was said word for word is not a fact.
    langchain = LangChainMemory(memos=memos, user="maya", session="new")
    assert "Lisbon" in str(langchain.load_memory_variables({"input": "Where do I live?"}))
    assert "4711" not in str(langchain.load_memory_variables({"input": "What is the code of the door?"}))
    # Resetting the session deletes what left its window, as it deletes the conversation.
    MemOSMemory.from_defaults(memos, user="maya", session="s").reset()
    block = MemOSMemoryBlock(memos, user="maya")
    assert "4711" not in await block.aget(said("What is the code of the door?"))


async def test_the_block_by_itself(memos: MemOS) -> None:
    block = MemOSMemoryBlock(memos, user="maya", accept_short_term_memory=False)
    assert await block.aget() == await block.aget([]) == await block.aget(said("Hello?")) == ""
    message = said("I keep bees.")
    await block.aput(message, from_short_term_memory=True, session_id="s")
    assert await block.aget(said("What do I keep?")) == ""
    await block.aput(message, session_id="s")
    await block.aput([])
    assert message[0].additional_kwargs == {}  # the base class writes the session into the caller's messages
    assert await block.aget(said("What do I keep?")) == "Relevant memories:\n- I keep bees."
    assert await block.aget(said("I keep bees.", "Sweet.", "What do I keep?")) == ""  # the prompt shows it
    quiet = MemOSMemoryBlock(memos, user="maya", k=0, similarity_top_k=0)
    assert await quiet.aget(said("What do I keep?")) == ""
    words = MemOSMemoryBlock(memos, user="maya", k=0)
    assert await words.aget(said("What do I keep?")) == "Said before:\n- user: I keep bees."


async def test_truncating_drops_the_last_lines(memos: MemOS) -> None:
    block, count = MemOSMemoryBlock(memos), get_tokenizer()
    text = "Relevant memories:\n- one two three\n- four five six\nSaid before:\n- user: seven"
    assert await block.atruncate(text, 1) == "Relevant memories:\n- one two three\n- four five six"
    for tokens in range(1, 60):
        left = await block.atruncate(text, tokens)
        assert left is None or (text.startswith(left) and left.splitlines()[-1].startswith("- "))
        assert left is None or len(count(text)) - len(count(left)) >= tokens
    assert await block.atruncate(text, 60) is None
    memory = memory_with(
        MemOSMemoryBlock(memos, user="maya", priority=1), "s", token_limit=30, chat_history_token_ratio=0.9
    )
    facts = memos.scoped(user="maya")
    for n in range(5):
        facts.write(f"fact number {n} about the garden")
    memory.put_messages(said("What about the garden?"))
    shown = str([m.content for m in memory.get()])
    assert 0 < shown.count("- fact number") < 5


async def test_the_block_stands_beside_others(memos: MemOS) -> None:
    memos.scoped(user="maya").write("I keep bees.")
    blocks = [
        StaticMemoryBlock(name="rules", static_content="Be brief."),
        MemOSMemoryBlock(memos, user="maya", priority=1),
    ]
    memory = Memory.from_defaults(session_id="s", memory_blocks=blocks)
    await memory.aput_messages(said("What do I keep?"))
    [system, question] = await memory.aget()
    assert "Be brief." in str(system.content)
    assert "- I keep bees." in str(system.content)
    assert question.content == "What do I keep?"


# -- what a hostile review found -------------------------------------------------------------------------------


async def test_a_key_that_names_no_conversation_is_refused(memos: MemOS) -> None:
    store, simple = MemOSChatStore(memos, user="maya"), MemOSSimpleChatStore(memos, user="maya")
    await store.add_messages("a", said("one"))
    nobody: Any
    for nobody in (None, "", "  ", 3):
        for call in (
            store.delete_messages,
            store.get_messages,
            lambda key: store.set_messages(key, said("x")),
        ):
            with pytest.raises(InvalidArgument, match=r"key must be"):
                await call(nobody)
        with pytest.raises(InvalidArgument, match=r"key must be"):
            simple.delete_messages(nobody)
    assert contents(await store.get_messages("a")) == ["one"]


async def test_messages_that_are_stored_anew_are_not_said_anew(memos: MemOS) -> None:
    maya = memos.scoped(user="maya")

    def holds() -> list[str]:
        return [hit.cube.text for hit in maya.recall("Where do I live?")]

    memory = MemOSMemory.from_defaults(memos=memos, user="maya", session_id="s")
    memory.put_messages(said("I live in Oslo.", "ok", "I live in Bergen.", "ok"))
    assert holds() == ["I live in Bergen."]
    memory.set(memory.get_all())
    MemOSSimpleChatStore(memos, user="maya").add_message("s", said("hello")[0], 0)
    await MemOSMemoryBlock(memos, user="maya").aput(said("I live in Oslo."), session_id="s")
    assert holds() == ["I live in Bergen."]
    maya.delete([hit.cube.id for hit in maya.recall("Where do I live?")])
    memory.set(memory.get_all())
    assert "I live in Bergen." not in holds()
    memory.put_messages(said("I live in Oslo."))  # said again, now
    assert holds() == ["I live in Oslo."]


async def test_positions_are_those_of_what_is_shown(memos: MemOS) -> None:
    store, simple = MemOSChatStore(memos, user="maya"), MemOSSimpleChatStore(memos, user="maya")
    await store.add_messages("k", said("u0", "a1", "u2", "a3"))
    await store.archive_oldest_messages("k", 2)
    assert contents(simple.get_messages("k")) == ["u2", "a3"]
    simple.add_message("k", said("new")[0], 0)
    assert contents(simple.get_messages("k")) == ["new", "u2", "a3"]
    gone = simple.delete_message("k", 0)
    assert gone is not None
    assert gone.content == "new"
    assert contents(await store.get_messages("k", ARCHIVED)) == ["u0", "a1"]


async def test_a_block_of_one_session_takes_nothing_of_another(memos: MemOS) -> None:
    with pytest.raises(AccessDenied):
        await MemOSMemoryBlock(memos, user="maya", session="s2").aput(said("hi"), session_id="s3")


def test_a_restored_memory_may_not_read_more_than_before(open_memos: Open) -> None:
    memos = open_memos()
    maya = memos.scoped(user="maya")
    maya.write("My blood type is AB", sensitivity=["medical"])
    cleared = MemOSMemory.from_defaults(memos=maya, session_id="s")
    narrow = MemOSMemory.from_defaults(memos=maya.scoped(clearance=[]), session_id="s")
    assert "AB" in str(cleared.get("what is my blood type?"))
    for memory in (narrow, MemOSMemory.from_dict(narrow.to_dict()), pickle.loads(pickle.dumps(narrow))):
        assert "AB" not in str(memory.get("what is my blood type?"))


def test_the_names_of_a_conversation(memos: MemOS) -> None:
    buffer = MemOSMemory.from_defaults(memos=memos, user="maya", chat_store_key="cust42")
    assert buffer.session_id == "cust42"
    fresh = MemOSMemory.from_defaults(memos=memos, user="maya", session_id="")
    assert fresh.session_id not in (None, "", "cust42")
    with pytest.raises(InvalidArgument, match=r"list of ChatMessages"):
        buffer.set(None)  # type: ignore[arg-type]


def test_a_message_of_a_newer_release_is_read_by_its_text(memos: MemOS) -> None:
    raw = {"role": "user", "blocks": [{"block_type": "hologram", "data": 1}], "additional_kwargs": {}}
    memos.scoped(user="maya", session="s").remember([{"role": "user", "content": "hello", "raw": raw}])
    assert contents(MemOSMemory.from_defaults(memos=memos, user="maya", session_id="s").get_all()) == [
        "hello"
    ]


async def test_of_replacements_at_the_same_moment_one_stays(memos: MemOS) -> None:
    store = MemOSChatStore(memos, user="maya")
    await asyncio.gather(*(store.set_messages("k", said(f"q{n}", f"a{n}")) for n in range(8)))
    first, second = contents(await store.get_messages("k"))
    assert (first or "")[1:] == (second or "")[1:]
    simple = MemOSSimpleChatStore(memos, user="maya")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: simple.add_message("t", said(str(n))[0], 0), range(24)))
    assert sorted(map(str, contents(simple.get_messages("t")))) == sorted(map(str, range(24)))


REPLACER = """
import sys
from llama_index.core.base.llms.types import ChatMessage
from llama_index.memory.memos import MemOSChatStore, MemOSMemory
from memos_core import MemOS
import asyncio

url, name = sys.argv[1:]
with MemOS.open(url, embedder=None) as memos:
    store = MemOSChatStore(memos, user="maya")
    print("open", flush=True)
    sys.stdin.readline()
    for n in range(25):
        said = [ChatMessage(role=r, content=f"{name} {n}") for r in ("user", "assistant")]
        asyncio.run(store.set_messages("k", said))
"""


async def test_of_replacements_from_several_processes_one_stays(vault_url: str) -> None:
    with MemOS.open(vault_url, embedder=None) as memos:
        store = MemOSChatStore(memos, user="maya")
        await store.add_messages("other", said("stays"))
        await store.add_messages("k", said("a", "b", "c"))
        others = [
            subprocess.Popen(
                [sys.executable, "-c", REPLACER, vault_url, name],
                env=environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for name in ("one", "two", "three")
        ]
        for process in others:
            assert process.stdout is not None
            assert process.stdout.readline() == "open\n"
        for process in others:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in others:
            process.communicate(timeout=120)
            assert process.returncode == 0
        first, second = contents(await store.get_messages("k", None))
        assert first == second
        assert contents(await store.get_messages("other")) == ["stays"]
        assert findings(memos) == []


async def test_what_is_taken_out_is_given_to_one_only(memos: MemOS) -> None:
    store = MemOSChatStore(memos, user="maya")
    for take in (store.archive_oldest_messages, store.delete_oldest_messages):
        await store.set_messages("k", said(*map(str, range(30))))
        taken = await asyncio.gather(*(take("k", 3) for _ in range(8)))
        told = sorted((c for part in taken for c in contents(part)), key=lambda c: int(c or ""))
        assert told == [str(n) for n in range(24)]
        assert contents(await store.get_messages("k")) == [str(n) for n in range(24, 30)]
        assert contents(await take("k", 100)) == [str(n) for n in range(24, 30)]
        assert await take("k", 1) == []
    with pytest.raises(InvalidArgument, match="n must be"):
        await store.archive_oldest_messages("k", -1)


async def test_counts_and_positions_without_reading_all(memos: MemOS) -> None:
    store, simple = MemOSChatStore(memos, user="maya"), MemOSSimpleChatStore(memos, user="maya")
    await store.add_messages("k", said(*map(str, range(10))))
    await store.archive_oldest_messages("k", 4)
    counts = [await store.count_messages("k", status) for status in (ACTIVE, ARCHIVED, None)]
    assert counts == [6, 4, 10]
    assert contents([m for m in [await store.delete_message("k", 1)] if m]) == ["1"]
    for index, content in ((0, "4"), (-1, "9"), (-2, "7"), (2, "8"), (5, None), (-9, None)):
        gone = simple.delete_message("k", index)
        assert (gone and gone.content) == content


@pytest.mark.parametrize("key", ["a\x01", "\ud800", "x" * 1_001, "é" * 501])
def test_a_key_that_cannot_be_stored_is_named(memos: MemOS, key: str) -> None:
    store = MemOSSimpleChatStore(memos, user="maya")
    for call in (store.get_messages, lambda k: store.add_message(k, said("x")[0]), store.delete_messages):
        with pytest.raises(InvalidArgument, match=r"^key"):
            call(key)
