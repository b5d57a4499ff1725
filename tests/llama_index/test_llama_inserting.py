"""Messages that are inserted between others, and a block that belongs to nobody."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from llama_index.core.base.llms.types import ChatMessage

from llama_index.memory.memos import MemOSMemoryBlock, MemOSSimpleChatStore
from memos_core.errors import InvalidArgument
from memos_core.memos import MemOS


def said(*texts: str) -> list[ChatMessage]:
    return [ChatMessage(role="user", content=text) for text in texts]


def contents(messages: list[ChatMessage]) -> list[str | None]:
    return [m.content for m in messages]


@pytest.mark.parametrize("user", ["maya", None])
def test_inserting_is_that_of_a_list(memos: MemOS, user: str | None) -> None:
    ours, expected = MemOSSimpleChatStore(memos, user=user), []
    for n, idx in enumerate((0, 0, 1, -1, 99, -99, 2, 1, 1, -2)):
        ours.add_message("k", said(str(n))[0], idx=idx)
        expected.insert(idx, str(n))
        assert contents(ours.get_messages("k")) == expected
    with pytest.raises(InvalidArgument, match=r"^idx must be a position"):
        ours.add_message("k", said("x")[0], idx="1")  # type: ignore[arg-type]


def test_inserting_at_one_place_for_ever(memos: MemOS) -> None:
    store, expected = MemOSSimpleChatStore(memos, user="maya"), ["first", "last"]
    for text in expected:
        store.add_message("k", said(text)[0])
    for n in range(150):  # more often than there are ids between two neighbours
        store.add_message("k", said(str(n))[0], idx=1)
        expected.insert(1, str(n))
    assert contents(store.get_messages("k")) == expected


def test_what_others_append_while_one_inserts_stays(memos: MemOS) -> None:
    store = MemOSSimpleChatStore(memos, user="maya")

    def work(idx: int | None) -> None:
        for n in range(60):  # so often that there are no ids left between two neighbours
            store.add_message("k", said(f"{idx} {n}")[0], idx=idx)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(work, (0, 1, None)))
    assert sorted(contents(store.get_messages("k"))) == sorted(
        f"{idx} {n}" for idx in (0, 1, None) for n in range(60)
    )


async def test_a_block_without_user_and_session_keeps_to_itself(memos: MemOS) -> None:
    block = MemOSMemoryBlock(memos)
    await block.aput(said("My password is swordfish."))
    assert "swordfish" in await block.aget(said("What is my password?"))
    assert "swordfish" not in await block.aget(said("What is my password?"), session_id="other")
