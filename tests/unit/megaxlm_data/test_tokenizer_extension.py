import hashlib
import io
import random

import pytest
import sentencepiece
from megaxlm_data.tokenizer import extend_tokenizer, install_tokenizer
from megaxlm_data.tokenizer.extension import extend_model
from megaxlm_data.tokenizer.training import train_model

from megaxlm.config.data_tokenizer import TokenizerConfig
from megaxlm.config.vocabulary_extension import EXTENSION_NAME, read_extension
from megaxlm.data.tokenizer import Tokenizer
from megaxlm.errors import CorruptDataError, UserError

MODEL = "sentencepiece.bpe.model"
OLD = "the boat crosses a wide lake while small birds sing over the calm water at dawn".split()
# An invented language with its own words in known letters, and one in letters of its own.
SYLLABLES = "kum ba lu tsi ra ke won fa le mu be kit su ha mo ri".split()
NEW = ["".join(random.Random(seed).choices(SYLLABLES, k=4)) for seed in range(40)]
GEORGIAN = "ტბაზე ნავი მიცურავს პატარა ჩიტები მღერიან წყალი წყნარია გათენებისას".split()
CONFIG = TokenizerConfig(model="base", extend={"pieces": 60})


def lines(words, count, seed=0):
    rng = random.Random(seed)
    return [" ".join(rng.choices(words, k=rng.randint(4, 9))) for _ in range(count)]


def base_model(path, **options):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(lines([*OLD, *"fklmnoprstuw"], 600)),
        model_writer=model,
        **{
            "vocab_size": 90,
            "hard_vocab_limit": False,
            "normalization_rule_name": "nmt_nfkc",
            "pad_id": -1,
            "num_threads": 1,
            "minloglevel": 2,
        }
        | options,
    )
    path.write_bytes(model.getvalue())
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return base_model(tmp_path_factory.mktemp("base") / MODEL)


@pytest.fixture(scope="module")
def extended(base):
    out = base.parent / "extended"
    extend_tokenizer(base, lines(NEW + GEORGIAN, 500), CONFIG, out, seed=0, workers=1)
    return out


def test_every_id_but_that_of_the_mask_stays(base, extended):
    before, after = Tokenizer(base), Tokenizer(extended / MODEL)
    assert after.vocab_size == before.vocab_size + 60
    for token in range(before.mask_id):
        assert after.piece(token) == before.piece(token)
    assert after.piece(after.mask_id) == "<mask>" == before.piece(before.mask_id)
    new = [after.piece(token) for token in range(before.mask_id, after.mask_id)]
    assert len(set(new)) == 60
    assert not set(new) & {before.piece(token) for token in range(before.vocab_size)}


def test_new_languages_take_fewer_tokens_and_old_text_stays_as_it_was(base, extended):
    before, after = Tokenizer(base), Tokenizer(extended / MODEL)
    old, new = lines(OLD, 200, seed=1), lines(NEW, 200, seed=1)
    georgian = lines(GEORGIAN, 50, seed=1)
    assert after.encode_batch(old) == before.encode_batch(old)
    tokens = [sum(map(len, tokenizer.encode_batch(new))) for tokenizer in (before, after)]
    assert tokens[1] < 0.6 * tokens[0]
    unknown = [
        sum(row.count(3) for row in tokenizer.encode_batch(georgian))
        for tokenizer in (before, after)
    ]
    assert unknown[0] > 0 and unknown[1] == 0


def test_the_record_says_what_each_new_piece_was_made_of(base, extended):
    before, after = Tokenizer(base), Tokenizer(extended / MODEL)
    record = read_extension(extended)
    assert record.base_sha256 == hashlib.sha256(base.read_bytes()).hexdigest()
    assert (record.base_vocab_size, record.vocab_size) == (before.vocab_size, after.vocab_size)
    assert record.moved == {before.mask_id: after.mask_id}
    spelled = 0
    for number, parts in enumerate(record.made_of):
        piece = after.piece(before.mask_id + number)
        text = "".join(map(before.piece, parts))
        if "ა" <= piece[-1] <= "ჰ":
            assert text in ("", "\u2581")
        else:
            assert text == piece
            assert len(parts) > 1
            spelled += 1
    assert spelled >= 25


def test_scores_lie_on_the_scale_of_the_base(base, extended):
    processors = [
        sentencepiece.SentencePieceProcessor(model_file=str(path))
        for path in (base, extended / MODEL)
    ]
    old, new = ([p.GetScore(i) for i in range(3, p.GetPieceSize())] for p in processors)
    assert new[: len(old)] == old
    assert min(new) == min(old)
    assert max(new[len(old) :]) < max(old)


