"""Which language a text is in: a fast library first, an accurate one for what is doubtful.

The fast one is eldc, n-grams in C for 60 languages: 10 MB/s and more, and what it's sure of is
right, unless the text is in a relative that it doesn't know (it calls Indonesian Malay, and every
language in Devanagari Hindi or Marathi). Those labels, and every low score, go to
the accurate one, py3langid: 140 languages, 0.4 MB/s, on half the sample. Both bring their models in
the package and never look at the network; neither keeps a state between texts, so that a text gets
the same answer in every process. Measured in `benchmarks/benchmark_identify.py`, with what else was
tried.

Neither tells traditional from simplified Chinese, or says in which script Serbian is written: the
characters do.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Protocol

import numpy as np
import numpy.typing as npt

from megaxlm.config.data_languages import LanguageIdentificationConfig
from megaxlm.errors import UserError
from megaxlm_data.document import code_points
from megaxlm_data.languages.codes import UNDETERMINED, base_language, normalize_code

_MISSING = "`language_identification` needs {library}; install it with: pip install 'megaxlm[lid]'"

# Labels under which the fast library puts relatives that it doesn't know.
DOUBTFUL_LABELS = frozenset("bn bs ckb hi hr mr ms ne no sa sr ur".split())
# And under which it puts some of them, never with this score: Afrikaans, Pashto, Macedonian, ...
_RELATED_LABELS = frozenset("am bg fa nl pt tl".split())
_RELATED_SCORE = 0.9
_EXPECTED_SCORE = 0.75  # of the fast library, enough for a language that is expected
# What a library means by a code, where that isn't what the code says.
_ELDC_CODES = {"ku": "ckb"}
_PY3LANGID_CODES = {"sdh": "ckb", "zxx": UNDETERMINED}
_WINDOWS = 3  # parts of a long text that are looked at: its start, its middle, its end
# Languages that are written in several scripts; in others, much Latin means names and code.
_TWO_SCRIPTS = frozenset("az bs crh kk ku ky sr tg tk tt ug uz".split())
_SCRIPTS = {"Latn": "LATIN", "Cyrl": "CYRILLIC", "Arab": "ARABIC"}
_HAN = range(0x4E00, 0xA000)


class LanguageIdentifier(Protocol):
    """Finds the language of a text."""

    @property
    def languages(self) -> frozenset[str]:
        """The languages it knows, as normalised codes."""

    def knows(self, code: str) -> bool:
        """Tells whether it could find this normalised code."""

    def identify(
        self, text: str, expected: Callable[[str], bool] | None = None
    ) -> tuple[str, float]:
        """Returns the language of a text.

        Args:
            text: A document, a paragraph or a sentence; of a long one, parts are looked at.
            expected: Says of a code whether it would be no surprise: less is asked of that then,
                and time is saved.

        Returns:
            The code (ISO 639-1 where there is one, else 639-3, a script only off the usual one;
            `und` if unsure) and the confidence, 0..1.
        """


Classify = Callable[[str], tuple[str, float]]


def make_identifier(config: LanguageIdentificationConfig) -> LanguageIdentifier:
    """Returns an identifier; a process makes one and keeps it.

    Raises:
        UserError: A library isn't installed.
    """
    return TwoPassIdentifier(config)


def library_versions(config: LanguageIdentificationConfig) -> dict[str, str]:
    """Returns the versions of the libraries that are asked; their answers may change with them.

    Raises:
        UserError: One isn't installed.
    """
    versions = {}
    for library in ("eldc", "py3langid") if config.accurate else ("eldc",):
        try:
            versions[library] = version(library)
        except PackageNotFoundError:
            raise UserError(_MISSING.format(library=library)) from None
    return versions


class TwoPassIdentifier:
    """Asks the fast library, and the accurate one if that is in doubt."""

    def __init__(self, config: LanguageIdentificationConfig) -> None:
        self._config = config
        self._fast, fast_languages = _eldc()
        self._fast_languages = fast_languages
        self._accurate: Classify | None = None
        self._languages = fast_languages
        if config.accurate:
            self._accurate, accurate_languages = _py3langid()
            self._languages |= accurate_languages
        self._languages |= {"zh-Hant"} if "zh" in self._languages else set()

    @property
    def languages(self) -> frozenset[str]:
        """The languages that one of the libraries knows."""
        return self._languages

    def knows(self, code: str) -> bool:
        """Tells whether it could find this normalised code."""
        base = base_language(code)
        return code in self._languages or (base in _TWO_SCRIPTS and base in self._languages)

    def identify(
        self, text: str, expected: Callable[[str], bool] | None = None
    ) -> tuple[str, float]:
        """Returns (code, confidence), or `und` with the confidence of the best guess."""
        size = self._config.max_sample_chars
        text = sample(text, size)
        code, confidence = self._fast(text)
        if expected is not None and confidence >= _EXPECTED_SCORE and expected(code):
            return _with_script(code, text), confidence
        enough = self._config.fast_threshold
        if code in _RELATED_LABELS:
            enough = max(enough, _RELATED_SCORE)
        doubtful = confidence < enough or code in DOUBTFUL_LABELS
        if doubtful and self._accurate is not None:
            code, confidence = self._reconsider(sample(text, size // 2), code, confidence)
        elif confidence < self._config.fast_threshold:
            return UNDETERMINED, confidence
        if code == UNDETERMINED or confidence < self._config.min_confidence:
            return UNDETERMINED, confidence
        if not _may_be_in_script(code, text):
            return UNDETERMINED, 0.0
        return _with_script(code, text), confidence

    def _reconsider(self, text: str, code: str, confidence: float) -> tuple[str, float]:
        """Weighs the second opinion against the first."""
        assert self._accurate is not None
        second, probability = self._accurate(text)
        if second == code:
            return code, max(confidence, probability)
        if second == UNDETERMINED:
            return code, confidence
        if second in self._fast_languages:
            # the fast library knows this language and saw another: one of them is wrong
            probability *= 1 - confidence
        return second, probability


def sample(text: str, size: int) -> str:
    """Returns at most `size` characters of a text: windows at its start, middle and end."""
    if len(text) <= size:
        return text
    width = size // _WINDOWS - 1
    starts = (round(i * (len(text) - width) / (_WINDOWS - 1)) for i in range(_WINDOWS))
    return " ".join(text[start : start + width] for start in starts)


@cache
def _eldc() -> tuple[Classify, frozenset[str]]:
    try:
        import eldc
    except ImportError:
        raise UserError(_MISSING.format(library="eldc")) from None
    eldc.init()
    codes = {label: _ELDC_CODES.get(label, normalize_code(label)) for label in eldc.LANGUAGES}

    def classify(text: str) -> tuple[str, float]:
        details = eldc.detect_details(text)
        score = details.scores.get(details.language, 0.0)
        return codes.get(details.language, UNDETERMINED), float(score)

    return classify, frozenset(codes.values())


@cache
def _py3langid() -> tuple[Classify, frozenset[str]]:
    try:
        from py3langid.langid import MODEL_FILE
        from py3langid.langid import LanguageIdentifier as Langid
    except ImportError:
        raise UserError(_MISSING.format(library="py3langid")) from None
    langid = Langid.from_model_file(MODEL_FILE, norm_probs=True)
    labels = [str(label) for label in langid.nb_classes]
    codes = {label: _PY3LANGID_CODES.get(label, normalize_code(label)) for label in labels}

    def classify(text: str) -> tuple[str, float]:
        label, probability = langid.classify(text)
        return codes[str(label)], float(probability)

    return classify, frozenset(codes.values()) - {UNDETERMINED}


def _with_script(code: str, text: str) -> str:
    """Returns the code with the script of the text, if that isn't the usual one."""
    if code == "zh":
        return "zh-Hant" if is_traditional(text) else "zh"
    script = _main_script(text) if base_language(code) in _TWO_SCRIPTS else None
    return normalize_code(f"{base_language(code)}-{script}") if script else code


