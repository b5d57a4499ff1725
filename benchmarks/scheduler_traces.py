"""Traces for `benchmarks.scheduler`: who has a turn when, and how long what is said is. No text is kept."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate
from pathlib import Path
from typing import Any

from memos_core.cube import Scope

LOCOMO = Path("/work/shared/data/locomo_dev.json")
DAY = 86_400.0
_TOKENS_A_WORD = 1.35
_CALENDAR = 8  # days of LoCoMo's calendar to a simulated day: about a session a day for each speaker


@dataclass(frozen=True)
class Turn:
    """One request.

    Args:
        at: when it arrives, in seconds. session: of that scope.
        question: tokens that every policy must prefill: the question, and memories recalled for it.
        said: tokens by which it lengthens the conversation. reply: tokens that are generated.
        learned: tokens by which it lengthens the resident memory of the sessions after this one.
    """

    at: float
    scope: Scope
    session: str
    question: int
    said: int
    reply: int
    learned: int


def locomo(path: Path, seed: int, copies: int = 3) -> list[Turn]:
    """Each speaker's sessions as a user's turns: sessions at their hours of the day, the calendar run faster;
    what the other speaker says is the agent's reply. Pauses between turns are drawn: the time to read the reply
    and to type, times a spread.

    Args:
        copies: users made from a speaker, who begin on different days and at different hours.
    """
    draw = random.Random(seed)
    turns = []
    for sample in json.loads(path.read_text()):
        talk = sample["conversation"]
        for n, speaker in enumerate([talk["speaker_a"], talk["speaker_b"]] * copies):
            scope = Scope(user=f"{sample['sample_id']} {speaker} {n // 2}")
            first, free = draw.uniform(0, 7 * DAY), 0.0
            for number, start, lines in _sessions(talk):
                at = max(first + start + draw.uniform(0, 1800), free + 60)
                for said, reply in _exchanges(lines, speaker):
                    heard = int(len(reply.split()) * _TOKENS_A_WORD)
                    spoken = int(len(said.split()) * _TOKENS_A_WORD)
                    learned = spoken // 2 if len(said.split()) >= 8 else 0
                    turns.append(
                        Turn(at, scope, str(number), spoken + 60, spoken + heard + 10, heard, learned)
                    )
                    pause = 10 + 0.25 * len(reply.split()) + 1.2 * len(said.split())
                    at += pause * draw.lognormvariate(0.0, 0.5)
                free = at
    return sorted(turns, key=lambda t: (t.at, str(t.scope)))


def _sessions(talk: dict[str, Any]) -> Iterator[tuple[int, float, list[dict[str, Any]]]]:
    first: datetime | None = None
    for number in range(1, 100):
        if talk.get(f"session_{number}"):
            when = datetime.strptime(talk[f"session_{number}_date_time"], "%I:%M %p on %d %B, %Y")
            first = first or when.replace(hour=0, minute=0)
            day = (when - first).days // _CALENDAR
            yield number, day * DAY + when.hour * 3600.0 + when.minute * 60.0, talk[f"session_{number}"]


def _exchanges(lines: list[dict[str, Any]], speaker: str) -> Iterator[tuple[str, str]]:
    """What the speaker says, each with what is answered."""
    for i, line in enumerate(lines):
        if line["speaker"] == speaker:
            answer = lines[i + 1]["text"] if i + 1 < len(lines) else ""
            yield line["text"], answer


def zipf(seed: int, *, days: int, scopes: int = 100, sessions_a_day: int = 120) -> list[Turn]:
    """Many users of unequal activity, whose interests drift: each user has four agents (subjects), a session is drawn
    from a Zipf law over all of them, and every day a tenth of them change places."""
    draw = random.Random(seed)
    order = [Scope(user=f"user {i // 4}", agent=f"agent {i % 4}") for i in range(scopes)]
    draw.shuffle(order)
    weights = list(accumulate(1.0 / (rank + 1) ** 0.9 for rank in range(scopes)))
    turns: list[Turn] = []
    free: dict[Scope, float] = {}
    for day in range(days):
        for _ in range(scopes // 20):
            a, b = draw.sample(range(scopes), 2)
            order[a], order[b] = order[b], order[a]
        for n in range(_poisson(draw, sessions_a_day)):
            scope = draw.choices(order, cum_weights=weights)[0]
            at = day * DAY + _hour(draw) * 3600
            if at > free.get(scope, 0.0):
                turns += _session(draw, scope, f"{day}.{n}", at)
                free[scope] = turns[-1].at + 60
    return sorted(turns, key=lambda t: (t.at, str(t.scope)))


def habits(seed: int, *, days: int, users: int = 60) -> list[Turn]:
    """People of habit: each has one to three usual hours, keeps to them on most days within some twenty
    minutes, and changes one of them now and then."""
    draw = random.Random(seed)
    turns: list[Turn] = []
    for i in range(users):
        scope = Scope(user=f"user {i}")
        hours = [_hour(draw) for _ in range(draw.randint(1, 3))]
        keeps, free = draw.uniform(0.4, 0.95), 0.0
        for day in range(days):
            if draw.random() < 0.05:
                hours[draw.randrange(len(hours))] = _hour(draw)
            for n, hour in enumerate(sorted(hours)):
                at = day * DAY + hour * 3600 + draw.gauss(0, 1200)
                if draw.random() < keeps and at > free:
                    turns += _session(draw, scope, f"{day}.{n}", at)
                    free = turns[-1].at + 60
    return sorted(turns, key=lambda t: (t.at, str(t.scope)))


def _session(draw: random.Random, scope: Scope, name: str, at: float) -> list[Turn]:
    """Turns of one conversation: one to some twenty, half a minute to some minutes apart."""
    turns = []
    while True:
        question, reply = int(draw.lognormvariate(3.3, 0.5)), int(draw.lognormvariate(4.0, 0.5))
        learned = draw.choice((0, 0, 12, 24))
        turns.append(Turn(at, scope, name, question + 60, question + reply + 10, reply, learned))
        if draw.random() < 1 / 7:
            return turns
        at += draw.lognormvariate(math.log(60), 0.8)


def _hour(draw: random.Random) -> float:
    """An hour of the day, rarely at night."""
    while True:
        hour = draw.uniform(0, 24)
        if draw.random() < 0.55 - 0.45 * math.cos((hour - 3) / 24 * 2 * math.pi):
            return hour


def _poisson(draw: random.Random, mean: float) -> int:
    return max(0, round(draw.gauss(mean, math.sqrt(mean))))
