"""What only ours does: shared cubes, safe scopes, old call forms, configurations."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mem0_kit import STATEMENTS, embed, mem0_module, real_mem0, texts
from pydantic import BaseModel

from mem0_memos import AsyncMemory, Memory, MemoryNotFound, ValidationError
from memos_core.cube import Fact, Preference, Principal
from memos_core.errors import AccessDenied, InvalidArgument, MemOSError, NotFound
from memos_core.memos import MemOS

ALICE: dict[str, Any] = {"user_id": "alice"}


# -- one vault, many adapters ------------------------------------------------------------------------------


def test_cubes_of_other_adapters_are_memories(memos: MemOS, memory: Memory) -> None:
    alice = memos.scoped(user="alice")
    alice.remember([{"role": "user", "content": "I love green tea. I live in Oslo."}])
    alice.write({"text": "owns a kayak", "kind": "hobby"}, namespace=("prefs", "x"), key="k")
    alice.write({"colour": "red", "size": 3}, namespace=("prefs",))
    alice.write("plain text")
    items = {r["memory"]: r for r in memory.get_all(filters=ALICE)["results"]}
    assert set(items) == {
        "I love green tea.",
        "I live in Oslo.",
        "owns a kayak",
        "colour: red\nsize: 3",
        "plain text",
    }
    assert items["I love green tea."]["metadata"] is None  # what it says is in its text
    assert items["owns a kayak"]["metadata"] == {"kind": "hobby"}
    assert items["colour: red\nsize: 3"]["metadata"] == {"colour": "red", "size": 3}
    assert items["plain text"]["metadata"] is None
    assert texts(memory.search("kayak", filters={**ALICE, "kind": "hobby"})) == ["owns a kayak"]
    message = alice.conversation()[0]
    assert memory.get(message.id) is None
    assert memory.history(message.id) == []
    with pytest.raises(MemoryNotFound):
        memory.delete(message.id)
    memory.delete_all(user_id="alice")
    assert alice.find(not_types=("message",)) == []
    assert len(alice.conversation()) == 1


def test_statements_stay_typed_and_are_shared(memos: MemOS, memory: Memory) -> None:
    memory.add(STATEMENTS, user_id="alice")
    alice = memos.scoped(user="alice")
    assert [c.data for c in alice.find()] == [
        Preference(statement="I love green tea.", polarity="like"),
        Fact(statement="My dog is called Bo."),
    ]
    stored = alice.remember([{"role": "user", "content": "My dog is called Bo."}])
    assert [c.semantic_type for c in stored] == ["message"]
    alice.remember([{"role": "user", "content": "My cat is called Mia."}])
    assert memory.add("My cat is called Mia.", user_id="alice") == {"results": []}


def test_statements_are_kept_once_within_the_same_ids(memory: Memory) -> None:
    owners: tuple[dict[str, Any], ...] = (
        ALICE,
        {**ALICE, "agent_id": "a"},
        {**ALICE, "run_id": "r"},
        {"agent_id": "a"},
        {"run_id": "r"},
    )
    for ids in owners:
        (first,) = memory.add("My name is Al.", **ids)["results"]
        assert memory.add("my  NAME is al.", **ids) == {"results": []}
        assert first["id"] in {r["id"] for r in memory.get_all(filters=ids)["results"]}
    assert len(memory.get_all(filters=ALICE)["results"]) == 3


def test_what_was_changed_or_expired_can_be_stated_again(memory: Memory) -> None:
    (first,) = memory.add("I love green tea.", user_id="alice")["results"]
    memory.update(first["id"], "I love coffee.")
    (second,) = memory.add("I love green tea.", user_id="alice")["results"]
    assert memory.add("I love green tea.", user_id="alice") == {"results": []}
    assert texts(memory.get_all(filters=ALICE)) == ["I love coffee.", "I love green tea."]
    memory.update(second["id"], expiration_date="2001-01-01")
    assert memory.add("I love green tea.", user_id="alice")["results"]
    assert texts(memory.get_all(filters=ALICE)) == ["I love coffee.", "I love green tea."]


def test_statements_with_metadata(memory: Memory) -> None:
    memory.add("I love green tea.", user_id="alice", metadata={"topic": "drinks"})
    (item,) = memory.get_all(filters={**ALICE, "topic": "drinks"})["results"]
    assert item["metadata"] == {"topic": "drinks"}
    assert item["memory"] == "I love green tea."


def test_updates_keep_the_shape_of_a_cube(memos: MemOS, memory: Memory) -> None:
    class Pet(BaseModel):
        content: str
        legs: int

    memos.register(Pet)
    alice = memos.scoped(user="alice")
    liked = alice.write(Preference(statement="I love tea.", polarity="like"))
    memory.update(liked.id, "I hate tea.")
    assert alice.read(liked.id).data == Preference(statement="I hate tea.", polarity="dislike")
    memory.update(liked.id, "Drinks coffee.")
    assert (alice.read(liked.id).data, alice.read(liked.id).semantic_type) == (
        Fact(statement="Drinks coffee."),
        "fact",
    )
    memory.update(liked.id, metadata={"seen": 1})
    assert alice.read(liked.id).data == {"data": "Drinks coffee.", "seen": 1}
    pet = alice.write(Pet(content="Bo", legs=4))
    memory.update(pet.id, "Mia")
    assert alice.read(pet.id).data == Pet(content="Mia", legs=4)
    item = alice.write({"text": "owns a kayak", "kind": "hobby"}, namespace=("prefs",), key="k")
    memory.update(item.id, "sold the kayak")
    changed = alice.at(("prefs",), "k")
    assert changed is not None
    assert (changed.data, changed.text) == ({"text": "sold the kayak", "kind": "hobby"}, "sold the kayak")
    plain = alice.write("plain")
    memory.update(plain.id, "plainer")
    assert (alice.read(plain.id).text, alice.read(plain.id).data) == ("plainer", None)


def test_deleted_text_is_gone(tmp_path: Path) -> None:
    with Memory(config={"url": tmp_path / "v", "embedder": embed}) as memory:
        (added,) = memory.add("the launch code is 4711", user_id="alice", infer=False)["results"]
        memory.update(added["id"], "the launch code is 4712")
        memory.delete(added["id"])
        rows = memory.history(added["id"])
        assert [r["event"] for r in rows] == ["ADD", "UPDATE", "DELETE"]
        assert all(r["old_memory"] is None and r["new_memory"] is None for r in rows)
        with pytest.raises(MemoryNotFound, match=r"not found") as caught:
            memory.delete(added["id"])
        assert isinstance(caught.value, MemOSError)
        assert isinstance(caught.value, NotFound)


# -- scope -------------------------------------------------------------------------------------------------

PART = st.sampled_from([None, "x", "y"])
OWNER = st.tuples(st.sampled_from([None, "u0", "u1", "u2", "u3", "x"]), PART, PART).filter(any)


def _ids(owner: tuple[str | None, ...]) -> dict[str, Any]:
    return {k: v for k, v in zip(("user_id", "agent_id", "run_id"), owner, strict=True) if v}


@settings(max_examples=30, deadline=None)
@given(st.lists(OWNER, max_size=12), st.lists(OWNER, min_size=1, max_size=6), OWNER)
def test_isolation(owners: list[Any], readers: list[Any], gone: Any) -> None:
    with MemOS.open(":memory:", embedder=embed) as memos:
        memory = Memory(memos)
        for i, owner in enumerate(owners):
            memory.add(f"secret number {i}", infer=False, **_ids(owner))
        alive = dict(enumerate(owners))
        for reader in readers:
            wanted = sorted(f"secret number {i}" for i, o in alive.items() if _sees(reader, o))
            assert texts(memory.get_all(filters=_ids(reader))) == wanted
            assert texts(memory.search("secret number", filters=_ids(reader))) == wanted
        memory.delete_all(**_ids(gone))
        alive = {i: o for i, o in alive.items() if not _sees(gone, o)}
        for owner in set(owners):
            wanted = sorted(f"secret number {i}" for i, o in alive.items() if _sees(owner, o))
            assert texts(memory.get_all(filters=_ids(owner))) == wanted


def _sees(reader: tuple[Any, ...], owner: tuple[Any, ...]) -> bool:
    return all(r is None or r == o for r, o in zip(reader, owner, strict=True))


def test_a_users_memos_stays_that_users(memos: MemOS, tmp_path: Path) -> None:
    with MemOS.open(tmp_path / "v", embedder=embed) as root:
        everyone = Memory(root)
        (bobs,) = everyone.add("bob's secret", user_id="bob", agent_id="a", infer=False)["results"]
        views = [
            root.scoped(user="alice"),
            MemOS.open(tmp_path / "v", principal=Principal(user="alice"), embedder=embed),
        ]
        for view in views:
            hers = Memory(view)
            hers.add("alice's note", agent_id="a", infer=False)
            assert set(texts(hers.get_all(filters={"agent_id": "a"}))) == {"alice's note"}
            assert texts(hers.get_all(filters={"agent_id": "a", "user_id": "*"})) == texts(
                hers.get_all(filters={"agent_id": "a"})
            )
            assert set(texts(hers.search("secret note", filters={"agent_id": "a"}, threshold=0.0))) == {
                "alice's note"
            }
            assert hers.get(bobs["id"]) is None
            assert hers.history(bobs["id"]) == []
            for call in (hers.delete, lambda id_, m=hers: m.update(id_, "x")):
                with pytest.raises(MemoryNotFound):
                    call(bobs["id"])
            with pytest.raises(AccessDenied):
                hers.get_all(filters={"user_id": "bob"})
            with pytest.raises(AccessDenied):
                hers.add("x", user_id="bob", infer=False)
            hers.delete_all(agent_id="a")
            hers.reset()
        views[1].close()
        assert texts(everyone.get_all(filters={"agent_id": "a"})) == ["bob's secret"]


def test_filters_cannot_widen(memory: Memory) -> None:
    memory.add("hers", user_id="alice", infer=False)
    memory.add("his", user_id="bob", infer=False)
    for extra in ({"OR": [{"user_id": "bob"}, {"user_id": "alice"}]}, {"NOT": [{"user_id": "bob"}]}):
        assert texts(memory.get_all(filters={**ALICE, **extra})) == ["hers"]
    assert texts(memory.get_all(filters={**ALICE, "AND": [{"user_id": "bob"}]})) == []
    for nobody in ({"user_id": "*"}, {"user_id": None}, {"OR": [ALICE]}, {"user_id": ["alice"]}):
        with pytest.raises(ValueError, match=r"user_id"):
            memory.get_all(filters=nobody)
    for call in (memory.delete_all, lambda **ids: memory.add("x", **ids), memory.get_all):
        with pytest.raises(ValueError, match=r"user_id"):
            call(user_id="*")


def test_ids_within_and(memory: Memory) -> None:
    memory.add("hers", user_id="alice", metadata={"k": 1}, infer=False)
    memory.add("his", user_id="bob", metadata={"k": 1}, infer=False)
    assert texts(memory.get_all(filters={"AND": [{"user_id": "alice"}, {"k": 1}]})) == ["hers"]
    assert texts(memory.search("hers his", filters={"AND": [{"user_id": "bob"}, {"k": {"gt": 0}}]})) == [
        "his"
    ]
    assert texts(memory.get_all(filters={"AND": [{"user_id": "alice"}, {"user_id": "bob"}]})) == []
    for nobody in (
        {"AND": [{"user_id": "*"}]},
        {"AND": [{"OR": [ALICE]}]},
        {"NOT": [ALICE]},
        {"AND": []},
        {"AND": 5},
    ):
        with pytest.raises(ValueError, match=r"user_id"):
            memory.get_all(filters=nobody)


# -- call forms and configuration --------------------------------------------------------------------------


def test_old_call_forms(memory: Memory) -> None:
    for i in range(30):
        memory.add(f"green number {i}", user_id="alice", run_id="r", infer=False)
    assert len(memory.get_all(user_id="alice")["results"]) == 30
    assert len(memory.get_all(user_id="alice", run_id="r", limit=7)["results"]) == 7
    assert len(memory.search("green", user_id="alice")["results"]) == 30
    assert len(memory.search("xylophone quartz", user_id="alice", limit=5)["results"]) == 5
    assert memory.search("xylophone quartz", filters=ALICE)["results"] == []
    assert memory.search("xylophone quartz", user_id="alice", threshold=0.5)["results"] == []
    assert len(memory.search("green", filters=ALICE)["results"]) == 20
    assert len(memory.search("green", user_id="alice", filters={"run_id": "r"}, limit=3)["results"]) == 3
    with pytest.raises(InvalidArgument, match=r"pass it once"):
        memory.get_all(user_id="alice", filters={"user_id": "bob"})


def test_strict_refuses_the_old_call_forms(memos: MemOS, memory: Memory) -> None:
    memory.add("green", user_id="alice", infer=False)
    for strict in (Memory(memos, strict=True), Memory({"memos": memos, "strict": True})):
        for call in (strict.get_all, lambda s=strict, **kw: s.search("green", **kw)):
            with pytest.raises(ValueError, match=r"Top-level entity parameters"):
                call(user_id="alice")
            with pytest.raises(ValueError, match=r"use top_k"):
                call(filters=ALICE, limit=3)
            assert texts(call(filters=ALICE, top_k=3)) == ["green"]
    assert texts(memory.get_all(user_id="alice")) == ["green"]


def test_signatures() -> None:
    theirs = mem0_module().Memory
    for name in (
        "add",
        "get",
        "get_all",
        "search",
        "update",
        "delete",
        "delete_all",
        "history",
        "reset",
        "close",
    ):
        own = inspect.signature(getattr(Memory, name)).parameters.values()
        their = inspect.signature(getattr(theirs, name)).parameters.values()
        assert [p.name for p in own] == [p.name for p in their], name
        assert [p.kind for p in own][1:] == [p.kind for p in their][1:], name
        if name != "close":
            twin = inspect.signature(getattr(AsyncMemory, name)).parameters
            their_twin = inspect.signature(getattr(mem0_module().AsyncMemory, name)).parameters
            assert [*twin] == [*their_twin], name
            assert inspect.iscoroutinefunction(getattr(AsyncMemory, name))


def test_from_config_warns_once_and_shows_no_values(tmp_path: Path) -> None:
    config = {
        "version": "v1.1",
        "vector_store": {"provider": "qdrant", "config": {"path": str(tmp_path / "q")}},
        "llm": {"provider": "aws_bedrock", "config": {"api_key": "sk-secret"}},
        "embedder": {"provider": "vertexai", "config": {"model": "x", "api_key": "sk-secret"}},
        "history_db_path": str(tmp_path / "h.db"),
        "reranker": None,
        "memos": {"url": tmp_path / "v", "embedder": embed},
    }
    with pytest.warns(UserWarning, match=r"no effect: ") as caught, Memory.from_config(config) as memory:
        memory.add("green tea", user_id="alice", infer=False)
    assert len(caught) == 1
    message = str(caught[0].message)
    assert message.endswith("embedder (vertexai), history_db_path, llm (aws_bedrock), vector_store (qdrant)")
    assert "sk-secret" not in message
    assert {p.name for p in tmp_path.iterdir()} == {"v"}


def test_ways_to_open(tmp_path: Path, memos: MemOS) -> None:
    class Embeddings:
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return embed(texts)

        def embed_query(self, text: str) -> list[float]:
            return embed([text])[0]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        langchain = {"provider": "langchain", "config": {"model": Embeddings()}}
        for memory in (
            Memory(url=tmp_path / "a", config={"embedder": embed}),
            Memory({"url": tmp_path / "b", "embedder": embed}),
            Memory.from_config({"url": tmp_path / "c", "embedder": langchain}),
            Memory(config={"memos": memos}),
            Memory(memos),
        ):
            with memory:
                memory.add("green tea", user_id="alice", infer=False)
                assert memory.search("green", filters=ALICE)["results"][0]["score"] == pytest.approx(0.5**0.5)
    assert len(memos.scoped(user="alice").find()) == 2  # still open: it is the caller's
    wrongs: tuple[Callable[[], Memory], ...] = (
        lambda: Memory(memos, url=tmp_path / "a"),
        lambda: Memory(memos, {"memos": memos}),
        lambda: Memory({"url": "x"}, {"url": "y"}),
        lambda: Memory("path"),
        lambda: Memory.from_config({"memos": "path"}),
    )
    for wrong in wrongs:
        with pytest.raises(InvalidArgument):
            wrong()


def test_without_an_embedder() -> None:
    with Memory(url=":memory:", config={"embedder": "none"}) as memory:
        memory.add(
            [{"role": "user", "content": t} for t in ("green tea", "coffee")], user_id="alice", infer=False
        )
        assert texts(memory.search("green", filters=ALICE, threshold=0.9)) == ["green tea"]


def test_the_threshold_holds_for_what_words_find(memory: Memory) -> None:
    memory.add("tea " + " ".join(f"w{i}" for i in range(60)), user_id="alice", infer=False)
    memory.add("tea", user_id="alice", infer=False)
    assert texts(memory.search("tea", filters=ALICE, threshold=0.9)) == ["tea"]


def test_imports_neither_mem0_nor_frameworks() -> None:
    code = (
        "import sys, mem0_memos; "
        "bad = {'mem0', 'torch', 'transformers', 'chromadb', 'langchain_core'} & set(sys.modules); "
        "assert not bad, bad"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )


def test_validation_error_is_a_memos_error(memory: Memory) -> None:
    with pytest.raises(ValidationError) as caught:
        memory.add("x")
    assert isinstance(caught.value, MemOSError)
    assert isinstance(caught.value, ValueError)
    with pytest.raises(InvalidArgument, match=r"metadata must be JSON"):
        memory.add("x", user_id="u", metadata={"when": object()})
    with pytest.raises(InvalidArgument, match=r"language model"):
        memory.add("x", agent_id="a", memory_type="procedural_memory")


def test_memories_of_mem0_are_brought_along_as_the_docs_say(memory: Memory, tmp_path: Path) -> None:
    old = real_mem0(tmp_path)
    said = [{"role": "user", "content": "I like tea"}, {"role": "assistant", "content": "Noted."}]
    old.add(said, user_id="alice", run_id="r", metadata={"topic": "drinks"}, infer=False)
    coffee = [{"role": "user", "content": "I like coffee", "name": "bobby"}]
    old.add(coffee, user_id="bob", infer=False, expiration_date="2001-01-01")
    old.add("my code is 1234", user_id="bob", infer=False, expiration_date="2999-01-01")
    page = (Path(__file__).parents[2] / "docs" / "mem0.md").read_text()
    [code] = re.findall(r"```python\nold = mem0.*?\n(.*?)```", page, re.DOTALL)
    exec(code, {"old": old, "memory": memory, "users": ["alice", "bob"]})
    for user in ("alice", "bob"):
        theirs = old.get_all(filters={"user_id": user}, show_expired=True)["results"]
        ours = memory.get_all(filters={"user_id": user}, show_expired=True)["results"]

        def told(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
            plain = [
                {k: v for k, v in m.items() if k not in ("id", "created_at", "updated_at")} for m in found
            ]
            return sorted(plain, key=lambda m: m["memory"])

        assert told(ours) == told(theirs)
        assert {m["created_at"] for m in ours} == {m["created_at"] for m in theirs}
        assert len(memory.get_all(filters={"user_id": user})["results"]) == 2 - (user == "bob")
    old.close()


# -- what a caller may get wrong ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "messages", [["I like tea"], [{"role": "user", "content": "I like tea"}, "hm"], [None]]
)
def test_a_list_of_anything_but_dicts_is_refused_as_a_whole(memory: Memory, messages: list[Any]) -> None:
    with pytest.raises(ValidationError, match=r"messages\[\d\] must be a dict"):
        memory.add(messages, user_id="alice", infer=False)
    assert memory.get_all(filters=ALICE)["results"] == []


def test_dates_in_metadata_become_texts_that_filters_understand(memory: Memory) -> None:
    when = {"day": date(2024, 5, 15), "at": datetime(2024, 5, 15, 9, 30, tzinfo=UTC)}
    memory.add("the dentist", user_id="alice", metadata=when, infer=False)
    [found] = memory.get_all(filters={**ALICE, "at": {"gte": "2024-05-15T09:00:00Z"}})["results"]
    assert found["metadata"] == {"day": "2024-05-15", "at": "2024-05-15T09:30:00Z"}
    assert memory.get_all(filters={**ALICE, "day": {"lt": "2024-05-15"}})["results"] == []
    with pytest.raises(InvalidArgument, match=r"metadata must be JSON"):
        memory.add("x", user_id="alice", metadata={"a": object()}, infer=False)


def test_a_bound_may_be_a_number_in_words_of_digits(memory: Memory) -> None:
    memory.add("paid", user_id="alice", metadata={"price": 12}, infer=False)
    for bound, found in (("9.5", 1), ("12", 0)):
        assert len(memory.get_all(filters={**ALICE, "price": {"gt": bound}})["results"]) == found
    for bound in ("dear", "nan", "inf"):
        with pytest.raises(InvalidArgument, match=r"takes a number or an ISO date"):
            memory.get_all(filters={**ALICE, "price": {"gt": bound}})
