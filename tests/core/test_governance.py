"""Who may act where. Every door is tried: opening, narrowing, putting."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from memos_core import MemOS, Principal, Scope
from memos_core.errors import AccessDenied, InvalidArgument
from memos_core.governance import effective_scope

ALICE = Principal(user="alice")


@pytest.mark.parametrize(
    "asked", [{"user": "bob"}, {"user": "*"}, {"tenant": "other"}, {"tenant": "other", "user": "alice"}]
)
def test_a_user_opens_no_scope_but_their_own(tmp_path: Path, asked: dict[str, str]) -> None:
    with pytest.raises(AccessDenied):
        MemOS.open(tmp_path, principal=ALICE, embedder=None, **asked)  # type: ignore[arg-type]


def test_a_user_who_names_nobody_gets_their_own_scope(tmp_path: Path) -> None:
    with MemOS.open(tmp_path, principal=ALICE, embedder=None) as memos:
        assert memos.scope.user == "alice"
        memos.write("a fact")
        [record] = memos.audit_log()
        assert record.principal == "alice"


@pytest.mark.parametrize("user", ["*", "", " ", "a\x00"])
def test_nobody_is_called_star_or_nothing(user: str) -> None:
    with pytest.raises(ValidationError):
        Principal(user=user)


PARTS = st.none() | st.sampled_from(["a", "b", "*"])
SCOPES = st.builds(Scope, tenant=st.sampled_from(["default", "t"]), user=PARTS, agent=PARTS, session=PARTS)


@given(
    st.builds(Principal, tenant=st.sampled_from(["default", "t"]), user=st.sampled_from(["a", "b"])), SCOPES
)
def test_an_effective_scope_is_within_the_principal(principal: Principal, asked: Scope) -> None:
    try:
        got = effective_scope(principal, asked)
    except AccessDenied:
        assert asked.tenant != principal.tenant or asked.user not in (None, principal.user)
    else:
        assert (got.tenant, got.user) == (principal.tenant, principal.user)
        assert (got.agent, got.session) == (asked.agent, asked.session)


@given(SCOPES, PARTS, PARTS, PARTS)
def test_narrowing_never_widens(
    scope: Scope, user: str | None, agent: str | None, session: str | None
) -> None:
    try:
        narrow = scope.narrow(user=user, agent=agent, session=session)
    except InvalidArgument:
        return
    for part in ("tenant", "agent", "session"):
        assert getattr(scope, part) in (None, getattr(narrow, part))
    assert scope.user in (None, "*", narrow.user)
    assert scope.contains(narrow) or narrow.user == "*"


@given(SCOPES, SCOPES)
def test_what_a_scope_contains_matches_in_every_part_it_fixes(outer: Scope, inner: Scope) -> None:
    fixed = [
        p
        for p in ("user", "agent", "session")
        if getattr(outer, p) is not None and (p, getattr(outer, p)) != ("user", "*")
    ]
    same = outer.tenant == inner.tenant and all(getattr(outer, p) == getattr(inner, p) for p in fixed)
    assert outer.contains(inner) == same


@pytest.mark.parametrize("asked", [{"user": "bob"}, {"user": "*"}, {"agent": "a2"}, {"session": "s2"}])
def test_a_view_is_narrowed_and_never_moved(memos: MemOS, asked: dict[str, str]) -> None:
    view = memos.scoped(user="alice", agent="a1", session="s1")
    with pytest.raises(AccessDenied):
        view.scoped(**asked)
    assert view.scoped(user="alice", agent="a1").scope == view.scope


@pytest.mark.parametrize(
    "foreign",
    [
        {"user": "bob"},
        {"user": None},
        {"agent": "a2"},
        {"agent": None},
        {"session": "s2"},
        {"tenant": "other"},
    ],
)
def test_a_cube_of_a_foreign_scope_is_not_put(memos: MemOS, foreign: dict[str, str | None]) -> None:
    view = memos.scoped(user="alice", agent="a1", session="s1")
    scope = view.scope.model_copy(update=foreign)
    with pytest.raises(AccessDenied):
        view.put([view.cube("fine"), view.cube("foreign").model_copy(update={"scope": scope})])
    assert memos.all_users().find() == []


def test_the_address_of_another_users_cube_is_another_address(memos: MemOS) -> None:
    alice, bob = memos.scoped(user="alice"), memos.scoped(user="bob")
    hers = alice.write("hers", key="k")
    forged = bob.cube("his", key="k").model_copy(update={"id": hers.id})
    with pytest.raises(InvalidArgument):
        bob.put([forged])
    his = bob.write("his", key="k")
    assert (his.version, his.id != hers.id) == (1, True)
    assert alice.read(hers.id).text == "hers"


def test_an_agent_does_not_see_what_another_wrote_at_the_same_address(memos: MemOS) -> None:
    one, two = (memos.scoped(user="u", agent=a) for a in ("a1", "a2"))
    cube = one.write("a secret between us", key="k")
    two.write("taken over", key="k")
    assert [v.text for v in two.history(cube.id)] == ["taken over"]


def test_user_and_principal_are_kept_by_every_narrower_view(tmp_path: Path) -> None:
    with MemOS.open(tmp_path, principal=ALICE, embedder=None) as memos:
        view = memos.scoped(agent="a").scoped(session="s")
        with pytest.raises(AccessDenied):
            view.scoped(user="bob")
        assert view.write("a fact").header.governance.owner == "alice"


@pytest.mark.parametrize("fixed", [{}, {"user": "alice"}])
def test_a_name_from_a_request_is_never_every_user(memos: MemOS, fixed: dict[str, str]) -> None:
    view = memos.scoped(**fixed)
    with pytest.raises(AccessDenied):
        view.scoped(user="*")


def test_all_users_is_the_operators_view(memos: MemOS) -> None:
    memos.scoped(user="alice").write("a fact")
    assert [c.text for c in memos.all_users().find()] == ["a fact"]
    with pytest.raises(AccessDenied):
        memos.scoped(user="alice").all_users()
