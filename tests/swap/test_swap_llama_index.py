"""Small LlamaIndex programs, each run with LlamaIndex's own memory and then with only the import and the constructor
changed. What they show to their user must be the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest
from llama_blocks import Words, vector_block
from llama_index.core.agent.workflow import (
    AgentStream,
    AgentWorkflow,
    FunctionAgent,
    ReActAgent,
    ToolCallResult,
)
from llama_index.core.base.llms.types import ChatMessage, MessageRole, ToolCallBlock
from llama_index.core.chat_engine import (
    CondensePlusContextChatEngine,
    CondenseQuestionChatEngine,
    ContextChatEngine,
    SimpleChatEngine,
)
from llama_index.core.indices.vector_store import VectorStoreIndex
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index.core.memory import (
    ChatMemoryBuffer,
    ChatSummaryMemoryBuffer,
    FactExtractionMemoryBlock,
    Memory,
)
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import TextNode
from llama_index.core.storage.chat_store import SimpleChatStore
from llama_index.core.storage.chat_store.sql import SQLAlchemyChatStore
from llama_index.core.workflow import Context

from llama_index.memory.memos import (
    MemOSChatStore,
    MemOSMemory,
    MemOSMemoryBlock,
    MemOSSimpleChatStore,
)
from memos_core import MemOS


def told(messages: Sequence[ChatMessage], **kwargs: Any) -> ChatMessage:
    """Says what it was told: what memory put into the prompt is seen. Calls a tool where one is asked for."""
    if messages[-1].role == MessageRole.USER and "add" in str(messages[-1].content):
        call = ToolCallBlock(tool_call_id="c1", tool_name="add", tool_kwargs={"a": 2, "b": 3})
        return ChatMessage(role="assistant", blocks=[call])
    shown = " | ".join(f"{m.role.value}: {m.content}" for m in messages)
    return ChatMessage(role="assistant", content=f"<{len(messages)} messages, {len(shown)} characters>")


def react(messages: Sequence[ChatMessage], **kwargs: Any) -> ChatMessage:
    """The same for an agent that asks in words."""
    if str(messages[-1].content).startswith("Observation"):
        return ChatMessage(role="assistant", content=f"Thought: done.\nAnswer: {messages[-1].content}.")
    if "add" in str(messages[-1].content):
        action = 'Thought: I must add.\nAction: add\nAction Input: {"a": 2, "b": 3}'
        return ChatMessage(role="assistant", content=action)
    users = [m.content for m in messages if m.role == MessageRole.USER]
    return ChatMessage(role="assistant", content=f"Thought: done.\nAnswer: {users}")


def facts(messages: Sequence[ChatMessage], **kwargs: Any) -> ChatMessage:
    """Answers the prompt of LlamaIndex's fact extraction."""
    known = "My boat is called Petrel" in str([m.content for m in messages[:-1]])
    found = "<fact>My boat is called Petrel.</fact>" if known else ""
    return ChatMessage(role="assistant", content=f"<facts>{found}</facts>")


def llm(says: Callable[..., ChatMessage] = told) -> MockFunctionCallingLLM:
    return MockFunctionCallingLLM(response_generator=says, is_chat_model=True)


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def library() -> VectorStoreIndex:
    texts = ["Boats need a mooring.", "Bees need flowers."]
    return VectorStoreIndex([TextNode(id_=text[:4], text=text) for text in texts], embed_model=Words())


def shown(messages: Sequence[ChatMessage]) -> list[tuple[str, str | None]]:
    return [(m.role.value, m.content) for m in messages]


# -- the programs --------------------------------------------------------------------------------------------


def a_chatbot(memory: Any) -> Any:
    chat = SimpleChatEngine.from_defaults(llm=llm(), memory=memory, system_prompt="Be kind.")
    answers = [str(chat.chat(text)) for text in ("Hello", "How are you?")]
    history = shown(chat.chat_history)
    chat.reset()
    return answers, history, str(chat.chat("Anew")), shown(chat.chat_history)


async def a_streaming_chatbot(memory: Any) -> Any:
    chat = SimpleChatEngine.from_defaults(llm=llm(), memory=memory)
    first = "".join(chat.stream_chat("Hello").response_gen)
    streamed = await chat.astream_chat("And now?")
    second = "".join([token async for token in streamed.async_response_gen()])
    return first, second, shown(chat.chat_history)


