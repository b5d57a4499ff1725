"""Versions and evolution of cubes: history, difference, return to an earlier version, and merging."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from memos_core import arguments
from memos_core.cube import (
    Descriptive,
    Governance,
    Header,
    MemCube,
    Plaintext,
    Scope,
    Source,
    State,
)
from memos_core.cube.lifecycle import check
from memos_core.errors import InvalidArgument, NotFound
from memos_core.evolution import Diff, diff
from memos_core.governance import merge_content
from memos_core.settle import settle_contradiction
from memos_core.vault import Writer
from memos_core.view import View, distinct_ids


class Versions(View):
    """What became of cubes, and one cube made of several."""

    def history(self, cube_id: str) -> list[MemCube]:
        """The versions of a cube that this view may see, oldest first, the current one last.

        Raises:
            NotFound: there is none in this scope.
        """
        arguments.name(cube_id, "cube_id")
        which = self._which(granted="read", states=None)
        current = self._core.vault.get(which, [cube_id])
        if not current:
            raise self._missing(cube_id)
        mine = self._scope.contains(current[cube_id].scope)
        return [
            c
            for c in self._core.vault.history(cube_id)
            if which.cleared(c) and (not mine or self._scope.contains(c.scope))
        ]

    def diff(self, cube_id: str, old: int, new: int | None = None) -> Diff:
        """What changed between two versions of a cube.

        Args:
            old, new: version numbers; None is the current one.

        Raises:
            NotFound: the cube or a version is not there.
        """
        arguments.count(old, "old")
        if new is not None:
            arguments.count(new, "new")
        versions = self.history(cube_id)
        return diff(_version(versions, old), versions[-1] if new is None else _version(versions, new))

    def rollback(self, cube_id: str, version: int) -> MemCube:
        """Make a new version with the content and header of an earlier one. What came between stays in the
        history.

        Raises:
            NotFound: the cube or the version is not there. AccessDenied: it may only be read here.
            InvalidArgument: it is frozen, or was merged away.
        """
        arguments.count(version, "version")
        target = _version(self.history(cube_id), version)
        with self._core.vault.writing(self._actor) as writer:
            [current] = self._locked(writer, [cube_id], granted="write")
            if current.state is State.MERGED:
                raise InvalidArgument(f"cube {cube_id!r} was merged into another one; roll that one back")
            back = current.model_copy(update={"payload": target.payload, "header": target.header})
            if not self._scope.contains(current.scope):
                back = back.model_copy(
                    update={
                        "header": target.header.model_copy(update={"governance": current.header.governance})
                    }
                )
            else:
                back = settle_contradiction(writer, back)
            stored = writer.put(back, expected_version=current.version, action="rollback")
        self.scheduler.wrote(self._scope, [stored])
        return stored

    def merge(self, ids: Sequence[str], content: Any = None, *, text: str | None = None) -> MemCube:
        """Make one cube of several. It names them as its sources; they are kept as "merged", out of every search.

        Args:
            ids: two or more plaintext cubes of this view. content: what the new cube says; None joins theirs, what
                was said last coming last. text: what is searched, see `cube`.

        Raises:
            NotFound: one is not in this scope. InvalidArgument: fewer than two, one that is frozen or no plaintext,
                or one that was merged, archived or expired.
        """
        wanted = distinct_ids(ids)
        if len(wanted) < 2:
            raise InvalidArgument(f"ids must name at least two cubes to merge, got {len(wanted)}")
        with self._core.vault.writing(self._actor) as writer:
            sources = self._locked(writer, wanted)
            merged = self._store_merged(writer, sources, content, text)
        self._core.forget_kv(sources)
        self.scheduler.wrote(self._scope, [merged])
        return merged

    def _store_merged(
        self, writer: Writer, sources: list[MemCube], content: Any, text: str | None
    ) -> MemCube:
        if len({(c.scope.tenant, c.scope.user) for c in sources}) > 1:
            raise InvalidArgument("ids must be cubes of one user, these belong to several")
        for source in sources:
            check(source.state, State.MERGED, frozen=source.frozen)
        if content is None:
            joined, data = merge_content(sources)
            content, text = (joined if data is None else data), text or joined
        draft = self.cube(content, text=text) if hasattr(self, "cube") else None
        assert draft is not None
        cube = merged_cube(draft, sources)
        stored = writer.put(cube, action="merge")
        writer.transition(sources, State.MERGED, f"merged into {stored.id}")
        writer.share_grants([c.id for c in sources], stored)
        return stored


def merged_cube(draft: MemCube, sources: Sequence[MemCube]) -> MemCube:
    """`draft` with the scope, header and provenance that a merger of these cubes has: as narrow, as sensitive and
    as important as any of them."""
    newest = max(sources, key=lambda c: c.id)
    heads = [c.header for c in sources]
    plain = [c.payload for c in sources if isinstance(c.payload, Plaintext)]
    spoken = [p.spoken_at for p in plain if p.spoken_at]
    since = [p.valid_from for p in plain]
    until = [p.valid_to for p in plain]
    assert isinstance(draft.payload, Plaintext)
    payload = draft.payload.model_copy(
        update={
            "spoken_at": max(spoken, default=None),
            "valid_from": None if None in since else min(x for x in since if x),
            "valid_to": None if None in until else max(x for x in until if x),
        }
    )
    lives = [h.governance.expires_at for h in heads]
    return draft.model_copy(
        update={
            "scope": _common_scope([c.scope for c in sources]),
            "namespace": newest.namespace,
            "payload": payload,
            "header": Header(
                descriptive=Descriptive(
                    origin=newest.header.descriptive.origin,
                    semantic_type=newest.semantic_type,
                    tags=_union(h.descriptive.tags for h in heads),
                    source_messages=_union(h.descriptive.source_messages for h in heads),
                ),
                governance=Governance(
                    owner=newest.header.governance.owner,
                    expires_at=min((x for x in lives if x), default=None),
                    priority=max(h.governance.priority for h in heads),
                    sensitivity=_union(h.governance.sensitivity for h in heads),
                ),
            ),
            "derived_from": tuple(Source(id=c.id, version=c.version) for c in sources),
        }
    )


def _common_scope(scopes: Sequence[Scope]) -> Scope:
    first = scopes[0]
    same = {p: getattr(first, p) for p in ("agent", "session") if len({getattr(s, p) for s in scopes}) == 1}
    return Scope(tenant=first.tenant, user=first.user, **same)


def _union(groups: Any) -> tuple[str, ...]:
    return tuple(dict.fromkeys(x for group in groups for x in group))


def _version(versions: Sequence[MemCube], number: int) -> MemCube:
    for cube in versions:
        if cube.version == number:
            return cube
    there = ", ".join(str(c.version) for c in versions)
    raise NotFound(f"version {number} of the cube is not there; there are {there}")
