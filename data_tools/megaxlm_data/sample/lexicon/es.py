"""Spanish forms."""

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

# gender | singular | plural | of the | to the (also the direct object: a personal)
PERSON = table(
    PERSONS,
    """
    farmer | m | el granjero | los granjeros | del granjero | al granjero
    woman | f | la mujer | las mujeres | de la mujer | a la mujer
    boy | m | el niño | los niños | del niño | al niño
    girl | f | la niña | las niñas | de la niña | a la niña
    doctor | m | el médico | los médicos | del médico | al médico
    man | m | el hombre | los hombres | del hombre | al hombre
    teacher | f | la maestra | las maestras | de la maestra | a la maestra
    student | m | el estudiante | los estudiantes | del estudiante | al estudiante
    queen | f | la reina | las reinas | de la reina | a la reina
    soldier | m | el soldado | los soldados | del soldado | al soldado
    cook | m | el cocinero | los cocineros | del cocinero | al cocinero
    nurse | f | la enfermera | las enfermeras | de la enfermera | a la enfermera
    merchant | m | el comerciante | los comerciantes | del comerciante | al comerciante
    singer | f | la cantante | las cantantes | de la cantante | a la cantante
    neighbor | m | el vecino | los vecinos | del vecino | al vecino
    actress | f | la actriz | las actrices | de la actriz | a la actriz
    driver | m | el conductor | los conductores | del conductor | al conductor
    writer | f | la escritora | las escritoras | de la escritora | a la escritora
    fisherman | m | el pescador | los pescadores | del pescador | al pescador
    king | m | el rey | los reyes | del rey | al rey
    """,
    5,
)
# masculine | feminine | copula
PERSON_ADJECTIVE = table(
    PERSON_ADJECTIVES,
    """
    happy | contento | contenta | está
    tired | cansado | cansada | está
    kind | amable | amable | es
    clever | inteligente | inteligente | es
    strong | fuerte | fuerte | es
    rich | rico | rica | es
    poor | pobre | pobre | es
    famous | famoso | famosa | es
    """,
    3,
)
# gender | singular | plural
NOUN = table(
    NOUNS,
    """
    apple | f | manzana | manzanas
    egg | m | huevo | huevos
    book | m | libro | libros
    letter | f | carta | cartas
    chair | f | silla | sillas
    table | f | mesa | mesas
    cup | f | taza | tazas
    hat | m | sombrero | sombreros
    flower | f | flor | flores
    bag | f | bolsa | bolsas
    cat | m | gato | gatos
    dog | m | perro | perros
    horse | m | caballo | caballos
    bird | m | pájaro | pájaros
    orange | f | naranja | naranjas
    banana | m | plátano | plátanos
    onion | f | cebolla | cebollas
    lemon | m | limón | limones
    cake | m | pastel | pasteles
    newspaper | m | periódico | periódicos
    shirt | f | camisa | camisas
    coat | m | abrigo | abrigos
    lamp | f | lámpara | lámparas
    plate | m | plato | platos
    knife | m | cuchillo | cuchillos
    box | f | caja | cajas
    key | f | llave | llaves
    picture | m | cuadro | cuadros
    mirror | m | espejo | espejos
    basket | f | cesta | cestas
    umbrella | m | paraguas | paraguas
    boat | m | barco | barcos
    cow | f | vaca | vacas
    goat | f | cabra | cabras
    rabbit | m | conejo | conejos
    donkey | m | burro | burros
    sheep | f | oveja | ovejas
    hen | f | gallina | gallinas
    """,
    3,
)
# m. | f. | m. plural | f. plural | copula; all follow the noun
ADJECTIVE = table(
    ADJECTIVES,
    """
    big | grande | grande | grandes | grandes | es
    small | pequeño | pequeña | pequeños | pequeñas | es
    red | rojo | roja | rojos | rojas | es
    white | blanco | blanca | blancos | blancas | es
    black | negro | negra | negros | negras | es
    new | nuevo | nueva | nuevos | nuevas | es
    old | viejo | vieja | viejos | viejas | es
    green | verde | verde | verdes | verdes | es
    beautiful | bonito | bonita | bonitos | bonitas | es
    clean | limpio | limpia | limpios | limpias | está
    dirty | sucio | sucia | sucios | sucias | está
    expensive | caro | cara | caros | caras | es
    heavy | pesado | pesada | pesados | pesadas | es
    blue | azul | azul | azules | azules | es
    """,
    5,
)
# preterite sg. | pl. | gerund | future sg. | pl. | present sg. | pl.
VERB = table(
    VERBS,
    """
    buy | compró | compraron | comprando | comprará | comprarán | compra | compran
    eat | comió | comieron | comiendo | comerá | comerán | come | comen
    read | leyó | leyeron | leyendo | leerá | leerán | lee | leen
    find | encontró | encontraron | encontrando | encontrará | encontrarán | encuentra | encuentran
    see | vio | vieron | viendo | verá | verán | ve | ven
    sell | vendió | vendieron | vendiendo | venderá | venderán | vende | venden
    choose | eligió | eligieron | eligiendo | elegirá | elegirán | elige | eligen
    wash | lavó | lavaron | lavando | lavará | lavarán | lava | lavan
    lose | perdió | perdieron | perdiendo | perderá | perderán | pierde | pierden
    write | escribió | escribieron | escribiendo | escribirá | escribirán | escribe | escriben
    hide | escondió | escondieron | escondiendo | esconderá | esconderán | esconde | esconden
    break | rompió | rompieron | rompiendo | romperá | romperán | rompe | rompen
    """,
    7,
)
GIVE_VERB = table(
    GIVE_VERBS,
    """
    give | dio | dieron | dando | dará | darán | da | dan
    show | mostró | mostraron | mostrando | mostrará | mostrarán | muestra | muestran
    bring | trajo | trajeron | trayendo | traerá | traerán | trae | traen
    """,
    7,
)
# clitic | preterite sg. | pl. | gerund | future sg. | pl. | present sg. | pl. | rest, with ~ for
# "the" and @ for "to the" person
PERSON_VERB = table(
    PERSON_VERBS,
    """
    see | | vio | vieron | viendo | verá | verán | ve | ven | @
    help | | ayudó | ayudaron | ayudando | ayudará | ayudarán | ayuda | ayudan | @
    meet | se | encontró | encontraron | encontrando | encontrará | encontrarán | encuentra | encuentran | con ~
    thank | le | dio | dieron | dando | dará | darán | da | dan | las gracias @
    """,  # noqa: E501
    9,
)
# No gerund: "va", where English says "is going".
GO = ("fue", "fueron", "", "irá", "irán", "va", "van")
# in | to
PLACE = table(
    PLACES,
    """
    garden | en el jardín | al jardín
    market | en el mercado | al mercado
    school | en la escuela | a la escuela
    village | en el pueblo | al pueblo
    kitchen | en la cocina | a la cocina
    city | en la ciudad | a la ciudad
    shop | en la tienda | a la tienda
    hospital | en el hospital | al hospital
    hotel | en el hotel | al hotel
    station | en la estación | a la estación
    library | en la biblioteca | a la biblioteca
    farm | en la granja | a la granja
    museum | en el museo | al museo
    forest | en el bosque | al bosque
    """,
    2,
)
COUNT = {3: "tres", 5: "cinco"}
WHEN = (
    "",
    "ayer",
    "ahora",
    "mañana",
    "todos los días",
    "esta mañana",
    "la semana pasada",
    "la próxima semana",
    "",
)
