"""One black-box contract, run against our Memory, our AsyncMemory and mem0ai 2.2 itself."""

from __future__ import annotations

from typing import Any

import pytest
from mem0_kit import STATEMENTS, texts

TURN = [
    {"role": "system", "content": "You are helpful."},
    {"role": "user", "content": "i love green tea"},
    {"role": "assistant", "content": "noted, green tea", "name": "bot"},
    {"role": "assistant", "tool_calls": []},
    {"role": "user", "content": [{"type": "text", "text": "and"}, {"type": "text", "text": "black coffee"}]},
]
ITEM = {"id", "memory", "hash", "metadata", "created_at", "updated_at", "user_id", "role"}


def add(memory: Any, text: str, **kwargs: Any) -> str:
    (result,) = memory.add(text, infer=False, **kwargs)["results"]
    return str(result["id"])


def test_add_verbatim(either: Any) -> None:
    added = either.add(TURN, user_id="alice", infer=False)
    assert [(r["memory"], r["event"], r["role"], r["actor_id"]) for r in added["results"]] == [
        ("i love green tea", "ADD", "user", None),
        ("noted, green tea", "ADD", "assistant", "bot"),
        ("and black coffee", "ADD", "user", None),
    ]
    assert all(set(r) == {"id", "memory", "event", "actor_id", "role"} for r in added["results"])
    assert texts(either.get_all(filters={"user_id": "alice"})) == sorted(
        r["memory"] for r in added["results"]
    )


def test_add_inferred(either: Any) -> None:
    added = either.add(STATEMENTS, user_id="alice")
    assert [r["memory"] for r in added["results"]] == ["I love green tea.", "My dog is called Bo."]
    assert all(set(r) == {"id", "memory", "event"} and r["event"] == "ADD" for r in added["results"])
    assert either.add(STATEMENTS, user_id="alice") == {"results": []}
    assert len(either.add(STATEMENTS, user_id="alice", agent_id="a")["results"]) == 2
    assert len(either.add(STATEMENTS, user_id="bob")["results"]) == 2
    assert len(either.get_all(filters={"user_id": "bob"})["results"]) == 2


def test_shapes(either: Any) -> None:
    id_ = add(either, "i love green tea", user_id="alice", metadata={"topic": "drinks"})
    got = either.get(id_)
    assert set(got) == {*ITEM, "score"}
    assert (got["id"], got["memory"], got["score"]) == (id_, "i love green tea", None)
    assert (got["metadata"], got["user_id"], got["role"]) == ({"topic": "drinks"}, "alice", "user")
    (listed,) = either.get_all(filters={"user_id": "alice"})["results"]
    assert listed == {key: value for key, value in got.items() if key != "score"}
    (found,) = either.search("green tea", filters={"user_id": "alice"})["results"]
    assert found == {**got, "score": found["score"]}
    assert found["score"] == pytest.approx(2 / (4**0.5 * 2**0.5))
    explained = either.search("green tea", filters={"user_id": "alice"}, explain=True)["results"][0]
    assert set(explained) - set(found) == {"score_details"}
    assert set(explained["score_details"]) == {
        "semantic_score",
        "bm25_score",
        "entity_boost",
        "raw_score",
        "max_possible_score",
        "final_score",
        "threshold",
    }
    plain = either.get(add(either, "no metadata here", user_id="alice"))
    assert plain["metadata"] is None
    assert either.get("0192f0c4-0000-7000-8000-000000000000") is None


def test_promoted_fields(either: Any) -> None:
    either.add(TURN[2], user_id="alice", agent_id="a", run_id="r", expiration_date="2999-01-01", infer=False)
    (item,) = either.get_all(filters={"run_id": "r"})["results"]
    assert (item["user_id"], item["agent_id"], item["run_id"]) == ("alice", "a", "r")
    assert (item["actor_id"], item["role"], item["expiration_date"]) == ("bot", "assistant", "2999-01-01")
    assert item["metadata"] is None


