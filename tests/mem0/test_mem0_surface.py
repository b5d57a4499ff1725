"""The edges of mem0's surface: configurations that are changed in place, what its modules hold, errors, filters."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest
from mem0_kit import mem0_module, texts

from mem0_memos import AsyncMemory, LLMError, Memory
from mem0_memos import errors as ours
from mem0_memos.client import MemoryClient
from mem0_memos.configs import LlmConfig, MemoryConfig
from memos_core.errors import InvalidArgument
from memos_core.memos import MemOS

ALICE: dict[str, Any] = {"user_id": "alice"}


class Chat:
    """A chat model as LangChain's are called."""

    def invoke(self, messages: Any) -> str:
        return '{"memory": [{"text": "found by the model"}]}'


@pytest.mark.parametrize("theirs", [False, True])
@pytest.mark.parametrize("in_place", [False, True])
def test_what_is_set_in_a_configuration_is_used(tmp_path: Path, theirs: bool, in_place: bool) -> None:
    if theirs:
        mem0_module()
        from mem0.configs.base import MemoryConfig as Config
        from mem0.llms.configs import LlmConfig as Llm
    else:
        Config, Llm = MemoryConfig, LlmConfig
    config: Any = Config()
    if in_place:
        config.llm.provider = "langchain"
        config.llm.config = {"model": Chat()}
    else:
        config.llm = Llm(provider="langchain", config={"model": Chat()})
    with Memory(config, url=tmp_path / "v") as memory:
        assert texts(memory.add("hello", user_id="alice")) == ["found by the model"]


@pytest.mark.parametrize(
    "config",
    [
        {"llm": {"provider": None}},
        {"llm": {"provider": 5}},
        {"llm": {"provider": "openai", "config": "x"}},
        {"llm": {"provider": "langchain", "config": {}}},
        {"embedder": {"provider": None}},
        {"embedder": {"provider": "openai", "config": "x"}},
        {"embedder": {"provider": "langchain", "config": {}}},
        {"embedder": {"provider": "langchain", "config": {"model": "name"}}},
    ],
)
def test_a_configuration_that_means_nothing_is_refused(tmp_path: Path, config: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match=r"provider|config|llm must be"):
        Memory.from_config({**config, "url": str(tmp_path / "v")})


@pytest.mark.parametrize(
    "name", ["VectorStoreError", "EmbeddingError", "LLMError", "DatabaseError", "DependencyError"]
)
def test_errors_are_built_as_mem0s(name: str) -> None:
    mem0_module()
    import mem0.exceptions as theirs

    for arguments in (
        {},
        {"error_code": "X", "details": {"a": 1}, "suggestion": "s", "debug_info": {"b": 2}},
    ):
        got, expected = getattr(ours, name)("m", **arguments), getattr(theirs, name)("m", **arguments)
        for attribute in ("message", "error_code", "details", "suggestion", "debug_info"):
            assert getattr(got, attribute) == getattr(expected, attribute)


def test_a_procedure_that_the_model_does_not_write_is_a_value_error(memos: MemOS) -> None:
    memory = Memory(memos, llm=lambda messages: "")
    with pytest.raises(ValueError, match=r"wrote nothing") as caught:
        memory.add("x", agent_id="a", memory_type="procedural_memory")
    assert isinstance(caught.value, LLMError)


def test_a_procedure_is_told_everything_that_was_done(memos: MemOS) -> None:
    asked: list[Any] = []
    memory = Memory(memos, llm=lambda messages: asked.append(messages) or "Opened the page.")
    call = {"id": "c", "type": "function", "function": {"name": "open", "arguments": '{"page": 1}'}}
    talk = [
        {"role": "system", "content": "You are a browser."},
        {"role": "user", "content": "open it"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "opened", "tool_call_id": "c"},
    ]
    memory.add(talk, agent_id="a", memory_type="procedural_memory")
    told = asked[0][1:-1]
    assert [m["role"] for m in told] == ["system", "user", "assistant", "tool"]
    assert told[2] == {"role": "assistant", "content": "", "tool_calls": [call]}
    assert told[3] == {"role": "tool", "content": "opened", "tool_call_id": "c"}
    memory.add([talk[1], talk[3]], agent_id="a", memory_type="procedural_memory")
    assert asked[1][1:-1] == [
        {"role": "user", "content": "open it"},
        {"role": "user", "content": "[tool] opened"},  # of an answer to nothing, no model knows what to make
    ]


