"""What Prometheus sees of the scheduler and the engine."""

from __future__ import annotations

from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from support import bag_of_words, run_script

from memos_core import MemOS
from memos_core.activation import ActivationEngine, LoadedModel
from memos_core.metrics import MemOSCollector


def test_a_turn_is_counted_and_names_nobody(tmp_path: Path, loaded: LoadedModel) -> None:
    registry = CollectorRegistry()
    engine = ActivationEngine(loaded, kv_dir=tmp_path / "kv", memory_budget=1 << 20)
    with MemOS.open(
        tmp_path / "v", user="alice", embedder=bag_of_words, index="exact", model=engine
    ) as memos:
        registry.register(MemOSCollector(memos))
        value = registry.get_sample_value
        assert value("memos_scheduler_jobs") == 0
        assert value("memos_kv_requests_total") is None  # the model is not in use yet
        memos.write("I own a boat")
        assert memos.engine is engine
        memos.turn_finished()
        assert memos.scheduler.wait_idle(60)
        engine.generate([5, 6, 7], memos.scope)
        assert value("memos_scheduler_decisions_total", {"action": "build"}) == 1
        assert (value("memos_scheduler_seconds_total", {"action": "build"}) or 0) > 0
        assert value("memos_kv_requests_total") == 1
        assert value("memos_kv_memory_bytes") == engine.store.stats["memory_bytes"] > 0
        assert value("memos_kv_budget_bytes", {"tier": "memory"}) == 1 << 20
        shown = generate_latest(registry).decode()
        assert "alice" not in shown
        assert "boat" not in shown


def test_without_prometheus_the_error_says_what_to_install() -> None:
    done = run_script("import sys; sys.modules['prometheus_client'] = None; import memos_core.metrics")
    assert "pip install -c constraints.txt -e '.[metrics]'" in done.stderr
