"""Observes, predicts, plans, preloads. Advice only: a request is right without it and never waits for it."""

from memos_core.scheduler.interfaces import Decision, PrefixEngine, Tiers
from memos_core.scheduler.outlook import Outlook, outlook
from memos_core.scheduler.placement import Costs, Move, Segment, plan
from memos_core.scheduler.planner import hotness, plan_resident
from memos_core.scheduler.predictor import Chance, Forecast, Frequency, GapPredictor, LastSeen, Predictor
from memos_core.scheduler.scheduler import MemScheduler

__all__ = [
    "Chance",
    "Costs",
    "Decision",
    "Forecast",
    "Frequency",
    "GapPredictor",
    "LastSeen",
    "MemScheduler",
    "Move",
    "Outlook",
    "Predictor",
    "PrefixEngine",
    "Segment",
    "Tiers",
    "hotness",
    "outlook",
    "plan",
    "plan_resident",
]
