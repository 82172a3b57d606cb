"""Writes a SentencePiece model as Hugging Face files that give the same ids.

Three readers have to agree with sentencepiece:

- `AutoTokenizer`, `PreTrainedTokenizerFast` and `tokenizers` itself take `tokenizer.json` as it is:
  the whole pipeline. `tokenizer_config.json` names that class, so that `AutoTokenizer` does not
  rebuild a pipeline of its own.
- Transformers 5's `XLMRobertaTokenizer`, if a program names it, takes only the vocabulary and the
  character map, and builds the rest itself: split at whitespace, a Unigram model *without* byte
  fallback. It cannot read a BPE model.

Unigram. Byte fallback lives in the character map: every character that the vocabulary cannot spell
is mapped to the names of its byte pieces (U+10380 to `<0xF0><0x90><0x8E><0x80>`), and these are
whole pieces of the best score. That holds for every reader, also for those that ignore
`byte_fallback`, and survives `save_pretrained`. It costs 8 MB of `tokenizer.json`.

`tokenizers` applies the map grapheme by grapheme and loses what follows the first rule in one, a
combining mark after a character outside the vocabulary for instance. The pipeline therefore parts
all that is not ASCII with a control character, which ends a grapheme and which the map removes. A
rule for a sequence of characters cannot match then, and need not: NFKC has been done before. For
`nfc` and `none` it has not, so that nothing is parted there.

Sums of scores decide between two segmentations, sentencepiece's in 32 bits, Hugging Face's in 64.
The models that are trained here have scores whose sums are exact in either (see `training`). A
model that was brought along may have near ties (`....` as `...` `.` or `.` `...`).

BPE. Scores are ranks; every way to make a piece of two is a merge of its rank. Where one piece can
be made in two ways at overlapping places sentencepiece takes the left one, Hugging Face the first
in the list; no text in which that shows has been met.

What differs from sentencepiece is then a literal `<mask>`, `<s>`, `</s>`, `<unk>` or `<pad>` in a
text, which is the special token (it must be, to fill a mask; `split_special_tokens=True` makes it
text), and, in a Unigram model, a literal `<0x41>`, which is that byte piece. Of 347,448 lines in
200 languages (12.9 million tokens, vocabulary 64,000, NFKC as the build leaves them) 4 differ, all
by a literal `<unk>` or `<mask>`; of the 14,882 among them that NFKC changes, given raw, 1, by the
same. With BPE 2 of 173,724 do, by a literal `<unk>`. Of every fortieth line, `XLMRobertaTokenizer`
loses a mark in 6 of 43,431, and in 119 of 1,794 that are not NFKC. With the model file alone,
without `tokenizer.json`, it gives `<unk>` for bytes.

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

_UNIGRAM, _BPE = 1, 2  # TrainerSpec.ModelType
_NORMAL, _BYTE = 1, 6  # ModelProto.SentencePiece.Type
_WORD_START = "\u2581"
_SPECIAL = (BOS_TOKEN, PAD_TOKEN, EOS_TOKEN, UNK_TOKEN)
_NEVER = 1_000.0  # further below the lowest score than the pieces of any such name together
# Not before the first character: `tokenizers` cannot remove that one again.
_BESIDE_NOT_ASCII = r"(?<=[\s\S])(?=[^\x00-\x7f])|(?<=[^\x00-\x7f])"
# Both are control characters to the rules for graphemes; the second is no assigned character.
_SEPARATORS = ("\x01", "\U000e0000")

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
        model: A Unigram or BPE model in XLM-R's layout.
        out_dir: An existing folder.
        normalization: What the build does to text before it encodes; the pipeline starts with it,
            so that raw text gets the ids that the trainer saw.

    Raises:
        UserError: The model is neither, or not in XLM-R's layout.
        CorruptDataError: The file is not a SentencePiece model.
    """
    from sentencepiece import sentencepiece_model_pb2 as model_pb2
    from tokenizers import AddedToken, Regex, Tokenizer
    from tokenizers import decoders as de
    from tokenizers import normalizers as no
    from tokenizers.pre_tokenizers import Metaspace
    from tokenizers.processors import TemplateProcessing

    MegaxlmTokenizer(model)  # its layout is as it must be
    proto = model_pb2.ModelProto()  # type: ignore[attr-defined]
    proto.ParseFromString(model.read_bytes())
    kind = proto.trainer_spec.model_type
    if kind not in (_UNIGRAM, _BPE):
        raise UserError(
            f"{model}: neither a Unigram nor a BPE model: train it with --model_type=unigram"
        )
    tokenizer = Tokenizer(_unigram(proto) if kind == _UNIGRAM else _bpe(proto))

    charsmap, separator = _charsmap(proto, parted=normalization == "nfkc")
    first: dict[str, list[Any]] = {"nfkc": [no.NFKC()], "nfc": [no.NFC()], "none": []}
    parted = [no.Replace(Regex(_BESIDE_NOT_ASCII), separator)] if separator else []
    tokenizer.normalizer = no.Sequence(
        [
            *first[normalization],
            *parted,
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
    tokenizer.add_special_tokens([*_SPECIAL, mask])
    write_atomically(out_dir / "tokenizer.json", tokenizer.to_str().encode())
    write_atomically(out_dir / "tokenizer_config.json", _tokenizer_config())


def _unigram(proto: Any) -> Any:
    from tokenizers.models import Unigram

    learned = [(piece.piece, piece.score) for piece in proto.pieces[3:]]
    # No path may take a special token's name for text, also where it is not split off before.
    never = min(score for _, score in learned) - _NEVER
    special = [(token, never) for token in _SPECIAL]
    vocabulary = [*special, *learned, (MASK_TOKEN, never)]
    return Unigram(vocabulary, unk_id=UNK, byte_fallback=_has_bytes(proto))


def _bpe(proto: Any) -> Any:
    from tokenizers.models import BPE

    pieces = [*_SPECIAL, *(piece.piece for piece in proto.pieces[3:]), MASK_TOKEN]
    ids = {piece: number for number, piece in enumerate(pieces)}
    ranked = [piece for piece in proto.pieces if piece.type == _NORMAL and len(piece.piece) > 1]
    ranked.sort(key=lambda piece: -piece.score)
    merges = [
        (text[:cut], text[cut:])
        for text in (piece.piece for piece in ranked)
        for cut in range(1, len(text))
        if text[:cut] in ids and text[cut:] in ids
    ]
    return BPE(ids, merges, unk_token=UNK_TOKEN, fuse_unk=True, byte_fallback=_has_bytes(proto))


def _has_bytes(proto: Any) -> bool:
    return any(piece.type == _BYTE for piece in proto.pieces)


def _tokenizer_config() -> bytes:
    mask = {"__type": "AddedToken", "content": MASK_TOKEN, "lstrip": True, "normalized": False}
    mask |= {"rstrip": False, "single_word": False, "special": True}
    content = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        "bos_token": BOS_TOKEN,
        "cls_token": BOS_TOKEN,
        "eos_token": EOS_TOKEN,
        "sep_token": EOS_TOKEN,
        "unk_token": UNK_TOKEN,
        "pad_token": PAD_TOKEN,
        "mask_token": mask,
    }
    return (json.dumps(content, indent=2) + "\n").encode()


def _charsmap(proto: Any, parted: bool) -> tuple[bytes, str]:
    """Returns the model's character map with byte fallback as further rules, and the separator.

    Without a map there is nothing to part for, and the separator is empty.
    """
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2 as model_pb2

    original = bytes(proto.normalizer_spec.precompiled_charsmap)
    in_map = proto.trainer_spec.model_type == _UNIGRAM and _has_bytes(proto)
    if not original and not in_map:
        return b"", ""
    sentencepiece.set_min_log_level(2)
    rules: dict[str, str] = {}
    if original:
        normalizer = sentencepiece.SentencePieceNormalizer(
            normalizer_spec=proto.normalizer_spec.SerializeToString()
        )
        rules = dict(normalizer.Decompile())
    separator = ""
    if parted:
        separator = _SEPARATORS[0 if rules.get(_SEPARATORS[0]) == "" else 1]
    extended = _with_bytes(proto, rules) if in_map else dict(rules)
    if separator:
        extended[separator] = ""
    if extended == rules:
        return original, separator
    compiled = sentencepiece.SentencePieceNormalizer(norm_map=list(extended.items()))
    spec = model_pb2.NormalizerSpec()  # type: ignore[attr-defined]
    spec.ParseFromString(compiled.serialized_normalizer_spec())
    return bytes(spec.precompiled_charsmap), separator


def _with_bytes(proto: Any, rules: dict[str, str]) -> dict[str, str]:
    """Returns the rules with a further one for each character that the vocabulary lacks."""
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
    return extended
