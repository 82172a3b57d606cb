"""Hindi forms."""

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

# gender | direct | oblique | direct plural | oblique plural
PERSON = table(
    PERSONS,
    """
    farmer | m | किसान | किसान | किसान | किसानों
    woman | f | औरत | औरत | औरतें | औरतों
    boy | m | लड़का | लड़के | लड़के | लड़कों
    girl | f | लड़की | लड़की | लड़कियाँ | लड़कियों
    doctor | m | डॉक्टर | डॉक्टर | डॉक्टर | डॉक्टरों
    man | m | आदमी | आदमी | आदमी | आदमियों
    teacher | f | अध्यापिका | अध्यापिका | अध्यापिकाएँ | अध्यापिकाओं
    student | m | छात्र | छात्र | छात्र | छात्रों
    queen | f | रानी | रानी | रानियाँ | रानियों
    soldier | m | सैनिक | सैनिक | सैनिक | सैनिकों
    cook | m | रसोइया | रसोइये | रसोइये | रसोइयों
    nurse | f | नर्स | नर्स | नर्सें | नर्सों
    merchant | m | व्यापारी | व्यापारी | व्यापारी | व्यापारियों
    singer | f | गायिका | गायिका | गायिकाएँ | गायिकाओं
    neighbor | m | पड़ोसी | पड़ोसी | पड़ोसी | पड़ोसियों
    actress | f | अभिनेत्री | अभिनेत्री | अभिनेत्रियाँ | अभिनेत्रियों
    driver | m | ड्राइवर | ड्राइवर | ड्राइवर | ड्राइवरों
    writer | f | लेखिका | लेखिका | लेखिकाएँ | लेखिकाओं
    fisherman | m | मछुआरा | मछुआरे | मछुआरे | मछुआरों
    king | m | राजा | राजा | राजा | राजाओं
    """,
    5,
)
# masculine direct | masculine oblique | feminine
PERSON_ADJECTIVE = table(
    PERSON_ADJECTIVES,
    """
    happy | खुश | खुश | खुश
    tired | थका हुआ | थके हुए | थकी हुई
    kind | दयालु | दयालु | दयालु
    clever | होशियार | होशियार | होशियार
    strong | ताक़तवर | ताक़तवर | ताक़तवर
    rich | अमीर | अमीर | अमीर
    poor | ग़रीब | ग़रीब | ग़रीब
    famous | मशहूर | मशहूर | मशहूर
    """,
    3,
)
# gender | direct singular | direct plural
NOUN = table(
    NOUNS,
    """
    apple | m | सेब | सेब
    egg | m | अंडा | अंडे
    book | f | किताब | किताबें
    letter | f | चिट्ठी | चिट्ठियाँ
    chair | f | कुर्सी | कुर्सियाँ
    table | f | मेज़ | मेज़ें
    cup | m | प्याला | प्याले
    hat | f | टोपी | टोपियाँ
    flower | m | फूल | फूल
    bag | m | थैला | थैले
    cat | f | बिल्ली | बिल्लियाँ
    dog | m | कुत्ता | कुत्ते
    horse | m | घोड़ा | घोड़े
    bird | f | चिड़िया | चिड़ियाँ
    orange | m | संतरा | संतरे
    banana | m | केला | केले
    onion | m | प्याज़ | प्याज़
    lemon | m | नींबू | नींबू
    cake | m | केक | केक
    newspaper | m | अख़बार | अख़बार
    shirt | f | कमीज़ | कमीज़ें
    coat | m | कोट | कोट
    lamp | m | लैंप | लैंप
    plate | f | प्लेट | प्लेटें
    knife | m | चाकू | चाकू
    box | m | डिब्बा | डिब्बे
    key | f | चाबी | चाबियाँ
    picture | f | तस्वीर | तस्वीरें
    mirror | m | आईना | आईने
    basket | f | टोकरी | टोकरियाँ
    umbrella | m | छाता | छाते
    boat | f | नाव | नावें
    cow | f | गाय | गायें
    goat | f | बकरी | बकरियाँ
    rabbit | m | खरगोश | खरगोश
    donkey | m | गधा | गधे
    sheep | f | भेड़ | भेड़ें
    hen | f | मुर्गी | मुर्गियाँ
    """,
    3,
)
# masculine singular | masculine plural | feminine
ADJECTIVE = table(
    ADJECTIVES,
    """
    big | बड़ा | बड़े | बड़ी
    small | छोटा | छोटे | छोटी
    red | लाल | लाल | लाल
    white | सफ़ेद | सफ़ेद | सफ़ेद
    black | काला | काले | काली
    new | नया | नए | नई
    old | पुराना | पुराने | पुरानी
    green | हरा | हरे | हरी
    beautiful | सुंदर | सुंदर | सुंदर
    clean | साफ़ | साफ़ | साफ़
    dirty | गंदा | गंदे | गंदी
    expensive | महँगा | महँगे | महँगी
    heavy | भारी | भारी | भारी
    blue | नीला | नीले | नीली
    """,
    3,
)
# perfective m. | m. plural | f. | f. plural | stem | future before गा: singular | plural | the
# subject takes: ने in the perfective, nothing ever (-), or को always (then the verb agrees with
# the object)
VERB = table(
    VERBS,
    """
    buy | ख़रीदा | ख़रीदे | ख़रीदी | ख़रीदीं | ख़रीद | ख़रीदे | ख़रीदें | ने
    eat | खाया | खाए | खाई | खाईं | खा | खाए | खाएँ | ने
    read | पढ़ा | पढ़े | पढ़ी | पढ़ीं | पढ़ | पढ़े | पढ़ें | ने
    find | मिला | मिले | मिली | मिलीं | मिल | मिले | मिलें | को
    see | देखा | देखे | देखी | देखीं | देख | देखे | देखें | ने
    sell | बेचा | बेचे | बेची | बेचीं | बेच | बेचे | बेचें | ने
    choose | चुना | चुने | चुनी | चुनीं | चुन | चुने | चुनें | ने
    wash | धोया | धोए | धोई | धोईं | धो | धोए | धोएँ | ने
    lose | खो दिया | खो दिए | खो दी | खो दीं | खो | खो दे | खो दें | ने
    write | लिखा | लिखे | लिखी | लिखीं | लिख | लिखे | लिखें | ने
    hide | छिपाया | छिपाए | छिपाई | छिपाईं | छिपा | छिपाए | छिपाएँ | ने
    break | तोड़ा | तोड़े | तोड़ी | तोड़ीं | तोड़ | तोड़े | तोड़ें | ने
    """,
    8,
)
# ... | after the receiver
GIVE_VERB = table(
    GIVE_VERBS,
    """
    give | दिया | दिए | दी | दीं | दे | दे | दें | ने | को
    show | दिखाया | दिखाए | दिखाई | दिखाईं | दिखा | दिखाए | दिखाएँ | ने | को
    bring | लाया | लाए | लाई | लाईं | ला | लाए | लाएँ | - | के लिए
    """,
    9,
)
# ... | after the person; with ने the perfective agrees with nothing, or with the noun named there
PERSON_VERB = table(
    PERSON_VERBS,
    """
    see | देखा | देखा | देखा | देखा | देख | देखे | देखें | ने | को
    help | की | की | की | की | कर | करे | करें | ने | की मदद
    meet | मिला | मिले | मिली | मिलीं | मिल | मिले | मिलें | - | से
    thank | दिया | दिया | दिया | दिया | दे | दे | दें | ने | को धन्यवाद
    """,
    9,
)
GO = ("गया", "गए", "गई", "गईं", "जा", "जाए", "जाएँ", "-")
# masculine | masculine plural | feminine | feminine plural
WAS = ("था", "थे", "थी", "थीं")
WILL_BE = ("होगा", "होंगे", "होगी", "होंगी")
# in | to
PLACE = table(
    PLACES,
    """
    garden | बगीचे में | बगीचे में
    market | बाज़ार में | बाज़ार
    school | स्कूल में | स्कूल
    village | गाँव में | गाँव
    kitchen | रसोई में | रसोई में
    city | शहर में | शहर
    shop | दुकान में | दुकान
    hospital | अस्पताल में | अस्पताल
    hotel | होटल में | होटल
    station | स्टेशन पर | स्टेशन
    library | पुस्तकालय में | पुस्तकालय
    farm | खेत में | खेत में
    museum | संग्रहालय में | संग्रहालय
    forest | जंगल में | जंगल में
    """,
    2,
)
COUNT = {1: "एक", 3: "तीन", 5: "पाँच"}
# "Yesterday" and "tomorrow" are one word; the tense tells them apart.
WHEN = ("", "कल", "अभी", "कल", "हर दिन", "आज सुबह", "पिछले हफ़्ते", "अगले हफ़्ते", "")
