"""Who comes next: the predictors on patterns that a person sees at once."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memos_core.cube import Scope
from memos_core.scheduler import Forecast, Frequency, GapPredictor, LastSeen, Predictor

HOUR, DAY = 3600.0, 86_400.0
MAYA, BEN = Scope(user="maya"), Scope(user="ben")


def visit(predictor: Predictor, scope: Scope, at: float, turns: int = 5) -> float:
    """A session of turns a minute apart; returns the time of the last."""
    for n in range(turns):
        predictor.observe(scope, f"{at}", at + 60 * n)
    return at + 60 * (turns - 1)


def look(predictor: Predictor, scope: Scope, at: float) -> Forecast:
    [forecast] = predictor.forecast([scope], at)
    return forecast


def test_a_session_goes_on_or_is_over() -> None:
    predictor = GapPredictor()
    for day in range(14):
        end = visit(predictor, MAYA, day * DAY + 9 * HOUR)
    during, after = look(predictor, MAYA, end + 20), look(predictor, MAYA, end + HOUR)
    assert during.goes_on.chance > 0.6
    assert after.goes_on.chance < 0.1
    assert during.goes_on.rate > 100 * after.goes_on.rate


def test_usual_hours_are_learnt() -> None:
    predictor = GapPredictor()
    for day in range(14):
        visit(predictor, MAYA, day * DAY + 9 * HOUR)
    rates = {h: look(predictor, MAYA, 14 * DAY + h * HOUR).begins.rate for h in (1, 4, 8.9)}
    assert rates[8.9] > 3 * rates[4] > 3 * rates[1]
    assert look(predictor, MAYA, 14 * DAY + 8.9 * HOUR).begins.chance > 0.5


def test_who_comes_often_is_expected_before_who_comes_rarely() -> None:
    predictor = GapPredictor()
    for day in range(28):
        visit(predictor, MAYA, day * DAY + 9 * HOUR)
        if day % 7 == 0:
            visit(predictor, BEN, day * DAY + 9 * HOUR)
    maya, ben = predictor.forecast([MAYA, BEN], 28 * DAY + 8 * HOUR)
    assert maya.begins.chance > ben.begins.chance


def test_a_new_habit_replaces_the_old() -> None:
    predictor = GapPredictor()
    for day in range(60):
        visit(predictor, MAYA, day * DAY + (9 if day < 20 else 18) * HOUR)
    morning, evening = (look(predictor, MAYA, 60 * DAY + h * HOUR).begins for h in (8.8, 17.8))
    assert evening.rate > 3 * morning.rate


def test_who_has_few_turns_is_expected_as_others_are() -> None:
    predictor = GapPredictor()
    for day in range(14):
        for n in range(5):
            visit(predictor, Scope(user=f"user {n}"), day * DAY + (8 + n) * HOUR)
    end = visit(predictor, MAYA, 14 * DAY, turns=1)
    assert look(predictor, MAYA, end + 20).goes_on.chance > 0.5
    assert look(predictor, BEN, end) == look(GapPredictor(), BEN, 0)
    assert look(predictor, BEN, end).comes.rate == 0


def test_it_keeps_no_more_scopes_than_it_may() -> None:
    predictor = GapPredictor(capacity=3)
    scopes = [Scope(user=f"user {n}") for n in range(5)]
    for n, scope in enumerate([*scopes[:3], scopes[0], *scopes[3:]]):
        visit(predictor, scope, n * HOUR)
    known = [f.comes.rate > 0 for f in predictor.forecast(scopes, 6 * HOUR)]
    assert known == [True, False, False, True, True]
    # A row that is used again has nothing of who had it before.
    fresh = GapPredictor(capacity=3)
    for other in (predictor, fresh):
        visit(other, MAYA, DAY)
    assert look(predictor, MAYA, DAY + HOUR).comes.rate > 0


TURNS = st.lists(st.tuples(st.sampled_from([MAYA, BEN]), st.integers(0, 3), st.floats(0, 1e6)), max_size=30)


@given(TURNS, st.floats(0, 1e7), st.sampled_from([GapPredictor, LastSeen, Frequency]))
def test_forecasts_are_chances_and_the_same_after_a_replay(
    turns: list[tuple[Scope, int, float]], later: float, kind: type[Predictor]
) -> None:
    one, again = kind(), kind()
    at = 0.0
    for predictor in (one, again):
        at = 0.0
        for scope, session, pause in turns:
            at += pause
            predictor.observe(scope, f"{session}", at)
    forecasts = one.forecast([MAYA, BEN], at + later)
    assert forecasts == again.forecast([MAYA, BEN], at + later)
    for forecast in forecasts:
        for chance in (forecast.goes_on, forecast.begins, forecast.comes):
            assert 0 <= chance.chance <= 1 + 1e-9
            assert chance.rate >= 0
            assert math.isfinite(chance.rate)
        assert forecast.comes.rate >= max(forecast.goes_on.rate, forecast.begins.rate) - 1e-9


@pytest.mark.parametrize(("kind", "first"), [(LastSeen, BEN), (Frequency, MAYA)])
def test_the_simple_ones_order_by_their_one_rule(kind: type[Predictor], first: Scope) -> None:
    predictor = kind()
    for n in range(3):
        predictor.observe(MAYA, None, n * HOUR)
    predictor.observe(BEN, None, 3 * HOUR)
    maya, ben = predictor.forecast([MAYA, BEN], 4 * HOUR)
    assert (ben.comes.rate > maya.comes.rate) is (first == BEN)
