"""Small mem0 programs, as its documentation and its users write them, each run with mem0ai and then with only the
import and the constructor changed. What they return must be the same."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.embeddings import Embeddings
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from support import bag_of_words

from mem0_memos import AsyncMemory, Memory

_HOME = tempfile.TemporaryDirectory(prefix="mem0-")
os.environ.setdefault("MEM0_TELEMETRY", "False")  # read by mem0 when it is imported
os.environ.setdefault("MEM0_DIR", _HOME.name)


class Words(Embeddings):
    """The vectors of a bag of words."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return bag_of_words(texts)

    def embed_query(self, text: str) -> list[float]:
        return bag_of_words([text])[0]


class Model(BaseChatModel):
    """The model that people pay for: finds every sentence of the user's last message worth remembering."""

    @property
    def _llm_type(self) -> str:
        return "sentences"

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        known = ("I like hiking", "Luna is my cat", "I work in Turin")
        found = [{"text": f"User said: {text}"} for text in known if text in messages[-1].text]
        return ChatResult(generations=[ChatGeneration(message=AIMessage(json.dumps({"memory": found})))])


# -- the programs, each given an open memory -----------------------------------------------------------------


def a_chat_with_memory(memory: Any) -> Any:
    """mem0's quickstart: search, answer, add."""
    answers = []
    for said in ("I like hiking, what about you?", "Luna is my cat.", "What do I like? hiking?"):
        found = memory.search(query=said, filters={"user_id": "maya"}, top_k=3)
        known = "\n".join(f"- {entry['memory']}" for entry in found["results"])
        talk = [{"role": "user", "content": said}, {"role": "assistant", "content": f"I know: {known}"}]
        memory.add(talk, user_id="maya")
        answers.append(known)
    return answers, len(memory.get_all(filters={"user_id": "maya"})["results"])


def notes_of_a_user(memory: Any) -> Any:
    for n in range(5):
        memory.add(f"note number {n}", user_id="maya", metadata={"n": n, "kind": "note"}, infer=False)
    memory.add("a todo", user_id="maya", metadata={"kind": "todo"}, infer=False)
    wanted = {"AND": [{"user_id": "maya"}, {"kind": "note"}]}
    some = memory.get_all(filters={"user_id": "maya", "kind": "note", "n": {"gte": 2, "lt": 4}})
    return sorted(r["memory"] for r in some["results"]), sorted(wanted)


def a_correction(memory: Any) -> Any:
    added = memory.add("the meeting is on monday", user_id="maya", infer=False)
    memory_id = added["results"][0]["id"]
    answer = memory.update(memory_id=memory_id, text="the meeting is on friday")
    rows = memory.history(memory_id=memory_id)
    return (
        answer,
        memory.get(memory_id)["memory"],
        [(r["event"], r["old_memory"], r["new_memory"]) for r in rows],
    )


def sessions_and_agents(memory: Any) -> Any:
    memory.add("likes window seats", user_id="maya", agent_id="travel", run_id="trip", infer=False)
    memory.add("likes tea", user_id="maya", agent_id="kitchen", infer=False)
    memory.add("likes aisle seats", user_id="bob", agent_id="travel", infer=False)

    def found(**ids: str) -> list[str]:
        return sorted(r["memory"] for r in memory.search("likes", filters=ids, threshold=0.0)["results"])

    return (
        found(user_id="maya"),
        found(agent_id="travel"),
        found(user_id="maya", agent_id="travel"),
        found(run_id="trip"),
    )


def forgetting(memory: Any) -> Any:
    ids = [memory.add(f"secret {n}", user_id="maya", infer=False)["results"][0]["id"] for n in range(3)]
    memory.add("bob's", user_id="bob", infer=False)
    said = [memory.delete(memory_id=ids[0]), memory.delete_all(user_id="maya")]
    return (
        said,
        memory.get(ids[1]),
        memory.get_all(filters={"user_id": "maya"}),
        len(memory.get_all(filters={"user_id": "bob"})["results"]),
    )


