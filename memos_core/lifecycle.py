"""MemLifecycle at work: lets the policy move cubes on, a page between turns, and deletes what expired."""

from __future__ import annotations

import logging
import time
from datetime import datetime, timedelta

from memos_core.cube import MemCube, State, now
from memos_core.errors import InvalidArgument
from memos_core.governance import LifecyclePolicy, Step
from memos_core.vault import Actor, Vault

log = logging.getLogger("memos_core")
_ACTOR = Actor("lifecycle", "memos")
_PAGE = 500
_EVERY = 10.0  # seconds between pages: a policy thinks in days


def _what_counts(cube: MemCube) -> tuple[object, ...]:
    return cube.version, cube.state, cube.frozen, cube.header.governance.expires_at


class MemLifecycle:
    """Applies a policy to a vault (MemOS paper, section 5.4).

    Args:
        policy: None: only a ttl moves cubes.
    """

    def __init__(self, vault: Vault, policy: LifecyclePolicy | None) -> None:
        self._vault = vault
        self.policy = policy
        self._after = 0  # where the next page begins
        self._paged = float("-inf")

    def sweep(self) -> list[MemCube]:
        """Expire what outlived its ttl, move a page of cubes as the policy says, and delete what has been expired
        for as long as the policy keeps it.

        Returns:
            What left the searches or the vault: KV caches made from it must go.
        """
        moment = now()
        gone: list[MemCube] = []
        late = self._vault.overdue(moment)
        if self.policy is not None and time.monotonic() - self._paged >= _EVERY:
            self._paged = time.monotonic()
            page, self._after = self._vault.page(self._after, _PAGE)
            late = [*late, *(c for c in page if c.id not in {x.id for x in late})]
        steps = {c.id: (c, step) for c in late if (step := self._step(c)) is not None}
        if steps:
            gone += self._apply(steps)
        keep: timedelta = getattr(self.policy, "keep_expired", timedelta(0))
        gone += self._vault.purge_expired(_ACTOR, now() - keep)
        return gone

    def _step(self, cube: MemCube) -> Step | None:
        moment = now()
        if cube.frozen or cube.state is State.EXPIRED:
            return None
        expires_at = cube.header.governance.expires_at
        if expires_at is not None and expires_at <= moment:  # whatever the policy thinks of it
            return Step(State.EXPIRED, f"its ttl passed at {expires_at.isoformat(timespec='seconds')}")
        return self._asked(cube, moment) if self.policy is not None else None

    def _asked(self, cube: MemCube, moment: datetime) -> Step | None:
        assert self.policy is not None
        try:
            step = self.policy.next_state(cube, moment)
        except Exception as err:  # somebody else's code: one cube stays as it is, loudly
            log.exception("the life-cycle policy failed for cube %s: %s", cube.id, err)
            return None
        if step is not None and not (isinstance(step, Step) and isinstance(step.state, State)):
            log.error(
                "the life-cycle policy must answer a Step or None, not %.80r; see LifecyclePolicy", step
            )
            return None
        return step

    def _apply(self, steps: dict[str, tuple[MemCube, Step]]) -> list[MemCube]:
        gone: list[MemCube] = []
        with self._vault.writing(_ACTOR) as writer:
            for cube in writer.get(steps).values():
                # The policy is not asked in here, where it must not use the vault: what was changed meanwhile waits.
                seen, step = steps[cube.id]
                if _what_counts(cube) != _what_counts(seen):
                    continue
                try:
                    moved = writer.transition([cube], step.state, step.cause)
                except InvalidArgument as err:
                    log.warning("the life-cycle policy asked for a step that is not legal: %s", err)
                    continue
                gone += [c for c in moved if step.state not in (State.ACTIVATED, State.GENERATED)]
        return gone
