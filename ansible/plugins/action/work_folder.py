"""Gives a role an empty folder to work in, and takes it away with what else was for the time of the role.

One short command and no module: this happens twice for every role, and a module run costs more than most of
them do.
"""

from __future__ import annotations

import shlex
from typing import Any

from ansible.errors import AnsibleActionFail

from ansible.plugins.action import ActionBase

# Sources and keys of repositories that the `repository` module added for the time of a role.
FOR_THE_TIME = (
    "/etc/apt/sources.list.d/factory-*",
    "/etc/apt/keyrings/factory-*",
    "/etc/yum.repos.d/factory-*",
    "/etc/pki/rpm-gpg/RPM-GPG-KEY-factory-*",
)


class ActionModule(ActionBase):
    """`path` is the folder; `state` is empty or absent."""

    _supports_check_mode = True

    def run(self, tmp: None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        path, state = self._task.args.get("path"), self._task.args.get("state")
        if not isinstance(path, str) or not path.startswith("/var/cache/factory-"):
            raise AnsibleActionFail(f"work_folder: {path}: lies below /var/cache and begins with factory-")
        if state not in ("empty", "absent"):
            raise AnsibleActionFail(f"work_folder: state is empty or absent, not {state!r}")
        command = f"rm -rf -- {shlex.quote(path)} {' '.join(FOR_THE_TIME)}"
        if state == "empty":
            command += f" && mkdir -p -m 0755 -- {shlex.quote(path)}"
        if not self._task.check_mode:
            done = self._low_level_execute_command(command)
            if done["rc"] != 0:
                raise AnsibleActionFail(f"work_folder: {path}: {done['stderr'] or done['stdout']}")
        # Nothing of this is part of the image.
        return {**result, "changed": False}
