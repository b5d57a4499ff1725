"""Whose KV an engine holds in memory: the plan's input from the vault and the engine, and its result for both."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice

import numpy as np

from memos_core.activation.radix import Ids
from memos_core.cube import Activation, MemCube, Scope
from memos_core.scheduler.forest import Forest, Step
from memos_core.scheduler.interfaces import KV_NAMESPACE, Tiers
from memos_core.scheduler.placement import SMOLLM2_CPU, plan
from memos_core.scheduler.predictor import Forecast, GapPredictor, Predictor
from memos_core.vault import CubeFilter, Vault

KNOWN = 128
"""Scopes whose prefixes are weighed against each other."""

_TURNS = 256  # memories of each scope whose times are read from the vault
_SAME_TURN_S = 2.0  # what is written within this time belongs to one turn
_REMEMBERED = 4096  # scopes whose turns are remembered


def kv_records(vault: Vault, scope: Scope) -> list[tuple[MemCube, Activation]]:
    """The cubes that tell of KV computed for just this scope, each with its payload; one for each model."""
    found = vault.find(CubeFilter(scope, namespace=KV_NAMESPACE, kinds=["activation"]))
    return [(c, c.payload) for c in found if isinstance(c.payload, Activation) and c.scope == scope]


class Keeper:
    """Knows the turns and the resident prefixes of the scopes, and plans who is held where. Used by one thread.

    Args:
        vault: where the turns of former processes are read from, by the memories they wrote.
    """

    def __init__(self, vault: Vault, predictor: Predictor | None = None) -> None:
        self._vault = vault
        self._predictor = predictor or GapPredictor(capacity=_REMEMBERED)
        self._last: OrderedDict[Scope, tuple[str | None, float]] = OrderedDict()
        self._prefixes: OrderedDict[Scope, Ids] = OrderedDict()
        self._slow: deque[float] = deque([1.0], maxlen=16)
        self._costs = SMOLLM2_CPU

    # What happened

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
        at = max(at, before[1] if before else at)
        if before is None or before[0] != session or at - before[1] >= _SAME_TURN_S:
            self._predictor.observe(home, session, at)
        self._last[home] = session, at
        self._last.move_to_end(home)
        while len(self._last) > _REMEMBERED:
            self._last.popitem(last=False)

    def seen(self, homes: Sequence[Scope], at: float) -> list[tuple[datetime | None, Forecast]]:
        """When each scope's last turn was, and when the next is expected at this moment (POSIX seconds)."""
        last = [self._last[home][1] if home in self._last else None for home in homes]
        moments = [None if stamp is None else datetime.fromtimestamp(stamp, UTC) for stamp in last]
        return list(zip(moments, self._predictor.forecast(homes, at), strict=True))

    def begins_with(self, home: Scope, tokens: Sequence[int]) -> None:
        """The prompts of this scope's next session begin with these tokens."""
        self._prefixes[home] = np.asarray(tokens, dtype=np.int64)
        self._prefixes.move_to_end(home)
        while len(self._prefixes) > KNOWN:
            self._prefixes.popitem(last=False)

    def built(self, tokens: int, seconds: float) -> None:
        """So long it took to compute a prefix. Some begin with what was there: the slowest of the last ones
        tells what a token costs."""
        self._slow.append(seconds / SMOLLM2_CPU.prefill(0, tokens))
        pace = max(self._slow)
        self._costs = replace(
            self._costs, token_s=SMOLLM2_CPU.token_s * pace, position_s=SMOLLM2_CPU.position_s * pace
        )

    # What to do

    def plan(self, tiers: Tiers, at: float) -> list[Step]:
        """Decide who is held where, and tell the store whose KV goes first when a request needs room.

        Args:
            tiers: with its budgets and what it holds.
            at: POSIX seconds.
        """
        homes = list(islice(reversed(self._last), KNOWN))
        forecasts = dict(zip(homes, self._predictor.forecast(homes, at), strict=True))
        forest = Forest(forecasts, self._prefixes, tiers)
        costs = replace(self._costs, token_bytes=tiers.token_bytes or self._costs.token_bytes)
        memory = tiers.memory_budget + tiers.host_budget
        moves = plan(forest.segments(), memory=memory, disk=tiers.disk_budget, costs=costs)
        steps = forest.steps(moves)
        tiers.worth = forest.worth
        return steps
