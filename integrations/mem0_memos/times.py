"""Moments that calls are given, and the time that a question is about."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta
from math import isfinite
from typing import Any, NamedTuple

from memos_core.errors import InvalidArgument

_DAY = timedelta(days=1)
_END = time(23, 59, 59, 999_999, UTC)


class Period(NamedTuple):
    """From one moment up to, and without, another."""

    start: datetime
    end: datetime

    def holds(self, moment: datetime) -> bool:
        """Whether a moment lies in it."""
        return self.start <= moment < self.end


def moment(value: Any, name: str, *, end_of_day: bool = False) -> datetime:
    """A moment from Unix seconds, an ISO text, a date or a datetime; without a zone it is UTC.

    Args:
        name: the argument's name, for messages. end_of_day: a date means its last moment, not its first.

    Raises:
        InvalidArgument: none of these.
    """
    if isinstance(value, str) and (text := value.strip()):
        try:
            value = float(text) if re.fullmatch(r"\d{9,}(\.\d+)?", text) else datetime.fromisoformat(text)
            if isinstance(value, datetime) and re.fullmatch(r"\d{4}-?\d\d-?\d\d", text):
                value = value.date()
        except ValueError:
            pass
    if isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value):
        try:
            return datetime.fromtimestamp(value, UTC)
        except (OverflowError, ValueError, OSError):
            pass
    if isinstance(value, datetime):
        try:
            return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
        except OverflowError:
            raise InvalidArgument(
                f"{name} is no moment of the years 1 to 9999 in UTC, got {value!r}"
            ) from None
    if isinstance(value, date):
        return datetime.combine(value, _END if end_of_day else time(tzinfo=UTC))
    raise InvalidArgument(f"{name} must be Unix seconds, a date or an ISO text, got {value!r:.80}")


_NUMBERS = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7}
_NAMES = "january|february|march|april|may|june|july|august|september|october|november|december"
_MONTHS = {name: number for number, name in enumerate(_NAMES.split("|"), 1)}
_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_UNIT = r"(day|week|month|year)"
_MONTH = f"({_NAMES})"
_COUNT = rf"(\d{{1,3}}|{'|'.join(_NUMBERS)})"
_PHRASES = {
    name: re.compile(rf"\b{pattern}\b", re.IGNORECASE)
    for name, pattern in {
        "iso": r"(\d{4})-(\d\d)-(\d\d)",
        "named": r"(day before yesterday|yesterday|today|tonight|tomorrow)",
        "ago": rf"{_COUNT} {_UNIT}s? ago",
        "past": rf"(?:last|past) {_COUNT} {_UNIT}s?",
        "unit": rf"(last|past|this|current|next|coming) {_UNIT}",
        "weekday": rf"(last|this|on|next) ({'|'.join(_DAYS)})",
        "month": rf"(?:in|during|of|last|this) {_MONTH}(?:,? (\d{{4}}))?",
        "year": r"(?:in|during|of) ((?:19|20)\d\d)",
    }.items()
}


def period(question: str, today: date) -> Period | None:
    """The time that an English question names ("last week", "in May 2023", "two days ago"), or None.

    Args:
        question: what is asked. today: the day on which it is asked.
    """
    for name, pattern in _PHRASES.items():
        if match := pattern.search(question):
            try:
                first, last = _READ[name](match, today)
                return Period(_start(first), _start(last))
            except (ValueError, OverflowError):  # "2023-02-31", 900 years ago
                continue
    return None


def _iso(match: re.Match[str], today: date) -> tuple[date, date]:
    day = date(int(match[1]), int(match[2]), int(match[3]))
    return day, day + _DAY


def _named(match: re.Match[str], today: date) -> tuple[date, date]:
    days = {"day before yesterday": -2, "yesterday": -1, "tomorrow": 1}.get(match[1].lower(), 0)
    return today + days * _DAY, today + (days + 1) * _DAY


def _ago(match: re.Match[str], today: date) -> tuple[date, date]:
    return _whole(match[2].lower(), _moved(today, match[2].lower(), -_count(match[1])))


def _past(match: re.Match[str], today: date) -> tuple[date, date]:
    return _moved(today, match[2].lower(), -_count(match[1])), today + _DAY


def _unit(match: re.Match[str], today: date) -> tuple[date, date]:
    step = {"last": -1, "past": -1, "next": 1, "coming": 1}.get(match[1].lower(), 0)
    return _whole(match[2].lower(), _moved(today, match[2].lower(), step))


def _weekday(match: re.Match[str], today: date) -> tuple[date, date]:
    away = _DAYS.index(match[2].lower()) - today.weekday()
    which = match[1].lower()
    if which == "next":
        away = away + 7 if away <= 0 else away
    elif which in ("last", "on"):  # "on Monday" of what is remembered: the one that was
        away = away - 7 if away >= (0 if which == "last" else 1) else away
    day = today + away * _DAY
    return day, day + _DAY


def _month(match: re.Match[str], today: date) -> tuple[date, date]:
    number = _MONTHS[match[1].lower()]
    year = int(match[2]) if match[2] else today.year - (number > today.month)
    return _whole("month", date(year, number, 1))


def _year(match: re.Match[str], today: date) -> tuple[date, date]:
    return _whole("year", date(int(match[1]), 1, 1))


_READ = {
    "iso": _iso,
    "named": _named,
    "ago": _ago,
    "past": _past,
    "unit": _unit,
    "weekday": _weekday,
    "month": _month,
    "year": _year,
}


def _count(word: str) -> int:
    return _NUMBERS.get(word.lower()) or int(word)


def _moved(day: date, unit: str, steps: int) -> date:
    """A day so many units away; the last of the month where its number is missing there."""
    if unit in ("day", "week"):
        return day + steps * (7 if unit == "week" else 1) * _DAY
    months = day.year * 12 + day.month - 1 + steps * (12 if unit == "year" else 1)
    first = date(months // 12, months % 12 + 1, 1)
    return min(first + (day.day - 1) * _DAY, _whole("month", first)[1] - _DAY)


def _whole(unit: str, day: date) -> tuple[date, date]:
    """The day, week (from Monday), month or year that a day lies in."""
    if unit == "day":
        return day, day + _DAY
    if unit == "week":
        monday = day - day.weekday() * _DAY
        return monday, monday + 7 * _DAY
    if unit == "month":
        first = day.replace(day=1)
        return first, (first + 32 * _DAY).replace(day=1)
    return day.replace(month=1, day=1), date(day.year + 1, 1, 1)


def _start(day: date) -> datetime:
    return datetime.combine(day, time(tzinfo=UTC))
