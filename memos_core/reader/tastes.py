"""Slots of likes and habits: whether the speaker likes, eats, drinks or smokes something."""

from __future__ import annotations

import re
from typing import Literal

from memos_core.cube import Slot
from memos_core.reader.lexicon import NO_VALUE, words
from memos_core.reader.wording import name, trim

Polarity = Literal["like", "dislike"]

_ADV = (
    r"(?:(?:really|absolutely|also|still|always|just|quite|particularly|especially|truly|totally|actually|now|so|honestly"
    r"|simply|kind of|sort of|very much|genuinely|do|have) )*"
)
_FAN = r"(?:fond of|a (?:big |huge |great )?fan of)"
_NOT = rf"(?:do not|do no longer|no longer) {_ADV}"
_LIKES = re.compile(rf"i {_ADV}(?:like|love|enjoy|adore|prefer|am {_ADV}{_FAN}) (?P<v>.+)")
_DISLIKES = re.compile(
    rf"i {_ADV}(?:hate|dislike|detest|loathe|can not {_ADV}(?:stand|bear)|am not {_ADV}{_FAN}"
    rf"|do not {_ADV}(?:like|enjoy|care for)) (?P<v>.+)"
)
_LIKES_NO_MORE = re.compile(
    rf"i {_ADV}(?:(?:do )?no longer {_ADV}(?:like|love|enjoy|adore|prefer|care for)|am no longer {_ADV}{_FAN}"
    rf"|stopped (?:liking|loving|enjoying)|went off) (?P<v>.+)"
)
_LIKED = re.compile(rf"i used to {_ADV}(?:like|love|enjoy|adore|be {_FAN}) (?P<v>.+)")
_DISLIKES_NO_MORE = re.compile(
    rf"i (?:{_NOT}(?:hate|dislike|detest|loathe)|used to {_ADV}(?:hate|dislike|detest|loathe)) (?P<v>.+)"
)
_PREFERS = re.compile(rf"i {_ADV}prefer (?!to )(?P<a>.+?) (?:to|over|rather than|instead of) (?P<b>.+)")
_CONSUMES = re.compile(
    rf"i {_ADV}(?P<verb>eat|drink) (?P<v>.+)|i {_ADV}started (?P<doing>eating|drinking) (?P<w>.+)"
)
_ABSTAINS = re.compile(
    rf"i (?:{_NOT}|{_ADV}never )(?P<verb>eat|drink) (?P<v>.+)"
    rf"|i {_ADV}(?:stopped|quit|gave up) (?P<doing>eating|drinking) (?P<w>.+)"
)
_SMOKES = re.compile(rf"i {_ADV}(?:smoke|am a smoker|started smoking)")
_NO_SMOKER = re.compile(
    rf"i (?:{_NOT}smoke|{_ADV}(?:stopped|quit|gave up) smoking|am (?:a non-?smoker|not a smoker|no longer a smoker))"
)

_WHEN = re.compile(
    r" (?:(?:last|this) \w+|[\w-]+ (?:days?|weeks?|months?|years?) ago|yesterday|recently|in [\w ]+)$"
)
_ADDED = re.compile(
    r",? (?:a lot|very much|so much|really|too|as well|also|a great deal"
    r"|(?:because|since) (?:it|they|he|she|of) [^,]+)$"
)
# Words that point at what was said before, or say nothing of their own.
_POINTERS = frozenset(
    words(
        "it that this these those you him her them us me how what when where who why being having way idea fact "
        "nothing everything something anything everyone everybody nobody one ones both either all here there if"
    )
)
_MOST_WORDS = 6


def taste(said: str, polarity: Polarity | None) -> Slot | None:
    """The slot of a statement about what the speaker likes; `said` as `wording.plain` gives it.

    Args:
        polarity: of the statement's `Preference`, which knows better than the words where they do not say that
            something is over.
    """
    short = trim(said, _ADDED)
    if found := _PREFERS.fullmatch(short):
        first, second = _thing(found["a"], 3), _thing(found["b"], 3)
        if first and second:
            return Slot(key="prefer " + " | ".join(sorted([first, second])), value=first)
        return None
    return _habit(short) or _liking(short, polarity)


def _liking(said: str, polarity: Polarity | None) -> Slot | None:
    rules: tuple[tuple[re.Pattern[str], Polarity, bool], ...] = (
        (_DISLIKES_NO_MORE, "dislike", True),
        (_LIKED, "like", True),
        (_LIKES_NO_MORE, "dislike", False),
    )
    for pattern, value, ends in rules:
        if found := pattern.fullmatch(said):
            return _about(found["v"], value, ends=ends)
    if found := _DISLIKES.fullmatch(said):
        return _about(found["v"], polarity or "dislike")
    if found := _LIKES.fullmatch(said):
        return _about(found["v"], polarity or "like")
    # A preference in note form: "black tea".
    if polarity and not NO_VALUE.intersection(said.split()) and name(said, 4):
        return _about(said, polarity)
    return None


def _about(words: str, value: Polarity, *, ends: bool = False) -> Slot | None:
    thing = _thing(words, _MOST_WORDS)
    return Slot(key=f"like {thing}", value=value, ends=ends) if thing else None


def _thing(words: str, most: int) -> str | None:
    """What is liked: its condition stays part of it, so that tea in the morning is not tea in the evening."""
    parts = words.split()
    if parts and parts[0] in ("a", "an", "the"):
        parts = parts[1:]
    if not 1 <= len(parts) <= most or parts[0] in _POINTERS or "," in words:
        return None
    return None if {"but", "because", "although", "than", "over"}.intersection(parts) else " ".join(parts)


def _habit(said: str) -> Slot | None:
    for pattern, value in ((_ABSTAINS, "no"), (_CONSUMES, "yes")):
        if found := pattern.fullmatch(said):
            verb = "eat" if "eat" in (found["verb"] or found["doing"]) else "drink"
            thing = name(found["v"] or trim(found["w"], _WHEN), 3)
            return Slot(key=f"{verb} {thing}", value=value) if thing else None
    said = trim(said, _WHEN)
    if _NO_SMOKER.fullmatch(said):
        return Slot(key="smoke", value="no")
    return Slot(key="smoke", value="yes") if _SMOKES.fullmatch(said) else None
