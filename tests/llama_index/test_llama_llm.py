"""MemOSLLM with a tiny real model: LlamaIndex's interface, memory in the prompt, KV used again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from llama_index.core.agent.workflow import AgentStream, AgentWorkflow
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, MessageRole
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.chat_engine import SimpleChatEngine
from support import bag_of_words

from llama_index.memory.memos import MemOSLLM, MemOSMemory
from memos_core import MemOS
from memos_core.activation import GenerateOptions, LoadedModel
from memos_core.cube import Scope
from memos_core.errors import AccessDenied, InvalidArgument, MemOSError

ASKED = [
    ChatMessage(role="system", content="Be brief."),
    ChatMessage(role="user", content="What does Alice like?"),
]


@pytest.fixture
def memos(tmp_path: Path, loaded: LoadedModel) -> Iterator[MemOS]:
    with MemOS.open(tmp_path / "v", embedder=bag_of_words, index="exact", model=loaded) as opened:
        yield opened


@pytest.fixture
def llm(memos: MemOS) -> MemOSLLM:
    return MemOSLLM(memos=memos, user="alice", session="s", max_tokens=12)


def expected(memos: MemOS, messages: list[ChatMessage]) -> str:
    plain = [{"role": m.role.value, "content": m.content} for m in messages]
    options = GenerateOptions(max_new_tokens=12, reuse=False, keep=False)
    return memos.engine.generate(plain, Scope(user="nobody"), options)[0]


async def test_every_way_to_chat_says_the_same(memos: MemOS, llm: MemOSLLM) -> None:
    text = expected(memos, ASKED)
    assert text
    whole = llm.chat(ASKED)
    assert (whole.message.role, whole.message.content, whole.delta) == (MessageRole.ASSISTANT, text, None)
    assert (await llm.achat(ASKED)).message.content == text
    pieces = list(llm.stream_chat(ASKED))
    assert "".join(p.delta or "" for p in pieces) == pieces[-1].message.content == text
    pieces = [p async for p in await llm.astream_chat(ASKED)]
    assert "".join(p.delta or "" for p in pieces) == pieces[-1].message.content == text


async def test_every_way_to_complete_says_the_same(memos: MemOS, llm: MemOSLLM) -> None:
    engine = memos.engine
    ids = engine.tokenizer.encode("Alice likes")
    text = engine.generate(ids, Scope(user="nobody"), GenerateOptions(max_new_tokens=12, keep=False))[0]
    assert llm.complete("Alice likes").text == (await llm.acomplete("Alice likes")).text == text
    assert [p.text for p in llm.stream_complete("Alice likes")][-1] == text
    assert [p.text async for p in await llm.astream_complete("Alice likes")][-1] == text


def test_the_next_turn_begins_with_stored_kv(llm: MemOSLLM) -> None:
    first = llm.chat(ASKED)
    assert first.raw["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    second = llm.chat([*ASKED, first.message, ChatMessage(role="user", content="Where?")])
    assert second.raw["usage"]["prompt_tokens_details"]["cached_tokens"] > first.raw["usage"]["prompt_tokens"]
    assert second.raw["memos"]["kv_tier"] == "memory"


def test_memory_is_in_the_prompt_and_the_turn_is_remembered(memos: MemOS) -> None:
    alice = memos.scoped(user="alice")
    alice.write("Alice likes green tea")
    llm = MemOSLLM(memos=memos, user="alice", session="s", max_tokens=4, recall_k=2, remember=True)
    with_memory = llm.chat(ASKED).raw["usage"]["prompt_tokens"]
    bob = MemOSLLM(memos=memos, user="bob", session="s", max_tokens=4, recall_k=2)
    assert bob.chat(ASKED).raw["usage"]["prompt_tokens"] < with_memory
    assert next(c.text for c in alice.find(types=["message"])) == "What does Alice like?"
    assert memos.scheduler.wait_idle(60)
    assert [d.action for d in memos.scheduler.explain(alice.scope)][:1] == ["plan"]


def test_arguments_of_a_call_go_before_those_of_the_model(llm: MemOSLLM) -> None:
    assert llm.chat(ASKED, max_tokens=2).raw["usage"]["completion_tokens"] == 2
    text = llm.chat(ASKED).message.content
    assert llm.chat(ASKED, stop=[text[3:5]]).message.content == text[:3]


def test_metadata_and_name(memos: MemOS, llm: MemOSLLM) -> None:
    about = llm.metadata
    assert (about.context_window, about.num_output, about.is_chat_model) == (2048, 12, True)
    assert llm.class_name() == "MemOSLLM"
    assert "memos" not in llm.to_dict()


def test_token_counters_count(memos: MemOS, llm: MemOSLLM) -> None:
    counter = TokenCountingHandler()
    llm.callback_manager = CallbackManager([counter])
    used = llm.chat(ASKED).raw["usage"]
    assert counter.prompt_llm_token_count == used["prompt_tokens"]
    assert counter.completion_llm_token_count == used["completion_tokens"]


def test_in_a_chat_engine_with_its_memory(memos: MemOS, llm: MemOSLLM) -> None:
    memory = MemOSMemory.from_defaults(memos=memos, user="alice", session="s")
    engine = SimpleChatEngine.from_defaults(llm=llm, memory=memory)
    one = engine.chat("What does Alice like?").response
    streamed = "".join(engine.stream_chat("Where does Carol live?").response_gen)
    assert [m.content for m in memory.get_all()] == [
        "What does Alice like?",
        one,
        "Where does Carol live?",
        streamed,
    ]


async def test_in_an_agent_workflow(memos: MemOS, llm: MemOSLLM) -> None:
    memory = MemOSMemory.from_defaults(memos=memos, user="alice", session="s")
    workflow = AgentWorkflow.from_tools_or_functions([], llm=llm)
    handler = workflow.run(user_msg="What does Alice like?", memory=memory)
    deltas = [event.delta async for event in handler.stream_events() if isinstance(event, AgentStream)]
    assert "".join(deltas)
    assert await handler is not None


def test_what_cannot_be_is_refused(memos: MemOS, llm: MemOSLLM, tmp_path: Path) -> None:
    with (
        MemOS.open(tmp_path / "other", embedder=None) as without,
        pytest.raises(InvalidArgument, match="memos"),
    ):
        MemOSLLM(memos=without)
    with pytest.raises(AccessDenied):
        MemOSLLM(memos=memos.scoped(user="bob"), user="alice")
    picture = ChatMessage(role="user", blocks=[ImageBlock(image=b"x")])
    with pytest.raises(InvalidArgument, match=r"messages\[0\] holds 'image'"):
        llm.chat([picture])
    with pytest.raises(MemOSError, match="max_new_tokens"):
        llm.chat(ASKED, max_tokens=-1)
