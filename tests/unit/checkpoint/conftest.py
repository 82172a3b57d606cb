"""Ranks as threads, and small checkpoints to damage."""

import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from megaxlm.checkpoint.fragments import Fragment
from megaxlm.checkpoint.saver import CheckpointSaver
from megaxlm.checkpoint.writer import CheckpointWriter


class ThreadRanks:
    """What torch.distributed gives to processes, for threads: a barrier and an agreement."""

    def __init__(self, world_size: int) -> None:
        self.world_size = world_size
        self._barrier = threading.Barrier(world_size, timeout=60)
        self._votes = [True] * world_size

    def barrier(self) -> None:
        self._barrier.wait()

    def all_ok(self, rank: int) -> Callable[[bool], bool]:
        def agree(ok: bool) -> bool:
            self._votes[rank] = ok
            self._barrier.wait()
            verdict = all(self._votes)
            self._barrier.wait()
            return verdict

        return agree

    def run(self, work: Callable[[int], Any]) -> list[Any]:
        """Runs `work(rank)` on every rank; returns results, an exception being a result."""
        results: list[Any] = [None] * self.world_size

        def call(rank: int) -> None:
            try:
                results[rank] = work(rank)
            except BaseException as error:
                results[rank] = error

        threads = [threading.Thread(target=call, args=(rank,)) for rank in range(self.world_size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results


def save_results(
    run_dir: Path,
    step: int,
    owned: Sequence[Sequence[Fragment]],
    shared: Mapping[str, Any] | None = None,
) -> list[Any]:
    ranks = ThreadRanks(len(owned))

    def work(rank: int) -> Path:
        writer = CheckpointWriter(
            run_dir, rank, len(owned), barrier=ranks.barrier, all_ok=ranks.all_ok(rank)
        )
        return writer.save(step, owned[rank], {"rank": rank}, shared or {"position": step})

    return ranks.run(work)


def cut(name: str, tensor: torch.Tensor, cuts: Sequence[int]) -> list[Fragment]:
    flat = tensor.reshape(-1)
    bounds = sorted({0, flat.numel(), *cuts})
    return [
        Fragment(name, tuple(tensor.shape), low, flat[low:high])
        for low, high in zip(bounds[:-1], bounds[1:], strict=True)
    ]


@pytest.fixture
def thread_ranks() -> type[ThreadRanks]:
    return ThreadRanks


@pytest.fixture
def save_on_ranks() -> Callable[..., list[Any]]:
    """`save_on_ranks(run_dir, step, owned_by_rank, shared=None)`: each rank's path or error."""
    return save_results


@pytest.fixture
def cut_tensor() -> Callable[..., list[Fragment]]:
    """`cut_tensor(name, tensor, cuts)`: fragments between the cuts."""
    return cut


@pytest.fixture
def save_two() -> Callable[[Path, int], Path]:
    """`save_two(run_dir, step)`: a checkpoint of two tensors by two ranks; its values name it."""

    def save(run_dir: Path, step: int) -> Path:
        weight = torch.arange(24, dtype=torch.float32).reshape(4, 6) + step
        first, second = cut("model/w", weight, [10])
        bias = cut("exp_avg/b", torch.full((5,), float(step)), [])
        paths = save_results(run_dir, step, [[first], [second, *bias]])
        assert paths[0] == paths[1] and isinstance(paths[0], Path), paths
        return paths[0]

    return save


SENTENCES = [
    "the small cat sees a big house",
    "a big dog sees the old house",
    "le petit chat voit une grande maison",
    "маленькая кошка видит большой дом",
    "القط الصغير يرى البيت الكبير",
    "小猫看见大房子",
]


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory) -> Path:
    """A tokenizer folder as `data build` writes it."""
    from megaxlm_data.tokenizer.folder import train_tokenizer

    from megaxlm.config.data_tokenizer import TokenizerConfig

    directory = tmp_path_factory.mktemp("data") / "tokenizer"
    config = TokenizerConfig(vocab_size=320, byte_fallback=True)
    train_tokenizer(SENTENCES * 20, config, directory, seed=0, workers=1)
    return directory


@pytest.fixture
def sentences() -> list[str]:
    return SENTENCES


@pytest.fixture
def make_run(tokenizer_dir, tmp_path) -> Callable[..., Path]:
    """`make_run(model_type, **changes)`: a run folder with one checkpoint of a random model."""
    from megaxlm.checkpoint.fragments import whole
    from megaxlm.config.pretrain import ModelConfig
    from megaxlm.data.tokenizer import Tokenizer
    from megaxlm.model.encoder import MaskedLanguageModel
    from megaxlm.model.initialization import initialize

    def make(model_type: str = "xlm-roberta", **changes: Any) -> Path:
        run_dir = tmp_path / "run"
        tokenizer = Tokenizer(tokenizer_dir / "sentencepiece.bpe.model")
        config = ModelConfig(
            model_type=model_type,
            vocab_size=tokenizer.vocab_size,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=24,
            max_position_embeddings=34,
            initializer_range=0.3,
        )
        model = MaskedLanguageModel(config)
        initialize(model, config, seed=3)
        shutil.copytree(tokenizer_dir, run_dir / "tokenizer")
        fragments = []
        for name, parameter in model.named_parameters():
            fragments.append(whole(f"model/{name}", parameter))
            fragments.append(whole(f"exp_avg/{name}", torch.zeros_like(parameter)))
        shared = {
            "model": config.model_dump(mode="json"),
            "tokenizer_sha256": tokenizer.sha256,
            "config": {"data": {"seq_len": 32}},
            **changes,
        }
        CheckpointWriter(run_dir).save(20, fragments, {}, shared)
        return run_dir

    return make


@pytest.fixture
def make_saver(thread_ranks, tmp_path):
    """`make_saver(work, **settings)`: runs `work(rank, saver)` on 2 ranks; also what they said."""

    def run(work, **settings):
        ranks, said = thread_ranks(2), []

        def on_rank(rank):
            saver = CheckpointSaver(
                tmp_path,
                rank,
                2,
                ranks.barrier,
                ranks.all_ok(rank),
                say=lambda line: said.append((rank, line)),
                **settings,
            )
            try:
                return work(rank, saver)
            finally:
                saver.close()

        return ranks.run(on_rank), said

    return run
