"""Writes a SentencePiece model as Hugging Face files that give the same ids.

Two readers of `tokenizer.json` have to agree with sentencepiece:

- `tokenizers`, `TokenizersBackend` and Transformers 4 take the file's whole pipeline.
- `XLMRobertaTokenizer` of Transformers 5, which `AutoTokenizer` picks for XLM-R, takes only the
  vocabulary and the character map, and builds the rest itself: split at whitespace, a Unigram
  model *without* byte fallback.

Byte fallback therefore lives in the character map: every character that the vocabulary cannot
spell is mapped to the names of its byte pieces (U+10380 to `<0xF0><0x90><0x8E><0x80>`), and these
are whole pieces of the best score. That holds for every reader, also for those that ignore
`byte_fallback` altogether, and survives `save_pretrained`. It costs 8 MB of `tokenizer.json`.

What still differs from sentencepiece, with the lines that do among 58,970 of 93 languages, NFKC as
the build leaves them (4.2 million tokens, vocabulary 32,000): 15 in all, for each reader.

- 7: a literal `<mask>`, `<s>`, `</s>`, `<unk>` or `<pad>` in a text is the special token (it must
  be, to fill a mask); a literal `<0x41>` is that byte piece.
- 4: ties, two segmentations of equal score: `....` is `...` `.` or `.` `...`.
- 4: a character outside the vocabulary (or U+2581) with a combining mark, five bytes at most
  together: readers apply the map by grapheme and drop the mark.

Raw text that is not NFKC (decomposed accents, unordered marks) adds 36 lines in
`XLMRobertaTokenizer`, which may drop a second mark, and 51 in the whole pipeline, which normalises
first as the build does, so that its ids are those of training. With the model file alone, without
`tokenizer.json`, `XLMRobertaTokenizer` gives `<unk>` for bytes: 2,726 lines.

`XLMRobertaTokenizer.decode` shows byte pieces by name; `megaxlm.data.tokenizer.Tokenizer.decode`
and the whole pipeline put the characters together again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from megaxlm.data.shards import write_atomically
from megaxlm.data.special_tokens import (
    BOS,
    BOS_TOKEN,
    EOS,
    EOS_TOKEN,
    MASK_TOKEN,
    PAD_TOKEN,
    UNK,
    UNK_TOKEN,
)
from megaxlm.data.tokenizer import Tokenizer as MegaxlmTokenizer
from megaxlm.errors import UserError

Normalization = Literal["nfkc", "nfc", "none"]

_UNIGRAM = 1  # TrainerSpec.ModelType
_NORMAL, _BYTE = 1, 6  # ModelProto.SentencePiece.Type
_WORD_START = "\u2581"

# Code points that may fall back on bytes: blocks rather than today's assigned characters, so that
# the file does not depend on Python's Unicode version and next year's emoji are in. Left out:
# surrogates, private use, and NUL, which ends a key.
_FALLBACK_RANGES = (
    range(0x1, 0xD800),
    range(0xF900, 0x1FC00),
    range(0x20000, 0x323B0),
    range(0xE0020, 0xE0080),
    range(0xE0100, 0xE01F0),
)


def write_hf_tokenizer(model: Path, out_dir: Path, normalization: Normalization = "nfkc") -> None:
    """Writes `tokenizer.json` and `tokenizer_config.json` of a SentencePiece model.

    Args:
        model: A Unigram model in XLM-R's layout.
        out_dir: An existing folder.
        normalization: What the build does to text before it encodes; the pipeline starts with it,
            so that raw text gets the ids that the trainer saw.

    Raises:
        UserError: The model is not a Unigram model in XLM-R's layout.
        CorruptDataError: The file is not a SentencePiece model.
    """
    from sentencepiece import sentencepiece_model_pb2 as model_pb2
    from tokenizers import AddedToken, Regex, Tokenizer
    from tokenizers import decoders as de
    from tokenizers import normalizers as no
    from tokenizers.models import Unigram
    from tokenizers.pre_tokenizers import Metaspace
    from tokenizers.processors import TemplateProcessing

    MegaxlmTokenizer(model)  # its layout is as it must be
    proto = model_pb2.ModelProto()  # type: ignore[attr-defined]
    proto.ParseFromString(model.read_bytes())
    if proto.trainer_spec.model_type != _UNIGRAM:
        raise UserError(
            f"{model}: not a Unigram model, which XLMRobertaTokenizer needs: train it with "
            "--model_type=unigram"
        )
    learned = [(piece.piece, piece.score) for piece in proto.pieces[3:]]
    special = (BOS_TOKEN, PAD_TOKEN, EOS_TOKEN, UNK_TOKEN)
    byte_fallback = any(piece.type == _BYTE for piece in proto.pieces)
    vocabulary = [(token, 0.0) for token in special] + learned + [(MASK_TOKEN, 0.0)]
    tokenizer = Tokenizer(Unigram(vocabulary, unk_id=UNK, byte_fallback=byte_fallback))

    first: dict[str, list[Any]] = {"nfkc": [no.NFKC()], "nfc": [no.NFC()], "none": []}
    charsmap = _charsmap(proto, byte_fallback)
    tokenizer.normalizer = no.Sequence(
        [
            *first[normalization],
            *([no.Precompiled(charsmap)] if charsmap else []),
            no.Replace(Regex(" {2,}"), " "),
            no.Replace(Regex("^ | $"), ""),
        ]
    )
    tokenizer.pre_tokenizer = Metaspace(_WORD_START, prepend_scheme="always")
    tokenizer.decoder = de.Sequence(
        [de.Replace(_WORD_START, " "), de.ByteFallback(), de.Fuse(), de.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = TemplateProcessing(
        single=f"{BOS_TOKEN} $A {EOS_TOKEN}",
        pair=f"{BOS_TOKEN} $A {EOS_TOKEN} {EOS_TOKEN} $B {EOS_TOKEN}",
        special_tokens=[(BOS_TOKEN, BOS), (EOS_TOKEN, EOS)],
    )
    # <mask> takes the space before it, as in XLM-R: "is <mask>." is one word and a full stop
    mask = AddedToken(MASK_TOKEN, lstrip=True, normalized=False, special=True)
    tokenizer.add_special_tokens([*special, mask])
    write_atomically(out_dir / "tokenizer.json", tokenizer.to_str().encode())
    write_atomically(out_dir / "tokenizer_config.json", _tokenizer_config())


def _tokenizer_config() -> bytes:
    mask = {"__type": "AddedToken", "content": MASK_TOKEN, "lstrip": True, "normalized": False}
    mask |= {"rstrip": False, "single_word": False, "special": True}
    content = {
        "tokenizer_class": "XLMRobertaTokenizer",
        "bos_token": BOS_TOKEN,
        "cls_token": BOS_TOKEN,
        "eos_token": EOS_TOKEN,
        "sep_token": EOS_TOKEN,
        "unk_token": UNK_TOKEN,
        "pad_token": PAD_TOKEN,
        "mask_token": mask,
    }
    return (json.dumps(content, indent=2) + "\n").encode()


def _charsmap(proto: Any, byte_fallback: bool) -> bytes:
    """Returns the model's character map, with byte fallback as further rules."""
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2 as model_pb2

    original = bytes(proto.normalizer_spec.precompiled_charsmap)
    if not byte_fallback:
        return original
    sentencepiece.set_min_log_level(2)
    rules: dict[str, str] = {}
    if original:
        normalizer = sentencepiece.SentencePieceNormalizer(
            normalizer_spec=proto.normalizer_spec.SerializeToString()
        )
        rules = dict(normalizer.Decompile())
    spelled = {" "}
    for piece in proto.pieces:
        if piece.type == _NORMAL:
            spelled.update(piece.piece)
    bytes_of = [f"<0x{byte:02X}>" for byte in range(256)]

    def as_bytes(text: str) -> str:
        return "".join(
            char if char in spelled else "".join(bytes_of[byte] for byte in char.encode())
            for char in text
        )

    extended = {source: as_bytes(target) for source, target in rules.items()}
    for block in _FALLBACK_RANGES:
        for char in map(chr, block):
            if char not in spelled and char not in rules:
                extended[char] = "".join(bytes_of[byte] for byte in char.encode())
    compiled = sentencepiece.SentencePieceNormalizer(norm_map=list(extended.items()))
    spec = model_pb2.NormalizerSpec()  # type: ignore[attr-defined]
    spec.ParseFromString(compiled.serialized_normalizer_spec())
    return bytes(spec.precompiled_charsmap)
