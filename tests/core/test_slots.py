"""Slots: which statements are about the same thing, and which of two ends the other."""

from __future__ import annotations

from typing import ClassVar

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel

from memos_core.cube import Fact, Message, Preference, Slot
from memos_core.cube.contradiction import contradicts
from memos_core.errors import InvalidArgument
from memos_core.reader import extract_statements, slot_fields, slot_of


def said(text: str) -> Slot | None:
    """The slot of the one statement that the reader finds in a message."""
    [statement] = extract_statements(text)
    return slot_of(statement, statement.statement)


# Older, newer: the newer one ends the older one.
ENDED = [
    ("My name is Maya.", "I changed my name to Ada."),
    ("I'm called Bob.", "Actually, my name is Robert!"),
    ("My name is Bob", "My name isn't Bob"),
    ("I live in Oslo.", "I moved to Paris."),
    ("I live in Oslo, Norway", "I've moved to Paris"),
    ("I now live in Oslo", "Since May I live in St. Louis."),
    ("I live in Oslo with my sister.", "I no longer live in Oslo."),
    ("I am living in Oslo now", "I have just relocated from Oslo to Rome"),
    ("I have lived in Oslo since 2010.", "I don\u2019t live in Oslo any more."),
    ("I live in Oslo", "We live in the Hague"),
    ("I live in Norway", "I moved to the Netherlands last month"),
    ("I work at Google", "I joined Spotify as an engineer"),
    ("I work for Acme Corp. in Berlin.", "I now work at Nordea."),
    ("I work at Google", "I don't work at Google any more"),
    ("I work at Google", "I quit my job."),
    ("I work at Google", "I was laid off from Google last week"),
    ("I'm retired.", "I got a new job at the University of Oslo."),
    ("I work as a nurse.", "I work as a marine biologist at the harbour institute."),
    ("My favourite colour is blue.", "My favorite color is green."),
    ("My favourite colour is blue.", "Green is my favourite colour now."),
    ("My favourite movie is Alien", "My favorite film is Heat by Michael Mann"),
    ("My favourite food is pizza.", "Pizza is no longer my favourite food."),
    ("My dog's name is Rex", "My dog is called Bella"),
    ("My dog\u2019s called Rex", "The name of my dog is Bella"),
    ("My boss is called Birgitta Berg.", "My new boss is called Tom."),
    ("I am 41 years old.", "I just turned forty-two"),
    ("I'm 41", "I am 42 years old!"),
    ("My birthday is on the 3rd of May", "I was born on June 4, 1990"),
    ("I'm vegetarian.", "I went vegan last month."),
    ("I am a vegan", "I'm no longer vegan"),
    ("I'm single.", "I got married last week."),
    ("I am married to Tom.", "I'm divorced now."),
    ("I like olives.", "I don't like olives any more."),
    ("I love olives", "I no longer like olives"),
    ("I love the olives", "I really don't like olives"),
    ("I can't stand olives!", "I love olives because they are salty."),
    ("I hate olives", "I don't hate olives anymore"),
    ("I like olives", "I used to like olives"),
    ("I prefer tea over coffee", "I prefer coffee to tea"),
    ("I drink coffee", "I stopped drinking coffee two weeks ago"),
    ("I don't eat meat", "I eat meat again"),
    ("I smoke.", "I quit smoking."),
    ("I have two kids", "I have three children now"),
    ("My phone number is 070-123 45 67", "My new phone number is +46 70 765 43 21"),
    ("My email is ada@example.com", "My e-mail address is ada@lovelace.org"),
    ("My shoe size is 39", "My shoe size is forty"),
]

# As other systems write down what somebody said.
ENDED_TOO = [
    ("The user lives in Oslo", "The user moved to Rome."),
    ("User lives in Oslo", "I live in Rome"),
    ("User's name is John", "My name is Jack"),
    ("User likes pizza", "The user does not like pizza"),
    ("The user is vegetarian", "the user is vegan"),
]

