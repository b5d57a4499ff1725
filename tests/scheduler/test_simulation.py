"""The benchmark's simulated machine: every policy keeps its budgets, and what they save is ordered as it must be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import scheduler_policies as policies
from benchmarks.scheduler_traces import DAY, Turn, habits, locomo, zipf
from benchmarks.scheduler_world import CHUNK, Figures, Policy, World
from memos_core.scheduler.placement import SMOLLM2_CPU


def replay(turns: list[Turn], policy: Policy, share: float = 0.1) -> Figures:
    """Under a budget that is a share of everybody's prefixes. World itself raises where a budget is passed."""
    free = World(SMOLLM2_CPU, 1 << 40, 1 << 40, policies.Unbounded())
    free.run(turns)
    tokens = int(free.peak * share / 2)
    return World(SMOLLM2_CPU, tokens, tokens, policy).run(turns)


def saved(figures: Figures) -> float:
    return 1 - figures.computed / figures.prompt


def test_planning_saves_more_than_caching_and_less_than_knowing() -> None:
    turns = habits(7, days=3, users=12)
    found = {
        "none": replay(turns, policies.Nothing()),
        "lru": replay(turns, policies.Cache(by_cost=False)),
        "gdsf": replay(turns, policies.Cache(by_cost=True)),
        "ours": replay(turns, policies.ours()),
        "clairvoyant": replay(turns, policies.clairvoyant(turns)),
        "unbounded": replay(turns, policies.Unbounded(), share=10),
    }
    shares = {name: saved(figures) for name, figures in found.items()}
    assert shares["none"] == 0
    assert max(shares["lru"], shares["gdsf"]) < shares["ours"] < shares["clairvoyant"] < shares["unbounded"]
    assert shares["ours"] > 0.85 * shares["clairvoyant"]
    assert found["none"].background_s == 0
    assert all(f.delayed_s == 0 for n, f in found.items() if n == "none")


@pytest.mark.parametrize("share", [0.02, 0.5])
def test_a_request_waits_for_one_chunk_of_background_work_at_most(share: float) -> None:
    turns = zipf(7, days=1, scopes=20, sessions_a_day=40)
    figures = replay(turns, policies.ours(), share)
    assert figures.background_s > 0
    # The longest chunk is the last of the longest prefix: resident memory and a conversation behind it.
    end = 3072 + max(sum(t.said for t in turns if t.session == s) for s in {t.session for t in turns})
    assert figures.longest_delay_s <= SMOLLM2_CPU.prefill(end - CHUNK, end)
    assert replay(turns, policies.ours(), share) == figures  # deterministic


@pytest.mark.parametrize("make", [lambda s: habits(s, days=2, users=5), lambda s: zipf(s, days=2, scopes=20)])
def test_traces_are_their_seeds_and_in_order(make: object) -> None:
    one, again, other = make(1), make(1), make(2)  # type: ignore[operator]
    assert one == again != other
    assert [t.at for t in one] == sorted(t.at for t in one)


def test_a_conversation_becomes_the_turns_of_two_users(tmp_path: Path) -> None:
    talk = {
        "speaker_a": "Ann",
        "speaker_b": "Bo",
        "session_1_date_time": "1:56 pm on 8 May, 2023",
        "session_1": [
            {"speaker": "Ann", "text": "I went to the harbour and counted nineteen boats today."},
            {"speaker": "Bo", "text": "How nice!"},
            {"speaker": "Ann", "text": "It was."},
        ],
        "session_2_date_time": "9:00 am on 24 May, 2023",
        "session_2": [{"speaker": "Bo", "text": "Good morning."}],
    }
    path = tmp_path / "talk.json"
    path.write_text(json.dumps([{"sample_id": "conv-1", "conversation": talk}]))
    turns = locomo(path, 1, copies=1)
    users = [t.scope.user for t in turns]
    assert sorted(users) == ["conv-1 Ann 0", "conv-1 Ann 0", "conv-1 Bo 0", "conv-1 Bo 0"]
    ann, bo = ([t for t in turns if t.scope.user == f"conv-1 {name} 0"] for name in ("Ann", "Bo"))
    assert [t.session for t in ann] == ["1", "1"]
    assert [t.session for t in bo] == ["1", "2"]
    assert ann[0].learned > 0 == ann[1].learned  # few words teach nothing
    assert bo[1].at - bo[0].at == pytest.approx(2 * DAY - 5 * 3600, abs=3600)
