"""Start a training program in several processes on one machine, for frameworks without a launcher.

Sets RANK, WORLD_SIZE, TRAINING_RESTART and the addresses that JAX and TensorFlow expect. If a process
crashes, all are killed and restarted, at most --max-restarts times. On clusters, Slurm starts processes.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import FrameType

from training.errors import EXIT_TERMINATED, EXPLAINED
from training.options import positive_int

TICK_S = 0.05
# Time after a SIGTERM in which programs write a checkpoint.
GRACE_S = 60


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Start a program in several processes on one machine.")
    parser.add_argument(
        "--processes", type=positive_int, default=2, metavar="N", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--max-restarts", type=int, default=0, metavar="N", help="restarts after a crash (default: 0)"
    )
    parser.add_argument("--run-id", default="", metavar="NAME", help="name of the run in the environment")
    parser.add_argument("program", help="the training program, for example train.py")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="arguments of the program")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    options = parse(argv)
    stop = StopRequest()
    for restart in range(options.max_restarts + 1):
        code = run_once(options, restart, stop)
        if code == 0 or code in EXPLAINED or stop.received:
            return code
        print(f"a process ended with exit code {code} (start {restart + 1})", file=sys.stderr, flush=True)
    return code


class StopRequest:
    """Record of a SIGTERM or SIGINT."""

    def __init__(self) -> None:
        self.received = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._record)

    def _record(self, _number: int, _frame: FrameType | None) -> None:
        self.received = True


def run_once(options: argparse.Namespace, restart: int, stop: StopRequest) -> int:
    """Run the processes to their end; return 0, or the exit code of the process that failed first."""
    ports = free_ports(options.processes)
    with ExitStack() as stack:
        processes = [
            stack.enter_context(started(options, environment_of(options, rank, restart, ports)))
            for rank in range(options.processes)
        ]
        deadline = float("inf")
        while True:
            if stop.received and deadline == float("inf"):
                for process in processes:
                    process.send_signal(signal.SIGTERM)
                deadline = time.monotonic() + GRACE_S
            codes = [process.poll() for process in processes]
            failed = [code for code in codes if code]
            if failed and not stop.received:
                return exit_code(failed[0])
            if None not in codes or time.monotonic() > deadline:
                return exit_code(failed[0]) if failed else 0 if None not in codes else EXIT_TERMINATED
            time.sleep(TICK_S)


def exit_code(code: int) -> int:
    """Return the exit code as a shell reports it; a negative `code` is the signal that killed the process."""
    return code if code > 0 else 128 - code


@contextmanager
def started(
    options: argparse.Namespace, environment: Mapping[str, str]
) -> Iterator["subprocess.Popen[bytes]"]:
    """Start a process for the block, and kill it afterwards if it still runs."""
    command = [sys.executable, options.program, *options.arguments]
    # Processes have their own sessions, so that only workers.py gets Ctrl-C and passes it on once.
    process = subprocess.Popen(command, env=dict(environment), start_new_session=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def environment_of(
    options: argparse.Namespace, rank: int, restart: int, ports: Sequence[int]
) -> dict[str, str]:
    addresses = [f"127.0.0.1:{port}" for port in ports]
    return dict(os.environ) | {
        "RANK": str(rank),
        "WORLD_SIZE": str(options.processes),
        "TRAINING_RESTART": str(restart),
        "TRAINING_RUN_ID": options.run_id,
        "JAX_COORDINATOR_ADDRESS": addresses[0],
        "TF_CONFIG": json.dumps(
            {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": rank}}
        ),
    }


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback interface that no process uses."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for free in sockets:
            free.bind(("127.0.0.1", 0))
        return [free.getsockname()[1] for free in sockets]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
