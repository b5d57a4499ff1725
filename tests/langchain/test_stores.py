"""MemOSEmbeddings, MemOSVectorStore and the caches: LangChain's own suites, and what they do not ask."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.language_models import SimpleChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, Generation
from langchain_tests.integration_tests import (
    AsyncCacheTestSuite,
    EmbeddingsIntegrationTests,
    SyncCacheTestSuite,
    VectorStoreIntegrationTests,
)
from langchain_tests.unit_tests import EmbeddingsUnitTests
from support import bag_of_words

from langchain_memos import (
    MemOSCache,
    MemOSEmbeddings,
    MemOSRetriever,
    MemOSSemanticCache,
    MemOSVectorStore,
)
from memos_core import MemOS
from memos_core.errors import InvalidArgument

Open = Callable[[], MemOS]


class _Embeddings:
    @pytest.fixture(autouse=True)
    def _vault(self, memos: MemOS) -> None:
        self.memos = memos

    @property
    def embeddings_class(self) -> type[MemOSEmbeddings]:
        return MemOSEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"memos": self.memos}


class TestEmbeddings(_Embeddings, EmbeddingsIntegrationTests):
    pass


class TestEmbeddingsUnit(_Embeddings, EmbeddingsUnitTests):
    pass


class TestVectorStore(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, tmp_path: Path) -> Iterator[MemOSVectorStore]:
        with MemOS.open(tmp_path / "v", embedder=self.get_embeddings()) as memos:
            yield MemOSVectorStore(memos)


class TestCache(SyncCacheTestSuite):
    @pytest.fixture(params=[MemOSCache, MemOSSemanticCache])
    def cache(self, memos: MemOS, request: Any) -> MemOSCache:
        made: MemOSCache = request.param(memos)
        return made


class TestAsyncCache(AsyncCacheTestSuite):
    @pytest.fixture(params=[MemOSCache, MemOSSemanticCache])
    async def cache(self, memos: MemOS, request: Any) -> MemOSCache:
        made: MemOSCache = request.param(memos)
        return made


# -- embeddings ----------------------------------------------------------------------------------------------


def test_the_vectors_are_those_that_the_vault_searches_with(memos: MemOS) -> None:
    [expected] = bag_of_words(["red boat"])
    got = MemOSEmbeddings(memos).embed_query("red boat")
    assert got == pytest.approx([x / 2**0.5 for x in expected])
    assert MemOSEmbeddings(memos).embed_documents([]) == []


def test_without_an_embedder_there_are_no_embeddings(tmp_path: Path) -> None:
    with MemOS.open(tmp_path / "v", embedder=None) as memos:
        with pytest.raises(InvalidArgument, match="no embedder"):
            MemOSEmbeddings(memos)
        with pytest.raises(InvalidArgument, match="no embedder"):
            MemOSSemanticCache(memos)
        store = MemOSVectorStore(memos)
        store.add_texts(["a red boat"])
        assert store.embeddings is None
        assert [d.page_content for d in store.similarity_search("boat")] == ["a red boat"]  # by its words


# -- vector store --------------------------------------------------------------------------------------------

DOCUMENTS = [
    Document(id="1", page_content="a red boat", metadata={"kind": "boat", "at": [1, {"x": None}]}),
    Document(id="2", page_content="a red boat again", metadata={"kind": "boat"}),
    Document(id="3", page_content="a red car", metadata={"kind": "car"}),
]


def test_documents_come_back_after_a_restart_with_their_metadata(open_memos: Open) -> None:
    first = open_memos()
    assert MemOSVectorStore(first).add_documents(DOCUMENTS) == ["1", "2", "3"]
    first.close()
    store = MemOSVectorStore(open_memos())
    assert store.get_by_ids(["3", "none", "1"]) == [DOCUMENTS[2], DOCUMENTS[0]]
    [(found, score), (_, second)] = store.similarity_search_with_score("red boat", k=2)
    assert found == DOCUMENTS[0]
    assert 0 <= second < score <= 1
    assert store.similarity_search_with_relevance_scores("red boat", k=1) == [(found, score)]


def test_filters_and_diversity(memos: MemOS) -> None:
    store = MemOSVectorStore(memos)
    store.add_documents(DOCUMENTS)
    assert store.similarity_search("red boat", filter={"kind": "car"}) == [DOCUMENTS[2]]
    assert store.similarity_search("red boat", filter=lambda d: "again" in d.page_content) == [DOCUMENTS[1]]
    diverse = store.max_marginal_relevance_search("red boat", k=2, lambda_mult=0.1)
    assert diverse == [DOCUMENTS[0], DOCUMENTS[2]]
    assert (
        store.as_retriever(search_type="mmr", search_kwargs={"k": 2, "lambda_mult": 0.1}).invoke("red boat")
        == diverse
    )


def test_searching_by_a_vector(memos: MemOS) -> None:
    store = MemOSVectorStore(memos.scoped(user="maya"))
    memos.scoped(user="tom").write("the heron eats fish")
    memos.scoped(user="maya").write("a heron is a memory here and no document")
    store.add_texts(
        ["the heron eats", "the heron eats at dawn", "a boat sails"], [{"n": n} for n in range(3)]
    )
    assert store.embeddings is not None
    vector = store.embeddings.embed_query("the heron eats")
    by_text, by_vector = (
        store.similarity_search("the heron eats", k=2),
        store.similarity_search_by_vector(vector, k=2),
    )
    assert by_text == by_vector
    assert store.similarity_search_by_vector([5 * x for x in vector], k=2) == by_vector
    [found] = store.similarity_search_by_vector(vector, k=9, filter={"n": 1})
    assert found.page_content == "the heron eats at dawn"
    assert store.max_marginal_relevance_search_by_vector(vector, k=2, lambda_mult=0.1) == (
        store.max_marginal_relevance_search("the heron eats", k=2, lambda_mult=0.1)
    )
    for wrong in (vector[:-1], [0.0] * len(vector), [float("nan")] * len(vector), [*vector, 1.0]):
        with pytest.raises(InvalidArgument, match=r"^vector must be"):
            store.similarity_search_by_vector(wrong)
    with MemOS.open(":memory:", embedder=None) as plain, pytest.raises(InvalidArgument, match=r"no embedder"):
        MemOSVectorStore(plain).similarity_search_by_vector(vector)


def test_collections_and_users_are_apart(memos: MemOS) -> None:
    maya, bob = memos.scoped(user="maya"), memos.scoped(user="bob")
    one, two = MemOSVectorStore(maya), MemOSVectorStore(maya, namespace=("notes",))
    other = MemOSVectorStore(bob)
    one.add_documents(DOCUMENTS[:1])
    two.add_documents(DOCUMENTS[2:])
    assert two.similarity_search("red boat") == [DOCUMENTS[2]]
    assert (other.similarity_search("red boat"), other.get_by_ids(["1"])) == ([], [])
    other.delete(["1"])
    other.delete()
    two.delete()
    assert (two.similarity_search("red"), one.get_by_ids(["1"])) == ([], DOCUMENTS[:1])
    # What a user has stored is that user's memory.
    assert [d.page_content for d in MemOSRetriever(memos=maya).invoke("boat")] == ["a red boat"]
    assert MemOSRetriever(memos=bob).invoke("boat") == []


def test_adding_is_all_or_nothing_and_the_last_of_an_id_counts(memos: MemOS) -> None:
    store = MemOSVectorStore(memos)
    with pytest.raises(InvalidArgument, match="content must be JSON"):
        store.add_documents([DOCUMENTS[0], Document("x", metadata={"at": object()})])
    assert store.get_by_ids(["1"]) == []
    store.add_documents([DOCUMENTS[0], Document(id="1", page_content="a blue boat")])
    assert store.get_by_ids(["1"])[0].page_content == "a blue boat"
    with pytest.raises(InvalidArgument, match=r"^ids must be one for each document"):
        store.add_documents(DOCUMENTS, ids=["1"])
    with pytest.raises(InvalidArgument, match=r"^namespace must name"):
        MemOSVectorStore(memos, namespace=())


def test_from_texts(memos: MemOS) -> None:
    store = MemOSVectorStore.from_texts(
        ["a boat"], MemOSEmbeddings(memos), [{"n": 1}], ids=["a"], memos=memos
    )
    assert store.get_by_ids(["a"]) == [Document(id="a", page_content="a boat", metadata={"n": 1})]
    with pytest.raises(InvalidArgument, match=r"^embedding must be left out.*MemOS\.open\(embedder="):
        MemOSVectorStore.from_texts(["a"], DeterministicFakeEmbedding(size=3), memos=memos)
    with pytest.raises(InvalidArgument, match=r"^memos must be"):
        MemOSVectorStore.from_texts(["a"])


# -- caches --------------------------------------------------------------------------------------------------


class Counting(SimpleChatModel):
    """Each reply is another one."""

    asked: Any  # a list, shared: pydantic would copy one

    @property
    def _llm_type(self) -> str:
        return "counting"

    def _call(self, *args: Any, **kwargs: Any) -> str:
        self.asked.append(1)
        return f"reply {len(self.asked)}"


async def test_a_reply_is_given_again_after_a_restart_and_to_nobody_else(open_memos: Open) -> None:
    asked: list[int] = []

    def model(memos: MemOS, user: str) -> Counting:
        return Counting(asked=asked, cache=MemOSCache(memos.scoped(user=user)))

    first = open_memos()
    assert [model(first, "maya").invoke(text).text for text in ("hello", "hello", "well")] == [
        "reply 1",
        "reply 1",
        "reply 2",
    ]
    first.close()
    memos = open_memos()
    assert (await model(memos, "maya").ainvoke("hello")).text == "reply 1"
    assert model(memos, "bob").invoke("hello").text == "reply 3"
    MemOSCache(memos.scoped(user="maya")).clear()
    assert [model(memos, user).invoke("hello").text for user in ("maya", "bob")] == ["reply 4", "reply 3"]


def test_messages_come_back_whole(memos: MemOS, caplog: pytest.LogCaptureFixture) -> None:
    calls = [{"name": "f", "args": {"a": [1, None]}, "id": "c", "type": "tool_call"}]
    message = AIMessage(
        "hi", tool_calls=calls, usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
    )
    kept = [ChatGeneration(message=message, generation_info={"finish_reason": "stop"}), Generation(text="x")]
    cache = MemOSCache(memos)
    cache.update("p", "m", kept)
    assert cache.lookup("p", "m") == kept
    assert (cache.lookup("p", "other"), cache.lookup("q", "m")) == (None, None)
    cache.update("r", "m", [Generation(text="x", generation_info={"at": object()})])
    assert "a reply is not kept: return_val must be JSON" in caplog.text
    assert (cache.lookup("p", "m"), cache.lookup("r", "m")) == (kept, None)


def test_a_near_prompt_gets_the_reply_of_the_same_model_only(memos: MemOS) -> None:
    cache = MemOSSemanticCache(memos.scoped(user="maya"), similarity=0.8)
    kept = [Generation(text="Petrel")]
    cache.update("what is the name of my boat", "m", kept)
    assert cache.lookup("what is the name of my old boat", "m") == kept
    assert cache.lookup("what is the name of my old boat", "other") is None
    assert cache.lookup("boat", "m") is None  # a word in common is not enough
    assert cache.lookup("", "m") is None
    other = MemOSSemanticCache(memos.scoped(user="bob"), similarity=0.8)
    assert other.lookup("what is the name of my boat", "m") is None


def test_replies_are_no_memories(memos: MemOS) -> None:
    maya = memos.scoped(user="maya")
    MemOSSemanticCache(maya).update("where is my boat", "m", [Generation(text="in Oslo")])
    assert maya.recall("where is my boat") == []
    assert maya.prompt([{"role": "user", "content": "where is my boat"}], k=5).recalled == ()
    maya.turn_finished()
    memos.scheduler.wait_idle()
    assert memos.scheduler.resident(maya.scope) == []


def test_ttl_and_arguments(memos: MemOS) -> None:
    cache = MemOSCache(memos, ttl=timedelta(days=1))
    cache.update("p", "m", [Generation(text="x")])
    [kept] = memos.find(types=["cache"])
    assert kept.header.governance.ttl == timedelta(days=1)
    assert json.dumps(kept.json_data)
    for bad in ({"ttl": timedelta(0)}, {"ttl": 60}):
        with pytest.raises(InvalidArgument, match=r"^ttl must be"):
            MemOSCache(memos, **bad)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match=r"^similarity must be"):
        MemOSSemanticCache(memos, similarity=2)
