"""MemOSMemory in LlamaIndex's agent workflows, with a fake function-calling model."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.agent.workflow import AgentStream, AgentWorkflow, FunctionAgent, ReActAgent
from llama_index.core.base.llms.types import ChatMessage, MessageRole, ToolCallBlock
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index.core.workflow import Context, JsonPickleSerializer, JsonSerializer

from llama_index.memory.memos import MemOSMemory
from memos_core.memos import MemOS

ROOT = Path(__file__).parents[2]


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


class Model:
    """Calls `add` when asked to, else says how many messages it was sent; keeps what it was sent."""

    def __init__(self, *, calls: bool = True) -> None:
        self.calls = calls
        self.sent: list[list[ChatMessage]] = []

    def __call__(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatMessage:
        self.sent.append(list(messages))
        if self.calls and messages[-1].role == MessageRole.USER and "add" in str(messages[-1].content):
            call = ToolCallBlock(tool_call_id="c1", tool_name="add", tool_kwargs={"a": 2, "b": 3})
            return ChatMessage(role="assistant", blocks=[call])
        return ChatMessage(role="assistant", content=f"Thought: done\nAnswer: {len(messages)} messages")


def agent(model: Model, *, streaming: bool = True) -> FunctionAgent:
    llm = MockFunctionCallingLLM(response_generator=model, is_chat_model=True)
    return FunctionAgent(name="adder", description="adds", llm=llm, tools=[add], streaming=streaming)


def roles(memory: MemOSMemory) -> list[str]:
    return [m.role.value for m in memory.get_all()]


@pytest.mark.parametrize("streaming", [True, False])
async def test_function_agent_keeps_tool_calls_and_recalls(memos: MemOS, streaming: bool) -> None:
    memory = MemOSMemory.from_defaults(memos=memos, user="alice", session="s")
    model = Model()
    handler = agent(model, streaming=streaming).run(user_msg="I am Ann. Please add 2 and 3", memory=memory)
    deltas = [event.delta async for event in handler.stream_events() if isinstance(event, AgentStream)]
    assert "messages" in str(await handler)
    assert bool(deltas) == streaming
    assert roles(memory) == ["user", "assistant", "tool", "assistant"]
    stored = memory.get_all()
    assert stored[1].blocks[0] == ToolCallBlock(
        tool_call_id="c1", tool_name="add", tool_kwargs={"a": 2, "b": 3}
    )
    assert stored[2].content == "5"
    assert stored[2].additional_kwargs == {"tool_call_id": "c1"}
    later, model = MemOSMemory.from_defaults(memos=memos, user="alice"), Model()
    await agent(model, streaming=streaming).run(user_msg="Who am I?", memory=later)
    assert [m.content for m in model.sent[0]] == ["Relevant memories:\n- I am Ann.", "Who am I?"]
    bobs, model = MemOSMemory.from_defaults(memos=memos, user="bob"), Model()
    await agent(model, streaming=streaming).run(user_msg="Who am I?", memory=bobs)
    assert [m.content for m in model.sent[0]] == ["Who am I?"]


async def test_agent_state_is_never_written_into_the_history(memos: MemOS) -> None:
    memory = MemOSMemory.from_defaults(memos=memos, user="alice")
    stateful = agent(Model())
    stateful.initial_state = {"mood": "calm"}
    await stateful.run(user_msg="Hello", memory=memory)
    assert memory.get_all()[0].content == "Hello"


async def test_agent_workflow_and_react_agent(memos: MemOS) -> None:
    memory = MemOSMemory.from_defaults(memos=memos, user="alice", session="w")
    await AgentWorkflow(agents=[agent(Model())]).run(user_msg="add 2 and 3", memory=memory)
    assert roles(memory) == ["user", "assistant", "tool", "assistant"]
    llm = MockFunctionCallingLLM(response_generator=Model(calls=False), is_chat_model=True)
    react = ReActAgent(name="r", description="r", llm=llm, tools=[add])
    answer = await react.run(user_msg="And again", memory=memory)
    assert "messages" in str(answer)
    assert roles(memory)[4:] == ["user", "assistant"]
    given = [ChatMessage(role="user", content="before"), ChatMessage(role="assistant", content="yes")]
    await agent(Model()).run(user_msg="now", chat_history=given, memory=memory)
    assert [m.content for m in memory.get_all()][:3] == ["before", "yes", "now"]


@pytest.mark.parametrize("serializer", [JsonSerializer(), JsonPickleSerializer()])
async def test_a_context_survives_to_dict_and_from_dict(memos: MemOS, serializer: Any) -> None:
    memory = MemOSMemory.from_defaults(memos=memos, user="alice", session="s")
    workflow = agent(Model())
    context = Context(workflow)
    await workflow.run(user_msg="I am Ann.", memory=memory, ctx=context)
    stored = json.loads(json.dumps(context.to_dict(serializer=serializer)))
    model = Model()
    restored = Context.from_dict(agent(model), stored, serializer=serializer)
    await agent(model).run(user_msg="Who am I?", ctx=restored)
    assert [m.content for m in model.sent[0]][::2] == ["I am Ann.", "Who am I?"]
    assert roles(memory) == ["user", "assistant"] * 2


async def test_a_context_survives_in_another_process(memos: MemOS, tmp_path: Path) -> None:
    memory = MemOSMemory.from_defaults(memos=memos, user="alice", session="s")
    workflow = agent(Model())
    context = Context(workflow)
    await workflow.run(user_msg="I am Ann.", memory=memory, ctx=context)
    saved = tmp_path / "context.json"
    saved.write_text(json.dumps(context.to_dict(serializer=JsonSerializer())))
    code = (
        "import asyncio, json, pathlib, sys\n"
        "from llama_index.core.agent.workflow import FunctionAgent\n"
        "from llama_index.core.llms.mock import MockFunctionCallingLLM\n"
        "from llama_index.core.workflow import Context, JsonSerializer\n"
        "async def main():\n"
        "    agent = FunctionAgent(name='adder', llm=MockFunctionCallingLLM(is_chat_model=True), tools=[])\n"
        "    stored = json.loads(pathlib.Path(sys.argv[1]).read_text())\n"
        "    ctx = Context.from_dict(agent, stored, serializer=JsonSerializer())\n"
        "    await agent.run(user_msg='Who am I?', ctx=ctx)\n"
        "asyncio.run(main())\n"
    )
    subprocess.run([sys.executable, "-c", code, str(saved)], check=True, cwd=ROOT, timeout=120)
    assert [m.content for m in memory.get_all()][2] == "Who am I?"
    assert roles(memory) == ["user", "assistant"] * 2
