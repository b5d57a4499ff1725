"""Which KV prefixes are held where, under byte budgets: by the prefill seconds that holding them is expected to
save for each byte. Pure rules, no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from memos_core.errors import InvalidArgument
from memos_core.scheduler.predictor import SOON

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


_LEAST = 128  # the fewest tokens for which a segment is cut to what fits
_Room = dict[Literal["memory", "disk"], int]  # tokens that still fit
_VERDICTS = {
    "memory": "in memory, among the best for its bytes",
    "disk": "on disk, because others are worth more for their bytes in memory",
}


class _Place(NamedTuple):
    tier: Tier
    tokens: int
    whole: bool
    verdict: str
    copy: int = 0  # tokens of it that stay on disk, while it is in memory


_UNLIKELY = _Place(
    "none", 0, False, "not held, because it is too unlikely to be used, or its beginning is not held"
)
_ORPHANED = _Place("none", 0, False, "not held, because what stands in front of it is not")
_OUTBID = _Place("none", 0, False, "not held, because others are worth more for their bytes")

SMOLLM2_CPU = Costs(token_s=3.68e-3, position_s=7.8e-7, load_s=4e-10, open_s=0.01, token_bytes=46_080)
"""SmolLM2-135M in float32 on one CPU thread: 4,096 tokens in 21.6 s, 8,000 in 54.3 s; 2.5 GB/s from disk."""


@dataclass(frozen=True)
class Segment:
    """A piece of a prefix chain: tokens that stand behind its parent's in every prompt that has them.

    Args:
        key: names it. parent: key of the segment in front of it, None at the beginning of a prompt.
        start: tokens in front of it. tokens: its own.
        rate: uses for each second that it is held. chance: of a use soon.
        in_memory, on_disk: how many of its tokens are there now, from its first one on.
    """

    key: str
    parent: str | None
    start: int
    tokens: int
    rate: float
    chance: float = 1.0
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
        """ "build" (compute), "load" (from disk), "save" (leave memory, be on disk), "drop" or "keep"."""
        segment = self.segment
        if self.tier == "none":
            return "drop" if segment.held else "keep"
        if self.tokens > segment.held:
            return "build"
        if self.tier == "memory":
            return "load" if self.tokens > segment.in_memory else "keep"
        return "save" if segment.in_memory else "keep"

    @property
    def leaves(self) -> bool:
        """Whether some of it leaves memory, or all of it the disk."""
        kept = self.tokens if self.tier == "memory" else 0
        return self.segment.in_memory > kept or self.action == "drop"

    @property
    def reason(self) -> str:
        """One sentence for a person."""
        segment = self.segment
        return (
            f"{segment.chance:.0%} chance of a use within {SOON / 3600:.0f} hours, which would save "
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

    Raises:
        InvalidArgument: a negative budget, two segments of one key, or one without tokens.
    """
    if memory < 0 or disk < 0:
        raise InvalidArgument(f"memory and disk are bytes; pass 0 or more, got {memory} and {disk}")
    if len({s.key for s in segments}) < len(segments) or any(s.tokens < 1 for s in segments):
        raise InvalidArgument("segments need a key of their own each, and at least one token")
    room: _Room = {"memory": memory // costs.token_bytes, "disk": disk // costs.token_bytes}
    ordered = sorted(segments, key=_beginnings_first)
    wanted = _wanted(ordered, worth_building)
    places: dict[str, _Place] = {}
    ranked: list[tuple[float, Segment]] = []
    for group in _groups([s for s in ordered if wanted[s.key]], wanted, costs, sticky):
        for segment in group.segments:
            places[segment.key] = _place(segment, wanted[segment.key], places, room)
            ranked.append((group.score, segment))
    ranked += [(0.0, s) for s in ordered if not wanted[s.key]]
    moves = []
    for score, segment in ranked:
        place = places.get(segment.key, _UNLIKELY)
        copy = place.copy
        if place.tier == "memory" and not copy and segment.on_disk <= room["disk"]:
            copy = segment.on_disk  # stays while there is room: leaving memory costs nothing then
            room["disk"] -= copy
        saves = costs.prefill(segment.start, segment.start + segment.tokens)
        moves.append(Move(segment, place.tier, place.tokens, saves, score, copy, place.verdict))
    leaving = [m for m in reversed(moves) if m.leaves]
    return [*leaving, *(m for m in moves if not m.leaves)]


def _wanted(ordered: Sequence[Segment], worth_building: float) -> dict[str, int]:
    """How many tokens of each segment are worth having: all, those that are there, or none."""
    wanted: dict[str, int] = {}
    tokens = {s.key: s.tokens for s in ordered}
    for segment in ordered:
        parent = segment.parent
        if segment.rate <= 0 or (parent is not None and wanted.get(parent, -1) != tokens.get(parent)):
            wanted[segment.key] = 0  # not expected, or useless without what stands in front of it
        else:
            wanted[segment.key] = segment.tokens if segment.chance >= worth_building else segment.held
    return wanted


def _place(segment: Segment, wanted: int, places: dict[str, _Place], room: _Room) -> _Place:
    """Where a segment goes, how many of its tokens, and why; takes the room there."""
    above = None if segment.parent is None else places[segment.parent]
    if above and not above.whole:
        return _ORPHANED
    tiers: list[Literal["memory", "disk"]] = (
        ["disk"] if above and above.tier == "disk" else ["memory", "disk"]
    )
    for tier in tiers:
        if wanted <= room[tier]:
            room[tier] -= wanted
            # What is read from disk stays there until it is read.
            unread = segment.on_disk > segment.in_memory and segment.on_disk <= room["disk"]
            copy = segment.on_disk if tier == "memory" and unread else 0
            room["disk"] -= copy
            return _Place(tier, wanted, wanted == segment.tokens, _VERDICTS[tier], copy)
    tier = max(tiers, key=lambda t: room[t])
    tokens = room[tier]
    if tokens < _LEAST:
        return _OUTBID
    room[tier] = 0
    part = f"{_VERDICTS[tier]}, as far as there is room: its first {tokens:,} of {segment.tokens:,} tokens"
    return _Place(tier, tokens, False, part)


def _groups(ordered: Sequence[Segment], wanted: dict[str, int], costs: Costs, sticky: float) -> list[_Group]:
    """The segments in groups, best first; no group is worth more than the one in front of it in its chain."""
    groups: dict[str, _Group] = {}
    for segment in ordered:
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
