"""Agreement, case, word order: sentences written by hand, not by the grammar.

Every template stands here in every language, with all genders, several cases, both numbers of
the subject, all counts, all tenses.
"""

import pytest
from megaxlm_data.sample import concepts
from megaxlm_data.sample.concepts import Degree, When
from megaxlm_data.sample.grammar import REALIZERS
from megaxlm_data.sample.meanings import Meaning, Template

_VERB_LISTS = {
    Template.TRANSITIVE: concepts.VERBS,
    Template.GIVE: concepts.GIVE_VERBS,
    Template.PERSON_OBJECT: concepts.PERSON_VERBS,
}
_LISTS = {
    "subject": concepts.PERSONS,
    "person": concepts.PERSONS,
    "subject_adjective": concepts.PERSON_ADJECTIVES,
    "noun": concepts.NOUNS,
    "noun_2": concepts.NOUNS,
    "adjective": concepts.ADJECTIVES,
    "adjective_2": concepts.ADJECTIVES,
    "place": concepts.PLACES,
}


def _meaning(template: Template, **slots: object) -> Meaning:
    lists = {**_LISTS, "verb": _VERB_LISTS.get(template, ())}
    return Meaning(
        template,
        **{k: lists[k].index(v) if isinstance(v, str) else v for k, v in slots.items()},
    )


T = Template
MEANINGS = (
    _meaning(T.TRANSITIVE, subject="woman", verb="buy", noun="apple", adjective="red", count=3,
             place="market", when=When.YESTERDAY),
    _meaning(T.TRANSITIVE, subject="farmer", subject_adjective="tired", verb="read", noun="book",
             adjective="old", count=5, place="library", when=When.LAST_WEEK),
    _meaning(T.TRANSITIVE, subject="girl", subject_plural=True, verb="find", noun="horse",
             adjective="white", place="forest", when=When.NEXT_WEEK),
    _meaning(T.TRANSITIVE, subject="student", verb="eat", noun="orange", adjective="big",
             place="kitchen", when=When.NOW),
    _meaning(T.TRANSITIVE, subject="man", subject_plural=True, verb="see", noun="donkey",
             adjective="small", count=3, when=When.EVERY_DAY),
    _meaning(T.HAVE, subject="queen", noun="cat", adjective="black"),
    _meaning(T.GIVE, subject="boy", verb="give", person="teacher", noun="cup", adjective="new",
             when=When.TOMORROW),
    _meaning(T.GIVE, subject="woman", verb="bring", person="man", noun="egg", count=5,
             when=When.PAST),
    _meaning(T.GO, subject="girl", subject_plural=True, person="doctor", place="school",
             when=When.YESTERDAY),
    _meaning(T.GO, subject="king", place="hotel", when=When.EVERY_DAY),
    _meaning(T.PERSON_OBJECT, subject="nurse", verb="help", person="boy", place="garden",
             when=When.PAST),
    _meaning(T.PERSON_OBJECT, subject="soldier", subject_plural=True, verb="thank",
             person="queen", when=When.TOMORROW),
    _meaning(T.POSSESSED_IS, subject="doctor", noun="table", adjective="heavy",
             degree=Degree.NOT),
    _meaning(T.POSSESSED_IS, subject="king", noun="horse", adjective="big", degree=Degree.VERY),
    _meaning(T.PERSON_IS, subject="teacher", subject_adjective="tired", degree=Degree.VERY),
    _meaning(T.PERSON_AT, subject="woman", subject_plural=True, place="city",
             when=When.TOMORROW),
    _meaning(T.EXISTS, place="garden", noun="bird", adjective="blue", count=5,
             when=When.YESTERDAY),
    _meaning(T.EXISTS, place="kitchen", noun="egg", adjective="white"),
    _meaning(T.EXIST_TWO, place="farm", noun="dog", adjective="big", count=3, noun_2="umbrella",
             adjective_2="green"),
    _meaning(T.IS_AT, place="station", noun="key", when=When.YESTERDAY),
    _meaning(T.PERSON_OBJECT, subject="fisherman", verb="meet", person="writer", place="market",
             when=When.LAST_WEEK),
)  # fmt: skip

