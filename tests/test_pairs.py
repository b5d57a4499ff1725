"""A memory written through one adapter is read through every other, by its user and by nobody else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langgraph.graph import START, MessagesState, StateGraph
from llama_index.core.llms import ChatMessage
from support import bag_of_words

from langchain_memos import ChatMemOS, MemOSMemory
from langgraph.checkpoint.memos import MemOSSaver
from langgraph.store.memos import MemOSStore
from llama_index.memory.memos import MemOSMemory as LlamaMemory
from mem0_memos import Memory
from memos_core.activation import LoadedModel
from memos_core.memos import MemOS

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


WRITERS: dict[str, Callable[[MemOS, str], object]] = {
    "core": lambda m, user: m.scoped(user=user).write(FACT),
    "langgraph store": lambda m, user: MemOSStore(m.scoped(user=user)).put(
        ("memories",), "boat", {"text": FACT}
    ),
    "langgraph saver and ChatMemOS": lambda m, user: _graph(m, user, FACT),
    "langchain memory": lambda m, user: MemOSMemory(memos=m, user=user, session="lc").save_context(
        {"input": FACT}, {"output": "ok"}
    ),
    "llama_index memory": lambda m, user: LlamaMemory.from_defaults(memos=m, user=user, session="li").put(
        ChatMessage(role="user", content=FACT)
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
    "llama_index memory": lambda m, user: [
        x.content for x in LlamaMemory.from_defaults(memos=m, user=user, session="new").get(QUESTION)
    ],
    "mem0": lambda m, user: [
        x["memory"] for x in Memory(m).search(QUESTION, filters={"user_id": user})["results"]
    ],
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("writer", WRITERS)
def test_written_through_one_read_through_the_other(memos: MemOS, writer: str, reader: str) -> None:
    WRITERS[writer](memos, "maya")
    assert FACT in str(READERS[reader](memos, "maya"))
    assert FACT not in str(READERS[reader](memos, "bob"))


@pytest.mark.parametrize("writer", WRITERS)
def test_it_is_one_memory_not_many(memos: MemOS, writer: str) -> None:
    WRITERS[writer](memos, "maya")
    texts = [c.text for c in memos.scoped(user="maya").find(not_types=("message", "kv"))]
    assert texts == [FACT]
