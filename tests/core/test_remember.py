"""A finished turn becomes cubes: each message as it was said, and what the user stated."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from memos_core import Fact, MemOS, Message, Preference
from memos_core.cube import id_between, new_id
from memos_core.errors import InvalidArgument
from memos_core.reader import extract_statements

TURN = [
    {"role": "user", "content": "I am allergic to peanuts. What should I cook? I love spicy food!"},
    {"role": "assistant", "content": "I would cook a curry. I love curry."},
]


def test_messages_and_statements_are_stored_together(memos: MemOS) -> None:
    view = memos.scoped(user="u", session="s")
    stored = view.remember(TURN)
    assert [c.text for c in stored] == [
        TURN[0]["content"],
        TURN[1]["content"],
        "I am allergic to peanuts.",
        "I love spicy food!",
    ]
    assert [type(c.data) for c in stored] == [Message, Message, Fact, Preference]
    assert stored[3].data.polarity == "like"
    assert [(s.id, s.version) for s in stored[2].derived_from] == [(stored[0].id, 1)]
    assert [c.text for c in view.conversation()] == [m["content"] for m in TURN]
    assert view.search("allergic to peanuts")[0].cube.id == stored[2].id
    assert memos.scoped(user="u", session="other").recall("peanuts")[0].cube.id == stored[2].id


def test_all_or_nothing(memos: MemOS) -> None:
    view = memos.scoped(user="u")
    for bad in (
        {"role": "user"},
        {"content": "x"},
        "text",
        {"role": "user", "content": "bad \ud800"},
        {"role": "user", "content": "x", "raw": object()},
    ):
        with pytest.raises(InvalidArgument):
            view.remember([TURN[0], bad])
    assert view.find() == []
    assert view.audit_log() == []


def test_a_statement_is_stored_once_however_often_it_is_made(memos: MemOS) -> None:
    view = memos.scoped(user="u", session="s1")
    view.remember([{"role": "user", "content": "I am allergic to peanuts. I am  allergic to PEANUTS."}])
    again = memos.scoped(user="u", session="s2").remember(
        [{"role": "user", "content": "I am allergic to peanuts."}]
    )
    assert [c.semantic_type for c in again] == ["message"]
    facts = memos.scoped(user="u").find(types=["fact"])
    assert [(c.text, c.version) for c in facts] == [("I am allergic to peanuts.", 1)]
    assert (
        len(memos.scoped(user="v").remember([{"role": "user", "content": "I am allergic to peanuts."}])) == 2
    )


def test_each_agent_recalls_what_it_was_told(memos: MemOS) -> None:
    for agent in ("a1", "a2"):
        view = memos.scoped(user="u", agent=agent)
        view.remember([{"role": "user", "content": "I am allergic to peanuts."}])
        assert [h.cube.text for h in view.recall("peanuts")] == ["I am allergic to peanuts."]


def test_a_deleted_statement_can_be_made_again(memos: MemOS) -> None:
    view = memos.scoped(user="u")
    for _ in range(2):
        cube = view.remember([{"role": "user", "content": "I live in Oslo now."}])[1]
        view.delete(cube.id)
    assert view.find(types=["fact"]) == []


@pytest.mark.parametrize(
    "text",
    [
        "What is my name?",
        "Do I like tea?",
        "Can you tell me what I said?",
        'She asked me "do you like my hat?"',
        "Please remind me of my appointment tomorrow.",
        "Tell me about my bookings.",
        "Book me a table for two.",
        "Write me a poem about my cat.",
        "Thank you for helping me today.",
        "I am wondering whether it rains.",
        "The sky is blue today.",
        "My cat.",
        "",
    ],
)
def test_questions_requests_and_talk_are_no_statements(text: str) -> None:
    assert extract_statements(text) == []


@pytest.mark.parametrize(
    ("text", "polarity"),
    [
        ("I am forty years old.", None),
        ("My sister is called Ada.", None),
        ("- We moved to Lund in May", None),
        ("I prefer quiet restaurants.", "like"),
        ("I don't like olives.", "dislike"),
        ("I hate loud music!", "dislike"),
    ],
)
def test_statements_and_their_kind(text: str, polarity: str | None) -> None:
    [found] = extract_statements(text)
    assert getattr(found, "polarity", None) == polarity


class Pet(BaseModel):
    name: str


def test_an_extractor_of_ones_own(tmp_path: Any) -> None:
    pets = lambda text: [Pet(name=w) for w in text.split() if w.istitle()]  # noqa: E731
    with MemOS.open(tmp_path, user="u", embedder=None, extractor=pets, structures=[Pet]) as memos:
        stored = memos.remember([{"role": "user", "content": "my cats are Ada and Bo"}])
        assert [c.data for c in stored[1:]] == [Pet(name="Ada"), Pet(name="Bo")]
        assert memos.remember([{"role": "user", "content": "Cy too"}], extract=False)[1:] == []


def test_messages_keep_their_order_and_raw_form(memos: MemOS) -> None:
    view = memos.scoped(user="u", session="s")
    for i in range(20):
        view.remember(
            [{"role": "user", "content": f"{i}", "raw": {"n": i}}, Message(role="tool", content="")]
        )
    talk = view.conversation()
    assert [c.data.raw["n"] for c in talk[::2]] == list(range(20))
    assert memos.scoped(user="u").conversation() == talk


@pytest.mark.parametrize(
    "messages",
    [["hello"], [{"content": "x"}], [{"role": "user", "content": [{"type": "text"}]}], [{"role": "user"}]],
)
def test_a_prompt_of_what_is_no_message_is_refused(memos: MemOS, messages: Any) -> None:
    with pytest.raises(InvalidArgument, match="messages"):
        memos.prompt(messages)


def test_a_prompt_leaves_the_callers_messages_alone_and_puts_memory_in(memos: MemOS) -> None:
    view = memos.scoped(user="u", session="s")
    view.write("the user is allergic to peanuts")
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "what about peanuts?"},
    ]
    copy = [dict(m) for m in messages]
    prompt = view.prompt(messages)
    assert messages == copy
    assert prompt.messages[0]["content"] == "Be brief."
    assert "allergic to peanuts" in prompt.messages[1]["content"]
    assert "what about peanuts?" in prompt.messages[1]["content"]
    assert view.prompt([]).messages[0]["role"] == "system"
    assert view.prompt([{"role": "user", "content": " "}]).recalled == ()


def test_messages_can_replace_others_in_one_transaction(memos: MemOS) -> None:
    view = memos.scoped(user="maya", session="s")
    [old, fact] = view.remember([{"role": "user", "content": "I keep bees."}])
    with pytest.raises(InvalidArgument):
        view.remember([{"role": "user"}], delete=[old.id])
    assert [c.text for c in view.conversation()] == ["I keep bees."]
    view.remember([{"role": "user", "content": "Hello"}], delete=[old.id])
    assert [c.text for c in view.conversation()] == ["Hello"]
    assert view.read(fact.id).text == "I keep bees."


def test_messages_outside_the_conversation(memos: MemOS) -> None:
    view = memos.scoped(user="maya", session="s")
    [kept, fact] = view.remember([{"role": "user", "content": "I keep bees."}], namespace="flushed")
    assert kept.namespace == ("flushed", "s")
    assert view.conversation() == []
    assert [h.cube.id for h in view.recall("bees")] == [fact.id]
    for bad in ("", "a\x00b", 1):
        with pytest.raises(InvalidArgument, match="namespace"):
            view.remember(TURN, namespace=bad)  # type: ignore[arg-type]
    view.archive(kept.id)
    assert view.namespaces(("flushed",)) == []
    assert view.namespaces(("flushed",), states=None) == [("flushed", "s")]


# -- keys, places, and last words --------------------------------------------------------------------------


def said(*texts: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text} for text in texts]


def test_a_message_with_a_known_key_is_not_remembered_again(memos: MemOS) -> None:
    view = memos.scoped(user="u", session="s")
    assert len(view.remember(said("I like tea.", "I like rain."), keys=["a", None])) == 4
    assert view.remember(said("I hate tea.", "I like snow."), keys=["a", "b"])[0].text == "I like snow."
    assert view.remember(said("I hate tea."), keys=["a"]) == []
    assert [c.text for c in view.conversation()] == ["I like tea.", "I like rain.", "I like snow."]
    other = memos.scoped(user="u", session="t")
    assert len(other.remember(said("elsewhere"), keys=["a"])) == 1  # keys are a session's


@pytest.mark.parametrize("known", [(), ("Oslo",), ("Oslo", "Rome")])
def test_the_last_word_of_a_turn_holds(memos: MemOS, known: tuple[str, ...]) -> None:
    view = memos.scoped(user="u", session="s")
    for city in known:
        view.remember(said(f"I live in {city}."))
    view.remember(said("I live in Oslo.", "I live in Rome. That was last year. I live in Oslo."))
    assert [hit.cube.text for hit in view.recall("where do I live")] == ["I live in Oslo."]
    assert len(view.conversation()) == len(known) + 2


def test_inserting_among_messages(memos: MemOS) -> None:
    view, expected = memos.scoped(user="u", session="s"), ["a", "b"]
    view.remember(said(*expected))
    for n, index in enumerate((0, 1, -1, 99, -99, 2, *([1] * 130))):
        cube = view.insert(index, said(f"{n}")[0])
        assert view.read(cube.id).text == f"{n}"
        expected.insert(index, f"{n}")
    assert [c.text for c in view.conversation()] == expected
    view.insert(1, said("I like tea.")[0])
    [fact] = view.find(not_types=["message"])
    [message] = [c for c in view.conversation() if c.text == fact.text]
    assert [source.id for source in fact.derived_from] == [message.id]
    assert memos.scoped(user="u", session="t").conversation() == []


def test_what_is_said_word_for_word_is_found_whoever_may_see_it(memos: MemOS) -> None:
    maya, max_ = memos.scoped(user="maya"), memos.scoped(user="max")
    maya.write("I like  TEA.")
    maya.write({"k": 1}, text="i like tea.")
    maya.write("I like tea and coffee.")
    assert sorted(c.text for c in maya.saying("I like tea.")) == ["I like  TEA.", "i like tea."]
    assert max_.saying("I like tea.") == memos.saying("I like tea.") == maya.saying("☕") == []


def test_inserting_for_ever_takes_no_links_apart(memos: MemOS) -> None:
    view = memos.scoped(user="u", session="s")
    view.remember(said("My name is Ann.", "hello"))
    before = [c.id for c in view.conversation()]
    for n in range(150):
        view.insert(1, {"role": "assistant", "content": f"x{n}"})
        view.insert(-1, {"role": "assistant", "content": "the same"})
    assert [view.conversation()[at].id for at in (0, -1)] == before
    same = view.insert(0, said("hello")[0])
    assert view.conversation()[0].id == same.id
    view.erase([c.id for c in view.conversation()])
    assert view.find(states=None) == []


@given(st.lists(st.tuples(st.integers(0, 40), st.sampled_from(["low", "high", None])), max_size=60))
def test_ids_between_two(places: list[tuple[int, Any]]) -> None:
    ids = [new_id(), new_id()]
    for place, near in places:
        at = min(place, len(ids) - 1)
        new = id_between(ids[at - 1] if at else None, ids[at], near)
        assert new is not None
        ids.insert(at, new)
    assert ids == sorted(set(ids))


def test_keys_are_an_agents_and_count_within_a_call(memos: MemOS) -> None:
    for agent in ("sales", "support", None):
        view = memos.scoped(user="u", session="s", agent=agent)
        view.remember([*said("hello"), *said("again")], keys=["a", "a"])
    for agent in ("sales", "support"):
        view = memos.scoped(user="u", session="s", agent=agent)
        assert [(c.text, c.version) for c in view.conversation()] == [("hello", 1)]


def test_the_state_of_memories_is_another_one_when_other_memories_can_be_recalled(memos: MemOS) -> None:
    owner, reader = memos.scoped(user="o"), memos.scoped(user="w")
    kiel, rostock = owner.write("The boat lies in Kiel."), owner.write("The boat lies in Rostock.")
    states = [reader.memories_state()]
    owner.grant(kiel.id, "user:w")
    states.append(reader.memories_state())
    owner.revoke(kiel.id, "user:w")
    owner.grant(rostock.id, "user:w")
    states.append(reader.memories_state())
    owner.revoke(rostock.id, "user:w")
    assert len(set(states)) == 3
    assert reader.memories_state() == states[0]


def test_a_message_that_is_moved_does_not_bring_back_what_was_corrected(memos: MemOS) -> None:
    view = memos.scoped(user="u", session="s")
    [_, rome] = view.remember(said("I live in Rome."))
    view.update(rome.id, "I live in Oslo.")
    view.remember(said("I live in Rome."), namespace="flushed", again=False)
    assert [c.text for c in view.find(not_types=["message"], valid_at="now")] == ["I live in Oslo."]
