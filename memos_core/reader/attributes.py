"""Slots of the form "my … is …", for what people have one of: names, favorites, numbers and addresses."""

from __future__ import annotations

import re

from memos_core.cube import Slot
from memos_core.reader.lexicon import NO_VALUE, words
from memos_core.reader.wording import name, number, trim, value

# Of these one has several: a new name is no news about the old one.
_MANY = frozenset(
    words(
        "sister brother sibling friend colleague coworker cousin aunt uncle neighbor neighbour son daughter child "
        "kid teacher student nephew niece grandmother grandfather grandma grandpa teammate roommate flatmate "
        "client customer pupil grandson granddaughter classmate godson goddaughter one other twin pet plant book "
        "project song"
    )
)
# Of these a new one takes the place of the old one.
_ROLES = frozenset(
    words(
        "boss manager wife husband spouse partner girlfriend boyfriend fiance fiancé fiancée fiancee doctor "
        "dentist therapist landlord landlady gp vet company employer team supervisor secretary"
    )
)
_TITLES = frozenset(words("mr mrs ms miss dr doctor prof professor sir madam"))
_NOUN = r"(?P<n>\w[\w-]*(?: \w[\w-]*)?)"
_NAMED = (
    re.compile(rf"my {_NOUN} is (?P<not>not |no longer )?(?:called|named) (?P<v>.+)"),
    re.compile(rf"my {_NOUN}'s (?:first )?name is (?P<not>not |no longer )?(?P<v>.+)"),
    re.compile(rf"the name of my {_NOUN} is (?P<not>not |no longer )?(?P<v>.+)"),
)
_MY_NAME = re.compile(
    r"(?:my (?:first |given |real |full )?name is|i am (?:called|named)|i (?:have )?(?:just )?changed my name to) "
    r"(?P<not>not |no longer )?(?P<v>.+)"
)
_CALLED = re.compile(
    r"(?:(?:please )?call me|i go by|(?:my friends|people|everyone|everybody|friends) calls? me|my nickname is) "
    r"(?P<v>.+)"
)
_NO_CALL = frozenset(words("later tomorrow back soon tonight today crazy again anytime sometime please"))

_FAVORITE = r"(?:(?:all[ -]time|absolute|current|new|very) )*favorite (?P<n>\w[\w-]*(?: \w[\w-]*){0,2}?)"
_FAVORITE_IS = re.compile(rf"my {_FAVORITE} (?P<is>is|are)(?P<not> not| no longer)? (?:now )?(?P<v>.+)")
_IS_FAVORITE = re.compile(rf"(?P<v>.+?) is (?:now )?(?P<not>not |no longer )?my {_FAVORITE}")
_CATEGORIES = frozenset(
    words(
        "color food film book band song sport team drink city country season animal number subject game artist "
        "author writer singer restaurant dish cuisine language editor ide day month holiday flavor fruit vegetable "
        "hobby show series genre music place actor actress character player tool brand snack dessert meal "
        "framework library flower tree podcast website app bar cafe café pub beer wine tea coffee cheese soup "
        "sauce spice bird dog cat breed car poem poet painter painting composer album musician instrument director "
        "novel club sandwich pizza pasta topping toy room chocolate cocktail breakfast lunch dinner exercise "
        "workout distro font planet person candy"
    )
)
_MADE_BY = re.compile(r",? (?:by|with|from|because|since) .+$")

