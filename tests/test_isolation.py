"""Nobody is shown what they may not see, and everybody finds what they may: a model against the real thing.

Users, agents, sessions, groups and clearances of two tenants write, share, take back, merge and delete through every
kind of adapter, and look for memories through every door there is. Each text carries a number of its own, so that
whatever comes back, and in whatever form, says which memories are in it.

CI takes 150 examples. The long run, of 10,000, in two processes (`MEMOS_STEPS=6` makes it shorter):

    for seed in 1 2; do
        MEMOS_EXAMPLES=5000 python -m pytest tests/test_isolation.py -q -p no:cacheprovider --hypothesis-seed=$seed &
    done; wait
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

import pytest
from core.test_scheduler import Prefix, Recorder
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from langchain_core.messages import AIMessage
from langgraph.checkpoint.base import empty_checkpoint
from support import bag_of_words

from langchain_memos import MemOSChatMessageHistory, MemOSMemory
from langgraph.checkpoint.memos import MemOSSaver
from langgraph.store.memos import MemOSStore
from mem0_memos import Memory
from memos_core import MemOS, Principal, Scope
from memos_core.cube import now
from memos_core.errors import AccessDenied, InvalidArgument, NotFound, VersionConflict
from memos_core.governance import DuplicatePolicy

EXAMPLES = int(os.environ.get("MEMOS_EXAMPLES", "150"))
STEPS = int(os.environ.get("MEMOS_STEPS", "8"))
TENANTS = ("t1", "t2")
USERS = ("ann", "bob", "cyd")
GROUPS = ("crew", "staff")
LABELS = ((), ("health",), ("health", "money"))
WORDS = ("falcon", "harp")
NAMESPACES = (("memories",), ("memories", "sub"), ("memoriesx",))
GRANTEES = ("user:ann", "user:bob", "group:crew", "group:staff", "everyone")
ACTIONS = ("reject", "link", "merge")
RIGHTS: tuple[Any, ...] = (("read",), ("write",), ("share",), ("write", "share"))


class Who(NamedTuple):
    """A view: whose, and what it may read."""

    tenant: str
    user: str | None
    agent: str | None
    session: str | None
    clearance: frozenset[str] | None
    is_user: bool  # the principal is the user, not the operator

    def cleared(self, labels: Iterable[str]) -> bool:
        return self.clearance is None or self.clearance.issuperset(labels)


class Version(NamedTuple):
    text: str
    agent: str | None
    session: str | None
    labels: tuple[str, ...]


@dataclass
class Cube:
    """What the model knows of a cube."""

    tenant: str
    user: str | None
    namespace: tuple[str, ...]
    versions: list[Version]
    message: bool = False
    state: str = "live"
    grants: set[tuple[str, str]] = field(default_factory=set)

    @property
    def now(self) -> Version:
        return self.versions[-1]


def owns(who: Who, cube: Cube, version: Version) -> bool:
    return (
        (who.tenant, who.user) == (cube.tenant, cube.user)
        and who.agent in (None, version.agent)
        and who.session in (None, version.session)
    )


def remembers(who: Who, cube: Cube, version: Version) -> bool:
    """Whether it counts for a prompt: in every session of a user; a session of no user is by itself."""
    apart = who.user is None and version.session not in (None, who.session)
    return owns(who._replace(session=None), cube, version) and not apart


def numbers(*shown: Any) -> set[str]:
    """The memories in whatever was returned."""
    return set(re.findall(r"n\d+x", repr(shown)))


class Engine(Recorder):
    """Holds KV by key, and knows which cubes it was made from."""

    def __init__(self) -> None:
        super().__init__()
        self.made_from: dict[str, set[str]] = {}

    def prefill(self, tokens: Sequence[int], scope: Scope, **how: Any) -> Prefix:
        made = super().prefill(tokens, scope, **how)
        self.made_from[made.key] = {id_ for id_, _ in how["derived_from"]}
        return made

    def erase(self, *, keys: Iterable[str] = (), cube_ids: Iterable[str] = (), **_: Any) -> None:
        for key, sources in self.made_from.items():
            if key in keys or sources.intersection(cube_ids):
                self.held.pop(key, None)


WHO = st.builds(
    Who,
    tenant=st.sampled_from(("t1", "t1", "t1", "t1", "t2")),
    user=st.sampled_from(("ann", "ann", "bob", *USERS, None)),
    agent=st.sampled_from((None, None, None, "a1", "a2")),
    session=st.sampled_from((None, None, None, "s1", "s2")),
    clearance=st.sampled_from((None, None, frozenset(), frozenset({"health"}))),
    is_user=st.booleans(),
)
PICK = st.integers(0, 99)
WORD = st.sampled_from(WORDS)
OWNER = st.sampled_from((True, True, False))


class Isolation(RuleBasedStateMachine):
    """Everybody does everything; dicts say what must come back."""

    @initialize(
        owners=st.lists(WHO, min_size=3, max_size=6),
        labels=st.lists(st.sampled_from(LABELS), min_size=12, max_size=12),
        gifts=st.lists(st.sampled_from((None, *GRANTEES)), min_size=6, max_size=6),
        word=WORD,
        members=st.sets(st.sampled_from(USERS)),
    )
    def start(
        self, owners: list[Who], labels: list[Any], gifts: list[Any], word: str, members: set[str]
    ) -> None:
        self.memos = MemOS.open(":memory:", tenant="t1", embedder=bag_of_words, index="exact")
        self.engine = Engine()
        self.memos.scheduler.attach(self.engine)
        self.memos._core.engine = self.engine  # type: ignore[assignment]
        self.cubes: dict[str, Cube] = {}
        self.gone: dict[str, tuple[str, str | None]] = {}
        self.addresses: dict[tuple[Any, ...], str] = {}
        self.members: set[tuple[str, str, str]] = set()
        self.threads: dict[tuple[str, str | None, str], set[str]] = {}
        self.moments: list[tuple[datetime, dict[str, tuple[Version, str]]]] = []
        self.count = itertools.count()
        self.checked = 0
        for i, who in enumerate(owners):
            self.write(who._replace(clearance=None), word, NAMESPACES[0], "", labels[i], "core")
            if i % 2:
                self.remember_this_moment()
                number = len(self.cubes) - 1
                self.update(who, number, word, labels[-1 - i], stale=False, owner=True)
            if gifts[i] is not None:
                self.grant(who, len(self.cubes) - 1, gifts[i], ("read",), owner=True)
        if members:
            self.regroup("t1", GROUPS[0], members, True, self.operator("t1"))

    def teardown(self) -> None:
        if hasattr(self, "memos"):
            self.memos.close()

    # -- the model -----------------------------------------------------------------------------------------

    @staticmethod
    def operator(tenant: str) -> Who:
        return Who(tenant, None, None, None, None, False)

    def view(self, who: Who) -> MemOS:
        user = who.user if who.is_user else None
        principal = Principal(tenant=who.tenant, user=user, clearance=who.clearance)
        scope = Scope(tenant=who.tenant, user=who.user, agent=who.agent, session=who.session)
        return MemOS(self.memos._core, scope, principal, "memos")

    def granted(self, who: Who, cube: Cube, right: str) -> bool:
        # One's own are not opened by a grant: what another agent of the user keeps stays there.
        return (who.tenant, True) == (cube.tenant, who.user not in (None, cube.user)) and any(
            right == given
            and (
                to in ("everyone", f"user:{who.user}")
                or (who.tenant, to.removeprefix("group:"), who.user) in self.members
            )
            for to, given in cube.grants
        )

    def mine(self, who: Who, cube: Cube) -> bool:
        return who.cleared(cube.now.labels) and owns(who, cube, cube.now)

    def may(self, who: Who, cube: Cube, right: str = "read") -> bool:
        return who.cleared(cube.now.labels) and (owns(who, cube, cube.now) or self.granted(who, cube, right))

    def pick(self, number: int) -> tuple[str, Cube]:
        return list(self.cubes.items())[number % len(self.cubes)]

    def actor(self, who: Who, cube: Cube, owner: bool) -> Who:
        """Mostly the owner acts, or most of what is tried would be refused."""
        return Who(cube.tenant, cube.user, None, None, None, True) if owner else who

    def text(self, word: str) -> str:
        return f"the {word} n{next(self.count)}x"

    def written(self, who: Who, id_: str, namespace: tuple[str, ...], key: str, version: Version) -> None:
        """The model of a write at an address."""
        before = self.addresses.get((who.tenant, who.user, namespace, key)) if key else None
        if before is None:
            assert id_ not in self.cubes
            self.cubes[id_] = Cube(who.tenant, who.user, namespace, [version])
        else:
            assert id_ == before
            self.cubes[id_].versions.append(version)
            self.cubes[id_].state = "live"
        self.addresses[who.tenant, who.user, namespace, key or id_] = id_

    def hidden_address(self, who: Who, namespace: tuple[str, ...], key: str) -> bool:
        before = self.addresses.get((who.tenant, who.user, namespace, key)) if key else None
        return before is not None and not who.cleared(self.cubes[before].now.labels)

    def refusal(self, who: Who, cube: Cube) -> type[Exception]:
        """What somebody gets who may not do it: what they may not even read does not exist."""
        return AccessDenied if self.may(who, cube) else NotFound

    def check_kv(self) -> None:
        """What is prefilled and held for somebody is what they may read."""
        assert self.memos.scheduler.wait_idle()
        assert [d for d in self.memos.scheduler.explain() if d.action == "error"] == []
        held = [(scope, "".join(map(chr, codes))) for scope, codes in self.engine.held.values()]
        made = [(scope, text) for scope, text, _ in self.engine.prefilled[self.checked :]]
        self.checked = len(self.engine.prefilled)
        for scope, text in (*made, *held):
            home = Who(scope.tenant, scope.user, scope.agent, None, None, False)
            # An earlier version may be in it: it is made between turns, and made anew then.
            ever = {
                n
                for c in self.cubes.values()
                for v in c.versions
                if remembers(home, c, v) or self.granted(home, c, "read")
                for n in numbers(v.text)
            }
            assert numbers(text) <= ever

    def shown_to(self, who: Who, ids: Iterable[str], *, own: bool = False) -> set[str]:
        may = self.mine if own else self.may
        return {n for i in ids if may(who, self.cubes[i]) for n in numbers(self.cubes[i].now.text)}

    def recalled_by(self, who: Who, ids: Iterable[str]) -> set[str]:
        cubes = [c for c in map(self.cubes.__getitem__, ids) if who.cleared(c.now.labels)]
        may = [c for c in cubes if remembers(who, c, c.now) or self.granted(who, c, "read")]
        return {n for c in may for n in numbers(c.now.text)}

    # -- changes -------------------------------------------------------------------------------------------

    @rule(
        who=WHO,
        word=WORD,
        namespace=st.sampled_from(NAMESPACES),
        key=st.sampled_from(("k", "")),
        labels=st.sampled_from(LABELS),
        through=st.sampled_from(("core", "core", "store", "mem0")),
    )
    def write(
        self, who: Who, word: str, namespace: Any, key: str, labels: tuple[str, ...], through: str
    ) -> None:
        text = self.text(word)
        if through == "mem0":
            namespace, key, labels = ("memories",), "", ()
        if through == "store":
            key, labels = key or "k2", ()
        view, version = self.view(who), Version(text, who.agent, who.session, labels)
        if self.hidden_address(who, namespace, key):
            with pytest.raises(AccessDenied):
                view.write(text, namespace=namespace, key=key, sensitivity=labels)
            return
        if through == "core":
            id_ = view.write(text, namespace=namespace, key=key, sensitivity=labels).id
        elif through == "store":
            MemOSStore(view).put(namespace, key, {"text": text})
            found = view.at(namespace, key)
            assert found is not None
            id_ = found.id
        else:
            if (who.user, who.agent, who.session) == (None, None, None):
                return
            operator = self.view(self.operator(who.tenant))
            ids: Any = {"user_id": who.user, "agent_id": who.agent, "run_id": who.session}
            [added] = Memory(operator).add(text, **ids, infer=False)["results"]
            id_ = added["id"]
        self.written(who, id_, namespace, key, version)

    @precondition(lambda self: self.cubes)
    @rule(
        who=WHO,
        word=WORD,
        labels=st.sampled_from(LABELS),
        action=st.sampled_from(ACTIONS),
        number=PICK,
        owner=OWNER,
    )
    def say_again(
        self, who: Who, word: str, labels: tuple[str, ...], action: Any, number: int, owner: bool
    ) -> None:
        """Something near it is known: what is known is only told to those who may read it."""
        if owner:
            cube = self.pick(number)[1]
            who = who._replace(tenant=cube.tenant, user=cube.user, agent=cube.now.agent)
        text, view = self.text(word), self.view(who)
        policy = DuplicatePolicy(near=action, similarity=0.6)
        [stored] = view.put([view.cube(text, sensitivity=labels)], duplicates=policy)
        known = self.cubes.get(stored.id)
        if known is None:
            version = Version(text, who.agent, who.session, labels)
            self.cubes[stored.id] = Cube(who.tenant, who.user, ("memories",), [version])
            self.addresses[who.tenant, who.user, ("memories",), stored.id] = stored.id
            assert all(self.mine(who, self.cubes[source.id]) for source in stored.derived_from)
            return
        assert self.mine(who, known)
        assert known.state == "live"
        if action == "merge":
            assert numbers(stored.text) == numbers(known.now.text, text)
            assert not known.grants  # what others may read does not come to say more
            strict = tuple({*known.now.labels, *labels})
            known.versions.append(known.now._replace(text=stored.text, labels=strict))
        assert stored.text == known.now.text

    @rule(who=WHO, word=WORD, adapter=st.booleans())
    def talk(self, who: Who, word: str, adapter: bool) -> None:
        text, view = self.text(word), self.view(who)
        if adapter and who.session:
            MemOSChatMessageHistory(memos=view).add_messages([AIMessage(text)])
            stored = view.conversation()[-1]
        else:
            [stored] = view.remember([{"role": "assistant", "content": text}])
        assert stored.text == text
        namespace = ("messages", who.session) if who.session else ("messages",)
        version = Version(text, who.agent, who.session, ())
        self.cubes[stored.id] = Cube(who.tenant, who.user, namespace, [version], message=True)

    @precondition(lambda self: self.cubes)
    @rule(
        who=WHO,
        number=PICK,
        word=WORD,
        labels=st.none() | st.sampled_from(LABELS),
        stale=st.booleans(),
        owner=OWNER,
    )
    def update(self, who: Who, number: int, word: str, labels: Any, stale: bool, owner: bool) -> None:
        id_, cube = self.pick(number)
        who = self.actor(who, cube, owner)
        view, text = self.view(who), self.text(word)
        details = {} if labels is None else {"sensitivity": labels}
        if not self.may(who, cube, "write"):
            with pytest.raises(self.refusal(who, cube)):
                view.update(id_, text, **details)
        elif cube.state == "merged" and (not details or owns(who, cube, cube.now)):
            with pytest.raises(InvalidArgument):
                view.update(id_, text, **details)
        elif details and not owns(who, cube, cube.now):
            with pytest.raises(AccessDenied):
                view.update(id_, text, **details)
        elif stale:
            with pytest.raises(VersionConflict):
                view.update(id_, text, **details, expected_version=len(cube.versions) - 1)
        else:
            assert view.update(id_, text, **details).version == len(cube.versions) + 1
            cube.versions.append(cube.now._replace(text=text, **({"labels": labels} if details else {})))
            cube.state = "live"

    @precondition(lambda self: self.cubes)
    @rule(who=WHO, number=PICK, owner=OWNER)
    def rollback(self, who: Who, number: int, owner: bool) -> None:
        id_, cube = self.pick(number)
        who = self.actor(who, cube, owner)
        first = cube.versions[0]
        readable = self.may(who, cube) and who.cleared(first.labels)
        if readable and owns(who, cube, cube.now):
            readable = owns(who, cube, first)
        if not readable:
            with pytest.raises(NotFound):
                self.view(who).rollback(id_, 1)
        elif not self.may(who, cube, "write"):
            with pytest.raises(AccessDenied):
                self.view(who).rollback(id_, 1)
        elif cube.state == "merged":
            with pytest.raises(InvalidArgument):
                self.view(who).rollback(id_, 1)
        else:
            self.view(who).rollback(id_, 1)
            labels = first.labels if owns(who, cube, cube.now) else cube.now.labels
            cube.versions.append(cube.now._replace(text=first.text, labels=labels))
            cube.state = "live"

    @precondition(lambda self: self.cubes)
    @rule(who=WHO, number=PICK, owner=OWNER, everything=st.booleans())
    def delete(self, who: Who, number: int, owner: bool, everything: bool) -> None:
        self.check_kv()
        id_, cube = self.pick(number)
        who = self.actor(who, cube, owner)
        doomed = [id_]
        if everything:
            doomed = [
                i for i, c in self.cubes.items() if c.namespace[: len(cube.namespace)] == cube.namespace
            ]
            gone = set(self.view(who).delete_where(namespace=cube.namespace))
        else:
            gone = set(self.view(who).delete(id_))
        expected = {i for i in doomed if self.mine(who, self.cubes[i])}
        assert gone & self.cubes.keys() == expected
        for doomed_id in expected:
            self.drop(doomed_id)

    def drop(self, id_: str) -> None:
        cube = self.cubes.pop(id_)
        self.gone[id_] = cube.tenant, cube.user
        self.addresses = {a: i for a, i in self.addresses.items() if i != id_}

    @precondition(lambda self: self.cubes)
    @rule(who=WHO, number=PICK, owner=OWNER)
    def archive(self, who: Who, number: int, owner: bool) -> None:
        self.check_kv()
        id_, cube = self.pick(number)
        who = self.actor(who, cube, owner)
        if self.mine(who, cube):
            self.view(who).archive(id_)
            cube.state = "archived"
        else:
            with pytest.raises(self.refusal(who, cube)):
                self.view(who).archive(id_)

    @precondition(lambda self: self.cubes)
    @rule(who=WHO, one=PICK, two=PICK, word=WORD, owner=OWNER)
    def merge(self, who: Who, one: int, two: int, word: str, owner: bool) -> None:
        self.check_kv()
        id_, cube = self.pick(one)
        who = self.actor(who, cube, owner)
        others = [(i, c) for i, c in self.cubes.items() if not owner or self.mine(who, c)]
        pair = dict(((id_, cube), others[two % len(others)]))
        view, text = self.view(who), self.text(word)
        foreign = [cube for cube in pair.values() if not self.mine(who, cube)]
        if len(pair) < 2 or (not foreign and any(cube.state != "live" for cube in pair.values())):
            with pytest.raises(InvalidArgument):
                view.merge(list(pair), text)
            return
        if foreign:
            with pytest.raises(self.refusal(who, foreign[0])):
                view.merge(list(pair), text)
            return
        merged = view.merge(list(pair), text)
        parts = [cube.now for cube in pair.values()]
        places = [{getattr(v, p) for v in parts} for p in ("agent", "session")]
        agent, session = (place.pop() if len(place) == 1 else None for place in places)
        labels = tuple({label for v in parts for label in v.labels})
        newest = pair[max(pair)]
        self.cubes[merged.id] = Cube(
            who.tenant,
            who.user,
            newest.namespace,
            [Version(text, agent, session, labels)],
            message=newest.message,
            grants=set.intersection(*(cube.grants for cube in pair.values())),
        )
        self.addresses[who.tenant, who.user, newest.namespace, merged.id] = merged.id
        for cube in pair.values():
            cube.state = "merged"

    # -- who else ------------------------------------------------------------------------------------------

    @precondition(lambda self: self.cubes)
    @rule(who=WHO, number=PICK, to=st.sampled_from(GRANTEES), rights=st.sampled_from(RIGHTS), owner=OWNER)
    def grant(self, who: Who, number: int, to: str, rights: tuple[Any, ...], owner: bool) -> None:
        id_, cube = self.pick(number)
        who = self.actor(who, cube, owner)
        if not owner and cube.grants:  # somebody of this tenant, who may have been granted it
            who = who._replace(tenant=cube.tenant, clearance=None)
        wanted = {"read", *rights}
        if self.mine(who, cube):
            allowed = True
        elif not self.may(who, cube):
            with pytest.raises(NotFound):
                self.view(who).grant(id_, to, rights)
            return
        else:
            allowed = all(self.granted(who, cube, right) for right in {*wanted, "share"})
        if allowed:
            self.view(who).grant(id_, to, rights)
            cube.grants |= {(to, right) for right in wanted}
        else:
            with pytest.raises(AccessDenied):
                self.view(who).grant(id_, to, rights)

    @precondition(lambda self: self.cubes)
    @rule(who=WHO, number=PICK, to=st.sampled_from(GRANTEES), rights=st.sampled_from(RIGHTS), owner=OWNER)
    def revoke(self, who: Who, number: int, to: str, rights: tuple[Any, ...], owner: bool) -> None:
        self.check_kv()
        id_, cube = self.pick(number)
        who = self.actor(who, cube, owner)
        if not self.mine(who, cube):
            with pytest.raises(self.refusal(who, cube)):
                self.view(who).revoke(id_, to, rights)
            return
        self.view(who).revoke(id_, to, rights)
        cube.grants -= {(to, r) for r in ("read", "write", "share") if r in rights or "read" in rights}

    @rule(number=PICK, grant=PICK)
    @precondition(lambda self: any(c.grants for c in self.cubes.values()))
    def the_owner_revokes(self, number: int, grant: int) -> None:
        shared = [i for i, c in self.cubes.items() if c.grants]
        id_ = shared[number % len(shared)]
        cube = self.cubes[id_]
        to, right = sorted(cube.grants)[grant % len(cube.grants)]
        owner = Who(cube.tenant, cube.user, None, None, None, True)
        self.revoke(owner, list(self.cubes).index(id_), to, (right,), owner=True)

    @rule(
        tenant=st.sampled_from(TENANTS),
        group=st.sampled_from(GROUPS),
        users=st.sets(st.sampled_from(USERS), min_size=1),
        join=st.booleans(),
        who=WHO,
    )
    def regroup(self, tenant: str, group: str, users: set[str], join: bool, who: Who) -> None:
        self.check_kv()
        if who.is_user and who.user:
            with pytest.raises(AccessDenied):
                self.view(who).add_to_group(group, sorted(users))
            return
        operator = self.view(self.operator(tenant))
        changed = {(tenant, group, user) for user in users}
        if join:
            operator.add_to_group(group, sorted(users))
            self.members |= changed
        else:
            operator.remove_from_group(group, sorted(users))
            self.members -= changed
        assert operator.groups() == {
            g: sorted(u for t, g2, u in self.members if (t, g2) == (tenant, g))
            for g in sorted({g for t, g, _ in self.members if t == tenant})
        }

    @rule(who=WHO)
    def finish_a_turn(self, who: Who) -> None:
        self.view(who).turn_finished()
        self.check_kv()

    @invariant()
    def remember_this_moment(self) -> None:
        if hasattr(self, "memos"):
            self.moments.append((now(), {i: (c.now, c.state) for i, c in self.cubes.items()}))

    # -- looks ---------------------------------------------------------------------------------------------

    @rule(who=WHO, word=WORD)
    def look_around(self, who: Who, word: str) -> None:
        view = self.view(who)
        live = [i for i, c in self.cubes.items() if c.state == "live"]
        facts = [i for i in live if not self.cubes[i].message]
        assert numbers(view.find(not_types=["kv"])) == self.shown_to(who, live, own=True)
        assert numbers(view.find(not_types=["kv"], shared=True)) == self.shown_to(who, live)
        assert numbers(view.find(not_types=["kv"], states=None)) == self.shown_to(who, self.cubes, own=True)
        spoken = [i for i in live if self.cubes[i].message]
        assert numbers(view.conversation()) == self.shown_to(who, spoken, own=True)
        namespaces = {self.cubes[i].namespace for i in live if self.mine(who, self.cubes[i])}
        assert set(view.namespaces()) - {("kv",)} == namespaces
        counted = {t: n for t, n in view.type_counts().items() if t != "kv"}
        assert sum(counted.values()) == sum(self.mine(who, self.cubes[i]) for i in live)
        for id_ in [*self.cubes][:2]:
            assert (id_ in view.ids_ending(id_[-8:])) == self.mine(who, self.cubes[id_])
        log = view.audit_log(limit=None)
        assert {r.user for r in log} <= {who.user}
        assert all(
            (c.tenant, c.user) == (who.tenant, who.user)
            for r in log
            if (c := self.cubes.get(r.cube_id)) is not None
        )
        assert {self.gone[r.cube_id] for r in log if r.cube_id in self.gone} <= {(who.tenant, who.user)}
        assert numbers(log) == set()

        with_word = [i for i in facts if word in self.cubes[i].now.text]
        found = numbers(view.search(word, k=100))
        assert self.shown_to(who, with_word) <= found <= self.shown_to(who, facts)
        found = numbers(view.search(word, k=100, shared=False))
        assert self.shown_to(who, with_word, own=True) <= found <= self.shown_to(who, facts, own=True)
        found = numbers(view.recall(word, k=100))
        assert self.recalled_by(who, with_word) <= found <= self.recalled_by(who, facts)
        prompt = view.prompt([{"role": "user", "content": f"a {word}?"}], k=5).messages
        assert numbers(prompt) <= self.recalled_by(who, facts)

    @rule(who=WHO)
    def look_closely(self, who: Who) -> None:
        view = self.view(who)
        for id_, cube in self.cubes.items():
            own = owns(who, cube, cube.now)
            if not self.may(who, cube):
                doors: list[Any] = [view.read, view.history]
                if id_ == max(self.cubes):
                    doors += [view.grants, partial(view.diff, old=1)]
                for call in doors:
                    with pytest.raises(NotFound):
                        call(id_)
                continue
            texts = [
                v.text for v in cube.versions if who.cleared(v.labels) and (not own or owns(who, cube, v))
            ]
            assert [v.text for v in view.history(id_)] == texts
            if own or self.granted(who, cube, "share"):
                given = {(to, right) for to, rights in view.grants(id_).items() for right in rights}
                assert given == cube.grants
            assert view.read(id_).text == cube.now.text
            if own and cube.state == "archived":
                cube.state = "live"
        for (tenant, user, namespace, key), id_ in [*self.addresses.items()][:3]:
            at = view.at(namespace, key)
            if (tenant, user) == (who.tenant, who.user):
                assert (at is not None) == self.mine(who, self.cubes[id_])
                assert at is None or (at.id, at.text) == (id_, self.cubes[id_].now.text)
            elif at is not None:
                assert self.mine(who, self.cubes[at.id])

    @rule(who=WHO, word=WORD, picks=st.lists(PICK, min_size=3, max_size=3))
    def look_back(self, who: Who, word: str, picks: list[int]) -> None:
        view = self.view(who)
        for pick in picks:
            moment, then = self.moments[pick % len(self.moments)]
            live, every = set(), set()
            for id_, (version, state) in then.items():
                cube = self.cubes.get(id_)
                if cube is None or not who.cleared({*cube.now.labels, *version.labels}):
                    continue
                if owns(who, cube, version) or self.granted(who, cube, "read"):
                    every |= numbers(version.text)
                    live |= numbers(version.text) if state == "live" else set()
            assert numbers(view.find(as_of=moment, shared=True)) == live
            assert numbers(view.find(as_of=moment, shared=True, states=None)) == every
        assert numbers(view.search(word, k=100, as_of=moment)) <= live
        for id_ in self.cubes:
            known = id_ in then and bool(numbers(then[id_][0].text) & every)
            if known:
                assert view.read(id_, as_of=moment).text == then[id_][0].text
            else:
                with pytest.raises(NotFound):
                    view.read(id_, as_of=moment)

    # -- other adapters ------------------------------------------------------------------------------------

    @rule(who=WHO, word=WORD)
    def look_through_adapters(self, who: Who, word: str) -> None:
        view = self.view(who)
        live = [i for i, c in self.cubes.items() if c.state == "live" and not c.message]
        store = MemOSStore(view)
        assert numbers(store.search((), query=word, limit=100)) == self.shown_to(who, live, own=True)
        assert numbers(store.search((), limit=100)) == self.shown_to(who, live, own=True)
        for namespace in NAMESPACES[:2]:
            id_ = self.addresses.get((who.tenant, who.user, namespace, "k"))
            expected = self.shown_to(who, [id_] if id_ else [], own=True)
            assert numbers(store.get(namespace, "k")) == expected
        if who.user is not None:
            memory = Memory(view)
            entities = {"user_id": who.user}
            listed = numbers(memory.get_all(filters=entities, top_k=100))
            assert listed == self.shown_to(who, live, own=True)
            found = numbers(memory.search(word, filters=entities, threshold=0))
            assert found <= self.shown_to(who, live, own=True)
            for id_, cube in self.cubes.items():
                if cube.message or not self.may(who, cube):
                    assert memory.get(id_) is None
                    assert numbers(memory.history(id_)) == set()
        remembering = MemOSMemory(memos=view.scoped(session=who.session or "other"))
        shown = numbers(remembering.load_memory_variables({"input": word}))
        spoken = [i for i, c in self.cubes.items() if c.state == "live" and c.message]
        assert shown <= self.recalled_by(who, live) | self.shown_to(who, spoken, own=True)

    @rule(who=WHO, other=WHO, thread=st.sampled_from(("th1", "th2")), word=WORD)
    def checkpoint(self, who: Who, other: Who, thread: str, word: str) -> None:
        saver, text = MemOSSaver(self.view(who)), self.text(word)
        checkpoint = empty_checkpoint()
        checkpoint["channel_values"], checkpoint["channel_versions"] = {"said": text}, {"said": "1"}
        config: Any = {"configurable": {"thread_id": thread, "checkpoint_ns": ""}}
        saver.put(config, checkpoint, {"source": "input"}, {"said": "1"})
        self.threads.setdefault((who.tenant, who.user, thread), set()).update(numbers(text))
        for asking in (who, other):
            saver = MemOSSaver(self.view(asking))
            mine = [n for (t, u, _), n in self.threads.items() if (t, u) == (asking.tenant, asking.user)]
            assert numbers([*saver.list(None)]) == set().union(*mine)
            expected = self.threads.get((asking.tenant, asking.user, thread), set())
            assert numbers([*saver.list(config)]) == expected
            assert numbers(saver.get_tuple(config)) <= expected


Isolation.TestCase.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=STEPS,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    report_multiple_bugs=False,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
)
TestIsolation = Isolation.TestCase
