"""`memos …`: look at a vault, and the quickstart. What changes a vault is in `cli_manage`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from memos_core import __version__
from memos_core.cli_common import by_id, date, existing_home, opened
from memos_core.cli_manage import COMMANDS
from memos_core.cli_scheduler import scheduler
from memos_core.cube import ANY_USER, LIVE, NOT_MEMORIES, MemCube, State
from memos_core.errors import KVError, KVMismatch, MemOSError
from memos_core.memos import DEFAULT_VAULT, ENV_VAULT
from memos_core.render import console, cube_table, cube_type, size, summary, table


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="memos")
@click.option(
    "--vault",
    envvar=ENV_VAULT,
    default=DEFAULT_VAULT,
    show_default=True,
    help="Folder or .db file of the vault, or postgresql://USER@HOST/DATABASE.",
)
@click.option("--tenant", default="default", show_default=True, help="Whose memories: the tenant.")
@click.pass_context
def cli(context: click.Context, vault: str, tenant: str) -> None:
    """Memory for AI agents: look at what a vault holds, and govern it."""
    context.obj = {"vault": vault, "tenant": tenant}


@cli.command()
@click.option("--user", default=ANY_USER, help="Only this user's memories.")
@click.option("--type", "type_", help="Only this type: fact, preference, message, kv, …")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice([*map(str, State), "all"]),
    help="Only in this state; may be repeated.  [default: generated and activated]",
)
@click.option("--as-of", type=date, help="The vault as it was at this date or moment.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1), help="How many at most.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.pass_context
def ls(
    context: click.Context,
    user: str,
    type_: str | None,
    states: tuple[str, ...],
    as_of: datetime | None,
    limit: int,
    as_json: bool,
) -> None:
    """List memories, newest first. Messages, KV records and cached replies are shown when --type names them."""
    with opened(context, user) as memos:
        chosen: dict[str, Any] = {"types": [type_]} if type_ else {"not_types": NOT_MEMORIES}
        chosen["states"] = None if "all" in states else [State(s) for s in states] or LIVE
        if as_of is None:
            cubes = memos.find(order="-created", limit=limit, **chosen)
        else:
            cubes = memos.find(as_of=as_of, **chosen)[::-1][:limit]
        if as_json:
            for cube in cubes:
                click.echo(cube.model_dump_json())
            return
        counts = ", ".join(f"{n:,} {name}" for name, n in memos.type_counts().items())
        then = f" as of {as_of:%Y-%m-%d %H:%M}" if as_of else ""
        shown = f"{len(cubes):,} shown{then}; the vault holds {counts or 'nothing yet'}"
        console().print(cube_table(cubes, shown))


@cli.command()
@click.argument("id")
@click.option("--json", "as_json", is_flag=True, help="The cube as JSON.")
@click.pass_context
def show(context: click.Context, id: str, as_json: bool) -> None:
    """Show one memory, whole: payload, header, versions, audit log. ID may be the end of one, as `ls` shows it."""
    with opened(context) as memos:
        cube = by_id(memos, id)
        if as_json:
            click.echo(cube.model_dump_json(indent=2))
            return
        out = console()
        out.print(f"[bold]{cube_type(cube)}[/bold] {cube.id}  version {cube.version}, {cube.state}")
        out.print(summary(cube, width=10_000), markup=False)
        details = table("", "field", "value")
        for name, value in _details(cube):
            details.add_row(name, value)
        out.print(details)
        versions = table("Versions", "v", "updated", "text", right=["v"])
        for old in memos.history(cube.id):
            versions.add_row(
                str(old.version), f"{old.header.descriptive.updated_at:%Y-%m-%d %H:%M:%S}", summary(old)
            )
        out.print(versions)
        log = table("Audit log", "at", "who", "through", "did", "v", "because", right=["v"])
        for record in reversed(memos.audit_log(cube_id=cube.id)):
            at = f"{record.at:%Y-%m-%d %H:%M:%S}"
            log.add_row(
                at, record.principal, record.adapter, record.action, str(record.version), record.detail
            )
        out.print(log)


@cli.command()
@click.argument("query")
@click.option("--user", default=ANY_USER, help="Only this user's memories.")
@click.option("-k", default=5, show_default=True, type=click.IntRange(1), help="How many at most.")
@click.option("--as-of", type=date, help="Search the vault as it was at this date or moment.")
@click.pass_context
def search(context: click.Context, query: str, user: str, k: int, as_of: datetime | None) -> None:
    """Find memories by meaning and by words, best first."""
    with opened(context, user, embedder="auto") as memos:
        found = table("", "score", "cosine", "id", "type", "whose", "text", right=["score", "cosine"])
        for hit in memos.search(query, k=k, as_of=as_of):
            cosine = "" if hit.similarity is None else f"{hit.similarity:.2f}"
            cube = hit.cube
            found.add_row(
                f"{hit.score:.2f}",
                cosine,
                cube.id[-8:],
                cube_type(cube),
                cube.scope.user or "-",
                summary(cube),
            )
        console().print(found)


@cli.command()
@click.option(
    "--check", "file", type=click.Path(path_type=Path), help="Verify one KV file: format and checksum."
)
@click.option("--model", help="With --check: also that this model made it.")
@click.pass_context
def kv(context: click.Context, file: Path | None, model: str | None) -> None:
    """List the KV caches on disk, or check one file."""
    from memos_core.activation import all_files, read_header

    if file is not None:
        _check_kv(file, model)
        return
    location = existing_home(context)
    found = table(
        "", "file", "tokens", "size", "from memories", "model", right=["tokens", "size", "from memories"]
    )
    for path in sorted(all_files(location / "kv")):
        try:
            about = read_header(path)
        except KVError as err:
            found.add_row(path.name, "", "", "", f"unusable: {err}")
            continue
        found.add_row(
            path.name,
            f"{about.n_tokens:,}",
            size(about.nbytes),
            str(len(about.derived_from)),
            about.model[:16],
        )
    console().print(found)


@cli.command()
@click.option(
    "--vault",
    "folder",
    type=click.Path(path_type=Path),
    help="Folder to keep it in.  [default: the --vault before the command, else .memos/quickstart]",
)
@click.option(
    "--model",
    default="smollm2-135m",
    show_default=True,
    help="Chat model: a packaged name, a folder, or a hub id.",
)
@click.option(
    "--turns",
    default=11,
    show_default=True,
    type=click.IntRange(1, 11),
    help="Tell only so many turns: quicker.",
)
@click.pass_context
def quickstart(context: click.Context, folder: Path | None, model: str, turns: int) -> None:
    """Watch an agent learn in one process and answer from memory in another."""
    from memos_core.quickstart import run

    assert context.parent is not None
    if folder is None:
        named = context.parent.get_parameter_source("vault") is not ParameterSource.DEFAULT
        folder = Path(context.obj["vault"] if named else ".memos/quickstart")
    sys.exit(run(folder.absolute(), model, turns))


def _check_kv(file: Path, model: str | None) -> None:
    from memos_core.activation import verify_file

    about = verify_file(file)
    if model is not None:
        from memos_core.activation import ActivationEngine

        ours = ActivationEngine.open(model).store.identity
        if about.identity != ours:
            raise KVMismatch(
                f"{file} was made with model {about.model[:16]} as {about.dtype}, which is not {model}"
            )
    click.echo(f"{file}: {about.n_tokens:,} tokens of model {about.model[:16]}, checksum right")


def _details(cube: MemCube) -> Iterator[tuple[str, str]]:
    """Fields of a cube that are set, as lines of text."""
    d, g, b = cube.header.descriptive, cube.header.governance, cube.header.behaviour
    fields: dict[str, Any] = {
        "scope": str(cube.scope),
        "namespace, key": f"{'/'.join(cube.namespace)}, {cube.key}",
        "data": json.dumps(cube.json_data, ensure_ascii=False) if cube.data is not None else None,
        "created": f"{d.created_at:%Y-%m-%d %H:%M:%S} by {g.owner}, origin {d.origin}",
        "tags": ", ".join(d.tags),
        "source messages": ", ".join(d.source_messages),
        "derived from": ", ".join(f"{s.id} v{s.version}" for s in cube.derived_from),
        "expires": str(g.expires_at) if g.expires_at else None,
        "priority": str(g.priority) if g.priority else None,
        "sensitivity": ", ".join(g.sensitivity),
        "reads": f"{b.reads}, last {b.last_read:%Y-%m-%d %H:%M:%S}, frequency {b.frequency:.2f}"
        if b.last_read
        else "0",
    }
    return ((name, value) for name, value in fields.items() if value)


for _command in (*COMMANDS, scheduler):
    cli.add_command(_command)


def main() -> None:
    """The console script: runs `cli`; an error of ours is one sentence and exit code 1."""
    try:
        cli()
    except MemOSError as err:
        click.echo(f"memos: {err}", err=True)
        sys.exit(1)
    except BrokenPipeError:  # `memos ls | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


if __name__ == "__main__":
    main()