def test_a_smaller_share_scores_new_pieces_lower_and_keeps_more_old_text(base):
    letters = "".join(OLD)  # the new language is made of pieces of the old one's words
    words = [letters[start : start + 4 + start % 4] for start in range(0, 56, 2)]
    learned = train_model(lines(words, 400), TokenizerConfig(vocab_size=10_300), 0, 1, at_most=True)
    before = sentencepiece.SentencePieceProcessor(model_file=str(base))
    old, unchanged, highest = lines(OLD, 300, seed=3), [], []
    for share in (1.0, 1e-2):
        content, record = extend_model(base.read_bytes(), learned, 12, base, share)
        after = sentencepiece.SentencePieceProcessor(model_proto=content)
        pairs = zip(before.Encode(old), after.Encode(old), strict=True)
        unchanged.append(sum(a == b for a, b in pairs))
        first = record.base_vocab_size - 2
        highest.append(max(after.GetScore(i) for i in range(first, first + 12)))
    assert highest[1] < highest[0]
    assert unchanged[1] >= unchanged[0]


def test_hugging_face_reads_the_same_ids(extended):
    from transformers import AutoTokenizer

    truth, reader = Tokenizer(extended / MODEL), AutoTokenizer.from_pretrained(extended)
    assert reader.mask_token_id == truth.mask_id
    for text in lines(OLD + NEW + GEORGIAN, 60, seed=2):
        assert reader(text, add_special_tokens=False)["input_ids"] == truth.encode(text)


def test_an_extended_tokenizer_can_be_extended_and_installed(extended, tmp_path):
    config = TokenizerConfig(model=extended, extend={"pieces": 12})
    words = "ναυτικο λιμανι θαλασσα κυματα νησι".split()
    out = tmp_path / "again"
    extend_tokenizer(extended, lines(words, 200), config, out, seed=0, workers=1)
    assert read_extension(out).base_vocab_size == read_extension(extended).vocab_size
    install_tokenizer(out, tmp_path / "plain")
    assert not (tmp_path / "plain" / EXTENSION_NAME).exists()
    assert Tokenizer(tmp_path / "plain" / MODEL).sha256 == Tokenizer(out / MODEL).sha256


def test_bytes_of_the_base_give_way_to_new_letters(tmp_path):
    base = base_model(tmp_path / MODEL, byte_fallback=True, vocab_size=360)
    out = tmp_path / "out"
    config = TokenizerConfig(model=base, extend={"pieces": 25})
    extend_tokenizer(base, lines(GEORGIAN, 200), config, out, seed=0, workers=1)
    before, after = Tokenizer(base), Tokenizer(out / MODEL)
    text = " ".join(GEORGIAN)
    assert len(after.encode(text)) < 0.3 * len(before.encode(text))
    made_of = read_extension(out).made_of
    assert all(parts for parts in made_of), "bytes are pieces of the base"


def test_more_pieces_than_there_are_names_how_many(base, tmp_path):
    config = TokenizerConfig(model=base, extend={"pieces": 5_000})
    with pytest.raises(UserError, match=r"extend\.pieces: 5000 .* at most (\d+)") as error:
        extend_tokenizer(base, lines(NEW, 300), config, tmp_path / "out", seed=0, workers=1)
    most = int(str(error.value).split("at most ")[1].split(",")[0])
    learned = train_model(
        lines(NEW, 300), config.model_copy(update={"vocab_size": 20_010}), 0, 1, at_most=True
    )
    assert most > 0
    extend_model(base.read_bytes(), learned, 1, base)
    assert list(tmp_path.iterdir()) == []


def test_only_unigram_models_are_extended(tmp_path):
    base = base_model(tmp_path / "bpe.model", model_type="bpe")
    with pytest.raises(UserError, match="not a Unigram model"):
        extend_tokenizer(base, lines(NEW, 200), CONFIG, tmp_path / "out", seed=0, workers=1)


def test_a_damaged_record_is_named(extended, tmp_path):
    with pytest.raises(UserError, match=r"extension\.json: no such file"):
        read_extension(tmp_path)
    good = (extended / EXTENSION_NAME).read_text()
    for bad in ("{", good.replace('"made_of":[[', '"made_of":[[999999,'), good[:-40] + "]]}"):
        (tmp_path / EXTENSION_NAME).write_text(bad)
        with pytest.raises(CorruptDataError, match=r"extension\.json"):
            read_extension(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"extend": {"pieces": 5}}, "name it in `model`"),
        ({"model": "m", "extend": {"pieces": 5}, "model_type": "bpe"}, "Unigram"),
        ({"languages": ["en"], "exclude_languages": ["de"]}, "not both"),
    ],
)
def test_settings_that_contradict_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TokenizerConfig(**settings)
