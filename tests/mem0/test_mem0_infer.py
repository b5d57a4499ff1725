"""`add(infer=True)` with language models. The models are scripted, because those that people pay for cannot be had
here; what stands between (LangChain, the openai client, HTTP) is real."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mem0_kit import embed, texts

from mem0_memos import AsyncMemory, LLMError, Memory
from mem0_memos.inference import read_reply
from memos_core.errors import InvalidArgument, MemOSError
from memos_core.memos import MemOS

ALICE: dict[str, Any] = {"user_id": "alice"}
REPLY = json.dumps(
    {
        "memory": [
            {"text": "Alice moved to Oslo in May 2024.", "attributed_to": "user"},
            {"text": "The assistant will book a hotel.", "attributed_to": "assistant"},
        ]
    }
)


class Model:
    """A language model that says what it is told to and keeps what it was asked."""

    def __init__(self, *replies: str | Exception) -> None:
        self.replies, self.asked = list(replies), []

    def __call__(self, messages: list[dict[str, str]]) -> str:
        self.asked.append(messages)
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, Exception):
            raise reply
        return reply


def test_one_call_finds_memories(memos: MemOS) -> None:
    model = Model(REPLY)
    memory = Memory(memos, llm=model)
    memory.add("Alice has a dog.", user_id="alice", infer=False)
    memory.add("Bob has a dog.", user_id="bob", infer=False)
    talk = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "I moved to Oslo last month, with my dog."},
        {"role": "assistant", "content": "I will book a hotel."},
    ]
    added = memory.add(talk, user_id="alice", timestamp="2024-06-03", metadata={"topic": "travel"})
    assert [(r["memory"], r["event"]) for r in added["results"]] == [
        ("Alice moved to Oslo in May 2024.", "ADD"),
        ("The assistant will book a hotel.", "ADD"),
    ]
    (system, user) = model.asked[0]
    told = json.loads(user["content"])
    assert told["observation_date"] == "2024-06-03"
    assert told["known_memories"] == ["Alice has a dog."]  # nobody else's
    assert [m["role"] for m in told["messages"]] == ["system", "user", "assistant"]
    assert "JSON" in system["content"]
    moved, hotel = (memory.get(r["id"]) for r in added["results"])
    assert moved is not None
    assert hotel is not None
    assert (moved["attributed_to"], hotel["attributed_to"]) == ("user", "assistant")
    assert moved["metadata"] == {"topic": "travel"}
    assert moved["created_at"] == "2024-06-03T00:00:00+00:00"
    assert memory.add(talk, user_id="alice") == {"results": []}  # the same again
    assert len(model.asked) == 2


def test_what_a_model_finds_is_typed(memos: MemOS) -> None:
    memory = Memory(memos, llm=Model('{"memory": [{"text": "I love green tea."}, {"text": "Bo is a dog."}]}'))
    memory.add("…", user_id="alice")
    assert [c.semantic_type for c in memos.scoped(user="alice").find()] == ["preference", "fact"]


def test_instructions_and_agents(memos: MemOS) -> None:
    model = Model('{"memory": []}')
    memory = Memory(memos, {"llm": model, "custom_fact_extraction_prompt": "Only about food."})
    memory.add("hello", user_id="alice")
    memory.add("hello", user_id="alice", prompt="Only about cars.")
    memory.add("hello", agent_id="cook")
    told = [json.loads(asked[1]["content"]).get("instructions") for asked in model.asked]
    assert told == ["Only about food.", "Only about cars.", "Only about food."]
    assert "assistant's own" in model.asked[2][0]["content"]
    assert "assistant's own" not in model.asked[0][0]["content"]


def test_an_unreachable_model_stores_nothing_and_says_so(memos: MemOS) -> None:
    memory = Memory(memos, llm=Model(ConnectionError("down"), REPLY))
    with pytest.raises(LLMError, match=r"down") as caught:
        memory.add("I love tea.", user_id="alice")
    assert (caught.value.error_code, type(caught.value.__cause__)) == ("LLM_001", ConnectionError)
    assert isinstance(caught.value, MemOSError)
    assert memory.get_all(filters=ALICE) == {"results": []}
    assert len(memory.add("I love tea.", user_id="alice")["results"]) == 2  # the same call, tried again


def test_an_unreadable_reply_loses_no_plain_statement(memos: MemOS, caplog: pytest.LogCaptureFixture) -> None:
    memory = Memory(memos, llm=Model("I would rather not."))
    added = memory.add("I love green tea. What time is it?", user_id="alice")
    assert [r["memory"] for r in added["results"]] == ["I love green tea."]
    assert "no list of memories" in caplog.text


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ('{"memory": [{"text": "a"}, {"text": "b"}]}', ["a", "b"]),
        ('```json\n{"memory": [{"text": "a"}]}\n```', ["a"]),
        ('<think>{"memory": [{"text": "no"}]}</think>\n{"memory": [{"text": "a"}]}', ["a"]),
        ('Sure! Here it is: {"memory": [{"text": "a"}]} Anything else?', ["a"]),
        ('{"memory": [{"text": "a"}, {"text": "b"}, {"te', ["a", "b"]),
        ('{"memory": [{"text": "a"},]}', ["a"]),
        ('{"memory": [{"text": "line\nbreak"}]}', ["line\nbreak"]),
        ('{"facts": ["a", "b", "a"]}', ["a", "b"]),
        ('["a", {"memory": "b"}]', ["a", "b"]),
        ('{"memory": ["a", 1, null, {"text": ""}, {"text": 3}]}', ["a"]),
        ("- a\n* b\n2. c", ["a", "b", "c"]),
        ('{"memory": []}', []),
        ("{}", []),
        ("", None),
        ("<think>hm</think>", None),
        ("Nothing to remember.", None),
        ("{'memory': ", None),
        ("[" * 100_000, None),
    ],
)
def test_replies(reply: str, found: list[str] | None) -> None:
    read = read_reply(reply)
    assert (None if read is None else [f.text for f in read]) == found


@given(st.text(max_size=80), st.lists(st.text("ab{[\"'", min_size=1), max_size=3), st.integers(0, 60))
def test_any_reply_is_read(noise: str, memories: list[str], cut: int) -> None:
    whole = json.dumps({"memory": [{"text": m} for m in memories]})
    read = read_reply(whole)
    assert read is not None
    assert [f.text for f in read] == list(dict.fromkeys(m.strip() for m in memories if m.strip()))
    read_reply(noise)  # whatever it is, no exception
    part = read_reply(whole[:cut])
    assert part is None or {f.text for f in part} <= {m.strip() for m in memories} | {"text", "memory"}


def test_procedural_memory(memos: MemOS) -> None:
    model = Model("```\n1. Opened the shop. 2. Bought tea.\n```", "  ")
    memory = Memory(memos, llm=model)
    how = {"agent_id": "buyer", "memory_type": "procedural_memory"}
    (added,) = memory.add("bought", **how, prompt="Write it down.", metadata={"k": 1})["results"]
    assert added["memory"] == "1. Opened the shop. 2. Bought tea."
    assert model.asked[0][0] == {"role": "system", "content": "Write it down."}
    assert model.asked[0][-1]["content"] == "Create procedural memory of the above conversation."
    item = memory.get(added["id"])
    assert item is not None
    assert item["metadata"] == {"k": 1, "memory_type": "procedural_memory"}
    with pytest.raises(LLMError, match=r"wrote nothing"):
        memory.add("bought", **how)
    with pytest.raises(InvalidArgument, match=r"pass llm="):
        Memory(memos).add("bought", **how)


async def test_async_and_a_langchain_model(memos: MemOS) -> None:
    fakes = pytest.importorskip("langchain_core.language_models.fake_chat_models")
    model = fakes.FakeListChatModel(responses=[REPLY])
    memory = AsyncMemory(memos, llm={"provider": "langchain", "config": {"model": model}})
    assert len((await memory.add("hello", user_id="alice"))["results"]) == 2
    assert len(texts(await memory.get_all(filters=ALICE))) == 2


class _Handler(BaseHTTPRequestHandler):
    """Just enough of OpenAI's API: one reply, and our embedder."""

    def log_message(self, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        key = self.headers["Authorization"] or self.headers["api-key"]
        self.server.seen.append((self.path, key, body))  # type: ignore[attr-defined]
        if urlsplit(self.path).path.endswith("/embeddings"):
            vectors = enumerate(embed(body["input"]))
            answer = {"object": "list", "data": [{"index": i, "embedding": v} for i, v in vectors]}
        else:
            message = {"role": "assistant", "content": REPLY}
            answer = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def _server() -> Iterator[tuple[str, list[Any]]]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.seen = []  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", server.seen  # type: ignore[attr-defined]
        server.shutdown()


@pytest.mark.parametrize("provider", ["openai", "ollama", "lmstudio", "vllm", "deepseek"])
def test_an_existing_configuration(
    tmp_path: Path, provider: str, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    pytest.importorskip("openai")
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_API_BASE"):
        monkeypatch.delenv(name, raising=False)
    with _server() as (url, seen):
        place = {f"{provider}_base_url": url.removesuffix("/v1") if provider == "ollama" else url}
        config = {
            "llm": {
                "provider": provider,
                "config": {**place, "model": "m", "api_key": "sk-llm", "temperature": 0.2},
            },
            "embedder": {
                "provider": "openai",
                "config": {"openai_base_url": url, "model": "e", "api_key": "sk-embed"},
            },
            "url": tmp_path / "vault",
        }
        with Memory.from_config(config) as memory:
            assert seen == []  # nothing is asked at construction
            assert len(memory.add("hello", user_id="alice")["results"]) == 2
            assert texts(memory.search("Oslo", filters=ALICE, top_k=1)) == [
                "Alice moved to Oslo in May 2024."
            ]
            assert "sk-" not in repr(memory.memos.embedder)
    assert not [w for w in recwarn.list if "no effect" in str(w.message)]
    chats = [(key, body) for path, key, body in seen if path.endswith("/chat/completions")]
    assert [(body["model"], body["temperature"]) for _, body in chats] == [("m", 0.2)]
    assert chats[0][0] == "Bearer " + (
        "none" if provider in ("ollama", "lmstudio", "vllm") else "sk-llm"
    ) or (chats[0][0] == "Bearer sk-llm")
    assert {body["model"] for path, _, body in seen if path.endswith("/embeddings")} == {"e"}
    stored = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert b"sk-llm" not in stored
    assert b"sk-embed" not in stored


@pytest.mark.parametrize(
    ("model", "sent"),
    [
        ("gpt-4.1-nano", {"temperature": 0.2, "top_p": 0.1, "max_tokens": 2000}),
        ("gpt-5.4-mini", {"temperature": 0.2, "top_p": 0.1, "max_completion_tokens": 2000}),
        ("openai/gpt-5", {"reasoning_effort": "low"}),
        ("o3-2025-04-16", {"reasoning_effort": "low"}),
    ],
)
def test_a_model_is_sent_what_it_takes(memos: MemOS, model: str, sent: dict[str, Any]) -> None:
    pytest.importorskip("openai")
    with _server() as (url, seen):
        config = {
            "openai_base_url": url,
            "model": model,
            "api_key": "k",
            "temperature": 0.2,
            "max_tokens": 2000,
        }
        if "reasoning_effort" in sent:
            config["reasoning_effort"] = "low"
        Memory(memos, {"llm": {"provider": "openai", "config": config}}).add("hello", user_id="alice")
    [(_, _, body)] = seen
    assert {k: v for k, v in body.items() if k not in ("model", "messages")} == {
        **sent,
        "response_format": {"type": "json_object"},
    }


def test_azure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder) -> None:
    pytest.importorskip("openai")
    for name in [name for name in os.environ if "AZURE" in name]:
        monkeypatch.delenv(name)
    with _server() as (url, seen):
        place = {"azure_endpoint": url.removesuffix("/v1"), "api_version": "2024-10-21"}
        llm = {"azure_kwargs": {**place, "api_key": "sk-llm", "azure_deployment": "mine"}, "model": "gpt-4o"}
        embedder = {"azure_kwargs": place, "model": "e", "embedding_dims": 64}
        config = {
            "llm": {"provider": "azure_openai", "config": llm},
            "embedder": {"provider": "azure_openai", "config": embedder},
            "url": tmp_path / "vault",
        }
        with Memory.from_config(config) as memory:
            with pytest.raises(InvalidArgument, match=r"EMBEDDING_AZURE_OPENAI_API_KEY"):
                memory.search("x", filters=ALICE)
            monkeypatch.setenv("EMBEDDING_AZURE_OPENAI_API_KEY", "sk-embed")
            assert len(memory.add("hello", user_id="alice")["results"]) == 2
            assert memory.search("Oslo", filters=ALICE, top_k=1)["results"]
    assert not [w for w in recwarn.list if "no effect" in str(w.message)]
    asked = {(urlsplit(path).path, key) for path, key, _ in seen}
    assert asked == {
        ("/openai/deployments/mine/chat/completions", "sk-llm"),
        ("/openai/deployments/e/embeddings", "sk-embed"),
    }
    assert {body["dimensions"] for path, _, body in seen if "embeddings" in path} == {64}


def test_openrouter_comes_first_where_its_key_is_set(memos: MemOS, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openai")
    monkeypatch.setenv("OPENROUTER_API_KEY", "sk-or")
    with _server() as (url, seen):
        config = {"openrouter_base_url": url, "openai_base_url": "http://localhost:1", "api_key": "sk-openai"}
        Memory(memos, {"llm": {"provider": "openai", "config": config}}).add("hello", user_id="alice")
    assert [key for _, key, _ in seen] == ["Bearer sk-or"]


def test_a_missing_key_is_named_when_it_is_needed(memos: MemOS, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openai")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    memory = Memory(memos, {"llm": {"provider": "openai", "config": {}}})
    with pytest.raises(LLMError, match=r"OPENAI_API_KEY"):
        memory.add("hello", user_id="alice")
    assert memory.add("hello", user_id="alice", infer=False)["results"]


@pytest.mark.parametrize("llm", [3, "gpt-5", {"provider": "aws_bedrock"}, {"provider": "langchain"}])
def test_no_llm(memos: MemOS, llm: Any) -> None:
    with pytest.raises(InvalidArgument, match=r"llm"):
        Memory(memos, llm=llm)


def test_a_model_of_another_api_is_named_in_the_warning(memos: MemOS) -> None:
    with pytest.warns(UserWarning, match=r"no effect: llm \(aws_bedrock\)$"):
        memory = Memory(memos, {"llm": {"provider": "aws_bedrock", "config": {"model": "x"}}})
    assert memory.add("I love tea.", user_id="alice")["results"]
