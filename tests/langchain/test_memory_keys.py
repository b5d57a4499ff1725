"""MemOSMemory with every combination of keys and prompts, beside ConversationBufferMemory in the same chains."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from langchain_classic.agents import AgentExecutor
from langchain_classic.chains import ConversationChain, LLMChain
from langchain_classic.memory import CombinedMemory, ConversationBufferMemory
from langchain_core.agents import AgentAction, AgentFinish
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage, SystemMessage
from langchain_core.messages.utils import count_tokens_approximately
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder, PromptTemplate
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool

from langchain_memos import MemOSMemory
from memos_core import MemOS
from memos_core.errors import InvalidArgument

pytestmark = pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainDeprecationWarning")


class Recording(GenericFakeChatModel):
    """A fake chat model that keeps what it was sent."""

    sent: list[list[BaseMessage]] = []  # noqa: RUF012 - a field of a pydantic model

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> Any:
        self.sent.append(messages)
        return super()._generate(messages, *args, **kwargs)


def model() -> Recording:
    return Recording(messages=iter([AIMessage("One."), AIMessage("Two."), AIMessage("Three.")]), sent=[])


def prompt_of(messages: bool, memory_key: str, question: str) -> Any:
    if messages:
        return ChatPromptTemplate(
            [
                ("system", "Speak {language}."),
                MessagesPlaceholder(memory_key),
                ("human", "{" + question + "}"),
            ]
        )
    return PromptTemplate.from_template("{language}\n{" + memory_key + "}\nHuman: {" + question + "}\nAI:")


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(
    ("messages", "memory_key", "question", "output_key"),
    [*product([False, True], ["history", "chat"], ["input", "question"], [None, "text"])],
)
async def test_chains_send_what_they_send_with_the_buffer_memory(
    memos: MemOS, messages: bool, memory_key: str, question: str, output_key: str | None, asynchronous: bool
) -> None:
    keys: dict[str, Any] = {
        "memory_key": memory_key,
        "input_key": question,
        "output_key": output_key,
        "return_messages": messages,
    }
    sent = []
    for memory in (ConversationBufferMemory(**keys), MemOSMemory(memos=memos, user="maya", **keys)):
        llm = model()
        chain = LLMChain(llm=llm, prompt=prompt_of(messages, memory_key, question), memory=memory)
        for text in ("Hello", "Well?"):
            asked = {question: text, "language": "Latin"}
            result = await chain.ainvoke(asked) if asynchronous else chain.invoke(asked)
        shown: Any = memory.load_memory_variables(asked)
        sent.append((llm.sent, result, [getattr(m, "content", m) for m in shown[memory_key]]))
    buffer, ours = sent
    assert [[m.content for m in one] for one in ours[0]] == [[m.content for m in one] for one in buffer[0]]
    assert len(ours[0]) == 2
    assert ours[2] == buffer[2]
    assert ours[1]["text"] == buffer[1]["text"] == "Two."


@tool
def look(what: str) -> str:
    """Look."""
    return f"saw {what}"


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("return_messages", [False, True])
@pytest.mark.parametrize("output_key", [None, "output"])
async def test_agent_executor_that_returns_its_steps(
    memos: MemOS, asynchronous: bool, return_messages: bool, output_key: str | None
) -> None:
    seen = []

    def plan(inputs: dict[str, Any]) -> AgentAction | AgentFinish:
        seen.append(inputs["chat_history"])
        steps = inputs["intermediate_steps"]
        return AgentFinish({"output": "A cat."}, "") if steps else AgentAction("look", "cat", "")

    memory = MemOSMemory(
        memos=memos,
        user="maya",
        memory_key="chat_history",
        input_key="input",
        output_key=output_key,
        return_messages=return_messages,
    )
    agent = AgentExecutor(
        agent=RunnableLambda(plan), tools=[look], memory=memory, return_intermediate_steps=True
    )
    for _ in range(2):
        asked = {"input": "What is there?"}
        if output_key is None:  # as with the buffer memory, "output" is taken, and a warning says so
            with pytest.warns(UserWarning, match="multiple output keys"):
                result = await agent.ainvoke(asked) if asynchronous else agent.invoke(asked)
        else:
            result = await agent.ainvoke(asked) if asynchronous else agent.invoke(asked)
        assert result["intermediate_steps"][0][1] == "saw cat"
    told = "Human: What is there?\nAI: A cat."
    assert memory.buffer_as_str == f"{told}\n{told}"
    last = seen[-1] if not return_messages else "\n".join(f"{m.type}: {m.content}" for m in seen[-1])
    assert last == (told if not return_messages else told.replace("Human", "human").replace("AI", "ai"))


def test_facts_and_conversation_are_two_variables_where_the_prompt_wants_them(memos: MemOS) -> None:
    memos.scoped(user="maya").write("I play the cello.")
    memory = MemOSMemory(memos=memos, user="maya", facts_key="facts")
    llm = model()
    prompt = PromptTemplate.from_template("Known:\n{facts}\nSo far:\n{history}\nHuman: {input}")
    chain = ConversationChain(llm=llm, memory=memory, prompt=prompt)
    chain.invoke({"input": "What do I play?"})
    chain.invoke({"input": "What do I play then?"})
    assert llm.sent[1][0].content == (
        "Known:\nRelevant memories:\n- I play the cello.\n"
        "So far:\nHuman: What do I play?\nAI: One.\nHuman: What do I play then?"
    )
    assert memory.buffer == "Human: What do I play?\nAI: One.\nHuman: What do I play then?\nAI: Two."


def test_either_part_can_be_left_out(memos: MemOS) -> None:
    memos.scoped(user="maya").write("I play the cello.")
    memory = MemOSMemory(memos=memos, user="maya", session="s", return_messages=True, facts_key="facts")
    memory.save_context({"input": "I also play chess."}, {"output": "Good."})
    asked = {"input": "What do I play?"}
    only_facts = MemOSMemory(memos=memos, user="maya", session="s", max_messages=0).load_memory_variables(
        asked
    )
    assert sorted(only_facts["history"].splitlines()) == [
        "- I also play chess.",  # said in this session, which is not shown
        "- I play the cello.",
        "Relevant memories:",
    ]
    both = memory.load_memory_variables(asked)
    assert [m.text for m in both["facts"]] == ["Relevant memories:\n- I play the cello."]
    assert isinstance(both["facts"][0], SystemMessage)
    assert [m.text for m in both["history"]] == ["I also play chess.", "Good."]
    only_talk = MemOSMemory(memos=memos, user="maya", session="s", k=0, facts_key="facts")
    assert only_talk.load_memory_variables(asked) == {
        "history": "Human: I also play chess.\nAI: Good.",
        "facts": "",
    }


def test_the_token_limit_is_for_both_parts_together(memos: MemOS) -> None:
    memos.scoped(user="maya").write("I like long walks by the river.")
    memory = MemOSMemory(
        memos=memos, user="maya", return_messages=True, facts_key="facts", max_token_limit=120
    )
    for i in range(20):
        memory.save_context({"input": f"question {i} " + "word " * 20}, {"output": f"answer {i}"})
    shown = memory.load_memory_variables({"input": "walks by the river"})
    assert "long walks" in shown["facts"][0].content
    assert shown["history"][-1].content == "answer 19"
    assert count_tokens_approximately([*shown["facts"], *shown["history"]]) <= 120


def test_what_the_memory_fills_is_never_stored(memos: MemOS) -> None:
    memory = MemOSMemory(memos=memos, user="maya", facts_key="facts")
    filled = {"facts": "SECRET", "history": "SECRET"}
    memory.save_context({"ask": "Hi", **filled, "stop": ["x"]}, {"text": "Yes", **filled})
    assert memory.buffer == "Human: Hi\nAI: Yes"
    assert "SECRET" not in str(memos.scoped(user="maya").find())
    for bad in ({"input_key": "history"}, {"output_key": "history"}, {"facts_key": "f", "input_key": "f"}):
        with pytest.raises(
            InvalidArgument, match=r"^(input|output)_key='\w+' is a variable that this memory"
        ):
            MemOSMemory(memos=memos, user="maya", **bad)
    with pytest.raises(InvalidArgument, match=r"^facts_key must be another variable"):
        MemOSMemory(memos=memos, user="maya", facts_key="history")


def test_beside_another_memory(memos: MemOS) -> None:
    memos.scoped(user="maya").write("I play the cello.")
    facts = MemOSMemory(memos=memos, user="maya", memory_key="facts", input_key="input", max_messages=0)
    both = CombinedMemory(memories=[ConversationBufferMemory(input_key="input"), facts])
    llm = model()
    prompt = PromptTemplate.from_template("{facts}\n{history}\n{input}")
    ConversationChain(llm=llm, memory=both, prompt=prompt).invoke({"input": "What do I play?"})
    assert llm.sent[0][0].content == "Relevant memories:\n- I play the cello.\n\nWhat do I play?"
