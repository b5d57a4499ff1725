"""LlamaIndex's chat engines, each by each of its four ways to chat, over each of our kinds of memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.chat_engine import (
    CondensePlusContextChatEngine,
    ContextChatEngine,
    SimpleChatEngine,
)
from llama_index.core.chat_engine.types import BaseChatEngine
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index.core.memory import ChatMemoryBuffer, Memory
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from langchain_memos import MemOSMemory as LangChainMemory
from llama_index.memory.memos import (
    MemOSChatStore,
    MemOSMemory,
    MemOSMemoryBlock,
    MemOSSimpleChatStore,
)
from memos_core.memos import MemOS

WAYS = ["chat", "stream_chat", "achat", "astream_chat"]
ENGINES = ["simple", "context", "condense"]


class Model:
    """Answers with a number, and keeps what it was sent."""

    def __init__(self) -> None:
        self.sent: list[list[ChatMessage]] = []
        self.down = False

    def __call__(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatMessage:
        if self.down:
            raise ConnectionError("the model is down")
        self.sent.append(list(messages))
        return ChatMessage(role="assistant", content=f"answer {len(self.sent)}")

    @property
    def prompt(self) -> str:
        """All that it was sent last."""
        return "\n".join(f"{m.role.value}: {m.content}" for m in self.sent[-1])


class Library(BaseRetriever):
    """Finds one text, and keeps the questions."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        self.asked.append(query_bundle.query_str)
        return [NodeWithScore(node=TextNode(text="Boats need a mooring."), score=1.0)]


def engine(name: str, model: Model, memory: Any) -> BaseChatEngine:
    llm = MockFunctionCallingLLM(response_generator=model, is_chat_model=True)
    if name == "simple":
        return SimpleChatEngine.from_defaults(llm=llm, memory=memory, system_prompt="Be kind.")
    made = ContextChatEngine if name == "context" else CondensePlusContextChatEngine
    return made.from_defaults(retriever=Library(), llm=llm, memory=memory, system_prompt="Be kind.")


async def ask(chat: BaseChatEngine, way: str, text: str, **how: Any) -> str:
    """One turn; the history has it whole when this returns."""
    if way == "chat":
        return str(chat.chat(text, **how))
    if way == "achat":
        return str(await chat.achat(text, **how))
    if way == "stream_chat":
        return "".join(chat.stream_chat(text, **how).response_gen)
    streamed = await chat.astream_chat(text, **how)
    return "".join([token async for token in streamed.async_response_gen()])


def of_memory(memos: MemOS, user: str, session: str) -> Any:
    return MemOSMemory.from_defaults(memos, user=user, session=session)


def of_official(memos: MemOS, user: str, session: str) -> Any:
    return Memory.from_defaults(
        session_id=session,
        chat_store=MemOSChatStore(memos, user=user),
        memory_blocks=[MemOSMemoryBlock(memos, user=user)],
    )


def of_buffer(memos: MemOS, user: str, session: str) -> Any:
    store = MemOSSimpleChatStore(memos, user=user)
    return ChatMemoryBuffer.from_defaults(chat_store=store, chat_store_key=session)


KINDS = [of_memory, of_official, of_buffer]
Kind = Callable[[MemOS, str, str], Any]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ENGINES)
async def test_every_way_to_chat(memos: MemOS, name: str, kind: Kind) -> None:
    model = Model()
    chat = engine(name, model, kind(memos, "maya", "monday"))
    questions = ["I keep bees.", "Really.", "As I said.", "Yes."]
    for way, text in zip(WAYS, questions, strict=True):
        answer = await ask(chat, way, text)
        assert answer.startswith("answer ")
        assert chat.chat_history[-1].content == answer
    history = chat.chat_history
    assert [m.role.value for m in history] == ["user", "assistant"] * 4
    assert [m.content for m in history][::2] == questions
    assert "Be kind." in model.prompt
    assert ("Boats need a mooring." in model.prompt) == (name != "simple")
    # The last prompt has the conversation, each message once and in order.
    places = [model.prompt.find(f"user: {text}") for text in questions]
    assert places == sorted(places)
    assert places[0] >= 0
    # Another conversation of hers knows what she said, where the memory recalls; somebody else's never.
    for user in ("maya", "bob"):
        for way in WAYS:
            model = Model()
            other = engine(name, model, kind(memos, user, f"{user} {way}"))
            await ask(other, way, "What do I keep?")
            assert ("- I keep bees." in model.prompt) == (user == "maya" and kind is not of_buffer)
    chat.reset()
    assert chat.chat_history == []


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ENGINES)
async def test_a_given_history_replaces_the_session(memos: MemOS, name: str, way: str) -> None:
    model = Model()
    chat = engine(name, model, of_memory(memos, "maya", "s"))
    await ask(chat, way, "gone")
    given = [ChatMessage(role="user", content="was"), ChatMessage(role="assistant", content="is")]
    await ask(chat, way, "Anew", chat_history=given)
    assert [m.content for m in chat.chat_history][:3] == ["was", "is", "Anew"]
    assert "gone" not in model.prompt
    assert "was" in model.prompt


async def test_a_question_is_condensed_with_what_is_recalled(memos: MemOS) -> None:
    memos.scoped(user="maya").write("My boat is called Petrel.")
    model = Model()
    chat: Any = engine("condense", model, of_memory(memos, "maya", "s"))
    await chat.achat("Where can my boat lie?")
    [asked] = chat._retriever.asked  # this model says the condensing prompt again
    assert "Petrel" in asked
    assert "Where can my boat lie?" in asked


@pytest.mark.parametrize("way", WAYS)
async def test_a_model_that_is_down_loses_nothing_that_was_said(memos: MemOS, way: str) -> None:
    model = Model()
    chat = engine("simple", model, of_memory(memos, "maya", "s"))
    await ask(chat, way, "Hello")
    model.down = True
    with pytest.raises(ConnectionError):
        await ask(chat, way, "I keep bees.")
    model.down = False
    assert [m.content for m in chat.chat_history] == ["Hello", "answer 1", "I keep bees."]
    other = engine("context", model, of_memory(memos, "maya", "t"))
    await ask(other, way, "What do I keep?")
    assert "- I keep bees." in model.prompt


async def test_what_an_agent_of_langchain_was_told_a_chat_engine_recalls(memos: MemOS) -> None:
    LangChainMemory(memos=memos, user="maya", session="lc").save_context(
        {"input": "I keep bees."}, {"output": "Sweet."}
    )
    for name in ENGINES:
        model = Model()
        await engine(name, model, of_memory(memos, "maya", name)).achat("What do I keep?")
        assert "- I keep bees." in model.prompt


@pytest.mark.parametrize("kind", KINDS)
async def test_turns_and_reads_reach_the_scheduler(memos: MemOS, kind: Kind, monkeypatch: Any) -> None:
    seen: list[tuple[str, str | None]] = []
    scheduler = memos.scheduler
    turn, read = scheduler.turn, scheduler.read
    monkeypatch.setattr(
        scheduler,
        "turn",
        lambda scope, system=None: (seen.append(("turn", scope.session)), turn(scope, system)),
    )
    monkeypatch.setattr(
        scheduler, "read", lambda scope, ids: (seen.append(("read", scope.user)), read(scope, ids))
    )
    memos.scoped(user="maya").write("I keep bees.")
    chat = engine("context", Model(), kind(memos, "maya", "s"))
    await ask(chat, "astream_chat", "What do I keep?")
    assert seen.count(("turn", "s")) == 2  # the question and the answer
    assert (("read", "maya") in seen) == (kind is not of_buffer)
