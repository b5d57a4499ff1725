"""MemScheduler: one per open vault, shared by all adapters (MemOS paper, section 5.3)."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Sequence

from memos_core.cube import ANY_USER, NOT_MEMORIES, Activation, MemCube, Scope, State, now
from memos_core.errors import MemOSError, VaultError
from memos_core.prompt import DEFAULT_SYSTEM
from memos_core.retrieval import Retriever
from memos_core.scheduler.interfaces import Decision, PrefixEngine, Server
from memos_core.scheduler.planner import HALF_LIFE, plan_resident
from memos_core.scheduler.preload import ACTOR, Preloader, cubes_of, home_of
from memos_core.vault import CubeFilter, Plan, Vault

log = logging.getLogger("memos_core.scheduler")

_MAX_CANDIDATES = 512
_FLUSH_READS = 256
_INDEX_DELAY = 0.05  # seconds
_TURN_DELAY = 0.25
_LOOK_EVERY = 300.0  # seconds between two looks at who is held in memory, when no turn ends
_SYSTEMS = 4096  # scopes whose system text is remembered; the others' is read from their plan
_ORDER = ("reads", "index", "house", "turn", "place", "preload")  # of what is due, which goes first
_PACED = (
    "house",
    "turn",
)  # what looks through the vault: it rests long enough to take no more than this of the time
_SHARE = 0.2
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
        self._decisions: deque[Decision] = deque(maxlen=1000)
        self._totals: dict[str, tuple[int, float]] = {}
        self._reads: Counter[str] = Counter()
        self._systems: OrderedDict[Scope, str] = OrderedDict()
        # When each is due, and what it is; in the order in which they were asked for.
        self._jobs: OrderedDict[tuple[str, Scope | None], tuple[float, Callable[[], None]]] = OrderedDict()
        self._hurry = 0  # who waits for all of them: then they are due at once
        self._wake = threading.Condition()
        self._busy = False
        self._scrubbed = float("-inf")
        self._look_at = float("inf")
        self._rest_until = 0.0  # of what is paced
        self.clock: Callable[[], float] = time.time
        """The time that turns are noted with and predictions are made for, in POSIX seconds."""
        self._preloader = Preloader(vault, self._note, self._checkpoint, lambda: self.clock())
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
            self._submit("house", None, self._keep_house, delay=_INDEX_DELAY)

    def forgot(self, gone: Sequence[MemCube]) -> None:
        """These cubes were deleted: their KV caches go now; who had them resident gets a new plan with the
        next turn."""
        keys = [c.payload.key for c in gone if isinstance(c.payload, Activation)]
        if self._engine is not None and not isinstance(self._engine, Server) and keys:
            self._engine.forget(keys)
        for home, n in Counter(home_of(c.scope) for c in gone).items():
            self._note(
                Decision(home, "drop", f"{n} cubes were deleted, KV caches made from them included", n)
            )
        if gone:
            self._submit("house", None, self._keep_house)
            self._submit("index", None, self._index)

    def turn(self, scope: Scope, system: str | None = None) -> None:
        """A turn of this scope ended: prepare the next one.

        Args:
            system: the system text in front of this agent's prompts; None keeps the one known.
        """
        if scope.user == ANY_USER:
            return  # a view of many users has no prompt of its own
        home = home_of(scope)
        if system is not None:
            with self._wake:
                self._systems[home] = system
                self._systems.move_to_end(home)
                while len(self._systems) > _SYSTEMS:
                    self._systems.popitem(last=False)
        self._preloader.ended(scope)
        # Not at once: a graph's steps follow one another, and each would share its time with this.
        self._submit("index", None, self._index, delay=_TURN_DELAY)
        self._submit("house", None, self._keep_house, delay=_TURN_DELAY)
        if (
            scope.home.session is not None
        ):  # of nobody: what stands in front of its prompts is its conversation
            home = scope.home
        self._submit("turn", home, lambda: self._prepare(home), delay=_TURN_DELAY)

    def attach(self, engine: PrefixEngine | Server) -> None:
        """Use this engine from now on, and preload what the most recent scopes will need."""
        self._preloader.adopt(engine)
        self._submit("preload", None, self._preload)

    @property
    def _engine(self) -> PrefixEngine | Server | None:
        return self._preloader.engine

    # -- what a request asks: reads the plan, computes nothing -----------------------------------------------

    def resident(self, scope: Scope, clearance: frozenset[str] | None = None) -> list[MemCube]:
        """The memories resident in this scope's session, in prompt order: those of the plan the session began
        with, as they are now; what was deleted, holds no more or may not be read is left out."""
        if scope.user == ANY_USER or scope.home.session is not None:
            return []
        try:
            plan = self._vault.plans.for_session(scope)
        except VaultError as err:
            # Advice only: where a session cannot be noted down, its prompts are right without a plan.
            log.warning("no resident memory for %s: %s", scope, err)
            return []
        return cubes_of(self._vault, plan, clearance) if plan else []

    def explain(self, scope: Scope | None = None) -> list[Decision]:
        """What it did and why, oldest first.

        Args:
            scope: only decisions about this scope's tenant, user and agent.
        """
        home = home_of(scope) if scope else None
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
        tiers = self._preloader.tiers
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
            if self._thread is None or not self._thread.is_alive():  # after a fork it is not
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
                    first = min(
                        [self._look_at, *(self._when(key[0], job[0]) for key, job in self._jobs.items())]
                    )
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
            self._jobs.setdefault(("place", None), (moment, self._preloader.place))
        ready = [key for key, (due, _) in self._jobs.items() if self._when(key[0], due) <= moment]
        return min(ready, key=lambda key: _ORDER.index(key[0]), default=None)

    def _when(self, kind: str, due: float) -> float:
        """When a job of this kind is to be done that was asked for at `due`."""
        if self._hurry:
            return 0.0
        return max(due, self._rest_until) if kind in _PACED else due

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

    def _keep_house(self) -> None:
        started = time.monotonic()
        if self._housekeeping is not None:
            self._housekeeping()
        if time.monotonic() - self._scrubbed >= _SCRUB_EVERY:  # it goes through the whole text index
            self._scrubbed = time.monotonic()
            self._vault.scrub()
        self._rest(started)

    def _rest(self, started: float) -> None:
        """Something that is paced began then and is over: leave the others their time."""
        ended = time.monotonic()
        self._rest_until = ended + (ended - started) * (1 / _SHARE - 1)

    def _index(self) -> None:
        self._retriever.apply_pending(should_yield=self._checkpoint)
        self._retriever.feed_index(should_yield=self._checkpoint)

    def _prepare(self, scope: Scope) -> None:
        """Between turns: plan, and have the next prompt's prefix in place."""
        started = time.monotonic()
        self._flush_reads()
        plan = self._plan(scope)
        self._rest(started)
        if plan is None or self._preloader.prepare(plan):
            self._submit("place", None, self._preloader.place)

    def _preload(self) -> None:
        """An engine is there: bring in what the scopes will need, and look after it from now on."""
        self._preloader.start()
        if self._preloader.tiers is not None:
            self._look_at = time.monotonic() + _LOOK_EVERY

    def _plan(self, scope: Scope) -> Plan | None:
        if scope.session is not None:
            return None
        started = time.perf_counter()
        current = self._vault.plans.current(scope)
        system = self._systems.get(scope) or (current.system if current else DEFAULT_SYSTEM)
        which = CubeFilter(
            scope,
            granted="read",
            not_types=NOT_MEMORIES,
            kinds=["plaintext"],
            valid_at=now(),
            sessionless=scope.user is None,
        )
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
        self._vault.transition(fresh, State.ACTIVATED, ACTOR, "resident in the prompt")
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
