"""What programs that were written for LlamaIndex's own memories call and pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import Document, MockEmbedding, VectorStoreIndex
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.chat_engine import (
    CondensePlusContextChatEngine,
    CondenseQuestionChatEngine,
    ContextChatEngine,
)
from llama_index.core.llms import MockLLM
from llama_index.core.schema import QueryBundle
from pydantic import ConfigDict, Field

from llama_index.memory.memos import (
    MemOSChatStore,
    MemOSMemory,
    MemOSMemoryBlock,
    MemOSSimpleChatStore,
)
from memos_core.errors import InvalidArgument
from memos_core.memos import MemOS


@pytest.mark.parametrize("engine", ["context", "condense_plus", "condense"])
@pytest.mark.parametrize("question", [QueryBundle("Hello"), "Hello"])
def test_engines_take_a_question_in_every_form(memos: MemOS, engine: str, question: Any) -> None:
    index = VectorStoreIndex.from_documents([Document.example()], embed_model=MockEmbedding(embed_dim=3))
    memory = MemOSMemory.from_defaults(memos, user="u")
    made: Any = {
        "context": lambda: ContextChatEngine.from_defaults(
            index.as_retriever(), llm=MockLLM(), memory=memory
        ),
        "condense_plus": lambda: CondensePlusContextChatEngine.from_defaults(
            index.as_retriever(), llm=MockLLM(), memory=memory
        ),
        "condense": lambda: CondenseQuestionChatEngine.from_defaults(
            index.as_query_engine(llm=MockLLM()), llm=MockLLM(), memory=memory
        ),
    }[engine]()
    for _ in range(2):
        made.chat(question)
    said = [m.content for m in memory.get_all()][::2]
    # The other two hand on the bundle itself, of which `ChatMessage` keeps nothing, whatever the memory.
    assert said == ["Hello" if engine == "context" or question == "Hello" else None] * 2


def test_a_question_may_be_anything_with_a_text(memos: MemOS) -> None:
    memory = MemOSMemory.from_defaults(memos, user="u")
    memos.scoped(user="u").write("The boat is called Petrel.")
    [note] = memory.get(QueryBundle("what is the boat called"))  # type: ignore[arg-type]
    assert "Petrel" in (note.content or "")
    assert memory.get(5)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["user_id", "users", "memory_blocks", "store", "foo"])
def test_a_misspelt_argument_does_not_put_users_together(memos: MemOS, name: str) -> None:
    for made in (MemOSChatStore, MemOSSimpleChatStore, MemOSMemoryBlock):
        with pytest.raises(InvalidArgument, match=rf"{made.__name__} has no {name}; it takes memos"):
            made(memos, **{name: "alice"})
    with pytest.raises(InvalidArgument, match=rf"MemOSMemory has no {name}"):
        MemOSMemory(memos, session="s", **{name: "alice"})
    if name.startswith("user"):
        with pytest.raises(InvalidArgument, match=r"user= says"):
            MemOSMemory.from_defaults(memos, **{name: "alice"})
    else:
        with pytest.warns(UserWarning, match=rf"MemOSMemory has no {name}; ignored"):
            MemOSMemory.from_defaults(memos, **{name: "alice"})


def test_the_constructor_knows_the_sessions_other_name(memos: MemOS) -> None:
    memory = MemOSMemory(memos, user="u", session_id="s", token_limit=100)
    assert memory.session_id == memory.session == "s"
    with pytest.raises(InvalidArgument, match=r"differ; pass one of them"):
        MemOSMemory(memos, session_id="s", session="t")


def test_to_string_and_back(tmp_path: Path) -> None:
    with MemOS.open(tmp_path / "vault", embedder=None) as memos:
        memory = MemOSMemory.from_defaults(memos, user="u", session="s")
        memory.put(ChatMessage(role="user", content="hello"))
        again = MemOSMemory.from_string(memory.to_string())
        assert [m.content for m in again.get_all()] == ["hello"]


def test_a_store_that_was_persisted_is_brought_along(memos: MemOS, tmp_path: Path) -> None:
    """The file is what LlamaIndex 0.14 writes with pydantic 2.13; with 2.14 its own store cannot be written."""
    file = tmp_path / "chats.json"
    message = ChatMessage(role="user", content="grüß dich, I live in Paris.").model_dump(mode="json")
    file.write_text(json.dumps({"store": {"a": [message], "b": [message], "c": []}}, ensure_ascii=False))
    first = MemOSSimpleChatStore(memos, user="u")
    first.add_message("b", ChatMessage(role="user", content="newer"))
    for _ in range(2):  # a program does it at each start
        store = MemOSSimpleChatStore.from_persist_path(str(file), memos=memos, user="u")
    assert store.get_keys() == ["a", "b"]
    assert [store.get_messages(key)[0].content for key in ("a", "b")] == [
        "grüß dich, I live in Paris.",
        "newer",
    ]
    store.persist(str(file))
    missing = MemOSSimpleChatStore.from_persist_path(str(tmp_path / "none.json"), memos=memos, user="v")
    assert missing.get_keys() == []
    assert memos.scoped(user="u").find(not_types=["message"]) == []  # what was said then is no news
    file.write_text(
        json.dumps(json.dumps({"store": {"a": [message]}}))
    )  # as `persist` has it of an older release
    again = MemOSSimpleChatStore.from_persist_path(str(file), memos=memos, user="x")
    assert again.get_keys() == ["a"]
    file.write_text(json.dumps({"store": {"a": [message], "": [message]}}))
    with pytest.raises(InvalidArgument, match=r"key must be the name"):
        MemOSSimpleChatStore.from_persist_path(str(file), memos=memos, user="w")
    assert MemOSSimpleChatStore(memos, user="w").get_keys() == []
    for bad in ("[]", "{", '{"store": {"a": [1]}}'):
        file.write_text(bad)
        with pytest.raises(InvalidArgument, match=r"^persist_path: .* is no chat store"):
            MemOSSimpleChatStore.from_persist_path(str(file), memos=memos, user="w")


def test_thoughts_and_citations_count(memos: MemOS) -> None:
    types = pytest.importorskip("llama_index.core.base.llms.types")
    if not hasattr(types, "ThinkingBlock") or not hasattr(types, "CitableBlock"):
        pytest.skip("this release has no such blocks")
    long = "word " * 200
    for block in (
        types.ThinkingBlock(content=long),
        types.CitableBlock(title="t", source="s", content=[types.TextBlock(text=long)]),
    ):
        view = memos.scoped(user=block.block_type)
        memory = MemOSMemory.from_defaults(view, session="s", token_limit=150, k=0)
        for n in range(3):
            memory.put(ChatMessage(role="user", content=f"question {n}"))
            memory.put(ChatMessage(role="assistant", blocks=[block]))
        assert [m.content for m in memory.get() if m.role == "user"] == ["question 2"]


async def test_a_block_that_is_fixed_to_a_session_answers_in_another_one(memos: MemOS) -> None:
    view = memos.scoped(session="mine")
    view.write("The boat is called Petrel.")
    block = MemOSMemoryBlock(memos=view)
    question = [ChatMessage(role="user", content="what is the boat called")]
    assert "Petrel" in await block.aget(question, session_id="other")


def test_subclasses_may_have_fields_of_their_own(memos: MemOS) -> None:
    class Named(MemOSSimpleChatStore):
        label: str = Field(default="", alias="theLabel")

    class Open(MemOSSimpleChatStore):
        model_config = ConfigDict(extra="allow")

    named: Any = Named(memos, user="u", theLabel="x")
    anything: Any = Open(memos, user="u", more=1)
    assert (named.label, anything.more) == ("x", 1)
