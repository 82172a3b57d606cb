import io
import itertools
import json
import os
import random
import shutil
import unicodedata

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from megaxlm_data.tokenizer import install_tokenizer, write_hf_tokenizer

from megaxlm.data.tokenizer import Tokenizer
from megaxlm.errors import UserError

WORDS = {
    "latin": "the river runs past small houses été garçon über straße ẹ̀kọ́ 2024 (e-mail) fi",
    "ascii": "by the quick canal, jumping over five wooden boxes.",
    "cyrillic": "река течёт мимо маленьких домов и старого моста",
    "arabic": "النهر يجري بجانب البيوت الصغيرة مدرسة كِتاب",
    "hindi": "नदी छोटे घरों के पास बहती है विद्यालय",
    "chinese": "河流经过小房子 旁边有一座桥 我们在学校读书 。",
    "japanese": "川は小さな家のそばを流れる カタカナ",
    "korean": "강은 작은 집 옆을 흐른다 학교",
    "thai": "แม่น้ำไหลผ่านบ้านหลังเล็ก โรงเรียน",
    "amharic": "ወንዙ በትናንሽ ቤቶች አጠገብ ይፈሳል",
    "tamil": "ஆறு சிறிய வீடுகளின் அருகே ஓடுகிறது கோப்பு",
}


def corpus(count=1500):
    rng = random.Random(0)
    words = [text.split() for text in WORDS.values()]
    return [" ".join(rng.choices(rng.choice(words), k=rng.randint(3, 9))) for _ in range(count)]


def train(path, **options):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(corpus()),
        model_writer=model,
        **{
            "vocab_size": 700,
            "hard_vocab_limit": False,
            "normalization_rule_name": "nmt_nfkc",
            "byte_fallback": True,
            "pad_id": -1,
            "num_threads": 1,
            "minloglevel": 2,
        }
        | options,
    )
    path.write_bytes(model.getvalue())
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    base = tmp_path_factory.mktemp("hf")
    install_tokenizer(train(base / "any.model"), base / "tokenizer")
    return base / "tokenizer"


@pytest.fixture(scope="module")
def truth(folder):
    return Tokenizer(folder / "sentencepiece.bpe.model")


