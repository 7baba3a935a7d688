"""Action plugin of the module `venv`: provides the controller's pip, because images have none.

A local connection runs pip's files in place. Other machines get a zip archive of pip, which Python can run
and which is deleted with the temporary folder of the task.
"""

from __future__ import annotations

import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail

from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    """Action plugin that adds the argument `pip`, a path to the controller's pip."""

    _supports_check_mode = True

    def run(self, tmp: None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        try:
            pip = self._provide(find_pip())
            arguments = {**self._task.args, "pip": pip}
            return self._execute_module(module_name="venv", module_args=arguments, task_vars=task_vars)
        finally:
            self._remove_tmp_path(self._connection._shell.tmpdir)

    def _provide(self, pip: Path) -> str:
        if self._connection.transport == "local":
            return str(pip / "__pip-runner__.py")
        self._make_tmp_path()
        with tempfile.TemporaryDirectory() as folder:
            archive = shutil.make_archive(f"{folder}/pip", "zip", root_dir=pip.parent, base_dir=pip.name)
            remote = self._connection._shell.join_path(self._connection._shell.tmpdir, "pip.zip")
            self._transfer_file(archive, remote)
        self._fixup_perms2((self._connection._shell.tmpdir, remote))
        return f"{remote}/pip"


def find_pip() -> Path:
    """Return the folder of the pip package in the environment of Ansible."""
    spec = find_spec("pip")
    if not spec or not spec.origin:
        raise AnsibleActionFail(
            "venv: the Python that runs Ansible has no pip; install ansible/requirements.lock"
        )
    return Path(spec.origin).parent
