"""What goes wrong with LlamaIndex's own memories, each shown, and that it does not with ours."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from llama_blocks import vector_block
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import ChatMessage, ToolCallBlock
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index.core.memory import (
    ChatMemoryBuffer,
    FactExtractionMemoryBlock,
    Memory,
    StaticMemoryBlock,
)
from llama_index.core.storage.chat_store import SimpleChatStore
from llama_index.core.storage.chat_store.sql import SQLAlchemyChatStore
from llama_index.core.workflow import Context, JsonPickleSerializer, JsonSerializer

from llama_index.memory.memos import (
    MemOSChatStore,
    MemOSMemory,
    MemOSMemoryBlock,
    MemOSSimpleChatStore,
)
from memos_core.errors import InvalidArgument
from memos_core.memos import MemOS


def said(*texts: str) -> list[ChatMessage]:
    return [ChatMessage(role="assistant" if i % 2 else "user", content=text) for i, text in enumerate(texts)]


def short(block: Any, session: str) -> Memory:
    """A memory whose window holds about one turn."""
    return Memory.from_defaults(
        session_id=session,
        memory_blocks=[block],
        token_limit=60,
        chat_history_token_ratio=0.3,
        token_flush_size=5,
    )


LONG = said("Let us talk about the weather for a while, shall we?", "It is sunny and warm today, as it was.")


# -- whose memory it is --------------------------------------------------------------------------------------


async def _what_the_second_sees(block_of: Callable[[str], Any]) -> str:
    """Alice's session asks first, then Bob's, in one process; what Bob's prompt has."""
    alices, bobs = (short(block_of(user), user) for user in ("alice", "bob"))
    await alices.aput_messages([*said("My password is swordfish.", "Noted."), *LONG])
    await alices.aget(input="What is my password?")
    await bobs.aput_messages(said("Hello"))
    return str(await bobs.aget(input="What is my password?"))


async def test_a_block_never_shows_one_session_anothers_secrets(memos: MemOS) -> None:
    shared = vector_block()  # remembers the filter of the session that asked first
    assert "swordfish" in await _what_the_second_sees(lambda user: shared)
    seen = await _what_the_second_sees(lambda user: MemOSMemoryBlock(memos, user=user))
    assert "swordfish" not in seen


async def test_the_callers_messages_are_not_written_to(memos: MemOS) -> None:
    for block, stays in ((vector_block(), False), (MemOSMemoryBlock(memos), True)):
        picture = ChatMessage(role="user", blocks=[])  # a message without text
        await block.aput([picture], session_id="s")
        assert (picture.additional_kwargs == {}) == stays


# -- what survives -------------------------------------------------------------------------------------------


async def _asked_after_restoring(memory: Any, serializer: Any) -> list[str | None]:
    """What the model is sent by a workflow whose context was saved and restored in between."""
    sent: list[list[str | None]] = []

    def says(messages: Sequence[ChatMessage], **kwargs: Any) -> ChatMessage:
        sent.append([m.content for m in messages])
        return ChatMessage(role="assistant", content="ok")

    def agent() -> FunctionAgent:
        llm = MockFunctionCallingLLM(response_generator=says, is_chat_model=True)
        return FunctionAgent(name="a", description="a", llm=llm, tools=[])

    workflow = agent()
    context = Context(workflow)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # workflows warn that they leave the memory out, and go on
        await workflow.run(user_msg="I am Ann.", memory=memory, ctx=context)
        stored = json.loads(json.dumps(context.to_dict(serializer=serializer)))
        again = agent()
        await again.run(user_msg="Who am I?", ctx=Context.from_dict(again, stored, serializer=serializer))
    return sent[-1]


@pytest.mark.parametrize("serializer", [JsonSerializer(), JsonPickleSerializer()])
async def test_the_history_is_there_after_a_restore(memos: MemOS, tmp_path: Path, serializer: Any) -> None:
    on_disk = f"sqlite+aiosqlite:///{tmp_path}/chats.db"
    for lost in (
        Memory.from_defaults(session_id="s"),
        Memory.from_defaults(session_id="s", async_database_uri=on_disk),
        Memory.from_defaults(
            session_id="s", memory_blocks=[StaticMemoryBlock(name="rules", static_content="x")]
        ),
    ):
        assert "I am Ann." not in await _asked_after_restoring(lost, serializer)
    store = MemOSSimpleChatStore(memos, user="ann")
    for kept in (
        MemOSMemory.from_defaults(memos, user="ann", session="s"),
        ChatMemoryBuffer.from_defaults(chat_store=store, chat_store_key="t"),
    ):
        assert await _asked_after_restoring(kept, serializer) == ["I am Ann.", "ok", "Who am I?"]


