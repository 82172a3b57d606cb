"""German forms."""

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

# gender | nominative | nominative plural | of the | to the (dative) | the (accusative)
PERSON = table(
    PERSONS,
    """
    farmer | m | Bauer | Bauern | des Bauern | dem Bauern | den Bauern
    woman | f | Frau | Frauen | der Frau | der Frau | die Frau
    boy | m | Junge | Jungen | des Jungen | dem Jungen | den Jungen
    girl | n | Mädchen | Mädchen | des Mädchens | dem Mädchen | das Mädchen
    doctor | m | Arzt | Ärzte | des Arztes | dem Arzt | den Arzt
    man | m | Mann | Männer | des Mannes | dem Mann | den Mann
    teacher | f | Lehrerin | Lehrerinnen | der Lehrerin | der Lehrerin | die Lehrerin
    student | m | Student | Studenten | des Studenten | dem Studenten | den Studenten
    queen | f | Königin | Königinnen | der Königin | der Königin | die Königin
    soldier | m | Soldat | Soldaten | des Soldaten | dem Soldaten | den Soldaten
    cook | m | Koch | Köche | des Kochs | dem Koch | den Koch
    nurse | f | Pflegerin | Pflegerinnen | der Pflegerin | der Pflegerin | die Pflegerin
    merchant | m | Händler | Händler | des Händlers | dem Händler | den Händler
    singer | f | Sängerin | Sängerinnen | der Sängerin | der Sängerin | die Sängerin
    neighbor | m | Nachbar | Nachbarn | des Nachbarn | dem Nachbarn | den Nachbarn
    actress | f | Schauspielerin | Schauspielerinnen | der Schauspielerin | der Schauspielerin | die Schauspielerin
    driver | m | Fahrer | Fahrer | des Fahrers | dem Fahrer | den Fahrer
    writer | f | Autorin | Autorinnen | der Autorin | der Autorin | die Autorin
    fisherman | m | Fischer | Fischer | des Fischers | dem Fischer | den Fischer
    king | m | König | Könige | des Königs | dem König | den König
    """,  # noqa: E501
    6,
)
# after the definite article, nominative | predicate
PERSON_ADJECTIVE = table(
    PERSON_ADJECTIVES,
    """
    happy | glückliche | glücklich
    tired | müde | müde
    kind | freundliche | freundlich
    clever | kluge | klug
    strong | starke | stark
    rich | reiche | reich
    poor | arme | arm
    famous | berühmte | berühmt
    """,
    2,
)
# gender | singular | plural (nominative and accusative)
NOUN = table(
    NOUNS,
    """
    apple | m | Apfel | Äpfel
    egg | n | Ei | Eier
    book | n | Buch | Bücher
    letter | m | Brief | Briefe
    chair | m | Stuhl | Stühle
    table | m | Tisch | Tische
    cup | f | Tasse | Tassen
    hat | m | Hut | Hüte
    flower | f | Blume | Blumen
    bag | f | Tasche | Taschen
    cat | f | Katze | Katzen
    dog | m | Hund | Hunde
    horse | n | Pferd | Pferde
    bird | m | Vogel | Vögel
    orange | f | Orange | Orangen
    banana | f | Banane | Bananen
    onion | f | Zwiebel | Zwiebeln
    lemon | f | Zitrone | Zitronen
    cake | m | Kuchen | Kuchen
    newspaper | f | Zeitung | Zeitungen
    shirt | n | Hemd | Hemden
    coat | m | Mantel | Mäntel
    lamp | f | Lampe | Lampen
    plate | m | Teller | Teller
    knife | n | Messer | Messer
    box | f | Kiste | Kisten
    key | m | Schlüssel | Schlüssel
    picture | n | Bild | Bilder
    mirror | m | Spiegel | Spiegel
    basket | m | Korb | Körbe
    umbrella | m | Regenschirm | Regenschirme
    boat | n | Boot | Boote
    cow | f | Kuh | Kühe
    goat | f | Ziege | Ziegen
    rabbit | n | Kaninchen | Kaninchen
    donkey | m | Esel | Esel
    sheep | n | Schaf | Schafe
    hen | f | Henne | Hennen
    """,
    3,
)
# before an ending | predicate
ADJECTIVE = table(
    ADJECTIVES,
    """
    big | groß | groß
    small | klein | klein
    red | rot | rot
    white | weiß | weiß
    black | schwarz | schwarz
    new | neu | neu
    old | alt | alt
    green | grün | grün
    beautiful | schön | schön
    clean | sauber | sauber
    dirty | schmutzig | schmutzig
    expensive | teur | teuer
    heavy | schwer | schwer
    blue | blau | blau
    """,
    2,
)
# preterite singular | plural | infinitive (also present plural) | present singular
VERB = table(
    VERBS,
    """
    buy | kaufte | kauften | kaufen | kauft
    eat | aß | aßen | essen | isst
    read | las | lasen | lesen | liest
    find | fand | fanden | finden | findet
    see | sah | sahen | sehen | sieht
    sell | verkaufte | verkauften | verkaufen | verkauft
    choose | wählte | wählten | wählen | wählt
    wash | wusch | wuschen | waschen | wäscht
    lose | verlor | verloren | verlieren | verliert
    write | schrieb | schrieben | schreiben | schreibt
    hide | versteckte | versteckten | verstecken | versteckt
    break | zerbrach | zerbrachen | zerbrechen | zerbricht
    """,
    4,
)
GIVE_VERB = table(
    GIVE_VERBS,
    """
    give | gab | gaben | geben | gibt
    show | zeigte | zeigten | zeigen | zeigt
    bring | brachte | brachten | bringen | bringt
    """,
    4,
)
# ... | case of the person
PERSON_VERB = table(
    PERSON_VERBS,
    """
    see | sah | sahen | sehen | sieht | acc
    help | half | halfen | helfen | hilft | dat
    meet | traf | trafen | treffen | trifft | acc
    thank | dankte | dankten | danken | dankt | dat
    """,
    5,
)
GO = ("ging", "gingen", "gehen", "geht")
HAVE = ("hatte", "hatten", "haben", "hat")
BE = ("war", "waren", "sein", "ist")
# in (dative) | to (accusative)
PLACE = table(
    PLACES,
    """
    garden | im Garten | in den Garten
    market | auf dem Markt | auf den Markt
    school | in der Schule | in die Schule
    village | im Dorf | ins Dorf
    kitchen | in der Küche | in die Küche
    city | in der Stadt | in die Stadt
    shop | im Laden | in den Laden
    hospital | im Krankenhaus | ins Krankenhaus
    hotel | im Hotel | ins Hotel
    station | am Bahnhof | zum Bahnhof
    library | in der Bibliothek | in die Bibliothek
    farm | auf dem Bauernhof | auf den Bauernhof
    museum | im Museum | ins Museum
    forest | im Wald | in den Wald
    """,
    2,
)
COUNT = {3: "drei", 5: "fünf"}
WHEN = (
    "",
    "gestern",
    "jetzt",
    "morgen",
    "jeden Tag",
    "heute Morgen",
    "letzte Woche",
    "nächste Woche",
    "",
)
