"""From a locator (vault and scope) back to an open MemOS: one that this process has open, else a newly opened
one.

A LlamaIndex workflow `Context` carries a memory as plain JSON, so a restored memory has to find its vault
itself.
"""

from __future__ import annotations

import threading
import weakref
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, PrivateAttr, ValidationError

from memos_core.cube import Principal, Scope, validation_message
from memos_core.errors import InvalidArgument
from memos_core.memos import MemOS, given

IN_MEMORY = ":memory:"
_WHY = "its vault is in memory and ends with the process; open the MemOS with a folder or file instead"
_lock = threading.Lock()
_attached: weakref.WeakSet[MemOS] = weakref.WeakSet()
_reopened: dict[tuple[str | None, str, str | None, str], MemOS] = {}


class Locator(BaseModel):
    """What the LlamaIndex classes have in common: fields that only say where the memory is, so that they survive
    serialisation and pickling, and the open view behind them.

    Args:
        memos: an open `MemOS`, or a narrower view of one; it stays the caller's to close. None opens what `vault`
            names, at first use; without that, the default vault (`MEMOS_VAULT`, else `.memos/vault`).
        vault: what opens the vault, see `MemOS.url`.
        tenant, user, agent, session: the scope, see `memos_core.cube.Scope`.
        embedder: for opening the vault, see `MemOS.embedder`.

    Raises:
        InvalidArgument: an argument cannot be used. AccessDenied: `memos` belongs to another user or session.
    """

    vault: str
    tenant: str = Scope().tenant
    user: str | None = None
    agent: str | None = None
    session: str | None = None
    embedder: str = "auto"
    clearance: list[str] | None = None

    _memos: MemOS | None = PrivateAttr(default=None)

    def __init__(self, memos: MemOS | None = None, **data: Any) -> None:
        data.pop("class_name", None)  # as it was serialised
        known = {name for key, field in type(self).model_fields.items() for name in (key, field.alias)}
        unknown = sorted(data.keys() - known)
        # Of a misspelt user= nobody should learn by reading another user's messages.
        if unknown and type(self).model_config.get("extra") != "allow":
            raise InvalidArgument(
                f"{type(self).__name__} has no {', '.join(unknown)}; it takes memos, "
                f"{', '.join(type(self).model_fields)}"
            )
        view = None
        if memos is not None or data.get("vault") is None:
            view = _view(memos, data)
            data |= {"vault": view.url or IN_MEMORY, "embedder": view.embedder, **view.scope.model_dump()}
            if view.principal.clearance is not None:
                data["clearance"] = sorted(view.principal.clearance)
        try:
            super().__init__(**data)
        except ValidationError as err:
            raise InvalidArgument(validation_message(err)) from None
        self._memos = view

    @property
    def memos(self) -> MemOS:
        """The open view behind this; opened at first use where it was restored.

        Raises:
            InvalidArgument, VaultError, VaultNewer: the vault cannot be opened.
        """
        if self._memos is None:
            if self.vault == IN_MEMORY:
                raise InvalidArgument(f"this memory cannot be restored: {_WHY}")
            scope = scope_of(tenant=self.tenant, user=self.user, agent=self.agent, session=self.session)
            view = reopen(self.vault, scope, self.embedder)
            # What it might not read before, it may not read now.
            self._memos = view if self.clearance is None else view.scoped(clearance=self.clearance)
        return self._memos

    def locate(self) -> None:
        """Make sure that another process can find this memory.

        Raises:
            InvalidArgument: the vault is in memory.
        """
        if self.vault == IN_MEMORY:
            raise InvalidArgument(f"this memory cannot be serialised: {_WHY}")

    def __reduce__(self) -> tuple[Any, ...]:
        self.locate()
        return type(self).model_validate, (self.model_dump(mode="json"),)

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """A copy that shares the open vault, as all memories of one vault do."""
        return self.__copy__()


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
            if url is not None and "://" not in url and not Path(url).exists():
                raise InvalidArgument(f"vault: {url} does not exist here; nothing can be restored from it")
            principal = Principal(tenant=scope.tenant, user=scope.user)
            known = MemOS.open(
                url, tenant=scope.tenant, user=scope.user, principal=principal, embedder=embedder
            )
            _reopened[key] = known
        return _narrow(known, scope)


def scope_of(**parts: str | None) -> Scope:
    """The scope of a locator.

    Raises:
        InvalidArgument: a part is empty or holds control characters.
    """
    try:
        return Scope.model_validate({name: part for name, part in parts.items() if part is not None})
    except ValidationError as err:
        raise InvalidArgument(validation_message(err)) from None


def _view(memos: MemOS | None, data: dict[str, Any]) -> MemOS:
    """The view that a locator of these fields works through, of a MemOS or of the default vault."""
    parts = {name: data.get(name) for name in ("user", "agent", "session")}
    if memos is None:
        return reopen(None, scope_of(tenant=data.get("tenant"), **parts), data.get("embedder", "auto"))
    view = given(memos).scoped(**parts, adapter="llama_index")
    attach(memos)
    return view


def _narrow(memos: MemOS, scope: Scope) -> MemOS:
    return memos.scoped(user=scope.user, agent=scope.agent, session=scope.session, adapter="llama_index")
