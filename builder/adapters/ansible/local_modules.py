"""Run Ansible's modules from the mounted runtime instead of from a zip archive of their sources.

Ansible packs each module with the sources of some 50 files, and every run of the module compiles them again.
The machine that runs Ansible has the compiled files already. Each module still runs in its own process,
which can import only the parts of Ansible that an archive could contain.

Runs in build containers with the Python of the image: it imports only the standard library and Ansible.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Launcher code that makes Ansible run modules from the mounted runtime.
INSTALL = "runpy.run_path({path!r}, run_name='__main__')"
# The program of a module's process; `ansible` and its packages are found in folders, not on sys.path.
_PROGRAM = """\
import sys, types
sys.path = [path for path in sys.path if path not in ("", ".")]
def package(name, *folders):
    found = sys.modules[name] = types.ModuleType(name)
    found.__path__ = list(folders)
    parent, _, own = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], own, found)
    return found
package("ansible").__file__ = {file!r}
package("ansible.module_utils", *{utilities!r})
package({package!r}, {folder!r})
from ansible.module_utils._internal._ansiballz._loader import run_module
request = {{"json_params": {parameters!r}, "module_fqn": {module!r}}}
run_module(**request, profile="legacy", modlib_path="", extensions={{}})
"""


def install(common: Any) -> None:
    """Make Ansible in this process run modules from folders; all its connections must be local.

    `common` is Ansible's module that packs modules.
    """
    common._find_module_utils = _from_folders(common, common._find_module_utils)


def _from_folders(common: Any, pack: Callable[..., Any]) -> Callable[..., Any]:
    """Return a replacement for `pack`, which makes an archive of a module."""

    def build(**request: Any) -> Any:
        source: bytes = request["b_module_data"]
        if (
            not common.NEW_STYLE_PYTHON_MODULE_RE.search(source)
            or b"respawn" in source  # such a module starts again with another Python, from its archive
        ):
            return pack(**request)
        interpreter, words = common._extract_interpreter(source)
        shebang, _ = common._get_shebang(
            interpreter or "/usr/bin/python",
            request["task_vars"],
            request["templar"],
            words,
        )
        return common._BuiltModule(
            b_module_data=_program(common, request).encode(),
            module_style="new",
            shebang=shebang,
            serialization_profile="legacy",
        )

    return build


def _program(common: Any, request: dict[str, Any]) -> str:
    path = Path(request["module_path"])
    core = Path(common.__file__).parents[1]
    is_core = path.parent == core / "modules"
    package = "ansible.modules" if is_core else "ansible.legacy"
    utilities = common.module_utils_loader._get_paths(subdirs=False)
    encoder = common.get_module_encoder("legacy", common.Direction.CONTROLLER_TO_MODULE)
    return _PROGRAM.format(
        file=str(core / "__init__.py"),
        utilities=list(dict.fromkeys([*utilities, str(core / "module_utils")])),
        package=package,
        folder=str(path.parent),
        parameters=json.dumps({"ANSIBLE_MODULE_ARGS": request["module_args"]}, cls=encoder).encode(),
        module=f"{package}.{path.stem}",
    )


if __name__ == "__main__":
    from ansible.executor import module_common  # type: ignore[import-untyped]

    install(module_common)
