"""embedding_layer_norm: against float64 truth, within torch, under bad input, and emulated."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
import torch
from emulator.emulate import CSRC, Module, compile_for_emulator
from hypothesis import given, settings
from hypothesis import strategies as st
from megaxlm_kernels.embedding import embedding_layer_norm, embedding_layer_norm_reference
from megaxlm_kernels.library import choose_implementation
from megaxlm_kernels.philox import drop_threshold, dropout_mask, keep_scale
from megaxlm_kernels.testing import (
    EPSILON,
    assert_no_worse_than_eager,
    normals,
    relative_error,
    widened,
)
from torch import Tensor

DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
POINTER = ctypes.c_void_p
EPS, SEED = 1e-5, 77
CHUNK = 64  # rows that one block adds up


class Sum(ctypes.Structure):
    """EmbeddingSum of csrc/embedding.h."""

    _fields_ = [("index", POINTER * 3), ("table", POINTER * 3), ("size", ctypes.c_int64 * 3)]
    _fields_ += [("y", POINTER), ("rows", ctypes.c_int64)]
    _fields_ += [("hidden", ctypes.c_int32), ("dtype", ctypes.c_int32)]


class Gradient(ctypes.Structure):
    """EmbeddingGradient of csrc/embedding.h."""

    _fields_ = [(name, POINTER) for name in ("grad_y", "sorted", "order", "dtable", "partials")]
    _fields_ += [("rows", ctypes.c_int64), ("size", ctypes.c_int64)]
    _fields_ += [("hidden", ctypes.c_int32), ("dtype", ctypes.c_int32)]


class Dropout(ctypes.Structure):
    """RowDropout of csrc/embedding.h, and the Dropout in it."""

    _fields_ = [("x", POINTER), ("y", POINTER), ("rows", ctypes.c_int64)]
    _fields_ += [("hidden", ctypes.c_int32), ("dtype", ctypes.c_int32)]
    _fields_ += [("seed", ctypes.c_int64), ("threshold", ctypes.c_uint32)]
    _fields_ += [("scale", ctypes.c_float), ("places", POINTER)]


@pytest.fixture(scope="module", autouse=True)
def library(builds: Path) -> None:
    assert choose_implementation("cuda", "cpu") == "cuda"


@pytest.fixture(scope="module")
def module(builds: Path) -> Module:
    return compile_for_emulator([CSRC / "embedding.cu"], builds / "emulator")


def zipf_ids(count: int, size: int, seed: int = 0) -> Tensor:
    """Ids as uneven as words: most tokens are of a few, and most words of no token."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(count, generator=generator) ** 4 * size).long()


def make_tables(
    hidden: int, dtype: torch.dtype, absent: tuple[str, ...] = ()
) -> dict[str, Tensor | None]:
    shapes = {"word": (61, hidden), "position": (20, hidden), "language": (3, hidden)}
    shapes |= {"gamma": (hidden,), "beta": (hidden,)}
    return normals(shapes | dict.fromkeys(absent), dtype, 0, {"gamma": 1.0})  # type: ignore[arg-type]


def run(op, tables: dict[str, Tensor | None], count: int, dropout_p: float, **options):
    ids = {"tokens": zipf_ids(count, 61), "positions": zipf_ids(count, 20, 1)}
    if tables["language"] is not None:
        ids["languages"] = zipf_ids(count, 3, 2)
    places = torch.arange(count) * 5 + 2**35
    y = op(**ids, **tables, eps=EPS, dropout_p=dropout_p, seed=SEED, places=places, **options)
    leaves = {name: table for name, table in tables.items() if table is not None}
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(4)).to(y.dtype)
    gradients = torch.autograd.grad(y, list(leaves.values()), grad)
    return {"y": y.detach()} | {f"d{n}": g for n, g in zip(leaves, gradients, strict=True)}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dropout_p", [0.0, 0.1])
@pytest.mark.parametrize("absent", [(), ("language", "gamma", "beta"), ("beta",)])
def test_errs_no_more_than_eager_torch(
    dtype: torch.dtype, dropout_p: float, absent: tuple[str, ...]
) -> None:
    tables = make_tables(48, dtype, absent)
    wide = widened(tables)
    exact = run(embedding_layer_norm_reference, wide, 500, dropout_p)
    eager = run(embedding_layer_norm, tables, 500, dropout_p, implementation="torch")
    fused = run(embedding_layer_norm, tables, 500, dropout_p, implementation="cuda")
    for name, found in fused.items():
        assert_no_worse_than_eager(name, found, eager[name], exact[name])


@settings(max_examples=20, deadline=None)
@given(count=st.integers(0, 300), groups=st.integers(1, 8), dropout_p=st.sampled_from([0.0, 0.3]))
def test_ragged_shapes(count: int, groups: int, dropout_p: float) -> None:
    tables = make_tables(8 * groups, torch.float32)
    wide = widened(tables)
    exact = run(embedding_layer_norm_reference, wide, count, dropout_p)
    fused = run(embedding_layer_norm, tables, count, dropout_p, implementation="cuda")
    for name, found in fused.items():
        torch.testing.assert_close(found.double(), exact[name], rtol=1e-4, atol=1e-4, msg=name)


