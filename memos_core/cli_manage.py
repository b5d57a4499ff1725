"""`memos …` to govern a vault: life cycle, versions, grants, the log, erasure, backups and repairs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from memos_core.cli_common import STAMP, by_id, date, id_ending, opened, owners_view
from memos_core.cube import ANY_USER, MemCube
from memos_core.errors import InvalidArgument, VaultError
from memos_core.memos import MemOS
from memos_core.render import console, cube_type, summary, table
from memos_core.vault import Right, locate
from memos_core.vault.copies import copy_vault

# -- erasure -------------------------------------------------------------------------------------------------


@click.command()
@click.option("--user", help="Everything of this user.")
@click.option("--no-user", is_flag=True, help="Everything that belongs to no user.")
@click.option("--agent", help="Of that, only what this agent keeps.")
@click.option("--session", help="Of that, only this session.")
@click.option("--id", "ids", multiple=True, help="This memory and what was derived from it. May be repeated.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--verify/--no-verify", default=True, show_default=True, help="Search the files afterwards.")
@click.pass_context
def erase(
    context: click.Context,
    user: str | None,
    no_user: bool,
    agent: str | None,
    session: str | None,
    ids: tuple[str, ...],
    yes: bool,
    verify: bool,
) -> None:
    """Forget for good, in every file, and search the files for what is left. Exit code 1 if anything is."""
    if bool(ids) + bool(user) + no_user != 1:
        raise InvalidArgument("name either --user, --no-user, or --id")
    if ids and (agent or session):
        raise InvalidArgument("--agent and --session narrow --user; leave them out with --id")
    with opened(context, ANY_USER if ids else user) as memos:
        view = memos if ids else memos.scoped(agent=agent, session=session)
        chosen = [id_ending(memos, part) for part in ids]
        if not yes:
            click.confirm(_question(view, chosen), abort=True)
        done = view.erase(chosen if ids else None, verify=verify)
        click.echo(f"erased: {len(done.ids)} memories, {len(done.threads)} threads")
        if done.note:
            click.echo(done.note)
        if not verify:
            return
        click.echo(
            f"searched the files for {done.checked} texts and vectors of them; {done.skipped} prove nothing (too "
            f"short, or said by others too); found: {len(done.traces)}"
        )
        found = table("", "file", "what", "memory", "at", right=["at"])
        for trace in done.traces:
            found.add_row(trace.file, trace.what, trace.cube_id[-8:], f"{trace.at:,}")
    if done.traces:
        console().print(found)
        sys.exit(1)


def _question(view: MemOS, chosen: Sequence[str]) -> str:
    if not chosen:
        n = len(view.find(states=None))
        return f"Erase everything of {view.scope}, {n:,} memories, for good?"
    for id_ in chosen:
        try:
            cube = by_id(view, id_)
            click.echo(f"{id_[-8:]}  {cube_type(cube)}  {summary(cube, width=100)}")
        except VaultError as err:  # what is damaged can be erased
            click.echo(f"{id_[-8:]}  {err}")
    return f"Erase {len(chosen)} memories and what was derived from them, for good?"


@click.command()
@click.argument("texts", nargs=-1, required=True)
@click.pass_context
def trace(context: click.Context, texts: tuple[str, ...]) -> None:
    """Search the vault's rows and raw files for texts. Exit code 1 if one is found."""
    with opened(context) as memos:
        traces = memos.trace(texts)
    if not traces:
        click.echo("not found in any row or file")
        return
    found = table("", "where", "at", "text", right=["at"])
    for each in traces:
        found.add_row(each.file, "" if each.file.startswith("table ") else f"{each.at:,}", each.what)
    console().print(found)
    sys.exit(1)


# -- the vault as a whole ------------------------------------------------------------------------------------


@click.command()
@click.option("--repair", is_flag=True, help="Put right what can be derived again; remove what is garbage.")
@click.pass_context
def doctor(context: click.Context, repair: bool) -> None:
    """Check a vault and everything derived from it. Exit code 1 if something is wrong and not repaired."""
    with opened(context) as memos:
        report = memos.doctor(repair=repair)
    click.echo(str(report))
    if not report.clean:
        sys.exit(1)


@click.command()
@click.argument("dest", type=click.Path(path_type=Path))
@click.pass_context
def backup(context: click.Context, dest: Path) -> None:
    """Write a checked copy of the vault, in use or not, to DEST: a new folder or .db file."""
    with opened(context) as memos:
        file = memos.backup(dest)
    click.echo(f"{file}: {file.stat().st_size:,} bytes")


@click.command()
@click.argument("source", metavar="FILE")
@click.pass_context
def restore(context: click.Context, source: str) -> None:
    """Copy a backup (or any vault: a folder, a file, a URL) into the new vault that --vault names."""
    target = context.obj["vault"]
    copy_vault(source, target)
    with opened(context) as memos:
        report = memos.doctor()
    click.echo(f"restored to {locate(target).label}; {report}")
    if not report.clean:
        sys.exit(1)


# -- the log -------------------------------------------------------------------------------------------------


