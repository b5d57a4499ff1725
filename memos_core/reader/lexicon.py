"""Word lists that the slot rules share."""

from __future__ import annotations


def words(text: str) -> tuple[str, ...]:
    """The words of a list written as one text."""
    return tuple(text.split())


def phrases(text: str) -> tuple[str, ...]:
    """The phrases of a list with commas between them."""
    return tuple(phrase.strip() for phrase in text.split(","))


NUMBERS = {
    word: n
    for n, word in enumerate(
        words(
            "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
            "seventeen eighteen nineteen"
        )
    )
} | {
    word: n * 10
    for n, word in enumerate(words("twenty thirty forty fifty sixty seventy eighty ninety"), start=2)
}
MONTHS = {
    word: n
    for n, names in enumerate(
        phrases(
            "january jan, february feb, march mar, april apr, may, june jun, july jul, august aug, september sept sep, "
            "october oct, november nov, december dec"
        ),
        start=1,
    )
    for word in names.split()
}

# Words that no name of a place, firm or person is made of: where one stands, the sentence says something else.
NOT_IN_NAMES = frozenset(
    words(
        "a an the this that these those my your his her its our their i you he she it we they me him them us and "
        "or but if when while because until unless before after than then so as not no never also too well only in "
        "on at to from by for with without near outside inside around between during about into over under is are "
        "was were be been being am have has had do does did will would can could should may might must every each "
        "some any all both half most part much many more less very really quite still again already where who "
        "which what how why here there myself yourself another someone something somewhere abroad"
    )
)
# Words with which no value begins: they say how a thing is, not which.
NO_VALUE = NOT_IN_NAMES - {"the", "a", "an", "not"} | frozenset(
    words(
        "hard difficult easy often always sometimes usually rarely spelled spelt misspelled pronounced written "
        "common rare unusual short long wrong right correct incorrect old new different changing going getting "
        "coming missing broken closed open full empty dead ill sick gone lost late early good bad great nice fine "
        "okay ok better worse best worst important expensive cheap interesting boring annoying stressful just "
        "probably maybe likely simply small big large beautiful ugly quiet far weird strange funny secret taken "
        "blocked locked up out off away"
    )
)
# Adjectives with which a name may begin: New York, Big Bank.
IN_NAMES = frozenset(
    words("new old long big large small great good grand fine open full just nice up off late early")
)
