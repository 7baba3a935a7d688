"""Action plugin that writes the variables whose names have given prefixes to a JSON file on the controller.

Omits variables that cannot be evaluated: they refer to results of tasks, which exist only during a build.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleUndefinedVariable

from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    """Action plugin with the arguments `prefixes` (of the variables) and `dest` (the file)."""

    _supports_check_mode = True

    def run(self, tmp: None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        prefixes = tuple(self._task.args["prefixes"])
        values = {}
        for name in sorted(task_vars or {}):
            if name.startswith(prefixes):
                try:
                    values[name] = self._templar.template(task_vars[name])
                except AnsibleUndefinedVariable:
                    continue
        Path(self._task.args["dest"]).write_text(json.dumps(values), encoding="utf-8")
        return {**result, "changed": False}
