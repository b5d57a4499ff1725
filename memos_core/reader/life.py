"""Slots of a life: where somebody lives and works, how old they are, whom they are married to, what they eat."""

from __future__ import annotations

import re

from memos_core.cube import Slot
from memos_core.reader.lexicon import IN_NAMES, MONTHS, NO_VALUE, words
from memos_core.reader.places import REGIONS, town
from memos_core.reader.wording import name, number, trim

_ADV = (
    r"(?:(?:have|am|are|been|just|now|currently|recently|still|finally|actually|officially|only|already"
    r"|permanently|happily) )*"
)
_DONE = r"(?:(?:have|just|now|recently|finally|actually|officially|already|permanently) )*"
_NOT = rf"(?:{_ADV}(?:do not|no longer|not|am no longer|do no longer) {_ADV})"

# What a newer statement may tell of long ago: it ends nothing of today.
_LONG_AGO = re.compile(
    r"\b(?:1[0-9]|20)\d\d\b|\b(?:years?|decades?) ago\b|\bas an? (?:child|kid|baby|student|teenager|boy|girl|toddler)\b"
    r"|\bonce\b"
)
_DURATION = (
    r"(?:about |over |almost |nearly |around |more than |the (?:last|past) )?"
    r"[\w-]+ (?:days?|weeks?|months?|years?|decades?)"
)
_TAIL = re.compile(
    rf",? (?:(?:last|this) (?:week|month|year|spring|summer|autumn|fall|winter|{'|'.join(MONTHS)})"
    rf"|yesterday|today|recently"
    rf"|in (?:{'|'.join(MONTHS)})|[\w-]+ (?:days?|weeks?|months?) ago|for {_DURATION}|for (?:good|work|ever)"
    r"|alone|on my own|by myself|permanently|temporarily|together"
    r"|since i was [\w-]+(?: \w+)?|since [\w' -]+|because [\w', -]+|(?:together )?with [\w' -]+)$"
)
_BESIDE = re.compile(r" (?:near|close to|next to|not far from|outside|from) [\w' -]+$")

_LIVE = re.compile(
    rf"(?:i|we) {_ADV}(?:live|living|reside|residing|based|settled(?: down)?) (?:together )?in (?P<v>.+)"
)
_LIVED = re.compile(r"(?:i|we) have (?:always )?lived in (?P<v>.+?) (?:since|for) .+")
_MOVED = re.compile(
    rf"i {_DONE}(?:moved|relocated|emigrated)(?: (?:back|over|down|up|away|home))*(?: from [\w' -]+?)? to (?P<v>.+)"
)
_LEFT_HOME = re.compile(
    rf"(?:i|we) (?:{_NOT}(?:live|living|reside|based) in|used to live in|{_DONE}moved (?:out of|away from)) (?P<v>.+)"
)
_WITHIN = re.compile(r"^(?:downtown|central|greater|inner) (?=\w)")
_NAMED_WITH_THE = {"hague", "bronx", "bay area"}

