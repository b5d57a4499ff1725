"""`memos scheduler explain`: who is expected next, what is resident and why, read from the vault."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import islice
from typing import Any

import click
from rich.text import Text

from memos_core.cli_common import STAMP, opened
from memos_core.cube import ANY_USER, now
from memos_core.memos import MemOS
from memos_core.render import console, cube_table, size, table, whose
from memos_core.scheduler import Outlook, outlook
from memos_core.scheduler.predictor import SOON

_WITHIN = f"within {SOON / 3600:.0f} h"


@click.group()
def scheduler() -> None:
    """What the MemScheduler expects and prepares."""


@scheduler.command()
@click.option(
    "--user", default=ANY_USER, help="Only this user's scopes, with their resident memories and a timeline."
)
@click.option("--agent", help="Only this agent's.")
@click.option(
    "--limit", default=32, show_default=True, type=click.IntRange(1, 128), help="How many scopes at most."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per scope.")
@click.pass_context
def explain(context: click.Context, user: str, agent: str | None, limit: int, as_json: bool) -> None:
    """Who is expected next, what stands resident in front of whose prompts, and why."""
    with opened(context, user) as memos:
        found = outlook(memos.vault, memos.scope.tenant, user=None if user == ANY_USER else user, agent=agent)
        which = list(islice(found, limit))
        if as_json:
            for one in which:
                click.echo(json.dumps(_plain(one), ensure_ascii=False))
            return
        _show(which)
        if user != ANY_USER:
            for one in which:
                _show_resident(memos, one)
            _show_timeline(memos)


def _show(outlooks: list[Outlook]) -> None:
    if not outlooks:
        click.echo("no plan yet: the scheduler plans a scope after its first turn")
        return
    right = ["memories", "KV tokens", "KV size", "goes on", "begins"]
    made = table(
        f"Expected {_WITHIN}, as of {now():{STAMP}} UTC",
        "whose",
        "last turn",
        "goes on",
        "begins",
        "memories",
        "KV tokens",
        "KV size",
        "planned",
        "why these",
        right=right,
    )
    for one in outlooks:
        made.add_row(
            Text(whose(one.plan.scope)),
            f"{one.last_turn:{STAMP}}" if one.last_turn else "-",
            f"{one.forecast.goes_on.chance:.0%}",
            f"{one.forecast.begins.chance:.0%}",
            str(len(one.plan.cube_ids)),
            f"{sum(kv.n_tokens for kv in one.kv):,}" if one.kv else "-",
            size(sum(kv.nbytes for kv in one.kv)) if one.kv else "-",
            f"{one.plan.planned_at:{STAMP}}",
            Text(one.plan.reason),
        )
    console().print(made)


def _show_resident(memos: MemOS, one: Outlook) -> None:
    """The memories in prompt order, as a new session would get them now."""
    console().print(
        cube_table(
            memos.scheduler.resident(one.plan.scope), f"Resident for {whose(one.plan.scope)}, in prompt order"
        )
    )


def _show_timeline(memos: MemOS) -> None:
    made = table("What the scheduler did, newest first", "at", "did", "memory", "because")
    for record in memos.audit_log(adapter="scheduler", limit=50):
        made.add_row(f"{record.at:{STAMP}}", record.action, record.cube_id[-8:], Text(record.detail))
    console().print(made)


def _plain(one: Outlook) -> dict[str, Any]:
    scope = one.plan.scope
    return {
        "user": scope.user,
        "agent": scope.agent,
        "last_turn": one.last_turn.isoformat() if one.last_turn else None,
        "forecast": asdict(one.forecast),
        "memories": list(one.plan.cube_ids),
        "reason": one.plan.reason,
        "planned_at": one.plan.planned_at.isoformat(),
        "kv": [{"model": kv.model, "tokens": kv.n_tokens, "bytes": kv.nbytes} for kv in one.kv],
    }
