"""`memos scheduler explain` and `outlook`: what another process reads of the scheduler's work."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from memos_core import MemOS
from memos_core.cli import cli
from memos_core.cube import now
from memos_core.scheduler import outlook


def run(vault_url: str, *words: str) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(
        cli, ["--vault", vault_url, "scheduler", "explain", *words]
    )


@pytest.fixture
def told(vault_url: str) -> str:
    """A vault in which Alice and Bob had a turn with their cook, Alice first, and somebody of another tenant."""
    with MemOS.open(vault_url, embedder=None) as memos:
        for user in ("alice", "bob"):
            view = memos.scoped(user=user, agent="cook", session="s")
            view.remember([{"role": "user", "content": f"I own the boat of {user}. I love fish."}])
            view.turn_finished()
            assert memos.scheduler.wait_idle(30)
    with MemOS.open(vault_url, embedder=None, tenant="other", user="eve") as memos:
        memos.remember([{"role": "user", "content": "I own the secret boat."}])
        memos.turn_finished()
        assert memos.scheduler.wait_idle(30)
    return vault_url


def test_everybody_in_the_tenant(told: str) -> None:
    shown = run(told)
    assert shown.exit_code == 0, shown.output
    lines = [line.split()[0] for line in shown.output.splitlines() if "/cook" in line]
    assert lines == ["bob/cook", "alice/cook"]  # planned last, shown first
    assert "eve" not in shown.output
    assert "boat" not in shown.output


def test_one_user_with_what_is_resident_and_why(told: str) -> None:
    shown = run(told, "--user", "alice").output
    assert "boat of alice" in shown
    assert "resident in the prompt" in shown
    assert "bob" not in shown
    assert "no plan yet" in run(told, "--user", "nobody").output
    assert "no plan yet" in run(told, "--agent", "nobody").output


def test_as_json(told: str) -> None:
    [alice] = [json.loads(line) for line in run(told, "--user", "alice", "--json").output.splitlines()]
    assert (alice["user"], alice["agent"], len(alice["memories"]), alice["kv"]) == ("alice", "cook", 2, [])
    assert 0 < alice["forecast"]["comes"]["chance"] <= 1
    assert len(run(told, "--limit", "1", "--json").output.splitlines()) == 1


def test_who_was_not_seen_for_long_is_expected_less(told: str) -> None:
    with MemOS.open(told, embedder=None) as memos:
        soon = outlook(memos.vault, "default")
        late = outlook(memos.vault, "default", at=now() + timedelta(days=9))
        for one, other in zip(soon, late, strict=True):
            assert one.plan == other.plan
            assert one.last_turn == other.last_turn
            assert other.forecast.comes.chance < one.forecast.comes.chance


def test_looking_makes_no_vault(tmp_path: Path) -> None:
    shown = run(str(tmp_path / "nowhere"))
    assert "there is no vault" in str(shown.exception)
    assert list(tmp_path.iterdir()) == []
