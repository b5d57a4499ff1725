"""MemOSMemory and MemOSChatMessageHistory in LangChain's own chains, with fake models."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_classic.agents import AgentExecutor
from langchain_classic.base_memory import BaseMemory
from langchain_classic.chains import ConversationChain, LLMChain
from langchain_classic.memory import ConversationBufferMemory
from langchain_core.agents import AgentAction, AgentFinish
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.language_models.llms import LLM
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.messages.utils import count_tokens_approximately
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder, PromptTemplate
from langchain_core.runnables import RunnableLambda
from langchain_core.runnables.history import RunnableWithMessageHistory
from langchain_core.tools import tool

from langchain_memos.history import MemOSChatMessageHistory
from langchain_memos.memory import MemOSMemory
from memos_core.cube import Fact, Principal
from memos_core.errors import AccessDenied, InvalidArgument
from memos_core.memos import MemOS

pytestmark = pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainDeprecationWarning")

ROOT = Path(__file__).parents[2]
Open = Callable[[], MemOS]


class RecordingLLM(LLM):
    """Answers with a fixed text and keeps the prompts it was sent."""

    prompts: list[str]
    answer: str = "Noted."

    @property
    def _llm_type(self) -> str:
        return "recording"

    def _call(self, prompt: str, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> str:
        self.prompts.append(prompt)
        return self.answer


def chain(memory: BaseMemory) -> tuple[ConversationChain, RecordingLLM]:
    llm = RecordingLLM(prompts=[])
    return ConversationChain(llm=llm, memory=memory), llm


# -- the classic memory --------------------------------------------------------------------------------------


def test_conversation_chain_sees_the_conversation_as_with_the_buffer_memory(memos: MemOS) -> None:
    ours, our_llm = chain(MemOSMemory(memos=memos, user="alice"))
    theirs, their_llm = chain(ConversationBufferMemory())
    for text in ("Hello there", "How are you?", "And now?"):
        assert ours.predict(input=text) == theirs.predict(input=text)
    assert our_llm.prompts == their_llm.prompts


def test_conversation_chain_recalls_another_sessions_fact(memos: MemOS) -> None:
    first, _ = chain(MemOSMemory(memos=memos, user="alice"))
    first.predict(input="I live in Lisbon with two cats.")
    second, llm = chain(MemOSMemory(memos=memos, user="alice"))
    second.predict(input="Where do I live?")
    assert "Relevant memories:\n- I live in Lisbon with two cats.\n\nHuman:" not in llm.prompts[0]
    assert "Relevant memories:\n- I live in Lisbon with two cats.\nHuman: Where do I live?" in llm.prompts[0]
    second.predict(input="Where do I live, again?")  # asking is not saying: the fact is still recalled
    told = "Relevant memories:\n- I live in Lisbon with two cats.\n\nHuman: Where do I live?\nAI: Noted.\n"
    assert told + "Human: Where do I live, again?" in llm.prompts[1]


async def test_conversation_chain_async(memos: MemOS) -> None:
    await chain(MemOSMemory(memos=memos, user="alice"))[0].ainvoke({"input": "I live in Lisbon now."})
    second, llm = chain(memory := MemOSMemory(memos=memos, user="alice"))
    await second.ainvoke({"input": "Where do I live?"})
    assert "- I live in Lisbon now." in llm.prompts[0]
    assert (await memory.aload_memory_variables({}))["history"] == "Human: Where do I live?\nAI: Noted."
    await memory.aclear()
    assert (await memory.aload_memory_variables({}))["history"] == ""


def test_llm_chain_with_messages_and_other_keys(memos: MemOS) -> None:
    memory = MemOSMemory(memos=memos, user="a", memory_key="chat", input_key="question", return_messages=True)
    prompt = ChatPromptTemplate(
        [("system", "You speak {language}."), MessagesPlaceholder("chat"), ("human", "{question}")]
    )
    model = FakeListChatModel(responses=["Bonjour.", "Lyon."])
    llm_chain = LLMChain(llm=model, prompt=prompt, memory=memory)
    llm_chain.invoke({"language": "French", "question": "I am from Lyon."})
    llm_chain.invoke({"language": "French", "question": "Where am I from?"})
    shown = memory.load_memory_variables({"question": "Where am I from?", "language": "French"})["chat"]
    assert [(m.type, m.content) for m in shown] == [
        ("human", "I am from Lyon."),
        ("ai", "Bonjour."),
        ("human", "Where am I from?"),
        ("ai", "Lyon."),
    ]


def test_llm_chain_with_a_string_prompt_never_stores_the_memory_key(memos: MemOS) -> None:
    memory = MemOSMemory(memos=memos, user="a", memory_key="notes", human_prefix="Q", ai_prefix="A")
    llm = RecordingLLM(prompts=[])
    LLMChain(llm=llm, prompt=PromptTemplate.from_template("{notes}\nQ: {ask}\nA:"), memory=memory).invoke(
        "Hi"
    )
    memory.save_context({"ask": "Again", "notes": "SECRET", "stop": ["x"]}, {"text": "Yes"})
    assert memory.load_memory_variables({})["notes"] == "Q: Hi\nA: Noted.\nQ: Again\nA: Yes"


def test_agent_executor_with_intermediate_steps(memos: MemOS) -> None:
    @tool
    def look(what: str) -> str:
        """Look."""
        return f"saw {what}"

    def plan(inputs: dict[str, Any]) -> AgentAction | AgentFinish:
        if inputs["intermediate_steps"]:
            return AgentFinish({"output": "I saw a cat."}, "")
        return AgentAction("look", "cat", "")

    memory = MemOSMemory(memos=memos, user="a", input_key="input", output_key="output")
    agent = AgentExecutor(
        agent=RunnableLambda(plan), tools=[look], memory=memory, return_intermediate_steps=True
    )
    result = agent.invoke({"input": "What is there?"})
    assert result["intermediate_steps"][0][1] == "saw cat"
    assert memory.buffer == "Human: What is there?\nAI: I saw a cat."


def test_recalled_facts_that_the_conversation_shows_are_not_repeated(memos: MemOS) -> None:
    memory = MemOSMemory(memos=memos, user="a", k=1)
    memory.save_context({"input": "Hi! I play the cello. And you?"}, {"output": "I listen."})
    shown = memory.load_memory_variables({"input": "What do I play?"})["history"]
    assert shown == "Human: Hi! I play the cello. And you?\nAI: I listen."
    memos.scoped(user="a").write(Fact(statement="I play chess on Sundays."))
    shown = memory.load_memory_variables({"input": "What do I play?"})["history"]
    assert shown.startswith("Relevant memories:\n- I play chess on Sundays.\n\nHuman: Hi!")


def test_k_zero_and_empty_inputs_recall_nothing(memos: MemOS) -> None:
    memos.scoped(user="a").write(Fact(statement="I play the cello."))
    assert MemOSMemory(memos=memos, user="a", k=0).load_memory_variables({"input": "play?"}) == {
        "history": ""
    }
    assert MemOSMemory(memos=memos, user="a").load_memory_variables({}) == {"history": ""}
    assert MemOSMemory(memos=memos, user="a", return_messages=True).load_memory_variables({}) == {
        "history": []
    }


def test_message_and_token_limits(memos: MemOS) -> None:
    memos.scoped(user="a").write(Fact(statement="I like long walks by the river."))
    memory = MemOSMemory(memos=memos, user="a", session="s", return_messages=True)
    for i in range(20):
        memory.save_context({"input": f"question {i} " + "word " * 20}, {"output": f"answer {i}"})
    few = MemOSMemory(memos=memos, user="a", session="s", return_messages=True, max_messages=5)
    shown = few.load_memory_variables({})["history"]
    assert [m.content.split()[1] for m in shown] == ["18", "18", "19", "19"]  # begins with the user's
    tight = MemOSMemory(memos=memos, user="a", session="s", return_messages=True, max_token_limit=120)
    shown = tight.load_memory_variables({"input": "walks by the river"})["history"]
    assert isinstance(shown[0], SystemMessage)
    assert "long walks" in shown[0].content
    assert shown[1].type == "human"
    assert shown[-1].content == "answer 19"
    assert count_tokens_approximately(shown) <= 120
    tiny = MemOSMemory(memos=memos, user="a", session="s", return_messages=True, max_token_limit=5)
    assert tiny.load_memory_variables({"input": "walks"})["history"] == []
    assert len(memory.buffer) == 40


def test_a_fact_whose_message_the_note_pushes_out_stands_in_the_note(memos: MemOS) -> None:
    for n in range(6):
        memos.scoped(user="a").write(Fact(statement=f"I like tea number {n} very much indeed."))
    MemOSMemory(memos=memos, user="a", session="s").save_context(
        {"input": "My boat is called Petrel."}, {"output": "Nice."}
    )
    MemOSMemory(memos=memos, user="a", session="s").save_context({"input": "Hm."}, {"output": "Well."})
    pushed = 0
    for limit in range(20, 160):
        memory = MemOSMemory(
            memos=memos, user="a", session="s", k=9, return_messages=True, max_token_limit=limit
        )
        shown = memory.load_memory_variables({"input": "Which tea, and what is my boat called?"})["history"]
        told = [str(m.content) for m in shown]
        assert sum("Petrel" in text for text in told) <= 1, limit
        if limit > 60 and not any("boat" in str(m.content) for m in shown if m.type == "human"):
            assert "Petrel" in told[0], limit
            pushed += 1
    assert pushed


async def test_what_callers_of_the_buffer_memory_use_is_there(memos: MemOS) -> None:
    memory = MemOSMemory(memos=memos, user="a", session="s")
    memory.chat_memory.add_user_message("Hello")
    memory.chat_memory.add_ai_message("Hi")
    text, messages = "Human: Hello\nAI: Hi", memory.buffer_as_messages
    assert (memory.buffer, await memory.abuffer(), await memory.abuffer_as_str()) == (text,) * 3
    assert await memory.abuffer_as_messages() == messages
    copies = [copy.copy(memory), copy.deepcopy(memory), memory.model_copy(deep=True)]
    for one in copies:
        assert one.load_memory_variables({}) == {"history": text}
        assert one.memos is memory.memos  # the vault is open once
    copies[0].save_context({"input": "again"}, {"output": "yes"})
    assert memory.buffer == f"{text}\nHuman: again\nAI: yes"
    assert (
        memory.model_copy(update={"return_messages": True}).load_memory_variables({})["history"][0].content
        == "Hello"
    )
    with pytest.raises(InvalidArgument, match=r"cannot be pickled"):
        pickle.dumps(memory)


def test_clear_deletes_the_sessions_conversation_and_keeps_facts(memos: MemOS) -> None:
    one = MemOSMemory(memos=memos, user="a", session="one")
    two = MemOSMemory(memos=memos, user="a", session="two")
    one.save_context({"input": "I collect old maps."}, {"output": "Nice."})
    two.save_context({"input": "Hello"}, {"output": "Hi"})
    one.clear()
    assert one.buffer == ""
    assert two.buffer == "Human: Hello\nAI: Hi"
    assert "I collect old maps." in two.load_memory_variables({"input": "What do I collect?"})["history"]


def test_bob_never_sees_alice(memos: MemOS) -> None:
    alice = MemOSMemory(memos=memos, user="alice", session="same")
    alice.save_context({"input": "My password is swordfish."}, {"output": "Safe with me."})
    bob = MemOSMemory(memos=memos, user="bob", session="same")
    nobody = MemOSMemory(memos=memos, session="same")
    for other in (bob, nobody):
        assert other.load_memory_variables({"input": "What is my password?"}) == {"history": ""}
        other.clear()
    assert "swordfish" in alice.buffer


def test_history_and_facts_are_there_after_a_restart(open_memos: Open) -> None:
    first = open_memos()
    MemOSMemory(memos=first, user="a", session="s").save_context(
        {"input": "I ski a lot."}, {"output": "Cold!"}
    )
    first.close()
    memory = MemOSMemory(memos=open_memos(), user="a", session="s")
    assert memory.buffer == "Human: I ski a lot.\nAI: Cold!"
    fresh = MemOSMemory(memos=memory.memos, user="a")
    assert fresh.session != "s"
    assert "- I ski a lot." in fresh.load_memory_variables({"input": "Do I ski?"})["history"]


def test_a_second_process_writes_and_this_one_reads(memos: MemOS) -> None:
    memory = MemOSMemory(memos=memos, user="a", session="s")
    memory.save_context({"input": "Hello"}, {"output": "Hi"})
    code = (
        "import sys\nfrom memos_core.memos import MemOS\nfrom langchain_memos.memory import MemOSMemory\n"
        "with MemOS.open(sys.argv[1], embedder=None) as memos:\n"
        "    m = MemOSMemory(memos=memos, user='a', session='s')\n"
        "    m.save_context({'input': 'I am elsewhere now.'}, {'output': m.buffer})\n"
    )
    subprocess.run([sys.executable, "-c", code, str(memos.url)], check=True, cwd=ROOT, timeout=120)
    assert memory.buffer_as_messages[-1].content == "Human: Hello\nAI: Hi"
    elsewhere = MemOSMemory(memos=memos, user="a").load_memory_variables({"input": "Where am I now?"})
    assert elsewhere == {"history": "Relevant memories:\n- I am elsewhere now."}


def test_scope_comes_from_the_view(memos: MemOS) -> None:
    view = memos.scoped(user="a", session="s")
    memory = MemOSMemory(memos=view)
    assert (memory.user, memory.session) == ("a", "s")
    with pytest.raises(AccessDenied):
        MemOSMemory(memos=view, user="b")
    with pytest.raises(AccessDenied):
        MemOSMemory(memos=view, session="t")
    with (
        MemOS.open(memos.url, principal=Principal(user="eve"), embedder=None) as eves,
        pytest.raises(AccessDenied),
    ):
        MemOSMemory(memos=eves, user="a")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"k": -1}, "k"),
        ({"max_messages": -1}, "max_messages"),
        ({"max_token_limit": "many"}, "max_token_limit"),
        ({"chat_memory": object()}, "chat_memory"),
        ({"user": " "}, "user"),
        ({"memos": "vault"}, "memos"),
    ],
)
def test_wrong_arguments_are_one_clear_error(memos: MemOS, arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidArgument, match=f"^{named}"):
        MemOSMemory(**{"memos": memos, **arguments})


def test_a_misspelt_field_is_refused(memos: MemOS) -> None:
    with pytest.raises(ValueError, match="user_id"):
        MemOSMemory(memos=memos, user_id="alice")


def test_input_and_output_keys_err_as_the_buffer_memory_does(memos: MemOS) -> None:
    ours: Any = MemOSMemory(memos=memos, user="a")
    theirs: Any = ConversationBufferMemory()
    for inputs, outputs in (
        ({"a": "1", "b": "2"}, {"output": "x"}),
        ({}, {"output": "x"}),
        ({"a": "1"}, {"x": "1", "y": "2"}),
        ({"a": "1"}, {}),
    ):
        with pytest.raises(ValueError, match=r".") as expected:
            theirs.save_context(inputs, outputs)
        with pytest.raises(ValueError, match=r".") as got:
            ours.save_context(inputs, outputs)
        assert sorted(str(got.value)) == sorted(str(expected.value))
    with pytest.warns(UserWarning, match="multiple output keys"):
        ours.save_context({"a": "1"}, {"output": "x", "steps": "y"})
    for inputs in ({"a": "1", "b": "2"}, {"a": 5}, {"a": {"no": "text"}}, {"a": [HumanMessage("1")]}):
        assert ours.load_memory_variables(inputs) == {"history": "Human: 1\nAI: x"}
    with pytest.raises(InvalidArgument, match="the output must be a text"):
        ours.save_context({"a": "1"}, {"output": {"no": "text"}})
    assert ours.buffer == "Human: 1\nAI: x"


def test_without_langchain_classic_the_error_names_the_extra() -> None:
    code = "import sys; sys.modules['langchain_classic'] = None; import langchain_memos.memory"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert "MissingExtra: langchain-classic is not installed" in run.stderr
    assert "pip install -c constraints.txt -e '.[langchain]'" in run.stderr


# -- the chat message history --------------------------------------------------------------------------------

MESSAGES: list[BaseMessage] = [
    SystemMessage("Be brief.", id="sys-1"),
    HumanMessage(
        [
            {"type": "text", "text": "What is this?"},
            {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
        ],
        name="alice",
    ),
    AIMessage(
        "",
        tool_calls=[
            {"name": "look", "args": {"at": ["image", 1, None]}, "id": "call-1", "type": "tool_call"}
        ],
        invalid_tool_calls=[
            {"name": "see", "args": "{oops", "id": "call-2", "error": "bad JSON", "type": "invalid_tool_call"}
        ],
        usage_metadata={"input_tokens": 3, "output_tokens": 4, "total_tokens": 7},
        response_metadata={"model": "m", "finish_reason": "tool_calls"},
        additional_kwargs={"refusal": None},
        id="run-1",
    ),
    ToolMessage("a cat", tool_call_id="call-1", artifact={"box": [1, 2]}, status="success"),
    FunctionMessage(content="old style", name="f"),
    ChatMessage(role="critic", content="hm"),
    AIMessageChunk(
        content="chunk",
        tool_call_chunks=[
            {"name": "f", "args": '{"a": 1}', "id": "c", "index": 0, "type": "tool_call_chunk"}
        ],
    ),
    AIMessage([{"type": "reasoning", "reasoning": "so"}, {"type": "text", "text": "A cat."}]),
]


def test_messages_come_back_exactly(open_memos: Open) -> None:
    first = open_memos()
    MemOSChatMessageHistory("s", memos=first, user="a").add_messages(MESSAGES)
    first.close()
    history = MemOSChatMessageHistory("s", memos=open_memos(), user="a")
    assert history.messages == MESSAGES
    assert [type(m) for m in history.messages] == [type(m) for m in MESSAGES]
    roles = [cube.json_data["role"] for cube in history.memos.conversation()]
    assert roles == ["system", "user", "assistant", "tool", "function", "critic", "assistant", "assistant"]


_text = st.text(st.characters(exclude_categories=["Cs"]))
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_text, inner, max_size=3),
    max_leaves=6,
)
_content = _text | st.lists(
    _text | st.fixed_dictionaries({"type": st.just("text"), "text": _text}), max_size=3
)
_object = st.dictionaries(_text, _json, max_size=3)
_call = st.builds(
    lambda name, args, id_: {"name": name, "args": args, "id": id_, "type": "tool_call"},
    _text,
    _object,
    _text,
)
_message = st.one_of(
    st.builds(HumanMessage, content=_content, additional_kwargs=_object, id=st.none() | _text),
    st.builds(SystemMessage, content=_content),
    st.builds(AIMessage, content=_content, tool_calls=st.lists(_call, max_size=2), response_metadata=_object),
    st.builds(ToolMessage, content=_text, tool_call_id=_text, artifact=_json),
    st.builds(ChatMessage, content=_text, role=_text),
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with MemOS.open(tmp_path_factory.mktemp("shared"), embedder=None) as memos:
        yield memos


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(messages=st.lists(_message, min_size=1, max_size=4))
def test_any_messages_come_back_exactly(shared: MemOS, messages: list[BaseMessage]) -> None:
    history = MemOSChatMessageHistory("property", memos=shared, user="a")
    history.clear()
    history.add_messages(messages)
    assert history.messages == messages


def test_what_json_cannot_hold_is_refused_and_nothing_is_stored(memos: MemOS) -> None:
    history = MemOSChatMessageHistory("s", memos=memos, user="a")
    for bad in (
        HumanMessage("x", additional_kwargs={"at": object()}),
        HumanMessage("x", additional_kwargs={"n": float("nan")}),
        HumanMessage("x", additional_kwargs={"s": {1, 2}}),
    ):
        with pytest.raises(InvalidArgument, match=r"^messages\[1\] must be JSON"):
            history.add_messages([HumanMessage("fine"), bad])
    with pytest.raises(InvalidArgument, match=r"^messages\[0\] must be a LangChain message"):
        history.add_messages(["text"])  # type: ignore[list-item]
    with pytest.raises(InvalidArgument, match="surrogate"):
        history.add_messages([HumanMessage("fine"), HumanMessage("\ud800")])
    assert history.messages == []


def test_history_needs_a_session(memos: MemOS) -> None:
    with pytest.raises(InvalidArgument, match=r"^session_id must name"):
        MemOSChatMessageHistory(memos=memos, user="a")
    with pytest.raises(InvalidArgument, match=r"^memos must be an open MemOS"):
        MemOSChatMessageHistory("s", memos=None)  # type: ignore[arg-type]
    assert MemOSChatMessageHistory(memos=memos.scoped(session="s")).session_id == "s"


async def test_runnable_with_message_history(memos: MemOS) -> None:
    seen: list[list[BaseMessage]] = []

    def answer(messages: list[BaseMessage]) -> AIMessage:
        seen.append(list(messages))
        return AIMessage(f"answer {len(seen)}", id=f"run-{len(seen)}")

    runnable = RunnableWithMessageHistory(
        RunnableLambda(answer), lambda session_id: MemOSChatMessageHistory(session_id, memos=memos, user="a")
    )
    one: Any = {"configurable": {"session_id": "one"}}
    runnable.invoke([HumanMessage("I like tea.")], one)
    await runnable.ainvoke([HumanMessage("And?")], one)
    runnable.invoke([HumanMessage("Hi")], {"configurable": {"session_id": "two"}})
    assert [m.content for m in seen[1]] == ["I like tea.", "answer 1", "And?"]
    assert [m.content for m in seen[2]] == ["Hi"]
    history = MemOSChatMessageHistory("one", memos=memos, user="a")
    assert history.messages[1] == AIMessage("answer 1", id="run-1")
    assert [m.content for m in await history.aget_messages()] == [
        "I like tea.",
        "answer 1",
        "And?",
        "answer 2",
    ]
    await history.aclear()
    assert await history.aget_messages() == []
    assert [h.cube.text for h in memos.scoped(user="a").recall("tea")] == ["I like tea."]


def test_messages_of_other_adapters_are_read_by_role_and_text(memos: MemOS) -> None:
    view = memos.scoped(user="a", session="s")
    view.remember([{"role": "user", "content": "Hi"}, {"role": "tool", "content": "42", "raw": {"x": 1}}])
    assert MemOSChatMessageHistory(memos=view).messages == [
        HumanMessage("Hi"),
        ChatMessage(role="tool", content="42"),
    ]


def test_many_threads_lose_nothing_and_keep_turns_together(memos: MemOS) -> None:
    history = MemOSChatMessageHistory("s", memos=memos, user="a")

    def turn(i: int) -> None:
        history.add_messages([HumanMessage(f"q{i}"), AIMessage(f"a{i}")])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(turn, range(40)))
    texts = [str(m.content) for m in history.messages]
    assert sorted(t for t in texts if t[0] == "q") == sorted(f"q{i}" for i in range(40))
    assert len(texts) == 80
    assert json.dumps(texts)
