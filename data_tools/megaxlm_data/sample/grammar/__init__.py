"""One realizer per language: a meaning in, a sentence out."""

from collections.abc import Callable

from ..meanings import Meaning
from . import ar, de, en, es, fr, hi, ru, sw, zh

REALIZERS: dict[str, Callable[[Meaning], str]] = {
    "en": en.realize,
    "fr": fr.realize,
    "de": de.realize,
    "es": es.realize,
    "ru": ru.realize,
    "ar": ar.realize,
    "zh": zh.realize,
    "hi": hi.realize,
    "sw": sw.realize,
}
