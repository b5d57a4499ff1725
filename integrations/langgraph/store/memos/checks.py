"""What no operation can be done with is refused here, before anything is done."""

from __future__ import annotations

import math
import re
from typing import Any

from langgraph.store.base import (
    GetOp,
    InvalidNamespaceError,
    ListNamespacesOp,
    Op,
    PutOp,
    SearchOp,
    validate_op_namespace,
)

from langgraph.store.memos import filters
from memos_core.errors import InvalidArgument

_IN_NO_LABEL = re.compile("[\x00-\x1f\ud800-\udfff]")
_IN_NO_KEY = re.compile("[\x00\ud800-\udfff]")


def check(op: Op) -> None:
    """Refuse an operation that cannot be done.

    Raises:
        InvalidNamespaceError: a namespace that no store takes, or with control characters or half a character.
        InvalidArgument: another part; the message names it.
    """
    if not isinstance(op, GetOp | PutOp | SearchOp | ListNamespacesOp):
        raise InvalidArgument(
            f"unknown operation {type(op).__name__}; use GetOp, PutOp, SearchOp or ListNamespacesOp"
        )
    if isinstance(op, ListNamespacesOp):
        for condition in op.match_conditions or ():
            filters.check_condition(condition)
            _check_labels(condition.path)
    else:
        _check_labels(op.namespace_prefix if isinstance(op, SearchOp) else op.namespace)
    validate_op_namespace(op)
    if isinstance(op, PutOp | GetOp):
        _check_text(op.key, "key")
        if isinstance(op, PutOp) and op.value is not None:
            _check_put(op)
        return
    _check_count(op.limit, "limit")
    _check_count(op.offset, "offset")
    if isinstance(op, ListNamespacesOp):
        if op.max_depth is not None:
            _check_count(op.max_depth, "max_depth", least=1)
        return
    if op.query is not None and not isinstance(op.query, str):
        raise InvalidArgument(f"query must be a text or None, got {op.query!r:.80}")
    if op.filter is not None:
        filters.check_filter(op.filter)


def _check_put(op: PutOp) -> None:
    if not op.namespace:
        raise InvalidNamespaceError("Namespace cannot be empty.")
    if op.namespace[0] == "langgraph":
        raise InvalidNamespaceError(f'Root label for namespace cannot be "langgraph". Got: {op.namespace}')
    paths = op.index if isinstance(op.index, list | tuple) else ()
    if op.index not in (None, False) and not isinstance(op.index, list | tuple):
        raise InvalidArgument(f"index must be None, False or a list of paths, got {op.index!r:.80}")
    for path in paths:
        if not isinstance(path, str) or not path:
            raise InvalidArgument(f"index: each path must be a non-empty text, got {path!r:.80}")
    if op.ttl is not None and not is_positive(op.ttl):
        raise InvalidArgument(f"ttl must be a number of minutes above 0, or None, got {op.ttl!r:.80}")


def _check_labels(labels: Any) -> None:
    if isinstance(labels, str) or not isinstance(labels, tuple | list):
        raise InvalidNamespaceError(f"A namespace is a tuple of labels, got {labels!r:.80}")
    for label in labels:
        if isinstance(label, str) and _IN_NO_LABEL.search(label):
            raise InvalidNamespaceError(
                f"Namespace labels must be valid Unicode without control characters, got {label!r:.80}"
            )


def _check_text(value: Any, argument: str) -> None:
    if not isinstance(value, str) or not value or _IN_NO_KEY.search(value):
        raise InvalidArgument(
            f"{argument} must be a non-empty string of valid Unicode without NUL, got {value!r:.80}"
        )


def _check_count(value: Any, argument: str, least: int = 0) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InvalidArgument(f"{argument} must be a whole number, {least} or more, got {value!r:.80}")


def is_positive(value: Any) -> bool:
    """Whether a value is a finite number above 0."""
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
    )
