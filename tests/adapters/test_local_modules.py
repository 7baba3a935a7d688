"""A real Ansible play with the launcher of build containers, which runs modules from folders."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ansible.config.manager import ConfigManager  # type: ignore[import-untyped]
from ansible.utils.collection_loader import _collection_finder  # type: ignore[import-untyped]

import ansible
from builder.adapters.ansible import local_modules, parsed_settings, runtime

ROOT = Path(__file__).resolve().parents[2]
PROBE = """
import os, sys
from ansible.module_utils import _internal
from ansible.module_utils.basic import AnsibleModule
module = AnsibleModule({"text": {"type": "str"}, "fails": {"type": "bool", "default": False}})
if module.params["fails"]:
    raise ValueError("the module failed")
found = {"file": __file__, "stdin": sys.stdin.read(), "controller": _internal.is_controller, "path": sys.path}
module.exit_json(text=module.params["text"], process=os.getpid(), **found)
"""
TEXT = 'it\'s "ünïcode" {x}'
TASKS = [
    {"probe": {"text": TEXT}, "register": "first"},
    {"probe": {"text": "second"}, "register": "second"},
    {"probe": {"fails": True}, "register": "failed", "ignore_errors": True},
    {"ansible.builtin.command": {"argv": ["sh", "-c", "echo $ONLY_HERE"]}, "register": "command"},
    {"tree": {"entries": [{"dest": "{{ folder }}/new/file", "content": "1\n"}]}, "register": "tree"},
    {
        "ansible.builtin.copy": {
            "content": "{{ [first, second, failed, command, tree] | to_json }}",
            "dest": "{{ folder }}/results.json",
            "mode": "0600",
        }
    },
]


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with this environment's Ansible and the settings files that the launcher has parsed."""
    folder = tmp_path_factory.mktemp("runtime")
    for package in Path(ansible.__file__).parents[1].iterdir():
        (folder / package.name).symlink_to(package)
    parsed_settings.write(folder)
    return folder


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, packages: Path) -> list[dict[str, object]]:
    """The results of the first tasks of a play."""
    folder = tmp_path_factory.mktemp("play")
    mount, library = folder / "mount", folder / "library"
    (mount / "run").mkdir(parents=True)
    (mount / "ansible").symlink_to(ROOT / "ansible")
    (mount / "runtime").symlink_to(packages)
    library.mkdir()
    (library / "probe.py").write_text(PROBE, encoding="utf-8")
    environment = {
        "HOME": str(folder / "home"),
        "ANSIBLE_CONFIG": str(mount / "ansible/ansible.cfg"),
        "ANSIBLE_LIBRARY": f"{ROOT}/ansible/plugins/modules:{library}",
        "ANSIBLE_LOCAL_TEMP": str(folder / "local"),
        "ANSIBLE_PIPELINING": "True",
        "ONLY_HERE": "set",
    }
    (mount / "run/environment.json").write_text(json.dumps(environment))
    prepare = parsed_settings.INSTALL.format(path=parsed_settings.__file__)
    prepare += local_modules.INSTALL.format(path=local_modules.__file__)
    (mount / "run/launch.py").write_text(runtime.launcher(str(mount), prepare=prepare))
    play = [{"hosts": "all", "gather_facts": False, "vars": {"folder": str(folder)}, "tasks": TASKS}]
    (folder / "play.yml").write_text(json.dumps(play))
    words = [sys.executable, "-I", str(mount / "run/launch.py"), "-i", "localhost,", "-c", "local"]
    done = subprocess.run(
        [*words, str(folder / "play.yml")],
        env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / "new/file").read_text() == "1\n"
    found: list[dict[str, object]] = json.loads((folder / "results.json").read_text())
    return found


def test_each_module_runs_from_its_folder_in_a_separate_process(results: list[dict[str, object]]) -> None:
    first, second = results[:2]
    assert str(first["file"]).endswith("library/probe.py")
    assert first["process"] != second["process"]
    assert (first["text"], second["text"]) == (TEXT, "second")


def test_modules_do_not_see_the_controller_part_of_ansible(results: list[dict[str, object]]) -> None:
    first = results[0]
    assert not first["controller"]
    assert first["stdin"] == ""
    folders = [str(path) for path in list(first["path"])]  # type: ignore[call-overload]
    assert not [path for path in folders if path in ("", ".") or path.endswith("runtime")]


def test_modules_return_the_same_results_as_without_the_launcher(results: list[dict[str, object]]) -> None:
    _, _, failed, command, tree = results
    assert failed["failed"]
    assert "the module failed" in str(failed["msg"])
    assert (command["stdout"], command["rc"], command["changed"]) == ("set", 0, True)
    assert tree["changed"]


def test_parsed_settings_are_those_that_ansible_parses(
    packages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    routes = (packages / "ansible/config/ansible_builtin_runtime.yml").read_bytes()
    base, other = str(packages / "ansible/config/base.yml"), str(packages / "other.yml")
    Path(other).write_text("more: true\n")
    builtin, own = ("ansible.builtin", "runtime.yml"), ("some.collection", "runtime.yml")
    manager = ConfigManager()
    parsed = [_collection_finder._meta_yml_to_dict(routes, builtin), manager._read_config_yaml_file(base)]
    for owner, name in ((_collection_finder, "_meta_yml_to_dict"), (ConfigManager, "_read_config_yaml_file")):
        monkeypatch.setattr(owner, name, getattr(owner, name))
    parsed_settings.install(packages, _collection_finder, ConfigManager)
    kept = [_collection_finder._meta_yml_to_dict(b"", builtin), manager._read_config_yaml_file(base)]
    assert kept == parsed
    assert _collection_finder._meta_yml_to_dict(b"plugin_routing: {}", own) == {"plugin_routing": {}}
    assert manager._read_config_yaml_file(other) == {"more": True}
