"""Which KV prefixes are held where, under byte budgets: by the prefill seconds that holding them is expected to
save for each byte. Pure rules, no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Tier = Literal["memory", "disk", "none"]

STICKY = 0.25  # what is held counts so much more than what would replace it
WORTH_BUILDING = 0.05  # the least chance of a use for which KV is computed ahead


@dataclass(frozen=True)
class Costs:
    """What the model and the machine take, measured.

    Args:
        token_s: seconds to prefill a token. position_s: and for each token before it (attention).
        load_s: seconds to read a byte from disk. open_s: and for each file.
        token_bytes: bytes of KV a token.
    """

    token_s: float
    position_s: float
    load_s: float
    open_s: float
    token_bytes: int

    def prefill(self, start: int, end: int) -> float:
        """Seconds to compute the tokens from position `start` up to `end`, all before them being there."""
        return self.token_s * (end - start) + self.position_s * (end * end - start * start) / 2

    def load(self, tokens: int) -> float:
        """Seconds to read so many tokens from disk."""
        return self.open_s + self.load_s * self.token_bytes * tokens if tokens else 0.0


_Room = dict[Literal["memory", "disk"], int]  # tokens that still fit
_NOTHING = "not held: too unlikely to compute it ahead"

SMOLLM2_CPU = Costs(token_s=3.68e-3, position_s=7.8e-7, load_s=4e-10, open_s=0.01, token_bytes=46_080)
"""SmolLM2-135M in float32 on one CPU thread: 4,096 tokens in 21.6 s, 8,000 in 54.3 s; 2.5 GB/s from disk."""


@dataclass(frozen=True)
class Segment:
    """A piece of a prefix chain: tokens that stand behind its parent's in every prompt that has them.

    Args:
        key: names it. parent: key of the segment in front of it, None at the beginning of a prompt.
        start: tokens in front of it. tokens: its own.
        rate: uses for each second that it is held. chance: of a use within `within` seconds.
        in_memory, on_disk: how many of its tokens are there now, from its first one on.
    """

    key: str
    parent: str | None
    start: int
    tokens: int
    rate: float
    chance: float = 1.0
    within: float = 86_400.0
    in_memory: int = 0
    on_disk: int = 0

    @property
    def held(self) -> int:
        """How many of its tokens need not be computed."""
        return max(self.in_memory, self.on_disk)


@dataclass(frozen=True)
class Move:
    """What to do with a segment: where it belongs, how many of its tokens, and why."""

    segment: Segment
    tier: Tier
    tokens: int
    saves_s: float
    score: float
    also_on_disk: int = 0
    verdict: str = ""

    @property
    def action(self) -> str:
        """ "build", "load", "save", "drop" or "keep"."""
        segment = self.segment
        if self.tier == "none":
            return "drop" if segment.held else "keep"
        if self.tokens > segment.held:
            return "build"
        if self.tier == "memory":
            return "load" if self.tokens > segment.in_memory else "keep"
        return "save" if self.tokens > segment.on_disk else "keep"

    @property
    def reason(self) -> str:
        """One sentence for a person."""
        segment = self.segment
        return (
            f"{segment.chance:.0%} chance of a use within {duration(segment.within)}, which would save "
            f"{self.saves_s:.2g} s of prefill: {self.verdict}"
        )


@dataclass
class _Group:
    """Segments of one chain that are taken or left together, and the groups that stand behind them."""

    segments: list[Segment]
    gain: float  # seconds saved for each second of holding
    tokens: int
    behind: list[_Group]

    @property
    def score(self) -> float:
        return self.gain / self.tokens if self.tokens else 0.0

    def absorb(self) -> None:
        """Take in what stands behind and is worth more, so that no group behind is (Horn's rule for trees)."""
        while self.behind:
            best = max(self.behind, key=lambda g: g.score)
            if best.score <= self.score:
                return
            self.behind.remove(best)
            self.behind += best.behind
            self.segments += best.segments
            self.gain += best.gain
            self.tokens += best.tokens


def plan(
    segments: Sequence[Segment],
    *,
    memory: int,
    disk: int,
    costs: Costs,
    sticky: float = STICKY,
    worth_building: float = WORTH_BUILDING,
) -> list[Move]:
    """Decide for every segment where it belongs.

    Segments are taken by expected saved seconds a byte, a chain's beginning never after its end: where a segment
    is worth more than the one in front of it, the two are weighed together. The best go to memory until it is
    full, the next to disk. What is held now counts `sticky` more, so that near-equals do not change places all the
    time.

    Args:
        segments: all there are; a parent that is not among them counts as missing, and its children too.
        memory, disk: bytes. costs: measured.
        worth_building: the least chance of a use for which KV is computed ahead.

    Returns:
        A move for each segment, in the order to make them: what leaves first (ends of chains before beginnings),
        then what comes or stays, the best first (beginnings before ends). Equal input gives equal output.
    """
    known = {s.key: s for s in segments}
    wanted: dict[str, int] = {}
    for segment in sorted(segments, key=_beginnings_first):
        parent = segment.parent
        if parent is not None and (parent not in wanted or wanted[parent] < known[parent].tokens):
            wanted[segment.key] = 0  # useless without what stands in front of it
        else:
            builds = segment.chance >= worth_building and segment.rate > 0
            wanted[segment.key] = segment.tokens if builds else segment.held
    places: dict[str, tuple[Tier, str]] = {}
    ranked: list[tuple[float, Segment]] = []
    room: _Room = {
        "memory": memory // costs.token_bytes,
        "disk": disk // costs.token_bytes,
    }
    for group in _groups(segments, wanted, costs, sticky):
        place = _place(group, places, room)
        for segment in group.segments:
            places[segment.key] = place if wanted[segment.key] else ("none", _NOTHING)
            ranked.append((group.score, segment))
    moves = []
    for score, segment in ranked:
        tier, verdict = places[segment.key]
        tokens = wanted[segment.key] if tier != "none" else 0
        # A copy on disk of what is in memory stays while there is room: leaving memory costs nothing then.
        copy = segment.on_disk if tier == "memory" and segment.on_disk <= room["disk"] else 0
        room["disk"] -= copy
        saves = costs.prefill(segment.start, segment.start + segment.tokens)
        moves.append(Move(segment, tier, tokens, saves, score, copy, verdict))
    leaving = [m for m in reversed(moves) if m.action in ("drop", "save")]
    return [*leaving, *(m for m in moves if m.action not in ("drop", "save"))]


def _place(
    group: _Group, places: dict[str, tuple[Tier, str]], room: _Room
) -> tuple[Tier, str]:
    """Where a group goes, and why; takes the room there."""
    parent = group.segments[0].parent
    above = places[parent][0] if parent is not None and parent in places else "none"
    if not group.tokens:
        return "none", _NOTHING
    if group.gain <= 0:
        return "none", "not expected again"
    if parent is not None and above == "none":
        return "none", "what stands in front of it is not held"
    if group.tokens <= room["memory"] and (parent is None or above == "memory"):
        room["memory"] -= group.tokens
        return "memory", "in memory, among the best for its bytes"
    if group.tokens <= room["disk"]:
        room["disk"] -= group.tokens
        return "disk", "on disk, because others are worth more for their bytes in memory"
    return "none", "not held, because others are worth more for their bytes"


def _groups(segments: Iterable[Segment], wanted: dict[str, int], costs: Costs, sticky: float) -> list[_Group]:
    """The segments in groups, best first; no group is worth more than the one in front of it in its chain."""
    groups: dict[str, _Group] = {}
    for segment in sorted(segments, key=_beginnings_first):
        tokens = wanted[segment.key]
        saved = costs.prefill(segment.start, segment.start + tokens)
        bonus = 1.0 + sticky * segment.held / max(segment.tokens, 1)
        group = _Group([segment], segment.rate * saved * bonus, tokens, [])
        if segment.parent in groups:
            groups[segment.parent].behind.append(group)
        groups[segment.key] = group
    for group in reversed(groups.values()):  # ends first
        group.absorb()
    absorbed = {s.key for g in groups.values() for s in g.segments[1:]}
    rest = [g for key, g in groups.items() if key not in absorbed]
    return sorted(rest, key=lambda g: (-g.score, *_beginnings_first(g.segments[0])))


def _beginnings_first(segment: Segment) -> tuple[int, str]:
    return segment.start, segment.key


def duration(seconds: float) -> str:
    """A length of time as people say it."""
    for size, unit in ((86_400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}{'' if seconds == size else 's'}"
    return f"{seconds:.3g} seconds"
