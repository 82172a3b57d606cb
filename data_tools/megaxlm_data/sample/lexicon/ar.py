"""Arabic forms, without vowel signs but for the tanwin of the accusative."""

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

# gender | the | the, plural nominative | the, plural genitive | to the
PERSON = table(
    PERSONS,
    """
    farmer | m | المزارع | المزارعون | المزارعين | للمزارع
    woman | f | المرأة | النساء | النساء | للمرأة
    boy | m | الولد | الأولاد | الأولاد | للولد
    girl | f | الفتاة | الفتيات | الفتيات | للفتاة
    doctor | m | الطبيب | الأطباء | الأطباء | للطبيب
    man | m | الرجل | الرجال | الرجال | للرجل
    teacher | f | المعلمة | المعلمات | المعلمات | للمعلمة
    student | m | الطالب | الطلاب | الطلاب | للطالب
    queen | f | الملكة | الملكات | الملكات | للملكة
    soldier | m | الجندي | الجنود | الجنود | للجندي
    cook | m | الطباخ | الطباخون | الطباخين | للطباخ
    nurse | f | الممرضة | الممرضات | الممرضات | للممرضة
    merchant | m | التاجر | التجار | التجار | للتاجر
    singer | f | المغنية | المغنيات | المغنيات | للمغنية
    neighbor | m | الجار | الجيران | الجيران | للجار
    actress | f | الممثلة | الممثلات | الممثلات | للممثلة
    driver | m | السائق | السائقون | السائقين | للسائق
    writer | f | الكاتبة | الكاتبات | الكاتبات | للكاتبة
    fisherman | m | الصياد | الصيادون | الصيادين | للصياد
    king | m | الملك | الملوك | الملوك | للملك
    """,
    5,
)
# masculine | feminine | masculine accusative
PERSON_ADJECTIVE = table(
    PERSON_ADJECTIVES,
    """
    happy | سعيد | سعيدة | سعيدًا
    tired | متعب | متعبة | متعبًا
    kind | لطيف | لطيفة | لطيفًا
    clever | ذكي | ذكية | ذكيًا
    strong | قوي | قوية | قويًا
    rich | غني | غنية | غنيًا
    poor | فقير | فقيرة | فقيرًا
    famous | مشهور | مشهورة | مشهورًا
    """,
    3,
)
# gender | singular | accusative singular | genitive plural (after a numeral)
NOUN = table(
    NOUNS,
    """
    apple | f | تفاحة | تفاحة | تفاحات
    egg | f | بيضة | بيضة | بيضات
    book | m | كتاب | كتابًا | كتب
    letter | f | رسالة | رسالة | رسائل
    chair | m | كرسي | كرسيًا | كراسٍ
    table | f | طاولة | طاولة | طاولات
    cup | m | كوب | كوبًا | أكواب
    hat | f | قبعة | قبعة | قبعات
    flower | f | زهرة | زهرة | زهرات
    bag | f | حقيبة | حقيبة | حقائب
    cat | f | قطة | قطة | قطط
    dog | m | كلب | كلبًا | كلاب
    horse | m | حصان | حصانًا | أحصنة
    bird | m | طائر | طائرًا | طيور
    orange | f | برتقالة | برتقالة | برتقالات
    banana | f | موزة | موزة | موزات
    onion | f | بصلة | بصلة | بصلات
    lemon | f | ليمونة | ليمونة | ليمونات
    cake | f | كعكة | كعكة | كعكات
    newspaper | f | صحيفة | صحيفة | صحف
    shirt | m | قميص | قميصًا | قمصان
    coat | m | معطف | معطفًا | معاطف
    lamp | m | مصباح | مصباحًا | مصابيح
    plate | m | طبق | طبقًا | أطباق
    knife | m | سكين | سكينًا | سكاكين
    box | m | صندوق | صندوقًا | صناديق
    key | m | مفتاح | مفتاحًا | مفاتيح
    picture | f | لوحة | لوحة | لوحات
    mirror | f | مرآة | مرآة | مرايا
    basket | f | سلة | سلة | سلال
    umbrella | f | مظلة | مظلة | مظلات
    boat | m | قارب | قاربًا | قوارب
    cow | f | بقرة | بقرة | بقرات
    goat | f | عنزة | عنزة | عنزات
    rabbit | m | أرنب | أرنبًا | أرانب
    donkey | m | حمار | حمارًا | حمير
    sheep | m | خروف | خروفًا | خراف
    hen | f | دجاجة | دجاجة | دجاجات
    """,
    4,
)
# masculine | masculine accusative | feminine (also for several things) | the, masculine | the,
# feminine
ADJECTIVE = table(
    ADJECTIVES,
    """
    big | كبير | كبيرًا | كبيرة | الكبير | الكبيرة
    small | صغير | صغيرًا | صغيرة | الصغير | الصغيرة
    red | أحمر | أحمر | حمراء | الأحمر | الحمراء
    white | أبيض | أبيض | بيضاء | الأبيض | البيضاء
    black | أسود | أسود | سوداء | الأسود | السوداء
    new | جديد | جديدًا | جديدة | الجديد | الجديدة
    old | قديم | قديمًا | قديمة | القديم | القديمة
    green | أخضر | أخضر | خضراء | الأخضر | الخضراء
    beautiful | جميل | جميلًا | جميلة | الجميل | الجميلة
    clean | نظيف | نظيفًا | نظيفة | النظيف | النظيفة
    dirty | متسخ | متسخًا | متسخة | المتسخ | المتسخة
    expensive | غالٍ | غاليًا | غالية | الغالي | الغالية
    heavy | ثقيل | ثقيلًا | ثقيلة | الثقيل | الثقيلة
    blue | أزرق | أزرق | زرقاء | الأزرق | الزرقاء
    """,
    5,
)
# past masculine | past feminine | present masculine | present feminine; before its subject a verb
# is singular
VERB = table(
    VERBS,
    """
    buy | اشترى | اشترت | يشتري | تشتري
    eat | أكل | أكلت | يأكل | تأكل
    read | قرأ | قرأت | يقرأ | تقرأ
    find | وجد | وجدت | يجد | تجد
    see | رأى | رأت | يرى | ترى
    sell | باع | باعت | يبيع | تبيع
    choose | اختار | اختارت | يختار | تختار
    wash | غسل | غسلت | يغسل | تغسل
    lose | أضاع | أضاعت | يضيع | تضيع
    write | كتب | كتبت | يكتب | تكتب
    hide | أخفى | أخفت | يخفي | تخفي
    break | كسر | كسرت | يكسر | تكسر
    """,
    4,
)
# ... | the receiver: plain object, after على, or with ل
GIVE_VERB = table(
    GIVE_VERBS,
    """
    give | أعطى | أعطت | يعطي | تعطي | object
    show | عرض | عرضت | يعرض | تعرض | على
    bring | أحضر | أحضرت | يحضر | تحضر | ل
    """,
    5,
)
PERSON_VERB = table(
    PERSON_VERBS,
    """
    see | رأى | رأت | يرى | ترى
    help | ساعد | ساعدت | يساعد | تساعد
    meet | قابل | قابلت | يقابل | تقابل
    thank | شكر | شكرت | يشكر | تشكر
    """,
    4,
)
GO = ("ذهب", "ذهبت", "يذهب", "تذهب")
BE = ("كان", "كانت", "يكون", "تكون")
EXIST = ("يوجد", "توجد")
PLACE = table(
    PLACES,
    """
    garden | الحديقة
    market | السوق
    school | المدرسة
    village | القرية
    kitchen | المطبخ
    city | المدينة
    shop | المتجر
    hospital | المستشفى
    hotel | الفندق
    station | المحطة
    library | المكتبة
    farm | المزرعة
    museum | المتحف
    forest | الغابة
    """,
    1,
)
# before a masculine | feminine noun: the numeral has the other gender's ending
COUNT = {3: ("ثلاثة", "ثلاث"), 5: ("خمسة", "خمس")}
WHEN = (
    "",
    "أمس",
    "الآن",
    "غدًا",
    "كل يوم",
    "هذا الصباح",
    "الأسبوع الماضي",
    "الأسبوع القادم",
    "",
)
