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