_EMPLOYED = re.compile(
    rf"i {_ADV}(?:work|working|employed)(?: full[ -]time)? (?:at|for|by) (?P<v>.+)"
    r"|my (?:current |new )?employer is (?P<w>.+)"
)
_JOINED = re.compile(
    rf"i {_DONE}(?:joined|(?:started|began)(?: working| work)? (?:at|for)"
    r"|(?:started|got) an? (?:new )?job (?:at|with)) "
    r"(?P<v>.+)"
)
_LEFT_JOB = re.compile(
    rf"i (?:{_NOT}(?:work|working|employed) (?:at|for|by)|used to work (?:at|for)|{_DONE}stopped working (?:at|for)"
    rf"|{_DONE}(?:quit|left|lost) my (?:old )?job (?:at|with)"
    rf"|{_DONE}(?:(?:was|got|been) )?(?:resigned|fired|laid off|made redundant|let go) (?:from|by)) (?P<v>.+)"
)
_NO_JOB = re.compile(
    rf"i {_ADV}(?:unemployed|jobless|between jobs|out of work|retired)|i {_DONE}(?:retired|(?:quit|left|lost) my job)"
)
_AS = re.compile(r" (?:as|in) [\w' -]+$")
_OF = re.compile(
    r"^the (?=(?:university|ministry|bank|museum|city|department|college|church) of (?:the )?\w+|bbc$|un$|eu$|nhs$)"
)
_HOW = NO_VALUE - IN_NAMES
_NO_EMPLOYER = _HOW.union(
    words(
        "home work night nights weekends weekdays sea school college university uni church free fun money hours "
        "clients people present least most food peace gym nothing everyone children charity charities"
    )
)
_PROFESSION = re.compile(
    rf"i {_ADV}(?:work|working|employed) as (?P<v>.+)"
    r"|my (?:current |new )?(?:profession|occupation|job title) is (?P<w>.+)"
)
_AT = re.compile(r" (?:at|for|in|with) [\w' -]+$")
_SCHOOL = re.compile(rf"i {_ADV}(?:study|studying) at (?P<v>.+)")

_AGE = re.compile(
    rf"(?:i {_ADV}(?:turned )?(?:aged )?|my age is )(?P<v>[\w-]+(?: [\w-]+)?)"
    r"(?P<unit> (?:years?|yrs?)(?: old| of age)?)?"
)
_BORN = re.compile(r"(?:my birthday is|my date of birth is|i was born)(?P<v> .+)")
_DAY = re.compile(
    rf" (?:on )?(?:the )?(?:(?P<d>\d\d?)(?:st|nd|rd|th)?(?: of)? (?P<m>{'|'.join(MONTHS)})"
    rf"|(?P<m2>{'|'.join(MONTHS)}) (?:the )?(?P<d2>\d\d?)(?:st|nd|rd|th)?)(?:,? (?P<y>\d{{4}}))?"
    r"| (?:on )?\d{4}-(?P<m3>\d\d)-(?P<d3>\d\d)"
)

_BECAME = rf"(?:{_ADV}(?:became|become|went|gone|turned|got|gotten) |{_ADV})"
_DIETS = "vegan|vegetarian|pescatarian|pescetarian|flexitarian|omnivore|carnivore"
_MARITAL = "single|married|divorced|engaged|widowed|separated|in a relationship"
_STATES = (
    ("diet", re.compile(rf"i {_BECAME}(?:an? )?(?:strict )?(?P<v>{_DIETS})")),
    ("marital status", re.compile(rf"i {_BECAME}(?P<v>{_MARITAL})(?: to (?P<to>.+))?")),
)
_STATES_OVER = (
    (
        "diet",
        re.compile(rf"i (?:{_NOT}|used to be |{_DONE}stopped being )(?:an? )?(?:strict )?(?P<v>{_DIETS})"),
    ),
    ("marital status", re.compile(rf"i (?:{_NOT}|used to be )(?P<v>{_MARITAL})")),
)
_CHILDREN = re.compile(
    r"(?:i|we) (?:now )?have (?P<v>no|[\w-]+) "
    r"(?P<n>children|sons|daughters|brothers|sisters|siblings|grandchildren|cats|dogs)"
)


def life(said: str) -> Slot | None:
    """The slot of a statement about the speaker's life; `said` as `wording.plain` gives it."""
    short = trim(said)
    return _home(short) or _work(short) or _person(short)


def _home(said: str) -> Slot | None:
    for pattern in (_LIVED, _LIVE, _MOVED, _LEFT_HOME):
        if found := pattern.fullmatch(said):
            if pattern is _MOVED and _LONG_AGO.search(said):
                return None
            place = _place(found["v"])
            if place is None:
                return None
            key = "home region" if place in REGIONS else "home"
            return Slot(key=key, value=place, ends=pattern is _LEFT_HOME)
    return None


