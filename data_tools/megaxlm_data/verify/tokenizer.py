"""The tokenizer beside the shards: the model they were made with, and files that give its ids."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from megaxlm.data.shards import TOKENIZER_DIR, DatasetIndex, tokenizer_path
from megaxlm.data.special_tokens import BOS_TOKEN, EOS_TOKEN, MASK_TOKEN, PAD_TOKEN, UNK_TOKEN
from megaxlm.data.tokenizer import Tokenizer
from megaxlm.errors import UserError
from megaxlm_data.shard_scan import byte_pieces
from megaxlm_data.verify.problem import Problem

# Plain sentences of several scripts. Nothing in them is read in two ways: no literal special
# token, no run of one character that has several best segmentations.
PROBES = (
    "After three days of rain the river rose over the old bridge, and nobody crossed it.",
    "In 2019 she sold 48 baskets for 7.50 each; the rest went to the school.",
    "Après l’école, les élèves jouent près de la fenêtre où le chat dort.",
    "Kesho asubuhi tutapanda miti mipya karibu na kisima cha kijiji.",
    "Утром учительница открыла окно, и в комнату вошёл запах мокрой травы.",
    "Το πρωί ο γείτονας πότισε τις ελιές πίσω από το σπίτι.",
    "في الصباح فتح الجار باب الحديقة وسقى الأشجار.",
    "בבוקר פתח השכן את החלון והקשיב לציפורים.",
    "सुबह बच्चे नदी के किनारे पत्थर इकट्ठा करते हैं।",
    "ตอนเช้าเด็กๆ เดินไปโรงเรียนริมแม่น้ำ",
    "早上孩子们沿着河边走到学校。",
    "朝、子どもたちは川のそばの学校まで歩きます。",
    "아침에 아이들은 강가를 따라 학교까지 걸어갑니다.",
    "ጠዋት ልጆቹ ወደ ትምህርት ቤት ይሄዳሉ።",
)
_SPECIAL = {BOS_TOKEN, PAD_TOKEN, EOS_TOKEN, UNK_TOKEN, MASK_TOKEN}
_REMEDY = "bring it back from a copy; `megaxlm export` would pass on what is there"


def check_tokenizer(
    directory: Path, index: DatasetIndex
) -> tuple[list[Problem], npt.NDArray[np.bool_]]:
    """Checks `DIR/tokenizer/`.

    Returns:
        What is wrong, and which ids are bytes, (vocabulary,): none where the model is not the one
        that the shards were made with.
    """
    path = tokenizer_path(directory)
    name = path.relative_to(directory).as_posix()
    no_bytes = np.zeros(index.vocab_size, np.bool_)
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        return [Problem(name, f"tokenizer cannot be read ({error.strerror})")], no_bytes
    if found != index.tokenizer_sha256:
        what = (
            f"tokenizer changed: SHA-256 {found[:12]}, the shards were made with "
            f"{index.tokenizer_sha256[:12]}"
        )
        return [Problem(name, what)], no_bytes
    try:
        tokenizer = Tokenizer(path)
    except UserError as error:
        return [Problem(name, str(error).removeprefix(f"{path}: "))], no_bytes
    problems = [
        Problem(f"{TOKENIZER_DIR}/{file}", what)
        for file, what in check_hugging_face_files(path.parent, tokenizer)
    ]
    if tokenizer.vocab_size != index.vocab_size:
        what = f"vocab_size {index.vocab_size}, the tokenizer has {tokenizer.vocab_size}"
        return [*problems, Problem("dataset.json", what)], no_bytes
    return problems, byte_pieces(tokenizer)


def check_hugging_face_files(folder: Path, tokenizer: Tokenizer) -> Iterator[tuple[str, str]]:
    """Yields (file, what is wrong) for the files that Hugging Face reads.

    Every piece must have its id, and the probes must get the ids that the model gives. Texts on
    which the two readers are known to differ (see `megaxlm_data.tokenizer.huggingface`) are not
    among the probes.
    """
    yield from _check_tokenizer_json(folder / "tokenizer.json", tokenizer)
    name = "tokenizer_config.json"
    try:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
        special = {content.get(f"{kind}_token") for kind in ("bos", "eos", "unk", "pad")}
    except FileNotFoundError:
        yield name, f"missing: {_REMEDY}"
    except (OSError, ValueError, AttributeError) as error:
        yield name, f"cannot be read ({' '.join(str(error).split())[:120]}): {_REMEDY}"
    else:
        if special != _SPECIAL - {MASK_TOKEN}:
            yield name, f"names other special tokens than the model has: {_REMEDY}"


def _check_tokenizer_json(path: Path, tokenizer: Tokenizer) -> Iterator[tuple[str, str]]:
    from tokenizers import Tokenizer as HuggingFaceTokenizer

    if not path.exists():
        yield path.name, f"missing: {_REMEDY}"
        return
    try:
        other = HuggingFaceTokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        yield path.name, f"cannot be read ({' '.join(str(error).split())[:120]}): {_REMEDY}"
        return
    size = other.get_vocab_size()
    if size != tokenizer.vocab_size:
        yield path.name, f"has {size:,} pieces, the model {tokenizer.vocab_size:,}: {_REMEDY}"
        return
    moved = [i for i in range(size) if other.id_to_token(i) != tokenizer.piece(i)]
    if moved:
        yield (
            path.name,
            f"{len(moved):,} pieces have another id than in the model (first: {moved[0]}): "
            f"{_REMEDY}",
        )
        return
    differ = [
        text
        for text in PROBES
        if other.encode(text, add_special_tokens=False).ids != tokenizer.encode(text)
    ]
    if differ:
        yield (
            path.name,
            f"gives other ids than the model for {len(differ)} of {len(PROBES)} sentences, such as "
            f'"{differ[0]}": {_REMEDY}',
        )