EXPECTED = {
    "en": """
        The woman bought three red apples at the market yesterday.
        The tired farmer read five old books in the library last week.
        The girls will find a white horse in the forest next week.
        The student is eating a big orange in the kitchen now.
        The men see three small donkeys every day.
        The queen has a black cat.
        The boy will give the teacher a new cup tomorrow.
        The woman brought the man five eggs.
        The girls went to the school with the doctor yesterday.
        The king goes to the hotel every day.
        The nurse helped the boy in the garden.
        The soldiers will thank the queen tomorrow.
        The doctor's table is not heavy.
        The king's horse is very big.
        The teacher is very tired.
        The women will be in the city tomorrow.
        There were five blue birds in the garden yesterday.
        There is a white egg in the kitchen.
        There are three big dogs and a green umbrella on the farm.
        The key was at the station yesterday.
        The fisherman met the writer at the market last week.
    """,
    "fr": """
        Hier, la femme a acheté trois pommes rouges au marché.
        La semaine dernière, le fermier fatigué a lu cinq vieux livres à la bibliothèque.
        La semaine prochaine, les filles trouveront un cheval blanc dans la forêt.
        Maintenant, l'étudiant mange une grosse orange dans la cuisine.
        Chaque jour, les hommes voient trois petits ânes.
        La reine a un chat noir.
        Demain, le garçon donnera une nouvelle tasse à l'enseignante.
        La femme a apporté cinq œufs à l'homme.
        Hier, les filles sont allées à l'école avec le médecin.
        Chaque jour, le roi va à l'hôtel.
        L'infirmière a aidé le garçon dans le jardin.
        Demain, les soldats remercieront la reine.
        La table du médecin n'est pas lourde.
        Le cheval du roi est très grand.
        L'enseignante est très fatiguée.
        Demain, les femmes seront en ville.
        Hier, il y avait cinq oiseaux bleus dans le jardin.
        Il y a un œuf blanc dans la cuisine.
        Il y a trois grands chiens et un parapluie vert à la ferme.
        Hier, la clé était à la gare.
        La semaine dernière, le pêcheur a rencontré l'écrivaine au marché.
    """,
    "de": """
        Gestern kaufte die Frau auf dem Markt drei rote Äpfel.
        Letzte Woche las der müde Bauer in der Bibliothek fünf alte Bücher.
        Nächste Woche werden die Mädchen im Wald ein weißes Pferd finden.
        Jetzt isst der Student in der Küche eine große Orange.
        Jeden Tag sehen die Männer drei kleine Esel.
        Die Königin hat eine schwarze Katze.
        Morgen wird der Junge der Lehrerin eine neue Tasse geben.
        Die Frau brachte dem Mann fünf Eier.
        Gestern gingen die Mädchen mit dem Arzt in die Schule.
        Jeden Tag geht der König ins Hotel.
        Die Pflegerin half dem Jungen im Garten.
        Morgen werden die Soldaten der Königin danken.
        Der Tisch des Arztes ist nicht schwer.
        Das Pferd des Königs ist sehr groß.
        Die Lehrerin ist sehr müde.
        Morgen werden die Frauen in der Stadt sein.
        Gestern gab es im Garten fünf blaue Vögel.
        In der Küche gibt es ein weißes Ei.
        Auf dem Bauernhof gibt es drei große Hunde und einen grünen Regenschirm.
        Gestern war der Schlüssel am Bahnhof.
        Letzte Woche traf der Fischer die Autorin auf dem Markt.
    """,
    "es": """
        Ayer la mujer compró tres manzanas rojas en el mercado.
        La semana pasada el granjero cansado leyó cinco libros viejos en la biblioteca.
        La próxima semana las niñas encontrarán un caballo blanco en el bosque.
        Ahora el estudiante está comiendo una naranja grande en la cocina.
        Todos los días los hombres ven tres burros pequeños.
        La reina tiene un gato negro.
        Mañana el niño le dará una taza nueva a la maestra.
        La mujer le trajo cinco huevos al hombre.
        Ayer las niñas fueron a la escuela con el médico.
        Todos los días el rey va al hotel.
        La enfermera ayudó al niño en el jardín.
        Mañana los soldados le darán las gracias a la reina.
        La mesa del médico no es pesada.
        El caballo del rey es muy grande.
        La maestra está muy cansada.
        Mañana las mujeres estarán en la ciudad.
        Ayer había cinco pájaros azules en el jardín.
        Hay un huevo blanco en la cocina.
        Hay tres perros grandes y un paraguas verde en la granja.
        Ayer la llave estaba en la estación.
        La semana pasada el pescador se encontró con la escritora en el mercado.
    """,
    "ru": """
        Вчера женщина купила на рынке три красных яблока.
        На прошлой неделе усталый фермер прочитал в библиотеке пять старых книг.
        На следующей неделе девочки найдут в лесу белую лошадь.
        Сейчас студент ест на кухне большой апельсин.
        Каждый день мужчины видят трёх маленьких ослов.
        У королевы есть чёрная кошка.
        Завтра мальчик даст учительнице новую чашку.
        Женщина принесла мужчине пять яиц.
        Вчера девочки ходили с врачом в школу.
        Каждый день король ходит в гостиницу.
        Медсестра помогла мальчику в саду.
        Завтра солдаты поблагодарят королеву.
        Стол врача не тяжёлый.
        Лошадь короля очень большая.
        Учительница очень устала.
        Завтра женщины будут в городе.
        Вчера в саду было пять синих птиц.
        На кухне белое яйцо.
        На ферме три большие собаки и зелёный зонт.
        Вчера ключ был на вокзале.
        На прошлой неделе рыбак встретил писательницу на рынке.
    """,
    "ar": """
        اشترت المرأة ثلاث تفاحات حمراء في السوق أمس.
        قرأ المزارع المتعب خمسة كتب قديمة في المكتبة الأسبوع الماضي.
        ستجد الفتيات حصانًا أبيض في الغابة الأسبوع القادم.
        يأكل الطالب برتقالة كبيرة في المطبخ الآن.
        يرى الرجال ثلاثة حمير صغيرة كل يوم.
        لدى الملكة قطة سوداء.
        سيعطي الولد المعلمة كوبًا جديدًا غدًا.
        أحضرت المرأة للرجل خمس بيضات.
        ذهبت الفتيات إلى المدرسة مع الطبيب أمس.
        يذهب الملك إلى الفندق كل يوم.
        ساعدت الممرضة الولد في الحديقة.
        سيشكر الجنود الملكة غدًا.
        طاولة الطبيب ليست ثقيلة.
        حصان الملك كبير جدًا.
        المعلمة متعبة جدًا.
        ستكون النساء في المدينة غدًا.
        كان هناك خمسة طيور زرقاء في الحديقة أمس.
        توجد بيضة بيضاء في المطبخ.
        يوجد ثلاثة كلاب كبيرة ومظلة خضراء في المزرعة.
        كان المفتاح في المحطة أمس.
        قابل الصياد الكاتبة في السوق الأسبوع الماضي.
    """,
    "zh": """
        女人昨天在市场上买了三个红色的苹果。
        疲惫的农民上周在图书馆里读了五本旧书。
        女孩们下周会在森林里找到一匹白色的马。
        学生现在正在厨房里吃一个大橙子。
        男人们每天都看见三头小驴。
        女王有一只黑色的猫。
        男孩明天会给老师一个新杯子。
        女人给男人带来了五个鸡蛋。
        女孩们昨天和医生一起去了学校。
        国王每天都去酒店。
        护士在花园里帮助了男孩。
        士兵们明天会感谢女王。
        医生的桌子不重。
        国王的马非常大。
        老师非常累。
        女人们明天会在城里。
        昨天花园里有五只蓝色的鸟。
        厨房里有一个白色的鸡蛋。
        农场里有三只大狗和一把绿色的雨伞。
        昨天钥匙在火车站。
        渔夫上周在市场上遇见了作家。
    """,
    "hi": """
        कल औरत ने बाज़ार में तीन लाल सेब ख़रीदे।
        पिछले हफ़्ते थके हुए किसान ने पुस्तकालय में पाँच पुरानी किताबें पढ़ीं।
        अगले हफ़्ते लड़कियों को जंगल में एक सफ़ेद घोड़ा मिलेगा।
        अभी छात्र रसोई में एक बड़ा संतरा खा रहा है।
        हर दिन आदमी तीन छोटे गधे देखते हैं।
        रानी के पास एक काली बिल्ली है।
        कल लड़का अध्यापिका को एक नया प्याला देगा।
        औरत आदमी के लिए पाँच अंडे लाई।
        कल लड़कियाँ डॉक्टर के साथ स्कूल गईं।
        हर दिन राजा होटल जाता है।
        नर्स ने बगीचे में लड़के की मदद की।
        कल सैनिक रानी को धन्यवाद देंगे।
        डॉक्टर की मेज़ भारी नहीं है।
        राजा का घोड़ा बहुत बड़ा है।
        अध्यापिका बहुत थकी हुई है।
        कल औरतें शहर में होंगी।
        कल बगीचे में पाँच नीली चिड़ियाँ थीं।
        रसोई में एक सफ़ेद अंडा है।
        खेत में एक हरा छाता और तीन बड़े कुत्ते हैं।
        कल चाबी स्टेशन पर थी।
        पिछले हफ़्ते मछुआरा बाज़ार में लेखिका से मिला।
    """,
    "sw": """
        Mwanamke alinunua matofaa mekundu matatu sokoni jana.
        Mkulima aliyechoka alisoma vitabu vitano vya zamani maktabani wiki iliyopita.
        Wasichana watapata farasi mweupe msituni wiki ijayo.
        Mwanafunzi anakula chungwa kubwa jikoni sasa.
        Wanaume wanaona punda wadogo watatu kila siku.
        Malkia ana paka mweusi.
        Mvulana atampa mwalimu kikombe kipya kesho.
        Mwanamke alimletea mwanamume mayai matano.
        Wasichana walienda shuleni na daktari jana.
        Mfalme anaenda hotelini kila siku.
        Muuguzi alimsaidia mvulana bustanini.
        Wanajeshi watamshukuru malkia kesho.
        Meza ya daktari si nzito.
        Farasi wa mfalme ni mkubwa sana.
        Mwalimu amechoka sana.
        Wanawake watakuwa mjini kesho.
        Kulikuwa na ndege watano wa buluu bustanini jana.
        Kuna yai jeupe jikoni.
        Kuna mbwa wakubwa watatu na mwavuli wa kijani shambani.
        Ufunguo ulikuwa stesheni jana.
        Mvuvi alikutana na mwandishi sokoni wiki iliyopita.
    """,
}


