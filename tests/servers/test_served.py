"""A model behind a server that keeps KV itself: a real server (`TinyServer`) over a tiny random model."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

pytest.importorskip("torch", reason="the [hf] extra is not installed")
pytest.importorskip("openai", reason="the [server-models] extra is not installed")
pytest.importorskip("langchain_core", reason="the [langchain] extra is not installed")

from activation.tiny import make_model, make_tokenizer
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from scripted import scripted

from langchain_memos import ChatMemOS
from memos_core import MemOS
from memos_core.activation import ActivationEngine, GenerateOptions, LoadedModel, ServedEngine
from memos_core.cube import Scope
from memos_core.errors import InvalidArgument, ModelError

from .tiny_server import TinyServer, serving

FACT = "keeps the spare key of the boathouse under the third flowerpot from the left"
ALICE, BOB = Scope(user="alice"), Scope(user="bob")
SHORT = GenerateOptions(max_new_tokens=6)
ASK = [{"role": "user", "content": "Where is the key, and who knows about the boathouse? " * 4}]


@pytest.fixture
def local() -> ActivationEngine:
    tokenizer = make_tokenizer()
    return ActivationEngine(LoadedModel(make_model(len(tokenizer)), tokenizer, "tiny"))


@pytest.fixture
def server(local: ActivationEngine) -> Iterator[TinyServer]:
    with serving(TinyServer(local)) as running:
        yield running


def test_it_says_what_the_model_says(server: TinyServer, local: ActivationEngine) -> None:
    engine = ServedEngine(server.url)
    assert (engine.context_length, engine.about.name) == (2048, "tiny")
    for prompt in (ASK, "Alice likes"):
        text, usage = engine.generate(prompt, ALICE, SHORT)
        expected, local_usage = local.generate(prompt, BOB, SHORT)
        assert text == expected
        assert usage.finish_reason == local_usage.finish_reason
        assert (usage.prompt_tokens, usage.completion_tokens) == (
            local_usage.prompt_tokens,
            local_usage.completion_tokens,
        )


def test_users_do_not_share_what_the_server_keeps(server: TinyServer) -> None:
    engine = ServedEngine(server.url)
    assert engine.generate(ASK, ALICE, SHORT)[1].tier == "none"
    again = engine.generate(ASK, ALICE, SHORT)[1]
    assert again.tier == "server"
    assert again.cached_tokens == again.prompt_tokens - 1
    assert engine.generate(ASK, BOB, SHORT)[1].cached_tokens == 0
    assert engine.generate(ASK, ALICE, GenerateOptions(max_new_tokens=6, reuse=False))[1].cached_tokens == 0
    assert engine.stats() == {
        "requests": 4,
        "hits": 1,
        "misses": 3,
        "tokens_saved": again.cached_tokens,
        "cancelled": 0,
    }
    assert "alice" not in str(server.bodies)


def test_the_scheduler_has_the_server_read_what_the_next_prompt_begins_with(server: TinyServer) -> None:
    with MemOS.open(":memory:", embedder=None, model=server.url) as memos:
        assert isinstance(memos.generator, ServedEngine)
        view = memos.scoped(user="alice")
        view.write(f"alice {FACT}")
        view.turn_finished()
        assert memos.scheduler.wait_idle()
        plan, build = view.explain()
        assert (plan.action, build.action) == ("plan", "build")
        model = ChatMemOS(memos=memos.scoped(user="alice", session="s"), max_tokens=4)
        usage = model.invoke("Where is the key?").usage_metadata
        assert usage
        assert usage["input_token_details"]["cache_read"] > build.tokens - 15
        assert memos.find(namespace=("kv",)) == []  # nothing of it is ours to record
        with pytest.raises(InvalidArgument, match="generator"):
            memos.engine  # noqa: B018


def test_a_new_process_has_it_read_again(
    server: TinyServer, local: ActivationEngine, tmp_path: object
) -> None:
    with MemOS.open(f"{tmp_path}/v", embedder=None) as memos:
        view = memos.scoped(user="alice")
        view.write(f"alice {FACT}")
        view.turn_finished()
        assert memos.scheduler.wait_idle()
    with MemOS.open(f"{tmp_path}/v", embedder=None, model=server.url) as memos:
        memos.generator  # noqa: B018 - loads it
        assert memos.scheduler.wait_idle()
        [build] = memos.explain()
        assert build.reason.startswith("alice was active")
        view = memos.scoped(user="alice", session="new")
        prompt = view.prompt([{"role": "user", "content": "Where is the key?"}], k=0)
        assert memos.generator.generate(prompt.messages, view.scope, SHORT)[1].cached_tokens > 30


def test_what_was_computed_from_an_erased_memory_is_not_hit_again(server: TinyServer) -> None:
    with MemOS.open(":memory:", embedder=None, model=server.url) as memos:
        view = memos.scoped(user="alice")
        cube = view.write(f"alice {FACT}")
        memos.generator.generate(ASK, view.scope, SHORT)
        memos.generator.generate(ASK, BOB, SHORT)
        view.erase(cube.id)
        assert memos.generator.generate(ASK, view.scope, SHORT)[1].cached_tokens == 0
        assert memos.generator.generate(ASK, BOB, SHORT)[1].cached_tokens > 0


async def test_async_streams_stop_strings_and_cancelling(server: TinyServer, local: ActivationEngine) -> None:
    engine = ServedEngine(server.url)
    expected, _ = local.generate(ASK, BOB, GenerateOptions(max_new_tokens=12))
    pieces = [c.text async for c in engine.astream(ASK, ALICE, GenerateOptions(max_new_tokens=12))]
    assert "".join(pieces) == expected
    stop = expected[3:6]
    text, usage = engine.generate(ASK, ALICE, GenerateOptions(max_new_tokens=12, stop=(stop,)))
    assert text == expected[: expected.find(stop)]
    assert usage.finish_reason == "stop"
    _, usage = engine.generate(ASK, ALICE, SHORT, cancelled=lambda: True)
    assert usage.finish_reason == "cancelled"
    before = engine.stats()["cancelled"]
    stream = engine.astream(ASK, ALICE, SHORT)
    await anext(stream)
    await stream.aclose()
    assert engine.stats()["cancelled"] == before + 1
    await asyncio.gather(*(anext(engine.astream(ASK, ALICE, SHORT)) for _ in range(4)))


def test_a_server_that_is_not_there_is_named_and_disturbs_nobody() -> None:
    engine = ServedEngine("http://127.0.0.1:9/v1", "tiny", api_key="secret-key")
    with pytest.raises(ModelError, match=r"http://127.0.0.1:9/v1 does not answer .* is the server there"):
        engine.generate(ASK, ALICE)
    assert "secret-key" not in repr(engine)
    with MemOS.open(":memory:", embedder=None, model=engine) as memos:
        memos.generator  # noqa: B018 - loads it
        view = memos.scoped(user="alice")
        view.write(f"alice {FACT}")
        view.turn_finished()
        assert memos.scheduler.wait_idle()
        assert "error" in [d.action for d in view.explain()]
        with pytest.raises(ModelError, match="is the server there"):
            ChatMemOS(memos=memos.scoped(user="alice", session="s")).invoke("Where is the key?")
    for url in ("localhost:8000", ""):
        with pytest.raises(InvalidArgument, match="base_url"):
            ServedEngine(url)


def test_a_reply_that_is_cut_is_an_error(server: TinyServer) -> None:
    server.breaks_after = 2
    stream = ServedEngine(server.url).stream(ASK, ALICE, SHORT)
    with pytest.raises(ModelError, match="in the middle"):
        list(stream)


def test_another_model_and_an_empty_prompt_are_refused(server: TinyServer) -> None:
    with pytest.raises(ModelError, match=r"no model 'huge'; it has: tiny"):
        ServedEngine.from_url(f"{server.url}#huge").generate(ASK, ALICE)
    with pytest.raises(InvalidArgument, match="empty"):
        ServedEngine(server.url).stream([], ALICE)


def test_where_there_is_no_salt_that_is_said(
    local: ActivationEngine, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(TinyServer(local, owner="llamacpp")) as server:
        engine = ServedEngine(server.url, api_key="secret-key")
        for _ in range(2):
            engine.generate(ASK, ALICE, SHORT)
        assert "cache_salt" not in server.bodies[-1]
        assert [r.levelname for r in caplog.records if "cache_salt" in r.message] == ["WARNING"]
        assert server.keys[-1] == "Bearer secret-key"
        assert "secret-key" not in caplog.text
        ServedEngine(server.url, cache_salt=True).generate(ASK, ALICE, SHORT)
        assert "cache_salt" in server.bodies[-1]


@tool
def weather(city: str) -> str:
    """What the weather is like in a city."""
    return f"rain in {city}"


@pytest.fixture
def caller() -> Iterator[TinyServer]:
    """A server whose model calls the tool when it is asked about rain, and says what came of it."""
    model = scripted({"rain?": ("weather", {"city": "Bergen, æøå"})}, otherwise="It rains.")
    with serving(TinyServer(ActivationEngine(model))) as running:
        yield running


@pytest.mark.parametrize("is_async", [False, True])
async def test_an_agent_calls_tools_through_a_server(caller: TinyServer, is_async: bool) -> None:
    with MemOS.open(":memory:", model=caller.url, embedder=None) as memos:
        model = ChatMemOS(memos=memos.scoped(user="alice", session="s"), max_tokens=200)
        agent = create_agent(model, [weather])
        asked = {"messages": [HumanMessage("Will it rain?")]}
        found = await agent.ainvoke(asked) if is_async else agent.invoke(asked)
        _, call, result, answer = found["messages"]
    assert [(c["name"], c["args"]) for c in call.tool_calls] == [("weather", {"city": "Bergen, æøå"})]
    assert call.response_metadata["finish_reason"] == "tool_calls"
    assert (result.content, answer.text) == ("rain in Bergen, æøå", "It rains.")
    sent = [body for body in caller.bodies if body.get("stream")]
    assert [t["function"]["name"] for t in sent[0]["tools"]] == ["weather"]
    assert sent[1]["messages"][-1]["tool_call_id"] == call.tool_calls[0]["id"]


def test_a_tool_can_be_demanded_and_an_unknown_one_not(caller: TinyServer) -> None:
    with MemOS.open(":memory:", model=caller.url, embedder=None) as memos:
        model = ChatMemOS(memos=memos, max_tokens=4)
        cut = model.bind_tools([weather], tool_choice="weather").invoke("Hello")
        assert caller.bodies[-1]["tool_choice"] == {"type": "function", "function": {"name": "weather"}}
        assert cut.tool_calls == []  # cut off after four tokens: never a call with half its arguments
        assert [call["name"] for call in cut.invalid_tool_calls] == ["weather"]
        model.bind_tools([weather], tool_choice="any").invoke("Hello")
        assert caller.bodies[-1]["tool_choice"] == "required"
        with pytest.raises(InvalidArgument, match=r"tool_choice"):
            model.bind_tools([weather], tool_choice="climate")