# Both hold, whichever comes first.
TOGETHER = [
    ("I like tea", "I like coffee"),
    ("I like tea", "I hate coffee"),
    ("I like tea in the morning", "I don't like tea in the evening"),
    ("I like tea", "I don't like tea in the evening"),
    ("My sister lives in Rome", "I live in Rome"),
    ("My sister lives in Rome", "I live in Oslo"),
    ("I live in Paris", "I work in Paris"),
    ("I live in Oslo", "I live in Norway"),
    ("I live in Oslo", "I live in a small flat"),
    ("I live in Oslo", "I lived in Rome as a child"),
    ("I live in Oslo", "I moved to Rome in 2010"),
    ("I live in Oslo", "I'm moving to Rome"),
    ("I live in Oslo", "I might move to Rome"),
    ("I live in Oslo", "I'd like to live in Rome"),
    ("I live in Oslo", "I no longer live in Rome"),
    ("I live in Oslo", "I live in Rome on weekends"),
    ("I live in Oslo", "I live in fear"),
    ("I live in Austin", "I live in Austin, TX"),
    ("I live in New York City", "I live in NYC"),
    ("I no longer live in Rome", "I no longer live in Oslo"),
    ("I work at Google", "I also work at Nordea"),
    ("I work at Google", "I work at night"),
    ("I work at Google", "I work at a bank"),
    ("I work at Google", "I work from home"),
    ("I work at Google", "I joined a gym"),
    ("I work at Google", "I work as an engineer"),
    ("My name is Maya", "My name is Maya Lindqvist"),
    ("My name is Maya", "My name is hard to spell"),
    ("My name is Maya", "Call me May from now on"),
    ("My dog is brown", "My dog is called Rex"),
    ("My dog is ill", "My dog is brown"),
    ("My dog is called Rex", "My cat is called Bella"),
    ("My dog is called Rex", "My other dog is called Bella"),
    ("My sister is called Ada", "My sister is called Bo"),
    ("My friend is Bob", "My friend is Tom"),
    ("My favourite colour is blue", "My favourite food is pizza"),
    ("My favourite chair is green", "My favourite chair is broken"),
    ("My favourite colours are blue and green", "My favourite colour is blue"),
    ("I am 41 years old", "I'm 5 minutes late"),
    ("My birthday is 3 May", "My birthday is next week"),
    ("My birthday is 3 May", "I was born on May 3, 1990"),
    ("I am married", "I am married to Tom"),
    ("I am married", "I am engaged in politics"),
    ("I drive a Volvo", "I drive a Saab"),
    ("I have a cat", "I have two black cats"),
    ("I like C", "I hate C++"),
    ("I don't drink coffee", "I do not drink coffee on Sundays"),
    ("I live in Oslo", "I moved to Linux"),
    ("I live in Oslo", "I live in Rome and I work at Google"),
    ("I live in Oslo and I work at Google", "I live in Rome"),
]


@pytest.mark.parametrize(("older", "newer"), [*ENDED, *ENDED_TOO])
def test_a_newer_statement_ends_an_older_one(older: str, newer: str) -> None:
    first, second = slot_of(None, older), slot_of(None, newer)
    assert first is not None
    assert second is not None
    assert contradicts(second, first)


@pytest.mark.parametrize(("one", "other"), TOGETHER)
def test_what_can_both_be_so_is_never_ended(one: str, other: str) -> None:
    first, second = slot_of(None, one), slot_of(None, other)
    assert first is None or second is None or not contradicts(second, first)
    assert first is None or second is None or not contradicts(first, second)


@pytest.mark.parametrize(("older", "newer"), ENDED)
def test_the_reader_finds_these_statements(older: str, newer: str) -> None:
    first, second = said(older), said(newer)
    assert first == slot_of(None, older)
    assert second == slot_of(None, newer)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "?",
        "I live in Oslo?",
        "I live in",
        "I live in Oslo. I work at Google.",
        "I left Paris",
        "I like it",
        "I love you",
        "I would like to learn how to weld.",
        "If I lived in Oslo, I would like it.",
        "My email is not working",
        "My flight is called off",
        "My height is average",
        "I am so engaged",
        "I'm married to my job",
        "I live in Oslo; I love it",
        "The sky is blue",
        "I like " + "very " * 200 + "long sentences",
    ],
)
def test_what_has_no_slot(text: str) -> None:
    assert slot_of(None, text) is None


def test_who_ends_whom() -> None:
    oslo, rome = Slot(key="home", value="oslo"), Slot(key="home", value="rome")
    not_oslo, not_rome = Slot(key="home", value="oslo", ends=True), Slot(key="home", value="rome", ends=True)
    assert contradicts(rome, oslo)
    assert contradicts(not_oslo, oslo)
    assert contradicts(oslo, not_oslo)
    assert not contradicts(oslo, oslo)
    assert not contradicts(not_oslo, rome)
    assert not contradicts(rome, not_oslo)
    assert not contradicts(not_rome, not_oslo)
    assert not contradicts(rome, Slot(key="employer", value="oslo"))


