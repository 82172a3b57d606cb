"""Swahili forms."""

from ..concepts import (
    ADJECTIVES,
    GIVE_VERBS,
    NOUNS,
    PERSON_ADJECTIVES,
    PERSON_VERBS,
    PERSONS,
    PLACES,
    VERBS,
)
from .table import table

# singular (class 1) | plural (class 2)
PERSON = table(
    PERSONS,
    """
    farmer | mkulima | wakulima
    woman | mwanamke | wanawake
    boy | mvulana | wavulana
    girl | msichana | wasichana
    doctor | daktari | madaktari
    man | mwanamume | wanaume
    teacher | mwalimu | walimu
    student | mwanafunzi | wanafunzi
    queen | malkia | malkia
    soldier | mwanajeshi | wanajeshi
    cook | mpishi | wapishi
    nurse | muuguzi | wauguzi
    merchant | mfanyabiashara | wafanyabiashara
    singer | mwimbaji | waimbaji
    neighbor | jirani | majirani
    actress | mwigizaji | waigizaji
    driver | dereva | madereva
    writer | mwandishi | waandishi
    fisherman | mvuvi | wavuvi
    king | mfalme | wafalme
    """,
    2,
)
# after the noun | is | is not ("very" is sana, at the end)
PERSON_ADJECTIVE = table(
    PERSON_ADJECTIVES,
    """
    happy | mwenye furaha | ana furaha | hana furaha
    tired | aliyechoka | amechoka | hajachoka
    kind | mpole | ni mpole | si mpole
    clever | mwerevu | ni mwerevu | si mwerevu
    strong | mwenye nguvu | ana nguvu | hana nguvu
    rich | tajiri | ni tajiri | si tajiri
    poor | maskini | ni maskini | si maskini
    famous | maarufu | ni maarufu | si maarufu
    """,
    3,
)
# class of the singular | class of the plural | singular | plural; animals agree as people do
NOUN = table(
    NOUNS,
    """
    apple | 5 | 6 | tofaa | matofaa
    egg | 5 | 6 | yai | mayai
    book | 7 | 8 | kitabu | vitabu
    letter | 9 | 10 | barua | barua
    chair | 7 | 8 | kiti | viti
    table | 9 | 10 | meza | meza
    cup | 7 | 8 | kikombe | vikombe
    hat | 9 | 10 | kofia | kofia
    flower | 5 | 6 | ua | maua
    bag | 3 | 4 | mfuko | mifuko
    cat | 1 | 2 | paka | paka
    dog | 1 | 2 | mbwa | mbwa
    horse | 1 | 2 | farasi | farasi
    bird | 1 | 2 | ndege | ndege
    orange | 5 | 6 | chungwa | machungwa
    banana | 9 | 10 | ndizi | ndizi
    onion | 7 | 8 | kitunguu | vitunguu
    lemon | 5 | 6 | limau | malimau
    cake | 9 | 10 | keki | keki
    newspaper | 5 | 6 | gazeti | magazeti
    shirt | 5 | 6 | shati | mashati
    coat | 5 | 6 | koti | makoti
    lamp | 9 | 10 | taa | taa
    plate | 9 | 10 | sahani | sahani
    knife | 7 | 8 | kisu | visu
    box | 5 | 6 | sanduku | masanduku
    key | 11 | 10 | ufunguo | funguo
    picture | 9 | 10 | picha | picha
    mirror | 7 | 8 | kioo | vioo
    basket | 7 | 8 | kikapu | vikapu
    umbrella | 3 | 4 | mwavuli | miavuli
    boat | 9 | 10 | mashua | mashua
    cow | 1 | 2 | ng'ombe | ng'ombe
    goat | 1 | 2 | mbuzi | mbuzi
    rabbit | 1 | 2 | sungura | sungura
    donkey | 1 | 2 | punda | punda
    sheep | 1 | 2 | kondoo | kondoo
    hen | 1 | 2 | kuku | kuku
    """,
    4,
)
# classes 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9 | 10 | 11
ADJECTIVE = table(
    ADJECTIVES,
    """
    big | mkubwa | wakubwa | mkubwa | mikubwa | kubwa | makubwa | kikubwa | vikubwa | kubwa | kubwa | mkubwa
    small | mdogo | wadogo | mdogo | midogo | dogo | madogo | kidogo | vidogo | ndogo | ndogo | mdogo
    red | mwekundu | wekundu | mwekundu | myekundu | jekundu | mekundu | chekundu | vyekundu | nyekundu | nyekundu | mwekundu
    white | mweupe | weupe | mweupe | myeupe | jeupe | meupe | cheupe | vyeupe | nyeupe | nyeupe | mweupe
    black | mweusi | weusi | mweusi | myeusi | jeusi | meusi | cheusi | vyeusi | nyeusi | nyeusi | mweusi
    new | mpya | wapya | mpya | mipya | jipya | mapya | kipya | vipya | mpya | mpya | mpya
    old | wa zamani | wa zamani | wa zamani | ya zamani | la zamani | ya zamani | cha zamani | vya zamani | ya zamani | za zamani | wa zamani
    green | wa kijani | wa kijani | wa kijani | ya kijani | la kijani | ya kijani | cha kijani | vya kijani | ya kijani | za kijani | wa kijani
    beautiful | mzuri | wazuri | mzuri | mizuri | zuri | mazuri | kizuri | vizuri | nzuri | nzuri | mzuri
    clean | safi | safi | safi | safi | safi | safi | safi | safi | safi | safi | safi
    dirty | mchafu | wachafu | mchafu | michafu | chafu | machafu | kichafu | vichafu | chafu | chafu | mchafu
    expensive | ghali | ghali | ghali | ghali | ghali | ghali | ghali | ghali | ghali | ghali | ghali
    heavy | mzito | wazito | mzito | mizito | zito | mazito | kizito | vizito | nzito | nzito | mzito
    blue | wa buluu | wa buluu | wa buluu | ya buluu | la buluu | ya buluu | cha buluu | vya buluu | ya buluu | za buluu | wa buluu
    """,  # noqa: E501
    11,
)
# stem after a tense prefix
VERB = table(
    VERBS,
    """
    buy | nunua
    eat | kula
    read | soma
    find | pata
    see | ona
    sell | uza
    choose | chagua
    wash | osha
    lose | poteza
    write | andika
    hide | ficha
    break | vunja
    """,
    1,
)
# stem with the object prefix of the person
GIVE_VERB = table(
    GIVE_VERBS,
    """
    give | mpa
    show | mwonyesha
    bring | mletea
    """,
    1,
)
PERSON_VERB = table(
    PERSON_VERBS,
    """
    see | mwona
    help | msaidia
    meet | kutana na
    thank | mshukuru
    """,
    1,
)
GO = "enda"
# in and to alike
PLACE = table(
    PLACES,
    """
    garden | bustanini
    market | sokoni
    school | shuleni
    village | kijijini
    kitchen | jikoni
    city | mjini
    shop | dukani
    hospital | hospitalini
    hotel | hotelini
    station | stesheni
    library | maktabani
    farm | shambani
    museum | kwenye makumbusho
    forest | msituni
    """,
    1,
)
# classes 2, 4, 6, 8 and 10
COUNT = {
    3: {2: "watatu", 4: "mitatu", 6: "matatu", 8: "vitatu", 10: "tatu"},
    5: {2: "watano", 4: "mitano", 6: "matano", 8: "vitano", 10: "tano"},
}
# "of", by the class of the thing possessed
OF = {1: "wa", 3: "wa", 5: "la", 7: "cha", 9: "ya", 11: "wa"}
# subject prefix of "to be", and the present "is at"
BE = {1: "a", 2: "wa", 3: "u", 5: "li", 7: "ki", 9: "i", 11: "u"}
IS_AT = {1: "yuko", 2: "wako", 3: "uko", 5: "liko", 7: "kiko", 9: "iko", 11: "uko"}
WHEN = (
    "",
    "jana",
    "sasa",
    "kesho",
    "kila siku",
    "leo asubuhi",
    "wiki iliyopita",
    "wiki ijayo",
    "",
)
