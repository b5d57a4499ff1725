"""langmem's tools on our store: alone, and in an agent of LangChain's."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langmem import create_manage_memory_tool, create_search_memory_tool
from pydantic import BaseModel
from support import bag_of_words

from langgraph.store.memos import AsyncMemOSStore, MemOSStore
from memos_core import MemOS

PLACE = ("memories", "{langgraph_user_id}")
ADA = {"configurable": {"langgraph_user_id": "ada"}}
BOB = {"configurable": {"langgraph_user_id": "bob"}}
ID = re.compile(r"[0-9a-f-]{36}")


@pytest.fixture(params=[MemOSStore, AsyncMemOSStore])
def store(request: pytest.FixtureRequest, vault_url: str) -> Iterator[MemOSStore]:
    with MemOS.open(vault_url, embedder=bag_of_words, index="exact") as memos:
        yield request.param(memos)


def content(found: str) -> list[Any]:
    """What the search tool returned."""
    return [item["value"]["content"] for item in json.loads(found)]


def test_the_tools_alone(store: MemOSStore) -> None:
    manage = create_manage_memory_tool(PLACE, store=store)
    search = create_search_memory_tool(PLACE, store=store)
    said = manage.invoke({"content": "Ada drinks green tea", "action": "create"}, config=ADA)
    manage.invoke({"content": "Ada lives in Oslo", "action": "create"}, config=ADA)
    [id_] = ID.findall(said)
    assert content(search.invoke({"query": "green tea"}, config=ADA))[0] == "Ada drinks green tea"
    assert content(search.invoke({"query": "green tea"}, config=BOB)) == []
    manage.invoke({"content": "Ada drinks black coffee", "action": "update", "id": id_}, config=ADA)
    assert content(search.invoke({"query": "black coffee"}, config=ADA))[0] == "Ada drinks black coffee"
    manage.invoke({"action": "delete", "id": id_}, config=ADA)
    assert content(search.invoke({"query": "coffee", "limit": 5}, config=ADA)) == ["Ada lives in Oslo"]
    assert [item.key for item in store.search(("memories", "ada"))] != [id_]


async def test_the_tools_alone_async(store: MemOSStore) -> None:
    manage = create_manage_memory_tool(PLACE, store=store)
    search = create_search_memory_tool(PLACE, store=store)
    said = await manage.ainvoke({"content": "Ada drinks green tea", "action": "create"}, config=ADA)
    assert content(await search.ainvoke({"query": "tea"}, config=ADA)) == ["Ada drinks green tea"]
    await manage.ainvoke({"action": "delete", "id": ID.findall(said)[0]}, config=ADA)
    assert content(await search.ainvoke({"query": "tea"}, config=ADA)) == []


def test_memories_with_a_schema(store: MemOSStore) -> None:
    class Profile(BaseModel):
        name: str
        age: int | None = None

    manage = create_manage_memory_tool(PLACE, store=store, schema=Profile)
    manage.invoke({"content": {"name": "Ada", "age": 36}, "action": "create"}, config=ADA)
    [item] = store.search(("memories", "ada"), filter={"content": {"name": "Ada"}})
    assert item.value == {"content": {"name": "Ada", "age": 36}}


class Scripted(BaseChatModel):
    """A chat model whose replies are functions of the conversation."""

    script: list[Any]

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Sequence[Any], **how: Any) -> Any:
        assert {tool.name for tool in tools} == {"manage_memory", "search_memory"}
        return self

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **how: Any
    ) -> ChatResult:
        reply: Callable[[list[BaseMessage]], AIMessage] = self.script.pop(0)
        return ChatResult(generations=[ChatGeneration(message=reply(messages))])


def calls(tool: str, **arguments: Any) -> Callable[[list[BaseMessage]], AIMessage]:
    """The reply that calls a tool."""
    return lambda messages: AIMessage(
        "", tool_calls=[{"name": tool, "args": arguments, "id": f"call{len(messages)}"}]
    )


def repeats_the_tool(messages: list[BaseMessage]) -> AIMessage:
    """The reply that says what the tool said."""
    assert isinstance(messages[-1], ToolMessage)
    return AIMessage(str(messages[-1].content))


def script() -> list[Any]:
    return [
        calls("manage_memory", content="Ada drinks green tea", action="create"),
        repeats_the_tool,
        calls("search_memory", query="what does Ada drink?"),
        repeats_the_tool,
    ]


def agent_with(store: MemOSStore) -> Any:
    tools = [create_manage_memory_tool(PLACE), create_search_memory_tool(PLACE)]
    return create_agent(Scripted(script=script()), tools, store=store)


def test_an_agent_remembers_from_one_conversation_to_the_next(store: MemOSStore) -> None:
    agent = agent_with(store)
    said = agent.invoke({"messages": [HumanMessage("I drink green tea")]}, config=ADA)["messages"][-1].content
    assert said.startswith("created memory")
    found = agent.invoke({"messages": [HumanMessage("what do I drink?")]}, config=ADA)["messages"][-1].content
    assert content(found) == ["Ada drinks green tea"]
    assert store.memos.search("green tea")[0].cube.namespace == ("memories", "ada")


async def test_an_agent_remembers_async(store: MemOSStore) -> None:
    agent = agent_with(store)
    await agent.ainvoke({"messages": [HumanMessage("I drink green tea")]}, config=ADA)
    found = await agent.ainvoke({"messages": [HumanMessage("what do I drink?")]}, config=ADA)
    assert content(found["messages"][-1].content) == ["Ada drinks green tea"]