@pytest.fixture(scope="module")
def readers(folder, tmp_path_factory):
    """Every way to read the folder, by name."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from transformers import AutoTokenizer, PreTrainedTokenizerFast, XLMRobertaTokenizer

    auto = AutoTokenizer.from_pretrained(folder)
    saved = tmp_path_factory.mktemp("saved")
    auto.save_pretrained(saved)
    with_config = tmp_path_factory.mktemp("with_config") / "model"
    shutil.copytree(folder, with_config)
    (with_config / "config.json").write_text(json.dumps({"model_type": "xlm-roberta"}))
    return {
        "auto": auto,
        "named": XLMRobertaTokenizer.from_pretrained(folder),
        "beside a model": AutoTokenizer.from_pretrained(with_config),
        "saved again": AutoTokenizer.from_pretrained(saved),
        "whole pipeline": PreTrainedTokenizerFast.from_pretrained(folder),
    }


def ids_of(reader, text):
    return reader(text, add_special_tokens=False)["input_ids"]


def test_the_whole_pipeline_is_read_unless_a_class_is_named(readers):
    named = type(readers["named"]).__name__
    assert named == "XLMRobertaTokenizer"
    for name in ("auto", "beside a model", "saved again"):
        assert type(readers[name]).__name__ != named
        assert readers[name].model_input_names == ["input_ids", "attention_mask"]


def test_ids_and_special_tokens_are_xlm_r_s(readers, truth):
    for reader in readers.values():
        assert (reader.bos_token_id, reader.pad_token_id, reader.eos_token_id) == (0, 1, 2)
        assert (reader.cls_token_id, reader.sep_token_id, reader.unk_token_id) == (0, 2, 3)
        assert reader.mask_token_id == truth.mask_id == len(reader) - 1
        assert len(reader) == truth.vocab_size
        assert reader.convert_ids_to_tokens(range(truth.vocab_size)) == [
            truth.piece(i) for i in range(truth.vocab_size)
        ]


@pytest.mark.parametrize(
    "text",
    [
        *WORDS.values(),
        "",
        " ",
        "  two  spaces   inside and around  ",
        "tab\tnewline\nCRLF\r\nend\n",
        "no-break\u00a0space, ideographic\u3000space, next\u0085line, line\u2028separator",
        "\u2581literal \u2581\u2581word\u2581start",
        "zero\u200bwidth non\u200cjoiner \u0645\u062f\u200c\u0631 \ufeffbom soft\u00adhyphen",
        "rare \u9f98\u9750 and \U00020000\U0002a6d6 ideographs, Linear B \U00010000\U00010001",
        "emoji \U0001f600 \U0001f9d1\u200d\U0001f680 \U0001f1eb\U0001f1f7 and a new one \U0001fae8",
        "Ж ŋ ∑, compatibility \ufb01 \u2460 \uff21\uff22 \u212b \u210c",
        "bytes <0x4 0x41> < 0x41> and <maskx> </ s>",
        "\u00e9t\u00e9 e\u0301te\u0301 garc\u0327on",
    ],
)
def test_ids_equal_sentencepiece_s(readers, truth, text):
    expected = truth.encode(text)
    for name, reader in readers.items():
        assert ids_of(reader, text) == expected, name
        assert reader(text)["input_ids"] == [0, *expected, 2], name
    assert 3 not in expected, "byte fallback leaves nothing unknown"


alphabet = st.sampled_from(
    sorted(set("".join(WORDS.values()))) + list(" \n\t\u2581Жŋ∑龘𐀀\U0001f600")
)


def loses_a_mark(text, spelled):
    """The limit of `XLMRobertaTokenizer`: a mark after what is not in the vocabulary, or mapped."""
    return any(
        (char == "\u2581" or char not in spelled) and unicodedata.category(mark).startswith("M")
        for char, mark in itertools.pairwise(text)
    )


@settings(deadline=None, max_examples=150)
@given(st.text(alphabet, max_size=60))
def test_ids_equal_sentencepiece_s_on_any_build_text(readers, truth, text):
    text = unicodedata.normalize("NFKC", text)
    expected = truth.encode(text)
    names = ["auto", "whole pipeline"]
    if not loses_a_mark(text, set("".join(map(truth.piece, range(260, truth.mask_id))))):
        names.append("named")
    for name in names:
        found = ids_of(readers[name], text)
        if found != expected:  # then only a tie: the same text, the same score
            assert truth.decode(found) == truth.decode(expected), name
            assert score(truth, found) == pytest.approx(score(truth, expected), abs=1e-4), name


@pytest.mark.parametrize(
    "text",
    [
        "\U00010380\u0301 \u0301x \u06dd1 \u0600a \u0b9f\u0bcd\u200d\u0bb7",
        "\u9f98\u0301\u0323 \U0001f1eb\u0301 \u1100\u1161\u11a8\u11a9 \u200d\u2581\u0301\u2581",
        "\u0301 begins with a mark",
        "ends with one \u9f98\u0301",
    ],
)
def test_the_whole_pipeline_keeps_what_follows_an_unknown_character(readers, truth, text):
    text = unicodedata.normalize("NFKC", text)
    expected = truth.encode(text)
    for name in ("auto", "beside a model", "saved again", "whole pipeline"):
        assert ids_of(readers[name], text) == expected, name


def score(truth, ids):
    return sum(truth._processor.GetScore(token) for token in ids)


def test_raw_text_gets_the_ids_of_the_build_s_normalised_text(readers, truth):
    raw = unicodedata.normalize("NFD", "ẹ̀kọ́ 학교 கோப்பு été")
    normalised = unicodedata.normalize("NFKC", raw)
    assert ids_of(readers["whole pipeline"], raw) == truth.encode(normalised)


def test_mask_takes_the_space_before_it(readers, truth):
    expected = [0, *truth.encode("the river"), truth.mask_id, *truth.encode("houses ."), 2]
    for name, reader in readers.items():
        assert reader("the river <mask> houses .")["input_ids"] == expected, name
        assert reader("the river<mask> houses .")["input_ids"] == expected, name


def test_a_literal_special_token_is_special_to_hugging_face_alone(readers, truth):
    for reader in readers.values():
        assert ids_of(reader, "the <unk> river") == [
            *truth.encode("the"),
            3,
            *truth.encode("river"),
        ]
    assert 3 not in truth.encode("the <unk> river")


def test_a_literal_special_token_can_be_text(readers, truth):
    for text in ("the <unk> river", "<s>", "</s> the <pad><mask>"):
        found = readers["auto"](text, add_special_tokens=False, split_special_tokens=True)
        assert found["input_ids"] == truth.encode(text)


def test_pairs_have_xlm_r_s_frame(readers, truth):
    a, b = truth.encode("the river"), truth.encode("река")
    for reader in readers.values():
        assert reader("the river", "река")["input_ids"] == [0, *a, 2, 2, *b, 2]


def test_decoding(readers, truth):
    text = "the river 龘 \U0001f600 ok"
    ids = truth.encode(text)
    assert readers["whole pipeline"].decode([0, *ids, 2], skip_special_tokens=True) == text
    for reader in readers.values():
        shown = reader.decode([0, *truth.encode("the river"), 2], skip_special_tokens=True)
        assert shown == "the river"


def test_unknown_characters_without_byte_fallback(tmp_path):
    install_tokenizer(
        train(tmp_path / "m.model", byte_fallback=False, vocab_size=500), tmp_path / "tokenizer"
    )
    from transformers import AutoTokenizer

    truth = Tokenizer(tmp_path / "tokenizer" / "sentencepiece.bpe.model")
    reader = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    for text in ("the 龘 river", "龘\U0001f600 the", "the\U0001f600"):
        assert ids_of(reader, text) == truth.encode(text)
        assert 3 in truth.encode(text)


def test_a_model_without_a_character_map(tmp_path):
    path = train(tmp_path / "m.model", normalization_rule_name="identity")
    install_tokenizer(path, tmp_path / "tokenizer", "none")
    from transformers import AutoTokenizer

    truth = Tokenizer(path)
    reader = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    for text in ("the  river 龘", *WORDS.values()):
        assert ids_of(reader, text) == truth.encode(text)


def test_files_are_the_same_each_time(folder, tmp_path):
    write_hf_tokenizer(folder / "sentencepiece.bpe.model", tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    assert str(folder.parent) not in (tmp_path / "tokenizer_config.json").read_text()


@pytest.fixture(scope="module", params=[True, False], ids=["bytes", "no bytes"])
def bpe(request, tmp_path_factory):
    from transformers import AutoTokenizer

    base = tmp_path_factory.mktemp("bpe")
    options = {"model_type": "bpe", "byte_fallback": request.param}
    path = train(base / "bpe.model", **options, vocab_size=700 if request.param else 450)
    install_tokenizer(path, base / "tokenizer")
    return Tokenizer(path), AutoTokenizer.from_pretrained(base / "tokenizer"), request.param


def test_a_bpe_model_gives_sentencepiece_s_ids(bpe):
    truth, reader, has_bytes = bpe
    assert reader.mask_token_id == truth.mask_id == len(reader) - 1
    assert reader.convert_ids_to_tokens(range(truth.vocab_size)) == [
        truth.piece(i) for i in range(truth.vocab_size)
    ]
    for text in [*WORDS.values(), *corpus(100), "", "  two  spaces ", "rare \u9f98\u0301\u9750 ok"]:
        assert ids_of(reader, text) == truth.encode(text)
    assert (3 in truth.encode("rare \u9f98")) is not has_bytes
    shown = reader.decode([0, *truth.encode("the river"), 2], skip_special_tokens=True)
    assert shown == "the river"
    if has_bytes:
        assert reader.decode(truth.encode("ok \u9f98")) == "ok \u9f98"


@settings(deadline=None, max_examples=100)
@given(st.text(alphabet, max_size=60))
def test_a_bpe_model_gives_sentencepiece_s_ids_on_any_build_text(bpe, text):
    text = unicodedata.normalize("NFKC", text)
    assert ids_of(bpe[1], text) == bpe[0].encode(text)


def test_a_bpe_model_of_repeated_letters(tmp_path):
    lines = [" ".join("a" * n + "b" * m for n in range(1, 7)) for m in range(5)] * 20
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=24,
        hard_vocab_limit=False,
        pad_id=-1,
        minloglevel=2,
    )
    (tmp_path / "m.model").write_bytes(model.getvalue())
    install_tokenizer(tmp_path / "m.model", tmp_path / "tokenizer")
    from transformers import AutoTokenizer

    truth, reader = (
        Tokenizer(tmp_path / "m.model"),
        AutoTokenizer.from_pretrained(tmp_path / "tokenizer"),
    )
    for length in range(1, 9):
        for letters in itertools.product("ab", repeat=length):
            text = "".join(letters)
            assert ids_of(reader, text) == truth.encode(text), text


def test_a_word_model_is_refused(tmp_path):
    path = train(tmp_path / "word.model", model_type="word", vocab_size=60, byte_fallback=False)
    with pytest.raises(UserError, match="neither a Unigram nor a BPE model"):
        install_tokenizer(path, tmp_path / "tokenizer")
