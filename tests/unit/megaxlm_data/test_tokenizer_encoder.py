"""The compiled encoder against sentencepiece: not one id may differ."""

import io
import itertools
import random
import threading

import numpy as np
import pytest
import sentencepiece
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from megaxlm_data import native
from megaxlm_data.pipeline import build
from megaxlm_data.stages.encode import _encoder
from megaxlm_data.tokenizer import encoder as encoder_module
from megaxlm_data.tokenizer.encoder import SentencePieceEncoder, UnigramEncoder, make_encoder
from sentencepiece import sentencepiece_model_pb2 as pb

from megaxlm.config.data_build import DataBuildConfig
from megaxlm.data.tokenizer import Tokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 1, 2, 3, 4, 5
pytestmark = pytest.mark.skipif(native.find_compiler() is None, reason="no C++ compiler here")

LAYOUT = {
    "unk_id": 0,
    "bos_id": 1,
    "eos_id": 2,
    "pad_id": -1,
    "num_threads": 1,
    "minloglevel": 2,
    "hard_vocab_limit": False,
}
TRAINED = {
    "bytes": {"byte_fallback": True, "vocab_size": 700},
    "plain": {"vocab_size": 400},
    "tiny": {"vocab_size": 120, "character_coverage": 0.98},
    "nfkc": {"normalization_rule_name": "nfkc", "vocab_size": 400},
    "nfkc_cf": {"normalization_rule_name": "nmt_nfkc_cf", "vocab_size": 400},
    "identity": {"normalization_rule_name": "identity", "vocab_size": 400},
    "across_spaces": {"split_by_whitespace": False, "vocab_size": 500},
    "suffix": {"treat_whitespace_as_suffix": True, "vocab_size": 400},
    "all_spaces": {"remove_extra_whitespaces": False, "vocab_size": 400},
    "no_prefix": {"add_dummy_prefix": False, "vocab_size": 400, "byte_fallback": True},
    "symbols": {
        "user_defined_symbols": ["<sep>", "ab", "a", "abc", "e\u0301", "\u2581x", "\uff21", "ﬁ"],
        "vocab_size": 400,
    },
    "symbol_with_space": {"user_defined_symbols": ["a b", "x"], "vocab_size": 400},
}
BY_PARTS = {"bytes", "plain", "tiny", "nfkc", "nfkc_cf", "identity", "symbols"}

NASTY = [
    *" \t\n\r\x00\x01\x7f\u0085\u00a0\u00ad\u1680\u2003\u2028\u200b\u200d\u202f\u2581\u2582\u3000",
    *"\ufeff\ufffd\ufffe\uffff\U0001f642\U0001f1e9\U000e0001\U0010ffff\ue000",
    *"e\u0301\u0323\u1100\u1161\u11a8가각\u0915\u093c\u3099か\uff76\uff9e，。ＡﬁﷺÅ\u212b½…\u00b4\u2025",
    *"<s> </s> <unk> <mask> <0x41> <0xE2> <sep>".split(),
    *["  ", " \u2581", "\u2581\u2581", "\u2581 ", "a b", "ab", "abc", "x y", "http://a.b/c?d=1"],
]


@pytest.fixture(scope="module")
def sentences(make_lines):
    words = ["ab abc", "e\u0301tude", "<sep>", "\uff21bc", "ﬁne", "がき", "कि", "가각"]
    rng = random.Random(0)
    mixed = [" ".join(rng.choices(words, k=5)) for _ in range(100)]
    return [line for lang in ("en", "ru", "hi") for line in make_lines(lang, 150, 0)] + mixed


@pytest.fixture(scope="module")
def trained(tmp_path_factory, sentences):
    """Returns (tokenizer, encoder) of a model of TRAINED, trained once."""
    folder, made = tmp_path_factory.mktemp("models"), {}

    def get(name):
        if name not in made:
            model = io.BytesIO()
            sentencepiece.SentencePieceTrainer.Train(
                sentence_iterator=iter(sentences), model_writer=model, **LAYOUT, **TRAINED[name]
            )
            made[name] = pair(folder / f"{name}.model", model.getvalue())
        return made[name]

    return get


def pair(path, content):
    path.write_bytes(content)
    tokenizer = Tokenizer(path)
    encoder = make_encoder(tokenizer)
    assert isinstance(encoder, UnigramEncoder), encoder.description
    return tokenizer, encoder


def assert_same(tokenizer, encoder, texts):
    values, offsets = encoder.encode_flat(texts)
    true_values, true_offsets = tokenizer.encode_flat(texts)
    assert values.dtype == true_values.dtype and offsets.dtype == true_offsets.dtype
    for row, text in enumerate(texts):
        mine = values[offsets[row] : offsets[row + 1]].tolist()
        truth = true_values[true_offsets[row] : true_offsets[row + 1]].tolist()
        assert mine == truth, ascii(text[:300])
    assert np.array_equal(offsets, true_offsets)