def test_every_template_and_language_is_covered() -> None:
    assert set(EXPECTED) == set(REALIZERS)
    assert {m.template for m in MEANINGS} == set(Template)


@pytest.mark.parametrize("lang", EXPECTED)
def test_sentences(lang: str) -> None:
    expected = [line.strip() for line in EXPECTED[lang].splitlines() if line.strip()]
    assert [REALIZERS[lang](meaning) for meaning in MEANINGS] == expected


FURTHER = [
    # Prenominal adjective before a vowel; participle with être in the feminine singular.
    ("fr", _meaning(T.HAVE, subject="man", noun="bird", adjective="beautiful"),
     "L'homme a un bel oiseau."),
    ("fr", _meaning(T.GO, subject="queen", place="museum", when=When.YESTERDAY),
     "Hier, la reine est allée au musée."),
    ("fr", _meaning(T.POSSESSED_IS, subject="writer", noun="egg", adjective="big"),
     "L'œuf de l'écrivaine est gros."),
    # Weak masculine in three cases; accusative of all genders.
    ("de", _meaning(T.PERSON_OBJECT, subject="student", verb="see", person="boy", when=When.PAST),
     "Der Student sah den Jungen."),
    ("de", _meaning(T.POSSESSED_IS, subject="farmer", noun="cow", adjective="expensive"),
     "Die Kuh des Bauern ist teuer."),
    ("de", _meaning(T.HAVE, subject="girl", noun="coat", adjective="expensive"),
     "Das Mädchen hat einen teuren Mantel."),
    # ser and estar.
    ("es", _meaning(T.POSSESSED_IS, subject="cook", noun="cup", adjective="dirty"),
     "La taza del cocinero está sucia."),
    # Animate masculine accusative; genitive plural; indeclinable noun; paucal by gender.
    ("ru", _meaning(T.TRANSITIVE, subject="boy", verb="sell", noun="rabbit", adjective="white",
                    when=When.PAST), "Мальчик продал белого кролика."),
    ("ru", _meaning(T.HAVE, subject="neighbor", subject_plural=True, noun="coat", count=5,
                    adjective="black"), "У соседей есть пять чёрных пальто."),
    ("ru", _meaning(T.HAVE, subject="cook", noun="box", count=3, adjective="new"),
     "У повара есть три новые коробки."),
    ("ru", _meaning(T.GO, subject="singer", person="student", place="forest",
                    when=When.TOMORROW), "Завтра певица пойдёт со студентом в лес."),
    # Sound plural in two cases; ليس with the accusative; defective adjective.
    ("ar", _meaning(T.HAVE, subject="driver", subject_plural=True, noun="chair", count=3),
     "لدى السائقين ثلاثة كراسٍ."),
    ("ar", _meaning(T.PERSON_AT, subject="driver", subject_plural=True, place="market",
                    when=When.YESTERDAY), "كان السائقون في السوق أمس."),
    ("ar", _meaning(T.PERSON_IS, subject="king", subject_adjective="happy", degree=Degree.NOT),
     "الملك ليس سعيدًا."),
    ("ar", _meaning(T.TRANSITIVE, subject="king", verb="buy", noun="book",
                    adjective="expensive", when=When.TOMORROW), "سيشتري الملك كتابًا غاليًا غدًا."),
    # One 在 for aspect and place; colours by 是…的.
    ("zh", _meaning(T.GO, subject="girl", person="boy", place="school", when=When.NOW),
     "女孩现在正和男孩一起去学校。"),
    ("zh", _meaning(T.POSSESSED_IS, subject="king", noun="hat", adjective="red",
                    degree=Degree.NOT), "国王的帽子不是红色的。"),
    # The perfective agrees with the object after ने, with the subject after लाना.
    ("hi", _meaning(T.TRANSITIVE, subject="boy", verb="see", noun="bird", when=When.PAST),
     "लड़के ने एक चिड़िया देखी।"),
    ("hi", _meaning(T.GIVE, subject="boy", subject_plural=True, verb="bring", person="fisherman",
                    noun="book", when=When.PAST), "लड़के मछुआरे के लिए एक किताब लाए।"),
    ("hi", _meaning(T.HAVE, subject="king", subject_plural=True, noun="boat", count=3,
                    adjective="old"), "राजाओं के पास तीन पुरानी नावें हैं।"),
    # Classes 3/4, 11/10 and 9; animals agree as persons.
    ("sw", _meaning(T.HAVE, subject="king", noun="key", count=3, adjective="small"),
     "Mfalme ana funguo ndogo tatu."),
    ("sw", _meaning(T.HAVE, subject="king", noun="bag", count=5, adjective="black"),
     "Mfalme ana mifuko myeusi mitano."),
    ("sw", _meaning(T.IS_AT, place="school", noun="chair", adjective="red"),
     "Kiti chekundu kiko shuleni."),
    ("sw", _meaning(T.PERSON_IS, subject="cook", subject_adjective="strong", degree=Degree.NOT),
     "Mpishi hana nguvu."),
    ("en", _meaning(T.TRANSITIVE, subject="woman", verb="lose", noun="umbrella", adjective="old",
                    when=When.THIS_MORNING), "The woman lost an old umbrella this morning."),
]  # fmt: skip


@pytest.mark.parametrize(("lang", "meaning", "expected"), FURTHER)
def test_special_forms(lang: str, meaning: Meaning, expected: str) -> None:
    assert REALIZERS[lang](meaning) == expected
