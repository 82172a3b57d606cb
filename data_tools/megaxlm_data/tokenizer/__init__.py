"""The tokenizer of a data set: trained here or brought along, and its Hugging Face files.

`DIR/tokenizer/` is written as a whole or not at all:

    sentencepiece.bpe.model     the truth for ids (read by `megaxlm.data.tokenizer`)
    tokenizer.json              the same tokenizer for Hugging Face (see `huggingface`)
    tokenizer_config.json       its class and special tokens
    extension.json              of an extended one: what it owes to its base (see `extension`)
"""

from megaxlm_data.tokenizer.folder import (
    check_model,
    extend_tokenizer,
    install_tokenizer,
    train_tokenizer,
)
from megaxlm_data.tokenizer.huggingface import write_hf_tokenizer
from megaxlm_data.tokenizer.sampling import sampling_quota

__all__ = [
    "check_model",
    "extend_tokenizer",
    "install_tokenizer",
    "sampling_quota",
    "train_tokenizer",
    "write_hf_tokenizer",
]
