"""A model of what each view may see, against the real thing, under random use."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from support import bag_of_words

from memos_core import MemCube, MemOS
from memos_core.errors import NotFound, VersionConflict

USERS = ("alice", "bob", None)
AGENTS = (None, "a1", "a2")
SESSIONS = (None, "s1", "s2")
WORDS = ("falcon", "glacier", "harp", "ivory")
NAMESPACES = (("memories",), ("memories", "sub"), ("memoriesx",), ())
KEYS = ("k1", "k2", "")


@dataclass
class Entry:
    """What the model knows of a cube."""

    user: str | None
    agent: str | None
    session: str | None
    namespace: tuple[str, ...]
    versions: list[tuple[str, str | None, str | None]] = field(default_factory=list)  # text, agent, session

    def seen_by(self, view: MemOS) -> bool:
        scope = view.scope
        return (
            self.user == scope.user
            and scope.agent in (None, self.agent)
            and scope.session in (None, self.session)
        )


class Isolation(RuleBasedStateMachine):
    """Users, agents and sessions write, change, delete and ask; a dict says what must come back."""

    @initialize()
    def start(self) -> None:
        self.memos = MemOS.open(":memory:", embedder=bag_of_words, index="exact")
        self.cubes: dict[str, Entry] = {}
        self.addresses: dict[tuple[Any, ...], str] = {}
        self.messages: list[tuple[str, Entry]] = []
        self.numbers = itertools.count()

    def teardown(self) -> None:
        if hasattr(self, "memos"):
            self.memos.close()

    views = st.tuples(st.sampled_from(USERS), st.sampled_from(AGENTS), st.sampled_from(SESSIONS))

    def view(self, parts: tuple[str | None, str | None, str | None]) -> MemOS:
        user, agent, session = parts
        return self.memos.scoped(user=user, agent=agent, session=session)

    def text(self, user: str | None, word: str) -> str:
        return f"owner{user} {word} number{next(self.numbers)}"

    @rule(
        parts=views,
        word=st.sampled_from(WORDS),
        namespace=st.sampled_from(NAMESPACES),
        key=st.sampled_from(KEYS),
    )
    def write(self, parts: Any, word: str, namespace: tuple[str, ...], key: str) -> None:
        user, agent, session = parts
        text = self.text(user, word)
        address = (user, namespace, key)
        before = self.addresses.get(address) if key else None
        cube = self.view(parts).write(text, namespace=namespace, key=key)
        if before is None:
            assert cube.version == 1
            assert cube.id not in self.cubes
            self.cubes[cube.id] = Entry(user, agent, session, namespace)
            self.addresses[user, namespace, cube.key] = cube.id
        else:
            assert cube.id == before
        entry = self.cubes[cube.id]
        entry.agent, entry.session = agent, session
        entry.versions.append((text, agent, session))
        assert cube.version == len(entry.versions)

    @rule(parts=views, word=st.sampled_from(WORDS), pick=st.integers(0, 99), stale=st.booleans())
    def update(self, parts: Any, word: str, pick: int, stale: bool) -> None:
        if not self.cubes:
            return
        id_, entry = list(self.cubes.items())[pick % len(self.cubes)]
        view, text = self.view(parts), self.text(entry.user, word)
        if not entry.seen_by(view):
            with pytest.raises(NotFound):
                view.update(id_, text)
        elif stale:
            with pytest.raises(VersionConflict):
                view.update(id_, text, expected_version=len(entry.versions) - 1)
        else:
            assert view.update(id_, text).version == len(entry.versions) + 1
            entry.versions.append((text, entry.agent, entry.session))

    @rule(parts=views, pick=st.integers(0, 99))
    def delete(self, parts: Any, pick: int) -> None:
        if not self.cubes:
            return
        id_, entry = list(self.cubes.items())[pick % len(self.cubes)]
        view = self.view(parts)
        if entry.seen_by(view):
            assert view.delete(id_) == [id_]
            self.drop(id_)
        else:
            assert view.delete(id_) == []

    @rule(parts=views, namespace=st.sampled_from(NAMESPACES[1:3]))
    def delete_where(self, parts: Any, namespace: tuple[str, ...]) -> None:
        view = self.view(parts)
        expected = {i for i, e in self.cubes.items() if e.seen_by(view) and e.namespace == namespace}
        assert set(view.delete_where(namespace=namespace)) == expected
        for id_ in expected:
            self.drop(id_)

    def drop(self, id_: str) -> None:
        del self.cubes[id_]
        self.addresses = {a: i for a, i in self.addresses.items() if i != id_}

    @rule(parts=views, word=st.sampled_from(WORDS))
    def talk(self, parts: Any, word: str) -> None:
        user, agent, session = parts
        text = self.text(user, word)
        stored = self.view(parts).remember([{"role": "assistant", "content": text}])
        assert [c.text for c in stored] == [text]
        self.messages.append((text, Entry(user, agent, session, ("messages",))))

    @rule()
    def let_the_scheduler_work(self) -> None:
        assert self.memos.scheduler.wait_idle()

    @rule(parts=views, word=st.sampled_from(WORDS))
    def ask(self, parts: Any, word: str) -> None:
        view = self.view(parts)
        mine = {i: e for i, e in self.cubes.items() if e.seen_by(view)}
        found = {h.cube.id: h.cube.text for h in view.search(word, k=1000)}
        current = {i: e.versions[-1][0] for i, e in mine.items()}
        assert found.items() <= current.items()
        assert {i for i, text in current.items() if word in text} <= set(found)
        across = {
            e.versions[-1][0]
            for e in self.cubes.values()
            if e.user == view.scope.user and view.scope.agent in (None, e.agent)
        }
        assert {h.cube.text for h in view.recall(word, k=1000)} <= across

        prompt = view.prompt([{"role": "user", "content": f"what about {word}?"}], k=5)
        shown = prompt.messages[0]["content"] + prompt.messages[-1]["content"]
        assert all(f"owner{other} " not in shown for other in USERS if other != view.scope.user)
        said = [text for text, entry in self.messages if entry.seen_by(view)]
        assert [c.text for c in view.conversation()] == said

    @invariant()
    def each_view_sees_its_own(self) -> None:
        if not hasattr(self, "memos"):
            return
        for parts in ((user, agent, None) for user in USERS for agent in AGENTS):
            view = self.view(parts)
            mine = {i: e for i, e in self.cubes.items() if e.seen_by(view)}
            seen = view.find(not_types=["message"])
            assert {c.id: c.text for c in seen} == {i: e.versions[-1][0] for i, e in mine.items()}
            talks = {
                ("messages", s) if s else ("messages",)
                for t, e in self.messages
                if e.seen_by(view)
                for s in [e.session]
            }
            assert set(view.namespaces()) == {e.namespace for e in mine.values()} | talks

    @rule(parts=views)
    def look_closely(self, parts: Any) -> None:
        view = self.view(parts)
        for (user, namespace, key), id_ in self.addresses.items():
            entry = self.cubes[id_]
            at = view.at(namespace, key)
            if entry.seen_by(view):
                assert at is not None
                assert at.id == id_ == view.read(id_).id
                texts = [
                    t
                    for t, agent, session in entry.versions
                    if view.scope.agent in (None, agent) and view.scope.session in (None, session)
                ]
                assert [v.text for v in view.history(id_)] == texts
            else:
                assert at is None or (user != view.scope.user and at.scope.user == view.scope.user)
                for call in (view.read, view.history):
                    with pytest.raises(NotFound):
                        call(id_)


Isolation.TestCase.settings = settings(
    max_examples=20, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
TestIsolation = Isolation.TestCase


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
