"""mem0's filter language as a pure function: from a filter dict to a condition on a memory's fields."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from math import isfinite
from typing import Any

from memos_core.errors import InvalidArgument

Fields = Mapping[str, Any]
Condition = Callable[[Fields], bool]
_Test = Callable[[Any], bool]

WILDCARD = "*"
_RANGES: dict[str, Callable[[Any, Any], bool]] = {
    "gt": lambda value, bound: value > bound,
    "gte": lambda value, bound: value >= bound,
    "lt": lambda value, bound: value < bound,
    "lte": lambda value, bound: value <= bound,
}
_LOGICAL = ("AND", "OR", "NOT")
OPERATORS = ("eq", "ne", *_RANGES, "in", "nin", "contains", "icontains")


def condition(filters: Mapping[str, Any]) -> Condition:
    """The condition a filter dict describes; all its entries must hold.

    An entry is `{key: value}` (equal), `{key: [values]}` (one of), `{key: "*"}` (there is one),
    `{key: {operator: operand, …}}` (all hold), `{"AND": [filters]}`, `{"OR": [filters]}` or
    `{"NOT": [filters]}` (none holds).
    A key may be a path into nested fields, "address.city" or "items[].name".
    A field that is a list matches if one of its elements does. A field that is missing or null matches no
    entry, `ne` and `nin` included.

    Args:
        filters: as mem0's `search(filters=…)` takes them; logical operators nest to any depth.

    Raises:
        InvalidArgument: an unknown operator, or an operand of the wrong type; raised now, not while matching.
    """
    if not isinstance(filters, Mapping):
        raise InvalidArgument(f"filters must be a dict, got {type(filters).__name__}")
    parts = [
        _logical(key, value) if key in _LOGICAL else _field(key, value) for key, value in filters.items()
    ]
    return lambda fields: all(part(fields) for part in parts)


def _logical(name: str, value: Any) -> Condition:
    if not isinstance(value, list) or not all(isinstance(v, Mapping) for v in value):
        raise InvalidArgument(f"{name} operator requires a list of conditions")
    if not value and name != "AND":
        raise InvalidArgument(f"{name} operator requires a non-empty list of conditions")
    parts = [condition(v) for v in value]
    if name == "AND":
        return lambda fields: all(part(fields) for part in parts)
    if name == "OR":
        return lambda fields: any(part(fields) for part in parts)
    return lambda fields: not any(part(fields) for part in parts)


def _field(key: Any, value: Any) -> Condition:
    if not isinstance(key, str) or key.startswith("$"):
        raise InvalidArgument(
            f"Unsupported metadata filter operator: {key!r}; use a field's name, AND, OR or NOT"
        )
    if isinstance(value, Mapping):
        if not value:
            raise InvalidArgument(f"filters[{key!r}] is an empty dict; use one of {', '.join(OPERATORS)}")
        tests = [_test(key, operator, operand) for operator, operand in value.items()]
    elif isinstance(value, list):
        tests = [_test(key, "in", value)]
    elif value == WILDCARD:
        tests = [lambda _: True]
    else:
        tests = [_test(key, "eq", value)]

    def holds(fields: Fields) -> bool:
        found = fields.get(key)
        if found is None and ("." in key or key.endswith("[]")):
            found = _inside(fields, key)
        return found is not None and all(test(found) for test in tests)

    return holds


def _inside(fields: Fields, path: str) -> Any:
    """What stands at a path like "address.city", or "items[].name": of all elements of a list. None for nothing."""
    found: list[Any] = [fields]
    for step in path.split("."):
        name = step.removesuffix("[]")
        below = [one[name] for one in found if isinstance(one, Mapping) and name in one]
        found = [x for one in below for x in (one if isinstance(one, list) else [one]) if x is not None]
    return found or None


def _test(key: str, operator: Any, operand: Any) -> _Test:
    if operator == "eq":
        return lambda found: any(_equal(v, operand) for v in _values(found))
    if operator == "ne":
        return lambda found: not any(_equal(v, operand) for v in _values(found))
    if operator in ("in", "nin"):
        if not isinstance(operand, list | tuple | set | frozenset):
            raise InvalidArgument(f"filters[{key!r}]: {operator!r} takes a list, got {operand!r}")
        wanted = list(operand)
        member: _Test = lambda found: any(_equal(v, w) for v in _values(found) for w in wanted)  # noqa: E731
        return member if operator == "in" else lambda found: not member(found)
    if operator in ("contains", "icontains"):
        if not isinstance(operand, str):
            raise InvalidArgument(f"filters[{key!r}]: {operator!r} takes a text, got {operand!r}")
        fold = str.casefold if operator == "icontains" else str
        part = fold(operand)
        return lambda found: any(part in fold(v) for v in _values(found) if isinstance(v, str))
    if operator in _RANGES:
        bound, compare = _bound(operand), _RANGES[operator]
        if bound is None:
            raise InvalidArgument(
                f"filters[{key!r}]: {operator!r} takes a number or an ISO date, got {operand!r}"
            )
        return lambda found: any(
            compare(o, bound) for o in map(_ordered, _values(found)) if isinstance(o, type(bound))
        )
    raise InvalidArgument(
        f"Unsupported metadata filter operator: {operator!r}; use one of {', '.join(OPERATORS)}"
    )


def _values(found: Any) -> list[Any]:
    return found if isinstance(found, list) else [found]


def _equal(a: Any, b: Any) -> bool:
    return isinstance(a, bool) is isinstance(b, bool) and bool(a == b)


def _bound(operand: Any) -> float | datetime | None:
    """What a value is compared with: as `_ordered`, and a number may be written as a text."""
    found = _ordered(operand)
    if found is not None or not isinstance(operand, str):
        return found
    try:
        number = float(operand)
    except ValueError:
        return None
    return number if isfinite(number) else None


def _ordered(value: Any) -> float | datetime | None:
    """A value as something with an order: a moment (without a zone: UTC), or a number; None for others."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    return None
