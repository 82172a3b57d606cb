"""The tokenizer of a data set: trained here or brought along, and its Hugging Face files.

`DIR/tokenizer/` is written as a whole or not at all:

    sentencepiece.bpe.model     the truth for ids (read by `megaxlm.data.tokenizer`)
    tokenizer.json              the same tokenizer for Hugging Face (see `huggingface`)
    tokenizer_config.json       its class, `XLMRobertaTokenizer`, and special tokens
"""

from megaxlm_data.tokenizer.folder import install_tokenizer, train_tokenizer
from megaxlm_data.tokenizer.huggingface import write_hf_tokenizer
from megaxlm_data.tokenizer.sampling import sampling_quota

__all__ = ["install_tokenizer", "sampling_quota", "train_tokenizer", "write_hf_tokenizer"]
