"""What goes wrong with memories that people use today, each shown on that memory first, and then on ours.

LlamaIndex's are in tests/swap/test_swap_llama_index.py, LangGraph's in tests/langgraph."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain_classic.memory import ConversationSummaryBufferMemory, VectorStoreRetrieverMemory
from langchain_core.embeddings import Embeddings
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.vectorstores import InMemoryVectorStore
from support import bag_of_words

from langchain_memos import MemOSMemory
from mem0_memos import Memory
from memos_core import MemOS

_HOME = tempfile.TemporaryDirectory(prefix="mem0-")
os.environ.setdefault("MEM0_TELEMETRY", "False")  # read by mem0 when it is imported
os.environ.setdefault("MEM0_DIR", _HOME.name)

pytestmark = [
    pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Importing:DeprecationWarning"),
]
QUESTION = {"input": "what is the code of the safe?"}
TURNS = [("the code of the safe is 4711", "noted"), ("and the key is under the mat", "noted too")]


class Words(Embeddings):
    """The vectors of a bag of words."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return bag_of_words(texts)

    def embed_query(self, text: str) -> list[float]:
        return bag_of_words([text])[0]


class Down(BaseChatModel):
    """A language model whose provider is down: the paid one that a program would have here."""

    @property
    def _llm_type(self) -> str:
        return "down"

    def get_num_tokens_from_messages(self, messages: list[BaseMessage], tools: Any = None) -> int:
        return sum(len(m.text.split()) for m in messages)

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        raise ConnectionError("the provider is down")


class Says(BaseChatModel):
    """Says one thing."""

    reply: str

    @property
    def _llm_type(self) -> str:
        return "says"

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=AIMessage(self.reply))])


# -- LangChain -----------------------------------------------------------------------------------------------


def test_one_users_memories_are_shown_to_another(memos: MemOS) -> None:
    store = InMemoryVectorStore(Words())
    theirs = [VectorStoreRetrieverMemory(retriever=store.as_retriever()) for _ in "ab"]
    ours = [MemOSMemory(memos=memos, user=user) for user in ("alice", "bob")]
    shown = []
    for alice, bob in (theirs, ours):
        alice.save_context({"input": TURNS[0][0]}, {"output": TURNS[0][1]})
        assert "4711" in str(alice.load_memory_variables(QUESTION))
        shown.append("4711" in str(bob.load_memory_variables(QUESTION)))
    assert shown == [True, False]


def test_messages_are_lost_while_the_language_model_is_down(memos: MemOS) -> None:
    theirs: Any = ConversationSummaryBufferMemory(llm=Down(), max_token_limit=8)
    ours = MemOSMemory(memos=memos, user="alice", max_token_limit=30)
    for question, answer in TURNS:
        with contextlib.suppress(ConnectionError):  # what it removed to summarise is gone
            theirs.save_context({"input": question}, {"output": answer})
        ours.save_context({"input": question}, {"output": answer})
    assert "4711" not in str(theirs.load_memory_variables({})) + str(theirs.chat_memory.messages)
    assert "4711" in str(ours.buffer)
    wider = MemOSMemory(memos=memos, user="alice", session=ours.session)
    assert "4711" in str(wider.load_memory_variables(QUESTION))


def test_clear_forgets_nothing(memos: MemOS) -> None:
    theirs = VectorStoreRetrieverMemory(retriever=InMemoryVectorStore(Words()).as_retriever())
    ours = MemOSMemory(memos=memos, user="alice")
    shown = []
    for memory in (theirs, ours):
        memory.save_context({"input": TURNS[0][0]}, {"output": TURNS[0][1]})
        memory.clear()
        shown.append("4711" in str(memory.load_memory_variables(QUESTION)))
    assert shown == [True, False]


# -- mem0 ----------------------------------------------------------------------------------------------------


@pytest.fixture
def mem0(tmp_path: Path) -> Any:
    """A function that opens mem0ai's own Memory with a language model of one reply."""
    real = pytest.importorskip("mem0.memory.main").Memory
    pytest.importorskip("qdrant_client")
    opened = []

    def open_(reply: str = "") -> Any:
        where = {"path": str(tmp_path / "qdrant"), "embedding_model_dims": len(bag_of_words(["x"])[0])}
        memory = real.from_config(
            {
                "vector_store": {"provider": "qdrant", "config": where},
                "embedder": {"provider": "langchain", "config": {"model": Words()}},
                "llm": {"provider": "langchain", "config": {"model": Says(reply=reply)}},
                "history_db_path": str(tmp_path / "history.db"),
            }
        )
        opened.append(memory)
        return memory

    yield open_
    for memory in opened:
        memory.vector_store.client.close()
        memory.close()


def test_an_unreadable_reply_drops_what_was_said(memos: MemOS, mem0: Callable[..., Any]) -> None:
    reply = "I cannot help with that."
    found = []
    for memory in (mem0(reply), Memory(memos, llm=Says(reply=reply))):
        memory.add("I live in Oslo.", user_id="alice")
        found.append([r["memory"] for r in memory.get_all(filters={"user_id": "alice"})["results"]])
    assert found == [[], ["I live in Oslo."]]


def test_what_was_deleted_is_still_in_the_history(memos: MemOS, mem0: Callable[..., Any]) -> None:
    kept = []
    for memory in (mem0(), Memory(memos)):
        (added,) = memory.add("the code is 4711", user_id="alice", infer=False)["results"]
        memory.delete(added["id"])
        rows = memory.history(added["id"])
        assert [row["event"] for row in rows] == ["ADD", "DELETE"]
        kept.append("4711" in str(rows))
    assert kept == [True, False]


def test_what_no_longer_holds_is_recalled_beside_what_does(memos: MemOS, mem0: Callable[..., Any]) -> None:
    found = []
    for memory in (mem0('{"memory": [{"text": "I live in Oslo."}]}'), Memory(memos)):
        memory.add("I live in Oslo.", user_id="alice")
        if hasattr(memory, "llm"):
            memory.llm.langchain_model.reply = '{"memory": [{"text": "I live in Bergen."}]}'
        memory.add("I live in Bergen.", user_id="alice")
        hits = memory.search("where do I live in", filters={"user_id": "alice"})["results"]
        found.append(sorted(r["memory"] for r in hits))
    assert found == [["I live in Bergen.", "I live in Oslo."], ["I live in Bergen."]]
