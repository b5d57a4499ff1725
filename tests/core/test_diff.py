"""What changed between two versions."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from memos_core.cube import (
    Activation,
    Behaviour,
    Descriptive,
    Fact,
    Governance,
    Header,
    MemCube,
    Parametric,
    Plaintext,
    Scope,
    Source,
    State,
)
from memos_core.evolution import ABSENT, Change, diff

AT = datetime(2026, 5, 3, tzinfo=UTC)


def cube(text: str = "x", data: Any = None, **fields: Any) -> MemCube:
    return MemCube(id="one", payload=Plaintext[Any](text=text, data=data), **fields)


def test_everything_that_changed_is_named() -> None:
    old = cube("I live in Oslo.\nI like tea.", {"city": "Oslo", "tags": ["a", "b"], "a.b": 1})
    new = MemCube(
        id="one",
        version=2,
        payload=Plaintext[Any](
            text="I live in Rome.\nI like tea.",
            data={"city": "Rome", "tags": ["a"], "a.b": 2, "zip": None},
            valid_from=AT,
        ),
        header=Header(
            descriptive=Descriptive(tags=("home",), semantic_type="note"),
            governance=Governance(priority=2, sensitivity=("health",), expires_at=AT),
            behaviour=Behaviour(reads=7),
        ),
        scope=Scope(session="s"),
        state=State.ACTIVATED,
        frozen=True,
        derived_from=(Source(id="two", version=1),),
    )
    found = diff(old, new)
    assert found.changes == (
        Change("text", old.text, new.text),
        Change("data.city", "Oslo", "Rome"),
        Change("data.tags[1]", "b", ABSENT),
        Change('data["a.b"]', 1, 2),
        Change("data.zip", ABSENT, None),
        Change("valid_from", None, AT),
        Change("semantic_type", "fact", "note"),
        Change("tags", (), ("home",)),
        Change("priority", 0, 2),
        Change("sensitivity", (), ("health",)),
        Change("expires_at", None, AT),
        Change("state", "generated", "activated"),
        Change("frozen", False, True),
        Change("scope.session", None, "s"),
        Change("derived_from", (), ("two@1",)),
    )
    assert found.text.splitlines() == [
        "--- version 1",
        "+++ version 2",
        "@@ -1,2 +1,2 @@",
        "-I live in Oslo.",
        "+I live in Rome.",
        " I like tea.",
    ]
    lines = str(found).splitlines()
    assert lines[0] == "version 1 -> 2"
    assert len(lines) == 1 + len(found.changes)
    assert '~ data.city: "Oslo" -> "Rome"' in lines
    assert '- data.tags[1]: "b"' in lines
    assert "+ data.zip: null" in lines
    assert "~ valid_from: null -> 2026-05-03T00:00:00+00:00" in lines


def test_no_change_is_false_and_says_so() -> None:
    found = diff(cube(), cube())
    assert not found
    assert found.text == ""
    assert str(found) == "version 1 -> 1: no change"


def test_long_values_are_cut_only_where_they_are_shown() -> None:
    found = diff(cube("a" * 500), cube("b" * 500))
    assert found.changes[0].new == "b" * 500
    assert len(str(found)) < 200


def test_true_is_not_one_and_none_is_a_value() -> None:
    assert diff(cube(data={"a": True}), cube(data={"a": 1}))
    assert not diff(cube(data={"a": 1.0}), cube(data={"a": 1}))
    assert diff(cube(data={"a": None}), cube(data={})).changes == (Change("data.a", None, ABSENT),)
    assert diff(cube(data={"a": 1}), cube()).changes == (Change("data", {"a": 1}, ABSENT),)


def test_typed_data_is_compared_as_json_and_other_kinds_too() -> None:
    typed = cube(data=Fact(statement="a"))
    assert diff(typed, cube(data=Fact(statement="b"))).changes == (Change("data.statement", "a", "b"),)
    kv = Activation(model="m", tokenizer="t", key="k", n_tokens=1, nbytes=2)
    longer = kv.model_copy(update={"n_tokens": 5})
    assert diff(MemCube(payload=kv, key="k"), MemCube(payload=longer, key="k")).changes == (
        Change("n_tokens", 1, 5),
    )
    assert diff(typed, MemCube(payload=Parametric(base_model="m", blob="b"))).changes[0] == Change(
        "kind", "plaintext", "parametric"
    )


values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "b", "a.b", "", "0"]), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(values, values)
def test_nothing_is_missed_and_nothing_invented(old: Any, new: Any) -> None:
    forth, back = diff(cube(data=old), cube(data=new)), diff(cube(data=new), cube(data=old))
    assert {(c.path, repr(c.old), repr(c.new)) for c in forth.changes} == {
        (c.path, repr(c.new), repr(c.old)) for c in back.changes
    }
    assert bool(forth) == (repr_json(old) != repr_json(new))
    assert not diff(cube(data=old), cube(data=copy.deepcopy(old)))
    assert len({c.path for c in forth.changes}) == len(forth.changes)


def repr_json(value: Any) -> str:
    """Told apart as JSON tells them apart, whatever the order of keys."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{k!r}:{repr_json(value[k])}" for k in sorted(value)) + "}"
    return "[" + ",".join(map(repr_json, value)) + "]" if isinstance(value, list) else repr(value)


@given(st.text(alphabet="ab\n"), st.text(alphabet="ab\n"))
def test_texts_that_differ_in_lines_have_a_unified_diff(old: str, new: str) -> None:
    found = diff(cube(old), cube(new))
    assert bool(found) == (old != new)
    assert bool(found.text) == (old.splitlines() != new.splitlines())
