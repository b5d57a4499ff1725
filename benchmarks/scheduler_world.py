"""The simulated machine of `benchmarks.scheduler`: one model for requests and background work; two tiers of KV.

Everybody's prompts are [resident memory | conversation | question]. What a session says is resident in the
sessions after it: behind the old block, or, where that grows over 3,072 tokens, in a new one of 2,304.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from benchmarks.scheduler_traces import Turn
from memos_core.cube import Scope
from memos_core.scheduler.placement import Costs, Tier

SYSTEM, RESIDENT, CHOSEN_ANEW = 60, 3072, 2304
CHUNK = 512
DECODE_S = 0.045
LOOK_AGAIN = 900.0  # seconds after which policies look again when nothing happens


@dataclass(eq=False)
class Piece:
    """A piece of a prefix chain, and how many of its tokens are held where."""

    key: str
    start: int
    tokens: int
    parent: Piece | None = None
    memory: int = 0
    disk: int = 0

    @property
    def held(self) -> int:
        return max(self.memory, self.disk)


@dataclass(eq=False)
class Chains:
    """What one scope's prompts are made of: the resident memory, the conversation behind it, and what the next
    session will have resident: more behind `resident`, or a block of its own."""

    scope: Scope
    resident: Piece
    talk: Piece
    coming: Piece
    session: str = ""
    past: list[Piece] = field(default_factory=list)  # held still, though no prompt will have it again

    def pieces(self) -> list[Piece]:
        return [p for p in (self.resident, self.talk, self.coming) if p.tokens]


@dataclass(frozen=True)
class Job:
    """Background work: bring this piece to this tier, so many tokens of it, computing what is not held."""

    piece: Piece
    tier: Tier
    tokens: int

    @property
    def there(self) -> int:
        """The tokens that the tier holds."""
        return self.piece.memory if self.tier == "memory" else self.piece.disk


class Policy(Protocol):
    """Decides what is held. It may change `Piece.memory` and `disk` downwards and from memory to disk at once;
    what takes time are jobs."""

    def turn_ended(self, world: World, turn: Turn, used: Sequence[Piece]) -> list[Job]:
        """After a turn, with the pieces it used, beginning first; they are in memory, maybe over the budget."""
        ...

    def look_again(self, world: World) -> list[Job] | None:
        """Some time passed; None changes nothing."""
        ...

    def arrived(self, world: World, job: Job) -> None:
        """A job (or a chunk of it) is done: what it brought is there, maybe over the budget."""
        ...


@dataclass
class Figures:
    """What is counted."""

    first_token_s: list[float] = field(default_factory=list)
    prompt: int = 0
    computed: int = 0
    seconds: float = 0.0  # of prefill in requests
    background_s: float = 0.0
    delayed_s: float = 0.0  # requests' waiting for a chunk of background work
    longest_delay_s: float = 0.0


class World:
    """Replays a trace under one policy.

    Args:
        memory, disk: tokens that fit into the tiers.
    """

    def __init__(self, costs: Costs, memory: int, disk: int, policy: Policy) -> None:
        self.costs, self.memory, self.disk, self.policy = costs, memory, disk, policy
        self.now = 0.0
        self.chains: dict[Scope, Chains] = {}
        self.figures = Figures()
        self.peak = 0  # tokens of KV that everybody's current prefixes took at most
        self._free_at = 0.0  # when the last request is served
        self._worked = 0.0  # until when the background thread is busy
        self._chunk_ends = 0.0  # when the last chunk of background work leaves the model
        self._made = 0
        self._lengths: dict[Scope, int] = {}
        self._total = 0
        self._jobs: list[Job] = []

    def run(self, turns: Iterable[Turn], measure_from: float = 0.0) -> Figures:
        """Replay; what arrives before `measure_from` warms up and is not counted."""
        for turn in turns:
            self._until(turn.at)
            if turn.at >= measure_from > 0:
                self.figures, measure_from = Figures(), 0.0
            self._turn(turn)
            self._check()
        return self.figures

    def pieces(self) -> Iterator[Piece]:
        """Everything that may be held."""
        for chains in self.chains.values():
            yield from chains.pieces()
            yield from chains.past

    # A request

    def _turn(self, turn: Turn) -> None:
        chains = self.chains.get(turn.scope) or self._first(turn.scope)
        begins = chains.session != turn.session
        used = self._begin(chains, turn.session) if begins else [chains.resident, chains.talk]
        starts = max(turn.at, self._free_at, self._chunk_ends)
        waits = starts - turn.at
        delay = starts - max(turn.at, self._free_at)
        self.figures.delayed_s += delay
        self.figures.longest_delay_s = max(self.figures.longest_delay_s, delay)
        position, have, load, whole = 0, 0, 0, True
        for piece in used:
            position += piece.tokens
            if whole:
                have = piece.start + piece.held
                load += max(0, piece.disk - piece.memory)
                whole = piece.held == piece.tokens
        end = position + turn.question
        spent = self.costs.prefill(have, end)
        self.figures.first_token_s.append(waits + self.costs.load(load) + spent)
        self.figures.prompt += end
        self.figures.computed += end - have
        self.figures.seconds += spent
        self._free_at = turn.at + waits + self.costs.load(load) + spent + DECODE_S * turn.reply
        for piece in used:
            piece.memory = piece.tokens
        if begins:
            self._settle(chains)
        self._say(chains, turn)
        self._lengthened(chains)
        self.now = turn.at
        self._jobs = self.policy.turn_ended(
            self, turn, [p for p in (chains.resident, chains.talk) if p.tokens]
        )

    def _lengthened(self, chains: Chains) -> None:
        length = sum(p.tokens for p in chains.pieces())
        self._total += length - self._lengths.get(chains.scope, 0)
        self._lengths[chains.scope] = length
        self.peak = max(self.peak, self._total)

    def _first(self, scope: Scope) -> Chains:
        resident = self._piece(0, SYSTEM)
        chains = Chains(scope, resident, self._piece(SYSTEM, 0, resident), self._piece(SYSTEM, 0, resident))
        self.chains[scope] = chains
        return chains

    def _piece(self, start: int, tokens: int, parent: Piece | None = None) -> Piece:
        self._made += 1
        return Piece(str(self._made), start, tokens, parent)

    def _begin(self, chains: Chains, session: str) -> list[Piece]:
        """A new session: the pieces of its first prompt. What only the old one used is gone."""
        chains.session = session
        return [chains.resident, chains.coming] if chains.coming.parent else [chains.coming]

    def _settle(self, chains: Chains) -> None:
        """What was coming is the resident memory now."""
        old, more = chains.resident, chains.coming
        gone = [chains.talk, old] if more.parent is None else [chains.talk]
        chains.past = [p for p in [*chains.past, *gone] if p.held]
        if more.parent is None:
            chains.resident = more
        elif more.tokens:
            old.disk = old.disk + more.disk if old.disk == old.tokens else old.disk
            old.memory += more.memory
            old.tokens += more.tokens
        end = chains.resident.tokens
        chains.talk = self._piece(end, 0, chains.resident)
        chains.coming = self._piece(end, 0, chains.resident)

    def _say(self, chains: Chains, turn: Turn) -> None:
        chains.talk.tokens += turn.said
        chains.talk.memory = chains.talk.tokens
        chains.coming.tokens += turn.learned
        extends = chains.coming.parent is not None
        if extends and chains.resident.tokens + chains.coming.tokens > RESIDENT:
            chains.coming = self._piece(0, CHOSEN_ANEW)

    # Between requests

    def _until(self, at: float) -> None:
        """Background work until the next request, and policies that look again meanwhile."""
        look = self.now + LOOK_AGAIN
        while look < at:
            self._work(look)
            self.now, look = look, look + LOOK_AGAIN
            jobs = self.policy.look_again(self)
            self._jobs = self._jobs if jobs is None else jobs
            self._check()
        self._work(at)

    def _work(self, until: float) -> None:
        """Do jobs, one step after another. A step that has begun is finished, whoever comes."""
        clock = max(self._worked, self._free_at, self.now)
        while self._jobs and clock < until:
            job = self._jobs[0]
            step = self._step(job)
            if step is None:
                self._jobs.pop(0)
                continue
            read_s, compute_s = step
            clock += read_s + compute_s
            if compute_s:  # reading does not keep the model busy
                self._chunk_ends = clock
            self.figures.background_s += compute_s
            there = job.there
            self.policy.arrived(self, job)
            if job.there < there:
                self._jobs.pop(0)  # evicted at once: to fetch it again would be no use
        self._worked = clock

    def _step(self, job: Job) -> tuple[float, float] | None:
        """One load or one chunk of computing: seconds of reading and of computing; None when nothing is left."""
        piece, parent = job.piece, job.piece.parent
        tokens = min(job.tokens, piece.tokens)
        if job.tier == "memory" and piece.memory < min(tokens, piece.disk):
            missing = min(tokens, piece.disk) - piece.memory
            piece.memory += missing
            return self.costs.load(missing), 0.0
        have = job.there
        if have >= tokens or (parent is not None and parent.held < parent.tokens):
            return None
        added = min(CHUNK, tokens - have)
        start = piece.start + have
        unread = self.costs.load(max(0, parent.disk - parent.memory)) if parent else 0.0
        if job.tier == "memory":
            piece.memory += added
        else:
            piece.disk += added
        return unread, self.costs.prefill(start, start + added)

    def _check(self) -> None:
        held = [(p.memory, p.disk) for p in self.pieces()]
        if sum(m for m, _ in held) > self.memory or sum(d for _, d in held) > self.disk:
            raise AssertionError(f"over the budget at {self.now}")
