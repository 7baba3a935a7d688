"""Start Ansible with its two YAML files already parsed: parsing takes a third of the start's CPU time.

`write` parses the files when a runtime is compiled; `install` makes Ansible use the result. Runs in build
containers with the Python of the image: standard library, and the runtime's YAML.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Launcher code that makes Ansible use the parsed files of the runtime below `mount`.
INSTALL = """\
from pathlib import Path
from ansible.config import manager
from ansible.utils.collection_loader import _collection_finder
install = runpy.run_path({path!r})["install"]
install(Path(mount, "runtime"), _collection_finder, manager.ConfigManager)
"""
NAME = "parsed_settings.json"  # a file in the folder of the runtime
_ROUTES, _SETTINGS = "ansible/config/ansible_builtin_runtime.yml", "ansible/config/base.yml"


def write(runtime: Path) -> None:
    """Parse the two YAML files of a runtime as Ansible does, and store the result as JSON."""
    import yaml

    loaders = {_ROUTES: "BaseLoader", _SETTINGS: "SafeLoader"}
    parsed = {}
    for name, loader in loaders.items():
        chosen = getattr(yaml, f"C{loader}", getattr(yaml, loader))
        parsed[name] = yaml.load((runtime / name).read_bytes(), Loader=chosen)  # noqa: S506 (not the unsafe loaders)
    (runtime / NAME).write_text(json.dumps(parsed))


def install(runtime: Path, finder: Any, manager: Any) -> None:
    """Make Ansible's collection finder and configuration manager use the parsed files."""
    parsed: dict[str, Any] = json.loads((runtime / NAME).read_text())
    finder._meta_yml_to_dict = _routes(parsed[_ROUTES], finder._meta_yml_to_dict)
    manager._read_config_yaml_file = _settings(
        str(runtime / _SETTINGS), parsed[_SETTINGS], manager._read_config_yaml_file
    )


def _routes(parsed: Any, parse: Callable[..., Any]) -> Callable[..., Any]:
    return lambda text, content: parsed if content[0] == "ansible.builtin" else parse(text, content)


def _settings(path: str, parsed: Any, read: Callable[..., Any]) -> Callable[..., Any]:
    return lambda manager, file: parsed if str(file) == path else read(manager, file)
