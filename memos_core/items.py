"""The cubes of a view as a key-value store sees them: by address, newest first, by a condition on their JSON."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from memos_core import arguments
from memos_core.cube import ANY_USER, Namespace
from memos_core.vault import CubeFilter
from memos_core.vault.items import StoredItem
from memos_core.view import View


class Items(View):
    """Read items, and extend or end their lives."""

    def items_at(self, namespace: Namespace, keys: Collection[str]) -> dict[str, StoredItem]:
        """The items of a namespace with these keys, by key; what is not there is left out.

        Raises:
            VaultError: one of them is damaged.
        """
        found = self._core.vault.items.at(self._exactly(namespace), arguments.names(keys, "keys"))
        self._were_read(found.values())
        return found

    def item_ids(self, namespace: Namespace, keys: Collection[str]) -> list[str]:
        """The ids of the items with these keys, to delete them: it does not matter whether they are damaged."""
        return self._core.vault.items.ids_at(self._exactly(namespace), arguments.names(keys, "keys"))

    def newest_items(
        self, namespace: Namespace = (), *, not_types: Sequence[str] = (), limit: int, offset: int = 0
    ) -> list[StoredItem]:
        """Items at or below a prefix, in the order of their last update, newest first.

        Args:
            not_types: semantic types that are left out; without a namespace also what is no plaintext.
        """
        which = self._below(namespace, not_types)
        return self._core.vault.items.newest(
            which, arguments.count(limit, "limit"), arguments.count(offset, "offset")
        )

    def items_like(
        self,
        accept: Callable[[str, str, str], bool],
        namespace: Namespace = (),
        *,
        not_types: Sequence[str] = (),
        limit: int,
    ) -> list[StoredItem]:
        """The first `limit` items of `newest_items` that meet a condition.

        Args:
            accept: a condition on the cube's id, its text and its payload (JSON, as it is stored, with "data" in it).
        """
        which = self._below(namespace, not_types)
        return self._core.vault.items.matching(which, accept, arguments.count(limit, "limit", 1))

    def item_namespaces(self, prefix: Namespace = ()) -> list[Namespace]:
        """As `namespaces`, for namespaces with many items each."""
        return self._core.vault.items.namespaces(self._which(namespace=arguments.names(prefix, "prefix")))

    def prolong(self, items: Iterable[StoredItem]) -> None:
        """Let items that have a ttl live that long from now on, because they were used. A view of every user's
        memory only reads: it extends nothing."""
        living = [item for item in items if item.ttl is not None]
        if living and self._scope.user != ANY_USER:
            self._core.vault.items.prolong((self._scope.tenant, self._scope.user or ""), living)

    def drop_expired(self, types: Sequence[str] | None = None) -> int:
        """Delete cubes of this scope whose ttl has passed, without waiting for the life cycle to do it.

        Args:
            types: semantic types; None: all.

        Returns:
            How many went.
        """
        vault, which = self._core.vault, self._which(types=types, states=None, expired=True)
        with vault.db.read() as conn:
            if not vault.items.over(conn, which):
                return 0
        with vault.writing(self._actor) as writer:
            if self._scope.user != ANY_USER:  # so that nobody prolongs what is about to go
                writer.audit.lock([(self._scope.tenant, self._scope.user or "")])
            over = vault.items.over(writer.conn, which)
            gone = writer.delete(over, "expire")
        self._core.forget(gone)
        return len(over)

    def _exactly(self, namespace: Namespace) -> CubeFilter:
        return self._which(
            namespace=arguments.names(namespace, "namespace"), exact_namespace=True, states=None
        )

    def _below(self, namespace: Namespace, not_types: Sequence[str]) -> CubeFilter:
        return self._which(
            namespace=arguments.names(namespace, "namespace"),
            not_types=not_types,
            kinds=None if namespace else ["plaintext"],
        )

    def _were_read(self, items: Collection[StoredItem]) -> None:
        """These items were handed out: counted, and logged where reads are audited."""
        self.scheduler.read(self._scope, [item.id for item in items])
        if self._core.audit_reads and items:
            with self._core.vault.writing(self._actor) as writer:
                owners = [(self._scope.tenant, item.user) for item in items]
                writer.audit.lock(owners)
                for item, owner in zip(items, owners, strict=True):
                    writer.audit.note("read", owner, item.id, item.version)
