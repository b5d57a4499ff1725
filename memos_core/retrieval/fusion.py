"""Joins lexical and vector scores into one ranking."""

from __future__ import annotations

import re
from collections.abc import Mapping

_WORD = re.compile(r"\w+", re.UNICODE)
# Words that say nothing about the topic; without them BM25's OR query does not drown in questions' grammar.
_STOP_WORDS = """
    a an and are as at be been but by can could did do does for from had has have he her him his how i if
    in is it its me my of on or our she should so than that the their them then there they this to us was
    we were what when where which who whom why will with would you your
"""
_STOP = frozenset(_STOP_WORDS.split())


def query_words(text: str, limit: int = 64) -> list[str]:
    """The distinct content words of a question, lower-case; all its words where it has no others."""
    words = list(dict.fromkeys(w.lower() for w in _WORD.findall(text)))
    return [w for w in words if w not in _STOP][:limit] or words[:limit]


def fuse(
    lexical: Mapping[str, float], semantic: Mapping[str, float], *, lexical_weight: float = 0.5
) -> dict[str, float]:
    """Min-max fusion: each side is scaled to 0..1 over its candidates, then added by weight. On LoCoMo this
    beat reciprocal rank fusion. A side without candidates leaves the other alone.

    Args:
        lexical, semantic: scores by id, higher is better.
        lexical_weight: share of the lexical side, 0 to 1.
    """
    if not lexical or not semantic:
        return scale(lexical or semantic)
    words, meaning = scale(lexical), scale(semantic)
    return {
        id_: lexical_weight * words.get(id_, 0.0) + (1 - lexical_weight) * meaning.get(id_, 0.0)
        for id_ in {**lexical, **semantic}
    }


def scale(scores: Mapping[str, float]) -> dict[str, float]:
    """Scores stretched to 0..1; all 1 where they are equal."""
    if not scores:
        return {}
    low, high = min(scores.values()), max(scores.values())
    return {id_: (s - low) / (high - low) if high > low else 1.0 for id_, s in scores.items()}
