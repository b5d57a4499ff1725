"""How memory changes, what was known when, who may see it, and who did what: each test reads as an example."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import delete, func, select, update
from support import bag_of_words

from memos_core import MemCube, MemOS, State
from memos_core.cube import now
from memos_core.errors import AccessDenied, InvalidArgument, NotFound
from memos_core.governance import DuplicatePolicy, Step
from memos_core.vault import tables as t

MARCH, APRIL, MAY, JUNE = (datetime(2026, month, 3, tzinfo=UTC) for month in (3, 4, 5, 6))
SECRET = ["health"]


@pytest.fixture
def ann(memos: MemOS) -> MemOS:
    return memos.scoped(user="ann")


@pytest.fixture
def bob(memos: MemOS) -> MemOS:
    return memos.scoped(user="bob")


def texts(found: Any) -> list[str]:
    return [getattr(x, "cube", x).text for x in found]


# -- versions ----------------------------------------------------------------------------------------------


def test_every_update_is_a_version_that_can_be_compared_and_brought_back(ann: MemOS) -> None:
    cube = ann.write("Meeting on Monday", tags=["work"])
    ann.update(cube.id, "Meeting on Tuesday", tags=["work", "moved"])
    ann.update(cube.id, "Meeting cancelled")
    assert texts(ann.history(cube.id)) == ["Meeting on Monday", "Meeting on Tuesday", "Meeting cancelled"]

    changed = ann.diff(cube.id, 1, 2)
    assert [(c.path, c.old, c.new) for c in changed.changes] == [
        ("text", "Meeting on Monday", "Meeting on Tuesday"),
        ("tags", ("work",), ("work", "moved")),
    ]
    assert "+Meeting cancelled" in ann.diff(cube.id, 1).text

    back = ann.rollback(cube.id, 1)
    assert (back.version, back.text, back.header.descriptive.tags) == (4, "Meeting on Monday", ("work",))
    assert not ann.diff(cube.id, 1, 4)
    assert texts(ann.search("meeting")) == ["Meeting on Monday"]
    assert [r.action for r in ann.audit_log(cube_id=cube.id)] == ["rollback", "update", "update", "write"]


def test_a_version_that_never_was_is_not_there(ann: MemOS) -> None:
    cube = ann.write("Meeting on Monday")
    for call in (lambda: ann.diff(cube.id, 2), lambda: ann.rollback(cube.id, 2)):
        with pytest.raises(NotFound, match="version 2"):
            call()
    assert ann.read(cube.id).version == 1


def test_the_vault_as_it_was(ann: MemOS) -> None:
    kept, changed = ann.write("Cat called Tom"), ann.write("Dog called Rex")
    before = now()
    ann.update(changed.id, "Dog called Fido")
    ann.archive(kept.id)
    later = ann.write("Fish called Wanda")
    gone = ann.write("Bird called Tweety")
    after = now()
    ann.delete(gone.id)

    assert texts(ann.find(as_of=before)) == ["Cat called Tom", "Dog called Rex"]
    assert texts(ann.search("called Rex", k=1, as_of=before)) == ["Dog called Rex"]
    assert ann.read(changed.id, as_of=before).text == "Dog called Rex"
    assert texts(ann.find(as_of=after)) == ["Dog called Fido", "Fish called Wanda"]
    assert texts(ann.find(as_of=after, states=[State.ARCHIVED])) == ["Cat called Tom"]
    with pytest.raises(NotFound):
        ann.read(later.id, as_of=before)
    assert ann.find(as_of=MARCH) == []


def test_what_has_become_secret_since_is_secret_in_the_past_too(ann: MemOS) -> None:
    cube = ann.write("Visits Dr Who")
    before = now()
    ann.update(cube.id, sensitivity=SECRET)
    colleague = ann.scoped(clearance=[])
    assert texts(ann.find(as_of=before)) == ["Visits Dr Who"]
    assert colleague.find(as_of=before) == colleague.search("visits", as_of=before) == []
    for call in (colleague.read, colleague.history, lambda i: colleague.read(i, as_of=before)):
        with pytest.raises(NotFound):
            call(cube.id)


# -- merging -----------------------------------------------------------------------------------------------


def test_merging_keeps_the_sources_out_of_sight_and_names_them(ann: MemOS) -> None:
    one = ann.write("Likes tea", tags=["a"], priority=1, spoken_at=MARCH)
    two = ann.write("Likes tea with milk", tags=["b"], sensitivity=SECRET, spoken_at=MAY)
    three = ann.write("Hates coffee", spoken_at=APRIL)
    merged = ann.merge([one.id, two.id, three.id])
    assert merged.text == "Hates coffee\nLikes tea with milk"
    assert [(s.id, s.version) for s in merged.derived_from] == [(one.id, 1), (two.id, 1), (three.id, 1)]
    head = merged.header
    assert head.descriptive.tags == ("a", "b")
    assert (head.governance.priority, head.governance.sensitivity) == (1, ("health",))
    assert texts(ann.find()) == texts(ann.search("tea")) == [merged.text]
    assert {c.state for c in ann.find(states=[State.MERGED])} == {State.MERGED}
    assert ann.read(one.id).text == "Likes tea"


def test_a_merged_cube_is_shared_with_those_who_saw_all_of_it(ann: MemOS, bob: MemOS) -> None:
    one, two = ann.write("Likes tea"), ann.write("Hates coffee")
    ann.grant(one.id, "user:bob")
    merged = ann.merge([one.id, two.id])
    assert ann.grants(merged.id) == {}
    assert bob.search("tea coffee") == []

    one, two = ann.write("Likes cats"), ann.write("Hates dogs")
    for cube, rights in ((one, ("read",)), (two, ("write",))):
        ann.grant(cube.id, "user:bob", rights)
    merged = ann.merge([one.id, two.id])
    assert ann.grants(merged.id) == {"user:bob": ("read",)}
    assert texts(bob.search("cats")) == [merged.text]


@pytest.mark.parametrize("why", ["archived", "merged", "frozen", "foreign", "granted"])
def test_what_cannot_be_merged_leaves_everything_as_it_was(ann: MemOS, bob: MemOS, why: str) -> None:
    one, two = ann.write("Likes tea"), ann.write("Hates coffee")
    error: type[Exception] = InvalidArgument
    if why == "archived":
        ann.archive(two.id)
    elif why == "merged":
        ann.merge([two.id, ann.write("Hates instant coffee").id])
    elif why == "frozen":
        ann.freeze(two.id)
    else:
        two, error = bob.write("Hates coffee"), NotFound
        if why == "granted":
            bob.grant(two.id, "user:ann")
            error = AccessDenied
    before = ann.find(states=None)
    with pytest.raises(error):
        ann.merge([one.id, two.id])
    assert ann.find(states=None) == before


# -- what holds when ---------------------------------------------------------------------------------------


def moved(ann: MemOS) -> tuple[MemCube, MemCube]:
    return (
        ann.write("I live in Paris", valid_from=MARCH),
        ann.write("I moved to Berlin", valid_from=MAY),
    )


def test_a_newer_statement_ends_the_older_one_without_erasing_it(ann: MemOS) -> None:
    paris, berlin = moved(ann)
    assert texts(ann.search("where do I live")) == ["I moved to Berlin"]
    assert texts(ann.search("live in Paris", valid_at=APRIL)) == ["I live in Paris"]
    assert texts(ann.search("live in Paris", valid_at=JUNE)) == ["I moved to Berlin"]
    assert ann.search("live in Paris", valid_at=MARCH - timedelta(days=1)) == []
    assert set(texts(ann.search("live moved", valid_at=None))) == {"I live in Paris", "I moved to Berlin"}
    first, closed = ann.history(paris.id)
    assert (first.payload.valid_to, closed.payload.valid_to) == (None, MAY)  # type: ignore[union-attr]
    assert ann.read(berlin.id).version == 1
    assert texts(ann.find(valid_at=APRIL)) == ["I live in Paris"]


def test_what_did_the_agent_know_before_it_was_told(ann: MemOS) -> None:
    ann.write("I live in Paris", valid_from=MARCH)
    before = now()
    ann.write("I moved to Berlin", valid_from=MAY)
    # On that day it believed in Paris, though Berlin held already in the world.
    assert texts(ann.search("where do I live", as_of=before)) == ["I live in Paris"]
    assert texts(ann.find(as_of=before, valid_at=JUNE)) == ["I live in Paris"]
    assert texts(ann.find(valid_at=JUNE)) == ["I moved to Berlin"]


def test_told_late_about_earlier_times(ann: MemOS) -> None:
    ann.write("I moved to Berlin", valid_from=MAY)
    rome = ann.write("I live in Rome", valid_from=MARCH)
    assert rome.payload.valid_to == MAY  # type: ignore[union-attr]
    assert texts(ann.find(valid_at="now")) == ["I moved to Berlin"]
    assert texts(ann.find(valid_at=APRIL)) == ["I live in Rome"]


def test_saying_the_old_thing_again_makes_it_hold_again(ann: MemOS) -> None:
    for said in ("I live in Paris.", "I moved to Berlin.", "I live in Paris."):
        ann.remember([{"role": "user", "content": said}])
        assert texts(ann.find(not_types=["message"], valid_at="now")) == [said]
    [paris] = [c for c in ann.find(not_types=["message"]) if "Paris" in c.text]
    assert len(ann.history(paris.id)) == 3


def test_agents_and_users_do_not_contradict_one_another(memos: MemOS) -> None:
    for scope in ({"user": "ann"}, {"user": "bob"}, {"user": "ann", "agent": "coach"}):
        memos.scoped(**scope).write(f"I live in {scope['user']}ville", valid_from=MARCH)
    assert len(memos.all_users().find(valid_at="now")) == 3


def test_what_one_may_not_read_neither_contradicts_nor_is_ended(ann: MemOS) -> None:
    ann.write("I live in Paris", sensitivity=SECRET, valid_from=MARCH)
    colleague = ann.scoped(clearance=[])
    berlin = colleague.write("I moved to Berlin", valid_from=MAY)
    assert texts(colleague.find(valid_at="now")) == ["I moved to Berlin"]
    assert texts(ann.find(valid_at="now")) == ["I live in Paris", "I moved to Berlin"]
    early = colleague.write("I live in Rome", valid_from=MARCH - timedelta(days=9))
    assert (berlin.payload.valid_to, early.payload.valid_to) == (None, MAY)  # type: ignore[union-attr]


# -- duplicates --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["exact", "near"])
@pytest.mark.parametrize("action", ["keep", "link", "merge", "reject"])
def test_what_becomes_of_what_is_known_already(ann: MemOS, kind: Any, action: Any) -> None:
    old = ann.write("Ann keeps seven grey cats", tags=["a"])
    again = "ann keeps  seven grey CATS" if kind == "exact" else "Ann keeps seven grey cats indoors"
    policy = DuplicatePolicy(**{kind: action}, similarity=0.8)
    [stored] = ann.put([ann.cube(again, tags=["b"])], duplicates=policy)
    found = ann.find()
    if action == "reject":
        assert stored.id == old.id
        assert texts(found) == [old.text]
    elif action == "merge":
        assert (stored.id, stored.version) == (old.id, 2)
        assert texts(found) == [old.text if kind == "exact" else again]
        assert stored.header.descriptive.tags == ("a", "b")
    else:
        assert texts(found) == [old.text, again]
        assert [s.id for s in stored.derived_from] == ([old.id] if action == "link" else [])


def test_the_vault_can_have_a_policy_for_all_writes(vault_url: str) -> None:
    policy = DuplicatePolicy(exact="reject")
    with MemOS.open(vault_url, user="ann", embedder=None, duplicates=policy) as ann:
        first = ann.write("Ann keeps seven cats")
        assert ann.write("ann keeps seven cats ").id == first.id
        ann.put([ann.cube("Ann keeps seven cats")], duplicates=DuplicatePolicy())
        assert len(ann.find()) == 2


def test_other_things_are_no_duplicates(ann: MemOS, bob: MemOS) -> None:
    policy = DuplicatePolicy(exact="reject", near="reject", similarity=0.95)
    said = "Ann keeps seven grey cats"
    bob.write(said)
    ann.scoped(agent="coach").write(said)
    ann.write(said, sensitivity=SECRET)
    old = ann.write(said)
    ann.archive(old.id)
    view = ann.scoped(clearance=[])
    [stored] = view.put([view.cube(said)], duplicates=policy)
    assert view.read(stored.id).text == said
    assert (stored.version, stored.header.governance.sensitivity) == (1, ())


@pytest.mark.parametrize("kind", ["exact", "near"])
@pytest.mark.parametrize("action", ["link", "merge", "reject"])
def test_a_duplicate_one_may_not_read_is_not_told(ann: MemOS, kind: Any, action: Any) -> None:
    secret = ann.write("The clinic's code word is heron blue", sensitivity=SECRET)
    view = ann.scoped(clearance=[])
    guess = secret.text if kind == "exact" else "The clinic's code word is heron"
    policy = DuplicatePolicy(**{kind: action}, similarity=0.8)
    [stored] = view.put([view.cube(guess)], duplicates=policy)
    assert (stored.text, stored.id == secret.id, stored.derived_from) == (guess, False, ())


# -- who else ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", ["user:bob", "group:crew", "everyone"])
def test_what_is_granted_is_found_until_it_is_taken_back(memos: MemOS, to: str) -> None:
    ann, bob, cyd = (memos.scoped(user=user) for user in ("ann", "bob", "cyd"))
    cube = ann.write("The key is under the mat")
    memos.add_to_group("crew", ["bob"])
    assert bob.search("key") == []
    ann.grant(cube.id, to)
    assert ann.grants(cube.id) == {to: ("read",)}
    assert texts(bob.search("key")) == texts(bob.recall("key")) == [cube.text]
    assert bob.read(cube.id).text == bob.history(cube.id)[0].text == cube.text
    assert texts(bob.find(shared=True)) == [cube.text]
    assert bob.find() == bob.search("key", shared=False) == []
    assert texts(cyd.search("key")) == ([cube.text] if to == "everyone" else [])
    asked = bob.prompt([{"role": "user", "content": "Where is the key?"}]).messages[-1]["content"]
    assert cube.text in asked

    ann.revoke(cube.id, to)
    assert ann.grants(cube.id) == {}
    assert bob.search("key") == bob.recall("key") == bob.find(shared=True) == []
    for call in (bob.read, bob.history):
        with pytest.raises(NotFound):
            call(cube.id)
    assert ann.read(cube.id).text == cube.text


def test_who_leaves_a_group_sees_its_memories_no_more(memos: MemOS, ann: MemOS, bob: MemOS) -> None:
    cube = ann.write("The key is under the mat")
    ann.grant(cube.id, "group:crew")
    memos.add_to_group("crew", ["bob", "cyd"])
    assert memos.groups() == {"crew": ["bob", "cyd"]}
    assert texts(bob.search("key")) == [cube.text]
    memos.remove_from_group("crew", ["bob"])
    assert bob.search("key") == []
    assert texts(memos.scoped(user="cyd").search("key")) == [cube.text]


def test_a_grant_never_leaves_its_tenant(vault_url: str) -> None:
    kinds = ("user:bob", "group:crew", "everyone")
    how: Any = {"embedder": bag_of_words, "index": "exact"}
    with MemOS.open(vault_url, tenant="one", **how) as one, MemOS.open(vault_url, tenant="two", **how) as two:
        for operator in (one, two):
            operator.add_to_group("crew", ["bob"])
        cube = one.scoped(user="ann").write("The key is under the mat")
        for to in kinds:
            one.scoped(user="ann").grant(cube.id, to)
        assert texts(one.scoped(user="bob").search("key")) == [cube.text]
        bob = two.scoped(user="bob")
        assert bob.search("key") == bob.find(shared=True) == []
        with pytest.raises(NotFound):
            bob.read(cube.id)


def test_a_grant_opens_nothing_to_ones_own_other_agents(memos: MemOS) -> None:
    coach, cook = (memos.scoped(user="ann", agent=agent) for agent in ("coach", "cook"))
    cube = coach.write("Runs on Mondays")
    before = now()
    coach.update(cube.id, "Runs on Tuesdays")
    coach.grant(cube.id, "everyone")
    assert cook.search("runs") == cook.find(shared=True) == cook.find(shared=True, as_of=before) == []
    assert texts(memos.scoped(user="bob").find(shared=True, as_of=before)) == ["Runs on Mondays"]


def test_who_may_write_changes_the_content_and_nothing_else(ann: MemOS, bob: MemOS) -> None:
    cube = ann.write("The key is under the mat", sensitivity=["house"])
    ann.grant(cube.id, "user:bob")
    with pytest.raises(AccessDenied, match="only be read"):
        bob.update(cube.id, "The key is in the pot")
    ann.grant(cube.id, "user:bob", ["write"])
    changed = bob.update(cube.id, "The key is in the pot", tags=["moved"])
    assert (changed.version, changed.scope.user) == (2, "ann")
    assert changed.header.governance == cube.header.governance
    for refused in ({"sensitivity": []}, {"ttl": timedelta(1)}, {"priority": 9}):
        with pytest.raises(AccessDenied, match=next(iter(refused))):
            bob.update(cube.id, **refused)
    for call in (
        bob.archive,
        bob.freeze,
        lambda i: bob.revoke(i, "user:bob"),
        lambda i: bob.grant(i, "everyone"),
    ):
        with pytest.raises(AccessDenied):
            call(cube.id)
    assert bob.delete(cube.id) == []
    ann.update(cube.id, sensitivity=["house", "money"])
    back = bob.rollback(cube.id, 1)
    assert (back.text, back.header.governance.sensitivity) == (cube.text, ("house", "money"))
    assert [(r.principal, r.action) for r in ann.audit_log(cube_id=cube.id, limit=1)] == [
        ("operator", "rollback")
    ]


def test_who_may_share_passes_on_what_he_has_and_no_more(memos: MemOS, ann: MemOS, bob: MemOS) -> None:
    cube, cyd = ann.write("The key is under the mat"), memos.scoped(user="cyd")
    ann.grant(cube.id, "user:bob", ["share"])
    with pytest.raises(AccessDenied, match="write"):
        bob.grant(cube.id, "user:cyd", ["write"])
    assert cyd.search("key") == []
    bob.grant(cube.id, "user:cyd")
    assert texts(cyd.search("key")) == [cube.text]
    with pytest.raises(AccessDenied):
        cyd.grant(cube.id, "everyone")
    ann.revoke(cube.id, "user:bob", ["share"])
    assert ann.grants(cube.id) == {"user:bob": ("read",), "user:cyd": ("read",)}
    with pytest.raises(AccessDenied):
        bob.grant(cube.id, "everyone")


# -- sensitivity -------------------------------------------------------------------------------------------


def test_what_is_above_the_clearance_does_not_exist(ann: MemOS) -> None:
    plain = ann.write("Ann likes tea")
    health = ann.write("Ann takes tea for her heart", sensitivity=["health"])
    both = ann.write("Ann pays a lot for tea", sensitivity=["health", "money"])
    for clearance, seen in (
        (None, [plain, health, both]),
        (["health", "money", "other"], [plain, health, both]),
        (["health"], [plain, health]),
        ([], [plain]),
    ):
        view = ann.scoped(clearance=clearance)
        assert [c.id for c in view.find()] == [c.id for c in seen]
        assert {h.cube.id for h in view.search("tea")} == {c.id for c in seen}
        assert sum(view.type_counts().values()) == len(seen)
    view = ann.scoped(clearance=["health"])
    with pytest.raises(NotFound):
        view.read(both.id)
    assert view.delete(both.id) == []
    assert view.scoped(clearance=["health", "money"]).find() == view.find()  # narrowed, never widened


def test_a_grant_does_not_lift_the_label(ann: MemOS, bob: MemOS) -> None:
    cube = ann.write("Ann takes tea for her heart", sensitivity=["health"])
    ann.grant(cube.id, "user:bob")
    assert texts(bob.search("tea")) == [cube.text]
    assert bob.scoped(clearance=[]).search("tea") == []


def test_what_lies_unseen_at_an_address_is_not_replaced(ann: MemOS) -> None:
    cube = ann.write("Ann takes tea for her heart", key="tea", sensitivity=["health"])
    with pytest.raises(AccessDenied):
        ann.scoped(clearance=[]).write("Ann takes coffee", key="tea")
    assert ann.read(cube.id).version == 1


# -- the log -----------------------------------------------------------------------------------------------


def test_who_did_what_to_which_cube_through_what(memos: MemOS) -> None:
    ann = memos.scoped(user="ann", adapter="langgraph")
    start = now()
    cube = ann.write("The key is under the mat")
    middle = now()
    memos.scoped(user="ann", adapter="mem0").update(cube.id, "The key is in the pot")
    ann.archive(cube.id)
    ann.read(cube.id)
    ann.grant(cube.id, "group:crew", ["read", "write"])
    ann.revoke(cube.id, "group:crew")
    ann.delete(cube.id)

    def log(**query: Any) -> list[str]:
        return [r.action for r in ann.audit_log(newest_first=False, **query)]

    every = ["write", "update", "state:archived", "state:activated", "grant", "revoke", "delete"]
    assert log() == log(cube_id=cube.id) == log(principal="operator", since=start) == every
    assert log(adapter="mem0") == ["update"]
    assert log(action="state:") == every[2:4]
    assert log(action="state") == log(principal="bob") == log(cube_id="unknown") == []
    assert log(until=middle) == ["write"]
    assert log(since=middle) == every[1:]
    assert log(limit=2) == every[:2]
    assert [r.action for r in ann.audit_log(limit=1)] == ["delete"]
    details = {r.action: r.detail for r in ann.audit_log()}
    assert details["grant"] == "read, write to group:crew"
    assert details["state:activated"] == "read"
    assert memos.scoped(user="bob").audit_log() == []
    assert "mat" not in repr(ann.audit_log())


def test_reads_are_in_the_log_if_asked_for(vault_url: str) -> None:
    how: Any = {"embedder": bag_of_words, "index": "exact"}
    with MemOS.open(vault_url, user="ann", audit_reads=True, **how) as ann:
        cube = ann.write("The key is under the mat", key="k")
        ann.read(cube.id)
        ann.search("key")
        ann.at(("memories",), "k")
        assert [r.action for r in ann.audit_log(cube_id=cube.id)] == ["read", "read", "read", "write"]
        assert ann.verify_audit_log() == []
    with MemOS.open(vault_url, user="ann", **how) as ann:
        ann.read(cube.id)
        assert len(ann.audit_log(action="read")) == 3


def test_a_reader_is_named_in_the_log_of_the_owner(vault_url: str) -> None:
    with MemOS.open(vault_url, embedder=None, audit_reads=True) as memos:
        ann, bob = memos.scoped(user="ann"), memos.scoped(user="bob", adapter="bobs app")
        cube = ann.write("The key is under the mat")
        ann.grant(cube.id, "user:bob")
        bob.read(cube.id)
        [record] = ann.audit_log(action="read")
        assert (record.adapter, record.cube_id, record.user) == ("bobs app", cube.id, "ann")
        assert bob.audit_log() == []


@pytest.fixture
def logged(memos: MemOS) -> tuple[MemOS, MemOS]:
    ann, bob = memos.scoped(user="ann"), memos.scoped(user="bob")
    for view in (ann, bob):
        for i in range(4):
            view.write(f"fact number {i}")
        assert view.verify_audit_log() == []
    return ann, bob


def tamper(view: MemOS, change: Any) -> None:
    with view.vault.db.write() as conn:
        conn.execute(change)


OF_ANN = t.audit.c.user == "ann"


@pytest.mark.parametrize(
    "field", ["at", "principal", "adapter", "action", "cube_id", "version", "detail", "hash"]
)
def test_a_changed_record_is_noticed(logged: tuple[MemOS, MemOS], field: str) -> None:
    ann, bob = logged
    value: Any = 7 if field in ("at", "version") else "forged"
    tamper(ann, update(t.audit).where(OF_ANN, t.audit.c.n == 2).values({field: value}))
    [found, *_] = ann.verify_audit_log()
    assert "record 2" in found
    assert bob.verify_audit_log() == []


@pytest.mark.parametrize("n", [1, 2, 4])
def test_a_removed_record_is_noticed(logged: tuple[MemOS, MemOS], n: int) -> None:
    ann, bob = logged
    tamper(ann, delete(t.audit).where(OF_ANN, t.audit.c.n == n))
    assert ann.verify_audit_log() != []
    assert bob.verify_audit_log() == []
    assert ann.scoped().verify_audit_log() == ann.verify_audit_log()


def test_a_log_removed_whole_or_given_to_another_is_noticed(
    logged: tuple[MemOS, MemOS], memos: MemOS
) -> None:
    ann, bob = logged
    tamper(ann, delete(t.audit).where(OF_ANN))
    assert ann.verify_audit_log() != []
    tamper(bob, update(t.audit).where(t.audit.c.user == "bob", t.audit.c.n == 4).values(user="cyd", n=1))
    assert bob.verify_audit_log() != []
    assert len(memos.all_users().verify_audit_log()) >= 2


def test_a_forged_record_does_not_fit_the_chain(logged: tuple[MemOS, MemOS]) -> None:
    ann, _ = logged
    with ann.vault.db.write() as conn:
        [last] = conn.execute(select(t.audit).where(OF_ANN, t.audit.c.n == 4))
        row = {k: v for k, v in last._mapping.items() if k != "seq"}
        conn.execute(t.audit.insert().values({**row, "n": 5, "action": "delete"}))
        assert conn.execute(select(func.count()).select_from(t.audit).where(OF_ANN)).scalar() == 5
    assert ann.verify_audit_log() != []


# -- life cycle --------------------------------------------------------------------------------------------


def test_a_policy_of_ones_own_moves_cubes(vault_url: str) -> None:
    class Tidy:
        """Archives what is tagged so, and asks for what is not legal."""

        def next_state(self, cube: MemCube, at: datetime) -> Step | None:
            tags = cube.header.descriptive.tags
            if "old" in tags and cube.state is State.GENERATED:
                return Step(State.ARCHIVED, "tidied up")
            return Step(State.GENERATED, "back to the start") if "odd" in tags else None

    with MemOS.open(vault_url, user="ann", embedder=None, lifecycle=Tidy()) as ann:
        old, odd = ann.write("Box in the attic", tags=["old"]), ann.write("Box of odds", tags=["odd"])
        new = ann.write("Box in the hall")
        ann.activate(odd.id)
        assert ann.scheduler.wait_idle()
        ann._core.keep_house()
        assert {c.id: c.state for c in ann.find(states=None)} == {
            old.id: State.ARCHIVED,
            odd.id: State.ACTIVATED,
            new.id: State.GENERATED,
        }
        assert [c.id for c in (h.cube for h in ann.search("box attic"))] == [odd.id, new.id]
        [record] = ann.audit_log(action="state:archived")
        assert (record.principal, record.detail) == ("lifecycle", "tidied up")
        assert ann.read(old.id).state is State.ACTIVATED
        assert old.id in [h.cube.id for h in ann.search("box attic")]


def test_archived_memory_is_asked_for_by_name(ann: MemOS) -> None:
    cube = ann.write("Box in the attic")
    ann.archive(cube.id)
    assert ann.search("box") == ann.find() == []
    assert texts(ann.search("box", states=[State.ARCHIVED])) == [cube.text]
    assert ann.find(states=[State.ARCHIVED])[0].state is State.ARCHIVED  # looking at a list is not reading
    assert ann.read(cube.id).state is State.ACTIVATED
    assert texts(ann.search("box")) == [cube.text]


def test_a_frozen_memory_is_read_and_never_changed(ann: MemOS, bob: MemOS) -> None:
    cube = ann.write("Carved in stone", key="k", ttl=timedelta(days=1))
    other = ann.write("Written in sand")
    ann.grant(cube.id, "user:bob", ["write"])
    ann.freeze(cube.id)
    before = ann.audit_log()
    changes: list[Any] = [
        lambda: ann.update(cube.id, "x"),
        lambda: ann.write("x", key="k"),
        lambda: ann.archive(cube.id),
        lambda: ann.activate(cube.id),
        lambda: ann.archive([other.id, cube.id]),
        lambda: ann.rollback(cube.id, 1),
        lambda: ann.merge([cube.id, other.id]),
        lambda: bob.update(cube.id, "x"),
    ]
    for change in changes:
        with pytest.raises(InvalidArgument, match="frozen"):
            change()
    assert ann.audit_log() == before
    assert texts(ann.search("carved", k=1)) == texts(bob.search("carved")) == [cube.text]
    assert ann.read(other.id).state is State.GENERATED
    ann.unfreeze(cube.id)
    assert ann.update(cube.id, "Carved anew").version == 2
