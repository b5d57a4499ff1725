"""Whose memory it is in every place where LangChain does not say so itself: caches, contexts, runs that name nobody."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import SummarizationMiddleware
from langchain_core.caches import BaseCache, InMemoryCache
from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel
from langchain_core.load import dumps
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolCall
from langchain_core.outputs import ChatGeneration, ChatResult, Generation
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from pydantic import Field
from support import bag_of_words

from langchain_memos import (
    ChatMemOS,
    MemOSCache,
    MemOSMemory,
    MemOSMiddleware,
    MemOSSemanticCache,
    MemOSVectorStore,
    memory_tools,
)
from memos_core.activation import LoadedModel
from memos_core.cube import now
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


@pytest.mark.parametrize("summarized", [False, True])
def test_runs_at_the_same_moment_remember_each_its_own(memos: MemOS, summarized: bool) -> None:
    summary = SummarizationMiddleware(Summarizer(), trigger=("messages", 4), keep=("messages", 2))

    class Slow(Model):
        """Calls its tool three times in each run."""

        def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
            called = sum(m.type == "tool" for m in messages) + 2 * any("pirate" in m.text for m in messages)
            calls = [] if called >= 3 else [ToolCall(name="look", args={}, id=f"c{called}")]
            return ChatResult(generations=[ChatGeneration(message=AIMessage("done", tool_calls=calls))])

    middleware: Any = [*([summary] if summarized else []), MemOSMiddleware(memos)]
    agent = create_agent(Slow(), [look], middleware=middleware)
    agent.batch([say("I own a dog."), say("I own a cat.")], config(None, "maya"))
    facts = {c.text for c in memos.scoped(user="maya").find(not_types=["message"])}
    assert facts == {"I own a dog.", "I own a cat."}


def test_a_message_is_remembered_once_whatever_runs_go_over_it(memos: MemOS) -> None:
    """A run that brings none of its own, one that goes on from an earlier checkpoint, and two agents in a row."""
    agent: Any = create_agent(
        Model(), [], middleware=[MemOSMiddleware(memos)], checkpointer=InMemorySaver(), name="one"
    )
    agent.invoke(say("I live in Rome."), config("A", "maya"))
    agent.invoke(say("I live in Oslo."), config("B", "maya"))
    agent.invoke({"messages": [SystemMessage("Nightly job")]}, config("A", "maya"))
    agent.invoke({"messages": []}, config("A", "maya"))
    first = [s for s in agent.get_state_history(config("A", "maya")) if s.next][-1]
    agent.invoke(None, first.config)
    maya = memos.scoped(user="maya")
    assert told(maya).count("I live in Rome.") == 1
    assert [hit.cube.text for hit in maya.recall("where do I live")] == ["I live in Oslo."]
    graph: Any = StateGraph(MessagesState)
    graph.add_sequence(
        [
            (name, create_agent(Model(), [], middleware=[MemOSMiddleware(memos)], name=name))
            for name in ("first", "second")
        ]
    )
    graph.add_edge(START, "first")
    graph.compile().invoke(say("I keep bees."), config("t", "bob"))
    assert told(memos.scoped(user="bob")) == ["I keep bees.", "done", "done"]


def test_an_agent_that_a_model_asks_remembers_nothing_of_it(memos: MemOS) -> None:
    inner = create_agent(Model(), [], middleware=[MemOSMiddleware(memos)])

    @tool("look")
    def delegate() -> str:
        """Ask the other agent."""
        return str(inner.invoke(say("I hate boats. Look at it."))["messages"][-1].text)

    agent = create_agent(Model(calls=1), [delegate], middleware=[MemOSMiddleware(memos)])
    agent.invoke(say("I own a boat called Petrel. Fix it."), config("t", "zoe"))
    view = memos.scoped(user="zoe")
    assert told(view) == ["I own a boat called Petrel. Fix it.", "done"]
    assert [c.text for c in view.find(not_types=["message"])] == ["I own a boat called Petrel."]


def test_a_reply_that_was_cut_in_a_character_is_not_lost(memos: MemOS) -> None:
    class Half(Model):
        def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
            return ChatResult(generations=[ChatGeneration(message=AIMessage("Here you go \ud83d"))])

    agent = create_agent(Half(), [], middleware=[MemOSMiddleware(memos)])
    assert agent.invoke(say("half \ud83d"), config("t", "zoe"))["messages"][-1].text == "Here you go \ud83d"
    assert told(memos.scoped(user="zoe")) == ["half ?", "Here you go ?"]
    memory = MemOSMemory(memos=memos, user="max", session="s")
    memory.save_context({"input": "half \ud83d"}, {"output": "Here you go \ud83d"})
    assert told(memos.scoped(user="max")) == ["half ?", "Here you go ?"]


# -- more caches and documents -----------------------------------------------------------------------------


def test_what_stands_above_a_question_must_be_the_same(memos: MemOS) -> None:
    cache = MemOSSemanticCache(memos, similarity=0.5)
    kept = [Generation(text="Ann 90k, Bob 70k")]
    chat = dumps([HumanMessage("Relevant memories:\n- I may see the salaries.\n\nwhat are the salaries")])
    other = dumps(
        [HumanMessage("Relevant memories:\n- I may not see the salaries.\n\nwhat are the salaries")]
    )
    near = dumps([HumanMessage("Relevant memories:\n- I may see the salaries.\n\nwhat are salaries")])
    cache.update(chat, "m", kept)
    assert (cache.lookup(other, "m"), cache.lookup(near, "m")) == (None, kept)
    cache.update("You are kind.\nfrom 14:00 to 9:00 it takes", "m", kept)
    for asked in (
        "from 9:00 to 14:00 it takes",
        "from -14:00 to 9:00 it takes",
        "from 14:00 to 9:30 it takes",
    ):
        assert cache.lookup(f"You are kind.\n{asked}", "m") is None
    assert cache.lookup("You are kind.\nfrom 14:00 to 9:00 it takes about", "m") == kept
    assert cache.lookup("You are rude.\nfrom 14:00 to 9:00 it takes about", "m") is None
    assert cache.lookup("half \ud83d", "m") is None


def test_sessions_and_agents_do_not_take_each_others_replies_and_documents(memos: MemOS) -> None:
    maya = memos.scoped(user="maya")
    views = [maya.scoped(session="s1"), maya.scoped(session="s2"), maya.scoped(agent="a1"), maya]
    caches, stores = [MemOSCache(v) for v in views], [MemOSVectorStore(v) for v in views]
    for n, (cache, store) in enumerate(zip(caches, stores, strict=True)):
        cache.update("p", "m", [Generation(text=str(n))])
        store.add_documents([Document(id="page", page_content=f"page of {n}")])
    for n, (cache, store) in enumerate(zip(caches, stores, strict=True)):
        assert cache.lookup("p", "m") == [Generation(text=str(n))]
        assert [d.page_content for d in store.get_by_ids(["page"])] == [f"page of {n}"]
        assert [(d.id, d.page_content) for d in store.similarity_search("page")] == [("page", f"page of {n}")]
    stores[3].delete()
    assert [len(store.similarity_search("page")) for store in stores] == [1, 1, 1, 0]


def test_a_planned_change_of_a_memory_makes_a_new_reply(remembering: MemOS) -> None:
    view, soon = remembering.scoped(user="maya"), now() + timedelta(seconds=60)
    before = view.memories_state()
    view.write("The door code is 1111.", valid_to=soon)
    view.write("The door code is 2222.", valid_from=soon)
    after = view.memories_state()
    assert before != after == view.memories_state()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("memos_core.queries.now", lambda: soon + timedelta(seconds=1))
        assert view.memories_state() not in (before, after)


def test_the_stop_strings_of_a_model_are_part_of_a_caches_key(remembering: MemOS) -> None:
    cache = InMemoryCache()

    def cached(**fields: Any) -> bool:
        reply = ChatMemOS(memos=remembering, cache=cache, max_tokens=4, **fields).invoke("hello")
        return "total_cost" in (reply.usage_metadata or {})

    assert [cached(), cached(), cached(stop=["t"]), cached(stop=["t"]), cached(stop=["s"])] == [
        False,
        True,
        False,
        True,
        False,
    ]


def test_what_a_tool_answers_in_the_agents_place_is_its_answer(memos: MemOS) -> None:
    @tool("look", return_direct=True)
    def direct() -> str:
        """Look."""
        return "the tide is high"

    class Silent(Model):
        def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
            calls = [ToolCall(name="look", args=args, id=f"c{n}") for n, args in enumerate(({}, {"bad": 1}))]
            return ChatResult(generations=[ChatGeneration(message=AIMessage("", tool_calls=calls))])

    agent = create_agent(Silent(), [direct], middleware=[MemOSMiddleware(memos)])
    agent.invoke(say("how is the tide?"), config("t", "zoe"))
    assert set(told(memos.scoped(user="zoe"))) == {"how is the tide?", "the tide is high"}


def test_messages_of_one_id_are_one_only_if_they_say_the_same(memos: MemOS) -> None:
    agent = create_agent(Model(), [], middleware=[MemOSMiddleware(memos)])
    for text in ("My name is Ann.", "I live in Rome.", "I live in Rome."):
        agent.invoke({"messages": [HumanMessage(text, id="msg-1")]}, config(None, "ann"))
    assert told(memos.scoped(user="ann")) == ["My name is Ann.", "done", "I live in Rome.", "done", "done"]


def test_an_answer_from_a_cache_is_remembered_each_time(memos: MemOS) -> None:
    model = Model(cache=InMemoryCache())
    agent = create_agent(model, [], middleware=[MemOSMiddleware(memos, k=0)])
    for _ in range(3):
        agent.invoke(say("hello"), config("t", "zoe"))
    assert len(model.sent) == 1
    assert told(memos.scoped(user="zoe")) == ["hello", "done"] * 3


@pytest.mark.parametrize("id_", ["x" * 2_000, "a\x00b", "half \ud83d"])
def test_a_message_may_have_any_id(memos: MemOS, id_: str) -> None:
    agent = create_agent(Model(), [], middleware=[MemOSMiddleware(memos)])
    agent.invoke({"messages": [HumanMessage("hello", id=id_)]}, config("t", "zoe"))
    assert told(memos.scoped(user="zoe")) == ["hello", "done"]


def test_an_agent_without_tools_stays_one(memos: MemOS) -> None:
    """A call of a tool that its caller has goes to the caller."""
    agent: Any = create_agent(Model(calls=1), [], middleware=[MemOSMiddleware(memos)])
    assert "tools" not in agent.get_graph().nodes
    state = agent.invoke(say("hello"), config("t", "zoe"))
    assert [m.type for m in state["messages"]] == ["human", "ai"]
    assert state["messages"][-1].tool_calls


def test_adding_a_document_takes_nothing_else_away(memos: MemOS) -> None:
    view = memos.scoped(user="u", agent="a")
    view.write({"x": 1}, text="an item", namespace=("documents",), key="1")
    inner = view.scoped(session="s")
    inner.put([inner.cube({}, text="a page", namespace=("documents",), key="2", semantic_type="document")])
    MemOSVectorStore(view).add_documents([Document(id=id_, page_content="new") for id_ in ("1", "2")])
    assert sorted(c.text for c in view.find()) == ["a page", "an item", "new", "new"]


def test_an_agent_and_a_session_of_one_name_have_their_own_documents(memos: MemOS) -> None:
    user = memos.scoped(user="u")
    stores = [MemOSVectorStore(user.scoped(agent="x")), MemOSVectorStore(user.scoped(session="x"))]
    for store, text in zip(stores, ("agent", "session"), strict=True):
        store.add_documents([Document(id="1", page_content=f"the page of the {text}")])
    assert [s.get_by_ids(["1"])[0].page_content[16:] for s in stores] == ["agent", "session"]
    old = user.scoped(session="x").cube(
        {"metadata": {}}, text="old page", namespace=("documents",), key="2", semantic_type="document"
    )
    user.scoped(session="x").put([old])  # as an older release has stored it
    assert [d.page_content for d in stores[1].get_by_ids(["2"])] == ["old page"]
    stores[1].add_documents([Document(id="2", page_content="new page")])
    assert [d.page_content for d in stores[1].similarity_search("page") if d.id == "2"] == ["new page"]


def test_a_wider_view_is_not_given_replies_of_sessions_and_agents(memos: MemOS) -> None:
    asked = dumps([HumanMessage("what is in my letter from the bank today")])
    for view in (memos.scoped(session="alice"), memos.scoped(agent="pirate")):
        MemOSSemanticCache(view).update(asked, "m", [Generation(text="You owe 900 euros.")])
    assert MemOSSemanticCache(memos).lookup(asked, "m") is None
