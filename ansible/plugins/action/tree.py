"""Action plugin of the module `tree`: renders templates and reads files on the controller.

A single run of the module then writes all files.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.template import trust_as_template

from ansible.plugins.action import ActionBase

SOURCES = ("content", "src", "template")


class ActionModule(ActionBase):
    """Action plugin that replaces `content`, `src` and `template` of every entry with the file's bytes."""

    _supports_check_mode = True
    _supports_diff = True

    def run(self, tmp: None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        entries = arguments.get("entries")
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise AnsibleActionFail("tree: entries must be a list of mappings")
        arguments["entries"] = [self._resolve(entry, task_vars or {}) for entry in entries]
        return self._execute_module(module_name="tree", module_args=arguments, task_vars=task_vars)

    def _resolve(self, entry: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        resolved = {key: value for key, value in entry.items() if key not in SOURCES}
        if not isinstance(entry.get("mode", ""), str):
            raise AnsibleActionFail(f"tree: {entry.get('dest')}: mode must be a quoted string")
        if entry.get("state", "file") != "file":
            return resolved
        given = [source for source in SOURCES if source in entry]
        if len(given) != 1:
            raise AnsibleActionFail(f"tree: {entry.get('dest')}: needs exactly one of {', '.join(SOURCES)}")
        content = self._read(given[0], entry[given[0]], task_vars)
        return {**resolved, "content_base64": base64.b64encode(content).decode("ascii")}

    def _find(self, folder: str, value: str) -> Path:
        """Return the path of a file in a folder of the role; refuse paths and links that leave the role."""
        path = Path(self._find_needle(folder, value))
        role = Path(self._task._role._role_path if self._task._role else self._loader.get_basedir())
        if not path.resolve().is_relative_to(role.resolve()):
            raise AnsibleActionFail(f"tree: {value}: is outside {role}")
        return path

    def _read(self, source: str, value: str, task_vars: dict[str, Any]) -> bytes:
        if source == "content":
            return value.encode()
        if source == "src":
            return self._find("files", value).read_bytes()
        path = self._find("templates", value)
        text = trust_as_template(self._loader.get_text_file_contents(str(path)))
        # The search path lets a template include other templates of the role by name.
        templar = self._templar.copy_with_new_env(
            searchpath=[str(path.parent)], available_variables=task_vars
        )
        overrides = {"trim_blocks": True, "lstrip_blocks": True}
        return str(templar.template(text, escape_backslashes=False, overrides=overrides)).encode()
