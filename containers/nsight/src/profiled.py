"""Start a training program; on chosen ranks, Nsight Systems profiles it and writes a report named rank-N.

torchrun starts this file once per process. Other ranks run without the profiler, which would slow them down.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="profiled.py", description=__doc__)
    parser.add_argument(
        "--output-dir", type=Path, default=Path(), metavar="DIR", help="folder of the reports"
    )
    parser.add_argument(
        "--ranks",
        default="0",
        metavar="N,N",
        help="ranks to profile, or all (default: the first)",
    )
    parser.add_argument(
        "--trace", default="cuda,nvtx,osrt", metavar="A,B", help="what is traced (default: %(default)s)"
    )
    parser.add_argument("--delay", type=int, default=30, metavar="S", help="before it starts (default: 30)")
    parser.add_argument("--duration", type=int, default=60, metavar="S", help="that it lasts (default: 60)")
    parser.add_argument("program", help="Python file of the training program")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="its arguments")
    options = parser.parse_args(argv)
    if options.ranks != "all" and not all(text.isdecimal() for text in options.ranks.split(",")):
        parser.error(f"--ranks {options.ranks}: must be numbers with commas between them, or all")
    return options


def command(options: argparse.Namespace, environment: Mapping[str, str]) -> list[str]:
    """Return the command line of this rank."""
    program = [sys.executable, options.program, *options.arguments]
    rank = environment.get("RANK", "0")
    if options.ranks != "all" and rank not in options.ranks.split(","):
        return program
    return [
        *("nsys", "profile", f"--trace={options.trace}", f"--output={options.output_dir}/rank-{rank}"),
        *("--force-overwrite=true", f"--delay={options.delay}", f"--duration={options.duration}"),
        # The program continues after the report is written, and nsys ends with the program's exit code.
        *("--kill=none", "--wait=all", *program),
    ]


def main(argv: Sequence[str]) -> None:
    words = command(parse(argv), os.environ)
    os.execvp(words[0], words)


if __name__ == "__main__":
    main(sys.argv[1:])
