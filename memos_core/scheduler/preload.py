"""Preloading: has the KV of what prompts will begin with built, loaded and dropped, as the keeper's plan says."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from memos_core.cube import Activation, Descriptive, Header, MemCube, Scope, Source, now
from memos_core.errors import MemOSError
from memos_core.prompt import system_with_memory
from memos_core.scheduler.forest import Fetch, Release
from memos_core.scheduler.interfaces import KV_NAMESPACE, Decision, PrefixEngine, Server, Tiers
from memos_core.scheduler.keeper import KNOWN, Keeper, kv_records
from memos_core.vault import Actor, CubeFilter, Plan, Vault

log = logging.getLogger("memos_core.scheduler")

ACTOR = Actor("scheduler", "scheduler")


def home_of(scope: Scope) -> Scope:
    """The scope a plan belongs to: tenant, user and agent, whatever the session."""
    return scope.model_copy(update={"session": None})


def cubes_of(vault: Vault, plan: Plan, clearance: frozenset[str] | None = None) -> list[MemCube]:
    """A plan's memories as they are now, in prompt order; what was deleted, holds no more or may not be read is left
    out."""
    nobodys = plan.scope.user is None
    which = CubeFilter(plan.scope, clearance, granted="read", valid_at=now(), sessionless=nobodys)
    found = vault.get(which, plan.cube_ids)
    return [found[id_] for id_ in plan.cube_ids if id_ in found]


class Preloader:
    """Works with one engine. All of it runs in the scheduler's thread, but `ended`, which any thread may call.

    Args:
        vault: where plans and the records of KV are.
        note: told of each decision.
        checkpoint: called between two pieces of work; raises when the scheduler stops.
        clock: the time that predictions are made for, in POSIX seconds.
    """

    def __init__(
        self,
        vault: Vault,
        note: Callable[[Decision], None],
        checkpoint: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self._vault, self._note, self._checkpoint, self._clock = vault, note, checkpoint, clock
        self.engine: PrefixEngine | Server | None = None
        self._keeper = Keeper(vault)
        self._ended: deque[tuple[Scope, float]] = deque(maxlen=10_000)  # turns the keeper does not know yet

    @property
    def tiers(self) -> Tiers | None:
        """Where the engine keeps KV, if that has a budget of ours; servers look after their own."""
        tiers = getattr(self.engine, "store", None)
        return tiers if isinstance(tiers, Tiers) else None

    def ended(self, scope: Scope) -> None:
        """A turn of this scope ended now."""
        self._ended.append((scope, self._clock()))

    def adopt(self, engine: PrefixEngine | Server) -> None:
        """Preload for this engine from now on, if it can use what is preloaded."""
        refused = getattr(engine, "reuse_refused", None)
        if refused:
            log.warning("nothing is preloaded: %s", refused)
            self._note(Decision(Scope(), "error", f"nothing is preloaded: {refused}"))
        self.engine = None if refused else engine

    def start(self) -> None:
        """A process begins: bring in what the scopes will need, those that were active last first."""
        engine = self.engine
        if engine is None:
            return
        if self.tiers is not None and not isinstance(engine, Server):
            for plan in reversed(self._vault.plans.recent(KNOWN)):
                with self._noting(plan.scope):
                    self._keeper.learn(plan.scope)
                    self._prefix(plan, engine)
            return self.place()
        for plan in self._vault.plans.recent():
            who = plan.scope.user or "this scope"
            with self._noting(plan.scope):
                self._load(plan, f"{who} was active at {plan.planned_at:%Y-%m-%d %H:%M:%S} UTC")

    def prepare(self, plan: Plan) -> bool:
        """A turn ended: have the next prompt's prefix in place, or known, where the engine's budget is to be planned.

        Returns:
            Whether `place` is due.
        """
        if self.engine is None:
            return False
        if self.tiers is None or isinstance(self.engine, Server):
            self._load(plan, "the turn ended")
            return False
        self._take_in()
        self._prefix(plan, self.engine)
        return True

    def _take_in(self) -> None:
        while self._ended:
            scope, at = self._ended.popleft()
            self._keeper.turn(scope, home_of(scope), at)

    def place(self) -> None:
        """Where the engine has a budget: hold in memory what is worth it, whose-ever it is."""
        self._take_in()
        tiers = self.tiers
        if tiers is None:
            return
        freed: dict[tuple[Scope, bool], tuple[int, str]] = {}
        for step in self._keeper.plan(tiers, self._clock()):
            self._checkpoint()
            if isinstance(step, Release):
                nbytes, reason = freed.get((step.scope, step.resident), (0, step.reason))
                nbytes += tiers.release(step.salt, step.tokens, step.keep)
                freed[step.scope, step.resident] = nbytes, reason
                continue
            self._note_freed(freed)
            self._fetch(step)
        self._note_freed(freed)

    def _note_freed(self, freed: dict[tuple[Scope, bool], tuple[int, str]]) -> None:
        for (scope, resident), (nbytes, reason) in freed.items():
            if nbytes:
                what = "resident memory" if resident else "conversations"
                self._note(Decision(scope, "drop", f"{what}: {reason}", nbytes=nbytes))
        freed.clear()

    def _fetch(self, step: Fetch) -> None:
        plan = self._vault.plans.current(step.scope)
        if plan is not None:
            with self._noting(plan.scope):
                self._load(plan, step.reason, n_tokens=step.n_tokens, hold=step.hold)

    @contextmanager
    def _noting(self, scope: Scope) -> Iterator[None]:
        """One of several preloads; where it fails it is said why, and the others' go on."""
        self._checkpoint()
        try:
            yield
        except MemOSError as err:
            log.warning("the scheduler's preload for %s failed: %s", scope, err)
            self._note(Decision(scope, "error", f"preload failed: {err}"))

    def _load(self, plan: Plan, why: str, *, n_tokens: int | None = None, hold: bool = True) -> None:
        """Have a plan's prefix, or its first tokens, in memory: find it there, read it from disk, or compute it. Where
        it is not to be held: have it on disk."""
        engine = self.engine
        assert engine is not None
        if isinstance(engine, Server):
            return self._warm_up(plan, why, engine)
        started = time.perf_counter()
        cubes, tokens, mine = self._prefix(plan, engine)
        if not cubes:
            return
        wanted = tokens[:n_tokens]
        tier = engine.warm(wanted, plan.scope) if hold else None
        if tier is not None:
            action, where = ("preload", "was on disk") if tier == "disk" else ("keep", "is in memory already")
            reason = f"{why}; its KV {where}"
            nbytes = sum(c.payload.nbytes for c in mine if c.payload.kind == "activation")
        else:
            sources = tuple((c.id, c.version) for c in cubes)
            tiers, whole = self.tiers, len(wanted) == len(tokens)
            kv = engine.prefill(
                wanted,
                plan.scope,
                derived_from=sources,
                save=whole and (tiers is None or tiers.disk_budget > 0),
                hold=hold,
                should_yield=self._checkpoint,
            )
            if whole:
                self._record(plan, kv, sources, mine)
            action, reason, nbytes = "build", f"{why}: {plan.reason}", kv.nbytes
            self._keeper.built(len(wanted), time.perf_counter() - started)
        spent = time.perf_counter() - started
        self._note(Decision(plan.scope, action, reason, len(cubes), len(wanted), nbytes, spent))

    def _warm_up(self, plan: Plan, why: str, server: Server) -> None:
        """Have a server compute what a plan's prompts begin with. Nothing of it is ours to record."""
        started = time.perf_counter()
        cubes = cubes_of(self._vault, plan)
        if not cubes:
            return
        message = {"role": "system", "content": system_with_memory(plan.system, cubes)}
        tokens, cached = server.preload([message], plan.scope)
        spent = time.perf_counter() - started
        reason = f"{why}; the server had {cached:,} of {tokens:,} tokens"
        self._note(Decision(plan.scope, "build", reason, len(cubes), tokens, seconds=spent))

    def _prefix(self, plan: Plan, engine: PrefixEngine) -> tuple[list[MemCube], list[int], list[MemCube]]:
        """A plan's memories, their prompt's tokens, and the records of KV that was computed for the scope."""
        cubes = cubes_of(self._vault, plan)
        if not cubes:
            return [], [], []
        tokens = engine.stable_prefix([{"role": "system", "content": system_with_memory(plan.system, cubes)}])
        records = [r for r in kv_records(self._vault, plan.scope) if r[1].model == engine.model_fingerprint]
        self._keeper.begins_with(plan.scope, tokens)
        return cubes, tokens, [cube for cube, _ in records]

    def _record(self, plan: Plan, kv: Any, sources: tuple[tuple[str, int], ...], old: list[MemCube]) -> None:
        """Write down the KV cache as an activation cube, and drop the ones it replaces."""
        engine = self.engine
        assert engine is not None and not isinstance(engine, Server)  # noqa: PT018
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
        [stored] = self._vault.put([cube], ACTOR)
        self._vault.delete([c.id for c in replaced], ACTOR)
        engine.forget([c.key for c in replaced])
        # A source may have been deleted while this was computed: then this must not stay either.
        alive = self._vault.get(CubeFilter(plan.scope, granted="read"), [i for i, _ in sources])
        if len(alive) < len(sources):
            self._vault.delete([stored.id], ACTOR)
            engine.forget([kv.key])
            raise MemOSError("a memory was deleted while its KV was computed; the KV is dropped")
