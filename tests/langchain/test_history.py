"""MemOSChatMessageHistory and the windows that MemOSMemory shows of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.messages.utils import count_tokens_approximately, trim_messages

from langchain_memos import MemOSChatMessageHistory, MemOSMemory
from memos_core.errors import InvalidArgument
from memos_core.memos import MemOS


def test_a_history_can_be_replaced_and_keeps_what_retriever_tools_find(memos: MemOS) -> None:
    history = MemOSChatMessageHistory(42, memos=memos, user="a")
    assert history.session_id == "42"
    found = [Document(id="d", page_content="the boat is in Oslo", metadata={"n": 1})]
    kept: list[Any] = [
        HumanMessage("I like tea."),
        ToolMessage("found", tool_call_id="c", artifact={"docs": found, "n": [1, None]}),
    ]
    history.add_messages(kept)
    assert history.messages == kept
    assert history.messages[1].artifact["docs"][0].page_content == "the boat is in Oslo"
    memos.scoped(user="a").delete_where(types=["preference"])
    history.messages = [HumanMessage("I like tea."), HumanMessage("I have a dog.")]
    assert [m.text for m in history.messages] == ["I like tea.", "I have a dog."]
    stated = memos.scoped(user="a").find(not_types=["message"])
    assert [c.text for c in stated] == ["I have a dog."]  # the other was said before
    history.messages = []
    assert history.messages == []


@pytest.mark.parametrize("system", [False, True])
def test_a_window_shows_what_trimming_the_whole_conversation_shows(memos: MemOS, system: bool) -> None:
    """Though only the end of it is read."""
    history = MemOSChatMessageHistory("s", memos=memos, user="a")
    said: list[BaseMessage] = [SystemMessage("be kind")] if system else []
    for n in range(150):
        said += [HumanMessage(f"question {n}"), AIMessage("word " * (n % 7 + 1))]
        said += [ToolMessage("42", tool_call_id="c"), AIMessage("so it is")] if n % 3 == 0 else []
    said.append(HumanMessage("the last one"))  # so that pages begin in the middle of a turn
    history.add_messages(said)
    for limits in (
        *({"max_messages": n} for n in (1, 2, 3, 62, 63, 64, 65, 66, 255, 256, 257, 400, 401, 9999)),
        *({"max_token_limit": n} for n in (1, 10, 11, 12, 13, 500, 510, 520, 2_000, 99_999)),
        {"max_messages": 70, "max_token_limit": 900},
        {"max_messages": 300, "max_token_limit": 600},
    ):
        expected = said
        for limit, counter in (
            (limits.get("max_messages"), len),
            (limits.get("max_token_limit"), count_tokens_approximately),
        ):
            if limit is not None:
                expected = trim_messages(
                    expected,
                    max_tokens=limit,
                    token_counter=counter,
                    start_on=HumanMessage,
                    include_system=True,
                )
        memory: Any = MemOSMemory(memos=memos, user="a", session="s", k=0, return_messages=True, **limits)
        assert memory.load_memory_variables({})["history"] == expected, limits


def test_no_message_makes_a_history_unreadable(memos: MemOS) -> None:
    class Note(BaseMessage):
        type: str = "note"

    history = MemOSChatMessageHistory("s", memos=memos, user="a")
    artifact = {"langchain_core.documents.Document": {"title": "x"}}  # a tool's own data
    history.add_messages([ToolMessage("r", tool_call_id="1", artifact=artifact), Note(content="a note")])
    found: list[Any] = history.messages
    assert found[0].artifact == artifact
    assert (found[1].type, found[1].role, found[1].text) == ("chat", "note", "a note")
    history.messages = found
    assert [m.text for m in history.messages] == ["r", "a note"]


def test_a_document_that_is_no_json_is_refused(memos: MemOS) -> None:
    history = MemOSChatMessageHistory("s", memos=memos, user="a")
    for metadata in ({"score": np.float32(1)}, {"raw": b"\xff"}):
        found = [Document(page_content="x", metadata=metadata)]
        with pytest.raises(InvalidArgument, match=r"must be JSON"):
            history.add_messages([ToolMessage("r", tool_call_id="1", artifact=found)])
    assert history.messages == []
