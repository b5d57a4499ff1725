"""The memory operations of a view: write, read, search, update and delete cubes within one scope."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from memos_core.core import Core
from memos_core.cube import MemCube, Namespace, Origin, Principal, Scope
from memos_core.drafts import draft, names, redraft
from memos_core.errors import AccessDenied, NotFound, VersionConflict
from memos_core.governance import effective_scope
from memos_core.reader import MEMORIES
from memos_core.retrieval import Hit
from memos_core.scheduler import MemScheduler
from memos_core.vault import Actor, AuditRecord, CubeFilter, Order

# What a search or a prompt is not about unless asked: the verbatim conversation, and records of KV caches.
NOT_MEMORIES = ("message", "kv")


class Memory:
    """The cubes of one scope, for one principal. The base of `MemOS`, which opens it."""

    def __init__(self, core: Core, scope: Scope, principal: Principal, adapter: str) -> None:
        self._core = core
        self._scope = effective_scope(principal, scope)
        self._principal = principal
        self._actor = Actor(principal.label, adapter)

    @property
    def scope(self) -> Scope:
        """The scope of this view."""
        return self._scope

    @property
    def scheduler(self) -> MemScheduler:
        """The scheduler that all views share."""
        return self._core.scheduler

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
            InvalidArgument: content that is no JSON, an unregistered structure, an empty text, a bad ttl.
        """
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

    def put(self, cubes: Sequence[MemCube], *, expected_version: int | None = None) -> list[MemCube]:
        """Store cubes in one transaction, all or none; see `Vault.put`. When this returns, they are on the
        disk, and the next search finds them.

        Raises:
            AccessDenied: a cube's scope is outside this view's. InvalidArgument, VersionConflict, VaultError.
        """
        cubes = list(cubes)
        for cube in cubes:
            if not self._scope.contains(cube.scope):
                raise AccessDenied(
                    f"a cube of scope {cube.scope} may not be written through a view of {self._scope}"
                )
        displaced: list[MemCube] = []
        stored = self._core.vault.put(
            cubes, self._actor, expected_version=expected_version, displaced=displaced
        )
        if displaced:
            self._core.forget(displaced)
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
            NotFound: not in this scope. VersionConflict: `expected_version` is not the stored one.
            InvalidArgument: as for `cube`, or it is no plaintext cube.
        """
        while True:
            old = self._get(cube_id)
            changed = redraft(old, content, details, self._core.vault.structures)
            try:
                return self.put(
                    [changed], expected_version=old.version if expected_version is None else expected_version
                )[0]
            except VersionConflict:
                if expected_version is not None:
                    raise  # else somebody wrote in between: change what is there now

    def delete(self, ids: str | Sequence[str]) -> list[str]:
        """Remove cubes of this scope for good: text, versions, vectors, and KV caches made from them.

        Returns:
            The ids that were removed; ids not in this scope are not among them.
        """
        wanted = [ids] if isinstance(ids, str) else list(ids)
        mine = self._core.vault.get(CubeFilter(self._scope, states=None, expired=True), wanted)
        return self._forget(self._core.vault.delete(mine, self._actor))

    def delete_where(
        self, *, namespace: Namespace = (), types: Sequence[str] | None = None, not_types: Sequence[str] = ()
    ) -> list[str]:
        """Remove every cube of this scope that matches, archived and expired ones too; see `delete`."""
        which = CubeFilter(
            self._scope,
            namespace=names(namespace, "namespace"),
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

    def read(self, cube_id: str) -> MemCube:
        """One cube by its id.

        Raises:
            NotFound: there is none in this scope.
        """
        found = self._get(cube_id)
        self.scheduler.read(self._scope, [found.id])
        return found

    def _get(self, cube_id: str) -> MemCube:
        found = self._core.vault.get(CubeFilter(self._scope, states=None), [cube_id])
        if not found:
            raise NotFound(f"cube {cube_id!r} does not exist in {self._scope}")
        return found[cube_id]

    def at(self, namespace: Namespace, key: str) -> MemCube | None:
        """The cube at an address, or None."""
        which = CubeFilter(
            self._scope,
            namespace=names(namespace, "namespace"),
            exact_namespace=True,
            keys=[key],
            states=None,
        )
        found = self._core.vault.find(which, limit=1)
        self.scheduler.read(self._scope, [c.id for c in found])
        return found[0] if found else None

    def find(
        self,
        *,
        namespace: Namespace = (),
        types: Sequence[str] | None = None,
        not_types: Sequence[str] = (),
        kinds: Sequence[str] | None = None,
        order: Order = "created",
        limit: int | None = None,
        offset: int = 0,
    ) -> list[MemCube]:
        """Cubes of this scope, live ones, without a query.

        Args:
            namespace: at or below this prefix. types, not_types: semantic types. kinds: payload kinds.
            order: "created", "-created" (newest first) or "-updated".
        """
        which = CubeFilter(
            self._scope,
            namespace=names(namespace, "namespace"),
            types=types,
            not_types=not_types,
            kinds=kinds,
        )
        return self._core.vault.find(which, order=order, limit=limit, offset=offset)

    def type_counts(self) -> dict[str, int]:
        """How many cubes of each semantic type this scope has, most first."""
        return self._core.vault.type_counts(CubeFilter(self._scope))

    def ids_ending(self, part: str) -> list[str]:
        """Ids in this scope that end with `part`, at most ten: people type the end of an id."""
        return self._core.vault.ids_ending(CubeFilter(self._scope, states=None), part)

    def namespaces(self, prefix: Namespace = ()) -> list[Namespace]:
        """The namespaces in use at or below a prefix, sorted."""
        return self._core.vault.namespaces(CubeFilter(self._scope, namespace=names(prefix, "prefix")))

    def search(
        self,
        query: str,
        *,
        k: int = 10,
        namespace: Namespace = (),
        types: Sequence[str] | None = None,
        not_types: Sequence[str] = NOT_MEMORIES,
        min_similarity: float | None = None,
        accept: Callable[[MemCube], bool] | None = None,
    ) -> list[Hit]:
        """The cubes of this scope nearest to a question, by meaning and by words, best first.

        Args:
            query: the question. k: how many at most. namespace: at or below this prefix.
            types, not_types: semantic types; messages are left out unless `types` names them.
            min_similarity: see `Retriever.search`. accept: an extra condition.
        """
        skipped = () if types is not None else not_types
        which = CubeFilter(
            self._scope,
            namespace=names(namespace, "namespace"),
            types=types,
            not_types=skipped,
            kinds=["plaintext"],
        )
        hits = self._core.retriever.search(query, which, k=k, min_similarity=min_similarity, accept=accept)
        self.scheduler.read(self._scope, [h.cube.id for h in hits])
        return hits

    def history(self, cube_id: str) -> list[MemCube]:
        """The versions of a cube that were written in this scope, oldest first.

        Raises:
            NotFound: there is none in this scope.
        """
        self._get(cube_id)
        return [c for c in self._core.vault.history(cube_id) if self._scope.contains(c.scope)]

    def audit_log(self, *, cube_id: str | None = None, limit: int = 100) -> list[AuditRecord]:
        """Who did what to which cube of this scope, newest first."""
        return self._core.vault.audit_log(self._scope, cube_id=cube_id, limit=limit)
