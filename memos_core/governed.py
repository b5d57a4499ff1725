"""Governance of cubes: their life, who else may use them, the log of what was done, and erasure."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import get_args

from memos_core import arguments
from memos_core.cube import ANY_USER, LIVE, State
from memos_core.doctor import Report, examine
from memos_core.erasure import Erasure, Trace, erase_cubes, trace
from memos_core.errors import AccessDenied, InvalidArgument
from memos_core.vault import AuditRecord, LogQuery, Right, Writer
from memos_core.vault.copies import back_up
from memos_core.view import View, distinct_ids

RIGHTS: tuple[Right, ...] = get_args(Right)


class Governed(View):
    """Archive, freeze, grant, log, erase."""

    # -- life ----------------------------------------------------------------------------------------------

    def archive(self, ids: str | Sequence[str]) -> list[str]:
        """Take cubes out of searches and indexes. They are found by id, or by a search that names the state, and
        come back with `activate`, a `read` or a new version.

        Returns:
            The ids of those that were not archived before.

        Raises:
            NotFound: one is not in this scope. InvalidArgument: one is frozen, merged away or expired; then none is
                changed.
        """
        return self._move(ids, State.ARCHIVED, "archived on demand")

    def activate(self, ids: str | Sequence[str]) -> None:
        """Bring archived cubes back, or mark generated ones as in use. Raises as `archive` does."""
        self._move(ids, State.ACTIVATED, "activated on demand")

    def _move(self, ids: str | Sequence[str], state: State, cause: str) -> list[str]:
        with self._core.vault.writing(self._actor) as writer:
            moved = writer.transition(self._locked(writer, distinct_ids(ids)), state, cause)
        if state not in LIVE:
            self._core.forget_kv(moved)
        self.scheduler.wrote(self._scope, moved)
        return [c.id for c in moved]

    def freeze(self, ids: str | Sequence[str]) -> None:
        """Forbid every change of these cubes: they can be read, deleted and erased, and their ttl does not pass.

        Raises:
            NotFound: one is not in this scope.
        """
        with self._core.vault.writing(self._actor) as writer:
            writer.freeze(self._locked(writer, distinct_ids(ids)), True)

    def unfreeze(self, ids: str | Sequence[str]) -> None:
        """Allow changes again. A ttl that has passed meanwhile takes effect."""
        with self._core.vault.writing(self._actor) as writer:
            writer.freeze(self._locked(writer, distinct_ids(ids)), False)

    # -- who else ------------------------------------------------------------------------------------------

    def grant(self, ids: str | Sequence[str], to: str, rights: Sequence[Right] = ("read",)) -> None:
        """Let others of this tenant use cubes. They find them in `read`, `search`, `recall` and prompts.

        Args:
            to: "user:NAME", "group:NAME" or "everyone".
            rights: "read"; "write": also to change the content; "share": also to grant what they were granted.
                Whoever may write or share may read.

        Raises:
            NotFound: one is not in this scope. AccessDenied: it was granted to this user without "share", or with
                less than is to be granted. InvalidArgument: `to` or `rights` is something else.
        """
        grantee, wanted = _grantee(to), _rights(rights, ("read",))
        with self._core.vault.writing(self._actor) as writer:
            cubes = self._locked(writer, distinct_ids(ids), granted="share")
            for cube in cubes:
                if not self._scope.contains(cube.scope):
                    self._check_passed_on(writer, cube.id, wanted)
            self._core.vault.grants.add(
                writer.conn, self._scope.tenant, [c.id for c in cubes], grantee, wanted
            )
            for cube in cubes:
                writer.audit.add("grant", cube, f"{', '.join(wanted)} to {to}")

    def _check_passed_on(self, writer: Writer, cube_id: str, wanted: Sequence[Right]) -> None:
        own = self._core.vault.grants.rights(writer.conn, self._scope.tenant, self._scope.user or "", cube_id)
        more = [right for right in wanted if right not in own]
        if more:
            raise AccessDenied(
                f"rights: {self._who} was not granted {', '.join(more)} for cube {cube_id!r} and cannot pass it on"
            )

    def revoke(self, ids: str | Sequence[str], to: str, rights: Sequence[Right] = RIGHTS) -> None:
        """Take back what was granted; without `rights`, or with "read", all of it. KV caches made from the cubes are
        dropped.

        Raises:
            NotFound: one is not in this scope. AccessDenied: it is not this user's.
        """
        grantee, wanted = _grantee(to), _rights(rights)
        if "read" in wanted:
            wanted = RIGHTS
        with self._core.vault.writing(self._actor) as writer:
            cubes = self._locked(writer, distinct_ids(ids))
            self._core.vault.grants.remove(writer.conn, [c.id for c in cubes], grantee, wanted)
            writer.recall_kv(cubes)
            for cube in cubes:
                writer.audit.add("revoke", cube, f"{', '.join(wanted)} from {to}")
        self._core.forget_kv(cubes)

    def grants(self, cube_id: str) -> dict[str, tuple[Right, ...]]:
        """Who else may use a cube of this view, and how: {"user:bob": ("read",), …}.

        Raises:
            NotFound: it is not in this scope.
        """
        arguments.name(cube_id, "cube_id")
        if not self._core.vault.matching(self._which(granted="share", states=None), [cube_id]):
            raise self._missing(cube_id)
        found: dict[str, tuple[Right, ...]] = {}
        for row in self._core.vault.grants.of([cube_id]):
            to = row.kind if row.kind == "everyone" else f"{row.kind}:{row.name}"
            found[to] = (*found.get(to, ()), row.right)
        return found

    def add_to_group(self, group: str, users: Sequence[str]) -> None:
        """Make users members of a group of this tenant; it need not exist before.

        Raises:
            AccessDenied: the principal is a user; groups are the operator's. InvalidArgument: an empty name.
        """
        self._set_members(group, users, member=True)

    def remove_from_group(self, group: str, users: Sequence[str]) -> None:
        """End memberships, and drop KV caches made from what the group was granted; raises as `add_to_group` does."""
        self._set_members(group, users, member=False)

    def _set_members(self, group: str, users: Sequence[str], *, member: bool) -> None:
        self._operator_only("groups")
        _name(group, "group")
        for user in arguments.names(users, "users"):
            _name(user, "users")
        verb = "add to" if member else "remove from"
        tenant, table = self._scope.tenant, self._core.vault.grants
        with self._core.vault.writing(self._actor) as writer:
            writer.audit.lock((tenant, user) for user in users)
            table.set_members(writer.conn, tenant, group, users, member=member)
            lost = [] if member else writer.granted_to(tenant, "group", group)
            writer.recall_kv(lost)
            for user in users:
                writer.audit.note("group", (tenant, user), detail=f"{verb} {group}")
        self._core.forget_kv(lost)

    def groups(self) -> dict[str, list[str]]:
        """The groups of this tenant and their members.

        Raises:
            AccessDenied: the principal is a user.
        """
        self._operator_only("groups")
        return self._core.vault.grants.groups(self._scope.tenant)

    def _operator_only(self, what: str) -> None:
        if self._principal.user is not None:
            raise AccessDenied(f"{what} are the operator's; {self._who} is a user")

    # -- the log -------------------------------------------------------------------------------------------

    def audit_log(
        self,
        *,
        cube_id: str | None = None,
        action: str | None = None,
        principal: str | None = None,
        adapter: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int | None = 100,
        newest_first: bool = True,
    ) -> list[AuditRecord]:
        """Who did what to which cube of this scope's user, when, and through which adapter; see `LogQuery`."""
        for name, value in (
            ("cube_id", cube_id),
            ("action", action),
            ("principal", principal),
            ("adapter", adapter),
        ):
            if value is not None:
                arguments.name(value, name)
        for name, at in (("since", since), ("until", until)):
            if at is not None:
                arguments.moment(at, name)
        if limit is not None:
            arguments.count(limit, "limit")
        query = LogQuery(
            self._scope,
            cube_id,
            action,
            principal,
            adapter,
            since,
            until,
            limit,
            newest_first,
            self._principal.clearance,
        )
        return self._core.vault.log(query)

    def note_refusal(self, what: str, cube_id: str = "") -> None:
        """Add to the audit log of this view's user that an adapter refused a call, e.g. a tool call in which a model
        named another user.

        Args:
            what: which call and why, without any content. cube_id: the cube it was about, if any.
        """
        owner = (self._scope.tenant, self._scope.user or "")
        with self._core.vault.writing(self._actor) as writer:
            writer.audit.note("refuse", owner, arguments.name(cube_id, "cube_id"), detail=what)

    def verify_audit_log(self) -> list[str]:
        """What was changed in this scope's audit log after it was written, in sentences; [] if nothing."""
        return self._core.vault.verify_log(self._scope)

    # -- erasure -------------------------------------------------------------------------------------------

    def erase(self, ids: str | Sequence[str] | None = None, *, verify: bool = True) -> Erasure:
        """Forget for good: text, versions, vectors, index entries, KV caches, and everything that was derived from it,
        memories included. The files are rewritten without it; what remains is a tombstone without content, and the log
        of who did what to which id. Backups that were made before still have it.

        Args:
            ids: these cubes. None: everything of this view's scope, in every state, with its plans and LangGraph
                threads: those of its session, or of a view without session and agent all of its user's (a thread in
                the operator's lane is that of the `user_id` it was run with). Of a whole user also the grants and
                memberships. A view without a user means the memory that belongs to no user.
            verify: search the files for all that was erased.

        Returns:
            What went, and what is left of it; see `Erasure`.

        Raises:
            NotFound: one of `ids` is not in this scope; nothing is erased. InvalidArgument: the scope is every user's.
            AccessDenied: it was only granted to this user, or the principal's clearance hides what would have to go.
        """
        self._sees_all("erase")
        if ids is None and self._scope.user == ANY_USER:
            raise InvalidArgument(
                "user='*' is every user; erase one user at a time, through a view of that user"
            )
        if ids is None:
            return erase_cubes(self._core, self._actor, [], self._everything(), verify=verify)
        return erase_cubes(self._core, self._actor, self._owned(ids), None, verify=verify)

    def _owned(self, ids: str | Sequence[str]) -> list[str]:
        wanted = distinct_ids(ids)
        mine = self._core.vault.matching(self._everything(), wanted)
        for id_ in wanted:
            if id_ not in mine:
                if self._core.vault.matching(self._everything(granted="read"), [id_]):
                    raise AccessDenied(
                        f"cube {id_!r} may only be read by {self._who}: to erase it needs its owner"
                    )
                raise self._missing(id_)
        return wanted

    def _sees_all(self, what: str) -> None:
        if self._principal.clearance is not None:
            raise AccessDenied(
                f"{what} needs a principal that may read everything there; the clearance of {self._who} is limited"
            )

    def trace(self, texts: str | Sequence[str]) -> list[Trace]:
        """Where texts stand, letter by letter: in rows of the vault, and in the bytes of its files and indexes.

        Raises:
            AccessDenied: the principal is a user. InvalidArgument: a text is too short to tell anything.
        """
        self._whole_vault("trace")
        return trace(self._core, [texts] if isinstance(texts, str) else list(texts))

    # -- the vault as a whole ------------------------------------------------------------------------------

    def doctor(self, repair: bool = False) -> Report:
        """Check everything that can be checked: the database, checksums of cubes, versions and checkpoints, the audit
        chains, rows without a cube, indexes against the vault, KV files. Of all tenants and users.

        Args:
            repair: put right what can be derived again, and remove what nobody refers to. What was damaged is never
                removed.

        Raises:
            AccessDenied: the principal is a user.
        """
        self._whole_vault("doctor")
        return examine(self._core, repair=repair)

    def backup(self, dest: str | os.PathLike[str]) -> Path:
        """Write one consistent state of the vault to a new SQLite vault, while everybody goes on using it. It is
        checked before it gets its name. What can be derived again (Chroma, KV files) is not in it.

        Args:
            dest: a new file (`.db`), or a folder, for `vault.db` in it.

        Returns:
            The file. `MemOS.open` opens it; `memos restore` copies it into another vault.

        Raises:
            InvalidArgument: the file exists. VaultError: it cannot be written, or the copy is damaged.
            AccessDenied: the principal is a user.
        """
        self._whole_vault("backup")
        return back_up(self._core.vault.db, dest)

    def _whole_vault(self, what: str) -> None:
        if self._principal.user is not None:
            raise AccessDenied(
                f"{what} is about the whole vault, so it is the operator's; {self._who} is a user"
            )
        self._sees_all(what)


def _grantee(to: str) -> tuple[str, str]:
    if to == "everyone":
        return "everyone", ""
    kind, colon, name = to.partition(":") if isinstance(to, str) else ("", "", "")
    if kind not in ("user", "group") or not colon:
        raise InvalidArgument(f"to must be 'user:NAME', 'group:NAME' or 'everyone', got {to!r}")
    return kind, _name(name, "to")


def _name(name: str, argument: str) -> str:
    if not isinstance(name, str) or not name.strip() or name == "*" or any(ord(c) < 32 for c in name):
        raise InvalidArgument(f"{argument} must be a name without control characters, got {name!r:.80}")
    return arguments.text(name, argument)


def _rights(rights: Sequence[Right], implied: tuple[Right, ...] = ()) -> tuple[Right, ...]:
    wanted = (rights,) if isinstance(rights, str) else arguments.names(rights, "rights")
    if not wanted or any(right not in RIGHTS for right in wanted):
        raise InvalidArgument(f"rights must be some of {', '.join(RIGHTS)}, got {rights!r}")
    return tuple(right for right in RIGHTS if right in (*wanted, *implied))
