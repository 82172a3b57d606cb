"""Grows the embeddings of a model to an extended vocabulary.

Rows of the base stay as they are, and that of `<mask>` goes where `<mask>` went. A new row begins
as the mean of the rows of the pieces that the base spelled it with, which is what the model saw
in its place so far (Gee et al. 2022, Fast Vocabulary Transfer). A piece of which the base knows
nothing begins at the mean of all pieces, with noise, so that such rows can be told apart (Hewitt
2021, Initializing New Word Embeddings). Output weight and bias are grown in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from megaxlm.config.pretrain import ModelConfig
from megaxlm.config.vocabulary_extension import VocabularyExtension
from megaxlm.errors import UserError

# Whose first dimension is the vocabulary; the second is there if the embeddings are not tied.
TABLES = ("embeddings.word.weight", "head.decoder.weight", "head.decoder.bias")
_FIRST_PIECE = 4  # ids before are special tokens


def grow_vocabulary(
    parameters: Mapping[str, Tensor],
    config: ModelConfig,
    extension: VocabularyExtension,
    seed: int = 0,
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Returns a model's config and parameters for an extended vocabulary.

    Args:
        parameters: Of the base, by their names in `MaskedLanguageModel`.
        config: Of the base; rows behind its tokenizer's last id are padding and are dropped.
        extension: What the new tokenizer owes to the base's.
        seed: Of the noise.

    Raises:
        UserError: The model has fewer rows than the base of the extension has ids.
    """
    base, size = extension.base_vocab_size, extension.vocab_size
    if (config.vocab_size or 0) < base:
        raise UserError(
            f"the model has {config.vocab_size} rows and the vocabulary that was extended {base} "
            "tokens: extend the tokenizer of this model"
        )
    lengths = torch.tensor([len(parts) for parts in extension.made_of])
    parts = torch.tensor([part for parts in extension.made_of for part in parts], dtype=torch.int64)
    owners = torch.repeat_interleave(torch.arange(len(lengths)), lengths)  # (parts,)
    generator = torch.Generator().manual_seed(seed)
    grown = dict(parameters)
    for name in TABLES:
        if (table := parameters.get(name)) is None:
            continue
        table = table[:base]  # (base, hidden) or (base,)
        new = table.new_zeros(size - base, *table.shape[1:])
        new.index_add_(0, owners, table[parts])
        new /= lengths.clamp(min=1).reshape(-1, *[1] * (table.dim() - 1))
        unknown = lengths == 0
        start = table[_FIRST_PIECE : base - 1].mean(dim=0)
        noise = torch.randn(new[unknown].shape, generator=generator) * config.initializer_range
        new[unknown] = start + (noise if table.dim() > 1 else 0.0)
        grown[name] = torch.cat([table[: base - 1], new, table[base - 1 :]])
    return config.model_copy(update={"vocab_size": size}), grown