def _may_be_in_script(code: str, text: str) -> bool:
    """Tells whether a text isn't mostly in a script that its language has no use for.

    A few words of Gujarati are enough for the libraries to take a German sentence for it.
    """
    if _usual_script(base_language(code)) in _SCRIPTS:
        return True  # the libraries tell these apart, and some languages have several of them
    letters = _letters_by_script(text)
    others = sum(map(str.isalpha, text)) - int(letters.sum())
    return others >= int(letters.sum())


@cache
def _usual_script(language: str) -> str | None:
    import langcodes

    return langcodes.Language.make(language).maximize().script


def is_traditional(text: str) -> bool:
    """Tells traditional from simplified Chinese, by characters that only one of them has."""
    found = code_points(text)
    found = found[(found >= _HAN.start) & (found < _HAN.stop)] - np.uint32(_HAN.start)
    return int(_traditional()[found].sum()) > 0


@cache
def _traditional() -> npt.NDArray[np.int8]:
    """Returns 1 for characters of traditional Chinese alone, -1 for simplified alone, (20992,).

    The standards themselves tell: Big5 is the repertoire of Taiwan, GB 2312 that of the mainland.
    """
    marks = np.zeros(len(_HAN), np.int8)
    for point in _HAN:
        marks[point - _HAN.start] = _encodes(point, "big5") - _encodes(point, "gb2312")
    return marks


def _encodes(point: int, encoding: str) -> int:
    try:
        return len(chr(point).encode(encoding)) > 0
    except UnicodeEncodeError:
        return 0


def _main_script(text: str) -> str | None:
    """Returns which of the scripts that languages change between has most letters, if any has."""
    letters = _letters_by_script(text)
    return list(_SCRIPTS)[int(letters.argmax())] if letters.any() else None


def _letters_by_script(text: str) -> npt.NDArray[np.int64]:
    """Returns the number of letters in each of the scripts, (scripts,)."""
    points = code_points(text)
    table = _script_table()
    return np.bincount(table[points[points < len(table)]], minlength=len(_SCRIPTS) + 1)[1:]


@cache
def _script_table() -> npt.NDArray[np.uint8]:
    """Returns, for the code points below U+2000, 0 or the number of the script."""
    table = np.zeros(0x2000, np.uint8)
    for point in range(len(table)):
        first = unicodedata.name(chr(point), "").partition(" ")[0]
        for number, name in enumerate(_SCRIPTS.values(), start=1):
            if first == name:
                table[point] = number
    return table
