"""Who comes next, and when: an estimate for each scope from the turns it had. Pure arithmetic, no I/O."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from memos_core.cube import Scope

Array = NDArray[np.float64]

_SHORTEST, _BINS = 4.0, 44  # the shortest gap that is told apart, in seconds; two bins for each doubling
_HORIZONS = np.array(
    [0, 30, 60, 120, 300, 600, 1200, 1800]
    + [3600 * h for h in (1, 1.5, 2, 3, 4, 6, 8, 12, 16, 20, 24, 36, 48, 96, 192, 384)]
)
_WIDTH = [1.0, 2.0]  # of one pause in the histogram, in bins: within a session, and before the next
_SMOOTH = ((-1, 0.25), (0, 0.5), (1, 0.25))
_DAY = 86_400.0


@dataclass(frozen=True)
class Chance:
    """How soon something is used.

    Args:
        rate: uses for each second that it is held, if it is held for as long as that pays: the largest, over
            how long to hold it, of (chance of a use) / (time until the use or the end of holding).
        chance: of a use within `SOON` seconds.
    """

    rate: float
    chance: float


SOON = 4 * 3600.0
NEVER = Chance(0.0, 0.0)


@dataclass(frozen=True)
class Forecast:
    """The next turn of a scope: `goes_on`, in the session it is in; `begins`, in another; `comes`, in either."""

    goes_on: Chance
    begins: Chance
    comes: Chance


class Predictor(Protocol):
    """Learns from turns as they end and says who comes next. It never sees what is said in them."""

    def observe(self, scope: Scope, session: str | None, at: float) -> None:
        """A turn of this scope ended. Turns come in order of time for each scope.

        Args:
            scope: tenant, user and agent.
            session: the turn's conversation.
            at: POSIX seconds.
        """
        ...

    def forecast(self, scopes: Sequence[Scope], at: float) -> list[Forecast]:
        """The next turn of each scope, as it looks at this moment; of one never seen, nothing is expected."""
        ...


class GapPredictor:
    """Ours. The time to a scope's next turn is a mixture: the pause within a session, and the pause to the next
    session. Of each it keeps a histogram of pauses on a logarithmic scale, and of the hours at which sessions begin;
    all are drawn towards those of all scopes together while a scope has few turns, and forget the distant past.

    Args:
        capacity: scopes that are kept, each some 1 KB; the one that was not seen longest goes.
        prior: how many pauses of its own weigh as much as what is known of all scopes.
    """

    def __init__(self, *, capacity: int = 4096, prior: float = 3.0, forget: float = 0.03) -> None:
        self._prior, self._keep, self._capacity = prior, 1.0 - forget, capacity
        self._rows: OrderedDict[Scope, int] = OrderedDict()
        self._gaps = np.zeros((0, 2, _BINS))  # of each row: pauses within a session, and before the next
        self._hours = np.zeros((0, 24))
        self._turns = np.zeros((0, 2))  # how many went on, how many began
        self._last = np.zeros(0)
        self._sessions: list[str | None] = []
        self._all_gaps = np.full((2, _BINS), 1.0 / _BINS)
        self._all_hours = np.full(24, 1.0)
        self._all_turns = np.ones(2)

    def observe(self, scope: Scope, session: str | None, at: float) -> None:
        """See `Predictor.observe`."""
        row = self._rows.get(scope)
        began = row is None or self._sessions[row] != session
        if row is None:
            row = self._new_row(scope)
        else:
            gap, kind = max(at - self._last[row], _SHORTEST), int(began)
            middle = float(_position(np.array(gap)))
            self._gaps[row, kind] *= self._keep
            self._turns[row] *= self._keep
            self._turns[row, kind] += 1
            self._all_turns[kind] += 1
            spread = np.exp(-(((np.arange(_BINS) + 0.5 - middle) / _WIDTH[kind]) ** 2) / 2)
            spread /= spread.sum()
            self._gaps[row, kind] += spread
            self._all_gaps[kind] += spread
        if began:
            hour = int(at % _DAY // 3600)
            self._hours[row] *= self._keep
            for offset, weight in _SMOOTH:
                self._hours[row, (hour + offset) % 24] += weight
                self._all_hours[(hour + offset) % 24] += weight
        self._last[row] = at
        self._sessions[row] = session
        self._rows.move_to_end(scope)

    def _new_row(self, scope: Scope) -> int:
        """A row of zeros: a new one, or that of the scope which was not seen longest."""
        if len(self._rows) >= self._capacity:
            _, row = self._rows.popitem(last=False)
        else:
            row = len(self._rows)
            if row == len(self._last):
                more = max(64, row)
                self._gaps = np.concatenate([self._gaps, np.zeros((more, 2, _BINS))])
                self._hours = np.concatenate([self._hours, np.zeros((more, 24))])
                self._turns = np.concatenate([self._turns, np.zeros((more, 2))])
                self._last = np.concatenate([self._last, np.zeros(more)])
                self._sessions += [None] * more
        for array in (self._gaps, self._hours, self._turns):
            array[row] = 0.0
        self._rows[scope] = row
        return row

    def forecast(self, scopes: Sequence[Scope], at: float) -> list[Forecast]:
        """See `Predictor.forecast`."""
        known = [scope for scope in scopes if scope in self._rows]
        found = dict(zip(known, self._forecast([self._rows[s] for s in known], at), strict=True))
        return [found.get(scope, Forecast(NEVER, NEVER, NEVER)) for scope in scopes]

    def _forecast(self, rows: list[int], at: float) -> list[Forecast]:
        if not rows:
            return []
        left = self._survival(rows, np.maximum(at - self._last[rows], 0.0)[:, None] + _HORIZONS)
        total = np.maximum(left.sum(axis=1), 1e-12)
        hazard = (left[:, :, :-1] - left[:, :, 1:]) / total[:, None, :-1]  # of each kind, in each interval
        hazard[:, 1] = np.minimum(hazard[:, 1] * self._busy(rows, at), 1.0 - hazard[:, 0])
        waits = np.cumprod(1.0 - hazard.sum(axis=1), axis=1)
        waits = np.concatenate([np.ones((len(rows), 1)), waits], axis=1)
        chances = np.cumsum(waits[:, None, :-1] * hazard, axis=2)
        held = np.cumsum((waits[:, :-1] + waits[:, 1:]) / 2 * np.diff(_HORIZONS), axis=1)
        either = np.concatenate([chances, chances.sum(axis=1, keepdims=True)], axis=1)
        rates = either / held[:, None]
        soon = int(np.searchsorted(_HORIZONS[1:], SOON))
        columns = rates.max(axis=2).tolist(), either[:, :, soon].tolist()
        return [Forecast(*map(Chance, *parts)) for parts in zip(*columns, strict=True)]

    def _survival(self, rows: list[int], pauses: Array) -> Array:
        """[row, kind, pause]: the chance that the next turn is of this kind and comes after this pause."""
        everyone = self._all_gaps / self._all_gaps.sum(axis=1, keepdims=True)
        own = self._gaps[rows] + self._prior * everyone
        share = self._turns[rows] + self._prior * self._all_turns / self._all_turns.sum()
        own *= (share / share.sum(axis=1, keepdims=True) / own.sum(axis=2))[:, :, None]
        after = own[:, :, ::-1].cumsum(axis=2)[:, :, ::-1]  # this bin and later ones
        after = np.concatenate([after, np.zeros((*after.shape[:2], 1))], axis=2)
        position = _position(pauses)
        bin_ = np.minimum(position.astype(np.intp), _BINS - 1)
        part = np.clip(position - bin_, 0.0, 1.0)[:, None]
        index = np.repeat(bin_[:, None], 2, axis=1)
        here, there = np.take_along_axis(after, index, 2), np.take_along_axis(after, index + 1, 2)
        survival: Array = here + (there - here) * part
        return survival

    def _busy(self, rows: list[int], at: float) -> Array:
        """[row, interval]: how much likelier a session begins in these hours than on average."""
        everyone = self._all_hours / self._all_hours.sum()
        own = self._hours[rows] + 2 * self._prior * everyone
        own *= 24 / own.sum(axis=1, keepdims=True)
        until = np.concatenate([np.zeros((len(rows), 1)), own.cumsum(axis=1)], axis=1)
        hours = (at % _DAY + _HORIZONS) / 3600
        hour = hours.astype(np.intp)
        passed = hour // 24 * 24.0 + until[:, hour % 24] + own[:, hour % 24] * (hours - hour)
        mean: Array = np.diff(passed, axis=1) / np.diff(hours)
        return mean


class LastSeen:
    """The plain order of use: who was here last is expected first."""

    def __init__(self) -> None:
        self._last: dict[Scope, float] = {}

    def observe(self, scope: Scope, session: str | None, at: float) -> None:
        """See `Predictor.observe`."""
        self._last[scope] = at

    def forecast(self, scopes: Sequence[Scope], at: float) -> list[Forecast]:
        """See `Predictor.forecast`."""
        return [_same(1.0 / (1.0 + at - self._last[s]) if s in self._last else 0.0) for s in scopes]


class Frequency:
    """Who comes often is expected first: turns counted with a half-life.

    Args:
        half_life: seconds after which a turn counts half.
    """

    def __init__(self, half_life: float = 7 * _DAY) -> None:
        self._half_life = half_life
        self._counts: dict[Scope, tuple[float, float]] = {}

    def observe(self, scope: Scope, session: str | None, at: float) -> None:
        """See `Predictor.observe`."""
        self._counts[scope] = (self._faded(scope, at) + 1.0, at)

    def forecast(self, scopes: Sequence[Scope], at: float) -> list[Forecast]:
        """See `Predictor.forecast`."""
        return [_same(self._faded(s, at) / self._half_life) for s in scopes]

    def _faded(self, scope: Scope, at: float) -> float:
        count, last = self._counts.get(scope, (0.0, at))
        return count * float(0.5 ** (max(at - last, 0.0) / self._half_life))


def _same(rate: float) -> Forecast:
    """A forecast that tells no session from another."""
    chance = Chance(rate, min(1.0, rate * SOON))
    return Forecast(chance, chance, chance)


def _position(pauses: Array) -> Array:
    """Where pauses lie on the scale of the histogram, in bins."""
    scale: Array = 2.0 * np.log2(np.maximum(pauses, _SHORTEST) / _SHORTEST)
    return np.minimum(scale, _BINS)
