"""The sample corpus: original parallel text in nine languages, made by a template grammar.

It is the quickstart's input and the benchmarks' volume: real words and real grammar (gender,
case, agreement, word order), any amount, the same bytes for the same seed. `concepts` names what
can be said, `meanings` numbers the sentences without words, `lexicon` and `grammar` say them in
each language, `corpus` writes files.
"""

from .corpus import (
    LANGUAGES,
    documents,
    held_out,
    num_sentences,
    parallel,
    sentences,
    write_corpus,
)

__all__ = [
    "LANGUAGES",
    "documents",
    "held_out",
    "num_sentences",
    "parallel",
    "sentences",
    "write_corpus",
]
