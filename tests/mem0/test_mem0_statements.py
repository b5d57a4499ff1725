"""Which statements of `add(infer=True)` are kept: what comes back, what is corrected, what is said twice at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from mem0_kit import embed, texts

from mem0_memos import Memory
from memos_core.cube import Preference
from memos_core.errors import VersionConflict
from memos_core.memos import MemOS

ALICE: dict[str, Any] = {"user_id": "alice"}


def model(*found: dict[str, str]) -> Any:
    """A language model that finds one memory a call."""
    replies: Iterator[str] = iter([json.dumps({"memory": [one]}) for one in found])
    return lambda messages: next(replies)


def homes(memory: Memory, **more: Any) -> list[str]:
    return texts(memory.search("I live in", filters=ALICE, **more))


def test_what_held_once_and_is_said_again_holds_again(memory: Memory) -> None:
    ids = [
        memory.add(said, user_id="alice")["results"][0]["id"]
        for said in ("I live in Oslo.", "I live in Bergen.", "I live in Oslo.")
    ]
    assert len(set(ids)) == 3
    assert homes(memory) == ["I live in Oslo."]
    assert memory.add("I live in Oslo.", user_id="alice") == {"results": []}
    assert memory.get(ids[0]) is not None


def test_after_a_wrong_statement_is_deleted_the_right_one_can_be_said_again(memory: Memory) -> None:
    memory.add("I live in Oslo.", user_id="alice")
    [wrong] = memory.add("I live in Bergen.", user_id="alice")["results"]
    memory.delete(wrong["id"])
    assert texts(memory.add("I live in Oslo.", user_id="alice")) == ["I live in Oslo."]
    assert homes(memory) == ["I live in Oslo."]


def test_a_memory_that_held_no_more_and_is_rewritten_is_found(memory: Memory) -> None:
    [old] = memory.add("I live in Oslo.", user_id="alice")["results"]
    memory.add("I live in Bergen.", user_id="alice")
    memory.update(old["id"], metadata={"seen": 1})
    assert homes(memory) == ["I live in Bergen."]
    memory.update(old["id"], "My sister lives in Oslo.")
    assert set(texts(memory.search("my sister lives in oslo", filters=ALICE))) == {
        "My sister lives in Oslo.",
        "I live in Bergen.",
    }


@pytest.mark.parametrize("who", [{}, {"attributed_to": "user"}])
@pytest.mark.parametrize("metadata", [None, {"topic": "home"}])
def test_a_contradiction_ends_the_earlier_statement_whatever_is_noted_beside_it(
    memos: MemOS, who: dict[str, str], metadata: dict[str, Any] | None
) -> None:
    found = ({"text": f"I live in {city}.", **who} for city in ("Oslo", "Rome", "Lima"))
    memory = Memory(memos, llm=model(*found))
    memory.add("x", user_id="alice", metadata=metadata)
    [rome] = memory.add("y", user_id="alice", metadata=metadata)["results"]
    assert homes(memory) == ["I live in Rome."]
    memory.update(rome["id"], metadata={"seen": 2})
    memory.add("z", user_id="alice", metadata=metadata)
    assert homes(memory) == ["I live in Lima."]


def test_what_is_kept_word_for_word_ends_nothing(memory: Memory) -> None:
    for city in ("Oslo", "Rome"):
        memory.add(f"I live in {city}.", user_id="alice", infer=False)
    assert set(homes(memory)) == {"I live in Oslo.", "I live in Rome."}


def test_what_a_model_corrects_in_case_or_spacing_is_kept(memos: MemOS) -> None:
    passwords = ["User's wifi password is abc.", "User's wifi password is ABC."]
    memory = Memory(memos, llm=model(*({"text": said} for said in (*passwords, *passwords))))
    added = [texts(memory.add("x", user_id="alice")) for _ in range(4)]
    assert added == [passwords[:1], passwords[1:], [], []]
    assert sorted(texts(memory.get_all(filters=ALICE))) == sorted(passwords)


def test_metadata_of_a_statement_is_the_callers(memos: MemOS, memory: Memory) -> None:
    [added] = memory.add("I love green tea.", user_id="alice")["results"]
    found = memory.get(added["id"])
    assert found is not None
    assert found["metadata"] is None
    memory.update(added["id"], metadata={"statement": "chat 7", "polarity": "north", "k": 1})
    memory.update(added["id"], "I hate green tea.")
    found = memory.get(added["id"])
    assert found is not None
    assert (found["memory"], found["metadata"]) == (
        "I hate green tea.",
        {"statement": "chat 7", "polarity": "north", "k": 1},
    )
    typed = memos.scoped(user="alice").write(Preference(statement="I love tea.", polarity="like"))
    assert texts(memory.get_all(filters={**ALICE, "polarity": "like"})) == []
    assert memory.get(typed.id)["metadata"] is None  # type: ignore[index]


@pytest.mark.parametrize("metadata", [False, True])
def test_a_statement_that_many_add_at_once_is_added_once(tmp_path: Any, metadata: bool) -> None:
    with Memory(config={"url": tmp_path / "v", "embedder": embed}) as memory, ThreadPoolExecutor(8) as pool:

        def add(n: int) -> Any:
            more = {"metadata": {"n": n}} if metadata else {}
            return memory.add("I love green tea. I live in Oslo.", user_id="alice", **more)["results"]

        events = [event for result in pool.map(add, range(16)) for event in result]
        assert sorted(event["memory"] for event in events) == ["I live in Oslo.", "I love green tea."]
        for event in events:
            assert [row["event"] for row in memory.history(event["id"])] == ["ADD"]


def test_many_new_cubes_are_refused_together_if_one_is_there(memos: MemOS) -> None:
    alice = memos.scoped(user="alice")
    first = alice.put([alice.cube("a", key="a"), alice.cube("b", key="b")], expected_version=0)
    assert [c.version for c in first] == [1, 1]
    with pytest.raises(VersionConflict, match="'b' has version 1"):
        alice.put([alice.cube("c", key="c"), alice.cube("d", key="b")], expected_version=0)
    assert sorted(c.text for c in alice.find()) == ["a", "b"]


# -- said again, and in other words ------------------------------------------------------------------------


def test_a_log_that_is_replayed_adds_nothing(memory: Memory) -> None:
    for _ in range(3):
        memory.add("I live in Oslo.", user_id="alice", timestamp="2020-01-01")
        memory.add("I live in Bergen.", user_id="alice", timestamp="2022-01-01")
        memory.add("I like tea.", user_id="alice", expiration_date="2020-01-01")
    listed = memory.get_all(filters=ALICE, show_expired=True)
    assert sorted(texts(listed)) == ["I like tea.", "I live in Bergen.", "I live in Oslo."]
    assert homes(memory) == ["I live in Bergen."]
    memory.add("I like tea.", user_id="alice")  # again, and for good
    assert len(memory.get_all(filters=ALICE, show_expired=True)["results"]) == 4


def test_a_statement_is_known_wherever_it_stands(memos: MemOS) -> None:
    dog = {"text": "I have a dog"}
    memory = Memory(memos, llm=model(dog, {"text": "I have a bird"}, {"text": "I have a cat"}, dog))
    memory.add("I have a dog", user_id="alice", infer=False)
    assert memory.add("x", user_id="alice") == {"results": []}
    [bird] = memory.add("x", user_id="alice")["results"]
    memory.update(bird["id"], "I have a cat")
    assert memory.add("x", user_id="alice") == {"results": []}
    memory.delete_all(user_id="alice")
    assert texts(memory.add("x", user_id="alice")) == ["I have a dog"]


def test_a_gap_among_the_keys_hides_nothing(memory: Memory) -> None:
    [first] = memory.add("I live in Oslo.", user_id="alice")["results"]
    memory.update(first["id"], "I work in Rome.")
    memory.add("I live in Oslo.", user_id="alice")
    memory.delete(first["id"])
    assert memory.add("I live in Oslo.", user_id="alice") == {"results": []}
    assert homes(memory) == ["I live in Oslo."]


def test_to_and_fro_for_ever(memory: Memory) -> None:
    for n in range(80):
        city = ("Oslo", "Bergen")[n % 2]
        assert len(memory.add(f"I live in {city}.", user_id="alice")["results"]) == 1
        assert homes(memory) == [f"I live in {city}."]


@pytest.mark.parametrize("known", [(), ("Oslo",), ("Oslo", "Bergen")])
def test_the_last_word_of_one_call_holds(memory: Memory, known: tuple[str, ...]) -> None:
    for city in known:
        memory.add(f"I live in {city}.", user_id="alice")
    said = [
        {"role": "user", "content": f"I live in {city}. I like tea."} for city in ("Oslo", "Bergen", "Oslo")
    ]
    memory.add(said, user_id="alice")
    assert [text for text in homes(memory) if "live" in text] == ["I live in Oslo."]
    assert texts(memory.get_all(filters=ALICE)).count("I like tea.") == 1


def test_what_an_update_says_is_found_whatever_it_contradicts(memory: Memory) -> None:
    [boat] = memory.add("I own a boat.", user_id="alice")["results"]
    memory.add("I live in Oslo.", user_id="alice")
    memory.update(boat["id"], "I live in Lima.")
    assert homes(memory) == ["I live in Lima."]


def test_history_has_no_events_that_nobody_asked_for(memory: Memory) -> None:
    [oslo] = memory.add("I live in Oslo.", user_id="alice")["results"]
    memory.add("I live in Bergen.", user_id="alice")
    assert [row["event"] for row in memory.history(oslo["id"])] == ["ADD"]
    memory.update(oslo["id"], metadata={"seen": 1})
    memory.update(oslo["id"], "I live in Lima.")
    assert [(row["event"], row["new_memory"]) for row in memory.history(oslo["id"])] == [
        ("ADD", "I live in Oslo."),
        ("UPDATE", "I live in Oslo."),
        ("UPDATE", "I live in Lima."),
    ]


# -- one vault ---------------------------------------------------------------------------------------------


def test_what_a_corrected_memory_said_can_be_said_again_to_everybody(memos: MemOS, memory: Memory) -> None:
    view = memos.scoped(user="alice", session="s")
    said = [{"role": "user", "content": "I live in Oslo."}]
    [_, cube] = view.remember(said)
    memory.update(cube.id, "I live in Bergen.")
    view.remember(said)
    assert homes(memory) == ["I live in Oslo."]
    memory.update(cube.id, "I live in Lima.", metadata={"k": 1})
    memory.add("I live in Rome.", user_id="alice")
    view.remember(said)
    assert homes(memory) == ["I live in Oslo."]
    kept = memory.get(cube.id)
    assert kept is not None
    assert (kept["memory"], kept["metadata"]) == ("I live in Lima.", {"k": 1})


def test_an_expiration_date_counts_for_every_reader(memos: MemOS, memory: Memory) -> None:
    alice = memos.scoped(user="alice")
    memory.add("I am allergic to nuts.", user_id="alice", expiration_date="2020-01-01")
    memory.add("nuts are sold out", user_id="alice", expiration_date="2020-01-01", infer=False)
    assert alice.recall("nuts") == []
    assert len(memory.search("nuts", filters=ALICE, show_expired=True)["results"]) == 2
    alice.remember([{"role": "user", "content": "I am allergic to nuts."}])
    assert texts(memory.search("nuts", filters=ALICE)) == ["I am allergic to nuts."]
    [tea] = memory.add("I like tea.", user_id="alice", expiration_date="2999-01-01")["results"]
    for date, shown in (("2001-01-01", 0), ("2998-01-01", 1), ("2001-01-01", 0), (None, 1)):
        memory.update(tea["id"], expiration_date=date)
        assert len([h for h in alice.recall("tea") if "tea" in h.cube.text]) == shown
        assert ("I like tea." in texts(memory.search("tea", filters=ALICE))) is bool(shown)
    memory.update(tea["id"], "I like rain.", expiration_date="2001-01-01")
    assert "I like rain." not in texts(memory.search("rain", filters=ALICE))
    assert "I like rain." in texts(memory.search("rain", filters=ALICE, show_expired=True))


def test_what_was_contradicted_is_not_shown_as_expired(memory: Memory) -> None:
    memory.add("I live in Oslo.", user_id="alice")
    memory.add("I live in Rome.", user_id="alice")
    assert homes(memory, show_expired=True) == ["I live in Rome."]


@pytest.mark.parametrize("newest_first", [False, True])
def test_a_log_may_come_in_any_order(memory: Memory, newest_first: bool) -> None:
    log = [("Oslo", 2018), ("Bergen", 2020), ("Oslo", 2022)]
    for _ in range(2):  # and again
        for city, year in log[::-1] if newest_first else log:
            memory.add(f"I live in {city}.", user_id="alice", timestamp=f"{year}-01-01")
    assert len(memory.get_all(filters=ALICE)["results"]) == 3
    for year, city in ((2018, "Oslo"), (2019, "Oslo"), (2020, "Bergen"), (2021, "Bergen"), (2023, "Oslo")):
        assert homes(memory, reference_date=f"{year}-06-01") == [f"I live in {city}."]
    assert homes(memory) == ["I live in Oslo."]


def test_what_may_not_be_read_here_is_in_nobodys_way(memos: MemOS, memory: Memory) -> None:
    [secret] = memory.add("I have asthma.", user_id="alice")["results"]
    memos.scoped(user="alice").update(secret["id"], sensitivity=["health"])
    cleared = Memory(memos.scoped(clearance=[]))
    for _ in range(2):
        cleared.add("I have asthma. I live in Oslo.", user_id="alice")
        assert sorted(texts(cleared.get_all(filters=ALICE))) == ["I have asthma.", "I live in Oslo."]
    assert len(memory.get_all(filters=ALICE)["results"]) == 3


@pytest.mark.parametrize("text", ["🎉", "मुझे चाय पसंद है।", "ฉันชอบชา", "I am I."])
def test_a_statement_without_searchable_words_is_known_too(memos: MemOS, text: str) -> None:
    memory = Memory(memos, llm=model({"text": text}, {"text": text}, {"text": text}))
    added = [len(memory.add("x", user_id="alice")["results"]) for _ in range(3)]
    assert added == [1, 0, 0]


def test_an_expiration_date_in_metadata_is_one(memory: Memory) -> None:
    [tea] = memory.add("I like tea.", user_id="alice", expiration_date="2001-01-01")["results"]
    for date, shown in (("2998-01-01", 1), ("2001-01-01", 0), (None, 1)):
        memory.update(tea["id"], metadata={"expiration_date": date})
        assert len(memory.search("tea", filters=ALICE)["results"]) == shown
        assert len(memory.search("tea", filters=ALICE, show_expired=True)["results"]) == 1


def test_the_same_statement_newest_first_is_one(memory: Memory) -> None:
    for day in ("2024-03-03", "2024-02-02", "2024-01-01"):
        memory.add("I like tea.", user_id="alice", timestamp=day)
    assert texts(memory.get_all(filters=ALICE)) == ["I like tea."]


def test_what_is_denied_of_one_thing_leaves_what_is_known_of_another(memory: Memory) -> None:
    memory.add("I live in Rome.", user_id="alice")
    said = [{"role": "user", "content": text} for text in ("I no longer live in Oslo.", "I live in Rome.")]
    assert "I live in Rome." not in texts(memory.add(said, user_id="alice"))
    assert homes(memory).count("I live in Rome.") == 1
