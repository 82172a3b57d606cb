"""One realizer per language: a meaning in, a sentence out.

A language's module holds one function per template, called after it: `_is_at` for
`Template.IS_AT`. Import fails if one is missing.
"""

from collections.abc import Callable
from types import ModuleType

from ..meanings import Meaning, Template
from . import ar, de, en, es, fr, hi, ru, sw, zh

Realizer = Callable[[Meaning], str]


def _realizer(language: ModuleType) -> Realizer:
    by_template: dict[Template, Realizer] = {
        template: getattr(language, f"_{template.name.lower()}") for template in Template
    }
    return lambda meaning: by_template[meaning.template](meaning)


REALIZERS: dict[str, Realizer] = {
    "en": _realizer(en),
    "fr": _realizer(fr),
    "de": _realizer(de),
    "es": _realizer(es),
    "ru": _realizer(ru),
    "ar": _realizer(ar),
    "zh": _realizer(zh),
    "hi": _realizer(hi),
    "sw": _realizer(sw),
}
