"""Runs package manager commands and waits while another program holds the package manager's lock."""

from __future__ import annotations

import threading
import time

from ansible.module_utils.basic import AnsibleModule


def run_when_unlocked(
    module: AnsibleModule, command: list[str], wait_s: float, environment: dict[str, str] | None = None
) -> tuple[int, str, str]:
    """Run a command, retrying while its lock is held by another program; return code, stdout and stderr."""
    pause, end = threading.Event(), time.monotonic() + wait_s
    while True:
        code, output, errors = module.run_command(command, environ_update=environment)
        # apt-get waits for the lock of dpkg but not for the lock of the package lists.
        if code == 0 or "Could not get lock" not in errors or time.monotonic() > end:
            return int(code), str(output), str(errors)
        pause.wait(1)
