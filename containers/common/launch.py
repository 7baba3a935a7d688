#!/opt/venv/bin/python
"""torchrun of the images: ends with the exit code of the rank that failed first.

PyTorch's own torchrun always ends with 1, and restarts ranks even if their data or options are wrong.
The images install this file as torchrun.
"""

import signal
import sys
from collections.abc import Sequence

from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run

from training.errors import EXPLAINED

_monitor = LocalElasticAgent._monitor_workers


def monitor_workers(agent: LocalElasticAgent, group: WorkerGroup) -> RunResult:
    """Return the state of the ranks; drop the remaining restarts if a rank's exit code is EXPLAINED."""
    result = _monitor(agent, group)
    if any(failure.exitcode in EXPLAINED for failure in result.failures.values()):
        agent._remaining_restarts = 0
    return result


def main(argv: Sequence[str]) -> int:
    LocalElasticAgent._monitor_workers = monitor_workers
    try:
        run(parse_args(argv))
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        if failure.exitcode not in EXPLAINED:
            print(error, file=sys.stderr)
        # A negative code is the number of the signal that ended the rank.
        return failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0


if __name__ == "__main__":
    # Until torchrun installs its own handlers, SIGTERM ends the process with its usual code.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    sys.exit(main(sys.argv[1:]))
