"""Action plugin that creates and deletes a role's work folder and deletes its temporary repositories.

It runs twice for every role, so it uses one shell command instead of a module run, which takes much longer.
"""

from __future__ import annotations

import shlex
from typing import Any

from ansible.errors import AnsibleActionFail

from ansible.plugins.action import ActionBase

# Temporary package sources and keys, which the `repository` module adds for the duration of a role.
TEMPORARY_FILES = (
    "/etc/apt/sources.list.d/factory-*",
    "/etc/apt/keyrings/factory-*",
    "/etc/yum.repos.d/factory-*",
    "/etc/pki/rpm-gpg/RPM-GPG-KEY-factory-*",
)


class ActionModule(ActionBase):
    """Action plugin with the arguments `path` (the folder) and `state` (`empty` or `absent`)."""

    _supports_check_mode = True

    def run(self, tmp: None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        path, state = self._task.args.get("path"), self._task.args.get("state")
        if not isinstance(path, str) or not path.startswith("/var/cache/factory-"):
            raise AnsibleActionFail(f"work_folder: {path}: path must begin with /var/cache/factory-")
        if state not in ("empty", "absent"):
            raise AnsibleActionFail(f"work_folder: state must be 'empty' or 'absent', not {state!r}")
        command = f"rm -rf -- {shlex.quote(path)} {' '.join(TEMPORARY_FILES)}"
        if state == "empty":
            command += f" && mkdir -p -m 0755 -- {shlex.quote(path)}"
        if not self._task.check_mode:
            done = self._low_level_execute_command(command)
            if done["rc"] != 0:
                raise AnsibleActionFail(f"work_folder: {path}: {done['stderr'] or done['stdout']}")
        # The task never reports a change, because the work folder is not part of the image.
        return {**result, "changed": False}
