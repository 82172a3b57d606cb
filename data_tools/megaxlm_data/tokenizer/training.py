"""Trains a SentencePiece model, Unigram or BPE, on an iterable of sentences.

sentencepiece draws its candidate pieces from the branching nodes of a suffix tree: a substring that
is always followed by the same character is no candidate. A word that is always followed by a
space is therefore never a piece of its own, however frequent, unless some longer word begins
with it. Each word of the sample is for this reason given once more, as a sentence of its own
(on the sample corpus: 1.4 tokens a word instead of 1.8 at the same vocabulary).

The model normalises with `nmt_nfkc` and folds whitespace, as XLM-R's own does: who loads the
exported tokenizer feeds it raw text. Everything else is sentencepiece's default, which is what
XLM-R used.

Scores of a Unigram model are rounded to multiples of 1/64 in the end. sentencepiece adds them up in
32 bits over a whole text: unrounded, a near tie between two segmentations is decided by how long
the text before it is. Rounded, every sum below 2^18 is exact (some 25,000 tokens), so that a word
is segmented in the same way wherever it stands, by sentencepiece, by Hugging Face, which adds in
64 bits, and by an encoder that works word by word. A 64th is far below what a sample can tell.

The sample is what the build drew: sentencepiece draws none of its own (`input_sentence_size`,
`shuffle_input_sentence` stay off). `memory` says how much memory it takes.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator

from megaxlm.config.data_tokenizer import TokenizerConfig
from megaxlm.errors import UserError

# The number of threads decides in which order sentencepiece adds its floating-point counts, and so
# the scores and now and then a piece. It is part of the recipe; `workers` limits the cores instead.
# 16, sentencepiece's own default: more have little left to do in its serial parts, and fewer would
# leave the cores of a large machine idle.
_NUM_THREADS = 16

_SCORE_STEP = 64
_UNIGRAM, _NORMAL = 1, 1  # TrainerSpec.ModelType, ModelProto.SentencePiece.Type

# Text such as a tokenizer's manual: a piece learned from it would collide with a special token or
# a byte piece, so that training fails or Hugging Face resolves the name to the wrong id.
_RESERVED = re.compile(r"<(?=(?:s|/s|unk|pad|mask|0x[0-9A-Fa-f]{2})>)")

_MAX_COUNTED_WORDS = 1_000_000  # some 100 MB

_TOO_HIGH = re.compile(r"set it to a value <= (\d+)")
_TOO_LOW = re.compile(r"smaller than required_chars. \d+ vs (\d+)")


def train_model(
    sentences: Iterable[str],
    config: TokenizerConfig,
    seed: int,
    workers: int,
    extremely_large: bool = False,
    at_most: bool = False,
) -> bytes:
    """Trains a model and returns the content of its file.

    Args:
        sentences: The sample, normalised as the build normalises. A line longer than
            `config.max_sentence_bytes` is cut at a space (sentencepiece would skip it silently).
        config: Vocabulary size of the finished tokenizer, character coverage, byte fallback.
        seed: Seeds sentencepiece's generator.
        workers: CPU cores to use; the result does not depend on it.
        extremely_large: The sample may have more than 2^31 characters; takes twice the memory.
        at_most: A sample that has pieces for a smaller vocabulary gives that (Unigram only).

    Raises:
        UserError: The sample is empty, or too small or too rich in characters for the vocabulary.
    """
    import sentencepiece

    sentencepiece.set_random_generator_seed(seed)
    model = io.BytesIO()
    failure: list[BaseException] = []

    def guarded() -> Iterator[str]:
        # sentencepiece turns an exception of its iterator into a RuntimeError: keep the real one
        try:
            words = WordCounter()
            for sentence in sentences:
                words.add(sentence)
                yield from cut_sentence(_RESERVED.sub("< ", sentence), config.max_sentence_bytes)
            for word in words.frequent(config.vocab_size):
                yield from cut_sentence(_RESERVED.sub("< ", word), config.max_sentence_bytes)
        except BaseException as error:
            failure.append(error)
            raise

    try:
        with _cores(workers):
            sentencepiece.SentencePieceTrainer.Train(
                sentence_iterator=guarded(),
                model_writer=model,
                model_type=config.model_type,
                vocab_size=config.vocab_size - 2,
                character_coverage=config.character_coverage,
                byte_fallback=config.byte_fallback,
                max_sentence_length=config.max_sentence_bytes,
                normalization_rule_name="nmt_nfkc",
                unk_id=0,
                bos_id=1,
                eos_id=2,
                pad_id=-1,
                num_threads=_NUM_THREADS,
                train_extremely_large_corpus=extremely_large,
                hard_vocab_limit=not (at_most and config.model_type == "unigram"),
                minloglevel=2,
            )
    except RuntimeError as error:
        if failure:
            raise failure[0] from None
        raise _explained(error, config) from None
    return _with_exact_sums(model.getvalue())


def _with_exact_sums(content: bytes) -> bytes:
    from sentencepiece import sentencepiece_model_pb2 as model_pb2

    proto = model_pb2.ModelProto()  # type: ignore[attr-defined]
    proto.ParseFromString(content)
    if proto.trainer_spec.model_type != _UNIGRAM:
        return content
    for piece in proto.pieces:
        if piece.type == _NORMAL:
            piece.score = round(piece.score * _SCORE_STEP) / _SCORE_STEP
    rounded: bytes = proto.SerializeToString(deterministic=True)
    return rounded


class WordCounter:
    """Counts the words of the sample in bounded memory, dropping the rarest when there are many."""

    def __init__(self, max_words: int = _MAX_COUNTED_WORDS) -> None:
        """Starts empty; at most `max_words` different words are held."""
        self._counts: Counter[str] = Counter()
        self._max_words = max_words
        self._below = 1  # words counted this often are dropped next

    def add(self, sentence: str) -> None:
        """Counts the words of a sentence, as whitespace separates them."""
        self._counts.update(sentence.split())
        while len(self._counts) > self._max_words:
            kept = {word: n for word, n in self._counts.items() if n > self._below}
            self._counts = Counter(kept)
            self._below += 1

    def frequent(self, limit: int) -> list[str]:
        """Returns the words seen at least twice, most frequent first, at most `limit`."""
        ranked = sorted(self._counts.items(), key=lambda item: (-item[1], item[0]))
        return [word for word, count in ranked[:limit] if count > 1]


def cut_sentence(sentence: str, max_bytes: int) -> Iterator[str]:
    """Yields the sentence, or parts of at most `max_bytes` bytes cut at spaces where it has any."""
    rest = sentence.encode("utf-8")
    while len(rest) > max_bytes:
        end = rest.rfind(b" ", 1, max_bytes + 1)
        if end < 0:
            end = max_bytes
            while rest[end] & 0xC0 == 0x80:  # never inside a character
                end -= 1
        yield rest[:end].decode("utf-8")
        rest = rest[end:].lstrip(b" ")
    if rest:
        yield rest.decode("utf-8")


def _explained(error: RuntimeError, config: TokenizerConfig) -> UserError:
    text = str(error)
    asked = f"tokenizer.vocab_size: {config.vocab_size}"
    if found := _TOO_HIGH.search(text):
        return UserError(
            f"{asked} is more than this corpus has pieces for: set it to at most "
            f"{int(found[1]) + 2}, or give more text"
        )
    if found := _TOO_LOW.search(text):
        return UserError(
            f"{asked} is less than the characters and bytes this corpus needs: set it to at least "
            f"{int(found[1]) + 3}, or lower tokenizer.character_coverage "
            f"({config.character_coverage})"
        )
    if "sentences_.empty()" in text:
        return UserError(
            "tokenizer: no sentence to train on: every document was filtered out, or the corpus "
            "is empty"
        )
    return UserError(
        f"tokenizer: sentencepiece could not train a model: {' '.join(text.split())[:300]}"
    )


@contextlib.contextmanager
def _cores(workers: int) -> Iterator[None]:
    """Holds the threads started inside to `workers` cores, where the system can."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[: max(1, workers)])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
