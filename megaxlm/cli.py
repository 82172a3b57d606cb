"""The one command, `megaxlm`.

Each verb imports what it needs when it runs, so that `megaxlm --help` and `data verify` start in
a fraction of a second. This is the only module that may import `megaxlm_data`, and the only one
that turns exceptions into exit codes: 0 done, 1 the work found something wrong, 2 bad usage or
config, 75 stopped on request and resumable.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from megaxlm import __version__
from megaxlm.errors import EXIT_DONE, EXIT_FOUND_WRONG, KnownTo, UserError
from megaxlm.supervise.arguments import add_arguments as supervise_arguments
from megaxlm.supervise.arguments import launch_command, limits_of, pretrain_arguments

Verb = Callable[[argparse.Namespace], int]


def run() -> None:
    """Runs the command of this process and ends the process with its exit code."""
    code = main()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # A rank has closed all its files and groups by now. Native threads that libraries leave
        # (seen: "terminate called without an active exception") must not change its exit code.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    raise SystemExit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        verb: Verb = arguments.verb
        return verb(arguments)
    except KeyboardInterrupt:
        _say("interrupted")
        return 130
    except BrokenPipeError:  # the reader (`| head`) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE
    except UserError as error:
        if arguments.debug:
            traceback.print_exc()
        _say(str(error), error.known_to)
        return error.exit_code
    except Exception as error:
        if arguments.debug:
            traceback.print_exc()
        if _is_lost_peer(error):
            _say("another rank has ended; its own message says why", "run")
        else:
            _say(_describe(error, arguments.debug), "rank")
        return EXIT_FOUND_WRONG


def _describe(error: Exception, debug: bool) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        reason = error.strerror or text
        if error.errno == errno.ENOSPC:
            reason = "no space left on the device; free some and run the same command again"
        return where + reason
    if type(error).__name__ == "OutOfMemoryError":  # torch's, not imported here
        return (
            "out of GPU memory: lower training.micro_batch_size (training.global_batch_size may "
            "stay), set model.activation_checkpointing: true or raise training.zero_stage"
        )
    more = "" if debug else "; run it again with --debug for the traceback"
    return f"internal error: {type(error).__name__}: {text}{more}"


def _is_lost_peer(error: Exception) -> bool:
    """Whether a collective failed because the process at its other end is gone."""
    if not isinstance(error, RuntimeError):
        return False
    said = str(error)
    # gloo raises plain RuntimeErrors; NCCL and the store have classes of their own.
    signs = ("Connection closed by peer", "Connection reset by peer", "gloo/transport")
    kinds = ("DistBackendError", "DistNetworkError", "DistStoreError")
    return type(error).__name__ in kinds or any(sign in said for sign in signs)


def _say(message: str, known_to: KnownTo = "node") -> None:
    """Prints one error line; of the ranks that know the same, the first one speaks."""
    # Before a launcher is told apart its variables count as they are.
    rank = _number_of("RANK", "SLURM_PROCID", "PMI_RANK", "OMPI_COMM_WORLD_RANK")
    local = _number_of(
        "LOCAL_RANK", "SLURM_LOCALID", "MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK"
    )
    if known_to == "rank" or (rank if known_to == "run" else local) == "0":
        of_rank = "" if rank == "0" else f"rank {rank}: "
        print(f"megaxlm: error: {of_rank}{message}", file=sys.stderr, flush=True)


def _number_of(*names: str) -> str:
    return next((os.environ[name] for name in names if name in os.environ), "0")


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks and logs"
    )
    parser = argparse.ArgumentParser(
        prog="megaxlm",
        description="Train your own cross-lingual encoder from raw multilingual text.",
    )
    parser.set_defaults(debug=False)
    parser.add_argument("--version", action="version", version=f"megaxlm {__version__}")
    parser.add_argument("--debug", action="store_true", help="show tracebacks and logs")
    # DeepSpeed's launcher puts this before the verb; the environment says the same.
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)
    verbs = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(
        group: argparse._SubParsersAction[argparse.ArgumentParser], name: str, verb: Verb, text: str
    ) -> argparse.ArgumentParser:
        added = group.add_parser(name, help=text, description=text, parents=[common])
        added.set_defaults(verb=verb)
        return added

    data = verbs.add_parser("data", help="build, inspect and verify data sets")
    data_verbs = data.add_subparsers(metavar="COMMAND", required=True)

    build = add(data_verbs, "build", _data_build, "Corpora to tokenised Arrow shards.")
    _config_arguments(build, "tokenizer.vocab_size=64000")
    build.add_argument("--rank", type=int, default=0, help="of this host among several, from 0")
    build.add_argument("--world-size", type=int, default=1, help="hosts that share the output")
    dask = "scheduler, or its scheduler file, of a Dask cluster that does the work"
    build.add_argument("--dask", metavar="ADDRESS", help=dask)

    inspect = add(data_verbs, "inspect", _data_inspect, "What each language has in a data set.")
    inspect.add_argument("directory", type=Path, metavar="DIR")
    inspect.add_argument("--alpha", type=float, default=0.3, help="sampling exponent (0.3)")
    inspect.add_argument("--tokens", type=_count, help="training length, for epochs (e.g. 1e9)")
    inspect.add_argument("--json", type=Path, metavar="FILE", help="also write it as JSON")
    page = "also write a page with plots (DIR/report.html); reads the shards"
    inspect.add_argument("--html", metavar="FILE", nargs="?", const="", help=page)

    verify = add(data_verbs, "verify", _data_verify, "Check a data set, every byte of it.")
    verify.add_argument("directory", type=Path, metavar="DIR")
    mend = "make dataset.json again from sound shards if it is lost or damaged"
    verify.add_argument("--repair", action="store_true", help=mend)

    sample = add(data_verbs, "sample", _data_sample, "Write the sample corpus, of any size.")
    sample.add_argument("directory", type=Path, metavar="OUT_DIR")
    sample.add_argument("--languages", default="en,fr,de,es,ru,ar,zh,hi,sw", help="comma list")
    sample.add_argument("--documents", type=int, default=2000, help="a language (2000)")
    sample.add_argument("--pairs", type=int, default=2000, help="a language pair (2000)")
    sample.add_argument("--retrieval", type=int, default=200, help="held-out sentences (200)")
    sample.add_argument("--lexicon", default="full", help="small or full (full)")
    sample.add_argument("--seed", type=int, default=0)

    pretrain = add(verbs, "pretrain", _pretrain, "Train an encoder; resumes if RUN_DIR has begun.")
    _config_arguments(pretrain, "training.max_steps=1000")
    pretrain.add_argument(
        "--deepspeed_config", type=Path, metavar="FILE", help="overrides training.deepspeed_config"
    )
    pretrain.add_argument(
        "--check", action="store_true", help="check all that can be known and train nothing"
    )
    pretrain.add_argument(
        "--processes", type=_count, metavar="N", help="how many are meant; refuses another number"
    )

    supervise = add(verbs, "supervise", _supervise, "Start a launch command until its run is done.")
    supervise_arguments(supervise)

    evaluate = add(verbs, "evaluate", _evaluate, "Measure a run, checkpoint or HF folder.")
    evaluate.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")
    evaluate.add_argument("--task", required=True, choices=["perplexity", "retrieval"])
    evaluate.add_argument("--data", type=Path, metavar="DIR", help="data set, or retrieval files")
    evaluate.add_argument("--pairs", help="retrieval pairs, comma list such as deu-eng (all)")
    evaluate.add_argument("--layer", type=int, help="hidden state to pool, -1 the last")
    evaluate.add_argument("--scoring", choices=["cosine", "margin"], help="the run's, or margin")
    evaluate.add_argument("--limit", type=_count, help="at most this many sentences a pair")
    evaluate.add_argument(
        "--rows", type=_count, help="validation rows a language (the run's, or 64)"
    )
    evaluate.add_argument("--seq-len", type=_seq_len, help="row length (that of the run, else 512)")
    evaluate.add_argument("--json", type=Path, metavar="FILE", help="also write it as JSON")

    export = add(verbs, "export", _export, "Write a Hugging Face folder.")
    export.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")
    export.add_argument("out_dir", type=Path, metavar="OUT_DIR")
    export.add_argument(
        "--weights",
        choices=("model", "ema"),
        default="model",
        help="ema: the moving average that optimizer.ema_decay keeps",
    )

    bring = add(verbs, "import", _import, "Start from a published XLM-R model.")
    bring.add_argument("hf_dir", type=Path, metavar="HF_DIR")
    bring.add_argument("out_dir", type=Path, metavar="OUT_DIR")
    bring.add_argument(
        "--tokenizer",
        type=Path,
        metavar="DIR",
        help="an extension of the model's tokenizer: the embeddings are grown to it",
    )
    return parser


def _config_arguments(parser: argparse.ArgumentParser, example: str) -> None:
    parser.add_argument("config", type=Path, metavar="CONFIG", help="a YAML file")
    parser.add_argument(
        "--set",
        action="extend",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help=f"change a setting, e.g. {example}",
    )


def _count(text: str) -> int:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if value <= 0 or not value.is_integer():  # nor is `inf` or `nan`
        raise argparse.ArgumentTypeError(
            f"{text} is not a positive whole number; give one such as 8 or 1e9"
        )
    return int(value)


def _seq_len(text: str) -> int:
    value = _count(text)
    if value < 8:
        raise argparse.ArgumentTypeError(f"{text} is too short for a row; give at least 8")
    return value


def _write_json(path: Path | None, content: object) -> None:
    if path is not None:
        from megaxlm.data.shards import write_atomically

        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        write_atomically(path, text.encode())


def _data_build(arguments: argparse.Namespace) -> int:
    from megaxlm_data.pipeline import build

    from megaxlm.config.data_build import DataBuildConfig
    from megaxlm.config.load import load_config

    config = load_config(DataBuildConfig, arguments.config, arguments.set)
    build(config, rank=arguments.rank, world_size=arguments.world_size, dask=arguments.dask)
    return EXIT_DONE


def _data_inspect(arguments: argparse.Namespace) -> int:
    from megaxlm_data.inspect import inspect, render

    report = inspect(arguments.directory, alpha=arguments.alpha, tokens=arguments.tokens)
    print(render(report))
    _write_json(arguments.json, json.loads(report.to_json()))
    if arguments.html is not None:
        from megaxlm_data.inspect.page import write_page

        print(f"wrote {write_page(report, arguments.directory, arguments.html)}")
    return EXIT_DONE


def _data_verify(arguments: argparse.Namespace) -> int:
    from megaxlm_data.verify import verdict

    found = verdict(arguments.directory, arguments.repair)
    for line in found.notes:
        print(f"megaxlm: {line}", file=sys.stderr, flush=True)
    for line in found.lines:
        print(line) if found.ok else _say(line)
    return EXIT_DONE if found.ok else EXIT_FOUND_WRONG


def _data_sample(arguments: argparse.Namespace) -> int:
    from megaxlm_data.sample import write_corpus

    write_corpus(
        arguments.directory,
        languages=arguments.languages.split(","),
        documents=arguments.documents,
        pairs=arguments.pairs,
        retrieval=arguments.retrieval,
        seed=arguments.seed,
        lexicon=arguments.lexicon,
    )
    return EXIT_DONE


def _pretrain(arguments: argparse.Namespace) -> int:
    from megaxlm.distributed.parent import follow_launcher
    from megaxlm.distributed.stop_request import StopRequest

    # Early: neither a signal nor a launcher that ends while torch is imported may be missed. A
    # check has nothing to save.
    request = None if arguments.check else StopRequest.listen()
    follow_launcher(request)

    from megaxlm.config.load import load_config
    from megaxlm.config.pretrain import PretrainConfig

    overrides = list(arguments.set)
    if arguments.deepspeed_config is not None:
        overrides.append(f"training.deepspeed_config={arguments.deepspeed_config}")
    config = load_config(PretrainConfig, arguments.config, overrides)

    # torch and DeepSpeed: only for a sound config
    from megaxlm.train.check import check_before_launch, require_processes

    if arguments.check:
        from megaxlm.train.check_summary import summary

        checked, start = check_before_launch(config, arguments.processes, str(arguments.config))
        print(summary(checked, start) + "\nok")
        return EXIT_DONE
    if arguments.processes is not None:
        require_processes(arguments.processes)

    from megaxlm.train.pretrain import pretrain

    return pretrain(config, arguments.debug, request)


def _supervise(arguments: argparse.Namespace) -> int:
    from megaxlm.config.load import load_config
    from megaxlm.config.pretrain import PretrainConfig
    from megaxlm.supervise.preflight import check_launch
    from megaxlm.supervise.supervisor import supervise

    command, run_dir = launch_command(arguments), arguments.run_dir
    if run_dir is None:
        inner = _parser().parse_args(pretrain_arguments(command))
        run_dir = load_config(PretrainConfig, inner.config, inner.set).run_dir
    launch = check_launch(command, strict=arguments.check)
    warning = launch.warning if launch else None
    if warning is not None:
        print(f"megaxlm: {warning}", file=sys.stderr, flush=True)
    if arguments.check:
        print((f"{launch.summary}\n" if launch else "") + "ok")
        return EXIT_DONE
    return supervise(command, run_dir, limits_of(arguments))


def _export(arguments: argparse.Namespace) -> int:
    from megaxlm.checkpoint.exchange import export_checkpoint

    averaged = arguments.weights == "ema"
    export_checkpoint(arguments.checkpoint, arguments.out_dir, averaged=averaged)
    print(f"exported {arguments.checkpoint} to {arguments.out_dir}")
    return EXIT_DONE


def _import(arguments: argparse.Namespace) -> int:
    from megaxlm.checkpoint.exchange import import_hf

    import_hf(arguments.hf_dir, arguments.out_dir, arguments.tokenizer)
    print(f"imported {arguments.hf_dir} to {arguments.out_dir}; use it as init_from")
    return EXIT_DONE


def _evaluate(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from megaxlm.evaluation.command import evaluate

    content, table = evaluate(
        arguments.checkpoint,
        task=arguments.task,
        data=arguments.data,
        pairs=arguments.pairs.split(",") if arguments.pairs else None,
        layer=arguments.layer,
        scoring=arguments.scoring,
        limit=arguments.limit,
        rows=arguments.rows,
        seq_len=arguments.seq_len,
    )
    Console().print(table)
    _write_json(arguments.json, content)
    return EXIT_DONE
