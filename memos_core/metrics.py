"""Figures of an open MemOS for Prometheus, read when they are asked for. Needs the extra `metrics`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from memos_core.activation import ServedEngine
from memos_core.errors import missing_extra
from memos_core.memos import MemOS

try:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector
except ImportError as err:
    raise missing_extra(err.name or "prometheus_client", "metrics") from None

_ENGINE = {  # of `ActivationEngine.stats`
    "requests": "Requests that generated something.",
    "hits": "Requests that began with stored KV.",
    "misses": "Requests for which no KV was stored.",
    "tokens_saved": "Prompt tokens that requests need not compute.",
    "cancelled": "Requests that ended early.",
    "evictions": "KV prefixes that left memory for others.",
    "damaged": "KV files that could not be used.",
}
_HELD = {
    "entries": "KV prefixes in memory.",
    "memory_bytes": "Bytes of KV in memory, on the model's device.",
    "host_bytes": "Bytes of KV in the memory of an accelerator's host.",
    "disk_files": "KV files.",
    "disk_bytes": "Bytes of KV files, of all models.",
}


class MemOSCollector(Collector):
    """What the scheduler did and what the engine holds, without a user's name or text in it.

        from prometheus_client import REGISTRY
        REGISTRY.register(MemOSCollector(memos))

    Args:
        memos: any view of the vault; all share one scheduler and one engine. A model that was not used yet is not
            loaded for this.

    Raises (at import):
        MissingExtra: prometheus-client is not installed.
    """

    def __init__(self, memos: MemOS) -> None:
        self._memos = memos

    def describe(self) -> list[Metric]:
        """Nothing: registering it does not look at anything yet."""
        return []

    def collect(self) -> Iterator[Metric]:
        """One family for each figure; names begin with `memos_`."""
        scheduler = self._memos.scheduler
        done: Any = CounterMetricFamily(
            "memos_scheduler_decisions", "What the scheduler did.", labels=["action"]
        )
        spent: Any = CounterMetricFamily(
            "memos_scheduler_seconds", "Seconds it worked in the background for that.", labels=["action"]
        )
        for action, (times, seconds) in scheduler.totals().items():
            done.add_metric([action], times)
            spent.add_metric([action], seconds)
        yield done
        yield spent
        yield GaugeMetricFamily("memos_scheduler_jobs", "Jobs that wait for it.", value=scheduler.waiting)
        engine = self._memos.loaded_engine
        if engine is None:
            return
        figures = engine.stats()
        for name, text in _ENGINE.items():
            if name in figures:  # a server looks after the others itself
                yield CounterMetricFamily(f"memos_kv_{name}", text, value=figures[name])
        if isinstance(engine, ServedEngine):
            return
        for name, text in _HELD.items():
            yield GaugeMetricFamily(f"memos_kv_{name}", text, value=figures[name])
        budget: Any = GaugeMetricFamily("memos_kv_budget_bytes", "Bytes that KV may take.", labels=["tier"])
        budget.add_metric(["memory"], engine.store.memory_budget)
        budget.add_metric(["host"], engine.store.host_budget)
        budget.add_metric(["disk"], engine.store.disk_budget)
        yield budget