def what_a_model_finds(memory: Any) -> Any:
    talk = [{"role": "user", "content": "I work in Turin and Luna is my cat."}]
    first = memory.add(talk, user_id="maya", metadata={"source": "chat"})
    again = memory.add(talk, user_id="maya")
    everything = memory.get_all(filters={"user_id": "maya"})["results"]
    return (
        [(r["memory"], r["event"]) for r in first["results"]],
        again,
        sorted((r["memory"], r["metadata"]["source"]) for r in everything),
    )


def mistakes(memory: Any) -> Any:
    raised = []
    for call in (
        lambda: memory.add("x"),
        lambda: memory.get_all(filters={}),
        lambda: memory.search("", filters={"user_id": "maya"}),
        lambda: memory.delete("0192f0c4-0000-7000-8000-000000000000"),
        lambda: memory.delete_all(),
        lambda: memory.search("x", filters={"user_id": "maya"}, threshold=3),
    ):
        with pytest.raises(Exception) as caught:  # noqa: PT011 - the two are compared
            call()
        raised.append((str(caught.value), getattr(caught.value, "error_code", None)))
    return raised


def what_expires(memory: Any) -> Any:
    memory.add("old offer", user_id="maya", infer=False, expiration_date="2020-01-31")
    memory.add("new offer", user_id="maya", infer=False, expiration_date="2999-01-31")
    shown = memory.search("offer", filters={"user_id": "maya"})["results"]
    hidden = memory.search("offer", filters={"user_id": "maya"}, show_expired=True)["results"]
    return [r["memory"] for r in shown], sorted((r["memory"], r["expiration_date"]) for r in hidden)


def a_service(memory: Any) -> Any:
    """As web services do, awaited. (Not many at a time: mem0's local Qdrant then fails within its transactions.)"""

    async def serve() -> Any:
        found = []
        for n in range(4):
            await memory.add(f"user {n} likes number {n}", user_id=f"u{n}", infer=False)
            hits = await memory.search("likes number", filters={"user_id": f"u{n}"})
            found.append([r["memory"] for r in hits["results"]])
        await memory.delete_all(user_id="u0")
        return found, [len((await memory.get_all(filters={"user_id": u}))["results"]) for u in ("u0", "u1")]

    return asyncio.run(serve())


# -- what is swapped -----------------------------------------------------------------------------------------

Open = Callable[[bool], Any]


@pytest.fixture
def theirs(tmp_path: Path) -> Iterator[Open]:
    """Opens mem0ai's `Memory` or, asked for it, `AsyncMemory`."""
    mem0 = pytest.importorskip("mem0.memory.main")
    pytest.importorskip("qdrant_client")
    opened = []

    def open_(is_async: bool) -> Any:
        where = {"path": str(tmp_path / "qdrant"), "embedding_model_dims": len(bag_of_words(["x"])[0])}
        config = {
            "vector_store": {"provider": "qdrant", "config": where},
            "embedder": {"provider": "langchain", "config": {"model": Words()}},
            "llm": {"provider": "langchain", "config": {"model": Model()}},
            "history_db_path": str(tmp_path / "history.db"),
        }
        opened.append((mem0.AsyncMemory if is_async else mem0.Memory).from_config(config))
        return opened[-1]

    yield open_
    for memory in opened:
        memory.vector_store.client.close()


@pytest.fixture
def ours(tmp_path: Path) -> Iterator[Open]:
    """The same with ours: the configuration is the one above, but for where the memories are."""
    opened = []

    def open_(is_async: bool) -> Any:
        config = {
            "url": tmp_path / "vault",
            "embedder": {"provider": "langchain", "config": {"model": Words()}},
            "llm": {"provider": "langchain", "config": {"model": Model()}},
        }
        opened.append((AsyncMemory if is_async else Memory).from_config(config))
        return opened[-1]

    yield open_
    for memory in opened:
        memory.close()


PROGRAMS = [
    a_chat_with_memory,
    notes_of_a_user,
    a_correction,
    sessions_and_agents,
    forgetting,
    what_a_model_finds,
    mistakes,
    what_expires,
    a_service,
]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_a_program_does_the_same_after_the_swap(
    program: Callable[[Any], Any], theirs: Open, ours: Open
) -> None:
    is_async = program is a_service
    assert program(ours(is_async)) == program(theirs(is_async))
