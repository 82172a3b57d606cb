"""French forms."""

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

# gender | singular | plural | of the | to the
PERSON = table(
    PERSONS,
    """
    farmer | m | le fermier | les fermiers | du fermier | au fermier
    woman | f | la femme | les femmes | de la femme | à la femme
    boy | m | le garçon | les garçons | du garçon | au garçon
    girl | f | la fille | les filles | de la fille | à la fille
    doctor | m | le médecin | les médecins | du médecin | au médecin
    man | m | l'homme | les hommes | de l'homme | à l'homme
    teacher | f | l'enseignante | les enseignantes | de l'enseignante | à l'enseignante
    student | m | l'étudiant | les étudiants | de l'étudiant | à l'étudiant
    queen | f | la reine | les reines | de la reine | à la reine
    soldier | m | le soldat | les soldats | du soldat | au soldat
    cook | m | le cuisinier | les cuisiniers | du cuisinier | au cuisinier
    nurse | f | l'infirmière | les infirmières | de l'infirmière | à l'infirmière
    merchant | m | le marchand | les marchands | du marchand | au marchand
    singer | f | la chanteuse | les chanteuses | de la chanteuse | à la chanteuse
    neighbor | m | le voisin | les voisins | du voisin | au voisin
    actress | f | l'actrice | les actrices | de l'actrice | à l'actrice
    driver | m | le chauffeur | les chauffeurs | du chauffeur | au chauffeur
    writer | f | l'écrivaine | les écrivaines | de l'écrivaine | à l'écrivaine
    fisherman | m | le pêcheur | les pêcheurs | du pêcheur | au pêcheur
    king | m | le roi | les rois | du roi | au roi
    """,
    5,
)
# masculine | feminine; all follow the noun
PERSON_ADJECTIVE = table(
    PERSON_ADJECTIVES,
    """
    happy | heureux | heureuse
    tired | fatigué | fatiguée
    kind | aimable | aimable
    clever | intelligent | intelligente
    strong | fort | forte
    rich | riche | riche
    poor | pauvre | pauvre
    famous | célèbre | célèbre
    """,
    2,
)
# gender | singular | plural
NOUN = table(
    NOUNS,
    """
    apple | f | pomme | pommes
    egg | m | œuf | œufs
    book | m | livre | livres
    letter | f | lettre | lettres
    chair | f | chaise | chaises
    table | f | table | tables
    cup | f | tasse | tasses
    hat | m | chapeau | chapeaux
    flower | f | fleur | fleurs
    bag | m | sac | sacs
    cat | m | chat | chats
    dog | m | chien | chiens
    horse | m | cheval | chevaux
    bird | m | oiseau | oiseaux
    orange | f | orange | oranges
    banana | f | banane | bananes
    onion | m | oignon | oignons
    lemon | m | citron | citrons
    cake | m | gâteau | gâteaux
    newspaper | m | journal | journaux
    shirt | f | chemise | chemises
    coat | m | manteau | manteaux
    lamp | f | lampe | lampes
    plate | f | assiette | assiettes
    knife | m | couteau | couteaux
    box | f | boîte | boîtes
    key | f | clé | clés
    picture | m | tableau | tableaux
    mirror | m | miroir | miroirs
    basket | m | panier | paniers
    umbrella | m | parapluie | parapluies
    boat | m | bateau | bateaux
    cow | f | vache | vaches
    goat | f | chèvre | chèvres
    rabbit | m | lapin | lapins
    donkey | m | âne | ânes
    sheep | m | mouton | moutons
    hen | f | poule | poules
    """,
    3,
)
# before or after the noun | m. | f. | m. pl. | f. pl. | m. before a vowel | predicate m. | f.
ADJECTIVE = table(
    ADJECTIVES,
    """
    big | before | grand | grande | grands | grandes | grand | grand | grande
    small | before | petit | petite | petits | petites | petit | petit | petite
    red | after | rouge | rouge | rouges | rouges | rouge | rouge | rouge
    white | after | blanc | blanche | blancs | blanches | blanc | blanc | blanche
    black | after | noir | noire | noirs | noires | noir | noir | noire
    new | before | nouveau | nouvelle | nouveaux | nouvelles | nouvel | neuf | neuve
    old | before | vieux | vieille | vieux | vieilles | vieil | vieux | vieille
    green | after | vert | verte | verts | vertes | vert | vert | verte
    beautiful | before | beau | belle | beaux | belles | bel | beau | belle
    clean | after | propre | propre | propres | propres | propre | propre | propre
    dirty | after | sale | sale | sales | sales | sale | sale | sale
    expensive | after | cher | chère | chers | chères | cher | cher | chère
    heavy | after | lourd | lourde | lourds | lourdes | lourd | lourd | lourde
    blue | after | bleu | bleue | bleus | bleues | bleu | bleu | bleue
    """,
    8,
)
# Of food, "big" is gros.
BIG_FOOD = ("before", "gros", "grosse", "gros", "grosses", "gros", "gros", "grosse")
# participle | present singular | plural | future singular | plural
VERB = table(
    VERBS,
    """
    buy | acheté | achète | achètent | achètera | achèteront
    eat | mangé | mange | mangent | mangera | mangeront
    read | lu | lit | lisent | lira | liront
    find | trouvé | trouve | trouvent | trouvera | trouveront
    see | vu | voit | voient | verra | verront
    sell | vendu | vend | vendent | vendra | vendront
    choose | choisi | choisit | choisissent | choisira | choisiront
    wash | lavé | lave | lavent | lavera | laveront
    lose | perdu | perd | perdent | perdra | perdront
    write | écrit | écrit | écrivent | écrira | écriront
    hide | caché | cache | cachent | cachera | cacheront
    break | cassé | casse | cassent | cassera | casseront
    """,
    5,
)
GIVE_VERB = table(
    GIVE_VERBS,
    """
    give | donné | donne | donnent | donnera | donneront
    show | montré | montre | montrent | montrera | montreront
    bring | apporté | apporte | apportent | apportera | apporteront
    """,
    5,
)
# participle | present singular | plural | future singular | plural | the person: the or to the
PERSON_VERB = table(
    PERSON_VERBS,
    """
    see | vu | voit | voient | verra | verront
    help | aidé | aide | aident | aidera | aideront
    meet | rencontré | rencontre | rencontrent | rencontrera | rencontreront
    thank | remercié | remercie | remercient | remerciera | remercieront
    """,
    5,
)
# in | to
PLACE = table(
    PLACES,
    """
    garden | dans le jardin | au jardin
    market | au marché | au marché
    school | à l'école | à l'école
    village | au village | au village
    kitchen | dans la cuisine | dans la cuisine
    city | en ville | en ville
    shop | dans le magasin | au magasin
    hospital | à l'hôpital | à l'hôpital
    hotel | à l'hôtel | à l'hôtel
    station | à la gare | à la gare
    library | à la bibliothèque | à la bibliothèque
    farm | à la ferme | à la ferme
    museum | au musée | au musée
    forest | dans la forêt | dans la forêt
    """,
    2,
)
COUNT = {3: "trois", 5: "cinq"}
WHEN = (
    "",
    "hier,",
    "maintenant,",
    "demain,",
    "chaque jour,",
    "ce matin,",
    "la semaine dernière,",
    "la semaine prochaine,",
    "",
)
