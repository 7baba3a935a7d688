"""Running a package manager that another program may keep waiting."""

from __future__ import annotations

import threading
import time

from ansible.module_utils.basic import AnsibleModule


def run_patiently(
    module: AnsibleModule, command: list[str], wait_s: float, environment: dict[str, str] | None = None
) -> tuple[int, str, str]:
    """Exit code and both outputs; while another program holds a lock, the command is run again."""
    patience, end = threading.Event(), time.monotonic() + wait_s
    while True:
        code, output, errors = module.run_command(command, environ_update=environment)
        # apt waits for the lock of its packages, and for that of its lists it does not.
        if code == 0 or "Could not get lock" not in errors or time.monotonic() > end:
            return int(code), str(output), str(errors)
        patience.wait(1)