def test_ids_are_conjunctions(either: Any) -> None:
    add(either, "one two three", user_id="alice", agent_id="a")
    add(either, "one two four", user_id="alice")
    add(either, "one two five", user_id="bob", agent_id="a", run_id="r")
    add(either, "one two six", agent_id="a")
    add(either, "one two seven", user_id=42)
    expected = {
        ("alice", None): ["one two four", "one two three"],
        ("alice", "a"): ["one two three"],
        (None, "a"): ["one two five", "one two six", "one two three"],
        ("bob", "b"): [],
        ("42", None): ["one two seven"],
    }
    for (user, agent), want in expected.items():
        filters = {k: v for k, v in {"user_id": user, "agent_id": agent}.items() if v}
        assert texts(either.get_all(filters=filters)) == want
        assert texts(either.search("one two", filters=filters)) == want
    either.delete_all(user_id="alice", agent_id="a")
    assert texts(either.get_all(filters={"agent_id": "a"})) == ["one two five", "one two six"]
    either.delete_all(agent_id="a")
    assert texts(either.get_all(filters={"user_id": "alice"})) == ["one two four"]
    assert texts(either.get_all(filters={"user_id": "bob"})) == []


def test_metadata_never_moves_a_memory(either: Any) -> None:
    id_ = add(either, "mine", user_id="alice", metadata={"user_id": "bob", "actor_id": "eve", "k": 1})
    assert either.get(id_)["user_id"] == "alice"
    assert "actor_id" not in either.get(id_)
    either.update(id_, metadata={"user_id": "bob", "run_id": "r", "data": "x", "z": 2})
    got = either.get(id_)
    assert (got["user_id"], got["memory"], got["metadata"]) == ("alice", "mine", {"k": 1, "z": 2})
    assert "run_id" not in got
    assert either.get_all(filters={"user_id": "bob"})["results"] == []


def test_created_at_of_an_import_is_kept(either: Any) -> None:
    moment = "2020-01-02T03:04:05+00:00"
    id_ = add(either, "old news", user_id="alice", metadata={"created_at": moment})
    assert (either.get(id_)["created_at"], either.get(id_)["updated_at"]) == (moment, moment)
    either.update(id_, "older news", metadata={"created_at": "1999-01-01T00:00:00+00:00"})
    assert either.get(id_)["created_at"] == moment < either.get(id_)["updated_at"]


def test_update(either: Any) -> None:
    id_ = add(either, "i love green tea", user_id="alice", metadata={"k": 1})
    before = either.get(id_)
    assert either.update(id_, "i love black tea") == {"message": "Memory updated successfully!"}
    after = either.get(id_)
    assert (after["memory"], after["metadata"], after["role"]) == ("i love black tea", {"k": 1}, "user")
    assert after["created_at"] == before["created_at"] < after["updated_at"]
    assert after["hash"] != before["hash"]
    either.update(id_, data="i love no tea")
    either.update(memory_id=id_, expiration_date="2001-01-01")
    assert either.get(id_)["memory"] == "i love no tea"
    assert either.get(id_)["expiration_date"] == "2001-01-01"
    either.update(id_, expiration_date=None)
    assert either.get(id_)["expiration_date"] is None
    assert texts(either.get_all(filters={"user_id": "alice"})) == ["i love no tea"]


def test_delete_and_history(either: Any) -> None:
    id_ = add(either, "i love green tea", user_id="alice")
    either.update(id_, "i love black tea")
    rows = either.history(id_)
    assert [(r["event"], r["old_memory"], r["new_memory"]) for r in rows] == [
        ("ADD", None, "i love green tea"),
        ("UPDATE", "i love green tea", "i love black tea"),
    ]
    assert either.delete(id_) == {"message": "Memory deleted successfully!"}
    assert either.get(id_) is None
    assert either.search("black tea", filters={"user_id": "alice"}) == {"results": []}
    rows = either.history(id_)
    assert [(r["event"], r["is_deleted"]) for r in rows] == [
        ("ADD", False),
        ("UPDATE", False),
        ("DELETE", True),
    ]
    assert all(
        set(r)
        == {
            "id",
            "memory_id",
            "old_memory",
            "new_memory",
            "event",
            "created_at",
            "updated_at",
            "is_deleted",
            "actor_id",
            "role",
        }
        and r["memory_id"] == id_
        for r in rows
    )
    assert either.history("0192f0c4-0000-7000-8000-000000000000") == []


