"""A training step on the CPU, in real tokens/s, against the way of Hugging Face's `run_mlm`.

    python kernels/benchmarks/benchmark_step_cpu.py

Forward, backward and AdamW (fused), dropout on, fp32, on the same number of threads, of the same
model over the same 250,002 words, on lines whose lengths are log-normal like those of real text
(mean 30 tokens). Four ways to spend a step on the same lines:

- `grouped`: run_mlm's default. Lines are joined and cut into blocks of 512.
- `line by line`: run_mlm's `--line_by_line`. A line is a row, padded to the longest of its batch
  of 8 (the default `per_device_train_batch_size`).
- `packed lines`: ours. Lines lie end to end in rows of 512; each attends to itself.
- `packed rows`: ours with `attend_across_documents`: a row attends to all of itself, so that
  attention costs what it costs `grouped`.

Both of run_mlm's go through `DataCollatorForLanguageModeling(mlm_probability=0.15)` and
`XLMRobertaForMaskedLM` with its default attention (SDPA). All four take the same number of real
tokens an optimizer step, over as many micro-batches as fit: a step of run_mlm's default 8 lines
would spend most of its time in AdamW, and that is not what is compared.

Repeats are interleaved; medians of wall time and of CPU time are shown. CPU time is the one to
read on a machine that others use (with OMP_NUM_THREADS=1, as waiting threads spin).

Seen on two quiet cores of a shared AMD EPYC (AVX-512), 2 threads, torch 2.13.0, transformers 5.23,
in real tokens per second of wall time; the default size is that of Multilingual-MiniLM-L12-H384
(3 repeats), the other one that of XLM-R base (`--hidden-size 768 --repeats 1`):

                                     hidden 384    hidden 768
    grouped                             160            72
    line by line                         61            29
    packed lines                        646           237
    packed rows                         523           212
    packed lines / grouped             4.11x         3.30x     target 3
    packed rows / grouped              3.33x         2.96x     same attention
    packed lines / line by line       10.49x         8.03x     target 8

Per CPU second at hidden 768 the ratios are 3.09x and 7.82x. The line-by-line ratio moves with the
lines drawn: one long line pads seven others.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models
from torch import Tensor

from megaxlm.config.pretrain import ModelConfig
from megaxlm.model.encoder import MaskedLanguageModel
from megaxlm.model.hf import to_hf_config, to_hf_state
from megaxlm.model.initialization import initialize

SEQ_LEN = 512
MLM_PROBABILITY = 0.15
LINES_PER_BATCH = 8
MASK_SHARE, RANDOM_SHARE = 0.8, 0.1


def make_lines(num_tokens: int, vocab_size: int, seed: int) -> list[list[int]]:
    """Returns lines `<s> ... </s>` of log-normal length that hold `num_tokens` together."""
    generator = np.random.default_rng(seed)
    lines, left = [], num_tokens
    while left:
        length = int(np.clip(round(generator.lognormal(np.log(30) - 0.32, 0.8)), 3, SEQ_LEN))
        length = left if left - length < 3 else min(length, left)
        words = generator.integers(4, vocab_size - 1, max(0, length - 2)).tolist()
        lines.append([0, *words, 2])
        left -= length
    return lines


def make_collator(vocab_size: int) -> Callable[[list[dict[str, list[int]]]], dict[str, Tensor]]:
    """Returns run_mlm's collator over a tokenizer of that many words."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    words = [*special, *(f"w{index}" for index in range(vocab_size - 5)), "<mask>"]
    vocabulary = models.WordLevel({word: index for index, word in enumerate(words)}, "<unk>")
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(vocabulary),
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
    )
    assert len(tokenizer) == vocab_size
    return transformers.DataCollatorForLanguageModeling(
        tokenizer=tokenizer, mlm_probability=MLM_PROBABILITY
    )


def hf_micro_batches(
    rows: list[list[int]], rows_per_batch: int, collator: Callable[..., dict[str, Tensor]]
) -> Iterator[dict[str, Tensor]]:
    """Yields what the model takes, as run_mlm's data loader does."""
    for start in range(0, len(rows), rows_per_batch):
        features = [
            {
                "input_ids": row,
                "attention_mask": [1] * len(row),
                "special_tokens_mask": [int(token in (0, 2)) for token in row],
            }
            for row in rows[start : start + rows_per_batch]
        ]
        yield dict(collator(features))


def packed_micro_batch(
    lines: list[list[int]], vocab_size: int, whole_rows: bool
) -> tuple[Tensor, ...]:
    """Returns one step's lines as the arguments of our model."""
    tokens = torch.tensor([token for line in lines for token in line])
    ends = np.cumsum([len(line) for line in lines])
    rows = np.arange(SEQ_LEN, tokens.numel() + 1, SEQ_LEN)
    bounds = np.concatenate([[0], rows if whole_rows else np.union1d(ends, rows)])
    lengths = np.diff(bounds)
    positions = torch.from_numpy(np.arange(bounds[-1]) - np.repeat(bounds[:-1], lengths))
    num_targets = round(MLM_PROBABILITY * tokens.numel())
    words = torch.nonzero(tokens >= 4).squeeze(1)
    index = words[torch.randperm(words.numel())[:num_targets]].sort().values
    targets = tokens[index]
    draw = torch.rand(num_targets)
    masked = torch.where(draw < MASK_SHARE, vocab_size - 1, targets)
    random = torch.randint(4, vocab_size - 1, (num_targets,))
    tokens[index] = torch.where(draw >= 1 - RANDOM_SHARE, random, masked)
    cu_seqlens = torch.from_numpy(bounds.astype(np.int32))
    return tokens, positions, cu_seqlens, index, targets, torch.ones(num_targets)


