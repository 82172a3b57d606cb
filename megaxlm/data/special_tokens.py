"""XLM-R's special tokens and id layout.

`<s> <pad> </s> <unk>` hold ids 0-3, the SentencePiece pieces follow from 4 (the "fairseq offset"
of one: piece i of the model has id i + 1, its own three control pieces being dropped), and
`<mask>` is the last id of the vocabulary.
"""

BOS, PAD, EOS, UNK = 0, 1, 2, 3
BOS_TOKEN, PAD_TOKEN, EOS_TOKEN, UNK_TOKEN, MASK_TOKEN = "<s>", "<pad>", "</s>", "<unk>", "<mask>"
NUM_LEADING_SPECIAL = 4
FAIRSEQ_OFFSET = 1


def mask_id(vocab_size: int) -> int:
    """Returns the id of `<mask>`: the last one."""
    return vocab_size - 1
