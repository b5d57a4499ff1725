"""A small extractor that needs no language model: first-person statements become facts and preferences."""

from __future__ import annotations

import re

from memos_core.cube import Fact, Preference
from memos_core.reader.slots import slot_of

# A period after a title, "St." or "Inc." ends no sentence.
_SENTENCE = re.compile(
    r"(?<=[.!?])"
    r"(?<!\bdr\.)(?<!\bmr\.)(?<!\bmrs\.)(?<!\bms\.)(?<!\bst\.)(?<!\bprof\.)(?<!\bcorp\.)(?<!\binc\.)(?<!\bltd\.)"
    r"(?:[\"')\]]*)\s+|\n+",
    re.IGNORECASE,
)
_FIRST_PERSON = re.compile(r"\b(i|i'm|i've|i'd|i'll|my|mine|me|we|our|us)\b", re.IGNORECASE)
# Talk about the conversation itself, and requests: first-person, but nothing to remember.
_TALK = re.compile(
    r"^(i('m| am)? (ask|asking|wonder|wondering|mean|guess|think so|see|just wanted|would like to ask"
    r"|have a question)\b"
    r"|(can|could|would|will|do|did|please|let|tell|remind|give|show|help|what|who|where|when|why|how|which)\b"
    r"|(add|book|bring|buy|check|explain|find|fix|get|make|order|read|send|summari[sz]e|translate|write)\b"
    r"|thank)",
    re.IGNORECASE,
)
# Beside a question, what the speaker is doing or wants just now is the reason for asking.
_JUST_NOW = re.compile(
    r"\bi('m| am) (just )?\w+ing\b|\bi('d| would)? (just )?(want|need|have|like) to\b", re.IGNORECASE
)
_NOT = r"(?:don'?t|do not|didn'?t|did not) (?:really |actually |particularly |even |much )?"
# What was liked or hated once, and is neither now: a fact.
_NO_MORE = re.compile(
    rf"\b(?:used to (?:like|love|enjoy|adore|hate|dislike)|(?:no longer|{_NOT})(?:hate|dislike|mind))\b",
    re.IGNORECASE,
)
_DISLIKE = re.compile(
    r"\b(?:hate|dislike|can'?t stand|cannot stand|avoid|never (?:eat|drink|want)|stopped (?:liking|loving|enjoying)"
    rf"|(?:no longer |{_NOT})(?:like|want|enjoy|drink|eat|care for))\b",
    re.IGNORECASE,
)
_LIKE = re.compile(r"\b(love|like|prefer|enjoy|adore|favou?rite|fond of|rather)\b", re.IGNORECASE)


def sentences(text: str) -> list[str]:
    """The sentences and lines of a text, list bullets taken off."""
    parts = (part.strip().lstrip("-*•").strip() for part in _SENTENCE.split(text))
    return [part for part in parts if part]


def extract_statements(text: str) -> list[Fact | Preference]:
    """The first-person statements of a message, verbatim, in order, each once.

    A statement is a sentence of at least three words that speaks of the speaker and is neither a question nor
    a request, nor, beside a question, what the speaker is doing or wants just now. What has a slot (see
    `slot_of`) is one in any case, such as "I'm vegan". It is a `Preference` if it says what the speaker likes or
    does not, else a `Fact`. Rules, not understanding: for other languages and
    for facts between the lines, pass an extractor that uses a model.

    Args:
        text: what a user said.
    """
    found: dict[str, Fact | Preference] = {}
    said = sentences(text)
    asks = any(_is_question(sentence) for sentence in said)
    for sentence in said:
        if _is_question(sentence):
            continue
        plain = _straight(sentence)
        if not _FIRST_PERSON.search(plain) or _TALK.match(plain):
            continue
        passing = len(sentence.split()) < 3 or (asks and _JUST_NOW.search(plain))
        if passing and slot_of(None, sentence) is None:
            continue
        found.setdefault(sentence.casefold(), _typed(sentence))
    return list(found.values())


def _straight(text: str) -> str:
    """The text with typewriter apostrophes, as the patterns have them."""
    return text.replace("\u2019", "'")


def _is_question(sentence: str) -> bool:
    return sentence.rstrip("\"')]").endswith("?")


def _typed(sentence: str) -> Fact | Preference:
    plain = _straight(sentence)
    if _NO_MORE.search(plain):
        return Fact(statement=sentence)
    if _DISLIKE.search(plain):
        return Preference(statement=sentence, polarity="dislike")
    if _LIKE.search(plain):
        return Preference(statement=sentence, polarity="like")
    return Fact(statement=sentence)
