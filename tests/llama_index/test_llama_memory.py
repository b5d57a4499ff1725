"""MemOSMemory for LlamaIndex: the memory itself, and the chat engine around it."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_index.core.base.llms.types import (
    ChatMessage,
    CitationBlock,
    DocumentBlock,
    ImageBlock,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.llms.mock import MockLLM, MockLLMWithChatMemoryOfLastCall
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.memory.types import BaseMemory
from llama_index.core.schema import ImageDocument

import llama_index.memory
from llama_index.memory.memos import MemOSMemory, attach
from llama_index.memory.memos.messages import fit
from memos_core.cube import Fact
from memos_core.errors import AccessDenied, InvalidArgument
from memos_core.memos import MemOS

ROOT = Path(__file__).parents[2]
Open = Callable[[], MemOS]


def words(text: str) -> list[str]:
    """A tokenizer whose counts a reader can check."""
    return text.split()


def user(text: str) -> ChatMessage:
    return ChatMessage(role="user", content=text)


def assistant(text: str) -> ChatMessage:
    return ChatMessage(role="assistant", content=text)


def contents(messages: list[ChatMessage]) -> list[str | None]:
    return [m.content for m in messages]


@pytest.fixture
def memory(memos: MemOS) -> MemOSMemory:
    return MemOSMemory.from_defaults(memos=memos, user="alice", session="s")


# -- what it returns -----------------------------------------------------------------------------------------


def test_an_empty_memory_is_empty_and_true(memory: MemOSMemory) -> None:
    assert isinstance(memory, BaseMemory)
    assert memory.get() == memory.get("anything") == memory.get_all() == []
    memory.put_messages([])
    memory.set([])
    memory.reset()
    assert bool(memory)


def test_put_get_set_reset_as_the_buffer_does(memory: MemOSMemory) -> None:
    buffer = ChatMemoryBuffer.from_defaults()
    for each in (memory, buffer):
        each.put(user("Hello"))
        each.put_messages([assistant("Hi"), user("How are you?")])
    assert memory.get() == memory.get_all() == buffer.get() == buffer.get_all()
    for each in (memory, buffer):
        each.set([user("Anew"), assistant("Yes")])
    assert memory.get(input="and?") == buffer.get(input="and?")
    for each in (memory, buffer):
        each.reset()
    assert memory.get_all() == buffer.get_all() == []


async def test_the_async_methods_do_the_same(memory: MemOSMemory) -> None:
    await memory.aput(user("I keep bees."))
    await memory.aput_messages([assistant("Sweet."), user("Thanks")])
    assert contents(await memory.aget()) == ["I keep bees.", "Sweet.", "Thanks"]
    await memory.aset([user("Do I keep bees?")])
    assert contents(await memory.aget_all()) == ["Do I keep bees?"]
    assert contents(await memory.aget(input="bees"))[0] == "Relevant memories:\n- I keep bees."
    await memory.areset()
    assert await memory.aget_all() == []


def test_memories_of_other_sessions_are_recalled_in_one_system_message(memos: MemOS) -> None:
    MemOSMemory.from_defaults(memos=memos, user="alice").put(user("I live in Lisbon. I keep bees."))
    memory = MemOSMemory.from_defaults(memos=memos, user="alice", k=1)
    assert contents(memory.get("Where do I live?")) == ["Relevant memories:\n- I live in Lisbon."]
    assert memory.get("Where do I live?")[0].role == MessageRole.SYSTEM
    assert contents(memory.get(user("What do I keep?"))) == ["Relevant memories:\n- I keep bees."]
    memory.put(user("Where do I live?"))  # as SimpleChatEngine and agents do: put, then get() without input
    assert contents(memory.get()) == ["Relevant memories:\n- I live in Lisbon.", "Where do I live?"]
    quiet = MemOSMemory.from_defaults(memos=memos, user="alice", k=0)
    assert quiet.get("Where do I live?") == []


def test_recalled_facts_that_the_conversation_shows_are_not_repeated(memory: MemOSMemory) -> None:
    memory.memos.write(Fact(statement="I play chess."))
    memory.put_messages([user("By the way: I play the cello!"), assistant("Nice.")])
    shown = memory.get("What do I play?")
    assert contents(shown) == [
        "Relevant memories:\n- I play chess.",
        "By the way: I play the cello!",
        "Nice.",
    ]


def test_bob_never_sees_alice(memos: MemOS) -> None:
    alice = MemOSMemory.from_defaults(memos=memos, user="alice", session="same")
    alice.put(user("My password is swordfish."))
    for other in (
        MemOSMemory.from_defaults(memos=memos, user="bob", session="same"),
        MemOSMemory.from_defaults(memos=memos, session="same"),
    ):
        assert other.get("What is my password?") == other.get_all() == []
        other.set([user("mine")])
        other.reset()
    assert contents(alice.get_all()) == ["My password is swordfish."]


# -- the token limit -----------------------------------------------------------------------------------------

TOOL_TURN = [
    user("what is two and two"),
    ChatMessage(
        role="assistant", blocks=[ToolCallBlock(tool_call_id="1", tool_name="add", tool_kwargs={"a": 2})]
    ),
    ChatMessage(role="tool", content="4", additional_kwargs={"tool_call_id": "1"}),
    assistant("it is four"),
]


def test_whole_turns_are_kept_and_a_user_speaks_first(memos: MemOS) -> None:
    def limited(limit: int) -> list[ChatMessage]:
        memory = MemOSMemory.from_defaults(memos=memos, session="t", token_limit=limit, tokenizer_fn=words)
        return memory.get()

    history = [assistant("welcome"), user("first question here"), assistant("an answer"), *TOOL_TURN]
    MemOSMemory.from_defaults(memos=memos, session="t", chat_history=history)
    assert limited(1000) == history[1:]
    whole_turn = 5 + 3 + (1 + 2) + 3
    assert limited(whole_turn + 5) == history[1:]
    assert limited(whole_turn + 4) == limited(whole_turn) == TOOL_TURN
    assert limited(1) == TOOL_TURN  # too long alone: the model's own error names the problem
    system = ChatMessage(role="system", content="be brief")
    MemOSMemory.from_defaults(memos=memos, session="t", chat_history=[system, *history])
    assert limited(whole_turn + 6) == [system, *TOOL_TURN]
    assert limited(whole_turn + 7) == [system, *history[1:]] or limited(whole_turn + 7) == [
        system,
        *history[2:],
    ]


def test_initial_tokens_and_memories_count(memos: MemOS) -> None:
    memos.scoped(user="a").write(Fact(statement="I like green tea"))
    memory = MemOSMemory.from_defaults(memos=memos, user="a", token_limit=20, tokenizer_fn=words)
    memory.put_messages(
        [user("one two three four five"), assistant("six"), user("what tea"), assistant("green")]
    )
    assert contents(memory.get("tea"))[0] == "Relevant memories:\n- I like green tea"
    assert sum(len(words(str(m.content))) for m in memory.get("tea")) <= 20
    assert contents(memory.get("tea", initial_token_count=9)) == [
        "Relevant memories:\n- I like green tea",
        "what tea",
        "green",
    ]
    assert contents(memory.get("tea", initial_token_count=17)) == ["what tea", "green"]
    with pytest.raises(InvalidArgument, match=r"^initial_token_count=21 is above token_limit=20"):
        memory.get(initial_token_count=21)
    assert memory.get("tea", some_block_argument=1)


@settings(max_examples=200, deadline=None)
@given(
    roles=st.lists(st.sampled_from(["system", "user", "assistant", "tool"]), max_size=12),
    limit=st.integers(0, 40),
)
def test_any_window_is_a_suffix_that_begins_with_a_user(roles: list[str], limit: int) -> None:
    from llama_index.memory.memos.messages import count_tokens, fit

    history = [ChatMessage(role=role, content=f"{role} {i} x") for i, role in enumerate(roles)]
    shown = fit(history, limit, words)
    head = next((i for i, role in enumerate(roles) if role != "system"), len(roles))
    assert shown[:head] == history[:head]
    rest = shown[head:]
    assert rest == history[len(history) - len(rest) :]
    assert not rest or rest[0].role == MessageRole.USER
    assert bool(rest) == ("user" in roles[head:])
    if [m.role for m in rest].count(MessageRole.USER) > 1:
        assert sum(count_tokens(m, words) for m in shown) <= limit


# -- exactness -----------------------------------------------------------------------------------------------


def test_messages_come_back_exactly(open_memos: Open) -> None:
    messages = [
        ChatMessage(role="system", content="Be brief."),
        ChatMessage(
            role="user",
            blocks=[
                TextBlock(text="What is this?"),
                TextBlock(text=""),
                ImageBlock(image=b"\x89PNG\r\n\x1a\n0000", detail="low"),
                ImageBlock(url="https://example.org/cat.png"),
                DocumentBlock(data=b"a,b\n1,2", document_mimetype="text/csv", title="t.csv"),
            ],
            additional_kwargs={"name": "alice", "nested": {"a": [1, None, True, "é"]}},
        ),
        ChatMessage(
            role="assistant",
            blocks=[
                ThinkingBlock(content="hm", num_tokens=3, additional_information={"signature": "x"}),
                ToolCallBlock(tool_call_id="1", tool_name="look", tool_kwargs={"at": {"x": 1.5}}),
                ToolCallBlock(tool_call_id="2", tool_name="look", tool_kwargs='{"at": '),
                CitationBlock(
                    cited_content=TextBlock(text="c"),
                    source="s",
                    title="t",
                    additional_location_info={"page": 1},
                ),
            ],
        ),
        ChatMessage(role="tool", content="a cat", additional_kwargs={"tool_call_id": "1"}),
        ChatMessage(role="developer", content="x"),
        ChatMessage(role="assistant"),
    ]
    first = open_memos()
    MemOSMemory.from_defaults(memos=first, user="a", session="s").put_messages(messages)
    first.close()
    assert MemOSMemory.from_defaults(memos=open_memos(), user="a", session="s").get_all() == messages


def test_the_old_form_of_pictures_is_read_back_as_blocks(memory: MemOSMemory) -> None:
    picture = ImageDocument(image=b"aGVsbG8=")
    message = ChatMessage(role="user", content="see", additional_kwargs={"images": [picture], "n": 1})
    memory.put(message)
    [got] = memory.get_all()
    assert got.blocks == message.blocks
    assert got.additional_kwargs == {"n": 1}


_text = st.text(st.characters(exclude_categories=["Cs"]))
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_text, inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
_kwargs = st.dictionaries(_text.filter(lambda key: key != "images"), _json, max_size=3)
_block = st.one_of(
    st.builds(TextBlock, text=_text),
    st.builds(ThinkingBlock, content=_text, additional_information=_kwargs),
    st.builds(ToolCallBlock, tool_call_id=_text, tool_name=_text, tool_kwargs=_kwargs | _text),
)
_message = st.builds(
    ChatMessage,
    role=st.sampled_from(MessageRole),
    blocks=st.lists(_block, max_size=3),
    additional_kwargs=_kwargs,
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MemOS]:
    with MemOS.open(tmp_path_factory.mktemp("shared"), embedder=None) as memos:
        yield memos


@settings(max_examples=60, deadline=None)
@given(messages=st.lists(_message, min_size=1, max_size=4))
def test_any_messages_come_back_exactly(shared: MemOS, messages: list[ChatMessage]) -> None:
    memory = MemOSMemory.from_defaults(memos=shared, session="property")
    memory.set(messages)
    assert memory.get_all() == messages
    memory.get("any question")


def test_what_json_cannot_hold_is_refused_and_nothing_is_changed(memory: MemOSMemory) -> None:
    memory.put(user("stays"))
    message = ChatMessage(role="user", content="x", additional_kwargs={"x": object()})
    for write in (memory.put_messages, memory.set):
        with pytest.raises(InvalidArgument, match=r"^messages\[1\] must be JSON"):
            write([user("fine"), message])
    with pytest.raises(InvalidArgument, match=r"^messages\[0\] must be a ChatMessage, got str"):
        memory.put("text")  # type: ignore[arg-type]
    assert contents(memory.get_all()) == ["stays"]


def test_messages_of_other_adapters_are_read_by_role_and_text(memory: MemOSMemory) -> None:
    memory.memos.remember(
        [{"role": "user", "content": "Hi"}, {"role": "critic", "content": "hm", "raw": {"type": "chat"}}]
    )
    assert memory.get_all() == [user("Hi"), assistant("hm")]


# -- set, reset, restart, processes, threads -----------------------------------------------------------------


def test_set_and_reset_are_about_this_session_and_keep_facts(memos: MemOS) -> None:
    one = MemOSMemory.from_defaults(memos=memos, user="a", session="one")
    two = MemOSMemory.from_defaults(memos=memos, user="a", session="two", chat_history=[user("other")])
    one.put(user("I collect maps."))
    one.set([user("Hello")])
    one.set([user("Hello")])
    assert contents(one.get_all()) == ["Hello"]
    one.reset()
    assert contents(two.get_all()) == ["other"]
    assert contents(one.get("maps")) == ["Relevant memories:\n- I collect maps."]


def test_chat_history_replaces_and_an_empty_one_does_not(memos: MemOS) -> None:
    MemOSMemory.from_defaults(memos=memos, session="s", chat_history=[user("kept")])
    assert contents(MemOSMemory.from_defaults(memos=memos, session="s", chat_history=[]).get()) == ["kept"]
    assert contents(
        MemOSMemory.from_defaults(memos=memos, session="s", chat_history=[user("new")]).get()
    ) == ["new"]


def test_history_is_there_after_a_restart(open_memos: Open) -> None:
    first = open_memos()
    MemOSMemory.from_defaults(memos=first, user="a", session="s").put_messages(
        [user("Hi"), assistant("Hello")]
    )
    first.close()
    memory = MemOSMemory.from_defaults(memos=open_memos(), user="a", session="s")
    assert contents(memory.get()) == ["Hi", "Hello"]


def test_many_threads_lose_nothing(memory: MemOSMemory) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: memory.put_messages([user(f"q{i}"), assistant(f"a{i}")]), range(40)))
    assert sorted(map(str, contents(memory.get_all()))) == sorted(
        [f"q{i}" for i in range(40)] + [f"a{i}" for i in range(40)]
    )


# -- the locator ---------------------------------------------------------------------------------------------


def test_a_restored_memory_uses_the_vault_that_is_open(memory: MemOSMemory, memos: MemOS) -> None:
    memory.put(user("I keep bees."))
    stored = memory.to_dict()
    assert set(stored) == {
        "vault", "tenant", "user", "agent", "session", "embedder", "clearance", "token_limit", "k", "class_name"
    }  # fmt: skip
    restored = MemOSMemory.from_dict(stored)
    assert restored.get_all() == memory.get_all()
    assert restored.memos.scheduler is memos.scheduler
    for again in (copy.copy(memory), copy.deepcopy(memory), pickle.loads(pickle.dumps(memory))):
        again.put(user("more"))
        assert again.memos.scheduler is memos.scheduler
    assert contents(memory.get_all()) == ["I keep bees.", "more", "more", "more"]
    assert MemOSMemory.model_validate(memory.model_dump(mode="json")).get_all() == memory.get_all()


def test_a_restored_memory_opens_a_closed_vault_once(memory: MemOSMemory, memos: MemOS) -> None:
    memory.put(user("I keep bees."))
    stored = memory.to_json()
    memos.close()
    restored, other = MemOSMemory.from_json(stored), MemOSMemory.from_json(stored)
    assert contents(restored.get_all()) == ["I keep bees."]
    assert restored.memos.scheduler is other.memos.scheduler
    assert restored.memos.scheduler is not memos.scheduler
    assert contents(restored.get("bees")) == ["I keep bees."]
    # It acts for its user only, whatever the one that was serialised could do.
    with pytest.raises(AccessDenied):
        restored.memos.scoped(user="bob")
    # Without the embedder, which only that process has, it searches by words and leaves the vectors alone.
    assert restored.embedder == "none"


def test_attach_is_only_for_the_same_vault_and_scope(
    open_memos: Open, memory: MemOSMemory, tmp_path: Path
) -> None:
    stored = memory.to_dict()
    memory.memos.close()
    bobs, elsewhere, mine = (
        open_memos().scoped(user="bob"),
        MemOS.open(tmp_path / "other", embedder=None),
        open_memos(),
    )
    attach(bobs)
    attach(elsewhere)
    assert MemOSMemory.from_dict(stored).memos.scheduler not in (bobs.scheduler, elsewhere.scheduler)
    attach(mine)
    assert MemOSMemory.from_dict(stored).memos.scheduler is mine.scheduler
    elsewhere.close()


def test_a_vault_that_is_gone_is_not_made_anew(memory: MemOSMemory, tmp_path: Path) -> None:
    moved = MemOSMemory.from_dict({**memory.to_dict(), "vault": str(tmp_path / "moved")})
    with pytest.raises(InvalidArgument, match=r"^vault: .*moved does not exist here"):
        moved.get()
    assert not (tmp_path / "moved").exists()


def test_another_process_restores_it(memory: MemOSMemory) -> None:
    memory.put(user("I keep bees."))
    code = (
        "import sys\nfrom llama_index.memory.memos import MemOSMemory\n"
        "from llama_index.core.llms import ChatMessage\n"
        "m = MemOSMemory.from_json(sys.argv[1])\n"
        "m.put(ChatMessage(role='assistant', content=f'read {m.get_all()[0].content}'))\n"
    )
    subprocess.run([sys.executable, "-c", code, memory.to_json()], check=True, cwd=ROOT, timeout=120)
    assert contents(memory.get_all()) == ["I keep bees.", "read I keep bees."]


def test_a_vault_in_memory_cannot_be_serialised() -> None:
    with MemOS.open(":memory:", embedder=None) as memos:
        memory = MemOSMemory.from_defaults(memos=memos, user="a")
        memory.put(user("Hi"))
        for serialise in (memory.to_dict, memory.to_json, lambda: pickle.dumps(memory)):
            with pytest.raises(InvalidArgument, match="cannot be serialised: its vault is in memory"):
                serialise()
        with pytest.raises(InvalidArgument, match="cannot be restored: its vault is in memory"):
            MemOSMemory(**memory.model_dump(exclude={"class_name"})).get()
        assert contents(copy.deepcopy(memory).get()) == ["Hi"]


# -- construction --------------------------------------------------------------------------------------------


def test_scope_and_limits_of_from_defaults(memos: MemOS) -> None:
    view = memos.scoped(user="a", agent="planner", session="s")
    memory = MemOSMemory.from_defaults(memos=view)
    assert (memory.user, memory.agent, memory.session) == ("a", "planner", "s")
    with pytest.raises(AccessDenied):
        MemOSMemory.from_defaults(memos=view, user="b")
    one, two = MemOSMemory.from_defaults(memos=memos), MemOSMemory.from_defaults(memos=memos)
    assert one.session != two.session
    assert MemOSMemory.from_defaults(memos=memos, session_id="x").session == "x"
    llm = MockLLM()
    assert MemOSMemory.from_defaults(memos=memos, llm=llm).token_limit == int(
        llm.metadata.context_window * 0.75
    )
    with pytest.warns(UserWarning, match="MemOSMemory has no memory_blocks, token_flush_size; ignored"):
        MemOSMemory.from_defaults(memos=memos, memory_blocks=[], token_flush_size=3)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"token_limit": -5}, "token_limit"),
        ({"k": -1}, "k must"),
        ({"session": "a", "session_id": "b"}, "session='a' and session_id='b' differ"),
        ({"user": ""}, "user"),
        ({"memos": "vault"}, "memos must be an open MemOS"),
    ],
)
def test_wrong_arguments_are_one_clear_error(memos: MemOS, arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidArgument, match=f"^{named}"):
        MemOSMemory.from_defaults(**{"memos": memos, **arguments})


def test_the_default_vault_is_used_where_none_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMOS_VAULT", str(tmp_path / "env"))
    monkeypatch.setattr("memos_core.memos.resolve", lambda _: None)
    engine = SimpleChatEngine.from_defaults(llm=MockLLM(), memory_cls=MemOSMemory)
    engine.chat("Hello")
    assert contents(engine.chat_history)[0] == "Hello"
    assert (tmp_path / "env" / "vault.db").exists()


def test_the_namespace_stays_open() -> None:
    assert llama_index.__file__ is None
    assert llama_index.memory.__file__ is None


# -- the simple chat engine ----------------------------------------------------------------------------------


def engine_of(memos: MemOS, session: str) -> tuple[SimpleChatEngine, Any]:
    llm = MockLLMWithChatMemoryOfLastCall(is_chat_model=True, max_tokens=2)
    memory = MemOSMemory.from_defaults(memos=memos, user="alice", session=session)
    return SimpleChatEngine.from_defaults(llm=llm, memory=memory, system_prompt="Be kind."), llm


async def test_simple_chat_engine_sync_async_and_streaming(memos: MemOS) -> None:
    engine, _ = engine_of(memos, "one")
    engine.chat("I live in Lisbon.")
    await engine.achat("Really.")
    streamed = engine.stream_chat("Stream this")
    assert "".join(streamed.response_gen).strip()
    astreamed = await engine.astream_chat("And that")
    assert "".join([token async for token in astreamed.async_response_gen()]).strip()
    assert [m.role.value for m in engine.chat_history] == ["user", "assistant"] * 4
    assert contents(engine.chat_history)[::2] == ["I live in Lisbon.", "Really.", "Stream this", "And that"]
    other, other_llm = engine_of(memos, "two")
    other.chat("Where do I live?")
    assert contents(other_llm.last_chat_messages) == [
        "Be kind.",
        "Relevant memories:\n- I live in Lisbon.",
        "Where do I live?",
    ]
    engine.reset()
    assert engine.chat_history == []
    assert len(other.chat_history) == 2
    other.chat("Anew", chat_history=[user("was"), assistant("is")])
    assert contents(other.chat_history)[:3] == ["was", "is", "Anew"]


def test_it_needs_no_class_that_the_oldest_supported_release_has_not() -> None:
    """llama-index-core 0.13 has no blocks for tool calls, thinking and videos."""
    code = (
        "import llama_index.core, llama_index.core.base.llms.types as types\n"
        "for name in ('ToolCallBlock', 'ThinkingBlock', 'VideoBlock'):\n    delattr(types, name)\n"
        "import llama_index.memory.memos\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=120)


# -- long conversations --------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    heads=st.integers(0, 6),
    turns=st.lists(st.integers(1, 40), max_size=40),
    limit=st.sampled_from([1, 20, 300, 2_000, 100_000]),
)
def test_a_window_is_that_of_the_whole_conversation(
    shared: MemOS, heads: int, turns: list[int], limit: int
) -> None:
    """`get` reads the end of a conversation only: what it returns must not show."""
    memory = MemOSMemory.from_defaults(memos=shared, user="long", token_limit=limit, k=0)
    messages = [ChatMessage(role="system", content=f"rule {n}") for n in range(heads)]
    for n, size in enumerate(turns):
        roles = ["user", *["assistant", "system", "tool"][: size % 4]]
        messages += [ChatMessage(role=role, content=f"{n} " + "word " * size) for role in roles]
    if messages:
        memory.put_messages(messages)
    assert contents(memory.get()) == contents(fit(messages, limit, memory.tokenizer_fn))


def test_a_fact_whose_turn_the_note_pushes_out_stands_in_the_note(memos: MemOS) -> None:
    for n in range(6):
        memos.scoped(user="alice", session="old").write(f"Alice likes tea number {n} very much indeed.")
    memory = MemOSMemory.from_defaults(memos=memos, user="alice", session="new", k=12)
    fact = "My boat is called Petrel."
    memory.put_messages([user(fact), assistant("Nice."), user("Which tea, and what is my boat called?")])
    counted = {limit: _window(memory, limit) for limit in range(20, 200)}
    assert any(fact not in shown for shown, _ in counted.values())
    for limit, (shown, note) in counted.items():
        told = [*shown, note]
        assert sum(fact in text for text in told) <= 1, limit
        if fact not in shown and note and limit > 60:
            assert fact in note, limit


def _window(memory: MemOSMemory, limit: int) -> tuple[list[str], str]:
    memory.token_limit = limit
    got = memory.get()
    note = next((str(m.content) for m in got if m.role == MessageRole.SYSTEM), "")
    return [str(m.content) for m in got if m.role != MessageRole.SYSTEM], note


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda m: MemOSMemory(m, user="a"), "session must name"),
        (lambda m: MemOSMemory.from_dict({"vault": "x"}), "session must name"),
        (lambda m: MemOSMemory(m, session="s", token_limit=10.5), "token_limit"),
        (lambda m: MemOSMemory(m, session="s", k=True), "k must"),
        (lambda m: MemOSMemory(m, session="s", clearance=3), "clearance"),
    ],
)
def test_what_is_missing_is_one_error_of_ours(memos: MemOS, make: Any, named: str) -> None:
    with pytest.raises(InvalidArgument, match=f"^{named}"):
        make(memos)
    assert MemOSMemory(memos, session="s", token_limit=4096 * 0.75).token_limit == 3072
