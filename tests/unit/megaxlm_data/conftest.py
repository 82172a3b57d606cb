"""Small corpora and a small tokenizer for the tests of the build."""

import hashlib
import io
import random
from pathlib import Path

import pytest

ALPHABETS = {
    "en": "abcdefghijklmnopqrstuvwxyz",
    "ru": "абвгдежзийклмнопрстуфхцчшщыэюя",
    "hi": "अआइईउऊएऐओऔकखगघचजटडणतथदधनपफबमयरलव",
}


def _lines(lang: str, count: int, seed: int) -> list[str]:
    rng = random.Random(f"{lang}{seed}")
    words = ["".join(rng.choices(ALPHABETS[lang], k=rng.randint(2, 8))) for _ in range(300)]
    return [" ".join(rng.choices(words, k=rng.randint(4, 14))) for _ in range(count)]


@pytest.fixture(scope="session")
def make_lines():
    """Returns distinct lines of a language: `make_lines(lang, count, seed)`."""
    return _lines


@pytest.fixture(scope="session")
def make_corpus():
    """Returns the text of documents of one to four lines: `make_corpus(lang, documents, seed)`."""

    def make(lang: str, documents: int, seed: int = 0) -> str:
        rng = random.Random(seed)
        lines = iter(_lines(lang, documents * 4, seed))
        texts = ("\n".join(next(lines) for _ in range(rng.randint(1, 4))) for _ in range(documents))
        return "\n\n".join(texts) + "\n"

    return make


@pytest.fixture(scope="session")
def build_model(tmp_path_factory) -> Path:
    """A SentencePiece model of XLM-R's layout over the three alphabets."""
    import sentencepiece

    model = io.BytesIO()
    sentences = [line for lang in ALPHABETS for line in _lines(lang, 400, 0)]
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        model_type="unigram",
        vocab_size=600,
        byte_fallback=False,  # its Hugging Face files take a second of CPU time with it
        normalization_rule_name="nmt_nfkc",
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    path = tmp_path_factory.mktemp("tokenizer") / "sentencepiece.bpe.model"
    path.write_bytes(model.getvalue())
    return path


@pytest.fixture(scope="session")
def tree_hash():
    """Returns {relative path: SHA-256} of every file under a folder, hidden ones included."""

    def hash_tree(directory: Path) -> dict[str, str]:
        return {
            path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(directory.rglob("*"))
            if path.is_file()
        }

    return hash_tree
