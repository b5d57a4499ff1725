"""What a `search` or `get_all` asks for, read from the call forms of 0.1, 1.x and 2.2."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from mem0_memos import record
from mem0_memos.filters import Condition, condition
from mem0_memos.ids import ENTITY_IDS, Ids, ids_to_read
from memos_core.cube import MemCube
from memos_core.errors import InvalidArgument

log = logging.getLogger("mem0_memos")

TOP_K = 20
THRESHOLD = 0.1
OLD_LIMIT = 100  # the default before 2.0, which had no threshold


@dataclass(frozen=True)
class Request:
    """Args:
    ids: whose memories. matches: the rest of the filters. top_k: how many at most.
    show_expired: whether memories past their expiration date count. old: called in the form before 2.0.
    at: the moment at which it is asked, where it is not now: what was said later is not known then.
    """

    ids: Ids
    matches: Condition
    top_k: int
    show_expired: bool
    old: bool
    at: datetime | None = None

    @classmethod
    def parse(
        cls,
        call: str,
        filters: Mapping[str, Any] | None,
        others: Mapping[str, Any],
        top_k: int | None,
        show_expired: bool,
        *,
        strict: bool = False,
        at: datetime | None = None,
    ) -> Self:
        """Read the arguments of a call.

        Args:
            call: its name, for messages. filters, top_k, show_expired: as passed.
            others: its other arguments: ids at top level and `limit`; any other is ignored with a warning.
            strict: refuse those, as 2.0 and later do. at: see the class.

        Raises:
            InvalidArgument: no id, a filter or a number that cannot be used.
        """
        top_level = {name: others[name] for name in ENTITY_IDS if name in others}
        old = bool(top_level) or "limit" in others
        if strict and top_level:
            raise InvalidArgument(
                f"Top-level entity parameters {sorted(top_level)} are not supported in {call}(). "
                "Use filters={'user_id': '...'} instead."
            )
        if strict and old:
            raise InvalidArgument(f"limit is not an argument of {call}(); use top_k")
        unknown = sorted(set(others) - {*ENTITY_IDS, "limit"})
        if unknown:
            log.warning("%s(): ignoring unknown arguments: %s", call, ", ".join(unknown))
        count = others.get("limit") if top_k is None else top_k
        if count is None:
            count = OLD_LIMIT if old else TOP_K
        if not isinstance(count, int) or isinstance(count, bool):
            raise InvalidArgument("top_k must be a valid integer")
        if count < 0:
            raise InvalidArgument(f"Invalid top_k: {count}. Must be a non-negative integer.")
        ids, rest = ids_to_read(filters, top_level)
        return cls(ids, condition(rest), count, bool(show_expired), old, at)

    def lowest_score(self, threshold: Any) -> float:
        """The threshold that applies: the one passed, else the default of the form of the call.

        Raises:
            InvalidArgument: it is not a number from 0 to 1.
        """
        if threshold is None:
            return 0.0 if self.old else THRESHOLD
        if not isinstance(threshold, int | float):
            raise InvalidArgument("threshold must be a valid number")
        if not 0 <= threshold <= 1:
            raise InvalidArgument(f"Invalid threshold: {threshold}. Must be between 0 and 1 (inclusive).")
        return float(threshold)

    def accepted(self, cube: MemCube) -> record.Payload | None:
        """The fields of a cube that is to be shown; None for others."""
        if self.at is not None and record.said_at(cube) > self.at:
            return None
        payload = record.payload_of(cube)
        shown = (self.show_expired or not record.is_expired(payload, self.at)) and self.matches(payload)
        return payload if shown else None