def test_a_preference_knows_its_polarity() -> None:
    text = "Oh, I just love waiting in line"
    assert slot_of(Preference(statement=text, polarity="dislike"), text) == Slot(
        key="like waiting in line", value="dislike"
    )
    assert slot_of(Preference(statement="Black tea", polarity="like"), "Black tea") == Slot(
        key="like black tea", value="like"
    )
    ended = "I no longer like tea"  # the words say that it is over, whatever an extractor made of them
    assert slot_of(Preference(statement=ended, polarity="like"), ended) == Slot(
        key="like tea", value="dislike"
    )


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("I don\u2019t like olives.", "dislike"),
        ("I don't really like olives.", "dislike"),
        ("I no longer like olives.", "dislike"),
        ("I stopped liking olives.", "dislike"),
        ("I don't hate olives.", None),
        ("I used to love olives.", None),
        ("I'm vegan.", None),
        ("My name is Dr. Holm.", None),
    ],
)
def test_the_reader_takes_them_for_what_they_are(text: str, kind: str | None) -> None:
    [found] = extract_statements(text)
    assert found.statement == text
    assert getattr(found, "polarity", None) == kind


def test_beside_a_question_what_lasts_is_kept() -> None:
    found = extract_statements("I'm living in Paris now. I'm packing my bag. What should I eat?")
    assert [s.statement for s in found] == ["I'm living in Paris now."]


class Address(BaseModel):
    memos_slot: ClassVar[tuple[str, ...]] = ("person",)

    person: str
    city: str
    street: str | None = None


class Profile(BaseModel):
    memos_slot: ClassVar[tuple[str, ...]] = ()

    mood: str


class Note(BaseModel):
    text: str


def test_a_structure_of_ones_own_names_its_slot() -> None:
    ada = slot_of(Address(person="Ada", city="Oslo"), "whatever")
    moved = slot_of(Address(person=" ADA", city="Rome"), "")
    assert ada is not None
    assert moved is not None
    assert contradicts(moved, ada)
    assert slot_of(Address(person="Bo", city="Oslo"), "").key != ada.key  # type: ignore[union-attr]
    assert slot_of(Address(person="", city="Oslo"), "") is None
    assert slot_of(Profile(mood="good"), "").key == slot_of(Profile(mood="bad"), "").key  # type: ignore[union-attr]
    assert len(slot_of(Address(person="x" * 5000, city="Oslo"), "").key) <= 200  # type: ignore[union-attr]
    assert slot_of(Note(text="I live in Oslo"), "I live in Oslo") is None
    assert slot_of(Message(role="user", content="I live in Oslo"), "I live in Oslo") is None
    assert slot_of(Fact(statement="I live in Oslo"), "I live in Oslo") is not None
    assert slot_fields(Note) is None


@pytest.mark.parametrize("declared", ["person", ("nobody",), 3, (1,)])
def test_a_slot_of_unknown_fields_is_refused(declared: object) -> None:
    wrong = type("Wrong", (Note,), {"memos_slot": declared, "__annotations__": {"memos_slot": ClassVar}})
    with pytest.raises(InvalidArgument, match="memos_slot of Wrong"):
        slot_of(wrong(text="x"), "x")


SENTENCES = [text for pair in [*ENDED, *ENDED_TOO, *TOGETHER] for text in pair]
_WORDS = sorted({word for text in SENTENCES for word in text.split()})


@given(
    st.sampled_from(SENTENCES),
    st.sampled_from([str, str.upper, str.lower, str.title, str.swapcase]),
    st.sampled_from(["", ".", "!", "...", "…", " 😊", ' "']),
    st.sampled_from([" ", "  ", "\t", "\n", "\u00a0"]),
    st.sampled_from(["", " ", "- ", "Now, ", "Actually, ", "By the way, "]),
)
@example("I like C++", str.upper, "!", "  ", "")
def test_case_spacing_and_punctuation_do_not_matter(
    text: str, case: object, end: str, space: str, lead: str
) -> None:
    written = lead + case(text.rstrip(".!")).replace(" ", space) + end  # type: ignore[operator]
    assert slot_of(None, written) == slot_of(None, text)


@given(st.text() | st.lists(st.sampled_from(_WORDS), max_size=12).map(" ".join))
@example("\ud800 I live in \udfff")
@example("I live in " + "," * 250)
@example("i " + "have " * 190)
def test_any_text_has_a_slot_or_none(text: str) -> None:
    for structure in (None, Preference(statement=text, polarity="like"), Fact(statement=text)):
        found = slot_of(structure, text)
        assert found is None or (found.key and found.value)
    extract_statements(text)
