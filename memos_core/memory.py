"""The memory operations of a view: write, read, search, update and delete cubes within one scope."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any

from memos_core import arguments
from memos_core.checks import check_cube, check_details
from memos_core.cube import (
    ANY_USER,
    LIVE,
    MemCube,
    Namespace,
    Origin,
    State,
)
from memos_core.drafts import draft, redraft
from memos_core.errors import AccessDenied, InvalidArgument, VersionConflict
from memos_core.governance import DuplicatePolicy
from memos_core.queries import Queries
from memos_core.reader import MEMORIES
from memos_core.settle import has_slot, settle_contradiction, settle_duplicate
from memos_core.vault import CubeFilter, Right, Writer
from memos_core.vault.vault import BRIEF
from memos_core.view import distinct_ids

# What a grant to write lets others change; the rest is its owner's.
_GRANTED_CHANGES = frozenset({"text", "tags", "semantic_type", "spoken_at", "valid_from", "valid_to"})


@dataclass(frozen=True)
class Matching:
    """What goes with a `put`, named by what it is and looked up in the transaction itself: what another process stored
    a moment before goes too.

    Args:
        namespace: at or below this prefix. types: semantic types. states: life-cycle states; None: all.
    """

    namespace: Namespace = ()
    types: Sequence[str] | None = None
    states: Sequence[State] | None = LIVE


Arrange = Callable[[Writer, list[MemCube]], list[MemCube]]


class Memory(Queries):
    """Write, read, search, update and delete the cubes of one scope."""

    # -- write ---------------------------------------------------------------------------------------------

    def cube(
        self,
        content: Any,
        *,
        text: str | None = None,
        namespace: Namespace = (MEMORIES,),
        key: str = "",
        semantic_type: str | None = None,
        tags: Sequence[str] = (),
        origin: Origin = "user",
        ttl: timedelta | None = None,
        priority: int = 0,
        sensitivity: Sequence[str] = (),
        spoken_at: datetime | None = None,
        valid_from: datetime | None = None,
        valid_to: datetime | None = None,
        derived_from: Sequence[MemCube] = (),
    ) -> MemCube:
        """Make a plaintext cube in this scope, without storing it; `put` stores it.

        Args:
            content: a text, a JSON value, or an instance of a registered structure.
            text: what is searched; defaults to the content's own text (see `memos_core.cube.text_of`).
            namespace, key: its address, unique for the user; without a key the cube's id is its key.
            semantic_type: "fact", "preference", …; defaults to the structure's name, else "fact".
            tags, origin, priority, sensitivity: see `Header`.
            ttl: how long it lives. spoken_at, valid_from, valid_to: see `Plaintext`.
            derived_from: cubes it was made from.

        Raises:
            InvalidArgument: content that is no JSON, an unregistered structure, an empty text, a bad ttl, or another
                argument of the wrong kind.
        """
        arguments.names(namespace, "namespace")
        check_details(
            text=text,
            key=key,
            semantic_type=semantic_type,
            tags=tags,
            sensitivity=sensitivity,
            spoken_at=spoken_at,
            valid_from=valid_from,
            valid_to=valid_to,
        )
        derived_from = arguments.every(derived_from, "derived_from", MemCube)
        return draft(
            content,
            self._core.vault.structures,
            scope=self._scope,
            owner=self._principal.label,
            text=text,
            namespace=namespace,
            key=key,
            semantic_type=semantic_type,
            tags=tags,
            origin=origin,
            ttl=ttl,
            priority=priority,
            sensitivity=sensitivity,
            spoken_at=spoken_at,
            valid_from=valid_from,
            valid_to=valid_to,
            derived_from=derived_from,
        )

    def put(
        self,
        cubes: Sequence[MemCube],
        *,
        expected_version: int | None = None,
        duplicates: DuplicatePolicy | None = None,
        delete: Sequence[str] | Matching = (),
    ) -> list[MemCube]:
        """Store cubes in one transaction, all or none; see `Vault.put`. When this returns, they are on the
        disk, and the next search finds them. A statement that contradicts an earlier one ends its validity.

        Args:
            cubes: from `cube`. expected_version: with one cube, the version it must replace. 0: there must be nothing
                yet at the address of any of them.
            duplicates: what to do with what is known already; None takes the policy of `MemOS.open`.
            delete: cubes of this scope that go in the same transaction, before the others come, by their ids or by
                what they are; see `delete`.

        Raises:
            AccessDenied: a cube's scope is outside this view's, or what it replaces may not be read here.
            InvalidArgument, VersionConflict, VaultError.
        """
        cubes = arguments.every(cubes, "cubes", MemCube)
        for cube in cubes:
            check_cube(cube)
            if not self._scope.contains(cube.scope):
                raise AccessDenied(
                    f"a cube of scope {cube.scope} may not be written through a view of {self._scope}"
                )
        if expected_version is not None:
            arguments.count(expected_version, "expected_version")
        if duplicates is not None and not isinstance(duplicates, DuplicatePolicy):
            raise InvalidArgument(f"duplicates must be a DuplicatePolicy, got {duplicates!r:.80}")
        if expected_version and len(cubes) != 1:
            raise InvalidArgument(f"expected_version is for one cube at a time, got {len(cubes)}")
        if isinstance(delete, Matching):
            states = {"states": delete.states, "expired": delete.states is None}
            gone: Collection[str] | CubeFilter = self._which(
                namespace=arguments.names(delete.namespace, "namespace"), types=delete.types, **states
            )
        else:
            gone = self._core.vault.matching(self._everything(), distinct_ids(delete)) if delete else ()
        return self._store(cubes, expected_version, duplicates or self._core.duplicates, delete=gone)

    def _store(
        self,
        cubes: list[MemCube],
        expected_version: int | None = None,
        duplicates: DuplicatePolicy | None = None,
        replacing: str | None = None,
        delete: Collection[str] | CubeFilter = (),
        arrange: Arrange | None = None,
    ) -> list[MemCube]:
        """Store cubes in one transaction.

        Args:
            replacing: with one cube and its expected version, the id of the cube it is to be a version of: asked
                again here, because it may be gone, or granted no more.
            delete: what goes before, of this scope.
            arrange: given the cubes within the transaction, says which ones to store instead.
        """
        if not cubes and not delete:
            return []
        looks = duplicates is not None and duplicates.looks
        near = self._core.near_duplicates(cubes, duplicates) if duplicates and looks else {}
        brief = (
            len(cubes) <= BRIEF
            and not isinstance(delete, CubeFilter)
            and len(delete) <= BRIEF
            and not arrange
        )
        with self._core.vault.writing(self._actor, self._principal.clearance, brief=brief) as writer:
            writer.check(cubes)
            writer.audit.lock((c.scope.tenant, c.scope.user or "") for c in cubes)
            if replacing is not None:
                [current] = self._locked(writer, [replacing], granted="write")
                if current.version != expected_version:
                    raise VersionConflict(
                        f"expected_version={expected_version}, but cube {replacing!r} has version "
                        f"{current.version}; read it again"
                    )
            if isinstance(delete, CubeFilter):
                if self._scope.user != ANY_USER:  # before it is looked up
                    writer.audit.lock([(self._scope.tenant, self._scope.user or "")])
                delete = writer.ids(delete)
            gone = writer.delete(delete) if delete else []
            if arrange is not None:
                cubes = arrange(writer, cubes)
            stored: list[MemCube] = []
            # What may touch other cubes goes one by one; the rest together.
            for alone, run in groupby(cubes, key=lambda c: looks or has_slot(c)):
                if not alone:
                    stored += writer.put_all(list(run), expected_version=expected_version)
                    continue
                for cube in run:
                    done = False
                    if duplicates and looks:
                        cube, done = settle_duplicate(writer, cube, duplicates, near.get(cube.id, ()))
                    if not done:
                        if self._scope.contains(cube.scope):  # others' memories are not ours to settle
                            cube = settle_contradiction(writer, cube)
                        cube = writer.put(cube, expected_version=expected_version)
                    stored.append(cube)
        gone += writer.displaced
        if gone:
            self._core.forget(gone)
        self.scheduler.wrote(self._scope, stored)
        return stored

    def write(self, /, content: Any, **details: Any) -> MemCube:
        """Make a cube and store it: `put([cube(content, …)])`. Takes what `cube` takes."""
        return self.put([self.cube(content, **details)])[0]

    def update(
        self, /, cube_id: str, content: Any = None, *, expected_version: int | None = None, **details: Any
    ) -> MemCube:
        """Make the next version of a cube.

        Args:
            cube_id: which one. content: its new content; None keeps it.
            expected_version: refuse if it is not the stored one.
            details: any of `text`, `semantic_type`, `tags`, `ttl`, `priority`, `sensitivity`, `spoken_at`,
                `valid_from`, `valid_to`; what is not named stays as it is.

        Raises:
            NotFound: not in this scope. AccessDenied: it may only be read here.
            VersionConflict: `expected_version` is not the stored one.
            InvalidArgument: as for `cube`, or it is no plaintext cube, is frozen or was merged away.
        """
        check_details(**details)
        if expected_version is not None:
            arguments.count(expected_version, "expected_version")
        while True:
            old = self._get(cube_id, granted="write")
            if not self._scope.contains(old.scope) and not _GRANTED_CHANGES.issuperset(details):
                raise AccessDenied(
                    f"{self._who} was granted the right to write cube {cube_id!r}, not to change its "
                    f"{', '.join(sorted(set(details) - _GRANTED_CHANGES))}"
                )
            if old.state is State.MERGED:
                raise InvalidArgument(f"cube {cube_id!r} was merged into another one; update that one")
            changed = redraft(old, content, details, self._core.vault.structures)
            try:
                wanted = old.version if expected_version is None else expected_version
                return self._store([changed], wanted, replacing=cube_id)[0]
            except VersionConflict:
                if expected_version is not None:
                    raise  # else somebody wrote in between: change what is there now

    def delete(self, ids: str | Sequence[str]) -> list[str]:
        """Remove cubes of this scope for good: text, versions, vectors, and KV caches made from them.

        Returns:
            The ids that were removed; ids not in this scope are not among them.
        """
        wanted = distinct_ids(ids)
        mine = self._core.vault.matching(self._everything(), wanted)
        return self._forget(self._core.vault.delete(mine, self._actor))

    def delete_where(
        self, *, namespace: Namespace = (), types: Sequence[str] | None = None, not_types: Sequence[str] = ()
    ) -> list[str]:
        """Remove every cube of this scope that matches, archived and expired ones too; see `delete`."""
        which = self._which(
            namespace=arguments.names(namespace, "namespace"),
            types=types,
            not_types=not_types,
            states=None,
            expired=True,
        )
        return self._forget(self._core.vault.delete_where(which, self._actor))

    def _forget(self, gone: Sequence[MemCube]) -> list[str]:
        self._core.forget(gone)
        return [c.id for c in gone]

    # -- read ----------------------------------------------------------------------------------------------

    def read(self, cube_id: str, *, as_of: datetime | None = None) -> MemCube:
        """One cube by its id. What is archived comes back to life by being read.

        Args:
            as_of: the cube as it was stored at this moment.

        Raises:
            NotFound: there is none in this scope (or was none then). VaultError: it is damaged.
        """
        arguments.name(cube_id, "cube_id")
        if as_of is not None:
            then = self._core.vault.find_at(
                self._which(granted="read", states=None, expired=True, ids=[cube_id]),
                arguments.moment(as_of, "as_of"),
            )
            if not then:
                raise self._missing(cube_id)
            return then[0]
        found = self._get(cube_id, granted="read")
        if found.state is State.ARCHIVED and not found.frozen and self._scope.contains(found.scope):
            self._core.vault.transition([found.id], State.ACTIVATED, self._actor, "read")
            found = self._get(cube_id, granted="read")
        self._seen([found])
        return found

    def _get(self, cube_id: str, granted: Right | None = None) -> MemCube:
        arguments.name(cube_id, "cube_id")
        found = self._core.vault.get(self._which(granted=granted, states=None), [cube_id], strict=True)
        if found:
            return found[cube_id]
        if granted not in (None, "read") and self._core.vault.get(
            self._which(granted="read", states=None), [cube_id]
        ):
            raise AccessDenied(f"cube {cube_id!r} may only be read by {self._who}, not changed")
        raise self._missing(cube_id)

    def at(self, namespace: Namespace, key: str) -> MemCube | None:
        """The cube at an address, or None."""
        which = self._which(
            namespace=arguments.names(namespace, "namespace"),
            exact_namespace=True,
            keys=[arguments.name(key, "key")],
            states=None,
        )
        found = self._core.vault.find(which, limit=1)
        self._seen(found)
        return found[0] if found else None
