"""From a locator (vault and scope) back to an open MemOS: one that this process has open, else a newly opened
one.

A LlamaIndex workflow `Context` carries a memory as plain JSON, so a restored memory has to find its vault
itself.
"""

from __future__ import annotations

import threading
import weakref
from pathlib import Path

from memos_core.cube import Principal, Scope
from memos_core.errors import InvalidArgument
from memos_core.memos import MemOS, given

_lock = threading.Lock()
_attached: weakref.WeakSet[MemOS] = weakref.WeakSet()
_reopened: dict[tuple[str | None, str, str | None, str], MemOS] = {}


def attach(memos: MemOS) -> None:
    """Let memories restored from a workflow `Context` use this open MemOS if they belong to its vault and
    scope, with its embedder, model and extractor. `MemOSMemory.from_defaults` does this for the one it is
    given; call it in a process that only restores. It is not kept alive by this.

    Args:
        memos: an open MemOS or a view of one.
    """
    with _lock:
        _attached.add(memos)


def close_reopened() -> None:
    """Close every vault that was opened for a restored memory. Such a memory opens it again at its next
    use."""
    with _lock:
        opened = list(_reopened.values())
        _reopened.clear()
    for memos in opened:
        memos.close()


def reopen(url: str | None, scope: Scope, embedder: str) -> MemOS:
    """An open view for a locator; vaults opened here are shared by all memories and stay open.

    Args:
        url: the vault; None for the default one. scope: what the view is narrowed to; a vault opened here
            acts for the scope's user only. embedder: for opening, see `MemOS.embedder`.

    Raises:
        InvalidArgument: there is no such vault. VaultError, VaultNewer: it cannot be opened.
    """
    with _lock:
        for memos in _attached:
            if not memos.closed and memos.url == url and memos.scope.contains(scope):
                return _narrow(memos, scope)
        key = (url, scope.tenant, scope.user, embedder)
        known = _reopened.get(key)
        if known is None or known.closed:
            if url is not None and not Path(url).exists():
                raise InvalidArgument(f"vault: {url} does not exist here; nothing can be restored from it")
            principal = Principal(tenant=scope.tenant, user=scope.user)
            known = MemOS.open(
                url, tenant=scope.tenant, user=scope.user, principal=principal, embedder=embedder
            )
            _reopened[key] = known
        return _narrow(known, scope)


def narrow(memos: MemOS, *, user: str | None, session: str | None) -> MemOS:
    """The view a memory works through.

    Raises:
        InvalidArgument: no MemOS. AccessDenied: `memos` is fixed to another user or session.
    """
    return given(memos).scoped(user=user, session=session, adapter="llama_index")


def _narrow(memos: MemOS, scope: Scope) -> MemOS:
    return memos.scoped(user=scope.user, agent=scope.agent, session=scope.session, adapter="llama_index")