def test_expiration(either: Any) -> None:
    add(either, "gone tea", user_id="alice", expiration_date="2001-01-01")
    add(either, "fresh tea", user_id="alice", expiration_date="2999-01-01")
    for call in (either.get_all, lambda **kw: either.search("tea", **kw)):
        assert texts(call(filters={"user_id": "alice"})) == ["fresh tea"]
        assert texts(call(filters={"user_id": "alice"}, show_expired=True)) == ["fresh tea", "gone tea"]


def test_top_k_threshold_and_order(either: Any) -> None:
    for text in ("green tea", "green tea please", "green apples and pears", "other words"):
        add(either, text, user_id="alice")
    scope = {"user_id": "alice"}
    found = either.search("green tea", filters=scope)["results"]
    assert [r["memory"] for r in found] == ["green tea", "green tea please", "green apples and pears"]
    assert found[0]["score"] == pytest.approx(1.0)
    assert [r["memory"] for r in either.search("green tea", filters=scope, top_k=1)["results"]] == [
        "green tea"
    ]
    assert texts(either.search("green tea", filters=scope, threshold=0.9)) == ["green tea"]
    assert either.search("green tea", filters=scope, top_k=0) == {"results": []}
    assert len(either.get_all(filters=scope, top_k=2)["results"]) == 2
    for i in range(30):
        add(either, f"number {i}", user_id="alice")
    assert len(either.get_all(filters=scope)["results"]) == 20


def test_delete_all_and_reset(either: Any) -> None:
    for i in range(120):
        add(either, f"number {i}", user_id="alice")
    add(either, "mine", user_id="bob")
    assert either.delete_all(user_id="alice") == {"message": "Memories deleted successfully!"}
    assert either.get_all(filters={"user_id": "alice"}) == {"results": []}
    assert texts(either.get_all(filters={"user_id": "bob"})) == ["mine"]
    assert either.reset() is None
    assert either.get_all(filters={"user_id": "bob"}) == {"results": []}


@pytest.mark.parametrize(
    ("call", "args", "kwargs"),
    [
        ("add", ["x"], {"user_id": " "}),
        ("add", ["x"], {"user_id": "a b"}),
        ("add", ["x"], {"user_id": "u", "expiration_date": "tomorrow"}),
        ("get_all", [], {}),
        ("get_all", [], {"filters": {"topic": "x"}}),
        ("get_all", [], {"filters": {"user_id": "u"}, "top_k": -1}),
        ("get_all", [], {"filters": {"user_id": "u"}, "top_k": "5"}),
        ("search", ["q"], {}),
        ("search", ["q"], {"filters": {"user_id": ""}}),
        ("search", [" "], {"filters": {"user_id": "u"}}),
        ("search", [None], {"filters": {"user_id": "u"}}),
        ("search", ["q"], {"filters": {"user_id": "u"}, "threshold": 2}),
        ("search", ["q"], {"filters": {"user_id": "u"}, "top_k": True}),
        ("search", ["q"], {"filters": {"user_id": "u", "k": {"eq": 1, "like": 2}}}),
        ("search", ["q"], {"filters": {"user_id": "u", "OR": []}}),
        ("update", ["0192f0c4-0000-7000-8000-000000000000", "x"], {}),
        ("update", ["0192f0c4-0000-7000-8000-000000000000"], {}),
        ("delete", ["0192f0c4-0000-7000-8000-000000000000"], {}),
        ("delete_all", [], {}),
        ("delete_all", [], {"user_id": ""}),
    ],
)
def test_value_errors(either: Any, call: str, args: list[Any], kwargs: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        getattr(either, call)(*args, **kwargs)


@pytest.mark.parametrize(
    ("args", "kwargs", "code"),
    [
        (["x"], {}, "VALIDATION_001"),
        (["x"], {"user_id": "u", "memory_type": "semantic_memory"}, "VALIDATION_002"),
        ([42], {"user_id": "u"}, "VALIDATION_003"),
    ],
)
def test_validation_errors(either: Any, args: list[Any], kwargs: dict[str, Any], code: str) -> None:
    with pytest.raises(Exception, match=r"At least one|Invalid 'memory_type'|messages must be") as caught:
        either.add(*args, **kwargs)
    error: Any = caught.value
    assert type(error).__name__ == "ValidationError"
    assert error.error_code == code
    assert error.details
    assert error.suggestion
