"""Life cycle, versions, validity and grants under random use, against a model of dicts, on both back ends."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import update
from support import bag_of_words

from memos_core import MemOS, Plaintext, Principal, Scope, State
from memos_core.cube import LIVE, lifecycle, now
from memos_core.errors import AccessDenied, InvalidArgument, MemOSError, NotFound
from memos_core.vault.rows import micros
from memos_core.vault.tables import cubes as table

EXAMPLES = int(os.environ.get("MEMOS_EXAMPLES", "40"))
USERS = ("ann", "bob", "cyd")
GRANTEES = ("user:bob", "user:cyd", "group:crew", "everyone")
RIGHTS: tuple[Any, ...] = (("read",), ("write",), ("share",), ("write", "share"))
LABELS: tuple[tuple[str, ...], ...] = ((), ("health",), ("health", "money"))
CLEARANCES = (None, (), ("health",))
CITIES = ("Paris", "Berlin", "Rome")
VERBS = ("update", "label", "roll back", "archive", "activate", "freeze", "unfreeze", "read", "merge")
DAYS = [datetime(2026, 1, day, tzinfo=UTC) for day in range(1, 9)]

PICK = st.integers(0, 199)
USER = st.sampled_from(("ann", "ann", "bob", "cyd"))
ACTOR = st.sampled_from((None, None, None, *USERS))  # None: the cube's owner, or most would be refused
CLEARANCE = st.sampled_from((None, *CLEARANCES))


@dataclass(frozen=True)
class Version:
    text: str
    labels: tuple[str, ...] = ()
    starts: datetime | None = None
    ends: datetime | None = None
    city: str = ""

    def holds(self, at: datetime) -> bool:
        return (self.starts is None or self.starts <= at) and (self.ends is None or self.ends > at)


@dataclass
class Cube:
    user: str
    versions: list[Version]
    state: State = State.GENERATED
    frozen: bool = False
    expired: bool = False  # its ttl has passed, which counts while it is not frozen
    sources: tuple[tuple[str, int], ...] = ()
    grants: set[tuple[str, str]] = field(default_factory=set)

    @property
    def now(self) -> Version:
        return self.versions[-1]

    @property
    def there(self) -> bool:
        return self.frozen or not self.expired


class Machine(RuleBasedStateMachine):
    """Three users of one tenant; `memos` is set by the test that runs it."""

    memos: MemOS
    tenants = itertools.count()

    @initialize(  # a life has begun already
        members=st.sets(st.sampled_from(USERS)),
        labels=st.lists(st.none() | st.sampled_from(LABELS), min_size=2, max_size=5),
        to=st.sampled_from(GRANTEES),
        rights=st.sampled_from(RIGHTS),
    )
    def start(self, members: set[str], labels: list[Any], to: str, rights: tuple[Any, ...]) -> None:
        self.tenant = f"tenant{next(self.tenants)}"
        self.cubes: dict[str, Cube] = {}
        self.members: set[str] = set()
        self.last = ""
        self.moments: list[tuple[datetime, dict[str, tuple[Version, int, State]]]] = []
        self.count = itertools.count()
        if members:
            self.regroup(members, True)
        for i, later in enumerate(labels):
            self.write(USERS[0 if i % 3 else 1], labels[-1] or (), None)
            self.remember_this_moment()
            if later is not None:
                self.update(None, None, i, later)
            if i % 2:
                self.grant(None, i, to, rights)

    def teardown(self) -> None:
        if not hasattr(self, "tenant"):
            return
        # What the example has made of it is looked at by some of all, chosen by what happened.
        everybody = list(itertools.product(USERS, CLEARANCES))
        n = next(self.count)
        for user, clearance in (everybody[(n + step) % len(everybody)] for step in (0, 4, 8)):
            self.look_around(user, clearance, DAYS[n % len(DAYS)])
            self.look_back(user, clearance, n)
            for number in range(min(60, len(self.cubes))):
                self.look_closely(user, clearance, number)
        assert self.view("*").verify_audit_log() == []

    # -- the model -----------------------------------------------------------------------------------------

    def view(self, user: str | None, clearance: Any = None) -> MemOS:
        cleared = None if clearance is None else frozenset(clearance)
        principal = Principal(tenant=self.tenant, clearance=cleared)
        return MemOS(self.memos._core, Scope(tenant=self.tenant, user=user), principal, "memos")

    def pick(self, number: int) -> tuple[str, Cube]:
        """Mostly the cube that the last step was about: what one step did is for the next to trip over."""
        if number < 60 or self.last not in self.cubes:
            self.last = list(self.cubes)[number % len(self.cubes)]
        return self.last, self.cubes[self.last]

    def mine(self, user: str, clearance: Any, cube: Cube) -> bool:
        return user == cube.user and cleared(clearance, cube.now) and cube.there

    def may(self, user: str, clearance: Any, cube: Cube, right: str = "read") -> bool:
        to = {"everyone", f"user:{user}"} | ({"group:crew"} if user in self.members else set())
        granted = any((name, right) in cube.grants for name in to)
        return (user == cube.user or granted) and cleared(clearance, cube.now) and cube.there

    def refused(self, user: str, clearance: Any, cube: Cube, call: Any) -> None:
        error = AccessDenied if self.may(user, clearance, cube) else NotFound
        with pytest.raises(error):
            call()

    def text(self) -> str:
        return f"note number{next(self.count)}"

    # -- versions ------------------------------------------------------------------------------------------

    @rule(user=USER, labels=st.sampled_from(LABELS), ttl=st.none() | st.just(timedelta(days=1)))
    def write(self, user: str, labels: tuple[str, ...], ttl: timedelta | None) -> None:
        text = self.text()
        cube = self.view(user).write(text, sensitivity=labels, ttl=ttl)
        assert (cube.version, cube.state) == (1, State.GENERATED)
        self.cubes[cube.id] = Cube(user, [Version(text, labels)])

    @rule(
        user=USER,
        facts=st.lists(
            st.tuples(st.sampled_from(CITIES), st.sampled_from(DAYS), st.sampled_from((False, False, True))),
            min_size=1,
            max_size=4,
        ),
    )
    def state_facts(self, user: str, facts: list[tuple[str, datetime, bool]]) -> None:
        """What holds when: the later of two statements by their own time ends the earlier one."""
        for city, day, ends in facts:
            self.state_a_fact(user, city, day, ends)

    def state_a_fact(self, user: str, city: str, day: datetime, ends: bool) -> None:
        text = f"I no longer live in {city}" if ends else f"I live in {city}"
        until: datetime | None = None
        said = ("-" if ends else "") + city
        for cube in [self.cubes[id_] for id_ in sorted(self.cubes)]:
            if cube.user != user or not cube.now.city or cube.state not in LIVE or not cube.there:
                continue
            begins = cube.now.starts
            assert begins is not None
            if begins <= day:
                later = cube.now.ends is None or cube.now.ends > day
                if later and not cube.frozen and contradict(said, cube.now.city):
                    cube.versions.append(replace(cube.now, ends=day))
            elif contradict(cube.now.city, said) and (until is None or until > begins):
                until = begins
        stored = self.view(user).write(text, valid_from=day)
        assert isinstance(stored.payload, Plaintext)
        assert stored.payload.valid_to == until
        self.cubes[stored.id] = Cube(user, [Version(text, (), day, until, said)])

    @precondition(lambda self: self.cubes)
    @rule(user=ACTOR, clearance=CLEARANCE, number=PICK, labels=st.none() | st.sampled_from(LABELS))
    def update(self, user: str | None, clearance: Any, number: int, labels: Any) -> None:
        id_, cube = self.pick(number)
        user = user or cube.user
        if cube.now.city:
            return
        view, text = self.view(user, clearance), self.text()
        details = {} if labels is None else {"sensitivity": labels}

        def change() -> Any:
            return view.update(id_, text, **details)

        if not self.may(user, clearance, cube, "write"):
            self.refused(user, clearance, cube, change)
        elif details and user != cube.user:
            with pytest.raises(AccessDenied):
                change()
        elif cube.frozen or cube.state is State.MERGED:
            with pytest.raises(InvalidArgument, match=r"frozen|merged"):
                change()
        else:
            assert change().version == len(cube.versions) + 1
            new = replace(cube.now, text=text, labels=cube.now.labels if labels is None else labels)
            self.next_version(cube, new)

    def next_version(self, cube: Cube, version: Version) -> None:
        cube.versions.append(version)
        if cube.state is State.ARCHIVED:
            cube.state = State.ACTIVATED

    @precondition(lambda self: self.cubes)
    @rule(user=ACTOR, clearance=CLEARANCE, number=PICK, version=st.integers(1, 3))
    def rollback(self, user: str | None, clearance: Any, number: int, version: int) -> None:
        id_, cube = self.pick(number)
        user = user or cube.user
        if cube.now.city or any(v.city for v in cube.versions):
            return
        view = self.view(user, clearance)
        known = version <= len(cube.versions) and cleared(clearance, cube.versions[version - 1])
        if not self.may(user, clearance, cube) or not known:
            with pytest.raises(NotFound):
                view.rollback(id_, version)
        elif not self.may(user, clearance, cube, "write"):
            with pytest.raises(AccessDenied):
                view.rollback(id_, version)
        elif cube.frozen or cube.state is State.MERGED:
            with pytest.raises(InvalidArgument, match=r"frozen|merged"):
                view.rollback(id_, version)
        else:
            old = cube.versions[version - 1]
            labels = old.labels if user == cube.user else cube.now.labels
            assert view.rollback(id_, version).text == old.text
            self.next_version(cube, replace(old, labels=labels))

    # -- life ----------------------------------------------------------------------------------------------

    @precondition(lambda self: self.cubes)
    @rule(
        user=ACTOR,
        number=PICK,
        to=st.sampled_from((State.ARCHIVED, State.ARCHIVED, State.ACTIVATED)),
        two=PICK,
    )
    def move(self, user: str | None, number: int, to: State, two: int) -> None:
        """One cube or two at a time: all of them move, or none."""
        user = user or self.pick(number)[1].user
        chosen = dict((self.pick(number), self.pick(two)))
        view = self.view(user)
        call = view.archive if to is State.ARCHIVED else view.activate
        foreign = [cube for cube in chosen.values() if not self.mine(user, None, cube)]
        if foreign:
            with pytest.raises((NotFound, AccessDenied)):
                call(list(chosen))
            return
        moving = [cube for cube in chosen.values() if cube.state is not to]
        if any(cube.frozen or to not in lifecycle.LEGAL[cube.state] for cube in moving):
            with pytest.raises(InvalidArgument):
                call(list(chosen))
            return
        call(list(chosen))
        for cube in moving:
            cube.state = to

    @precondition(lambda self: self.cubes)
    @rule(user=ACTOR, clearance=CLEARANCE, number=PICK)
    def read(self, user: str | None, clearance: Any, number: int) -> None:
        id_, cube = self.pick(number)
        user = user or cube.user
        if not self.may(user, clearance, cube):
            with pytest.raises(NotFound):
                self.view(user, clearance).read(id_)
            return
        if cube.state is State.ARCHIVED and not cube.frozen and user == cube.user:
            cube.state = State.ACTIVATED  # it comes back by being read
        found = self.view(user, clearance).read(id_)
        assert (found.text, found.version) == (cube.now.text, len(cube.versions))
        assert (found.state, found.frozen) == (cube.state, cube.frozen)
        assert tuple((s.id, s.version) for s in found.derived_from) == cube.sources

    @precondition(lambda self: self.cubes)
    @rule(user=ACTOR, number=PICK, frozen=st.booleans())
    def freeze(self, user: str | None, number: int, frozen: bool) -> None:
        id_, cube = self.pick(number)
        user = user or cube.user
        view = self.view(user)
        call = view.freeze if frozen else view.unfreeze
        if self.mine(user, None, cube):
            call(id_)
            cube.frozen = frozen
        else:
            self.refused(user, None, cube, lambda: call(id_))

    @precondition(lambda self: self.cubes)
    @rule(number=PICK)
    def let_the_ttl_pass(self, number: int) -> None:
        id_, cube = self.pick(number)
        with self.memos.vault.db.write() as conn:
            conn.execute(update(table).where(table.c.id == id_).values(expires_at=micros(now())))
        cube.expired = True

    @precondition(lambda self: any(not cube.there for cube in self.cubes.values()))
    @rule()
    def clean_up(self) -> None:
        self.memos._core.keep_house()
        for id_, cube in list(self.cubes.items()):
            if not cube.there:
                del self.cubes[id_]

    @precondition(lambda self: self.cubes)
    @rule(user=ACTOR, one=PICK, two=PICK, labels=CLEARANCE)
    def merge(self, user: str | None, one: int, two: int, labels: Any) -> None:
        user = user or self.pick(one)[1].user
        mine = [(i, c) for i, c in self.cubes.items() if self.mine(user, None, c)]
        chosen = dict((self.pick(one), mine[two % len(mine)] if mine else self.pick(two)))
        view, text = self.view(user), self.text()
        foreign = [cube for cube in chosen.values() if not self.mine(user, None, cube)]
        legal = all(not c.frozen and c.state in LIVE for c in chosen.values())
        if len(chosen) < 2 or foreign or not legal:
            with pytest.raises(MemOSError) as err:
                view.merge(list(chosen), text)
            assert isinstance(err.value, InvalidArgument | NotFound | AccessDenied)
            return
        merged = view.merge(list(chosen), text)
        parts = [cube.now for cube in chosen.values()]
        starts, ends = [p.starts for p in parts], [p.ends for p in parts]
        version = Version(
            text,
            tuple({label for part in parts for label in part.labels}),
            None if None in starts else min(s for s in starts if s),
            None if None in ends else max(e for e in ends if e),
        )
        new = Cube(user, [version], grants=set.intersection(*(c.grants for c in chosen.values())))
        new.sources = tuple((id_, len(cube.versions)) for id_, cube in chosen.items())
        new.expired = any(cube.expired for cube in chosen.values())
        self.cubes[merged.id] = new
        for cube in chosen.values():
            cube.state = State.MERGED

    @precondition(lambda self: self.cubes)
    @rule(user=ACTOR, clearance=CLEARANCE, number=PICK)
    def delete(self, user: str | None, clearance: Any, number: int) -> None:
        id_, cube = self.pick(number)
        user = user or cube.user
        mine = user == cube.user and cleared(clearance, cube.now)  # what has expired can be deleted too
        assert self.view(user, clearance).delete(id_) == ([id_] if mine else [])
        if mine:
            del self.cubes[id_]

    @precondition(lambda self: self.cubes)
    @rule(number=PICK, verbs=st.lists(st.sampled_from(VERBS), min_size=2, max_size=5))
    def live(self, number: int, verbs: list[str]) -> None:
        """Several things in a row happen to one cube, by its owner."""
        id_ = self.pick(number)[0]
        for verb in verbs:
            if id_ not in self.cubes:
                return
            i = list(self.cubes).index(id_)
            match verb:
                case "update":
                    self.update(None, None, i, None)
                case "label":
                    self.update(None, None, i, LABELS[number % len(LABELS)])
                case "roll back":
                    self.rollback(None, None, i, 1)
                case "archive" | "activate":
                    self.move(None, i, State.ARCHIVED if verb == "archive" else State.ACTIVATED, i)
                case "freeze" | "unfreeze":
                    self.freeze(None, i, verb == "freeze")
                case "read":
                    self.read(None, None, i)
                case "merge":
                    self.merge(None, i, number, None)
            self.remember_this_moment()

    # -- who else ------------------------------------------------------------------------------------------

    @precondition(lambda self: self.cubes)
    @rule(user=ACTOR, number=PICK, to=st.sampled_from(GRANTEES), rights=st.sampled_from(RIGHTS))
    def grant(self, user: str | None, number: int, to: str, rights: tuple[Any, ...]) -> None:
        id_, cube = self.pick(number)
        user = user or cube.user
        wanted = {"read", *rights}

        def call() -> None:
            self.view(user).grant(id_, to, rights)

        needed = set() if user == cube.user else {*wanted, "share"}
        if not self.may(user, None, cube) or not all(self.may(user, None, cube, right) for right in needed):
            self.refused(user, None, cube, call)
        else:
            call()
            cube.grants |= {(to, right) for right in wanted}

    @precondition(lambda self: self.cubes)
    @rule(number=PICK, to=st.sampled_from(GRANTEES), rights=st.sampled_from(RIGHTS), user=st.none() | USER)
    def revoke(self, number: int, to: str, rights: tuple[Any, ...], user: str | None) -> None:
        id_, cube = self.pick(number)
        who = user or cube.user
        if not self.mine(who, None, cube):
            self.refused(who, None, cube, lambda: self.view(who).revoke(id_, to, rights))
            return
        self.view(who).revoke(id_, to, rights)
        cube.grants -= {(to, r) for r in ("read", "write", "share") if r in rights or "read" in rights}

    @rule(users=st.sets(st.sampled_from(USERS), min_size=1), join=st.booleans())
    def regroup(self, users: set[str], join: bool) -> None:
        operator = self.view(None)
        (operator.add_to_group if join else operator.remove_from_group)("crew", sorted(users))
        self.members = self.members | users if join else self.members - users
        assert operator.groups() == ({"crew": sorted(self.members)} if self.members else {})

    # -- looks ---------------------------------------------------------------------------------------------

    @invariant()
    def remember_this_moment(self) -> None:
        if hasattr(self, "tenant"):
            seen = {i: (c.now, len(c.versions), c.state) for i, c in self.cubes.items()}
            self.moments.append((now(), seen))

    @rule(user=USER, clearance=CLEARANCE, day=st.sampled_from(DAYS))
    def look_around(self, user: str, clearance: Any, day: datetime) -> None:
        view = self.view(user, clearance)
        own = {i: c for i, c in self.cubes.items() if self.mine(user, clearance, c)}
        may = {i: c for i, c in self.cubes.items() if self.may(user, clearance, c)}
        live = {i: c for i, c in may.items() if c.state in LIVE}
        assert {c.id: c.state for c in view.find(states=None)} == {i: c.state for i, c in own.items()}
        assert {c.id: c.text for c in view.find(shared=True)} == {i: c.now.text for i, c in live.items()}
        at = {i for i, c in live.items() if c.now.holds(day)}
        assert {c.id for c in view.find(shared=True, valid_at=day)} == at
        found = {h.cube.id for h in view.search("note live", k=200, valid_at=day)}
        assert found == at
        assert {h.cube.id for h in view.search("note live", k=200, valid_at=None)} == live.keys()
        archived = {i for i, c in may.items() if c.state is State.ARCHIVED}
        assert {h.cube.id for h in view.search("note live", k=200, states=[State.ARCHIVED])} == {
            i for i in archived if may[i].now.holds(now())
        }

    @precondition(lambda self: self.cubes)
    @rule(user=ACTOR, clearance=CLEARANCE, number=PICK)
    def look_closely(self, user: str | None, clearance: Any, number: int) -> None:
        id_, cube = self.pick(number)
        user = user or cube.user
        view = self.view(user, clearance)
        if not self.may(user, clearance, cube):
            for call in (view.history, view.grants, lambda i: view.diff(i, 1)):
                with pytest.raises(NotFound):
                    call(id_)
            return
        shown = [(n, v) for n, v in enumerate(cube.versions, 1) if cleared(clearance, v)]
        assert [(v.version, v.text) for v in view.history(id_)] == [(n, v.text) for n, v in shown]
        number, first = shown[0]
        changed = {c.path for c in view.diff(id_, number).changes}
        assert ("text" in changed) == (first.text != cube.now.text)
        if self.may(user, clearance, cube, "share"):
            given = {(to, right) for to, rights in view.grants(id_).items() for right in rights}
            assert given == cube.grants

    @rule(user=USER, clearance=CLEARANCE, number=PICK)
    def look_back(self, user: str, clearance: Any, number: int) -> None:
        for i in {0, len(self.moments) // 2, number % len(self.moments)}:
            self.look_at(user, clearance, *self.moments[i])

    def look_at(self, user: str, clearance: Any, moment: datetime, then: Any) -> None:
        view = self.view(user, clearance)
        # Who may read is asked as of now; of what has expired, the end of its life is not in the model.
        may = {
            i: then[i]
            for i, c in self.cubes.items()
            if i in then and not c.expired and self.may(user, clearance, c) and cleared(clearance, then[i][0])
        }
        unsure = {i for i, c in self.cubes.items() if c.expired}
        found = {
            c.id: (c.text, c.version, c.state) for c in view.find(shared=True, states=None, as_of=moment)
        }
        seen = {i: f for i, f in found.items() if i not in unsure}
        assert seen == {i: (v.text, n, state) for i, (v, n, state) in may.items()}
        live = {i for i, (_, _, state) in may.items() if state in LIVE}
        assert {c.id for c in view.find(shared=True, as_of=moment)} - unsure == live
        assert {h.cube.id for h in view.search("note live", k=200, as_of=moment)} - unsure == {
            i for i in live if then[i][0].holds(moment)
        }
        for id_ in self.cubes.keys() - unsure:
            if id_ in may:
                assert view.read(id_, as_of=moment).text == may[id_][0].text
            else:
                with pytest.raises(NotFound):
                    view.read(id_, as_of=moment)


def cleared(clearance: Any, version: Version) -> bool:
    return clearance is None or set(version.labels) <= set(clearance)


def contradict(newer: str, older: str) -> bool:
    """Whether the older statement holds no more, of "Paris" (lives there) and "-Paris" (no longer)."""
    if newer.startswith("-"):
        return older == newer[1:]
    return older == f"-{newer}" or (not older.startswith("-") and older != newer)


@pytest.fixture
def shared_vault(vault_url: str) -> Iterator[MemOS]:
    """One vault for all examples, each in a tenant of its own: to make a database takes longer than an example.
    Nothing happens in it by itself."""
    with MemOS.open(vault_url, embedder=bag_of_words, index="exact", lifecycle=None) as memos:
        memos.scheduler.stop()
        yield memos


def test_a_random_life(shared_vault: MemOS) -> None:
    machine = type("Machine", (Machine,), {"memos": shared_vault})
    slow = shared_vault.vault.location.server is not None
    how = settings(
        max_examples=EXAMPLES // 3 if slow else EXAMPLES,
        stateful_step_count=12,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    run_state_machine_as_test(machine, settings=how)
    assert shared_vault.vault.verify_log() == []
