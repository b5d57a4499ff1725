"""`timestamp`, `reference_date`, and the times that questions name."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mem0_kit import texts

from mem0_memos import Memory
from mem0_memos.times import moment, period
from memos_core.errors import InvalidArgument
from memos_core.memos import MemOS

ALICE: dict[str, Any] = {"user_id": "alice"}
TODAY = date(2024, 5, 15)  # a Wednesday


def test_a_timestamp_is_when_it_was_said(memory: Memory) -> None:
    for infer in (True, False):
        (added,) = memory.add("I love tea.", user_id="alice", infer=infer, timestamp=1_700_000_000)["results"]
        item = memory.get(added["id"])
        assert item is not None
        assert item["created_at"] == item["updated_at"] == "2023-11-14T22:13:20+00:00"
        assert memory.history(added["id"])[0]["created_at"] == item["created_at"]
        memory.update(added["id"], "I love coffee.")
        changed = memory.get(added["id"])
        assert changed is not None
        assert changed["created_at"] == item["created_at"] < changed["updated_at"]
    assert len(memory.get_all(filters={**ALICE, "created_at": {"lt": "2024-01-01"}})["results"]) == 2


def test_a_reference_date_asks_as_on_that_day(memory: Memory) -> None:
    memory.add("tea in march", user_id="alice", infer=False, timestamp="2024-03-10")
    memory.add("tea in april", user_id="alice", infer=False, timestamp="2024-04-10")
    memory.add(
        "tea until april", user_id="alice", infer=False, timestamp="2024-03-01", expiration_date="2024-04-01"
    )
    memory.add("tea today", user_id="alice", infer=False)

    def found(day: Any, **how: Any) -> list[str]:
        return texts(memory.search("tea", filters=ALICE, reference_date=day, **how))

    assert found("2024-03-31") == ["tea in march", "tea until april"]
    assert found(date(2024, 4, 2)) == ["tea in march"]
    assert found("2024-04-02", show_expired=True) == ["tea in march", "tea until april"]
    assert found(datetime(2024, 4, 10, tzinfo=UTC)) == ["tea in april", "tea in march"]
    assert found("2020-01-01") == []
    assert texts(memory.search("tea", filters=ALICE)) == ["tea in april", "tea in march", "tea today"]


def test_what_held_then(memory: Memory) -> None:
    memory.add("I live in Oslo.", user_id="alice", timestamp="2023-01-01")
    memory.add("I live in Bergen.", user_id="alice", timestamp="2024-01-01")
    asked = {"query": "where do I live in", "filters": ALICE}
    assert texts(memory.search(**asked, reference_date="2023-06-01")) == ["I live in Oslo."]
    assert texts(memory.search(**asked, reference_date="2024-06-01")) == ["I live in Bergen."]
    assert texts(memory.search(**asked)) == ["I live in Bergen."]


def test_a_time_in_the_question_comes_first(memory: Memory) -> None:
    for day in ("2024-05-14", "2024-05-08", "2024-04-20", "2023-05-03"):
        memory.add(f"went climbing on {day}", user_id="alice", infer=False, timestamp=day)
    memory.add("climbing climbing", user_id="alice", infer=False, timestamp="2024-01-01")

    def first(query: str) -> str:
        asked = memory.search(query, filters=ALICE, reference_date="2024-05-15", threshold=0.0, top_k=5)
        assert len(asked["results"]) == 5
        return str(asked["results"][0]["memory"])

    assert first("climbing yesterday") == "went climbing on 2024-05-14"
    assert first("climbing last week") == "went climbing on 2024-05-08"
    assert first("climbing last month") == "went climbing on 2024-04-20"
    assert first("climbing in May 2023") == "went climbing on 2023-05-03"
    assert first("climbing") == "climbing climbing"
    only = memory.search("climbing yesterday", filters=ALICE, reference_date="2024-05-15", top_k=1)
    assert texts(only) == ["went climbing on 2024-05-14"]


@pytest.mark.parametrize(
    ("question", "start", "end"),
    [
        ("what did I do today?", "2024-05-15", "2024-05-16"),
        ("What happened Yesterday", "2024-05-14", "2024-05-15"),
        ("the day before yesterday", "2024-05-13", "2024-05-14"),
        ("what is on tomorrow", "2024-05-16", "2024-05-17"),
        ("two days ago", "2024-05-13", "2024-05-14"),
        ("a week ago", "2024-05-06", "2024-05-13"),
        ("last week", "2024-05-06", "2024-05-13"),
        ("this week", "2024-05-13", "2024-05-20"),
        ("next month", "2024-06-01", "2024-07-01"),
        ("last year", "2023-01-01", "2024-01-01"),
        ("in the last 3 days", "2024-05-12", "2024-05-16"),
        ("past two weeks", "2024-05-01", "2024-05-16"),
        ("last wednesday", "2024-05-08", "2024-05-09"),
        ("on Monday", "2024-05-13", "2024-05-14"),
        ("on Friday", "2024-05-10", "2024-05-11"),
        ("next monday", "2024-05-20", "2024-05-21"),
        ("in March", "2024-03-01", "2024-04-01"),
        ("in December", "2023-12-01", "2024-01-01"),
        ("during may, 2022", "2022-05-01", "2022-06-01"),
        ("in 2021", "2021-01-01", "2022-01-01"),
        ("on 2023-02-28", "2023-02-28", "2023-03-01"),
    ],
)
def test_periods(question: str, start: str, end: str) -> None:
    found = period(question, TODAY)
    assert found is not None
    assert (found.start, found.end) == (moment(start, "s"), moment(end, "e"))


@pytest.mark.parametrize("question", ["", "what may I eat?", "my lastweek", "on 2023-02-31", "900 years ago"])
def test_no_period(question: str) -> None:
    assert period(question, date(800, 1, 1)) is None or question == ""


@given(st.dates(date(1, 1, 1), date(9999, 12, 31)), st.text(max_size=30))
def test_periods_never_fail_and_never_end_before_they_begin(today: date, text: str) -> None:
    for question in (text, "last year", "999 months ago", "next week", f"{text} last month", "past 12 years"):
        found = period(question, today)
        assert found is None or found.start < found.end


def test_moments() -> None:
    there = datetime(2024, 5, 1, 8, tzinfo=timezone(timedelta(hours=2)))
    same = datetime(2024, 5, 1, 6, tzinfo=UTC)
    for value in (there, same, "2024-05-01T08:00:00+02:00", "2024-05-01T06:00:00", same.timestamp()):
        assert moment(value, "t") == same
    assert moment(str(int(same.timestamp())), "t") == same
    assert moment("2024-05-01", "t") == moment(date(2024, 5, 1), "t") == datetime(2024, 5, 1, tzinfo=UTC)
    assert moment("2024-05-01", "t", end_of_day=True) > moment("2024-05-01T23:59:59", "t")


@pytest.mark.parametrize("value", ["soon", "", True, float("nan"), float("inf"), 1e20, [], {}, b"2024-05-01"])
def test_no_moment(memory: Memory, memos: MemOS, value: Any) -> None:
    with pytest.raises(InvalidArgument, match=r"timestamp"):
        memory.add("x", user_id="alice", timestamp=value)
    with pytest.raises(InvalidArgument, match=r"reference_date"):
        memory.search("x", filters=ALICE, reference_date=value)
    assert memos.scoped(user="alice").find() == []
