"""Checks of what callers pass: an argument of the wrong kind is refused by its name, before anything is done."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from datetime import datetime
from typing import Any

from memos_core.errors import InvalidArgument

_MOST = 2**63 - 1  # what a database counts with


def text(value: Any, argument: str) -> str:
    """A text that can be stored and searched.

    Raises:
        InvalidArgument: it is something else, or no valid Unicode.
    """
    if not isinstance(value, str):
        raise InvalidArgument(f"{argument} must be a text, got {value!r:.80}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidArgument(f"{argument} holds a lone surrogate, which is not valid Unicode") from None
    return value


def whole(text: str) -> str:
    """The text with a question mark for each half character (a lone surrogate, as of a reply that was cut off)."""
    return text.encode(errors="replace").decode()


def name(value: Any, argument: str) -> str:
    """A text without NUL, as ids, keys, types and labels are: a text that every database can compare.

    Raises:
        InvalidArgument: it is something else.
    """
    if "\x00" in text(value, argument):
        raise InvalidArgument(f"{argument} must not hold a NUL character, got {value!r:.80}")
    return str(value)


def names(value: Any, argument: str) -> tuple[str, ...]:
    """Several of them.

    Raises:
        InvalidArgument: it is one text (which would be taken apart into its letters), or no list of texts.
    """
    if not isinstance(value, tuple | list) and (
        isinstance(value, str | bytes) or not isinstance(value, Sequence | Set)
    ):
        raise InvalidArgument(f"{argument} must be a list or tuple of strings, got {value!r:.80}")
    return tuple(name(one, argument) for one in value)


def count(value: Any, argument: str, least: int = 0) -> int:
    """A whole number of at least `least`.

    Raises:
        InvalidArgument: it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InvalidArgument(f"{argument} must be {least} or more, a whole number, got {value!r:.80}")
    if value > _MOST:
        raise InvalidArgument(f"{argument} is too large, got {value!r:.80}; at most {_MOST}")
    return value


def moment(value: Any, argument: str) -> datetime:
    """A datetime with a time zone.

    Raises:
        InvalidArgument: it is something else.
    """
    if not isinstance(value, datetime):
        raise InvalidArgument(f"{argument} must be a datetime, got {value!r:.80}")
    if value.utcoffset() is None:
        raise InvalidArgument(
            f"{argument} has no time zone; pass an aware one, e.g. datetime.now(timezone.utc), got {value!r}"
        )
    return value


def every(value: Any, argument: str, kind: type) -> list[Any]:
    """Several things of one kind.

    Raises:
        InvalidArgument: it is something else.
    """
    if isinstance(value, str | bytes | kind) or not isinstance(value, Iterable):
        raise InvalidArgument(f"{argument} must be a list of {kind.__name__}s, got {value!r:.80}")
    found = list(value)
    for one in found:
        if not isinstance(one, kind):
            raise InvalidArgument(f"{argument} must be a list of {kind.__name__}s, one is {one!r:.80}")
    return found
