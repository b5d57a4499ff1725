"""What the scheduler would say of each scope now, read from the vault alone: by any process, with no model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from memos_core.cube import Activation, now
from memos_core.scheduler.keeper import KNOWN, Keeper, kv_records
from memos_core.scheduler.predictor import Forecast
from memos_core.vault import Plan, Vault


@dataclass(frozen=True)
class Outlook:
    """A scope's resident memory, its KV on record, and when its next turn is expected.

    Args:
        plan: the current one. last_turn: when something of the scope was last written; None if nothing is left.
        forecast: as of now; each chance is of a turn within `predictor.SOON` seconds.
        kv: one cube's payload for each model that the prefix was computed with.
    """

    plan: Plan
    last_turn: datetime | None
    forecast: Forecast
    kv: tuple[Activation, ...]


def outlook(
    vault: Vault,
    tenant: str,
    *,
    user: str | None = None,
    agent: str | None = None,
    at: datetime | None = None,
) -> Iterator[Outlook]:
    """The scopes of a tenant that were planned for, the most recently planned first, at most `keeper.KNOWN`.

    Args:
        user, agent: only this one's; None is everybody's. at: the moment to look from; None is now.
    """
    keeper, moment = Keeper(vault), at or now()
    plans = vault.plans.recent(KNOWN, tenant=tenant)
    for plan in reversed(plans):  # all: what is usual for everybody counts for each
        keeper.learn(plan.scope)
    seen = keeper.seen([plan.scope for plan in plans], moment.timestamp())
    for plan, (last, forecast) in zip(plans, seen, strict=True):
        if user in (None, plan.scope.user) and agent in (None, plan.scope.agent):
            yield Outlook(plan, last, forecast, tuple(kv for _, kv in kv_records(vault, plan.scope)))