_ADJECTIVE = r"(?:(?:new|current|present) )?"
_FIGURE = re.compile(r"(?:about |around )?(?P<v>\d[\w.,'\" -]*)")
_TIME_ZONE = re.compile(r"(?P<v>(?:utc|gmt)(?: ?[+-] ?\d[\d:]*)?|[a-z]{2,3}t|\w+/\w+|[\w ]+ time)")
_SIGN = re.compile(
    r"(?P<v>aries|taurus|gemini|cancer|leo|virgo|libra|scorpio|sagittarius|capricorn|aquarius|pisces)"
)
_ATTRIBUTES: dict[str, tuple[str, re.Pattern[str] | int]] = {
    # what it is called: its key, and what a value looks like (a pattern, or a name of so many words)
    **dict.fromkeys(
        [
            "phone number",
            "mobile number",
            "cell number",
            "telephone number",
            "mobile phone number",
            "cell phone number",
        ],
        ("phone number", re.compile(r"(?P<v>\+?[\d ().-]{5,})")),
    ),
    **dict.fromkeys(
        ["email", "e-mail", "email address", "e-mail address"], ("email", re.compile(r"(?P<v>\S+@\S+\.\S+)"))
    ),
    **dict.fromkeys(
        ["zip code", "zip", "postcode", "postal code"],
        ("postcode", re.compile(r"(?P<v>(?=.*\d)[\w-]+(?: [\w-]+)?)")),
    ),
    **dict.fromkeys(
        ["address", "home address", "street address"],
        ("address", re.compile(r"(?P<v>(?=.*\d)(?!.*\b(?:minutes|from|away)\b)[\w.',/ -]{5,80})")),
    ),
    "height": ("height", _FIGURE),
    "weight": ("weight", _FIGURE),
    "shoe size": ("shoe size", re.compile(r"(?:size )?(?P<v>[\w.,-]+(?: [\w-]+)?)")),
    "blood type": (
        "blood type",
        re.compile(r"(?P<v>(?:a|b|ab|o|0)[ -]?(?:positive|negative|pos|neg|\+|-)?)"),
    ),
    "pronouns": ("pronouns", re.compile(r"(?P<v>\w+(?: ?/ ?\w+)+)")),
    **dict.fromkeys(["surname", "last name", "family name"], ("surname", 3)),
    "maiden name": ("maiden name", 3),
    "middle name": ("middle name", 2),
    "username": ("username", re.compile(r"(?P<v>\S+)")),
    **dict.fromkeys(["hometown", "home town"], ("hometown", 3)),
    **dict.fromkeys(["time zone", "timezone"], ("time zone", _TIME_ZONE)),
    **dict.fromkeys(
        ["native language", "mother tongue", "first language"], ("native language", re.compile(r"(?P<v>\w+)"))
    ),
    **dict.fromkeys(["star sign", "zodiac sign"], ("star sign", _SIGN)),
}
_ATTRIBUTE = re.compile(
    rf"my {_ADJECTIVE}(?P<n>{'|'.join(sorted(_ATTRIBUTES, key=len, reverse=True))}) (?:is|are) (?:now )?"
    r"(?P<not>not |no longer )?(?P<v>.+)"
)


def attribute(said: str) -> Slot | None:
    """The slot of "my … is …"; `said` as `wording.plain` gives it."""
    short = trim(said)
    return _own_name(short) or _named(short) or _attribute(short) or _favorite(short)


def _own_name(said: str) -> Slot | None:
    if found := _MY_NAME.fullmatch(said):
        return _slot("name", _first_name(found["v"]), found["not"])
    if (
        (found := _CALLED.fullmatch(said))
        and (nick := name(found["v"], 2))
        and nick.split()[0] not in _NO_CALL
    ):
        return _slot("nickname", nick, None)
    return None


def _named(said: str) -> Slot | None:
    for pattern in _NAMED:
        if found := pattern.fullmatch(said):
            *before, noun = found["n"].removeprefix("current ").split()
            if noun in _MANY or "other" in before:
                return None
            if before == ["new"] and noun in _ROLES:
                before = []
            return _slot(f"name of {' '.join([*before, noun])}", _first_name(found["v"]), found["not"])
    return None


def _first_name(words: str) -> str | None:
    """A first name: who says it with the surname, and then without, has not changed it."""
    parts = (name(re.sub(r",? (?:because|since|and (?:she|he|it|they)) .+$", "", words)) or "").split()
    while parts and parts[0] in _TITLES:
        parts = parts[1:]
    return parts[0] if parts and parts[0] not in NO_VALUE else None


def _attribute(said: str) -> Slot | None:
    found = _ATTRIBUTE.fullmatch(said)
    if found is None:
        return None
    key, form = _ATTRIBUTES[found["n"]]
    if isinstance(form, int):
        answer = name(found["v"], form)
    else:
        match = form.fullmatch(found["v"])
        answer = match["v"].strip() if match else None
    if answer is None or answer.split()[0] in NO_VALUE - {"a"}:
        return None
    if key == "shoe size" and number(answer) is None and not re.match(r"\d", answer):
        return None
    if key == "phone number":
        answer = re.sub(r"[^\d+]", "", answer)
    return _slot(key, answer, found["not"])


def _favorite(said: str) -> Slot | None:
    found = _FAVORITE_IS.fullmatch(said) or _IS_FAVORITE.fullmatch(said)
    if found is None:
        return None
    noun, several = found["n"], found.groupdict().get("is") == "are"
    last = noun.split()[-1]
    if last not in _CATEGORIES and not (several and last.removesuffix("s") in _CATEGORIES):
        return None
    words = _MADE_BY.sub("", found["v"])
    answer = value(re.sub(r"^the color ", "", words)) if "," not in words or several else None
    # A list of favorites and the one favorite can both hold.
    return _slot(f"favorites {noun}" if several else f"favorite {noun}", answer, found["not"])


def _slot(key: str, answer: str | None, over: str | None) -> Slot | None:
    return Slot(key=key, value=answer, ends=bool(over)) if answer else None
