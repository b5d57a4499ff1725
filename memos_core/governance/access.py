"""The one place where access is decided (DESIGN: rule 3)."""

from __future__ import annotations

from memos_core.cube import Principal, Scope
from memos_core.errors import AccessDenied


def effective_scope(principal: Principal, scope: Scope) -> Scope:
    """The scope a call of `principal` really has, given the scope it asked for.

    A principal with a user sees that user's memory, whatever it asked for within its tenant. The operator
    sees what it asks for.

    Args:
        principal: who calls.
        scope: what the call asked for.

    Raises:
        AccessDenied: the scope is another tenant's or another user's.
    """
    if principal.tenant != scope.tenant:
        raise AccessDenied(
            f"{principal.label} of tenant {principal.tenant!r} may not act in tenant {scope.tenant!r}"
        )
    if principal.user is None:
        return scope
    if scope.user not in (None, principal.user):
        raise AccessDenied(f"{principal.label} may not act in the scope of user {scope.user!r}")
    return scope.narrow(user=principal.user)
