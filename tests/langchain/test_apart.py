"""Whose memory it is in every place where LangChain does not say so itself: caches, contexts, runs that name nobody."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import SummarizationMiddleware
from langchain_core.caches import BaseCache, InMemoryCache
from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolCall
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import tool
from pydantic import Field
from support import bag_of_words

from langchain_memos import (
    ChatMemOS,
    MemOSCache,
    MemOSMiddleware,
    MemOSSemanticCache,
    MemOSVectorStore,
    memory_tools,
)
from memos_core.activation import LoadedModel
from memos_core.errors import InvalidArgument
from memos_core.memos import MemOS

SECRET = "My password is swordfish."
ASKED = "What is my password?"


class Model(BaseChatModel):
    """Calls its tool so many times, then says "done"; keeps what it was sent. A fake: no API key is needed."""

    calls: int = 0
    sent: list[list[BaseMessage]] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "fake"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Model:
        return self

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        self.sent.append(messages)
        n = len(self.sent)
        calls = [ToolCall(name="look", args={}, id=f"c{n}")] if n <= self.calls else []
        return ChatResult(generations=[ChatGeneration(message=AIMessage("done", tool_calls=calls))])


class Summarizer(BaseChatModel):
    """Writes a summary that sounds like a person."""

    @property
    def _llm_type(self) -> str:
        return "fake"

    def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=AIMessage("I am a pirate. I live in Rome."))])


@tool
def look() -> str:
    """Look."""
    return "seen"


@dataclass
class Context:
    user_id: str


def config(thread: str | None, user: str | None = None) -> Any:
    ids = {"thread_id": thread, "user_id": user}
    return {"configurable": {name: value for name, value in ids.items() if value}}


def say(*texts: str) -> Any:
    return {"messages": [HumanMessage(text) for text in texts]}


def told(view: MemOS) -> list[str]:
    return [cube.text for cube in view.conversation()]


# -- runs that name nobody ---------------------------------------------------------------------------------


def test_what_runs_without_ids_say_is_recalled_by_them_and_by_no_thread(memos: MemOS) -> None:
    memos.write("The office code is 4711.")  # the application's own: for every session of nobody
    model = Model()
    agent = create_agent(model, [], middleware=[MemOSMiddleware(memos)])
    agent.invoke(say(SECRET))
    for where, known in ((config("somebody-else"), False), (config(None), True)):
        agent.invoke(say(ASKED), where)
        assert ("swordfish" in model.sent[-1][-1].text) is known
        agent.invoke(say("What is the office code?"), where)
        assert "4711" in model.sent[-1][-1].text


def test_tools_without_a_user_know_their_session(memos: MemOS) -> None:
    found = {tool.name: tool for tool in memory_tools(memos)}

    def call(name: str, thread: str | None, **arguments: Any) -> str:
        return str(found[name].invoke(arguments, config(thread)))

    saved = call("save_memory", "t1", text="The door code is 4711.")
    id_ = saved[7:15]
    assert id_ in call("search_memory", "t1", query="door code")
    for other in ("t2", None):
        assert call("search_memory", other, query="door code") == "Nothing is remembered about that."
        assert call("update_memory", other, memory_id=id_, text="The door code is 0.").startswith("Refused")
        assert call("forget_memory", other, memory_id=id_).startswith("Refused")
    assert call("update_memory", "t1", memory_id=id_, text="The door code is 1.").startswith("Updated")
    assert call("forget_memory", "t1", memory_id=id_).startswith("Forgotten")
    nameless = call("save_memory", None, text="The gate code is 12.")
    assert nameless[7:15] in call("search_memory", None, query="gate code")


# -- documents ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("user", ["maya", None])
def test_documents_of_two_sessions_may_have_one_id(memos: MemOS, user: str | None) -> None:
    stores = [MemOSVectorStore(memos.scoped(user=user, session=s)) for s in ("s1", "s2")]
    for n, store in enumerate(stores):
        store.add_documents([Document(id="page", page_content=f"upload number {n}")])
    for n, store in enumerate(stores):
        [found] = store.get_by_ids(["page"])
        assert (found.id, found.page_content) == ("page", f"upload number {n}")
        assert [d.id for d in store.similarity_search("upload")] == ["page"]
    stores[0].delete(["page"])
    assert [len(store.get_by_ids(["page"])) for store in stores] == [0, 1]


def test_documents_are_not_archived_for_lack_of_use() -> None:
    from memos_core.governance import DecayPolicy

    assert "document" in DecayPolicy().keep_types


# -- caches ------------------------------------------------------------------------------------------------


@pytest.fixture
def remembering(tmp_path: Path, loaded: LoadedModel) -> Any:
    with MemOS.open(tmp_path / "vault", model=loaded, embedder=bag_of_words) as memos:
        yield memos


@pytest.mark.parametrize("kind", ["memory", "exact", "semantic"])
def test_no_cache_gives_one_users_reply_to_another(remembering: MemOS, kind: str) -> None:
    caches: dict[str, Any] = {"memory": lambda _: InMemoryCache(), "exact": MemOSCache}
    cache: BaseCache = caches.get(kind, MemOSSemanticCache)(remembering)
    maya = remembering.scoped(user="maya")
    maya.write("Maya's password is swordfish.")

    def recalled(view: MemOS, **fields: Any) -> tuple[int, bool]:
        """How many memories were recalled, and whether the reply came from the cache."""
        chat = ChatMemOS(memos=view, cache=cache, max_tokens=4, **fields)
        reply = chat.invoke("What is the password?")
        return len(reply.response_metadata["memos"]["recalled"]), "total_cost" in (reply.usage_metadata or {})

    assert recalled(maya) == (1, False)
    assert recalled(maya) == (1, True)
    assert recalled(remembering.scoped(user="bob")) == (0, False)
    assert recalled(maya, seed=7) == (1, False)
    assert recalled(maya, recall_k=0) == (0, False)
    maya.write("Maya's new password is trout.")
    assert recalled(maya) == (2, False)


def test_a_turn_that_is_remembered_comes_from_no_cache(remembering: MemOS) -> None:
    from langchain_core.globals import set_llm_cache

    set_llm_cache(InMemoryCache())
    try:
        chat = ChatMemOS(memos=remembering, remember=True, max_tokens=2)
        for _ in range(2):
            chat.invoke("I like tea.", config("t", "zoe"))
    finally:
        set_llm_cache(None)
    assert told(remembering.scoped(user="zoe")).count("I like tea.") == 2
    with pytest.raises(InvalidArgument, match=r"^cache: replies that are remembered"):
        ChatMemOS(memos=remembering, remember=True, cache=True)


def test_a_near_question_is_near_only_where_all_else_is_the_same(memos: MemOS) -> None:
    class Replies(Model):
        def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
            answer = AIMessage(f"re: {messages[-1].text}")
            return ChatResult(generations=[ChatGeneration(message=answer)])

    model = Replies(cache=MemOSSemanticCache(memos, similarity=0.8))
    rules = SystemMessage("be kind and brief and say nothing of the weather. " * 40)

    def reply(text: str, *before: BaseMessage) -> str:
        return model.invoke([*before, HumanMessage(text)]).text

    assert reply("where is my old boat", rules) == "re: where is my old boat"
    assert reply("where is my boat", rules) == "re: where is my old boat"
    assert reply("cancel my contract today", rules) == "re: cancel my contract today"
    assert reply("where is my boat") == "re: where is my boat"
    assert reply("where is my boat", HumanMessage("I sold it"), AIMessage("ok")) == "re: where is my boat"
    assert reply("please delete the user 17") == "re: please delete the user 17"
    assert reply("please delete the user 18") == "re: please delete the user 18"


# -- the context of an agent -------------------------------------------------------------------------------


def test_a_model_in_an_agent_takes_the_user_from_the_context(remembering: MemOS) -> None:
    remembering.scoped(user="ann").write("Ann's boat is called Petrel.")
    chat = ChatMemOS(memos=remembering, remember=True, max_tokens=2)
    agent = create_agent(chat, [], context_schema=Context)
    agent.invoke(say(SECRET), context=Context("maya"))
    assert SECRET in told(remembering.scoped(user="maya"))
    state = agent.invoke(say(ASKED), context=Context("bob"))
    assert state["messages"][-1].response_metadata["memos"]["recalled"] == []
    state = agent.invoke(say("What is the boat called?"), config("t", "ann"), context=Context("bob"))
    assert state["messages"][-1].response_metadata["memos"]["recalled"] == []


# -- what the user said ------------------------------------------------------------------------------------


async def test_a_summary_is_not_what_the_user_said(memos: MemOS) -> None:
    said = "I sail a boat called Petrel. When is high tide?"
    summary = SummarizationMiddleware(Summarizer(), trigger=("messages", 4), keep=("messages", 2))
    for user in ("lea", "max"):
        agent = create_agent(Model(calls=3), [look], middleware=[summary, MemOSMiddleware(memos)])
        state = (
            agent.invoke(say(said), config("t", user))
            if user == "lea"
            else await agent.ainvoke(say(said), config("t", user))
        )
        assert not any(m.text == said for m in state["messages"])  # the summary took its place
        view = memos.scoped(user=user)
        assert told(view) == [said, "done"]
        assert [c.text for c in view.find(not_types=["message"])] == ["I sail a boat called Petrel."]


def test_several_messages_of_one_turn_are_all_remembered(memos: MemOS) -> None:
    agent = create_agent(Model(), [], middleware=[MemOSMiddleware(memos)])
    agent.invoke(say("My boat is called Petrel.", "Do you like it?"), config("t", "zoe"))
    view = memos.scoped(user="zoe")
    assert told(view) == ["My boat is called Petrel.", "Do you like it?", "done"]
    assert [c.text for c in view.find(not_types=["message"])] == ["My boat is called Petrel."]
