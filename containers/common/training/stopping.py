"""Requests to stop: SIGTERM, which launchers send before they end a job."""

import signal
from types import FrameType


class StopRequest:
    """Record of a SIGTERM, kept until the ranks agree to stop after the same step.

    If a rank dies, torchrun also sends SIGTERM to the others. Their next collective then fails, or torchrun
    kills them after --shutdown-timeout, and the restart resumes from the last checkpoint.
    """

    def __init__(self) -> None:
        self.received = False
        signal.signal(signal.SIGTERM, self._record)

    def _record(self, _number: int, _frame: FrameType | None) -> None:
        self.received = True