async def a_chat_over_documents(memory: Any) -> Any:
    retriever = library().as_retriever(similarity_top_k=1)
    chat = ContextChatEngine.from_defaults(retriever=retriever, llm=llm(), memory=memory)
    first = chat.chat("What do boats need?")
    second = await chat.achat("And what do bees need?")
    found = [node.get_content() for answer in (first, second) for node in answer.source_nodes]
    return str(first), str(second), found, shown(chat.chat_history)


def a_chat_that_condenses(memory: Any) -> Any:
    retriever = library().as_retriever(similarity_top_k=1)
    chat = CondensePlusContextChatEngine.from_defaults(retriever=retriever, llm=llm(), memory=memory)
    answers = [chat.chat("What do boats need?"), chat.chat("Where?")]
    return [(str(a), a.sources[0].raw_input) for a in answers], shown(chat.chat_history)


def a_query_engine_in_a_chat(memory: Any) -> Any:
    engine = RetrieverQueryEngine.from_args(library().as_retriever(similarity_top_k=1), llm=llm())
    chat = CondenseQuestionChatEngine.from_defaults(query_engine=engine, llm=llm(), memory=memory)
    return [str(chat.chat(text)) for text in ("What do boats need?", "Why?")], shown(chat.chat_history)


async def an_agent_with_tools(memory: Any) -> Any:
    agent = FunctionAgent(
        name="adder", description="Adds.", llm=llm(), tools=[add], system_prompt="Be brief."
    )
    answers = [
        str(await agent.run(user_msg=text, memory=memory)) for text in ("Please add 2 and 3", "Thanks")
    ]
    return answers, shown(memory.get_all()), [m.role.value for m in memory.get()]


async def an_agent_with_a_context(memory: Any) -> Any:
    agent = FunctionAgent(name="adder", description="Adds.", llm=llm(), tools=[add])
    context = Context(agent)
    handler = agent.run(user_msg="Please add 2 and 3", memory=memory, ctx=context)
    events = [event async for event in handler.stream_events()]
    first = str(await handler)
    second = str(await agent.run(user_msg="And now?", memory=memory, ctx=context))
    results = [str(event.tool_output) for event in events if isinstance(event, ToolCallResult)]
    deltas = "".join(event.delta for event in events if isinstance(event, AgentStream))
    return first, second, results, deltas


async def an_agent_that_reasons(memory: Any) -> Any:
    agent = ReActAgent(name="adder", description="Adds.", llm=llm(react), tools=[add])
    answers = [
        str(await agent.run(user_msg=text, memory=memory)) for text in ("Please add 2 and 3", "Thanks")
    ]
    return answers, shown(await memory.aget_all())


async def a_workflow_of_agents(memory: Any) -> Any:
    def plan(messages: Sequence[ChatMessage], **kwargs: Any) -> ChatMessage:
        if messages[-1].role == MessageRole.USER and "add" in str(messages[-1].content):
            call = ToolCallBlock(
                tool_call_id="h1", tool_name="handoff", tool_kwargs={"to_agent": "adder", "reason": "sums"}
            )
            return ChatMessage(role="assistant", blocks=[call])
        return told(messages)

    planner = FunctionAgent(name="planner", description="Plans.", llm=llm(plan), can_handoff_to=["adder"])
    adder = FunctionAgent(name="adder", description="Adds.", llm=llm(), tools=[add])
    workflow = AgentWorkflow(agents=[planner, adder], root_agent="planner")
    result = await workflow.run(user_msg="Please add 2 and 3", memory=memory)
    return str(result), result.current_agent_name, shown(memory.get_all())


async def history_by_hand(memory: Any) -> Any:
    memory.put(ChatMessage(role="user", content="Hello"))
    await memory.aput_messages(
        [ChatMessage(role="assistant", content="Hi"), ChatMessage(role="user", content="?")]
    )
    before = memory.get(), memory.get(input="?"), memory.get_all(), await memory.aget()
    await memory.aset(before[0][:2])
    after = memory.get_all()
    memory.reset()
    return before, after, memory.get(), await memory.aget_all(), bool(memory)


def a_short_buffer(memory: Any) -> Any:
    chat = SimpleChatEngine.from_defaults(llm=llm(), memory=memory)
    answers = [str(chat.chat(f"Question {n}")) for n in range(5)]
    return answers, shown(memory.get()), len(memory.get_all())


async def conversations_of_many(store: Any) -> Any:
    answers = []
    for session in ("one", "two", "one"):
        memory = Memory.from_defaults(session_id=session, chat_store=store)
        chat = SimpleChatEngine.from_defaults(llm=llm(), memory=memory)
        answers.append(str(await chat.achat("Hello")))
    return answers, sorted(await store.get_keys()), shown(await store.get_messages("one"))


