"""When a cube moves on by itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memos_core.cube import LIVE, Behaviour, Descriptive, Governance, Header, MemCube, Plaintext, State
from memos_core.cube.decay import HALF_LIFE, decayed
from memos_core.cube.lifecycle import LEGAL, check
from memos_core.errors import InvalidArgument
from memos_core.governance.lifecycle import DecayPolicy, LifecyclePolicy, Step, last_used

NOW = datetime(2026, 11, 3, tzinfo=UTC)
DAY = timedelta(days=1)


def cube(
    *,
    written: timedelta = timedelta(0),
    read: timedelta | None = None,
    frequency: float = 0.0,
    expires: timedelta | None = None,
    priority: int = 0,
    semantic_type: str = "fact",
    state: State = State.GENERATED,
    frozen: bool = False,
) -> MemCube:
    """A cube that was written and read so long before NOW."""
    return MemCube(
        payload=Plaintext[Any](text="x"),
        state=state,
        frozen=frozen,
        header=Header(
            descriptive=Descriptive(
                created_at=NOW - written, updated_at=NOW - written, semantic_type=semantic_type
            ),
            governance=Governance(priority=priority, expires_at=None if expires is None else NOW + expires),
            behaviour=Behaviour(
                reads=0 if read is None else 1,
                last_read=None if read is None else NOW - read,
                frequency=frequency,
            ),
        ),
    )


def test_use_fades_by_half_every_half_life() -> None:
    used = cube(read=HALF_LIFE, frequency=4.0).header.behaviour
    assert decayed(used, NOW) == pytest.approx(2.0)
    assert decayed(used, NOW - 2 * HALF_LIFE) == 4.0  # before it was read: never more than was stored
    assert decayed(Behaviour(), NOW) == 0.0


@pytest.mark.parametrize(
    ("found", "state"),
    [
        (cube(), None),
        (cube(read=DAY * 0, frequency=2.0), State.ACTIVATED),
        (cube(read=DAY, frequency=2.0), None),
        (cube(read=DAY * 0, frequency=2.0, state=State.ACTIVATED), None),
        (cube(written=180 * DAY), State.ARCHIVED),
        (cube(written=179 * DAY), None),
        (cube(written=180 * DAY, state=State.ACTIVATED), State.ARCHIVED),
        (cube(written=400 * DAY, read=10 * DAY, frequency=0.01), None),
        (cube(written=400 * DAY, read=180 * DAY, frequency=9.0), State.ARCHIVED),
        (cube(written=400 * DAY, priority=1), None),
        (cube(written=400 * DAY, semantic_type="message"), None),
        (cube(written=400 * DAY, frozen=True), None),
        (cube(written=400 * DAY, state=State.ARCHIVED), None),
        (cube(written=400 * DAY, state=State.MERGED), None),
        (cube(expires=timedelta(0)), State.EXPIRED),
        (cube(expires=DAY), None),
        (cube(expires=-DAY, frozen=True), None),
        (cube(expires=-DAY, priority=9, semantic_type="message"), State.EXPIRED),
        (cube(expires=-DAY, state=State.ARCHIVED), State.EXPIRED),
        (cube(expires=-DAY, state=State.MERGED), State.EXPIRED),
        (cube(expires=-DAY, state=State.EXPIRED), None),
    ],
)
def test_the_step_that_is_due(found: MemCube, state: State | None) -> None:
    step = DecayPolicy().next_state(found, NOW)
    assert (step.state if step else None) == state
    assert step is None or step.cause


def test_an_archive_can_be_given_an_end() -> None:
    policy = DecayPolicy(archive_after=10 * DAY, expire_after=20 * DAY)
    for state in (State.ARCHIVED, State.MERGED):
        assert policy.next_state(cube(written=29 * DAY, state=state), NOW) is None
        step = policy.next_state(cube(written=30 * DAY, state=state), NOW)
        assert step == Step(State.EXPIRED, f"{state} and unused for 30 days")
        assert policy.next_state(cube(written=30 * DAY, state=state, priority=1), NOW) is None
    assert DecayPolicy(archive_after=None).next_state(cube(written=9999 * DAY), NOW) is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("activate_frequency", -1),
        ("activate_frequency", "2"),
        ("activate_frequency", float("nan")),
        ("activate_frequency", 0.01),
        ("archive_frequency", -0.1),
        ("archive_after", timedelta(0)),
        ("archive_after", 180),
        ("expire_after", -DAY),
        ("keep_expired", -DAY),
        ("keep_expired", None),
        ("half_life", timedelta(0)),
        ("half_life", None),
        ("keep_types", "message"),
    ],
)
def test_a_policy_names_what_is_wrong_with_it(field: str, value: Any) -> None:
    with pytest.raises(InvalidArgument, match=f"^{field} must"):
        DecayPolicy(**{field: value})


days = st.integers(0, 5000).map(lambda n: n * DAY)
cubes = st.builds(
    cube,
    written=days,
    read=st.none() | days,
    frequency=st.floats(0, 1e6),
    expires=st.none() | st.integers(-500, 500).map(lambda n: n * DAY),
    priority=st.integers(-2, 2),
    semantic_type=st.sampled_from(["fact", "message", "kv"]),
    state=st.sampled_from(State),
    frozen=st.booleans(),
)
policies = st.builds(
    DecayPolicy,
    activate_frequency=st.floats(0.5, 50),
    archive_after=st.none() | st.integers(1, 1000).map(lambda n: n * DAY),
    archive_frequency=st.floats(0, 0.4),
    expire_after=st.none() | st.integers(1, 1000).map(lambda n: n * DAY),
    half_life=st.integers(1, 100).map(lambda n: n * DAY),
)


@given(cubes, policies)
def test_every_step_is_legal_and_they_come_to_an_end(found: MemCube, policy: LifecyclePolicy) -> None:
    for _ in range(len(State)):
        step = policy.next_state(found, NOW)
        if step is None:
            return
        check(found.state, step.state, frozen=found.frozen)
        found = found.model_copy(update={"state": step.state})
    assert policy.next_state(found, NOW) is None


@given(cubes, policies, days)
def test_what_is_kept_is_kept(found: MemCube, policy: DecayPolicy, later: timedelta) -> None:
    at = NOW + later
    step = policy.next_state(found, at)
    expires = found.header.governance.expires_at
    over = expires is not None and expires <= at
    if found.frozen or found.state is State.EXPIRED:
        assert step is None
    elif over:
        assert step is not None
        assert step.state is State.EXPIRED
    elif found.header.governance.priority > 0 or found.semantic_type in policy.keep_types:
        assert step is None or step.state is State.ACTIVATED
    elif step is not None and step.state is not State.ACTIVATED:
        assert at - last_used(found) >= (
            policy.archive_after if found.state in LIVE else policy.expire_after  # type: ignore[operator]
        )


@given(st.sampled_from(State), st.sampled_from(State), st.booleans())
def test_frozen_goes_nowhere(old: State, new: State, frozen: bool) -> None:
    if new in LEGAL[old] and not frozen:
        check(old, new, frozen=frozen)
    else:
        with pytest.raises(InvalidArgument, match="frozen" if frozen else "cannot become"):
            check(old, new, frozen=frozen)


def test_merged_never_comes_back() -> None:
    assert State.MERGED not in LEGAL[State.ARCHIVED]
    assert State.ACTIVATED not in LEGAL[State.MERGED]
    assert LEGAL[State.EXPIRED] == frozenset()