def handmade(path, pieces, normalizer=None, **trainer):
    """Returns (tokenizer, encoder) of a model with the pieces {text: score or (score, type)}."""
    model = pb.ModelProto()
    for name, kind in (("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL)):
        model.pieces.add(piece=name, score=0, type=kind)
    for piece, score in pieces.items():
        score, kind = score if isinstance(score, tuple) else (score, NORMAL)
        model.pieces.add(piece=piece, score=score, type=kind)
    for key, value in {"model_type": 1, **trainer}.items():
        setattr(model.trainer_spec, key, value)
    if normalizer is not None:
        model.normalizer_spec.CopyFrom(normalizer)
    return pair(path, model.SerializeToString())


texts_of = st.lists(
    st.lists(
        st.one_of(
            st.sampled_from(NASTY),
            st.sampled_from([*"abcdeабвгअआइ    "]),
            st.sampled_from(["abc", "word", "где", "कल", " ab", "e", "и"]),
            st.text(st.characters(exclude_categories=["Cs"]), max_size=3),
        ),
        max_size=30,
    ).map("".join),
    max_size=4,
)


@pytest.mark.parametrize("name", TRAINED)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(texts=texts_of)
def test_any_text(trained, name, texts):
    tokenizer, encoder = trained(name)
    assert encoder.by_parts == (name in BY_PARTS)
    assert_same(tokenizer, encoder, texts)


@pytest.mark.parametrize("name", TRAINED)
def test_running_text_over_and_over(trained, sentences, name, make_lines):
    tokenizer, encoder = trained(name)
    fresh = make_lines("en", 50, 9) + make_lines("ru", 50, 9)
    for _ in range(2):  # the second time from the cache
        assert_same(tokenizer, encoder, [*sentences, *fresh, " ".join(sentences)])


@pytest.mark.parametrize("name", ["bytes", "plain", "identity"])
def test_every_character(trained, name):
    tokenizer, encoder = trained(name)
    every = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    # those that rules may touch one by one and in company, the rest by the hundred
    texts = [f"a{c} {c}b" for c in every[:0x3400] + every[0xF000:0xF800]]
    texts += ["".join(every[i : i + 100]) for i in range(0, len(every), 100)]
    assert_same(tokenizer, encoder, texts)


@pytest.mark.parametrize("spaced", [True, False])
@pytest.mark.parametrize("unit", [0.1, 1 / 3, 7.3, 1e-3, 900.7])
def test_ties_up_to_rounding(tmp_path, unit, spaced):
    # every segmentation of a text has the same score but for rounding: only the order of the float
    # additions decides, and with it all the text before; long texts pass the re-basing of sums
    letters = "abc"
    pieces = {"\u2581": -unit} if spaced else {}
    for length in (1, 2, 3, 4):
        for word in itertools.product(letters, repeat=length):
            pieces["".join(word)] = -unit * length
            pieces["\u2581" + "".join(word)] = -unit * (length + 1)
    tokenizer, encoder = handmade(tmp_path / "ties.model", pieces)
    assert encoder.by_parts
    rng = random.Random(unit)
    words = ["".join(rng.choices(letters + "d" * spaced, k=rng.randint(1, 9))) for _ in range(500)]
    texts = [" ".join(rng.choices(words, k=rng.choice([3, 30, 3000]))) for _ in range(40)]
    assert_same(tokenizer, encoder, texts)
    assert_same(tokenizer, encoder, texts[::-1] + ["".join(words), "abcab" * 5000])


def test_near_ties(tmp_path):
    # scores a few roundings apart: which text is decided by the margin and which is not, varies
    rng = random.Random(3)
    pieces = {"\u2581": -2.0}
    for length in (1, 2, 3):
        for word in itertools.product("abc", repeat=length):
            pieces["".join(word)] = -2.0 * length + rng.choice([0, 1, 2, 3]) * 2.0**-20
    tokenizer, encoder = handmade(tmp_path / "near.model", pieces)
    words = ["".join(rng.choices("abc", k=rng.randint(1, 12))) for _ in range(300)]
    for size in (1, 10, 100, 1000, 30_000):
        assert_same(tokenizer, encoder, [" ".join(rng.choices(words, k=size)) for _ in range(5)])


def test_scores_of_any_sign_and_unused_pieces(tmp_path):
    pieces = {"\u2581": 1.5, "a": 3.0, "b": -1.0, "ab": 2.0, "c": (-1.0, UNUSED), "ca": -4.0}
    pieces |= {"aaa": (0.0, USER_DEFINED), "z": 0.0, "\u2581zz": (5.0, UNUSED)}
    tokenizer, encoder = handmade(tmp_path / "signs.model", pieces)
    words = ["aaa", "ab", "ba", "cab", "c", "cc", "zz", "aaab", "daa", "z"]
    rng = random.Random(1)
    texts = [" ".join(rng.choices(words, k=rng.choice([2, 50, 40_000]))) for _ in range(12)]
    assert_same(tokenizer, encoder, texts)


def test_space_that_is_no_piece_joins_unknown_ones(tmp_path):
    tokenizer, encoder = handmade(tmp_path / "unknown.model", {"a": -1.0, "b": -2.0})
    assert_same(tokenizer, encoder, ["a b", "x y z", "  ", "xa yb", "a x", "", "x" * 99])
    assert encoder.encode_flat(["x y"])[0].tolist() == [3]


def test_long_texts(trained):
    tokenizer, encoder = trained("bytes")
    rng = random.Random(2)
    alphabet = "abc деж  अआ\u3000中"
    texts = ["".join(rng.choices(alphabet, k=400_000)), "中" * 100_000, "ab" * 200_000, " " * 10**6]
    assert_same(tokenizer, encoder, texts)


def test_empty_calls_and_what_is_not_text(trained):
    tokenizer, encoder = trained("plain")
    values, offsets = encoder.encode_flat([])
    assert values.tolist() == [] and offsets.tolist() == [0]
    assert_same(tokenizer, encoder, ["", "", " ", ""])
    for wrong in (["a", "\ud800"], ["a", 3]):
        with pytest.raises(TypeError) as mine:
            encoder.encode_flat(wrong)
        with pytest.raises(TypeError) as truth:
            tokenizer.encode_flat(wrong)
        assert str(mine.value) == str(truth.value)


def test_threads_do_not_mix_their_texts(trained, sentences):
    tokenizer, encoder = trained("bytes")
    failures = []

    def work(start):
        for _ in range(20):
            try:
                assert_same(tokenizer, encoder, sentences[start::4])
            except AssertionError as error:
                failures.append(error)

    threads = [threading.Thread(target=work, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_damaged_normalization_rules_are_left_to_sentencepiece(trained, tmp_path):
    tokenizer, _ = trained("plain")
    model = pb.ModelProto.FromString(tokenizer.model_path.read_bytes())
    library = native.load()
    good = model.normalizer_spec.precompiled_charsmap
    model.normalizer_spec.precompiled_charsmap = good[:-1] + b"x"  # the last rule has no end
    assert encoder_module._new_handle(library, model) is None
    model.normalizer_spec.precompiled_charsmap = good[:4] + b"\xff" * 64 + good[68:]
    assert encoder_module._new_handle(library, model) is None
    model.normalizer_spec.precompiled_charsmap = good[:3]
    assert encoder_module._new_handle(library, model) is None


def test_bpe_models_and_disagreement_go_to_sentencepiece(trained, sentences, tmp_path, monkeypatch):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        model_type="bpe",
        vocab_size=400,
        **LAYOUT,
    )
    path = tmp_path / "bpe.model"
    path.write_bytes(model.getvalue())
    tokenizer = Tokenizer(path)
    encoder = make_encoder(tokenizer)
    assert isinstance(encoder, SentencePieceEncoder) and "not a Unigram" in encoder.description
    assert_same(tokenizer, encoder, sentences)
    tokenizer, _ = trained("plain")
    wrong = np.zeros(1, np.uint32), np.zeros(2, np.int64)
    monkeypatch.setattr(UnigramEncoder, "encode_flat", lambda self, texts: wrong)
    encoder = make_encoder(tokenizer)
    assert isinstance(encoder, SentencePieceEncoder) and "disagrees" in encoder.description


def test_shards_do_not_tell_which_encoder_ran(
    tmp_path, make_corpus, build_model, tree_hash, monkeypatch, capsys
):
    (tmp_path / "en.txt").write_text(make_corpus("en", 60))
    (tmp_path / "hi.txt").write_text(make_corpus("hi", 40))
    trees = []
    for switch, said in (("1", "encode: compiled Unigram"), ("0", "encode: sentencepiece (")):
        monkeypatch.setenv(native.DISABLED, switch)
        native.load.cache_clear()
        _encoder.cache_clear()
        config = DataBuildConfig(
            output=tmp_path / f"out{switch}",
            corpora=[{"lang": lang, "paths": [f"{tmp_path}/{lang}.txt"]} for lang in ("en", "hi")],
            tokenizer={"model": build_model},
            shard_tokens=2_000,
            workers=1,
        )
        build(config, progress=True)
        assert capsys.readouterr().err.count(said) == 1
        trees.append(tree_hash(config.output))
    native.load.cache_clear()
    _encoder.cache_clear()
    assert trees[0] == trees[1] and len(trees[0]) > 4