async def test_a_new_history_that_cannot_be_stored_leaves_the_old(memos: MemOS) -> None:
    bad = [*said("fine"), ChatMessage(role="user", content="x", additional_kwargs={"x": object()})]
    official, ours = SQLAlchemyChatStore(table_name="chats"), MemOSChatStore(memos)
    for store, error, left in ((official, Exception, 0), (ours, InvalidArgument, 2)):
        await store.add_messages("s", said("a", "b"))
        with pytest.raises(error):
            await store.set_messages("s", bad)
        assert len(await store.get_messages("s")) == left


def test_a_store_that_was_serialised_comes_back(memos: MemOS) -> None:
    """With pydantic 2.14 LlamaIndex's simple store cannot be serialised; ours has nothing that could break."""
    import pydantic

    simple = SimpleChatStore()
    ours = MemOSSimpleChatStore(memos, user="maya")
    for store in (simple, ours):
        store.add_message("s", said("Hello")[0])
    if pydantic.VERSION.startswith("2.14."):
        with pytest.raises(ValueError, match="chat_message_serialization"):
            simple.model_dump_json()
    restored = MemOSSimpleChatStore.model_validate_json(ours.model_dump_json())
    assert restored.get_messages("s") == said("Hello")


# -- what is lost when the model is down ---------------------------------------------------------------------


class Down:
    """A model that can be down, as a service can."""

    def __init__(self) -> None:
        self.down = True

    def __call__(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatMessage:
        if self.down:
            raise ConnectionError("the model is down")
        return ChatMessage(role="assistant", content="<facts></facts>")


async def test_nothing_is_lost_when_the_model_is_down(memos: MemOS) -> None:
    model = Down()
    llm = MockFunctionCallingLLM(response_generator=model, is_chat_model=True)
    official = short(FactExtractionMemoryBlock(llm=llm), "s")
    await official.aput_messages(said("My boat is called Petrel.", "Noted."))
    with pytest.raises(ConnectionError):
        await official.aput_messages(LONG)  # archived, but never read by the block: not now, and not later
    model.down = False
    await official.aput_messages(LONG)
    assert "Petrel" not in str(await official.aget(input="What is my boat called?"))
    ours = short(MemOSMemoryBlock(memos, user="maya"), "s")
    await ours.aput_messages(said("My boat is called Petrel.", "Noted."))
    await ours.aput_messages(LONG)
    assert "Petrel" in str((await ours.aget(input="What is my boat called?"))[0].content)


# -- what a model is sent ------------------------------------------------------------------------------------


def test_the_first_message_is_a_users(memos: MemOS) -> None:
    history = [ChatMessage(role="assistant", content="Welcome!"), *said("Hello", "Hi")]
    official = Memory.from_defaults(chat_history=history)
    ours = MemOSMemory.from_defaults(memos, chat_history=history)
    assert official.get()[0].role.value == "assistant"
    assert ours.get() == history[1:]
    assert ours.get_all() == history


def test_tool_calls_count(memos: MemOS) -> None:
    """The arguments of a call are tokens that the model reads; `Memory` counts none of them."""
    call = ToolCallBlock(tool_call_id="1", tool_name="write", tool_kwargs={"text": "word " * 500})
    turn = [
        *said("Write it"),
        ChatMessage(role="assistant", blocks=[call]),
        ChatMessage(role="tool", content="done", additional_kwargs={"tool_call_id": "1"}),
        ChatMessage(role="assistant", content="It is written."),
    ]
    last = said("Thanks", "Welcome")
    official = Memory.from_defaults(token_limit=200)
    ours = MemOSMemory.from_defaults(memos, token_limit=200)
    for memory in (official, ours):
        memory.put_messages([*turn, *last])
    assert len(official.get()) == 6
    assert ours.get() == last
