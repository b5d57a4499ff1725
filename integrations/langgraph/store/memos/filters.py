"""What matches what: filters on item values and conditions on namespaces. Pure rules, no I/O."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any

from langgraph.store.base import MatchCondition

from memos_core.errors import InvalidArgument

_ORDERED: dict[str, Callable[[Any, Any], bool]] = {
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}
_OPERATORS = ("$eq", "$ne", *_ORDERED)


def check_filter(wanted: Any) -> None:
    """Refuse a filter before it is used, whether or not there is anything to compare.

    Raises:
        InvalidArgument: it is no mapping, or has an operator that does not exist.
    """
    if not isinstance(wanted, Mapping):
        raise InvalidArgument(f"filter must be a mapping of keys to values or operators, got {wanted!r}")
    for value in wanted.values():
        _check(value)


def _check(wanted: Any) -> None:
    if isinstance(wanted, Mapping):
        for key, value in wanted.items():
            if _is_operators(wanted) and key not in _OPERATORS:
                raise InvalidArgument(f"filter: {key!r} is no operator, use one of {', '.join(_OPERATORS)}")
            _check(value)


def check_condition(condition: MatchCondition) -> None:
    """Refuse a condition on namespaces before it is used.

    Raises:
        InvalidArgument: it is neither "prefix" nor "suffix".
    """
    if condition.match_type not in ("prefix", "suffix"):
        raise InvalidArgument(f"match_type must be 'prefix' or 'suffix', got {condition.match_type!r}")


def accepts(value: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether an item's value matches a filter, as in LangGraph's InMemoryStore.

    Every key of the filter must match. A missing key counts as None. An object in the filter matches an
    object that has its keys, and maybe others; a list matches a list of equal length. `$gt` and its like
    compare numbers, and numbers written as text, as numbers, other texts as texts; anything else does not
    match. Unlike there, True is not 1, as in JSON, and a value that cannot be ordered is no error.
    """
    return all(_matches(value.get(key), expected) for key, expected in wanted.items())


def _matches(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, Mapping):
        if _is_operators(wanted):
            return all(_apply(value, name, operand) for name, operand in wanted.items())
        return isinstance(value, dict) and all(_matches(value.get(k), v) for k, v in wanted.items())
    if isinstance(wanted, list | tuple):
        return isinstance(value, list) and len(value) == len(wanted) and all(map(_matches, value, wanted))
    return _equal(value, wanted)


def _apply(value: Any, name: str, operand: Any) -> bool:
    if name == "$eq":
        return _equal(value, operand)
    if name == "$ne":
        return not _equal(value, operand)
    left, right = _number(value), _number(operand)
    if left is not None and right is not None:
        return _ORDERED[name](left, right)
    return isinstance(value, str) and isinstance(operand, str) and _ORDERED[name](value, operand)


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(_equal, a, b))
    return bool(a == b)


def _number(value: Any) -> float | int | None:
    if isinstance(value, int | float):
        return None if isinstance(value, bool) else value
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            return None
        return number if isfinite(number) else None
    return None


def _is_operators(wanted: Mapping[Any, Any]) -> bool:
    return any(isinstance(key, str) and key.startswith("$") for key in wanted)


def namespace_matches(namespace: tuple[str, ...], condition: MatchCondition) -> bool:
    """Whether a namespace begins, or ends, with a path in which "*" stands for any one label."""
    path = condition.path
    if len(namespace) < len(path):
        return False
    labels = (
        namespace[: len(path)]
        if condition.match_type == "prefix"
        else namespace[len(namespace) - len(path) :]
    )
    return all(expected in ("*", label) for label, expected in zip(labels, path, strict=True))
