"""Everybody's prefixes and conversations as one forest of tokens: from what is held and expected to a plan's segments,
and from the plan's moves back to what to do."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from memos_core.activation.keys import salt_for, shared_length
from memos_core.activation.radix import Ids, Node
from memos_core.cube import Scope
from memos_core.scheduler.interfaces import Tiers
from memos_core.scheduler.placement import Move, Segment
from memos_core.scheduler.predictor import Forecast

_OLDER = 0.5  # how likely a scope's second latest conversation goes on, against the latest; and so on


@dataclass(frozen=True)
class Release:
    """Take out of memory what stands behind the first `keep` of an owner's tokens: of resident memory, or of
    conversations."""

    scope: Scope
    salt: str
    tokens: Ids
    keep: int
    resident: bool
    reason: str


@dataclass(frozen=True)
class Fetch:
    """Have the first `n_tokens` of a scope's resident prefix in memory, or, if not `hold`, on disk."""

    scope: Scope
    n_tokens: int
    hold: bool
    reason: str


Step = Release | Fetch


class Piece(Node):
    """Some tokens of an owner, as a plan sees them: who needs them, and where they are now."""

    def __init__(self, ids: Ids | None = None, parent: Piece | None = None) -> None:
        super().__init__(np.empty(0, np.int64) if ids is None else ids, parent)
        self.homes: list[Scope] = []  # whose resident prefix they belong to, who was here last first
        self.in_memory = self.on_disk = False
        self.rate = 0.0
        self.unlikely = 1.0  # the chance that nobody needs them soon
        self.move: Move | None = None
        self.salt: str = parent.salt if parent else ""

    def front(self, n: int) -> Piece:
        """See `Node.front`."""
        front = super().front(n)
        front.homes, front.in_memory, front.on_disk = list(self.homes), self.in_memory, self.on_disk
        front.rate, front.unlikely = self.rate, self.unlikely
        return front

    def used_by(self, rate: float, chance: float) -> None:
        """Somebody needs them, so often."""
        self.rate += rate
        self.unlikely *= 1.0 - chance

    @property
    def score(self) -> float:
        """What holding them is worth; 0 where it was not weighed."""
        return self.move.score if self.move else 0.0

    def extend(self, tokens: Ids) -> list[Piece]:
        """Have these tokens in the tree below this root; returns their path."""
        end, n = self.reach(tokens)
        return (Piece(tokens[n:], end) if n < len(tokens) else end).path()

    def segment(self, key: str, parent: str | None) -> Segment:
        """As the plan takes it."""
        n = len(self.ids)
        return Segment(
            key, parent, self.start, n, self.rate, 1.0 - self.unlikely, n * self.in_memory, n * self.on_disk
        )


