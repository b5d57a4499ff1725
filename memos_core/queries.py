"""Finding cubes of a view without knowing their ids: by what they are, by meaning and by words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from math import isfinite
from typing import Any, Literal

from memos_core import arguments
from memos_core.cube import LIVE, NOT_MEMORIES, MemCube, Namespace, State, normal_text, now
from memos_core.errors import InvalidArgument
from memos_core.retrieval import Hit, query_words
from memos_core.vault import Order
from memos_core.view import View

_NEAR = 50  # texts with the same words that are compared whole
_ID_LENGTH = 200  # no cube's id is longer


class Queries(View):
    """Find and search the cubes of one scope."""

    def find(
        self,
        *,
        namespace: Namespace = (),
        types: Sequence[str] | None = None,
        not_types: Sequence[str] = (),
        kinds: Sequence[str] | None = None,
        keys: Sequence[str] | None = None,
        states: Sequence[State] | None = LIVE,
        shared: bool = False,
        valid_at: datetime | Literal["now"] | None = None,
        as_of: datetime | None = None,
        order: Order = "created",
        limit: int | None = None,
        offset: int = 0,
    ) -> list[MemCube]:
        """Cubes of this scope, live ones, without a query.

        Args:
            namespace: at or below this prefix. types, not_types: semantic types. kinds: payload kinds. keys: one of
                these. states: life-cycle states; None: all but the expired. shared: also what others granted to this
                user.
            valid_at: only what held at this moment. as_of: the vault as it was at this moment, then always in the
                order of creation.
            order: "created", "-created" (newest first) or "-updated".
        """
        which = self._which(
            namespace=arguments.names(namespace, "namespace"),
            types=types,
            not_types=not_types,
            kinds=kinds,
            keys=keys,
            states=states,
            granted="read" if shared else None,
            valid_at=_moment(valid_at),
        )
        arguments.count(offset, "offset")
        if limit is not None:
            arguments.count(limit, "limit")
        if not isinstance(order, str):
            raise InvalidArgument(f"order must be 'created', '-created' or '-updated', got {order!r:.80}")
        if as_of is None:
            return self._core.vault.find(which, order=order, limit=limit, offset=offset)
        then = self._core.vault.find_at(which, arguments.moment(as_of, "as_of"))
        return then[offset:] if limit is None else then[offset : offset + limit]

    def count(
        self,
        *,
        namespace: Namespace = (),
        types: Sequence[str] | None = None,
        not_types: Sequence[str] = (),
        states: Sequence[State] | None = LIVE,
    ) -> int:
        """How many cubes `find` with these arguments would return."""
        return self._core.vault.count(
            self._which(
                namespace=arguments.names(namespace, "namespace"),
                types=types,
                not_types=not_types,
                states=states,
            )
        )

    def type_counts(self) -> dict[str, int]:
        """How many cubes of each semantic type this scope has, most first."""
        return self._core.vault.type_counts(self._which())

    def ids_ending(self, part: str) -> list[str]:
        """Ids in this scope that end with `part`, at most ten: people type the end of an id."""
        if len(arguments.name(part, "part")) > _ID_LENGTH:
            return []
        return self._core.vault.ids_ending(self._which(states=None), part)

    def namespaces(self, prefix: Namespace = (), *, states: Sequence[State] | None = LIVE) -> list[Namespace]:
        """The namespaces in use at or below a prefix, sorted; in use by cubes of these states, see `find`."""
        which = self._which(namespace=arguments.names(prefix, "prefix"), states=states)
        return self._core.vault.namespaces(which)

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
        states: Sequence[State] | None = LIVE,
        shared: bool = True,
        valid_at: datetime | Literal["now"] | None = "now",
        as_of: datetime | None = None,
    ) -> list[Hit]:
        """The cubes of this scope nearest to a question, by meaning and by words, best first.

        Args:
            query: the question. k: how many at most. namespace: at or below this prefix.
            types, not_types: semantic types; messages are left out unless `types` names them.
            min_similarity: see `Retriever.search`. accept: an extra condition.
            states: life-cycle states, e.g. `(*LIVE, State.ARCHIVED)`; None: all but the expired.
            shared: also what others granted to this user.
            valid_at: what held at this moment ("now"), None: whenever it held.
            as_of: search the vault as it was at this moment.
        """
        if not isinstance(query, str):
            raise InvalidArgument(f"query must be a text, got {query!r:.80}")
        arguments.count(k, "k", 1)
        if accept is not None and not callable(accept):
            raise InvalidArgument(f"accept must be a function of a cube, got {accept!r:.80}")
        _check_similarity(min_similarity)
        if as_of is not None:
            arguments.moment(as_of, "as_of")
        skipped = () if types is not None else not_types
        which = self._which(
            namespace=arguments.names(namespace, "namespace"),
            types=types,
            not_types=skipped,
            kinds=["plaintext"],
            states=states,
            granted="read" if shared else None,
            valid_at=as_of if as_of and valid_at == "now" else _moment(valid_at),
        )
        how: dict[str, Any] = {"k": k, "min_similarity": min_similarity, "accept": accept}
        if as_of is not None:
            return self._core.retriever.rank(query, self._core.vault.find_at(which, as_of), **how)
        if states is not None and set(states) <= set(LIVE):
            hits = self._core.retriever.search(query, which, **how)
        else:
            # What is not live is in no index.
            hits = self._core.retriever.rank(query, self._core.vault.find(which), **how)
        self._seen([h.cube for h in hits])
        return hits

    def nearest(
        self,
        vector: Sequence[float],
        *,
        k: int = 10,
        namespace: Namespace = (),
        types: Sequence[str] | None = None,
        not_types: Sequence[str] = NOT_MEMORIES,
        accept: Callable[[MemCube], bool] | None = None,
    ) -> list[Hit]:
        """The live cubes of this scope nearest to a vector of the vault's embedder, whenever they hold, nearest first.

        Args:
            vector: of the embedder's length. The others: see `search`.

        Raises:
            InvalidArgument: there is no embedder, or it makes other vectors.
        """
        which = self._which(
            namespace=arguments.names(namespace, "namespace"),
            types=types,
            not_types=() if types is not None else not_types,
            kinds=["plaintext"],
        )
        hits = self._core.retriever.nearest(vector, which, k=arguments.count(k, "k", 1), accept=accept)
        self._seen([h.cube for h in hits])
        return hits

    def saying(self, text: str) -> list[MemCube]:
        """The live memories of this scope, whenever they hold, that say this and nothing else, whatever the case and
        spacing."""
        which = self._which(kinds=["plaintext"], not_types=NOT_MEMORIES)
        near = self._core.vault.lexical(query_words(arguments.text(text, "text")), which, _NEAR)
        texts = self._core.vault.texts(which, [id_ for id_, _ in near])
        same = [id_ for id_, said in texts.items() if normal_text(said) == normal_text(text)]
        return list(self._core.vault.get(which, same).values()) if same else []

    def memories_state(self) -> str:
        """A text that is another one when anything is that a prompt of this scope could recall: part of the key of
        whatever keeps replies."""
        which = self._which(kinds=["plaintext"], not_types=NOT_MEMORIES, granted="read", valid_at=now())
        which = replace(which, scope=self._scope.home, sessionless=self._scope.user is None)
        return self._core.vault.digest(which)

    def _seen(self, cubes: Sequence[MemCube]) -> None:
        """These cubes were handed out: counted, and logged where reads are audited."""
        self.scheduler.read(self._scope, [c.id for c in cubes])
        if self._core.audit_reads and cubes:
            with self._core.vault.writing(self._actor, brief=True) as writer:
                writer.audit.lock((c.scope.tenant, c.scope.user or "") for c in cubes)
                for cube in cubes:
                    writer.audit.add("read", cube)


def _moment(valid_at: datetime | Literal["now"] | None) -> datetime | None:
    if valid_at is None:
        return None
    if isinstance(valid_at, datetime):
        return arguments.moment(valid_at, "valid_at")
    if valid_at != "now":
        raise InvalidArgument(f"valid_at must be a datetime, 'now' or None, got {valid_at!r:.80}")
    return now()


def _check_similarity(value: float | None) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
    if value is not None and not number:
        raise InvalidArgument(f"min_similarity must be a number or None, got {value!r:.80}")
