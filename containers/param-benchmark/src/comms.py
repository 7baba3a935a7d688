"""Benchmark of PyTorch's collectives, with the command line and columns of PARAM's comms.py.

Measures each message size with repeated calls and prints latency and bandwidth of the slowest rank.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from sizes import message_sizes, parse_size
from training.options import EXIT_CODES, end_process, positive_int, run_program

COLLECTIVES = (
    "all_reduce",
    "all_gather",
    "reduce_scatter",
    "all_to_all",
    "broadcast",
    "reduce",
)
DTYPES = ("float32", "float16", "bfloat16", "int32")
SMOKE = {"b": "1K", "e": "64K", "f": 8, "n": 5, "w": 1, "device": "cpu", "c": 1, "timeout_s": 60}


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Measure collectives of PyTorch on all ranks.",
        epilog="Start it with torchrun:\n  torchrun --standalone --nproc-per-node 2 comms.py --smoke\n\n"
        + EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="(default: %(default)s)"
    )
    parser.add_argument("--smoke", action="store_true", help="a few small messages with checked results")
    parser.add_argument(
        "--collective",
        nargs="+",
        choices=COLLECTIVES,
        default=["all_reduce"],
        metavar="NAME",
        help=f"collectives to measure: {', '.join(COLLECTIVES)} (default: all_reduce)",
    )
    parser.add_argument(
        "--data-types", choices=DTYPES, default="float32", help="type of the elements (default: %(default)s)"
    )
    parser.add_argument(
        "--b", "--begin-size", type=parse_size, default="8", metavar="SIZE", help="(default: 8)"
    )
    parser.add_argument(
        "--e", "--end-size", type=parse_size, default="64M", metavar="SIZE", help="(default: 64M)"
    )
    parser.add_argument(
        "--f", "--step-factor", type=positive_int, default=2, metavar="N", help="(default: 2)"
    )
    parser.add_argument(
        "--n", "--num-iters", type=positive_int, default=20, metavar="N", help="(default: 20)"
    )
    parser.add_argument(
        "--w", "--num-warmup-iters", type=positive_int, default=5, metavar="N", help="(default: 5)"
    )
    parser.add_argument("--c", "--check", type=int, choices=(0, 1), default=0, help="check the results")
    parser.add_argument("--json", type=Path, metavar="FILE", help="append a JSON line per measurement")
    parser.add_argument(
        "--timeout-s", type=positive_int, default=600, metavar="S", help="(default: %(default)s)"
    )
    options = parser.parse_args(argv)
    if options.smoke:
        parser.set_defaults(**SMOKE, collective=list(COLLECTIVES))
        options = parser.parse_args(argv)
    if options.f < 2:
        parser.error("--f must be at least 2")
    return options


def main(argv: Sequence[str]) -> int:
    options = parse(argv)

    def start() -> int:
        # Imported late, so that --help and invalid options work without loading PyTorch.
        from collectives import measure
        from training.torch_ranks import connect

        with connect(options) as ranks:
            ranks.say(HEADER)
            for name in options.collective:
                for size in message_sizes(options.b, options.e, options.f):
                    result = measure(name, size, options, ranks)
                    if ranks.is_first:
                        print(format_row(result), flush=True)
                    ranks.together(
                        lambda found=result: write_json(options.json, found, is_first=ranks.is_first)
                    )
        return 0

    return run_program(start)


HEADER = (
    "               collective          size    elements"
    "     p50(us)     p75(us)     p95(us)     min(us)     max(us)   algbw(GB/s)   busbw(GB/s)"
)


def format_row(result: dict[str, object]) -> str:
    times = "".join(f"{result[key]:>12.1f}" for key in ("p50_us", "p75_us", "p95_us", "min_us", "max_us"))
    rates = f"{result['algbw_gb_s']:>14.3f}{result['busbw_gb_s']:>14.3f}"
    name = f"COMMS-RES-{result['collective']}"
    return f"{name:>25}{result['size_bytes']:>14}{result['elements']:>12}{times}{rates}"


def write_json(path: Path | None, result: dict[str, object], *, is_first: bool) -> None:
    if path and is_first:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    end_process(main(sys.argv[1:]))
