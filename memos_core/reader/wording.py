"""One wording for the many ways of writing the same English sentence. Pure string rules, no language model."""

from __future__ import annotations

import re
from unicodedata import normalize

from memos_core.reader.lexicon import NO_VALUE, NOT_IN_NAMES, NUMBERS

MAX_LENGTH = 300  # what is longer says more than one thing

_QUOTES = str.maketrans(
    dict.fromkeys("\u2018\u2019\u02bc`", "'")
    | dict.fromkeys("\u201c\u201d", '"')
    | dict.fromkeys("\u2013\u2014", "-")
)
_BEFORE = re.compile(r"^(?:[-*•>\"'(\[\s]|\d+[.)]\s)+")
# Punctuation and symbols at the end, but not what belongs to a name: C++, C#, 50%.
_AFTER = re.compile(
    r"(?:[\s.,!;:…\"'»)\]~_*]|[\u2190-\u2bff\ufe0e\ufe0f\u200d\u3030\U0001f000-\U0001faff])+$"
)
_SENTENCE_END = re.compile(
    r"(?<!\bst)(?<!\bdr)(?<!\bmr)(?<!\bmrs)(?<!\bms)(?<!\bprof)(?<!\bcorp)(?<!\binc)(?<!\bltd)[.!?]\s|[;?]"
)

_THIRD_PERSON = (
    (re.compile(r"^(?:the )?user's "), "my "),
    (re.compile(r"^(?:the )?user (?:is|'s) "), "i am "),
    (re.compile(r"^(?:the )?user has "), "i have "),
    (re.compile(r"^(?:the )?user does "), "i do "),
    (
        re.compile(
            r"^(?:the )?user ((?:now |currently |really |no longer |recently |just )*)"
            r"(live|reside|work|like|love|enjoy|adore|hate|dislike|detest|prefer|eat|drink|smoke|study)s "
        ),
        r"i \1\2 ",
    ),
    (re.compile(r"^(?:the )?user (?=(?:\w+ )?(?:moved|joined|became|turned|no longer) )"), "i "),
)

_CONTRACTIONS = (
    (re.compile(r"\b(?:can't|cannot|can ?not)\b"), "can not"),
    (re.compile(r"\bi'?m\b"), "i am"),
    (re.compile(r"\bi'?ve\b"), "i have"),
    (re.compile(r"\bwe're\b"), "we are"),
    (re.compile(r"\bwe've\b"), "we have"),
    (re.compile(r"\b(do|does|did|is|are|was|have|has)n'?t\b"), r"\1 not"),
    (re.compile(r"\b(\w+)'s (?=called |named |not )"), r"\1 is "),
    (re.compile(r"\b(name|birthday|colou?r|food)'s\b"), r"\1 is"),
    (re.compile(r"\b(?:anymore|any longer)\b"), "any more"),
)

# Contractions without an apostrophe.
_SHORT = re.compile(r"nt\b|\bi(?:m|ve)\b|cannot|\bany(?:more| longer)")

_SPELLING = {
    "favourite": "favorite",
    "favourites": "favorites",
    "colour": "color",
    "colours": "colors",
    "flavour": "flavor",
    "grey": "gray",
    "centre": "center",
    "theatre": "theater",
    "movie": "film",
    "movies": "films",
    "mum": "mother",
    "mom": "mother",
    "dad": "father",
    "kids": "children",
    "programme": "program",
}
_WORD = re.compile(r"\w+")

_LEAD = re.compile(
    r"^(?:(?:hi|hello|hey|ok|okay|yes|yeah|no|well|oh|so|actually|anyway|btw|fyi|by the way|for the record|in fact|but"
    r"|and|just so you know|(?:please )?(?:remember|note)(?: that)?|now|right now|currently|recently|finally|nowadays"
    r"|these days|at the moment|from now on|(?:since|as of) (?:\w+ ){0,2}\w+)[,:!]?(?: -)? ){1,3}"
    r"(?=i |my |we |user|the user|call |[\w ]+ is )"
)
# What was so for a day or a season is no change; what happened then is.
_LEAD_OF_CHANGE = re.compile(
    r"^(?:today|yesterday|(?:last|this) (?:week|month|year|spring|summer|autumn|fall|winter)"
    r"|in (?:january|february|march|april|may|june|july|august|september|october|november|december)),? "
    r"(?=i (?:have |just |finally )*(?:moved|joined"
    r"|relocated|started|turned|became|got|went|quit|left|lost|retired|stopped|changed) )"
)

_SOFT = re.compile(
    r",? (?:now|right now|currently|at the moment|these days|nowadays|already|actually|though|by the way|btw|any more"
    r"|at all"
    r"|again|from now on|for now|lately|officially|finally|instead|full[ -]time|\([^()]*\)?|not in [\w' -]+)$"
)


def plain(text: str) -> str:
    """The sentence in lower case, contractions written out, American spelling, without what leads in to it and without
    the punctuation around it. "" for a question, for several sentences, and for what is too long to be one claim."""
    if len(text) > 3 * MAX_LENGTH:
        return ""
    said = normalize("NFKC", normalize("NFKC", text).casefold()).translate(_QUOTES)
    said = " ".join(said.split())
    said = _AFTER.sub("", _BEFORE.sub("", said))
    if len(said) > MAX_LENGTH or _SENTENCE_END.search(f"{said} "):
        return ""
    if "'" in said or _SHORT.search(said):
        for pattern, written in _CONTRACTIONS:
            said = pattern.sub(written, said)
    said = _WORD.sub(lambda m: _SPELLING.get(m[0], m[0]), said)
    while (shorter := _LEAD_OF_CHANGE.sub("", _LEAD.sub("", said))) != said:
        said = shorter
    if said.startswith(("user", "the user")):
        for pattern, written in _THIRD_PERSON:
            said = pattern.sub(written, said)
    return said


def number(words: str) -> int | None:
    """A number up to 999 as digits or, up to 99, in words; None if it is none."""
    if re.fullmatch(r"[0-9]{1,3}", words):
        return int(words)
    tens, _, ones = words.replace("-", " ").partition(" ")
    if tens not in NUMBERS:
        return None
    if not ones:
        return NUMBERS[tens]
    if NUMBERS[tens] < 20 or not 0 < NUMBERS.get(ones, 0) < 10:
        return None
    return NUMBERS[tens] + NUMBERS[ones]


def name(words: str, most: int = 4) -> str | None:
    """A proper name of at most so many words, without the punctuation in it; None if it can be none."""
    parts = words.replace(".", " ").replace('"', " ").split()
    if not 1 <= len(parts) <= most or not parts[0][0].isalnum() or parts[0][0].isdigit():
        return None
    if NOT_IN_NAMES.intersection(parts) or any("," in part or ":" in part for part in parts):
        return None
    return " ".join(parts)


def value(words: str, most: int = 6) -> str | None:
    """What a thing is said to be, without its article, in at most so many words; None if it only says how it is."""
    parts = words.split()
    if parts and parts[0] in ("a", "an", "the"):
        parts = parts[1:]
    if not 1 <= len(parts) <= most or parts[0] in NO_VALUE or parts[0] in ("a", "an", "the", "not"):
        return None
    return " ".join(parts)


def trim(said: str, *tails: re.Pattern[str]) -> str:
    """The sentence without what at its end does not change what it says: `tails`, and words such as "now"."""
    while True:
        short = said
        for pattern in (_SOFT, *tails):
            short = pattern.sub("", short)
        if short == said:
            return said
        said = short.rstrip(" ,")
