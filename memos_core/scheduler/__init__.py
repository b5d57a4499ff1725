"""Observes, predicts, plans, preloads. Advice only: a request is right without it and never waits for it."""

from memos_core.scheduler.planner import hotness, plan_resident
from memos_core.scheduler.scheduler import Decision, MemScheduler, PrefixEngine

__all__ = ["Decision", "MemScheduler", "PrefixEngine", "hotness", "plan_resident"]
