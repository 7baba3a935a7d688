"""Checks of the virtual environment: complete, exactly as locked, readable by all users."""

import json
import re

# Python program that prints the name and version of every distribution in the environment.
INVENTORY = """
import importlib.metadata as metadata, json, re
tidy = lambda name: re.sub(r"[-_.]+", "-", name).lower()
found = {tidy(item.metadata["Name"]): item.version for item in metadata.distributions()}
print(json.dumps(found))
"""
# Python program that prints unmet requirements. It compares only names, because the environment may not have
# the package `packaging`.
MISSING = """
import importlib.metadata as metadata, re
tidy = lambda name: re.sub(r"[-_.]+", "-", name).lower()
found = {tidy(item.metadata["Name"]) for item in metadata.distributions()}
for item in metadata.distributions():
    for line in item.requires or ():
        if ";" not in line:
            name = re.match(r"[A-Za-z0-9._-]+", line).group()
            if tidy(name) not in found:
                print(item.metadata["Name"], "needs", line)
"""


def tidy(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def read_pins(lines):
    return {tidy(name): version for name, version in (line.split()[0].split("==") for line in lines)}


def run_python(host, expected, program):
    return host.check_output("%s/bin/python -I -c %s", expected.variables["python_env_path"], program)


def test_packages_have_the_locked_versions(host, expected):
    installed = json.loads(run_python(host, expected, INVENTORY))
    pins = read_pins(expected.variables["python_env_requirements"])
    assert {name: installed.get(name) for name in pins} == pins


def test_only_locked_packages_are_installed(host, expected):
    installed = json.loads(run_python(host, expected, INVENTORY))
    variables = expected.variables
    locked = variables["python_env_requirements"] + variables.get("workload_env_requirements", [])
    # Packages that other components build from source.
    locked += [line for name in variables if name.endswith("_source_packages") for line in variables[name]]
    assert set(installed) <= set(read_pins(locked))


def test_no_dependency_is_missing(host, expected):
    assert run_python(host, expected, MISSING) == ""


def test_sessions_find_the_environment(host, expected):
    assert (
        host.check_output("bash -lc 'command -v python'")
        == expected.variables["python_env_path"] + "/bin/python"
    )


def test_path_has_no_empty_element(host):
    assert "" not in host.check_output("bash -lc 'echo $PATH'").split(":")


def test_all_users_can_read_but_not_write(host, expected):
    path = expected.variables["python_env_path"]
    assert host.check_output("find %s ! -type l ! -perm -o=r | head -3", path) == ""
    assert host.check_output("find %s ! -type l -perm -o=w | head -3", path) == ""


def test_sources_are_compiled(host, expected):
    path = expected.variables["python_env_path"]
    sources = int(host.check_output("find %s/lib -name '*.py' | wc -l", path))
    compiled = int(host.check_output("find %s/lib -name '*.pyc' | wc -l", path))
    # Templates named .py do not compile.
    assert compiled >= sources * 0.98


def test_system_python_does_not_use_the_environment(host, expected):
    program = "import sys; print([p for p in sys.path if p.startswith(sys.argv[1])])"
    assert (
        host.check_output("/usr/bin/python3 -c %s %s", program, expected.variables["python_env_path"]) == "[]"
    )


def test_no_pip_configuration_remains(host):
    for path in ("/etc/pip.conf", "/root/.config/pip", "/root/.pip"):
        assert not host.file(path).exists
    assert host.run("env -0 | grep -qz ^PIP_").rc == 1
