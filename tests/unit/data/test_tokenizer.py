import hashlib
import io
import pickle
import random

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from megaxlm.data.special_tokens import EOS, PAD, UNK
from megaxlm.data.tokenizer import Tokenizer
from megaxlm.errors import CorruptDataError, UserError

LINES = [
    " ".join(
        random.Random(i).choices("the cat sat on a mat дом стоит у реки 山 水 <tag>".split(), k=7)
    )
    for i in range(300)
]


OPTIONS = {
    "vocab_size": 330,
    "hard_vocab_limit": False,
    "byte_fallback": True,
    "unk_id": 0,
    "bos_id": 1,
    "eos_id": 2,
    "pad_id": -1,
    "num_threads": 1,
    "minloglevel": 2,
}


def train(path, **options):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(LINES), model_writer=model, **(OPTIONS | options)
    )
    path.write_bytes(model.getvalue())
    return path


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    return train(tmp_path_factory.mktemp("model") / "sentencepiece.bpe.model")


@pytest.fixture(scope="module")
def tokenizer(model_path):
    return Tokenizer(model_path)


@pytest.fixture(scope="module")
def bare(model_path):
    return sentencepiece.SentencePieceProcessor(model_file=str(model_path))


def fairseq(ids):
    return [UNK if token == 0 else token + 1 for token in ids]


def test_layout_is_xlm_r(tokenizer, bare, model_path):
    assert tokenizer.vocab_size == bare.GetPieceSize() + 2
    assert [tokenizer.piece(i) for i in range(4)] == ["<s>", "<pad>", "</s>", "<unk>"]
    assert tokenizer.mask_id == tokenizer.vocab_size - 1
    assert tokenizer.piece(tokenizer.mask_id) == "<mask>"
    for token in range(3, bare.GetPieceSize()):
        assert tokenizer.piece(token + 1) == bare.IdToPiece(token)
    assert tokenizer.sha256 == hashlib.sha256(model_path.read_bytes()).hexdigest()
    with pytest.raises(IndexError, match="outside the vocabulary"):
        tokenizer.piece(tokenizer.vocab_size)


@settings(deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), max_size=5))
def test_ids_are_sentencepiece_s_plus_one(tokenizer, bare, texts):
    expected = [fairseq(row) for row in bare.Encode(texts)]
    assert tokenizer.encode_batch(texts) == expected
    assert [tokenizer.encode(text) for text in texts] == expected
    values, offsets = tokenizer.encode_flat(texts)
    assert values.dtype == np.uint32 and offsets.dtype == np.int64
    assert offsets[0] == 0 and offsets[-1] == len(values) and len(offsets) == len(texts) + 1
    assert [values[a:b].tolist() for a, b in zip(offsets, offsets[1:], strict=False)] == expected
    for text, ids in zip(texts, expected, strict=True):
        assert tokenizer.decode(ids) == bare.Decode(bare.Encode(text)).strip(" ")


def test_unknown_without_byte_fallback(tmp_path):
    path = train(tmp_path / "m.model", byte_fallback=False, vocab_size=60)
    ids = Tokenizer(path).encode("the \u0f40\u0f41 cat")
    assert UNK in ids
    assert ids == fairseq(
        sentencepiece.SentencePieceProcessor(str(path)).Encode("the \u0f40\u0f41 cat")
    )


def test_a_bpe_model_is_read_in_the_same_layout(tmp_path):
    path = train(tmp_path / "m.model", model_type="bpe")
    tokenizer = Tokenizer(path)
    bare = sentencepiece.SentencePieceProcessor(model_file=str(path))
    assert tokenizer.encode_batch(LINES) == [fairseq(row) for row in bare.Encode(LINES)]
    assert tokenizer.decode(tokenizer.encode("the cat \U0001f9e0")) == "the cat \U0001f9e0"
    assert tokenizer.piece(tokenizer.mask_id) == "<mask>"


@pytest.mark.parametrize("literal", ["<mask>", "<s>", "</s>", "<pad>", "<unk>", "<0x41>"])
def test_literal_special_tokens_are_text(tokenizer, literal):
    ids = tokenizer.encode(f"the {literal} cat")
    special = {0, PAD, EOS, UNK, tokenizer.mask_id}
    assert not special.intersection(ids)
    assert tokenizer.decode(ids) == f"the {literal} cat"


def test_decode_shows_masks_and_hides_the_frame(tokenizer):
    ids = tokenizer.encode("the cat")
    framed = [0, *ids, tokenizer.mask_id, *tokenizer.encode("山"), EOS, PAD, PAD]
    assert tokenizer.decode(framed) == "the cat <mask> 山"
    assert tokenizer.decode(np.array(ids, dtype=np.uint32)) == "the cat"
    assert tokenizer.decode([]) == ""
    assert tokenizer.decode(tokenizer.encode("\U0001f9e0 ok")) == "\U0001f9e0 ok"
    with pytest.raises(UserError, match="outside the vocabulary"):
        tokenizer.decode([tokenizer.vocab_size])


def test_pickles_as_its_path(tokenizer):
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert len(pickle.dumps(tokenizer)) < 1000
    assert copy.encode(LINES[0]) == tokenizer.encode(LINES[0])


def test_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.model: cannot read"):
        Tokenizer(tmp_path / "none.model")
    with pytest.raises(UserError, match="Is a directory"):
        Tokenizer(tmp_path)


def test_damaged_file_is_named(tmp_path, model_path):
    path = tmp_path / "damaged.model"
    for content in (b"", b"no model at all", model_path.read_bytes()[:2001]):
        path.write_bytes(content)
        with pytest.raises(CorruptDataError, match=r"damaged\.model: not a readable"):
            Tokenizer(path)


def test_other_layouts_are_refused(tmp_path):
    with pytest.raises(UserError, match="<pad>.*--pad_id=-1"):
        Tokenizer(train(tmp_path / "a.model", pad_id=3))
    with pytest.raises(UserError, match="begins with the pieces <pad> <unk> <s>"):
        Tokenizer(train(tmp_path / "b.model", pad_id=0, unk_id=1, bos_id=2, eos_id=3))
    with pytest.raises(UserError, match="holds the piece <mask>"):
        Tokenizer(train(tmp_path / "c.model", user_defined_symbols="<mask>"))
