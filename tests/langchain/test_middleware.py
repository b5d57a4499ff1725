"""MemOSMiddleware in agents of `create_agent`, over a fake model that keeps what it was sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain.agents.structured_output import ToolStrategy
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolCall
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import tool
from langgraph.types import Command
from pydantic import BaseModel, Field

from langchain_memos import MemOSMiddleware
from langgraph.checkpoint.memos import MemOSSaver
from memos_core import MemOS
from memos_core.errors import AccessDenied, InvalidArgument


class Echo(BaseChatModel):
    """Answers "heard", after calling each tool once; keeps what it was sent. A fake: no API key is needed."""

    sent: list[list[BaseMessage]] = Field(default_factory=list)
    tools: list[Any] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "echo"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Echo:
        self.tools = list(tools)
        return self

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        self.sent.append(messages)
        calls = (
            [ToolCall(name=t.name, args={}, id="c1") for t in self.tools]
            if messages[-1].type == "human"
            else []
        )
        return ChatResult(generations=[ChatGeneration(message=AIMessage("heard", tool_calls=calls))])


@tool
def weather() -> str:
    """The weather."""
    return "sunny"


@dataclass
class Context:
    user_id: str


def config(user: str | None = "maya", thread: str = "t1") -> Any:
    return {"configurable": {"thread_id": thread} | ({"user_id": user} if user else {})}


def ask(text: str) -> Any:
    return {"messages": [HumanMessage(text)]}


def test_memories_reach_the_model_and_no_checkpoint(memos: MemOS) -> None:
    memos.scoped(user="maya").write("the boat of Maya is called Petrel")
    model, saver = Echo(), MemOSSaver(memos)
    agent = create_agent(model, [], middleware=[MemOSMiddleware(memos)], checkpointer=saver)
    state = agent.invoke(ask("what is my boat called?"), config())
    assert "Petrel" in model.sent[0][-1].text
    assert model.sent[0][-1].text.endswith("what is my boat called?")
    assert [m.text for m in state["messages"]] == ["what is my boat called?", "heard"]
    assert "Petrel" not in str([c.checkpoint for c in saver.list(config())])


async def test_the_same_async(memos: MemOS) -> None:
    memos.scoped(user="maya").write("the boat of Maya is called Petrel")
    model = Echo()
    agent = create_agent(model, [], middleware=[MemOSMiddleware(memos)])
    await agent.ainvoke(ask("what is my boat called?"), config())
    assert "Petrel" in model.sent[0][-1].text
    assert [c.text for c in memos.scoped(user="maya").find(types=["message"])] == [
        "what is my boat called?",
        "heard",
    ]


def test_a_turn_is_remembered_once_with_its_facts(memos: MemOS) -> None:
    model = Echo()
    agent = create_agent(model, [weather], middleware=[MemOSMiddleware(memos)])
    agent.invoke(ask("I own a boat. How is the weather?"), config())
    assert len(model.sent) == 2  # before and after the tool
    maya = memos.scoped(user="maya")
    assert [c.text for c in maya.find(types=["message"])] == ["I own a boat. How is the weather?", "heard"]
    assert [c.text for c in maya.find(types=["fact"])] == ["I own a boat."]
    assert maya.scoped(session="t1").conversation()
    agent.invoke(ask("what do I own?"), config(thread="t2"))
    assert "I own a boat." in model.sent[2][-1].text


def test_the_memory_of_the_turn_before_a_tool_stays_while_it_goes_on(memos: MemOS) -> None:
    memos.scoped(user="maya").write("the boat of Maya is called Petrel")
    model = Echo()
    create_agent(model, [weather], middleware=[MemOSMiddleware(memos)]).invoke(ask("my boat?"), config())
    first, second = model.sent
    assert second[: len(first)] == first


def test_one_checkpoint_more_a_turn(memos: MemOS) -> None:
    counts = []
    for n, middleware in enumerate([[], [MemOSMiddleware(memos)]]):
        saver = MemOSSaver(memos)
        agent = create_agent(Echo(), [weather], middleware=middleware, checkpointer=saver)
        agent.invoke(ask("hello"), config(thread=f"t{n}"))
        counts.append(len(list(saver.list(config(thread=f"t{n}")))))
    assert counts[1] <= counts[0] + 1


def test_users_are_apart_and_the_context_goes_before_the_config(memos: MemOS) -> None:
    memos.scoped(user="maya").write("the boat of Maya is called Petrel")
    model = Echo()
    agent = create_agent(model, [], middleware=[MemOSMiddleware(memos)], context_schema=Context)
    agent.invoke(ask("my boat?"), config(user="bob"))
    agent.invoke(ask("my boat?"), config(user=None), context=Context("maya"))
    agent.invoke(ask("my boat?"), config(user="maya"), context=Context("bob"))
    assert ["Petrel" in sent[-1].text for sent in model.sent] == [False, True, False]
    fixed = create_agent(model, [], middleware=[MemOSMiddleware(memos.scoped(user="maya"))])
    with pytest.raises(AccessDenied):
        fixed.invoke(ask("my boat?"), config(user="bob"))


def test_recalling_and_remembering_can_be_turned_off(memos: MemOS) -> None:
    maya = memos.scoped(user="maya")
    maya.write("the boat of Maya is called Petrel")
    model = Echo()
    agent = create_agent(model, [], middleware=[MemOSMiddleware(memos, k=0, remember=False)])
    agent.invoke(ask("my boat?"), config())
    assert model.sent[0][-1].text == "my boat?"
    assert maya.find(types=["message"]) == []


def test_a_question_with_a_picture_keeps_it(memos: MemOS) -> None:
    memos.scoped(user="maya").write("the boat of Maya is called Petrel")
    model = Echo()
    picture = {"type": "image", "url": "https://example.org/boat.png"}
    asked = HumanMessage([{"type": "text", "text": "my boat?"}, picture])
    create_agent(model, [], middleware=[MemOSMiddleware(memos)]).invoke({"messages": [asked]}, config())
    content = model.sent[0][-1].content
    assert "Petrel" in content[0]["text"]
    assert content[1:] == asked.content


@pytest.mark.parametrize("bad", [{"memos": "a path"}, {"k": -1}, {"k": "many"}])
def test_what_cannot_be_is_refused(memos: MemOS, bad: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match=f"^{next(iter(bad))} must be"):
        MemOSMiddleware(**({"memos": memos} | bad))


class Asking(Echo):
    """Answers with the tool that stands for a structured answer."""

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Any:
        return self

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        self.sent.append(messages)
        message = AIMessage("", tool_calls=[ToolCall(name="Answer", args={"place": "Oslo"}, id="c1")])
        return ChatResult(generations=[ChatGeneration(message=message)])


class Answer(BaseModel):
    """Where it is."""

    place: str


def test_an_answer_without_words_is_no_message(memos: MemOS) -> None:
    agent = create_agent(Asking(), middleware=[MemOSMiddleware(memos)], response_format=ToolStrategy(Answer))
    state = agent.invoke(ask("where is my boat?"), config())
    assert state["structured_response"] == Answer(place="Oslo")
    assert [c.text for c in memos.scoped(user="maya").conversation()] == ["where is my boat?"]


def test_a_turn_that_waits_for_a_person_is_remembered_when_it_ends(memos: MemOS) -> None:
    agent = create_agent(
        Echo(),
        [weather],
        middleware=[MemOSMiddleware(memos), HumanInTheLoopMiddleware({"weather": True})],
        checkpointer=MemOSSaver(memos),
    )
    agent.invoke(ask("how is the weather?"), config())
    maya = memos.scoped(user="maya")
    assert maya.conversation() == []
    agent.invoke(Command(resume={"decisions": [{"type": "approve"}]}), config())
    assert [c.text for c in maya.conversation()] == ["how is the weather?", "heard"]