class Forest:
    """A tree for each owner. Not changed any more once the steps are made.

    Args:
        forecasts: of the scopes to weigh, who was here last first.
        prefixes: what the prompts of their next sessions begin with, where that is known.
        tiers: what is held.
    """

    def __init__(
        self, forecasts: Mapping[Scope, Forecast], prefixes: Mapping[Scope, Ids], tiers: Tiers
    ) -> None:
        self._prefixes = {home: prefixes[home] for home in forecasts if home in prefixes}
        self._can_save = tiers.disk_budget > 0
        self._roots: dict[str, Piece] = {}
        self._recent: dict[str, Scope] = {}  # of each owner, the scope that was here last
        for home in forecasts:
            self._recent.setdefault(salt_for(home), home)
        self._add_prefixes(forecasts, tiers)
        self._add_chains(forecasts, tiers)
        self._pieces = [p for salt in self._recent for p in self._root(salt).below() if p.parent is not None]
        self._fresh = 0.0

    def _root(self, salt: str) -> Piece:
        if salt not in self._roots:
            self._roots[salt] = Piece()
            self._roots[salt].salt = salt
        return self._roots[salt]

    def _add_prefixes(self, forecasts: Mapping[Scope, Forecast], tiers: Tiers) -> None:
        """What next sessions begin with; agents of one user that begin alike share it."""
        files: dict[str, list[Ids]] = defaultdict(list)
        for salt, tokens, _ in tiers.files():
            files[salt].append(tokens)
        for home, prefix in self._prefixes.items():
            salt, comes = salt_for(home), forecasts[home].comes
            for piece in self._root(salt).extend(prefix):
                piece.homes.append(home)
                piece.used_by(comes.rate, comes.chance)
            saved = max((shared_length(tokens, prefix) for tokens in files[salt]), default=0)
            if saved:
                for piece in self._root(salt).extend(prefix[:saved]):
                    piece.on_disk = True

    def _add_chains(self, forecasts: Mapping[Scope, Forecast], tiers: Tiers) -> None:
        """What is in memory. What no next session begins with is a conversation: of the scope whose prefix it begins
        with, or else of the owner's latest. The latest one is expected to go on, each older one half as much."""
        talks: dict[Scope, list[tuple[int, Piece]]] = defaultdict(list)
        for salt, tokens, used in tiers.chains():
            path = self._root(salt).extend(tokens)
            for piece in path:
                piece.in_memory = True
            whose = next((p.homes[0] for p in reversed(path) if p.homes), self._recent.get(salt))
            if whose is not None and not path[-1].homes:
                talks[whose].append((used, path[-1]))
        for home, ends in talks.items():
            expected = forecasts[home].goes_on
            for age, (_, end) in enumerate(sorted(ends, key=lambda item: -item[0])):
                for piece in end.path():
                    if not piece.homes:
                        piece.used_by(expected.rate * _OLDER**age, expected.chance * _OLDER**age)

    def segments(self) -> list[Segment]:
        """For `plan`: keys are the positions of the pieces."""
        keys = {id(piece): str(n) for n, piece in enumerate(self._pieces)}
        return [
            piece.segment(key, keys.get(id(piece.parent)))
            for piece, key in zip(self._pieces, keys.values(), strict=True)
        ]

    def steps(self, moves: Sequence[Move]) -> list[Step]:
        """What to do, in this order: save what will leave memory, make room, bring what is worth it, the best first."""
        for move in moves:
            self._pieces[int(move.segment.key)].move = move
        self._fresh = max((p.score for p in self._pieces if not p.homes), default=0.0)
        releases = [
            r for move in moves if move.leaves for r in self._release(self._pieces[int(move.segment.key)])
        ]
        fetches = [f for home in self._prefixes for f in self._fetch(home)]
        fetches.sort(key=lambda item: -item[0])
        saves = [fetch for _, fetch in fetches if not fetch.hold]
        return [*saves, *releases, *(fetch for _, fetch in fetches if fetch.hold)]

    def _release(self, piece: Piece) -> list[Release]:
        assert piece.move is not None
        keep = piece.move.tokens if piece.move.tier == "memory" else 0
        if not piece.in_memory or keep >= len(piece.ids):
            return []
        path = piece.path()
        whose = next((p.homes[0] for p in reversed(path) if p.homes), self._recent[piece.salt])
        return [
            Release(
                whose, piece.salt, piece.tokens(), piece.start + keep, bool(piece.homes), piece.move.reason
            )
        ]

    def _fetch(self, home: Scope) -> list[tuple[float, Fetch]]:
        """What is missing of a scope's prefix where it should be, with what it is worth."""
        pieces, _ = self._root(salt_for(home)).walk(self._prefixes[home])
        goal, held, last = 0, 0, pieces[0]
        for piece in pieces:
            if held == piece.start and piece.in_memory:
                held = piece.end
            if goal == piece.start and piece.move is not None and piece.move.tier == "memory":
                goal, last = piece.start + piece.move.tokens, piece
        end = pieces[-1]
        if goal > held and last.move is not None:
            return [(last.score, Fetch(home, goal, True, last.move.reason))]
        saved = not self._can_save or all(piece.on_disk for piece in pieces)
        if not saved and end.move is not None and end.move.tier == "disk" and end.move.tokens == len(end.ids):
            return [(end.score, Fetch(home, end.end, False, end.move.reason))]
        return []

    def worth(self, salt: str, tokens: Ids) -> float:
        """What holding the end of a chain is worth. What came after the plan is as good as the best conversation."""
        root = self._roots.get(salt)
        pieces, n = root.walk(tokens) if root else ([], 0)
        known = pieces[-1].score if pieces else 0.0
        return known if n == len(tokens) else max(known, self._fresh)