def kernel_sum(module: Module, pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    first, (rows, hidden) = pairs[0][1], (len(pairs[0][0]), pairs[0][1].shape[1])
    with module.call(2) as call:
        y = call.write("y", rows, hidden, dtype=first.dtype)
        arguments = Sum(y=call.address_of(y), rows=rows, hidden=hidden, dtype=DTYPES[first.dtype])
        for place, (index, table) in enumerate(pairs):
            arguments.index[place] = call.address("index", index)
            arguments.table[place] = call.address("table", table)
            arguments.size[place] = len(table)
        module.launch("megaxlm_embedding_sum_cuda", ctypes.byref(arguments), None)
        return y.clone()


def kernel_gradient(
    module: Module, index: Tensor, grad: Tensor, size: int, multiprocessors: int = 2
) -> Tensor:
    ordered, order = torch.sort(index, stable=True)
    rows, hidden = grad.shape
    with module.call(multiprocessors) as call:
        table = call.write("dtable", size, hidden, dtype=grad.dtype).zero_()
        partials = call.write("partials", -(-rows // CHUNK), 2, hidden, dtype=torch.float32)
        arguments = Gradient(
            grad_y=call.address("grad_y", grad),
            sorted=call.address("sorted", ordered),
            order=call.address("order", order),
            dtable=call.address_of(table),
            partials=call.address_of(partials),
            rows=rows,
            size=size,
            hidden=hidden,
            dtype=DTYPES[grad.dtype],
        )
        module.launch("megaxlm_embedding_gradient_cuda", ctypes.byref(arguments), None)
        return table.clone()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_kernel_that_looks_up(module: Module, dtype: torch.dtype) -> None:
    tables = [table.detach() for table in make_tables(1048, dtype).values()][:3]
    ids = [zipf_ids(19, len(table), seed) for seed, table in enumerate(tables)]
    for count in (1, 2, 3):
        pairs = list(zip(ids, tables, strict=True))[:count]
        exact = sum(table.double()[index] for index, table in pairs)
        found = kernel_sum(module, pairs)
        assert relative_error(found, exact) < torch.finfo(dtype).eps + EPSILON
    ids[1][4], ids[0][7] = 20, -1
    found = kernel_sum(module, list(zip(ids, tables, strict=True)))
    assert found.isnan().all(1).nonzero().flatten().tolist() == [4, 7]
    assert found.isnan().sum() == 2 * 1048


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 3 * CHUNK), min_size=1, max_size=8),
    hidden=st.sampled_from([8, 24]),
    seed=st.integers(0, 1000),
)
def test_the_kernel_that_adds_up(
    module: Module, lengths: list[int], hidden: int, seed: int
) -> None:
    """Words that lie in a chunk, fill it, reach over one end, both, or over several chunks."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randperm(50, generator=generator)[: len(lengths)].sort().values
    index = torch.repeat_interleave(words, torch.tensor(lengths))
    index = index[torch.randperm(len(index), generator=generator)]
    grad = torch.randn(len(index), hidden, generator=generator)
    exact = torch.zeros(50, hidden, dtype=torch.float64).index_add(0, index, grad.double())
    found = kernel_gradient(module, index, grad, 50)
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_of_wide_rows_are_the_same_bits_on_any_device(
    module: Module, dtype: torch.dtype
) -> None:
    index = zipf_ids(230, 9)
    grad = torch.randn(230, 1032, generator=torch.Generator().manual_seed(0)).to(dtype)
    found = kernel_gradient(module, index, grad, 9, 1)
    assert torch.equal(found, kernel_gradient(module, index, grad, 9, 5))
    exact = torch.zeros(9, 1032, dtype=torch.float64).index_add(0, index, grad.double())
    assert relative_error(found, exact) < torch.finfo(dtype).eps + EPSILON


def test_ids_outside_the_table_are_written_nowhere(module: Module) -> None:
    index = torch.tensor([-3] * 70 + [2] * 70 + [9] * 70)
    found = kernel_gradient(module, index, torch.ones(210, 8), 5)
    assert found[2].eq(70).all() and found.sum() == 70 * 8


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_kernel_that_drops(module: Module, dtype: torch.dtype) -> None:
    x = torch.randn(7, 1032, generator=torch.Generator().manual_seed(0)).to(dtype)
    places = torch.arange(7) * 11 + 2**40
    with module.call(2) as call:
        y = call.write("y", 7, 1032, dtype=dtype)
        arguments = Dropout(
            x=call.address("x", x),
            y=call.address_of(y),
            rows=7,
            hidden=1032,
            dtype=DTYPES[dtype],
            seed=SEED,
            threshold=drop_threshold(0.3),
            scale=keep_scale(0.3),
            places=call.address("places", places),
        )
        module.launch("megaxlm_row_dropout_cuda", ctypes.byref(arguments), None)
        keep = dropout_mask(7, 1032, 0.3, SEED, torch.device("cpu"), places)
        expected = torch.where(keep, x.float() * keep_scale(0.3), 0).to(dtype)
        torch.testing.assert_close(y, expected)


def test_opcheck() -> None:
    tables = make_tables(16, torch.float32)
    word, position = (tables[name].detach() for name in ("word", "position"))
    ids = zipf_ids(9, 20)
    ops = torch.ops.megaxlm
    torch.library.opcheck(ops.embedding_sum.default, (ids, word, ids, position, None, None))
    ordered, order = torch.sort(ids, stable=True)
    torch.library.opcheck(ops.embedding_gradient.default, (word[:9], ordered, order, 61))
    torch.library.opcheck(ops.row_dropout.default, (word, 0.2, 5, torch.arange(61)))


@pytest.mark.parametrize("implementation", ["cuda", "torch"])
def test_compiles_whole(implementation: str) -> None:
    tables = make_tables(16, torch.float32)
    ids, positions = zipf_ids(9, 61), zipf_ids(9, 20, 1)

    def loss(word: Tensor, position: Tensor, gamma: Tensor) -> Tensor:
        arguments = (ids, word, positions, position, gamma, None, EPS, 0.2, 5)
        return embedding_layer_norm(*arguments, implementation=implementation).square().sum()

    leaves = [tables[name] for name in ("word", "position", "gamma")]
    expected = torch.autograd.grad(loss(*leaves), leaves)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(compiled(*leaves), leaves)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_gradcheck_of_the_torch_implementation() -> None:
    tables = [table for table in make_tables(8, torch.float64).values()]
    ids, positions, languages = zipf_ids(5, 61), zipf_ids(5, 20, 1), zipf_ids(5, 3, 2)

    def op(word, position, language, gamma, beta):
        arguments = (ids, word, positions, position, gamma, beta, EPS, 0.3, 5)
        return embedding_layer_norm(*arguments, languages=languages, language=language)

    assert torch.autograd.gradcheck(op, tables)


GOOD: dict[str, object] = {
    "tokens": torch.zeros(4, dtype=torch.int64),
    "word": torch.ones(9, 16),
    "positions": torch.zeros(4, dtype=torch.int64),
    "position": torch.ones(5, 16),
    "gamma": torch.ones(16),
    "beta": torch.ones(16),
    "eps": EPS,
}
BAD = [
    ("word", torch.ones(9, 12), "positive multiple of 8"),
    ("word", torch.ones(9), "2 dimensions"),
    ("tokens", torch.zeros(4), "must be int64"),
    ("tokens", torch.tensor([0, 9, 1, 2]), "holds 9, outside its table of 9"),
    ("positions", torch.zeros(3, dtype=torch.int64), "must be .4,., got .3,."),
    ("positions", torch.tensor([0, -1, 1, 2]), "holds -1, outside its table of 5"),
    ("position", torch.ones(5, 8), "must be .5, 16., got .5, 8."),
    ("position", torch.ones(5, 16).half(), "torch.float32 as x is"),
    ("gamma", torch.ones(8), "must be .16,., got .8,."),
    ("gamma", None, "must be given where beta is"),
    ("beta", torch.ones(16, device="meta"), "must be on cpu as x is, is on meta"),
    ("languages", torch.zeros(4, dtype=torch.int64), "and language must both be given"),
    ("places", torch.zeros(3, dtype=torch.int64), "must be .4,., got .3,."),
    ("dropout_p", 1.0, "must be in .0, 1."),
    ("seed", 2**63, "64-bit"),
    ("eps", -1.0, "must not be negative"),
]


@pytest.mark.parametrize("implementation", ["cuda", "torch"])
@pytest.mark.parametrize(("name", "value", "message"), BAD, ids=lambda v: str(v)[:24])
def test_bad_input_is_named(name: str, value: object, message: str, implementation: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} .*{message}") as error:
        embedding_layer_norm(**{**GOOD, name: value}, implementation=implementation)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_the_raw_ops_refuse_what_they_cannot_read() -> None:
    ops, ids, table = torch.ops.megaxlm, torch.zeros(4, dtype=torch.int64), torch.ones(9, 16)
    for arguments in (
        (ids.int(), table, None, None, None, None),
        (ids, table, ids, None, None, None),
        (ids, table, ids, table[:, :8], None, None),
        (ids, table.t(), None, None, None, None),
    ):
        with pytest.raises(RuntimeError):
            ops.embedding_sum(*arguments)
    with pytest.raises(RuntimeError):
        ops.embedding_gradient(table, ids, ids, 9)
    with pytest.raises(RuntimeError):
        ops.row_dropout(table, 1.0, 0, None)
