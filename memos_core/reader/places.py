"""Countries, states and continents: who lives in Oslo lives in Norway too, so the two are different slots."""

from __future__ import annotations

from memos_core.reader.lexicon import phrases, words

# City states are cities here; New York and Washington are too.
REGIONS = frozenset(
    phrases(
        "afghanistan, albania, algeria, andorra, angola, argentina, armenia, australia, austria, azerbaijan, "
        "bahrain, bangladesh, belarus, belgium, belize, benin, bhutan, bolivia, bosnia, botswana, brazil, brunei, "
        "bulgaria, burkina faso, burundi, cambodia, cameroon, canada, cape verde, chad, chile, china, colombia, "
        "congo, costa rica, croatia, cuba, cyprus, czechia, czech republic, denmark, dominican republic, ecuador, "
        "egypt, el salvador, eritrea, estonia, ethiopia, fiji, finland, france, gabon, gambia, georgia, germany, "
        "ghana, greece, greenland, grenada, guatemala, guinea, guyana, haiti, honduras, hungary, iceland, india, "
        "indonesia, iran, iraq, ireland, israel, italy, ivory coast, jamaica, japan, jordan, kazakhstan, kenya, "
        "kosovo, kuwait, kyrgyzstan, laos, latvia, lebanon, lesotho, liberia, libya, liechtenstein, lithuania, "
        "madagascar, malawi, malaysia, maldives, mali, malta, mauritania, mauritius, mexico, moldova, mongolia, "
        "montenegro, morocco, mozambique, myanmar, namibia, nepal, netherlands, holland, new zealand, nicaragua, "
        "niger, nigeria, north korea, north macedonia, macedonia, norway, oman, pakistan, palestine, papua new "
        "guinea, paraguay, peru, philippines, poland, portugal, qatar, romania, russia, rwanda, samoa, saudi "
        "arabia, senegal, serbia, seychelles, sierra leone, slovakia, slovenia, somalia, south africa, south "
        "korea, korea, south sudan, spain, sri lanka, sudan, suriname, swaziland, eswatini, sweden, switzerland, "
        "syria, taiwan, tajikistan, tanzania, thailand, togo, tonga, trinidad, tunisia, turkey, turkiye, türkiye, "
        "turkmenistan, uganda, ukraine, uae, united arab emirates, united kingdom, uk, great britain, britain, "
        "england, scotland, wales, northern ireland, united states, united states of america, usa, us, u s, u s a, "
        "america, states, uruguay, uzbekistan, vanuatu, venezuela, vietnam, yemen, zambia, zimbabwe, europe, asia, "
        "africa, north america, south america, latin america, oceania, scandinavia, middle east, alabama, alaska, "
        "arizona, arkansas, california, colorado, connecticut, delaware, florida, hawaii, idaho, illinois, "
        "indiana, iowa, kansas, kentucky, louisiana, maine, maryland, massachusetts, michigan, minnesota, "
        "mississippi, missouri, montana, nebraska, nevada, new hampshire, new jersey, new mexico, north carolina, "
        "north dakota, ohio, oklahoma, oregon, pennsylvania, rhode island, south carolina, south dakota, "
        "tennessee, texas, utah, vermont, virginia, west virginia, wisconsin, wyoming, ontario, quebec, british "
        "columbia, alberta, manitoba, nova scotia, saskatchewan, bavaria, saxony, hesse, tuscany, sicily, "
        "sardinia, catalonia, andalusia, provence, normandy, brittany, skåne, scania, queensland, new south wales, "
        "tasmania, kerala, punjab, gujarat, bengal, cornwall, yorkshire, kent, devon"
    )
)

CITY_NAMES = {"nyc": "new york", "new york city": "new york", "sf": "san francisco", "la": "los angeles"}
_PART = frozenset(words("north south east west northern southern eastern western new upper lower mid"))
# "I live in …" of how, not of where.
_NO_TOWN = frozenset(
    words(
        "town city village fear peace hope harmony pain poverty denial luxury sin chaos tears suburbia captivity "
        "hospital shame silence isolation solitude linux windows macos python rust marketing sales management "
        "engineering"
    )
)
_KINDS = frozenset(
    words(
        "area district neighborhood housing apartment apartments building house flat dorm dorms suburbs countryside "
        "conditions dormitory hotel hostel van tent camper basement mode fear pain"
    )
)


def town(place: str) -> str | None:
    """The place without its country or state ("austin tx", "paris france"); None if it is no place."""
    if place in REGIONS:
        return place
    if place in CITY_NAMES:
        return CITY_NAMES[place]
    parts = place.split()
    if place in _NO_TOWN or parts[-1] in _KINDS or (len(parts) > 1 and parts[-1].endswith("ly")):
        return None
    for n in range(1, len(parts)):
        if " ".join(parts[n:]) in REGIONS or (n == len(parts) - 1 and len(parts[n]) == 2):
            return None if _PART.issuperset(parts[:n]) else town(" ".join(parts[:n]))
    return place