def _place(words: str) -> str | None:
    """The town or country that is named first: what follows a comma only says more about it."""
    head, *rest = trim(words, _TAIL, _BESIDE).split(",")
    if any(_says_more_than_where(part.strip()) for part in rest):
        return None
    head = trim(head.strip(), _TAIL, _BESIDE)
    if head.startswith("the "):
        bare = head.removeprefix("the ")
        head = bare if bare in REGIONS or bare in _NAMED_WITH_THE else head
    place = name(_WITHIN.sub("", head))
    return None if place is None or place.split()[0] in _HOW else town(place)


def _says_more_than_where(part: str) -> bool:
    if re.match(r"(?:on|in|near|close|next|just|at|a|the|not) ", part):
        return re.search(r"\b(?:and|but|or|work\w*|lives?)\b", part) is not None
    return name(part, 3) is None


def _work(said: str) -> Slot | None:
    if _NO_JOB.fullmatch(trim(said, _TAIL)):
        return None if _LONG_AGO.search(said) else Slot(key="employer", value="none")
    for pattern in (_LEFT_JOB, _EMPLOYED, _JOINED):
        if found := pattern.fullmatch(said):
            firm = _firm(found["v"] or found.groupdict().get("w") or "")
            if firm is None or (pattern is _JOINED and _LONG_AGO.search(said)):
                return None
            return Slot(key="employer", value=firm, ends=pattern is _LEFT_JOB)
    if found := _PROFESSION.fullmatch(said):
        words = re.sub(r"^(?:an?|the) ", "", trim(found["v"] or found["w"], _TAIL, _AT))
        title = name(words)
        return Slot(key="occupation", value=title) if title and title.split()[0] not in NO_VALUE else None
    if (found := _SCHOOL.fullmatch(said)) and (school := _firm(found["v"])):
        return Slot(key="school", value=school)
    return None


def _firm(words: str) -> str | None:
    words = trim(words, _TAIL, _AS)
    if words == "myself":
        return words
    if _OF.match(words):
        return words.removeprefix("the ")
    firm = name(words)
    # "I work at night", "for free": a way of working.
    return None if firm is None or firm.split()[0] in _NO_EMPLOYER else firm


def _person(said: str) -> Slot | None:
    said = said if _BORN.match(said) else trim(said, _TAIL)
    if found := _AGE.fullmatch(said):
        years = number(found["v"])
        if (
            years is not None
            and 1 <= years <= 120
            and (found["unit"] or years > 12 or said.startswith("my "))
        ):
            return Slot(key="age", value=str(years))
    if found := _BORN.fullmatch(said):
        return _birth(found["v"], born=said.startswith("i was"))
    if _LONG_AGO.search(said):
        return None
    for over, states in ((True, _STATES_OVER), (False, _STATES)):
        for key, pattern in states:
            if found := pattern.fullmatch(said):
                partner = found.groupdict().get("to")
                if partner and name(re.sub(r"^an? ", "", partner)) is None:
                    return None  # "to my job"
                return Slot(key=key, value=found["v"].replace("pescetarian", "pescatarian"), ends=over)
    if found := _CHILDREN.fullmatch(said):
        count = 0 if found["v"] == "no" else number(found["v"])
        return None if count is None else Slot(key=f"number of {found['n']}", value=str(count))
    return None


def _birth(when: str, *, born: bool) -> Slot | None:
    if found := _DAY.fullmatch(when):
        month = found["m"] or found["m2"] or found["m3"]
        day = int(found["d"] or found["d2"] or found["d3"])
        return Slot(key="birthday", value=f"{MONTHS.get(month) or int(month):02}-{day:02}")
    if born and (found := re.fullmatch(r" in (?P<y>(?:19|20)\d\d)", when)):
        return Slot(key="birth year", value=found["y"])
    if born and when.startswith(" in ") and when.removeprefix(" in ").split()[0] not in MONTHS:
        place = _place(when.removeprefix(" in "))
        if place and place not in REGIONS:
            return Slot(key="birthplace", value=place)
    return None
