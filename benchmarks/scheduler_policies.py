"""The policies that `benchmarks.scheduler` compares."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence

from benchmarks.scheduler_traces import Turn
from benchmarks.scheduler_world import Chains, Job, Piece, World
from memos_core.cube import Scope
from memos_core.scheduler.placement import Segment, plan
from memos_core.scheduler.predictor import NEVER, Chance, Forecast, GapPredictor, Predictor


class Nothing:
    """Keeps nothing: every prompt is prefilled from its first token."""

    def turn_ended(self, world: World, turn: Turn, used: Sequence[Piece]) -> list[Job]:
        for piece in world.pieces():
            piece.memory = 0
        return []

    def look_again(self, world: World) -> list[Job] | None:
        return None

    def arrived(self, world: World, job: Job) -> None:
        pass


class Unbounded(Nothing):
    """Keeps everything that a prompt or the turn before it had: what no budget can beat."""

    def turn_ended(self, world: World, turn: Turn, used: Sequence[Piece]) -> list[Job]:
        piece = world.chains[turn.scope].coming
        return [Job(piece, "memory", piece.tokens)]


class Cache:
    """A cache that evicts the least valuable ends of chains, from memory to disk and from there to nowhere. As our
    scheduler did before it planned, it computes the next session's resident memory after each turn.

    Args:
        by_cost: GDSF (uses x cost / size, ageing); else LRU.
    """

    def __init__(self, by_cost: bool) -> None:
        self._by_cost = by_cost
        self._ticks = 0.0
        self._age = {"memory": 0.0, "disk": 0.0}
        self._values: dict[Piece, float] = {}
        self._uses: dict[Piece, int] = {}

    def turn_ended(self, world: World, turn: Turn, used: Sequence[Piece]) -> list[Job]:
        for piece in reversed(used):  # a beginning is younger than its end
            self._touch(world, piece)
        self._shrink(world)
        piece = world.chains[turn.scope].coming
        return [Job(piece, "memory", piece.tokens)] if piece.tokens else []

    def look_again(self, world: World) -> list[Job] | None:
        return None

    def arrived(self, world: World, job: Job) -> None:
        self._touch(world, job.piece)
        self._shrink(world)

    def _touch(self, world: World, piece: Piece) -> None:
        self._ticks += 1
        self._uses[piece] = self._uses.get(piece, 0) + 1
        cost = world.costs.prefill(piece.start, piece.start + piece.tokens) / max(piece.tokens, 1)
        self._values[piece] = self._age["memory"] + self._uses[piece] * cost if self._by_cost else self._ticks

    def _shrink(self, world: World) -> None:
        pieces = list(world.pieces())
        self._values = {p: self._values.get(p, 0.0) for p in pieces}
        self._uses = {p: self._uses.get(p, 0) for p in pieces}
        while (over := sum(p.memory for p in pieces) - world.memory) > 0:
            victim = self._end(pieces, "memory")
            victim.disk = max(victim.disk, victim.memory)
            victim.memory -= min(over, victim.memory)  # blocks from its end, no more than needed
        while (over := sum(p.disk for p in pieces) - world.disk) > 0:
            victim = self._end(pieces, "disk")
            victim.disk -= min(over, victim.disk)

    def _end(self, pieces: list[Piece], tier: str) -> Piece:
        """The least valuable piece in a tier that has nothing of its chain behind it there."""
        held = [p for p in pieces if (p.memory if tier == "memory" else p.disk)]
        parents = {p.parent for p in held if p.parent is not None}
        victim = min((p for p in held if p not in parents), key=lambda p: (self._values[p], int(p.key)))
        self._age[tier] = max(self._age[tier], self._values[victim]) if self._by_cost else 0.0
        return victim


class Planned:
    """`memos_core.scheduler.placement.plan` with a predictor, after each turn and now and then between them."""

    def __init__(self, predictor: Predictor, **how: float) -> None:
        self._predictor = predictor
        self._how = how

    def turn_ended(self, world: World, turn: Turn, used: Sequence[Piece]) -> list[Job]:
        self._predictor.observe(turn.scope, turn.session, turn.at)
        return self._plan(world)

    def look_again(self, world: World) -> list[Job] | None:
        return self._plan(world)

    def arrived(self, world: World, job: Job) -> None:
        pass  # the plan left room for it

    def _plan(self, world: World) -> list[Job]:
        scopes = list(world.chains)
        segments: list[Segment] = []
        pieces: dict[str, Piece] = {}
        for scope, forecast in zip(scopes, self._predictor.forecast(scopes, world.now), strict=True):
            chains = world.chains[scope]
            for piece, chance in _chances(chains, forecast):
                pieces[piece.key] = piece
                segments.append(_segment(piece, chance))
            for piece in chains.past:
                piece.memory = piece.disk = 0
        unit = world.costs.token_bytes
        moves = plan(
            segments, memory=world.memory * unit, disk=world.disk * unit, costs=world.costs, **self._how
        )
        jobs = []
        for move in moves:
            piece = pieces[move.segment.key]
            held = piece.held
            if move.tier == "memory":
                piece.memory = min(piece.memory, move.tokens)
                piece.disk = min(piece.disk, move.also_on_disk)
                if move.tokens > piece.memory:
                    jobs.append(Job(piece, "memory", move.tokens))
            elif move.tier == "disk":
                piece.memory, piece.disk = 0, min(held, move.tokens)
                if move.tokens > piece.disk:
                    jobs.append(Job(piece, "disk", move.tokens))
            else:
                piece.memory = piece.disk = 0
        return jobs


def _chances(chains: Chains, forecast: Forecast) -> Iterable[tuple[Piece, Chance]]:
    """What is used by which next turn."""
    stays = chains.coming.parent is not None
    yield chains.resident, forecast.comes if stays else forecast.goes_on
    if chains.talk.tokens:
        yield chains.talk, forecast.goes_on
    if chains.coming.tokens:
        yield chains.coming, forecast.begins


def _segment(piece: Piece, chance: Chance) -> Segment:
    parent = piece.parent.key if piece.parent else None
    return Segment(
        piece.key,
        parent,
        piece.start,
        piece.tokens,
        chance.rate,
        chance.chance,
        piece.memory,
        piece.disk,
    )


class Clairvoyant:
    """The predictor that knows the trace: a use in t seconds has the rate 1/t, so that `plan` is Belady's rule
    weighted by cost and size, with everything read and computed ahead."""

    def __init__(self, turns: Sequence[Turn]) -> None:
        self._turns: dict[Scope, list[tuple[float, str]]] = {}
        self._starts: dict[Scope, list[float]] = {}
        for turn in turns:
            mine = self._turns.setdefault(turn.scope, [])
            if not mine or mine[-1][1] != turn.session:
                self._starts.setdefault(turn.scope, []).append(turn.at)
            mine.append((turn.at, turn.session))

    def observe(self, scope: Scope, session: str | None, at: float) -> None:
        pass

    def forecast(self, scopes: Sequence[Scope], at: float) -> list[Forecast]:
        return [self._next(scope, at) for scope in scopes]

    def _next(self, scope: Scope, at: float) -> Forecast:
        mine, starts = self._turns[scope], self._starts[scope]
        following = bisect_right(mine, (at, "\U0010ffff"))
        if following == len(mine):
            return Forecast(NEVER, NEVER, NEVER)
        comes = _sure(mine[following][0] - at)
        begin = bisect_right(starts, at)
        begins = _sure(starts[begin] - at) if begin < len(starts) else NEVER
        same = mine[following][1] == mine[following - 1][1]
        return Forecast(comes if same else NEVER, begins, comes)


def _sure(seconds: float) -> Chance:
    return Chance(1.0 / max(seconds, 1.0), 1.0)


def ours() -> Planned:
    return Planned(GapPredictor())


def clairvoyant(turns: Sequence[Turn]) -> Planned:
    return Planned(Clairvoyant(turns), sticky=0.0)
