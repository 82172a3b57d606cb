"""One spelling for a language: corpora write `zho_Hans`, `zh-cn`, `zh` and `cmn` for the same one.

The spelling is the shortest: ISO 639-1 where there is a code, else ISO 639-3, and a script after it
only if it isn't the usual one (`sr` is Cyrillic, `sr-Latn` is not; `zh` is simplified, `zh-Hant` is
not). A region says nothing about the language but in Chinese, where it implies the script, and is
dropped. `langcodes` knows the registry of language tags (BCP 47, CLDR's aliases, macrolanguages and
usual scripts); the tables here hold only what corpora do otherwise.
"""

from __future__ import annotations

from functools import lru_cache

UNDETERMINED = "und"

# Codes of Wikipedia, which OSCAR and CC-100 inherit: the registry's grammar refuses some of them
# and takes others for something else.
_WIKIPEDIA = {
    "simple": "en",
    "be-x-old": "be",
    "be-tarask": "be",
    "zh-classical": "lzh",
    "zh-min-nan": "nan",
    "zh-yue": "yue",
    "bat-smg": "sgs",
    "fiu-vro": "vro",
    "roa-rup": "rup",
    "roa-tara": "nap",
    "cbk-zam": "cbk",
    "map-bms": "jv",
    "nds-nl": "nds",
}
# After the registry had its say: CLDR prefers `fil`, corpora call Bokmal `no`, and of Pashto and
# Quechua the registry merges other members than corpora hold.
_LANGUAGES = {
    "fil": "tl",
    "nb": "no",
    "nob": "no",
    "pbt": "ps",
    "pbu": "ps",
    "pst": "ps",
    "quy": "qu",
    "twi": "tw",
}
# Members that corpora keep apart from their macrolanguage, under their own code.
_NOT_MERGED = {"tw", "twi", "pnb", "diq", "cnr"}
_NO_LANGUAGE = {"und", "mul", "zxx", "mis", "unk", "art"}
# Usual scripts that CLDR lacks: it would take these languages for Latin ones.
_USUAL_SCRIPTS = {"azb": "Arab", "aii": "Syrc", "lzh": "Hani", "cnr": "Latn"}
_PARTS_OF_SCRIPTS = {
    "Kore": {"Hang", "Hani"},
    "Jpan": {"Hira", "Kana", "Hrkt", "Hani"},
    "Hans": {"Hani"},
    "Hant": {"Hani"},
}
_NO_SCRIPT = {"Zyyy", "Zinh", "Zxxx", "Zzzz"}


@lru_cache(maxsize=1 << 14)
def normalize_code(code: str) -> str:
    """Returns the usual spelling of a language code.

    `zho_Hans`, `zh-cn`, `cmn` give `zh`; `zh-TW`, `zho_Hant` give `zh-Hant`; `iw` gives `he`, `arb`
    gives `ar`, `nob` gives `no`, `pt-BR` gives `pt`; `srp_Latn` gives `sr-Latn`.

    Args:
        code: A code of ISO 639-1, 639-2 or 639-3, with a script or a region after `-` or `_` or
            without, in upper or lower case; or a code of Wikipedia.

    Returns:
        The code; `und` for what isn't one, or names no single language (`mul`, `zxx`).
    """
    import langcodes  # 60 ms that a build without codes to look up does not pay
    from langcodes.tag_parser import LanguageTagError

    tag = code.strip().replace("_", "-").lower()
    if not tag.partition("-")[0].isalpha():
        return UNDETERMINED  # `12`, which langcodes would take
    if tag in _WIKIPEDIA:
        return _WIKIPEDIA[tag]
    try:
        parsed = langcodes.Language.get(tag, normalize=False)
        if parsed.language not in _NOT_MERGED:
            parsed = langcodes.Language.get(langcodes.standardize_tag(tag, macro=True))
    except LanguageTagError:
        return UNDETERMINED
    language = parsed.language
    if language is None or language in _NO_LANGUAGE:
        return UNDETERMINED
    language = _LANGUAGES.get(language, language)
    script = parsed.script
    if script is None and language == "zh" and parsed.territory is not None:
        script = parsed.maximize().script  # Taiwan, Hong Kong and Macao write traditional
    if script is None or script in _NO_SCRIPT:
        return language
    usual = _USUAL_SCRIPTS.get(language) or langcodes.Language.make(language).maximize().script
    if script == usual or script in _PARTS_OF_SCRIPTS.get(usual or "", ()):
        return language
    return f"{language}-{script}"


def base_language(code: str) -> str:
    """Returns a normalised code without its script: `zh` for `zh-Hant`."""
    return code.partition("-")[0]