async def a_queue_that_overflows(store: Any) -> Any:
    memory = Memory.from_defaults(
        session_id="s", chat_store=store, token_limit=60, chat_history_token_ratio=0.5, token_flush_size=5
    )
    chat = SimpleChatEngine.from_defaults(llm=llm(), memory=memory)
    answers = [str(await chat.achat(f"Question {n}")) for n in range(4)]
    return answers, shown(await memory.aget()), shown(await memory.aget_all())


def buffers_over_one_store(store: Any) -> Any:
    buffer = ChatMemoryBuffer.from_defaults(token_limit=40, chat_store=store, chat_store_key="one")
    summary = ChatSummaryMemoryBuffer.from_defaults(
        llm=llm(), token_limit=20, chat_store=store, chat_store_key="two"
    )
    answers = []
    for memory in (buffer, summary):
        chat = SimpleChatEngine.from_defaults(llm=llm(), memory=memory)
        answers += [str(chat.chat(f"Question {n}")) for n in range(3)]
    store.delete_last_message("one")
    return (
        answers,
        sorted(store.get_keys()),
        shown(store.get_messages("one")),
        shown(store.get_messages("two")),
    )


async def what_left_the_window(block: Any) -> Any:
    memory = Memory.from_defaults(
        session_id="s",
        memory_blocks=[block],
        token_limit=60,
        chat_history_token_ratio=0.4,
        token_flush_size=5,
    )
    for text in (
        "My boat is called Petrel.",
        "Let us talk about the weather for a while.",
        "How nice it is.",
    ):
        answer = ChatMessage(role="assistant", content="It is sunny and warm today, as it was.")
        await memory.aput_messages([ChatMessage(role="user", content=text), answer])
    prompt = await memory.aget(input="What is my boat called?")
    assert "Petrel" in str(prompt[0].content)
    return shown(prompt[1:]), shown(await memory.aget_all())


# -- what is swapped -----------------------------------------------------------------------------------------


class Swap(NamedTuple):
    """A program, and what it is given before and after."""

    program: Callable[[Any], Any]
    before: Callable[[], Any]
    after: Callable[[MemOS], Any]


def _memory(memos: MemOS) -> MemOSMemory:
    return MemOSMemory.from_defaults(memos=memos, session_id="s")


SWAPS = [
    *(
        Swap(program, lambda: Memory.from_defaults(session_id="s"), _memory)
        for program in (
            a_chatbot,
            a_streaming_chatbot,
            a_chat_over_documents,
            a_chat_that_condenses,
            a_query_engine_in_a_chat,
            an_agent_with_tools,
            an_agent_with_a_context,
            an_agent_that_reasons,
            a_workflow_of_agents,
            history_by_hand,
        )
    ),
    Swap(
        a_short_buffer,
        lambda: ChatMemoryBuffer.from_defaults(token_limit=40),
        lambda memos: MemOSMemory.from_defaults(memos=memos, token_limit=40),
    ),
    *(
        Swap(program, lambda: SQLAlchemyChatStore(table_name="chats"), MemOSChatStore)
        for program in (conversations_of_many, a_queue_that_overflows)
    ),
    Swap(buffers_over_one_store, SimpleChatStore, MemOSSimpleChatStore),
    *(
        Swap(what_left_the_window, before, MemOSMemoryBlock)
        for before in (vector_block, lambda: FactExtractionMemoryBlock(llm=llm(facts)))
    ),
]


@pytest.mark.parametrize("swap", SWAPS, ids=lambda swap: swap.program.__name__)
async def test_a_program_does_the_same_after_the_swap(memos: MemOS, swap: Swap) -> None:
    results = []
    for given in (swap.before(), swap.after(memos.scoped(user="maya"))):
        result = swap.program(given)
        results.append(await result if hasattr(result, "__await__") else result)
    before, after = results
    assert after == before


async def test_what_the_swap_is_for(memos: MemOS) -> None:
    """Another conversation of the same user knows what was said, which `Memory` does not."""
    first, second, other = (MemOSMemory.from_defaults(memos=memos, user=u) for u in ("maya", "maya", "bob"))
    SimpleChatEngine.from_defaults(llm=llm(), memory=first).chat("My boat is called Petrel.")
    assert "Petrel" in str(second.get("What is my boat called?"))
    assert "Petrel" not in str(other.get("What is my boat called?"))
