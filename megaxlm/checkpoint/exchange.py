"""`megaxlm export` and `megaxlm import`: between our checkpoints and Hugging Face folders."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from megaxlm.checkpoint.fragments import WEIGHTS_PREFIX, whole
from megaxlm.checkpoint.hf_tokenizer import TextTokenizer
from megaxlm.checkpoint.manifest import sha256_of
from megaxlm.checkpoint.resolve import (
    SENTENCEPIECE_NAME,
    Source,
    Weights,
    check_tokenizer,
    load_tokenizer,
    load_weights,
)
from megaxlm.checkpoint.writer import CheckpointWriter
from megaxlm.config.vocabulary_extension import EXTENSION_NAME, VocabularyExtension, read_extension
from megaxlm.data.shards import TOKENIZER_DIR, sync_directory
from megaxlm.data.tokenizer import Tokenizer
from megaxlm.errors import EXIT_FOUND_WRONG, UserError
from megaxlm.model.hf import read_hf_folder, write_hf_folder
from megaxlm.model.vocabulary import grow_vocabulary

# What a Hugging Face folder may hold of its tokenizer.
TOKENIZER_FILES = (
    SENTENCEPIECE_NAME,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)


def export_checkpoint(path: Path, out_dir: Path, *, averaged: bool = False) -> None:
    """Writes a checkpoint as a Hugging Face folder: config, safetensors, tokenizer.

    Args:
        path: A run folder (its newest checkpoint) or a checkpoint folder.
        out_dir: Must not exist, or be empty.
        averaged: Exports the moving average of the weights instead of the last ones.

    Raises:
        UserError: The checkpoint, its averages or its tokenizer cannot be found, or `out_dir` is
            taken.
        CorruptDataError: A file of the checkpoint is damaged.
    """
    out_dir = out_dir.absolute()  # `.` has no name to put a hidden one beside
    weights = load_weights(path, averaged=averaged)
    if weights.source.kind == "huggingface":
        raise UserError(f"{path}: already a Hugging Face folder; copy it")
    check_tokenizer(weights)
    files = _tokenizer_files(weights.source.tokenizer_dir)
    write_hf_folder(out_dir, weights.config, weights.parameters, files)


def import_hf(hf_dir: Path, out_dir: Path, tokenizer_dir: Path | None = None) -> None:
    """Writes a published model as a weights-only checkpoint, good for `init_from` and evaluation.

    It is `OUT_DIR/checkpoints/step-00000000/` and `OUT_DIR/tokenizer/`, made under a hidden name
    beside its place and renamed when complete.

    Args:
        hf_dir: A Hugging Face folder of the XLM-R family with safetensors and a tokenizer.
        out_dir: Must not exist, or be empty.
        tokenizer_dir: An extension of the model's tokenizer (`tokenizer.extend` of a data set's
            recipe); the embeddings are grown to it, and it is what `out_dir` holds.

    Raises:
        UserError: The model is of another family, has no tokenizer, or `out_dir` is taken; or
            `tokenizer_dir` holds no extension of its tokenizer.
        CorruptDataError: A file of the folder is damaged.
    """
    out_dir = out_dir.absolute()
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise UserError(f"{out_dir}: already there and not an empty folder; name another")
    config, parameters = read_hf_folder(hf_dir)
    weights = Weights(config, parameters, Source("huggingface", hf_dir, hf_dir), None, {})
    base = load_tokenizer(weights)
    if tokenizer_dir is not None:
        extension = read_extension(tokenizer_dir)
        _check_extension(base, extension, tokenizer_dir, hf_dir)
        config, parameters = grow_vocabulary(parameters, config, extension)
    tokenizer_files = tokenizer_dir or hf_dir
    model_path = tokenizer_files / SENTENCEPIECE_NAME
    shared = {
        "model": config.model_dump(mode="json"),
        "tokenizer_sha256": sha256_of(model_path) if model_path.is_file() else None,
        "imported_from": str(hf_dir),
    }
    partial = out_dir.with_name(f".{out_dir.name}.partial")
    try:
        if partial.exists():  # left by an import that was killed
            shutil.rmtree(partial)
        (partial / TOKENIZER_DIR).mkdir(parents=True)
        for name in TOKENIZER_FILES:
            if (tokenizer_files / name).is_file():
                _copy_synced(tokenizer_files / name, partial / TOKENIZER_DIR / name)
        sync_directory(partial / TOKENIZER_DIR)
        fragments = (whole(WEIGHTS_PREFIX + name, value) for name, value in parameters.items())
        CheckpointWriter(partial).save(0, fragments, {}, shared)
        sync_directory(partial)
        os.replace(partial, out_dir)
        sync_directory(out_dir.parent)
    except OSError as error:
        raise UserError(
            f"{error.filename or out_dir}: cannot be written: {error.strerror}; "
            "make room or name another folder",
            exit_code=EXIT_FOUND_WRONG,
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check_extension(
    base: TextTokenizer, extension: VocabularyExtension, tokenizer_dir: Path, hf_dir: Path
) -> None:
    """Refuses an extension of another tokenizer: every id but that of the mask is compared."""
    extended = Tokenizer(tokenizer_dir / SENTENCEPIECE_NAME)
    if extended.vocab_size != extension.vocab_size:
        raise UserError(
            f"{tokenizer_dir / EXTENSION_NAME}: made for {extension.vocab_size} tokens, the model "
            f"beside it has {extended.vocab_size}; build the tokenizer again"
        )
    sizes = (base.vocab_size, extension.base_vocab_size)
    other = None if sizes[0] == sizes[1] else f"it has {sizes[0]} tokens instead of {sizes[1]}"
    for token in range(0 if other else base.mask_id):
        if base.piece(token) != extended.piece(token):
            other = f"id {token} is {base.piece(token)!r} and not {extended.piece(token)!r}"
            break
    if other:
        raise UserError(
            f"{tokenizer_dir}: is not made from the tokenizer of {hf_dir} ({other}); name that "
            "model in tokenizer.model of the data set's recipe"
        )


def _tokenizer_files(directory: Path) -> list[Path]:
    """Returns what an export copies.

    That is files of known names alone, so that none can replace the weights or bring code along,
    and no links, which may lead out of the run.
    """
    files = [directory / name for name in TOKENIZER_FILES if (directory / name).is_file()]
    for path in files:
        if path.is_symlink():
            raise UserError(f"{path}: a link, not a plain file; put the file itself there")
    return files


def _copy_synced(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    with open(target, "rb") as file:
        os.fsync(file.fileno())
