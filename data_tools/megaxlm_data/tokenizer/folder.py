"""Makes `DIR/tokenizer/` whole or not at all: a folder under a temporary name, then a rename."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from megaxlm.config.data_tokenizer import TokenizerConfig
from megaxlm.config.vocabulary_extension import EXTENSION_NAME
from megaxlm.data.shards import sync_directory, write_atomically
from megaxlm.data.tokenizer import Tokenizer
from megaxlm.errors import UserError
from megaxlm_data.tokenizer.extension import extend_model, pool_size
from megaxlm_data.tokenizer.huggingface import Normalization, write_hf_tokenizer
from megaxlm_data.tokenizer.training import train_model

MODEL_NAME = "sentencepiece.bpe.model"


def train_tokenizer(
    sentences: Iterable[str],
    config: TokenizerConfig,
    out_dir: Path,
    seed: int,
    workers: int,
    normalization: Normalization = "nfkc",
    extremely_large: bool = False,
) -> None:
    """Trains a tokenizer and writes its folder.

    The same sentences in the same order give the same bytes, whatever `workers` is.

    Args:
        sentences: The sample (see `sampling_quota`), normalised as the build normalises.
        config: The `tokenizer` section of the build's config.
        out_dir: `DIR/tokenizer`; replaced if it exists.
        seed: The build's seed.
        workers: CPU cores to use.
        normalization: What the build does to text before it encodes.
        extremely_large: See `train_model`.

    Raises:
        UserError: No sentences, or a vocabulary that does not fit the corpus (the message names
            the size that does).
    """
    content = train_model(sentences, config, seed, workers, extremely_large)
    _write_folder({MODEL_NAME: content}, out_dir, normalization)


def extend_tokenizer(
    model: Path,
    sentences: Iterable[str],
    config: TokenizerConfig,
    out_dir: Path,
    seed: int,
    workers: int,
    normalization: Normalization = "nfkc",
    extremely_large: bool = False,
) -> None:
    """Adds `config.extend.pieces` to a model and writes the folder, with `extension.json`.

    Args:
        model: As for `install_tokenizer`; a Unigram model.
        sentences: A sample of the new languages.
        config: The `tokenizer` section, with `extend`.
        out_dir: `DIR/tokenizer`; replaced if it exists.
        seed: The build's seed.
        workers: CPU cores to use.
        normalization: What the build does to text before it encodes.
        extremely_large: See `train_model`.

    Raises:
        UserError: As `install_tokenizer`; the model is not Unigram, there are no sentences, or
            fewer useful pieces than asked for (the message says how many there are).
        CorruptDataError: The file is not a SentencePiece model.
    """
    assert config.extend is not None
    path = _find_model(model)
    Tokenizer(path)  # the layout check, before anything is trained
    base = path.read_bytes()
    pool = config.model_copy(
        update={"vocab_size": pool_size(config.extend.pieces), "byte_fallback": False}
    )
    learned = train_model(sentences, pool, seed, workers, extremely_large, at_most=True)
    wanted = config.extend
    content, record = extend_model(base, learned, wanted.pieces, path, wanted.share)
    files = {MODEL_NAME: content, EXTENSION_NAME: (record.model_dump_json() + "\n").encode()}
    _write_folder(files, out_dir, normalization)


def install_tokenizer(model: Path, out_dir: Path, normalization: Normalization = "nfkc") -> None:
    """Writes the tokenizer folder of an existing model.

    Args:
        model: A SentencePiece model, or a Hugging Face or tokenizer folder that holds one.
        out_dir: `DIR/tokenizer`; replaced if it exists.
        normalization: What the build does to text before it encodes.

    Raises:
        UserError: No model there, or one of another kind than XLM-R's.
        CorruptDataError: The file is not a SentencePiece model.
    """
    path = _find_model(model)
    Tokenizer(path)  # the layout check, before anything is written
    _write_folder({MODEL_NAME: path.read_bytes()}, out_dir, normalization)


def check_model(model: Path) -> None:
    """Checks that there is a model to build with, before anything is done.

    Raises:
        UserError: No model there, or one of another kind than XLM-R's.
        CorruptDataError: The file is not a SentencePiece model.
    """
    Tokenizer(_find_model(model))


def _find_model(model: Path) -> Path:
    if not model.is_dir():
        return model
    if (model / MODEL_NAME).is_file():
        return model / MODEL_NAME
    found = sorted(model.glob("*.model"))
    if len(found) != 1:
        held = f"{len(found)} of them" if found else "none"
        raise UserError(
            f"{model}: expected one SentencePiece model ({MODEL_NAME}) in this folder, found "
            f"{held}: name the file in tokenizer.model (a tokenizer.json alone will not do)"
        )
    return found[0]


def _write_folder(files: dict[str, bytes], out_dir: Path, normalization: Normalization) -> None:
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    staging = out_dir.with_name(f".{out_dir.name}.{os.getpid()}.tmp")
    old = out_dir.with_name(f".{out_dir.name}.{os.getpid()}.old")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        staging.mkdir()
        for name, content in files.items():
            write_atomically(staging / name, content)
        write_hf_tokenizer(staging / MODEL_NAME, staging, normalization)
        if out_dir.exists():  # a folder cannot be renamed over one that holds files
            os.replace(out_dir, old)
        os.replace(staging, out_dir)
        sync_directory(out_dir.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
