"""The memory tools: LangChain's own suites, agents that use them, and what a model's arguments cannot do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_classic.agents import AgentExecutor
from langchain_core.agents import AgentActionMessageLog, AgentFinish
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolCall, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import BaseTool
from langchain_tests.integration_tests import ToolsIntegrationTests
from langchain_tests.unit_tests import ToolsUnitTests
from pydantic import Field

from langchain_memos import memory_tools
from memos_core import MemOS
from memos_core.cube import now
from memos_core.errors import AccessDenied, InvalidArgument

BOAT = "The boat is called Petrel."
NAMES = ["search_memory", "save_memory", "update_memory", "forget_memory"]
MAYA: Any = {"configurable": {"user_id": "maya", "thread_id": "t1"}}


def tools(memos: MemOS) -> dict[str, BaseTool]:
    return {tool.name: tool for tool in memory_tools(memos)}


def short(cube: Any) -> str:
    return str(cube.id[-8:])


class _Suite:
    """What langchain-tests asks of every tool."""

    @pytest.fixture(autouse=True)
    def _tool(self, memos: MemOS, which: str) -> None:
        cube = memos.write(BOAT)
        self.made = tools(memos)[which]
        self.example = {
            "search_memory": {"query": "boat"},
            "save_memory": {"text": BOAT},
            "update_memory": {"memory_id": short(cube), "text": "The boat is sold."},
            "forget_memory": {"memory_id": short(cube)},
        }[which]

    @property
    def tool_constructor(self) -> BaseTool:
        return self.made

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return self.example


@pytest.mark.parametrize("which", NAMES)
class TestUnit(_Suite, ToolsUnitTests):
    pass


@pytest.mark.parametrize("which", NAMES)
class TestIntegration(_Suite, ToolsIntegrationTests):
    pass


class Scripted(BaseChatModel):
    """Calls the tools it was given as it is told, one after the other, then answers "Done."."""

    calls: list[dict[str, Any]]
    sent: list[list[BaseMessage]] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Any:
        return self

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        self.sent.append(messages)
        done = sum(isinstance(message, ToolMessage) for message in messages)
        calls = [ToolCall(**call, id=f"c{done}") for call in self.calls[done : done + 1]]
        message = AIMessage("" if calls else "Done.", tool_calls=calls)
        return ChatResult(generations=[ChatGeneration(message=message)])


def run(memos: MemOS, config: Any, *calls: dict[str, Any], **how: Any) -> list[ToolMessage]:
    agent = create_agent(Scripted(calls=list(calls)), memory_tools(memos))
    state = agent.invoke({"messages": [HumanMessage("Go on.")]}, config, **how)
    return [message for message in state["messages"] if isinstance(message, ToolMessage)]


def call(name: str, **args: Any) -> dict[str, Any]:
    return {"name": name, "args": args}


def test_an_agent_saves_finds_corrects_and_forgets(memos: MemOS) -> None:
    maya = memos.scoped(user="maya")
    [saved] = run(memos, MAYA, call("save_memory", text=BOAT))
    [cube] = maya.find()
    assert saved.content == f"Saved [{short(cube)}] {BOAT}"
    assert (cube.scope.session, cube.header.descriptive.origin) == ("t1", "tool")
    elsewhere: Any = {"configurable": {"user_id": "maya", "thread_id": "t2"}}
    found, updated, again, forgotten, nothing = run(
        memos,
        elsewhere,
        call("search_memory", query="the boat"),
        call("update_memory", memory_id=f"[{short(cube)}]", text="The boat is called Skua."),
        call("search_memory", query="the boat", limit=1),
        call("forget_memory", memory_id=cube.id),
        call("search_memory", query="the boat"),
    )
    assert found.content == f"[{short(cube)}] {BOAT}"
    assert updated.content == f"Updated [{short(cube)}] The boat is called Skua."
    assert again.content == f"[{short(cube)}] The boat is called Skua."
    assert forgotten.content == f"Forgotten [{short(cube)}] The boat is called Skua."
    assert nothing.content == "Nothing is remembered about that."
    assert maya.find() == []
    assert {r.adapter for r in maya.audit_log(cube_id=cube.id)} == {"langchain"}


async def test_the_tools_in_an_async_agent(memos: MemOS) -> None:
    agent = create_agent(Scripted(calls=[call("save_memory", text=BOAT)]), memory_tools(memos))
    await agent.ainvoke({"messages": [HumanMessage("Go on.")]}, MAYA)
    assert [c.text for c in memos.scoped(user="maya", session="t1").find()] == [BOAT]


@pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainDeprecationWarning")
def test_the_tools_in_an_agent_executor(memos: MemOS) -> None:
    def plan(inputs: dict[str, Any]) -> Any:
        if inputs["intermediate_steps"]:
            return AgentFinish({"output": "Done."}, "")
        return AgentActionMessageLog(
            tool="save_memory", tool_input={"text": BOAT}, log="", message_log=[AIMessage("")]
        )

    view = memos.scoped(user="maya", session="t1")  # it hands no config to its tools
    executor = AgentExecutor(agent=RunnableLambda(plan), tools=memory_tools(view))
    executor.invoke({"input": "Go on."})
    assert [c.text for c in view.find()] == [BOAT]


@dataclass
class Context:
    user_id: str


def test_the_scope_comes_from_the_context_or_the_config(memos: MemOS) -> None:
    memos.scoped(user="maya").write(BOAT)
    asked = call("search_memory", query="boat")
    agent = create_agent(Scripted(calls=[asked]), memory_tools(memos), context_schema=Context)
    state = agent.invoke({"messages": [HumanMessage("?")]}, context=Context("maya"))
    assert BOAT in state["messages"][2].content
    [other] = run(memos, {"configurable": {"user_id": "bob"}}, asked)
    assert other.content == "Nothing is remembered about that."
    with pytest.raises(AccessDenied, match="bob"):  # the application's mistake, not the model's
        run(memos.scoped(user="maya"), {"configurable": {"user_id": "bob"}}, asked)


@pytest.mark.parametrize(
    "named",
    [
        {"user_id": "bob"},
        {"user": "bob"},
        {"userId": "bob"},
        {"user_id": ["maya", "bob"]},
        {"user_id": "*"},
        {"tenant": "other"},
        {"thread_id": "t2"},
        {"agent-id": "x"},
    ],
)
def test_arguments_that_name_somebody_else_are_refused_and_audited(
    memos: MemOS, named: dict[str, Any]
) -> None:
    secret = memos.scoped(user="bob").write("Bob's boat is called Rex.")
    messages = run(
        memos,
        MAYA,
        call("search_memory", query="boat", **named),
        call("save_memory", text="Bob likes maths.", **named),
        call("update_memory", memory_id=secret.id, text="Bob has no boat.", **named),
        call("forget_memory", memory_id=secret.id, **named),
    )
    maya, bob = memos.scoped(user="maya"), memos.scoped(user="bob")
    assert all(m.status == "error" and "Refused" in str(m.content) for m in messages)
    assert not any("Rex" in str(m.content) for m in messages)
    assert [c.text for c in bob.find()] == ["Bob's boat is called Rex."]
    assert maya.find() == []
    refused = maya.audit_log(action="refuse", newest_first=False)
    assert [r.detail.partition(":")[0] for r in refused] == [m.name for m in messages]
    assert all(next(iter(named)) in r.detail and r.adapter == "langchain" for r in refused)
    assert maya.verify_audit_log() == []
    assert bob.audit_log(action="refuse") == []


def test_arguments_that_name_the_user_itself_are_no_harm(memos: MemOS) -> None:
    [saved] = run(memos, MAYA, call("save_memory", text=BOAT, user_id="maya", thread_id="t1", colour="red"))
    assert saved.status == "success"
    assert memos.scoped(user="maya").audit_log(action="refuse") == []


def test_another_users_memory_can_be_neither_changed_nor_forgotten_by_its_id(memos: MemOS) -> None:
    bob, maya = memos.scoped(user="bob"), memos.scoped(user="maya")
    secret, lent = bob.write("Bob's boat is called Rex."), bob.write("Bob's hut is open to all.")
    bob.grant(lent.id, "user:maya")
    told = maya.remember([{"role": "user", "content": "hello"}])[0]
    for cube in (secret, lent, told):
        changed, gone = run(
            memos,
            MAYA,
            call("update_memory", memory_id=short(cube), text="mine now"),
            call("forget_memory", memory_id=cube.id),
        )
        assert (changed.status, gone.status) == ("error", "error")
    assert {c.text for c in bob.find()} == {"Bob's boat is called Rex.", "Bob's hut is open to all."}
    assert [c.text for c in maya.conversation()] == ["hello"]
    assert len(maya.audit_log(action="refuse")) == 6


def test_what_a_model_gets_wrong_is_told_to_it(memos: MemOS) -> None:
    maya = memos.scoped(user="maya")
    maya.write(BOAT)
    messages = run(
        memos,
        MAYA,
        call("save_memory", text=" "),
        call("search_memory", query="boat", limit=1000),
        call("forget_memory", memory_id="%"),
        call("forget_memory"),
    )
    assert [m.status for m in messages] == ["error"] * 4
    assert "content must not be empty" in str(messages[0].content)
    assert [c.text for c in maya.find()] == [BOAT]


def test_schemas_have_no_place_for_a_user(memos: MemOS) -> None:
    fields = {name: set(tool.args) for name, tool in tools(memos).items()}
    assert fields == {
        "search_memory": {"query", "limit"},
        "save_memory": {"text"},
        "update_memory": {"memory_id", "text"},
        "forget_memory": {"memory_id"},
    }
    with pytest.raises(InvalidArgument, match=r"^memos must be"):
        memory_tools("a path")  # type: ignore[arg-type]


def test_a_correction_keeps_an_end_that_is_ahead(memos: MemOS) -> None:
    maya, soon = memos.scoped(user="maya"), now() + timedelta(days=2)
    meeting = maya.write("The meeting is on Friday at three.", valid_to=soon)
    tools(memos)["update_memory"].invoke(
        {"memory_id": short(meeting), "text": "The meeting is on Friday at four."}, MAYA
    )
    changed = maya.read(meeting.id)
    assert (changed.text, changed.payload.valid_from) == ("The meeting is on Friday at four.", None)
    assert changed.payload.valid_to == soon
