"""English forms."""

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

# singular | plural
PERSON = table(
    PERSONS,
    """
    farmer | farmer | farmers
    woman | woman | women
    boy | boy | boys
    girl | girl | girls
    doctor | doctor | doctors
    man | man | men
    teacher | teacher | teachers
    student | student | students
    queen | queen | queens
    soldier | soldier | soldiers
    cook | cook | cooks
    nurse | nurse | nurses
    merchant | merchant | merchants
    singer | singer | singers
    neighbor | neighbor | neighbors
    actress | actress | actresses
    driver | driver | drivers
    writer | writer | writers
    fisherman | fisherman | fishermen
    king | king | kings
    """,
    2,
)
PERSON_ADJECTIVE = table(
    PERSON_ADJECTIVES,
    """
    happy | happy
    tired | tired
    kind | kind
    clever | clever
    strong | strong
    rich | rich
    poor | poor
    famous | famous
    """,
    1,
)
# singular | plural
NOUN = table(
    NOUNS,
    """
    apple | apple | apples
    egg | egg | eggs
    book | book | books
    letter | letter | letters
    chair | chair | chairs
    table | table | tables
    cup | cup | cups
    hat | hat | hats
    flower | flower | flowers
    bag | bag | bags
    cat | cat | cats
    dog | dog | dogs
    horse | horse | horses
    bird | bird | birds
    orange | orange | oranges
    banana | banana | bananas
    onion | onion | onions
    lemon | lemon | lemons
    cake | cake | cakes
    newspaper | newspaper | newspapers
    shirt | shirt | shirts
    coat | coat | coats
    lamp | lamp | lamps
    plate | plate | plates
    knife | knife | knives
    box | box | boxes
    key | key | keys
    picture | picture | pictures
    mirror | mirror | mirrors
    basket | basket | baskets
    umbrella | umbrella | umbrellas
    boat | boat | boats
    cow | cow | cows
    goat | goat | goats
    rabbit | rabbit | rabbits
    donkey | donkey | donkeys
    sheep | sheep | sheep
    hen | hen | hens
    """,
    2,
)
ADJECTIVE = table(
    ADJECTIVES,
    """
    big | big
    small | small
    red | red
    white | white
    black | black
    new | new
    old | old
    green | green
    beautiful | beautiful
    clean | clean
    dirty | dirty
    expensive | expensive
    heavy | heavy
    blue | blue
    """,
    1,
)
# past | -ing | base | third person
VERB = table(
    VERBS,
    """
    buy | bought | buying | buy | buys
    eat | ate | eating | eat | eats
    read | read | reading | read | reads
    find | found | finding | find | finds
    see | saw | seeing | see | sees
    sell | sold | selling | sell | sells
    choose | chose | choosing | choose | chooses
    wash | washed | washing | wash | washes
    lose | lost | losing | lose | loses
    write | wrote | writing | write | writes
    hide | hid | hiding | hide | hides
    break | broke | breaking | break | breaks
    """,
    4,
)
GIVE_VERB = table(
    GIVE_VERBS,
    """
    give | gave | giving | give | gives
    show | showed | showing | show | shows
    bring | brought | bringing | bring | brings
    """,
    4,
)
PERSON_VERB = table(
    PERSON_VERBS,
    """
    see | saw | seeing | see | sees
    help | helped | helping | help | helps
    meet | met | meeting | meet | meets
    thank | thanked | thanking | thank | thanks
    """,
    4,
)
GO = ("went", "going", "go", "goes")
# in | to
PLACE = table(
    PLACES,
    """
    garden | in the garden | to the garden
    market | at the market | to the market
    school | at the school | to the school
    village | in the village | to the village
    kitchen | in the kitchen | to the kitchen
    city | in the city | to the city
    shop | in the shop | to the shop
    hospital | at the hospital | to the hospital
    hotel | at the hotel | to the hotel
    station | at the station | to the station
    library | in the library | to the library
    farm | on the farm | to the farm
    museum | at the museum | to the museum
    forest | in the forest | to the forest
    """,
    2,
)
COUNT = {3: "three", 5: "five"}
WHEN = (
    "",
    "yesterday",
    "now",
    "tomorrow",
    "every day",
    "this morning",
    "last week",
    "next week",
    "",
)