@click.command()
@click.option("--user", default=ANY_USER, help="Only what was done to this user's memories.")
@click.option("--id", "part", help="Only what was done to this memory, also if it is gone.")
@click.option("--action", help="write, update, delete, erase, grant, …; 'state:' for every change of state.")
@click.option("--since", type=date, help="From this date or moment on.")
@click.option("--until", type=date, help="Before this date or moment.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1), help="How many at most.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.option("--verify", is_flag=True, help="Check instead that the log was not changed.")
@click.pass_context
def log(
    context: click.Context,
    user: str,
    part: str | None,
    action: str | None,
    since: datetime | None,
    until: datetime | None,
    limit: int,
    as_json: bool,
    verify: bool,
) -> None:
    """Who did what to which memory, when, and through what. Newest first."""
    with opened(context, user) as memos:
        if verify:
            wrong = memos.verify_audit_log()
            click.echo("\n".join(wrong) or "the log is as it was written")
            if wrong:
                context.exit(1)
            return
        there = memos.ids_ending(part) if part else []
        cube_id = id_ending(memos, part) if part and there else part
        records = memos.audit_log(cube_id=cube_id, action=action, since=since, until=until, limit=limit)
    if as_json:
        for record in records:
            click.echo(json.dumps({**asdict(record), "at": record.at.isoformat()}, ensure_ascii=False))
        return
    found = table("", "at", "who", "through", "did", "memory", "v", "whose", "because", right=["v"])
    for record in records:
        found.add_row(
            f"{record.at:{STAMP}}",
            record.principal,
            record.adapter,
            record.action,
            record.cube_id[-8:],
            str(record.version or ""),
            record.user or "-",
            record.detail,
        )
    console().print(found)


# -- versions ------------------------------------------------------------------------------------------------


@click.command()
@click.argument("id")
@click.option(
    "--diff", "pair", nargs=2, type=int, metavar="OLD NEW", help="What changed between two versions."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per version.")
@click.pass_context
def history(context: click.Context, id: str, pair: tuple[int, int] | None, as_json: bool) -> None:
    """The versions of a memory, oldest first."""
    with opened(context) as memos:
        cube = by_id(memos, id)
        if pair:
            changed = memos.diff(cube.id, *pair)
            click.echo("\n".join(map(str, changed.changes)) or "nothing")
            return
        versions = memos.history(cube.id)
    if as_json:
        for version in versions:
            click.echo(version.model_dump_json())
        return
    found = table("", "v", "written", "text", right=["v"])
    for version in versions:
        found.add_row(
            str(version.version), f"{version.header.descriptive.updated_at:{STAMP}}", summary(version)
        )
    console().print(found)


@click.command()
@click.argument("id")
@click.argument("version", type=int)
@click.pass_context
def rollback(context: click.Context, id: str, version: int) -> None:
    """Make a new version of a memory with the content of an earlier one."""
    with opened(context) as memos:
        cube = by_id(memos, id)
        back = owners_view(memos, cube).rollback(cube.id, version)
    click.echo(f"{back.id}: version {back.version} says what version {version} said")


# -- life cycle and grants -----------------------------------------------------------------------------------


def _mover(name: str, done: str, about: str) -> click.Command:
    @click.command(name, help=about)
    @click.argument("ids", metavar="ID...", nargs=-1, required=True)
    @click.pass_context
    def move(context: click.Context, ids: tuple[str, ...]) -> None:
        with opened(context) as memos:
            chosen = [by_id(memos, part) for part in ids]
            act: Callable[[Sequence[str]], None] = getattr(memos, name)
            act([c.id for c in chosen])
        click.echo(f"{done}: {', '.join(c.id[-8:] for c in chosen)}")

    return move


archive = _mover("archive", "archived", "Take memories out of searches and prompts; they are kept.")
activate = _mover("activate", "activated", "Bring archived memories back.")
freeze = _mover("freeze", "frozen", "Forbid every change of memories; they can still be deleted.")
unfreeze = _mover("unfreeze", "unfrozen", "Allow changes again.")


@click.command()
@click.argument("id")
@click.argument("to")
@click.option("--write", is_flag=True, help="Also to change its content.")
@click.option("--share", is_flag=True, help="Also to grant it to others.")
@click.pass_context
def grant(context: click.Context, id: str, to: str, write: bool, share: bool) -> None:
    """Let others read a memory. TO is user:NAME, group:NAME or everyone."""
    rights: list[Right] = ["read"]
    rights += ["write"] if write else []
    rights += ["share"] if share else []
    with opened(context) as memos:
        cube = by_id(memos, id)
        memos.grant(cube.id, to, rights)
        click.echo(_granted(memos, cube))


@click.command()
@click.argument("id")
@click.argument("to")
@click.pass_context
def revoke(context: click.Context, id: str, to: str) -> None:
    """Take back what was granted. TO is user:NAME, group:NAME or everyone."""
    with opened(context) as memos:
        cube = by_id(memos, id)
        memos.revoke(cube.id, to)
        click.echo(_granted(memos, cube))


def _granted(memos: MemOS, cube: MemCube) -> str:
    granted: dict[str, Any] = dict(memos.grants(cube.id))
    parts = [f"{to}: {', '.join(rights)}" for to, rights in granted.items()] or ["nobody else"]
    return f"{cube.id[-8:]} may be used by {'; '.join(parts)}"


COMMANDS: tuple[click.Command, ...] = (
    erase,
    trace,
    doctor,
    backup,
    restore,
    log,
    history,
    rollback,
    archive,
    activate,
    freeze,
    unfreeze,
    grant,
    revoke,
)