def main() -> None:
    """Measures and prints one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hidden-size", type=int, default=384)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--vocab-size", type=int, default=250_002)
    parser.add_argument("--rows", type=int, default=4, help="rows of 512 tokens a step")
    parser.add_argument("--hf-rows", type=int, default=2, help="rows of a `grouped` micro-batch")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()

    config = ModelConfig(
        vocab_size=arguments.vocab_size,
        hidden_size=arguments.hidden_size,
        num_hidden_layers=arguments.layers,
        num_attention_heads=arguments.heads,
        intermediate_size=4 * arguments.hidden_size,
        max_position_embeddings=SEQ_LEN + 2,
    )
    ours = MaskedLanguageModel(config)
    initialize(ours, config, seed=0)
    ours.train()
    settings = {k: v for k, v in to_hf_config(config).items() if k != "architectures"}
    theirs = transformers.XLMRobertaForMaskedLM(transformers.XLMRobertaConfig(**settings))
    state = {name: parameter.detach() for name, parameter in ours.named_parameters()}
    theirs.load_state_dict(to_hf_state(state, config), strict=False)
    theirs.tie_weights()
    theirs.train()
    optimizers = {
        model: torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
        for model in (ours, theirs)
    }
    collator = make_collator(arguments.vocab_size)
    num_tokens = arguments.rows * SEQ_LEN
    shapes: dict[str, str] = {}

    def hf_step(name: str, rows: list[list[int]], rows_per_batch: int) -> None:
        batches = list(hf_micro_batches(rows, rows_per_batch, collator))
        for batch in batches:
            (theirs(**batch).loss / len(batches)).backward()
        optimizers[theirs].step()
        optimizers[theirs].zero_grad()
        computed = sum(batch["input_ids"].numel() for batch in batches)
        shapes[name] = f"{len(batches)} micro-batches, {computed} tokens computed"

    def grouped(seed: int, num_tokens: int) -> None:
        joined = sum(make_lines(num_tokens, arguments.vocab_size, seed), [])
        rows = [joined[start : start + SEQ_LEN] for start in range(0, num_tokens, SEQ_LEN)]
        hf_step("grouped", rows, arguments.hf_rows)

    def line_by_line(seed: int, num_tokens: int) -> None:
        hf_step("line by line", make_lines(num_tokens, arguments.vocab_size, seed), LINES_PER_BATCH)

    def packed(name: str, seed: int, num_tokens: int) -> None:
        lines = make_lines(num_tokens, arguments.vocab_size, seed)
        batch = packed_micro_batch(lines, arguments.vocab_size, name == "packed rows")
        ours(*batch, SEQ_LEN)[0].backward()
        optimizers[ours].step()
        optimizers[ours].zero_grad()
        shapes[name] = f"1 micro-batch, {num_tokens} tokens computed"

    steps: dict[str, Callable[[int, int], None]] = {
        "grouped": grouped,
        "line by line": line_by_line,
        "packed lines": lambda seed, size: packed("packed lines", seed, size),
        "packed rows": lambda seed, size: packed("packed rows", seed, size),
    }
    wall: dict[str, list[float]] = {name: [] for name in steps}
    cpu: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(-1, arguments.repeats):  # the first is a warm-up of one row
        for name, step in steps.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            step(repeat + 1, SEQ_LEN if repeat < 0 else num_tokens)
            if repeat >= 0:
                wall[name].append(time.perf_counter() - start)
                cpu[name].append(time.process_time() - cpu_start)

    print(
        f"{arguments.layers} layers, hidden {arguments.hidden_size}, vocabulary "
        f"{arguments.vocab_size}, {num_tokens} real tokens a step, "
        f"{torch.get_num_threads()} threads, {arguments.repeats} repeats"
    )
    for name in steps:
        rate = num_tokens / statistics.median(wall[name])
        cpu_rate = num_tokens / statistics.median(cpu[name])
        print(
            f"{name:13} {rate:7.0f} real tokens/s   {cpu_rate:7.0f} per CPU second   {shapes[name]}"
        )
    for one, other, target in (
        ("packed lines", "grouped", "target 3"),
        ("packed rows", "grouped", "same attention"),
        ("packed lines", "line by line", "target 8"),
        ("packed rows", "line by line", ""),
    ):
        ratios = [
            statistics.median(b / a for a, b in zip(times[one], times[other], strict=True))
            for times in (wall, cpu)
        ]
        print(f"{one} / {other:13} wall {ratios[0]:6.2f}x   CPU {ratios[1]:6.2f}x   {target}")


if __name__ == "__main__":
    main()
