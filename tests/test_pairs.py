"""A memory written through one adapter is read through every other, by its user and by nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.graph import START, MessagesState, StateGraph
from llama_index.core.base.llms.types import ChatMessage, TextBlock, ToolCallBlock
from support import bag_of_words

from langchain_memos import (
    ChatMemOS,
    MemOSChatMessageHistory,
    MemOSMemory,
    MemOSMiddleware,
    MemOSRetriever,
    memory_tools,
)
from langgraph.checkpoint.memos import MemOSSaver
from langgraph.store.memos import MemOSStore
from llama_index.memory.memos import (
    MemOSChatStore,
    MemOSLLM,
    MemOSMemoryBlock,
    MemOSSimpleChatStore,
)
from llama_index.memory.memos import MemOSMemory as LlamaMemory
from mem0_memos import Memory
from memos_core.activation import LoadedModel
from memos_core.memos import NOT_MEMORIES, MemOS

FACT = "My boat is called Petrel."
QUESTION = "What is my boat called?"


@pytest.fixture
def memos(tmp_path: Path, loaded: LoadedModel) -> Iterator[MemOS]:
    with MemOS.open(tmp_path / "vault", model=loaded, embedder=bag_of_words) as opened:
        yield opened


def _graph(memos: MemOS, user: str, text: str) -> Any:
    """A LangGraph turn with the saver and a chat model that remembers; returns the last message."""
    model = ChatMemOS(memos=memos, max_tokens=2, remember=True)
    builder = StateGraph(MessagesState)
    builder.add_node("answer", lambda state: {"messages": [model.invoke(state["messages"])]})
    builder.add_edge(START, "answer")
    graph = builder.compile(checkpointer=MemOSSaver(memos))
    config: Any = {"configurable": {"thread_id": f"{user}-graph", "user_id": user}}
    return graph.invoke({"messages": [HumanMessage(text)]}, config)["messages"][-1]


class _Sent(GenericFakeChatModel):
    """A model that is not ours, and keeps what it was sent."""

    def _generate(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
        self.metadata = {"sent": [m.text for m in messages]}
        return super()._generate(messages, *args, **kwargs)


def _agent(memos: MemOS, user: str, text: str) -> list[str]:
    """A turn of an agent with the middleware; returns what its model was sent."""
    model = _Sent(messages=iter([AIMessage("ok")]))
    agent = create_agent(model, middleware=[MemOSMiddleware(memos)])
    agent.invoke(
        {"messages": [HumanMessage(text)]}, {"configurable": {"user_id": user, "thread_id": f"{user}-agent"}}
    )
    return (model.metadata or {})["sent"]


def _tool(memos: MemOS, user: str, name: str, **arguments: str) -> str:
    [tool] = [tool for tool in memory_tools(memos) if tool.name == name]
    return str(tool.invoke(arguments, {"configurable": {"user_id": user, "thread_id": f"{user}-tool"}}))


def _said(text: str) -> list[ChatMessage]:
    return [ChatMessage(role="user", content=text)]


WRITERS: dict[str, Callable[[MemOS, str], object]] = {
    "core": lambda m, user: m.scoped(user=user).write(FACT),
    "langgraph store": lambda m, user: MemOSStore(m.scoped(user=user)).put(
        ("memories",), "boat", {"text": FACT}
    ),
    "langgraph saver and ChatMemOS": lambda m, user: _graph(m, user, FACT),
    "langchain memory": lambda m, user: MemOSMemory(memos=m, user=user, session="lc").save_context(
        {"input": FACT}, {"output": "ok"}
    ),
    "langchain middleware": lambda m, user: _agent(m, user, FACT),
    "langchain tool": lambda m, user: _tool(m, user, "save_memory", text=FACT),
    "llama_index memory": lambda m, user: LlamaMemory.from_defaults(
        memos=m, user=user, session="li"
    ).put_messages(_said(FACT)),
    "llama_index chat store": lambda m, user: asyncio.run(
        MemOSChatStore(m, user=user).add_messages("li", _said(FACT))
    ),
    "llama_index simple chat store": lambda m, user: MemOSSimpleChatStore(m, user=user).set_messages(
        "li", _said(FACT)
    ),
    "llama_index block": lambda m, user: asyncio.run(
        MemOSMemoryBlock(m, user=user).aput(_said(FACT), session_id="li")
    ),
    "llama_index llm": lambda m, user: MemOSLLM(memos=m, user=user, max_tokens=2, remember=True).chat(
        _said(FACT)
    ),
    "mem0": lambda m, user: Memory(m).add(FACT, user_id=user, infer=False),
}


def _recalled(memos: MemOS, user: str) -> list[str]:
    reply = _graph(memos, user, QUESTION)
    return [memos.scoped(user=user).read(i).text for i in reply.response_metadata["memos"]["recalled"]]


READERS: dict[str, Callable[[MemOS, str], object]] = {
    "core": lambda m, user: [h.cube.text for h in m.scoped(user=user).search(QUESTION)],
    "langgraph store": lambda m, user: [
        i.value for i in MemOSStore(m.scoped(user=user)).search((), query=QUESTION)
    ],
    "langgraph saver and ChatMemOS": _recalled,
    "langchain memory": lambda m, user: MemOSMemory(memos=m, user=user, session="new").load_memory_variables(
        {"input": QUESTION}
    ),
    "langchain middleware": lambda m, user: _agent(m, user, QUESTION),
    "langchain tool": lambda m, user: _tool(m, user, "search_memory", query=QUESTION),
    "langchain retriever": lambda m, user: MemOSRetriever(memos=m.scoped(user=user)).invoke(QUESTION),
    "llama_index memory": lambda m, user: [
        x.content for x in LlamaMemory.from_defaults(memos=m, user=user, session="new").get(QUESTION)
    ],
    "llama_index block": lambda m, user: asyncio.run(
        MemOSMemoryBlock(m, user=user).aget(_said(QUESTION), session_id="new")
    ),
    "mem0": lambda m, user: [
        x["memory"] for x in Memory(m).search(QUESTION, filters={"user_id": user})["results"]
    ],
}


# One framework's own doors are each paired with themselves and with every other framework's.
PAIRS = [
    (writer, reader)
    for writer in WRITERS
    for reader in READERS
    if writer == reader
    or not any(writer.startswith(name) and reader.startswith(name) for name in ("langchain", "llama_index"))
]


@pytest.mark.parametrize(("writer", "reader"), PAIRS)
def test_written_through_one_read_through_the_other(memos: MemOS, writer: str, reader: str) -> None:
    WRITERS[writer](memos, "maya")
    assert FACT in str(READERS[reader](memos, "maya"))
    assert FACT not in str(READERS[reader](memos, "bob"))


@pytest.mark.parametrize("writer", WRITERS)
def test_it_is_one_memory_not_many(memos: MemOS, writer: str) -> None:
    WRITERS[writer](memos, "maya")
    texts = [c.text for c in memos.scoped(user="maya").find(not_types=NOT_MEMORIES)]
    assert texts == [FACT]


@pytest.mark.parametrize("reader", READERS)
def test_every_read_reaches_the_scheduler(memos: MemOS, reader: str) -> None:
    maya = memos.scoped(user="maya")
    cube = maya.write(FACT)
    READERS[reader](memos, "maya")
    maya.turn_finished()  # counted reads are noted down between turns
    memos.scheduler.wait_idle()
    assert maya.read(cube.id).header.behaviour.reads > 0


TURNS = [w for w in WRITERS if w not in ("core", "langgraph store", "langchain tool")]


@pytest.mark.parametrize("writer", TURNS)
def test_every_finished_turn_reaches_the_scheduler(memos: MemOS, writer: str) -> None:
    WRITERS[writer](memos, "maya")
    memos.scheduler.wait_idle()
    assert "plan" in {decision.action for decision in memos.scoped(user="maya").explain()}


CALL = {"name": "boat", "args": {"of": "maya"}, "id": "call_1"}


def test_tool_calls_of_langchain_are_whole_in_llama_index(memos: MemOS) -> None:
    history = MemOSChatMessageHistory("s", memos=memos, user="maya")
    history.add_messages(
        [
            HumanMessage(QUESTION),
            AIMessage("Let me see.", tool_calls=[{**CALL, "type": "tool_call"}]),
            ToolMessage("Petrel", tool_call_id="call_1", name="boat"),
            AIMessage("Petrel."),
        ]
    )
    asked, call, answer, said = LlamaMemory.from_defaults(memos, user="maya", session="s").get_all()
    assert [m.role.value for m in (asked, call, answer, said)] == ["user", "assistant", "tool", "assistant"]
    assert call.content == "Let me see."
    [block] = [b for b in call.blocks if b.block_type == "tool_call"]
    assert (block.tool_call_id, block.tool_name, block.tool_kwargs) == ("call_1", "boat", {"of": "maya"})
    assert answer.additional_kwargs == {"tool_call_id": "call_1", "name": "boat"}
    assert answer.content == "Petrel"


@pytest.mark.parametrize("form", ["blocks", "additional_kwargs"])
def test_tool_calls_of_llama_index_are_whole_in_langchain(memos: MemOS, form: str) -> None:
    block = ToolCallBlock(tool_call_id="call_1", tool_name="boat", tool_kwargs={"of": "maya"})
    function = {"name": "boat", "arguments": '{"of": "maya"}'}
    call = (
        ChatMessage(role="assistant", blocks=[TextBlock(text="Let me see."), block])
        if form == "blocks"
        else ChatMessage(
            role="assistant",
            content="Let me see.",
            additional_kwargs={"tool_calls": [{"id": "call_1", "type": "function", "function": function}]},
        )
    )
    answer = ChatMessage(role="tool", content="Petrel", additional_kwargs={"tool_call_id": "call_1"})
    memory = LlamaMemory.from_defaults(memos, user="maya", session="s")
    memory.put_messages([ChatMessage(role="user", content=QUESTION), call, answer])
    _, called, answered = MemOSChatMessageHistory("s", memos=memos, user="maya").messages
    assert isinstance(called, AIMessage)
    assert called.content == "Let me see."
    assert [{k: c[k] for k in CALL} for c in called.tool_calls] == [CALL]  # type: ignore[literal-required]
    assert isinstance(answered, ToolMessage)
    assert (answered.tool_call_id, answered.content) == ("call_1", "Petrel")


def test_sessions_of_no_user_do_not_leak_whatever_the_adapter(memos: MemOS) -> None:
    """People swap the class and leave the user out: then nobody's words stand in another's conversation."""
    secret = "My boat is called Petrel."
    model = GenericFakeChatModel(
        messages=iter([AIMessage("Noted."), AIMessage("No idea."), AIMessage("None.")])
    )
    agent = create_agent(model, middleware=[MemOSMiddleware(memos)])
    thread: dict[str, Any] = {"configurable": {"thread_id": "hers"}}
    agent.invoke({"messages": [HumanMessage(secret)]}, thread)
    LlamaMemory.from_defaults(memos, session_id="hers too").put(ChatMessage(role="user", content=secret))
    block = MemOSMemoryBlock(memos)
    asyncio.run(block.aput([ChatMessage(role="user", content=secret)], True, session_id="hers four"))
    MemOSMemory(memos=memos, session="hers three").save_context({"input": secret}, {"output": "Noted."})
    told = [
        LlamaMemory.from_defaults(memos, session_id="his").get(QUESTION),
        MemOSMemory(memos=memos, session="his").load_memory_variables({"input": QUESTION}),
        asyncio.run(
            MemOSMemoryBlock(memos, session="his").aget([ChatMessage(role="user", content=QUESTION)])
        ),
        asyncio.run(
            MemOSMemoryBlock(memos).aget([ChatMessage(role="user", content=QUESTION)], session_id="his")
        ),
        asyncio.run(MemOSMemoryBlock(memos).aget([ChatMessage(role="user", content=QUESTION)])),
        MemOSRetriever(memos=memos).invoke(QUESTION),
        create_agent(model, middleware=[MemOSMiddleware(memos)]).invoke(
            {"messages": [HumanMessage(QUESTION)]}
        ),
        agent.invoke({"messages": [HumanMessage(QUESTION)]}, {"configurable": {"thread_id": "his"}}),
        memos.scoped(session="his").prompt([{"role": "user", "content": QUESTION}]),
    ]
    assert "Petrel" not in str(told)
    assert "Petrel" in str(LlamaMemory.from_defaults(memos, session_id="hers too").get(QUESTION))
