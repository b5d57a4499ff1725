"""Words of texts as SQLite's text index sees them, and BM25 over few texts: what a search by words needs once
the index has said which texts hold any of them."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache

_WORD = re.compile(r"[^\W_]+", re.UNICODE)
_K1, _B = 1.2, 0.75  # as FTS5
_SHORT = 1_000  # characters; of shorter texts the stems are kept
# Porter's measure: consonant and vowel groups. A "y" behind a consonant is a vowel.
_C, _V = "(?:[^aeiou](?:[^aeiouy])*)", "(?:[aeiouy][aeiou]*)"
_MEASURED = re.compile(f"^{_C}?{_V}{_C}")
_MEASURED_ONCE = re.compile(f"^{_C}?{_V}{_C}{_V}?$")
_MEASURED_TWICE = re.compile(f"^{_C}?{_V}{_C}{_V}{_C}")
_HAS_VOWEL = re.compile(f"^{_C}?[aeiouy]")
_DOUBLE = re.compile(r"([^aeiouylsz])\1$")
_CVC = re.compile(f"^{_C}[aeiouy][^aeiouwxy]$")
_STEP_2 = (
    ("ational", "ate"),
    ("tional", "tion"),
    ("enci", "ence"),
    ("anci", "ance"),
    ("izer", "ize"),
    ("logi", "log"),
    ("bli", "ble"),
    ("alli", "al"),
    ("entli", "ent"),
    ("eli", "e"),
    ("ousli", "ous"),
    ("ization", "ize"),
    ("ation", "ate"),
    ("ator", "ate"),
    ("alism", "al"),
    ("iveness", "ive"),
    ("fulness", "ful"),
    ("ousness", "ous"),
    ("aliti", "al"),
    ("iviti", "ive"),
    ("biliti", "ble"),
)
_STEP_3 = (
    ("icate", "ic"),
    ("ative", ""),
    ("alize", "al"),
    ("iciti", "ic"),
    ("ical", "ic"),
    ("ful", ""),
    ("ness", ""),
)
_STEP_4 = re.compile(
    "^(.+?)(al|ance|ence|er|ic|able|ible|ant|ement|ment|ent|ou|ism|ate|iti|ous|ive|ize|(?<=[st])ion)$"
)


def stems(text: str) -> list[str]:
    """The words of a text in order: lower-case, without diacritics, English endings cut off."""
    return [stem(word) for word in _WORD.findall(text.lower())]


@lru_cache(maxsize=10_000)
def _kept_stems(text: str) -> list[str]:
    return stems(text)


def forget() -> None:
    """Drop what is kept of texts: some were deleted."""
    _kept_stems.cache_clear()


@lru_cache(maxsize=50_000)
def stem(word: str) -> str:
    """Porter's stem of one lower-case word. Words of other alphabets stay as they are."""
    if not word.isascii():
        word = "".join(ch for ch in unicodedata.normalize("NFKD", word) if not unicodedata.combining(ch))
    if not 2 < len(word) < 64 or not word.isascii() or not word.isalpha():
        return word
    for step in (_plural, _past, _final_y, _long_endings, _short_endings, _last):
        word = step(word)
    return word


def bm25(
    words: Sequence[str],
    texts: Sequence[str],
    *,
    total: int | None = None,
    holding: Mapping[str, int] | None = None,
) -> list[float]:
    """BM25 of texts for words, higher is better; 0.0 where no word occurs.

    Args:
        words: as they come from a question.
        total: how many texts there are, these and those that hold none of the words.
        holding: how many of all texts hold a word, where these are not all that do.
    """
    wanted: dict[str, int] = {}
    for word in words:
        for part in stems(word):
            wanted[part] = max(wanted.get(part, 0), (holding or {}).get(word, 0))
    split = [_kept_stems(text) if len(text) <= _SHORT else stems(text) for text in texts]
    mean = sum(map(len, split)) / len(split) if split else 1.0
    counts: list[dict[str, int]] = []
    known = dict.fromkeys(wanted, 0)
    for stemmed in split:
        found: dict[str, int] = {}
        for word in stemmed:
            if word in wanted:
                found[word] = found.get(word, 0) + 1
        for word in found:
            known[word] += 1
        counts.append(found)
    n = max(total or 0, len(texts), *(holding or {}).values())
    rarity: dict[str, float] = {}
    for word, elsewhere in wanted.items():
        held = min(max(known[word], elsewhere), n)
        rarity[word] = math.log(1 + (n - held + 0.5) / (held + 0.5))
    scores = []
    for stemmed, found in zip(split, counts, strict=True):
        norm = _K1 * (1 - _B + _B * len(stemmed) / (mean or 1.0))
        scores.append(sum(rarity[w] * f * (_K1 + 1) / (f + norm) for w, f in found.items()))
    return scores


def _plural(word: str) -> str:
    if word.endswith(("sses", "ies")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def _past(word: str) -> str:
    if word.endswith("eed"):
        return word[:-1] if _MEASURED.match(word[:-3]) else word
    for ending in ("ed", "ing"):
        if word.endswith(ending):
            base = word[: -len(ending)]
            if not _HAS_VOWEL.match(base):
                return word
            if base.endswith(("at", "bl", "iz")) or _CVC.match(base):
                return base + "e"
            return base[:-1] if _DOUBLE.search(base) else base
    return word


def _final_y(word: str) -> str:
    return word[:-1] + "i" if word.endswith("y") and _HAS_VOWEL.match(word[:-1]) else word


def _long_endings(word: str) -> str:
    for ending, new in _STEP_2:
        if word.endswith(ending):
            base = word[: -len(ending)]
            return base + new if _MEASURED.match(base) else word
    return word


def _short_endings(word: str) -> str:
    for ending, new in _STEP_3:
        if word.endswith(ending):
            base = word[: -len(ending)]
            word = base + new if _MEASURED.match(base) else word
            break
    found = _STEP_4.match(word)
    return found[1] if found and _MEASURED_TWICE.match(found[1]) else word


def _last(word: str) -> str:
    if word.endswith("e"):
        base = word[:-1]
        if _MEASURED_TWICE.match(base) or (_MEASURED_ONCE.match(base) and not _CVC.match(base)):
            word = base
    return word[:-1] if word.endswith("ll") and _MEASURED_TWICE.match(word) else word
