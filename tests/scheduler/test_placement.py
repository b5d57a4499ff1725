"""Which prefixes are held where: the rules of `plan`, on random trees of prefixes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memos_core.errors import InvalidArgument
from memos_core.scheduler import Costs, Move, Segment, plan

COSTS = Costs(token_s=0.004, position_s=1e-6, load_s=1e-9, open_s=0.01, token_bytes=10)


@st.composite
def trees(draw: st.DrawFn) -> list[Segment]:
    """Chains that share beginnings, partly held, of which each segment is used no more than the one in front."""
    made: list[Segment] = []
    for n in range(draw(st.integers(0, 10))):
        parent = draw(st.sampled_from([None, *made]))
        tokens = draw(st.integers(1, 600))
        rate = draw(st.floats(0, parent.rate if parent else 1))
        held = st.sampled_from([0, tokens, tokens // 2])
        made.append(
            Segment(
                key=f"s{n}",
                parent=parent.key if parent else None,
                start=parent.start + parent.tokens if parent else 0,
                tokens=tokens,
                rate=rate,
                chance=draw(st.floats(0, 1)),
                in_memory=draw(held),
                on_disk=draw(held),
            )
        )
    return made


BUDGETS = st.integers(0, 20_000)


def placed(moves: Sequence[Move]) -> dict[str, Move]:
    return {m.segment.key: m for m in moves}


def root(key: str, tokens: int = 100, rate: float = 1.0, **more: float) -> Segment:
    return Segment(key, None, 0, tokens, rate, **more)  # type: ignore[arg-type]


@given(trees(), BUDGETS, BUDGETS)
def test_no_tier_is_ever_over_its_budget(segments: list[Segment], memory: int, disk: int) -> None:
    moves = plan(segments, memory=memory, disk=disk, costs=COSTS)
    assert sorted(placed(moves)) == sorted(s.key for s in segments)
    in_memory = sum(m.tokens for m in moves if m.tier == "memory")
    on_disk = sum(m.tokens for m in moves if m.tier == "disk") + sum(m.also_on_disk for m in moves)
    assert in_memory * COSTS.token_bytes <= memory
    assert on_disk * COSTS.token_bytes <= disk
    assert all(m.tokens <= m.segment.tokens for m in moves)


@given(trees(), BUDGETS, BUDGETS)
def test_nothing_is_held_without_what_stands_in_front_of_it(
    segments: list[Segment], memory: int, disk: int
) -> None:
    moves = placed(plan(segments, memory=memory, disk=disk, costs=COSTS))
    for move in moves.values():
        if move.tokens and move.segment.parent is not None:
            front = moves[move.segment.parent]
            assert front.tokens == front.segment.tokens
            assert front.tier == "memory" or move.tier == "disk"


@given(trees(), BUDGETS, BUDGETS)
def test_ends_leave_before_beginnings_and_beginnings_come_before_ends(
    segments: list[Segment], memory: int, disk: int
) -> None:
    moves = plan(segments, memory=memory, disk=disk, costs=COSTS)
    order = {m.segment.key: n for n, m in enumerate(moves)}
    leaves = {m.segment.key for m in moves if m.leaves}
    assert leaves >= {m.segment.key for m in moves if m.segment.in_memory and m.tier != "memory"}
    assert {
        m.segment.key for m in moves[: len(leaves)]
    } == leaves  # nothing comes before there is room for it
    for move in moves:
        key, front = move.segment.key, move.segment.parent
        if front is None:
            continue
        if {key, front} <= leaves:
            assert order[key] < order[front]
        elif key not in leaves and front not in leaves and move.tokens:
            assert order[front] < order[key]


@given(trees(), BUDGETS, BUDGETS, st.randoms())
def test_the_order_of_the_input_changes_nothing(
    segments: list[Segment], memory: int, disk: int, random: object
) -> None:
    shuffled = list(segments)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert plan(segments, memory=memory, disk=disk, costs=COSTS) == plan(
        shuffled, memory=memory, disk=disk, costs=COSTS
    )


@given(trees(), st.integers(0, 2000))
def test_a_plan_that_was_carried_out_stays(segments: list[Segment], memory: int) -> None:
    first = placed(plan(segments, memory=memory, disk=0, costs=COSTS))
    done = [
        replace(s, in_memory=first[s.key].tokens if first[s.key].tier == "memory" else 0, on_disk=0)
        for s in segments
    ]
    again = placed(plan(done, memory=memory, disk=0, costs=COSTS))
    whole = {k for k, m in first.items() if m.tokens == m.segment.tokens}
    assert all(again[k].tokens == first[k].tokens for k in whole)


@given(st.floats(0.001, 1), st.floats(0.001, 1), st.integers(1, 500))
def test_the_likelier_of_two_alike_is_held(one: float, other: float, tokens: int) -> None:
    moves = placed(
        plan(
            [root("one", tokens, one), root("other", tokens, other)],
            memory=tokens * COSTS.token_bytes,
            disk=0,
            costs=COSTS,
        )
    )
    assert moves["one" if one >= other else "other"].tier == "memory"
    assert moves["other" if one >= other else "one"].tokens == 0


def test_the_dearer_to_compute_of_two_equally_likely_is_held() -> None:
    # A long prefix costs more a token: each token attends to all before it.
    moves = placed(
        plan([root("short", 1000), root("long", 3000)], memory=3000 * 10, disk=1000 * 10, costs=COSTS)
    )
    assert (moves["long"].tier, moves["short"].tier) == ("memory", "disk")


def test_a_valuable_end_carries_its_beginning_along() -> None:
    chain = [root("a", 500, 0.02), Segment("b", "a", 500, 1500, 0.02)]
    rival = root("x", 500, 0.023)
    moves = placed(plan([*chain, rival], memory=2000 * 10, disk=0, costs=COSTS))
    assert (moves["a"].tier, moves["b"].tier) == ("memory", "memory")
    assert moves["x"].tier == "none"


def test_what_is_held_gives_way_to_the_much_better_only() -> None:
    held = root("held", rate=1.0, in_memory=100)
    for rate, stays in ((1.1, True), (2.0, False)):
        moves = placed(plan([held, root("new", rate=rate)], memory=1000, disk=0, costs=COSTS))
        assert (moves["held"].tier == "memory") is stays
        assert moves["held"].action == ("keep" if stays else "drop")


def test_the_unlikely_is_kept_but_not_computed() -> None:
    moves = placed(
        plan(
            [root("there", rate=1e-6, chance=0.01, on_disk=100), root("not", rate=1e-6, chance=0.01)],
            memory=10_000,
            disk=10_000,
            costs=COSTS,
        )
    )
    assert (moves["there"].action, moves["not"].action, moves["not"].tokens) == ("load", "keep", 0)


def test_a_segment_is_cut_to_the_room_there_is() -> None:
    [move] = plan([root("long", 1000)], memory=400 * 10, disk=300 * 10, costs=COSTS)
    assert (move.tier, move.tokens, move.action) == ("memory", 400, "build")
    assert "first 400 of 1,000 tokens" in move.reason


def test_every_move_has_a_reason() -> None:
    segments = [
        root("now", 500, 1.0, chance=0.9),
        Segment("behind", "now", 500, 1000, 0.9),
        root("later", 500, 0.1, on_disk=500),
        root("never", 500, 0.0, in_memory=500),
        Segment("orphan", "gone", 10, 10, 1.0),
    ]
    moves = placed(plan(segments, memory=1500 * 10, disk=500 * 10, costs=COSTS))
    assert {k: m.action for k, m in moves.items()} == {
        "now": "build",
        "behind": "build",
        "later": "keep",
        "never": "drop",
        "orphan": "keep",
    }
    assert moves["now"].reason == (
        "90% chance of a use within 4 hours, which would save 2.1 s of prefill: in memory, among the best for its bytes"
    )
    assert all("prefill: " in m.reason and not m.reason.endswith(": ") for m in moves.values())


@pytest.mark.parametrize(
    ("segments", "budgets", "complaint"),
    [
        ([], (-1, 0), "bytes"),
        ([], (0, -1), "bytes"),
        ([root("a"), root("a")], (0, 0), "key of their own"),
        ([root("a", 0)], (0, 0), "at least one token"),
    ],
)
def test_bad_input_is_refused(segments: list[Segment], budgets: tuple[int, int], complaint: str) -> None:
    with pytest.raises(InvalidArgument, match=complaint):
        plan(segments, memory=budgets[0], disk=budgets[1], costs=COSTS)
