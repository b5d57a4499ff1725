"""Duplicates: what identifies content, what a policy may say, and how several contents become one."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, computed_field

from memos_core.cube import (
    Activation,
    Descriptive,
    Fact,
    Governance,
    Header,
    MemCube,
    Parametric,
    Plaintext,
    Preference,
    Scope,
    content_hash,
    now,
)
from memos_core.cube.content import normal_text
from memos_core.errors import InvalidArgument
from memos_core.governance.duplicates import DuplicatePolicy, merge_content, merge_text

START = now()


def cube(text: str, data: Any = None, structure: str | None = None, at: int = 0, **fields: Any) -> MemCube:
    moment = START + timedelta(seconds=at)
    structure = structure or (type(data).__name__ if isinstance(data, BaseModel) else None)
    return MemCube(
        payload=Plaintext[Any](text=text, data=data, structure=structure),
        header=Header(descriptive=Descriptive(created_at=moment, updated_at=moment)),
        **fields,
    )


def test_the_hash_is_what_it_always_was() -> None:
    # Stored in vaults: a change here is a migration.
    assert content_hash(cube("I like tea.")) == "1458d7c7730461202657acef3c6e2f1f"
    assert content_hash(cube("x", {"b": [1, None], "a": "é"})) == "a11f16aa9639cf0848a8f3ecb784729e"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (cube("I like tea"), cube("  i LIKE\n tea ")),
        (cube("caf\u00e9"), cube("cafe\u0301")),
        (cube("Stra\u00dfe"), cube("STRASSE")),
        (cube("I am tall", Fact(statement="I am tall")), cube("I am tall")),
        (cube("I am tall", "I am tall"), cube("I am tall")),
        (cube("x", {"a": 1, "b": 2}), cube("x", {"b": 2, "a": 1})),
        (
            cube("I like TEA", Preference(statement="I like TEA", polarity="like")),
            cube("i like tea", Preference(statement="i like tea", polarity="like")),
        ),
        (
            cube("I like tea", Preference(statement="I like tea", polarity="like")),
            cube("I like tea", {"statement": "I like tea", "polarity": "like"}, structure="Preference"),
        ),
    ],
)
def test_what_says_the_same_has_the_same_hash(one: MemCube, other: MemCube) -> None:
    assert content_hash(one) == content_hash(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (cube("I like tea"), cube("I like coffee")),
        (cube("x", {"a": "b"}), cube("x", {"a": "B"})),
        (cube("x", {"a": 1}), cube("x", {"a": "1"})),
        (cube("x", {"a": 1}), cube("x")),
        (cube("x", {"a": 1}, structure="A"), cube("x", {"a": 1}, structure="B")),
        (
            cube("tea", Preference(statement="tea", polarity="like")),
            cube("tea", Preference(statement="tea", polarity="dislike")),
        ),
    ],
)
def test_what_says_something_else_has_another(one: MemCube, other: MemCube) -> None:
    assert content_hash(one) != content_hash(other)


def test_who_said_it_and_when_is_no_content() -> None:
    one = cube("x", scope=Scope(user="a"), version=3, key="k", namespace=("n",))
    later = one.model_copy(
        update={
            "header": Header(governance=Governance(priority=3, sensitivity=("health",))),
            "payload": one.payload.model_copy(update={"valid_from": START, "structure_version": 2}),
        }
    )
    assert content_hash(one) == content_hash(later) == content_hash(cube("x"))


def test_the_other_kinds_are_known_by_what_they_name() -> None:
    kv = Activation(model="m", tokenizer="t", key="k", n_tokens=1, nbytes=2)
    lora = Parametric(base_model="m", blob="b")
    same = [kv, kv.model_copy(update={"n_tokens": 9})]
    assert len({content_hash(MemCube(payload=p)) for p in same}) == 1
    others = [kv, kv.model_copy(update={"key": "l"}), lora, lora.model_copy(update={"blob": "c"})]
    assert len({content_hash(MemCube(payload=p)) for p in others}) == 4


def test_computed_fields_are_not_stored_and_so_no_content() -> None:
    class Pet(BaseModel):
        name: str

        @computed_field
        def shout(self) -> str:
            return self.name.upper() + "!"

    assert content_hash(cube("x", Pet(name="Rex"))) == content_hash(cube("x", {"name": "Rex"}, "Pet"))


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.text(), json_values)
def test_every_content_has_a_hash_that_survives_storing(text: str, data: Any) -> None:
    one = cube(text, data)
    again = MemCube.model_validate_json(one.model_dump_json()) if text.isprintable() else one
    assert content_hash(one) == content_hash(again)
    assert len(content_hash(one)) == 32


@given(st.text(alphabet="aAßé İ\t\n"))
def test_the_normal_form_is_normal(text: str) -> None:
    assert normal_text(normal_text(text)) == normal_text(text)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("exact", "drop"),
        ("exact", None),
        ("near", "MERGE"),
        ("similarity", 0),
        ("similarity", 1.01),
        ("similarity", float("nan")),
        ("similarity", "0.9"),
        ("similarity", True),
        ("skip_types", "message"),
    ],
)
def test_a_policy_names_what_is_wrong_with_it(field: str, value: Any) -> None:
    with pytest.raises(InvalidArgument, match=f"^{field} must"):
        DuplicatePolicy(**{field: value})


def test_what_a_policy_looks_at() -> None:
    assert not DuplicatePolicy().looks
    assert DuplicatePolicy(near="link").looks
    assert DuplicatePolicy().covers(cube("x"))
    assert not DuplicatePolicy().covers(cube(" "))
    assert not DuplicatePolicy().covers(MemCube(payload=Parametric(base_model="m", blob="b")))
    message = Header(descriptive=Descriptive(semantic_type="message"))
    assert not DuplicatePolicy().covers(cube("x").model_copy(update={"header": message}))
    assert DuplicatePolicy(skip_types=["x"]).skip_types == {"x"}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("texts", "merged"),
    [
        ([], ""),
        (["a", "b"], "a\nb"),
        (["I like tea.", "I like TEA"], "I like TEA"),
        (["I like tea.", "I like tea with milk."], "I like tea with milk."),
        (["I like tea with milk.", "I like tea."], "I like tea with milk."),
        (["I like tea", "I like teapots"], "I like tea\nI like teapots"),
        (["", "  ", "x"], "x"),
        (["a", "b", "a"], "b\na"),
    ],
)
def test_texts_become_one(texts: list[str], merged: str) -> None:
    assert merge_text(texts) == merged


@given(st.lists(st.text(alphabet="ab. \n", max_size=6), max_size=6))
def test_merging_loses_nothing_and_repeats_nothing(texts: list[str]) -> None:
    merged = merge_text(texts)
    assert merge_text([merged]) == merged
    assert merge_text([*texts, *texts]) == merged
    for text in texts:
        assert normal_text(text).rstrip(". ") in normal_text(merged)


def test_contents_become_one_in_the_order_they_were_said() -> None:
    old = cube("Ada lives in Oslo", {"name": "Ada", "city": "Oslo", "text": "Ada lives in Oslo"}, at=1)
    new = cube("Ada is tall", {"name": "Ada L", "city": None, "text": "Ada is tall"}, at=2)
    text, data = merge_content([new, old])
    assert text == "Ada lives in Oslo\nAda is tall"
    assert data == {"name": "Ada L", "city": "Oslo", "text": text}


def test_typed_contents_stay_typed_where_they_fit() -> None:
    facts = [cube(t, Fact(statement=t), at=i) for i, t in enumerate(["I am tall", "I am old"])]
    assert merge_content(facts) == ("I am tall\nI am old", Fact(statement="I am tall\nI am old"))
    likes = cube("I like tea", Preference(statement="I like tea", polarity="like"), at=3)
    assert merge_content([*facts, likes])[1] is None
    assert merge_content([likes, cube("a")]) == (
        "a\nI like tea",
        Preference(statement="a\nI like tea", polarity="like"),
    )
    assert merge_content([cube("a"), cube("b")]) == ("a\nb", None)
    assert merge_content([cube("a", [1]), cube("b", [2])])[1] is None
    assert merge_content([cube("a", [1]), cube("b", [1])])[1] == [1]


def test_only_plaintext_is_merged() -> None:
    with pytest.raises(InvalidArgument, match="ids"):
        merge_content([])
    with pytest.raises(InvalidArgument, match="parametric"):
        merge_content([cube("a"), MemCube(payload=Parametric(base_model="m", blob="b"))])
