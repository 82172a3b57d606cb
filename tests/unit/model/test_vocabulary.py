import pytest
import torch

from megaxlm.config.pretrain import ModelConfig
from megaxlm.config.vocabulary_extension import VocabularyExtension
from megaxlm.errors import UserError
from megaxlm.model.encoder import MaskedLanguageModel
from megaxlm.model.vocabulary import grow_vocabulary

BASE = 20
EXTENSION = VocabularyExtension(
    base_sha256="0" * 64,
    base_vocab_size=BASE,
    vocab_size=BASE + 3,
    moved={BASE - 1: BASE + 2},
    made_of=[[4, 7], [], [5, 5, 9]],
)


def model(vocab_size, tied=True):
    config = ModelConfig(
        vocab_size=vocab_size,
        max_position_embeddings=18,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        tie_word_embeddings=tied,
    )
    torch.manual_seed(0)
    network = MaskedLanguageModel(config)
    parameters = {name: torch.randn_like(p) for name, p in network.named_parameters()}
    return config, parameters


@pytest.mark.parametrize("tied", [True, False])
def test_rows_are_kept_moved_and_made(tied):
    config, parameters = model(BASE, tied)
    grown_config, grown = grow_vocabulary(parameters, config, EXTENSION)
    assert grown_config.vocab_size == BASE + 3
    names = {"embeddings.word.weight", "head.decoder.bias"}
    names |= set() if tied else {"head.decoder.weight"}
    for name, value in parameters.items():
        if name not in names:
            assert grown[name] is value
            continue
        new = grown[name]
        assert torch.equal(new[: BASE - 1], value[: BASE - 1])
        assert torch.equal(new[BASE + 2], value[BASE - 1])
        torch.testing.assert_close(new[BASE - 1], (value[4] + value[7]) / 2)
        torch.testing.assert_close(new[BASE + 1], (2 * value[5] + value[9]) / 3)
        mean = value[4 : BASE - 1].mean(dim=0)
        if name == "head.decoder.bias":
            torch.testing.assert_close(new[BASE], mean)
        else:
            noise = new[BASE] - mean
            assert 0 < noise.abs().max() < 5 * config.initializer_range
    network = MaskedLanguageModel(grown_config)
    network.load_parameters(grown)


def test_the_model_computes_the_same_for_old_text():
    config, parameters = model(BASE)
    grown_config, grown = grow_vocabulary(parameters, config, EXTENSION)
    tokens = torch.tensor([0, 5, 8, BASE - 1, 2])
    moved = torch.where(tokens == BASE - 1, BASE + 2, tokens)
    logits = []
    for settings, values, ids in ((config, parameters, tokens), (grown_config, grown, moved)):
        network = MaskedLanguageModel(settings).eval()
        network.load_parameters(values)
        hidden = network.embeddings(ids, torch.arange(5))
        logits.append(network.head.logits(hidden))
    torch.testing.assert_close(logits[0][:, : BASE - 1], logits[1][:, : BASE - 1])
    torch.testing.assert_close(logits[0][:, -1], logits[1][:, -1])


def test_growing_is_repeatable_and_drops_padding_rows():
    config, parameters = model(BASE + 4)
    first = grow_vocabulary(parameters, config, EXTENSION)[1]
    second = grow_vocabulary(parameters, config, EXTENSION)[1]
    word = first["embeddings.word.weight"]
    assert torch.equal(word, second["embeddings.word.weight"])
    assert word.shape == (BASE + 3, 8)
    assert torch.equal(word[-1], parameters["embeddings.word.weight"][BASE - 1])


def test_a_model_of_fewer_rows_is_refused():
    config, parameters = model(BASE - 1)
    with pytest.raises(UserError, match=f"{BASE - 1} rows .* {BASE} tokens"):
        grow_vocabulary(parameters, config, EXTENSION)
