"""What the commands of `memos` share: opening the vault they were given, and finding what they name in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import click

from memos_core.cube import ANY_USER, MemCube
from memos_core.errors import InvalidArgument, NotFound, VaultError
from memos_core.memos import ENV_VAULT, MemOS
from memos_core.vault import locate
from memos_core.vault.copies import is_vault
from memos_core.vault.filter import CubeFilter

STAMP = "%Y-%m-%d %H:%M:%S"


def date(typed: str) -> datetime:
    """A date or a date with a time; without a zone it is the local one's."""
    try:
        return datetime.fromisoformat(typed).astimezone()
    except ValueError:
        raise click.BadParameter(f"{typed!r} is no date; write 2026-05-03 or '2026-05-03 18:30'") from None


def existing_home(context: click.Context) -> Path:
    """The home of the vault that a command is to look at; looking must not make one."""
    location = locate(context.obj["vault"])
    try:
        there = is_vault(location)
    except OSError as err:
        raise VaultError(f"the vault {location.label} cannot be looked at: {err.strerror or err}") from None
    if not there:
        raise VaultError(f"there is no vault at {location.label}; name one with --vault or {ENV_VAULT}")
    assert location.home is not None
    return location.home


@contextmanager
def opened(
    context: click.Context, user: str | None = ANY_USER, embedder: str | None = None
) -> Iterator[MemOS]:
    """The operator's view of the vault that the command line names; it must exist."""
    existing_home(context)
    with MemOS.open(
        context.obj["vault"], tenant=context.obj["tenant"], user=user, embedder=embedder
    ) as memos:
        yield memos


def by_id(memos: MemOS, part: str) -> MemCube:
    """The cube whose id is or ends with `part`, looked at without being counted as read.

    Raises:
        NotFound: there is none. InvalidArgument: there are several. VaultError: it is damaged.
    """
    found = id_ending(memos, part)
    which = CubeFilter(memos.scope, states=None)
    cube = memos.vault.get(which, [found], strict=True).get(found)
    if cube is None:
        raise NotFound(f"id: the cube {found} was deleted just now")
    return cube


def id_ending(memos: MemOS, part: str) -> str:
    """The id that is or ends with `part`, of a cube that may be damaged.

    Raises:
        NotFound: there is none. InvalidArgument: there are several.
    """
    found = memos.ids_ending(part)
    if not found:
        raise NotFound(f"id: no cube has an id that is or ends with {part!r}; `memos ls` lists them")
    if len(found) > 1:
        raise InvalidArgument(f"id: {len(found)} cubes have an id that ends with {part!r}; give more of it")
    return found[0]


def owners_view(memos: MemOS, cube: MemCube) -> MemOS:
    """The view of the user a cube belongs to."""
    return memos.scoped(user=cube.scope.user) if cube.scope.user else memos