async def test_what_mem0_has_not_written_is_not_there_either(memos: MemOS) -> None:
    memory, other = Memory(memos), AsyncMemory(memos)
    with pytest.raises(NotImplementedError):
        memory.chat("hi")
    with pytest.raises(NotImplementedError):
        await other.chat("hi")
    with pytest.raises(ValueError, match=r"not supported"):
        memory.project.update(decay=True)
    with pytest.raises(ValueError, match=r"not supported"):
        await other.project.update(custom_instructions="x")


def test_an_id_may_be_a_uuid(memory: Memory) -> None:
    [added] = memory.add("x", user_id="alice", infer=False)["results"]
    id_: Any = uuid.UUID(added["id"])
    assert memory.get(id_) == memory.get(added["id"]) != None  # noqa: E711
    memory.delete(id_)
    assert memory.get(id_) is None


# -- filters ---------------------------------------------------------------------------------------------------


def test_paths_in_filters(memory: Memory) -> None:
    about = {"home": {"city": "Oslo"}, "items": [{"k": 1}, {"k": 2}], "a.b": "flat"}
    memory.add("x", user_id="alice", metadata=about, infer=False)
    for found, condition in (
        (1, {"home.city": "Oslo"}),
        (0, {"home.city": "Rome"}),
        (1, {"home.city": {"ne": "Rome"}}),
        (0, {"home.street": {"ne": "Rome"}}),
        (1, {"items[].k": 2}),
        (1, {"items[].k": {"gt": 1}}),
        (0, {"items[].k": {"gt": 2}}),
        (1, {"a.b": "flat"}),
        (0, {"home.city.name": "Oslo"}),
        (0, {"": "x"}),
    ):
        assert len(memory.get_all(filters={**ALICE, **condition})["results"]) == found, condition


def test_a_text_of_digits_is_no_number(memory: Memory) -> None:
    memory.add("x", user_id="alice", metadata={"n": "2"}, infer=False)
    assert memory.get_all(filters={**ALICE, "n": {"gt": 1}})["results"] == []
    assert memory.get_all(filters={**ALICE, "n": "2"})["results"]


@pytest.mark.parametrize(
    "filters",
    [
        {"AND": [{"user_id": 42}]},
        {"AND": [{"user_id": " 42 "}]},
        {"user_id": "42", "OR": [{"user_id": 42}, {"agent_id": "no"}]},
        {"user_id": 42, "AND": [{"user_id": {"in": [41, 42]}}]},
        {"AND": [{"OR": [{"user_id": 42}]}, {"user_id": 42}]},
    ],
)
def test_an_id_in_a_condition_is_compared_as_it_is_stored(memory: Memory, filters: dict[str, Any]) -> None:
    added: Any = {"user_id": 42}
    memory.add("x", **added, infer=False)
    memory.add("y", user_id="other", infer=False)
    assert texts(memory.get_all(filters=filters)) == ["x"]


def test_an_answer_without_a_reason_says_its_status() -> None:
    import httpx

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(404, json={"detail": None})

    client = MemoryClient(
        api_key="k", host="http://localhost:1", client=httpx.Client(transport=httpx.MockTransport(answer))
    )
    with pytest.raises(ours.MemoryError, match=r"^HTTP 404 error$"):
        client.get("x")


