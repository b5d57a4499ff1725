"""Whose KV an engine holds in memory: the plan's input from the vault and the engine, and its result for both."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from memos_core.activation.keys import salt_for
from memos_core.cube import Activation, MemCube, Scope
from memos_core.scheduler.interfaces import KV_NAMESPACE, Tiers
from memos_core.scheduler.placement import SMOLLM2_CPU, Move, Segment, plan
from memos_core.scheduler.predictor import Forecast, GapPredictor, Predictor
from memos_core.vault import CubeFilter, Vault

KNOWN = 128
"""Scopes whose prefixes are weighed against each other."""

_TURNS = 256  # memories of each scope whose times are read from the vault
_SAME_TURN_S = 2.0  # what is written within this time belongs to one turn


@dataclass(frozen=True)
class Placed:
    """A move, and what it is about: a scope's resident prefix, or the conversations behind it."""

    scope: Scope
    move: Move
    resident: bool


def kv_records(vault: Vault, scope: Scope) -> list[tuple[MemCube, Activation]]:
    """The cubes that tell of KV computed for just this scope, each with its payload; one for each model."""
    found = vault.find(CubeFilter(scope, namespace=KV_NAMESPACE, kinds=["activation"]))
    return [(c, c.payload) for c in found if isinstance(c.payload, Activation) and c.scope == scope]


class Keeper:
    """Knows the turns and the prefix lengths of the scopes, and plans who is held where. Used by one thread.

    Args:
        vault: where the turns of former processes are read from, by the memories they wrote.
    """

    def __init__(self, vault: Vault, predictor: Predictor | None = None) -> None:
        self._vault = vault
        self._predictor = predictor or GapPredictor(capacity=KNOWN)
        self._last: OrderedDict[Scope, tuple[str | None, float]] = OrderedDict()
        self._tokens: dict[Scope, tuple[int, bool]] = {}
        self._slow: deque[float] = deque([1.0], maxlen=16)
        self._costs = SMOLLM2_CPU

    def turn(self, scope: Scope, home: Scope, at: float) -> None:
        """A turn of this scope ended."""
        self.learn(home)
        self._observe(home, scope.session, at)

    def learn(self, home: Scope) -> None:
        """Take in the turns that the vault tells of, unless this scope is known."""
        if home in self._last:
            return
        latest = time.time()  # a memory may claim to be of the future
        for session, at in self._vault.plans.moments(home, _TURNS):
            self._observe(home, session, min(at.timestamp(), latest))

    def _observe(self, home: Scope, session: str | None, at: float) -> None:
        before = self._last.get(home)
        if before is None or before[0] != session or at - before[1] >= _SAME_TURN_S:
            self._predictor.observe(home, session, max(at, before[1] if before else at))
        self._last[home] = session, max(at, before[1] if before else at)
        self._last.move_to_end(home)
        while len(self._last) > KNOWN:
            gone, _ = self._last.popitem(last=False)
            self._tokens.pop(gone, None)

    def seen(self, homes: Sequence[Scope], at: float) -> list[tuple[datetime | None, Forecast]]:
        """When each scope's last turn was, and when the next is expected at this moment (POSIX seconds)."""
        last = [self._last[home][1] if home in self._last else None for home in homes]
        moments = [None if stamp is None else datetime.fromtimestamp(stamp, UTC) for stamp in last]
        return list(zip(moments, self._predictor.forecast(homes, at), strict=True))

    def sized(self, home: Scope, tokens: int, *, on_disk: bool, token_bytes: int | None = None) -> None:
        """This scope's resident prefix has so many tokens; a token's KV takes so many bytes, where that is known."""
        self._tokens[home] = tokens, on_disk
        if token_bytes:
            self._costs = replace(self._costs, token_bytes=token_bytes)

    def built(self, tokens: int, seconds: float) -> None:
        """So long it took to compute a prefix. Some begin with what was there: the slowest of the last ones
        tells what a token costs."""
        self._slow.append(seconds / SMOLLM2_CPU.prefill(0, tokens))
        pace = max(self._slow)
        self._costs = replace(
            self._costs, token_s=SMOLLM2_CPU.token_s * pace, position_s=SMOLLM2_CPU.position_s * pace
        )

    def plan(self, tiers: Tiers, at: float) -> list[Placed]:
        """Decide who is held where, and tell the store whose KV goes first when a request needs room.

        Args:
            tiers: with its budgets and what it holds.
            at: POSIX seconds.
        """
        homes = [home for home in reversed(self._last) if home in self._tokens]
        forecasts = dict(zip(homes, self._predictor.forecast(homes, at), strict=True))
        left = {salt: nbytes // self._costs.token_bytes for salt, nbytes in tiers.usage().items()}
        worth: dict[str, float] = {}
        placed: dict[str, tuple[Scope, Segment]] = {}
        for n, home in enumerate(homes):  # the most recent first: what its owner holds is mostly its
            salt, forecast = salt_for(home), forecasts[home]
            worth[salt] = max(worth.get(salt, 0.0), forecast.comes.rate)
            tokens, on_disk = self._tokens[home]
            there = min(tokens, left.get(salt, 0))
            behind = left.pop(salt, 0) - there
            comes, goes_on = forecast.comes, forecast.goes_on
            resident = Segment(
                f"{n}", None, 0, tokens, comes.rate, comes.chance, there, tokens if on_disk else 0
            )
            placed[resident.key] = home, resident
            if behind > 0:
                talk = Segment(
                    f"{n} talk", resident.key, tokens, behind, goes_on.rate, goes_on.chance, behind
                )
                placed[talk.key] = home, talk
        moves = plan(
            [segment for _, segment in placed.values()],
            memory=tiers.memory_budget,
            disk=tiers.disk_budget,
            costs=self._costs,
        )
        tiers.worth = lambda salt: worth.get(salt, 0.0)
        return [Placed(placed[move.segment.key][0], move, move.segment.parent is None) for move in moves]
