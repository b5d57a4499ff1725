"""MemScheduler: one per open vault, shared by all adapters (MemOS paper, section 5.3)."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from memos_core.activation.keys import salt_for
from memos_core.cube import (
    ANY_USER,
    NOT_MEMORIES,
    Activation,
    Descriptive,
    Header,
    MemCube,
    Scope,
    Source,
    State,
    now,
)
from memos_core.errors import MemOSError, VaultError
from memos_core.prompt import DEFAULT_SYSTEM, system_with_memory
from memos_core.retrieval import Retriever
from memos_core.scheduler.interfaces import KV_NAMESPACE, Decision, PrefixEngine, Tiers
from memos_core.scheduler.keeper import KNOWN, Keeper, Placed, kv_records
from memos_core.scheduler.planner import HALF_LIFE, plan_resident
from memos_core.vault import Actor, CubeFilter, Plan, Vault

log = logging.getLogger("memos_core.scheduler")

_ACTOR = Actor("scheduler", "scheduler")
_MAX_CANDIDATES = 512
_FLUSH_READS = 256
_INDEX_DELAY = 0.05  # seconds
_TURN_DELAY = 0.25
_LOOK_EVERY = 300.0  # seconds between two looks at who is held in memory, when no turn ends
_SCRUB_EVERY = 60.0  # seconds; closing and erasing do it at once


class _Stopped(Exception):
    """The scheduler is asked to stop in the middle of a job."""


class MemScheduler:
    """Sees reads, writes and finished turns; decides which memories stand resident in front of each user's
    prompts; builds or loads their KV cache in the background, between turns.

    Args:
        vault: where plans and behaviour are kept. retriever: indexes new cubes in the background.
        resident_tokens: the most tokens the resident memories of one scope may take.
        housekeeping: what else is due between turns: the life cycle, deletions by other processes.
    """

    def __init__(
        self,
        vault: Vault,
        retriever: Retriever,
        *,
        resident_tokens: int = 3072,
        housekeeping: Callable[[], None] | None = None,
    ) -> None:
        self._vault = vault
        self._retriever = retriever
        self.resident_tokens = resident_tokens
        self._housekeeping = housekeeping
        self._engine: PrefixEngine | None = None
        self._decisions: deque[Decision] = deque(maxlen=1000)
        self._totals: dict[str, tuple[int, float]] = {}
        self._reads: Counter[str] = Counter()
        self._systems: dict[Scope, str] = {}
        # When each is due, and what it is; in the order in which they were asked for.
        self._jobs: OrderedDict[tuple[str, Scope | None], tuple[float, Callable[[], None]]] = OrderedDict()
        self._hurry = 0  # who waits for all of them: then they are due at once
        self._wake = threading.Condition()
        self._busy = False
        self._scrubbed = float("-inf")
        self._look_at = float("inf")
        self.clock: Callable[[], float] = time.time
        """The time that turns are noted with and predictions are made for, in POSIX seconds."""
        self._keeper = Keeper(vault)
        self._ended: deque[tuple[Scope, float]] = deque(maxlen=10_000)  # turns the keeper does not know yet
        self._stopping = False
        self._thread: threading.Thread | None = None

    # -- what it sees: cheap, never blocks on work -----------------------------------------------------------

    def read(self, scope: Scope, ids: Sequence[str]) -> None:
        """These cubes were read."""
        if ids:
            with self._wake:
                self._reads.update(ids)
                full = len(self._reads) >= _FLUSH_READS
            if full:
                self._submit("reads", None, self._flush_reads)

    def wrote(self, scope: Scope, cubes: Sequence[MemCube]) -> None:
        """These cubes were written."""
        if cubes:
            # Not at once: a writer that goes on writing would share its disk and its time with the indexing.
            self._submit("index", None, self._index, delay=_INDEX_DELAY)

    def forgot(self, gone: Sequence[MemCube]) -> None:
        """These cubes were deleted: their KV caches go now; who had them resident gets a new plan with the
        next turn."""
        keys = [c.payload.key for c in gone if isinstance(c.payload, Activation)]
        if self._engine is not None and keys:
            self._engine.forget(keys)
        for home, n in Counter(_home(c.scope) for c in gone).items():
            self._note(
                Decision(home, "drop", f"{n} cubes were deleted, KV caches made from them included", n)
            )
        if gone:
            self._submit("index", None, self._index)

    def turn(self, scope: Scope, system: str | None = None) -> None:
        """A turn of this scope ended: prepare the next one.

        Args:
            system: the system text in front of this agent's prompts; None keeps the one known.
        """
        if scope.user == ANY_USER:
            return  # a view of many users has no prompt of its own
        home = _home(scope)
        if system is not None:
            self._systems[home] = system
        self._ended.append((scope, self.clock()))
        # Not at once: a graph's steps follow one another, and each would share its time with this.
        self._submit("index", None, self._index, delay=_TURN_DELAY)
        self._submit("turn", home, lambda: self._prepare(home), delay=_TURN_DELAY)

    def attach(self, engine: PrefixEngine) -> None:
        """Use this engine from now on, and preload what the most recent scopes will need."""
        self._engine = engine
        self._submit("preload", None, self._preload)

    # -- what a request asks: reads the plan, computes nothing -----------------------------------------------

    def resident(self, scope: Scope, clearance: frozenset[str] | None = None) -> list[MemCube]:
        """The memories resident in this scope's session, in prompt order: those of the plan the session began
        with, as they are now; what was deleted, holds no more or may not be read is left out."""
        if scope.user == ANY_USER:
            return []
        try:
            plan = self._vault.plans.for_session(scope)
        except VaultError as err:
            # Advice only: where a session cannot be noted down, its prompts are right without a plan.
            log.warning("no resident memory for %s: %s", scope, err)
            return []
        return self._cubes_of(plan, clearance) if plan else []

    def explain(self, scope: Scope | None = None) -> list[Decision]:
        """What it did and why, oldest first.

        Args:
            scope: only decisions about this scope's tenant, user and agent.
        """
        home = _home(scope) if scope else None
        with self._wake:
            return [d for d in self._decisions if home is None or d.scope == home]

    def totals(self) -> dict[str, tuple[int, float]]:
        """Of each action of `Decision`: how often it was taken, and the seconds it took in the background."""
        with self._wake:
            return dict(self._totals)

    @property
    def waiting(self) -> int:
        """How many jobs wait or run."""
        with self._wake:
            return len(self._jobs) + self._busy

    # -- background ------------------------------------------------------------------------------------------

    def wait_idle(self, timeout: float | None = None) -> bool:
        """Block until all work is done, for tests and scripts. False if `timeout` seconds were not enough."""
        with self._wake:
            self._hurry += 1
            self._wake.notify_all()
            try:
                return self._wake.wait_for(
                    lambda: self._stopping or (not self._jobs and not self._busy), timeout
                )
            finally:
                self._hurry -= 1

    def stop(self) -> None:
        """Stop after at most one more chunk of prefill, keeping what was counted. Safe to call twice."""
        with self._wake:
            self._stopping = True
            self._jobs.clear()
            self._wake.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        tiers = self._tiers()
        if tiers is not None:
            tiers.worth = None  # the engine may outlive us
        try:
            self._flush_reads()
        except MemOSError as err:
            log.warning("the last reads were not counted: %s", err)

    def _submit(self, kind: str, scope: Scope | None, job: Callable[[], None], *, delay: float = 0.0) -> None:
        with self._wake:
            if self._stopping:
                return
            due = time.monotonic() + delay
            waiting = self._jobs.get((kind, scope))
            # A job of the same kind that still waits is replaced, and is not put off.
            self._jobs[(kind, scope)] = (min(due, waiting[0]) if waiting else due, job)
            if waiting and waiting[0] <= due:
                return  # whoever waits for it does so until then
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="memos-scheduler", daemon=True)
                self._thread.start()
            self._wake.notify_all()

    def _run(self) -> None:
        while True:
            with self._wake:
                self._busy = False
                self._wake.notify_all()
                while (next_one := self._due()) is None:
                    if self._stopping:
                        return
                    first = min([self._look_at, *(due for due, _ in self._jobs.values())])
                    self._wake.wait(None if first == float("inf") else max(0.0, first - time.monotonic()))
                kind, scope = next_one
                _, job = self._jobs.pop(next_one)
                self._busy = True
            try:
                job()
            except _Stopped:
                return
            except BaseException as err:
                # The scheduler outlives its errors, loudly: requests do not depend on it, and nobody else would hear.
                if isinstance(err, MemOSError):
                    log.warning("the scheduler's %s job failed: %s", kind, err)
                else:
                    log.exception("the scheduler's %s job failed", kind)
                home = scope or Scope()
                self._note(Decision(home, "error", f"{kind} failed: {err}"))

    def _due(self) -> tuple[str, Scope | None] | None:
        """The job to do now, or None."""
        if self._stopping:
            return None
        moment = time.monotonic()
        if self._look_at <= moment:
            self._look_at = moment + _LOOK_EVERY
            self._jobs.setdefault(("place", None), (moment, self._place))
        return next((key for key, (due, _) in self._jobs.items() if due <= moment or self._hurry), None)

    def _checkpoint(self) -> None:
        if self._stopping:
            raise _Stopped

    def _note(self, decision: Decision) -> None:
        """Write down a decision; that a prefix is still in place is said once, not after every turn."""
        with self._wake:
            last = next((d for d in reversed(self._decisions) if d.scope == decision.scope), None)
            if (
                decision.action == "keep"
                and last
                and (last.tokens, last.nbytes) == (decision.tokens, decision.nbytes)
            ):
                return
            self._decisions.append(decision)
            times, seconds = self._totals.get(decision.action, (0, 0.0))
            self._totals[decision.action] = times + 1, seconds + decision.seconds

    def _flush_reads(self) -> None:
        with self._wake:
            reads, self._reads = self._reads, Counter()
        if not reads:
            return
        try:
            self._vault.behaviour.add_reads(reads, now(), HALF_LIFE)
        except MemOSError:
            with self._wake:
                self._reads.update(reads)  # counted with the next ones
            raise

    def _index(self) -> None:
        if self._housekeeping is not None:
            self._housekeeping()
        if time.monotonic() - self._scrubbed >= _SCRUB_EVERY:  # it goes through the whole text index
            self._scrubbed = time.monotonic()
            self._vault.scrub()
        self._retriever.apply_pending(should_yield=self._checkpoint)
        self._retriever.feed_index(should_yield=self._checkpoint)

    def _prepare(self, scope: Scope) -> None:
        """Between turns: plan, and have the next prompt's prefix in place."""
        self._flush_reads()
        plan = self._plan(scope)
        if plan is not None and self._engine is not None:
            self._load(plan, "the turn ended")
            self._submit("place", None, self._place)

    def _plan(self, scope: Scope) -> Plan | None:
        started = time.perf_counter()
        current = self._vault.plans.current(scope)
        system = self._systems.get(scope) or (current.system if current else DEFAULT_SYSTEM)
        which = CubeFilter(scope, granted="read", not_types=NOT_MEMORIES, kinds=["plaintext"], valid_at=now())
        before = current.cube_ids if current else ()
        found = self._vault.find(which, order="-updated", limit=_MAX_CANDIDATES)
        seen = {cube.id for cube in found}
        found += self._vault.get(which, [i for i in before if i not in seen]).values()
        candidates = [cube for cube in found if cube.text.strip()]
        count = self._engine.count_tokens if self._engine else (lambda text: len(text) // 3 + 1)
        budget, since = self._budget(), current.planned_at if current else None
        chosen = plan_resident(candidates, before, lambda text: count(f"- {text}\n"), budget, now(), since)
        ids = tuple(c.id for c in chosen.cubes)
        if current and ids == current.cube_ids and system == current.system:
            return current
        if not ids and current is None:
            return None  # nothing to remember yet
        plan = Plan(scope, system, ids, chosen.reason)
        self._vault.plans.add(plan)
        mine = (c for c in chosen.cubes if scope.contains(c.scope) and not c.frozen)
        fresh = [c.id for c in mine if c.state is State.GENERATED]
        self._vault.transition(fresh, State.ACTIVATED, _ACTOR, "resident in the prompt")
        spent = time.perf_counter() - started
        self._note(Decision(scope, "plan", chosen.reason, len(ids), chosen.tokens, seconds=spent))
        return plan

    def _budget(self) -> int:
        """Tokens for resident memories: never more than a third of what the model can read."""
        return (
            min(self.resident_tokens, self._engine.context_length // 3)
            if self._engine
            else self.resident_tokens
        )

    def _preload(self) -> None:
        """A process begins: bring in what the scopes will need, those that were active last first."""
        engine = self._engine
        if engine is not None and self._tiers() is not None:
            self._look_at = time.monotonic() + _LOOK_EVERY
            for plan in reversed(self._vault.plans.recent(KNOWN)):
                with self._noting(plan.scope):
                    self._keeper.learn(plan.scope)
                    self._prefix(plan, engine)
            return self._place()
        for plan in self._vault.plans.recent():
            who = plan.scope.user or "this scope"
            with self._noting(plan.scope):
                self._load(plan, f"{who} was active at {plan.planned_at:%Y-%m-%d %H:%M:%S} UTC")

    def _place(self) -> None:
        """Where the engine has a budget: hold in memory what is worth it, whose-ever it is."""
        while self._ended:
            scope, at = self._ended.popleft()
            self._keeper.turn(scope, _home(scope), at)
        tiers = self._tiers()
        if tiers is None:
            return
        released: set[str] = set()
        for placed in self._keeper.plan(tiers, self.clock()):
            salt, move = salt_for(placed.scope), placed.move
            if move.segment.in_memory and move.leaves:
                released.add(salt)
                self._release(tiers, placed)
                continue
            comes = move.action in ("load", "build") or (move.tier == "memory" and salt in released)
            if comes and placed.resident and move.tokens == move.segment.tokens:
                current = self._vault.plans.current(placed.scope)
                if current is not None:
                    with self._noting(current.scope):
                        self._load(current, move.reason)

    def _release(self, tiers: Tiers, placed: Placed) -> None:
        """Take what is worth less than others out of memory."""
        nbytes = tiers.release(salt_for(placed.scope))
        if nbytes:
            what = "resident memory" if placed.resident else "conversations"
            reason = f"{what}: {placed.move.reason}"
            self._note(
                Decision(placed.scope, "drop", reason, tokens=placed.move.segment.in_memory, nbytes=nbytes)
            )

    @contextmanager
    def _noting(self, scope: Scope) -> Iterator[None]:
        """One of several preloads; where it fails it is said why, and the others' go on."""
        self._checkpoint()
        try:
            yield
        except MemOSError as err:
            log.warning("the scheduler's preload for %s failed: %s", scope, err)
            self._note(Decision(scope, "error", f"preload failed: {err}"))

    def _tiers(self) -> Tiers | None:
        """Where the engine keeps KV, if that has a budget of ours; servers look after their own."""
        tiers = getattr(self._engine, "store", None)
        return tiers if isinstance(tiers, Tiers) else None

    def _load(self, plan: Plan, why: str) -> None:
        """Have a plan's prefix in memory: find it there, read it from disk, or compute it."""
        engine = self._engine
        assert engine is not None
        started = time.perf_counter()
        cubes, tokens, mine = self._prefix(plan, engine)
        if not cubes:
            return
        tier = engine.warm(tokens, plan.scope)
        if tier is not None:
            action, where = ("preload", "was on disk") if tier == "disk" else ("keep", "is in memory already")
            reason = f"{why}; its KV {where}"
            nbytes = sum(c.payload.nbytes for c in mine if c.payload.kind == "activation")
        else:
            sources = tuple((c.id, c.version) for c in cubes)
            tiers = self._tiers()
            save = tiers is None or tiers.disk_budget > 0
            kv = engine.prefill(
                tokens, plan.scope, derived_from=sources, save=save, should_yield=self._checkpoint
            )
            self._record(plan, kv, sources, mine)
            action, reason, nbytes = "build", f"{why}: {plan.reason}", kv.nbytes
            self._keeper.built(len(tokens), time.perf_counter() - started)
            self._keeper.sized(plan.scope, len(tokens), on_disk=save, token_bytes=nbytes // len(tokens))
        spent = time.perf_counter() - started
        self._note(Decision(plan.scope, action, reason, len(cubes), len(tokens), nbytes, spent))

    def _prefix(self, plan: Plan, engine: PrefixEngine) -> tuple[list[MemCube], list[int], list[MemCube]]:
        """A plan's memories, their prompt's tokens, and the records of KV that was computed for the scope."""
        cubes = self._cubes_of(plan)
        if not cubes:
            return [], [], []
        tokens = engine.stable_prefix([{"role": "system", "content": system_with_memory(plan.system, cubes)}])
        records = [r for r in kv_records(self._vault, plan.scope) if r[1].model == engine.model_fingerprint]
        mine = [cube for cube, _ in records]
        sizes = [kv.nbytes // kv.n_tokens for _, kv in records]
        self._keeper.sized(plan.scope, len(tokens), on_disk=bool(mine), token_bytes=max(sizes, default=None))
        return cubes, tokens, mine

    def _record(self, plan: Plan, kv: Any, sources: tuple[tuple[str, int], ...], old: list[MemCube]) -> None:
        """Write down the KV cache as an activation cube, and drop the ones it replaces."""
        engine = self._engine
        assert engine is not None
        cube = MemCube(
            scope=plan.scope,
            namespace=KV_NAMESPACE,
            key=kv.key,
            payload=Activation(
                model=engine.model_fingerprint,
                tokenizer=engine.tokenizer_fingerprint,
                key=kv.key,
                n_tokens=kv.n_tokens,
                nbytes=kv.nbytes,
            ),
            header=Header(descriptive=Descriptive(semantic_type="kv", origin="distilled")),
            derived_from=tuple(Source(id=i, version=v) for i, v in sources),
        )
        replaced = [c for c in old if c.key != kv.key]
        [stored] = self._vault.put([cube], _ACTOR)
        self._vault.delete([c.id for c in replaced], _ACTOR)
        engine.forget([c.key for c in replaced])
        # A source may have been deleted while this was computed: then this must not stay either.
        alive = self._vault.get(CubeFilter(plan.scope, granted="read"), [i for i, _ in sources])
        if len(alive) < len(sources):
            self._vault.delete([stored.id], _ACTOR)
            engine.forget([kv.key])
            raise MemOSError("a memory was deleted while its KV was computed; the KV is dropped")

    def _cubes_of(self, plan: Plan, clearance: frozenset[str] | None = None) -> list[MemCube]:
        which = CubeFilter(plan.scope, clearance, granted="read", valid_at=now())
        found = self._vault.get(which, plan.cube_ids)
        return [found[id_] for id_ in plan.cube_ids if id_ in found]


def _home(scope: Scope) -> Scope:
    """The scope a plan belongs to: tenant, user and agent, whatever the session."""
    return scope.model_copy(update={"session": None})
