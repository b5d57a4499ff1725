"""The edges of isolation: every user's view, names that look special, tenants. What happens inside them, under random
use and through every adapter, is in tests/test_isolation.py."""

from __future__ import annotations

from typing import Any

import pytest

from memos_core import MemCube, MemOS


def test_the_operator_reads_every_user_with_a_star_and_writes_none(memos: MemOS) -> None:
    from memos_core.errors import InvalidArgument

    for user in ("alice", "bob"):
        memos.scoped(user=user).write(f"{user} likes figs")
    memos.write("nobody likes figs")
    every = memos.all_users()
    assert {c.scope.user for c in every.find()} == {"alice", "bob", None}
    assert {h.cube.scope.user for h in every.search("figs")} == {"alice", "bob", None}
    assert [c.scope.user for c in memos.find()] == [None]
    with pytest.raises(InvalidArgument):
        every.write("for everybody")
    with pytest.raises(InvalidArgument):
        every.remember([{"role": "user", "content": "I like figs a lot."}])
    every.turn_finished()
    assert memos.scheduler.wait_idle()
    assert every.prompt([{"role": "user", "content": "who likes what?"}], k=0).resident == ()
    assert len(every.find()) == 3


def test_a_star_is_special_for_users_only(memos: MemOS) -> None:
    view = memos.scoped(user="u", agent="*", session="*")
    memos.scoped(user="u", agent="a", session="s").write("a fact of agent a")
    assert view.find() == []
    from memos_core.errors import AccessDenied

    with pytest.raises(AccessDenied):
        view.put([memos.scoped(user="u", agent="a", session="s").cube("x")])
    with pytest.raises(AccessDenied):
        view.scoped(agent="a")


def test_tenants_share_nothing(tmp_path: Any) -> None:
    with MemOS.open(tmp_path, tenant="t1", user="u", embedder=None) as one:
        cube: MemCube = one.write("a secret of tenant one", key="k")
        with MemOS.open(tmp_path, tenant="t2", user="u", embedder=None) as two:
            assert (two.find(), two.search("secret"), two.at(("memories",), "k")) == ([], [], None)
            assert two.delete(cube.id) == []
            assert two.audit_log() == []
            two.write("another", key="k")
        assert one.read(cube.id).text == "a secret of tenant one"


# -- sessions of no user: nobody knows who speaks in them ------------------------------------------------------


def told(view: MemOS, *texts: str) -> None:
    view.remember([{"role": "user", "content": text} for text in texts])


def recalled(view: MemOS, question: str = "what is known, who lives where, who likes figs?") -> set[str]:
    return {hit.cube.text for hit in view.recall(question, k=20)}


def test_a_session_of_no_user_is_by_itself(memos: MemOS) -> None:
    one, two = memos.scoped(session="one"), memos.scoped(session="two")
    told(one, "I live in Oslo.", "I like figs a lot.")
    told(two, "I live in Rome.", "I like figs a lot.")
    for view, town in ((one, "I live in Oslo."), (two, "I live in Rome.")):
        assert recalled(view) == {town, "I like figs a lot."}  # nothing of the other, nothing ended by it
        view.turn_finished()
    assert memos.scheduler.wait_idle()
    for view in (one, two):
        assert view.prompt([{"role": "user", "content": "Hello?"}], k=0).resident == ()
    assert recalled(memos.scoped(session="three")) == set()


def test_what_belongs_to_no_session_is_known_in_all_of_no_user(memos: MemOS) -> None:
    memos.write("the office opens at nine")
    memos.scoped(user="maya", session="one").write("maya likes figs")
    memos.scoped(session="one").write("somebody likes figs")
    assert recalled(memos.scoped(session="one")) == {"the office opens at nine", "somebody likes figs"}
    assert recalled(memos.scoped(session="two")) == {"the office opens at nine"}
    assert recalled(memos.scoped(user="maya", session="two")) == {"maya likes figs"}
    assert recalled(memos.scoped(user="tom", session="one")) == set()
    assert recalled(memos) == {"the office opens at nine"}  # of nobody in particular, and in no session
    assert len(memos.find(types=["fact"])) == 2  # the application itself sees all that is nobody's
    memos.turn_finished()
    assert memos.scheduler.wait_idle()
    resident = memos.prompt([{"role": "user", "content": "Hello?"}], k=0).resident
    assert [c.text for c in resident] == ["the office opens at nine"]


def test_a_users_sessions_know_of_each_other(memos: MemOS) -> None:
    one, two = memos.scoped(user="maya", session="one"), memos.scoped(user="maya", session="two")
    told(one, "I live in Oslo.")
    assert recalled(two) == {"I live in Oslo."}
    told(two, "I live in Rome.")
    assert recalled(one) == recalled(two) == {"I live in Rome."}