# -- models and moments ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ('Maybe {"memory": [{"text": "vegan"}]}? No.\n</think>\n\n{"memory": []}', []),
        ('<think>{"memory": [{"text": "vegan"}]}</think>{"memory": [{"text": "tea"}]}', ["tea"]),
        ('{"memory": [{"text": "tea"}]}<think>hm', ["tea"]),
        ("I'm sorry, I cannot help. You could:\n1. Rephrase it\n2. Contact support", None),
        ("Memories:\n- likes tea\n- has a dog\n", ["likes tea", "has a dog"]),
        ("1. likes tea\n\n2. has a dog", ["likes tea", "has a dog"]),
        ("- likes tea\nand that is all", None),
        ("I cannot save memories about this because:\n- It is private\n- It is long", None),
        (
            '{"memory":[{"text":"in Oslo"},{"text":"chokes on <think> tags"},{"text":"strips </think> tags"}]}',
            ["in Oslo", "chokes on <think> tags", "strips </think> tags"],
        ),
        ("I am sorry, see [1].", None),
        ("The set of new memories is {}, as always", None),
        ("No new memories: []", []),
        *((empty, []) for empty in ("[ ]", "{ }", "[[]]", '{"memory": {}}', '{"new_facts": []}')),
        ('{"memory":[{"text":"tea","facts":{"confidence":"0.9"}}]}', ["tea"]),
        ("New facts about the user:\n- likes tea", ["likes tea"]),
        ("Sure, here is what I would need:\n1. More context", None),
        ('{"memory": {"text": "likes tea"}}', ["likes tea"]),
    ],
)
def test_only_what_a_model_means_is_kept(reply: str, found: list[str] | None) -> None:
    from mem0_memos.inference import read_reply

    got = read_reply(reply)
    assert (got if got is None else [one.text for one in got]) == found


def test_a_model_that_says_nothing_leaves_it_to_the_rules(memos: MemOS) -> None:
    class Silent:
        def generate_response(self, messages: Any) -> None:
            return None

    memory = Memory(memos, llm=Silent())
    assert texts(memory.add("I like tea.", user_id="alice")) == ["I like tea."]


async def test_a_model_may_be_given_to_one_call(memos: MemOS) -> None:
    from langchain_core.language_models import FakeListChatModel

    talk = [
        {"role": "user", "content": "a"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "content": "r", "tool_call_id": "1"},
    ]
    chat = FakeListChatModel(responses=["Steps"])
    added = await AsyncMemory(memos).add(
        talk, user_id="u", agent_id="a", memory_type="procedural_memory", llm=chat
    )
    assert texts(added) == ["Steps"]


def test_settings_of_a_model_that_mean_nothing_here_are_named(tmp_path: Path) -> None:
    llm = {"provider": "openai", "config": {"model": "m", "api_key": "k", "store": True, "temperature": 0.5}}
    with pytest.warns(UserWarning, match=r"no effect: llm\.store$"):
        Memory.from_config({"llm": llm, "url": str(tmp_path / "v")}).close()


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:00:00-14:00"])
def test_a_moment_outside_of_time_is_refused(memory: Memory, moment: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^timestamp is no moment"):
        memory.add("x", user_id="alice", timestamp=moment, infer=False)
    with pytest.raises(InvalidArgument, match=r"^reference_date is no moment"):
        memory.search("x", filters=ALICE, reference_date=moment)


def test_clients_of_before_2_0_may_name_the_apis_version_by_place() -> None:
    import httpx

    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        return httpx.Response(200, json={"results": [], "count": 0, "next": None, "previous": None})

    def client(**how: Any) -> Any:
        transport = httpx.MockTransport(answer)
        return MemoryClient("k", "http://localhost:1", httpx.Client(transport=transport), **how)

    old: Any = client()
    old.search("q", "v2", filters={"user_id": "u"})
    old.get_all("v1", user_id="u")
    assert asked == ["/v3/memories/search/", "/v3/memories/"]
    with pytest.raises(AttributeError):
        client(strict=True).search("q", "v2", filters={"user_id": "u"})
