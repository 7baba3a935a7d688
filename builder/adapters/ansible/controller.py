"""Run Ansible on the build host: to configure machines over SSH, and to evaluate the variables of roles."""

import json
import shlex
import sys
import tempfile
from pathlib import Path

from builder.adapters.ansible import runtime
from builder.adapters.ansible.playbook import role_variables, to_variables
from builder.adapters.host import process
from builder.adapters.host.workspace import Run, write_atomically
from builder.arch import of_this_machine
from builder.errors import CheckError
from builder.model import Plan, Value
from builder.sources import digest_of, require_unchanged, role_folder, tree_digest

_EVALUATION_S = 300
# Files from which Ansible evaluates the variables of roles.
_RUNNER = ("ansible.cfg", "expected.yml", "plugins", "requirements.lock", "tasks")
_ROLE_PARTS = ("defaults", "meta", "vars")


def make_program(run: Run, root: Path, folder: Path) -> Path:
    """Write a program `ansible-playbook` into `folder` that runs the locked Ansible on this machine."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    lock = root / "ansible" / "requirements.lock"
    mount, home = folder / "mount", folder / "home"
    (mount / "run").mkdir(parents=True)
    (mount / "ansible").symlink_to(root / "ansible")
    (mount / "runtime").symlink_to(runtime.folder_of(run, lock, python=version, arch=of_this_machine()))
    environment = {
        "HOME": str(home),
        "ANSIBLE_CONFIG": str(mount / "ansible" / "ansible.cfg"),
        "ANSIBLE_HOME": str(home / ".ansible"),
        "ANSIBLE_LOCAL_TEMP": str(home / "local"),
        "ANSIBLE_STDOUT_CALLBACK": "factory_events",
        "ANSIBLE_HOST_KEY_CHECKING": "False",
        "ANSIBLE_SSH_CONTROL_PATH_DIR": str(run.socket_dir / "ssh"),
        "LC_ALL": "C.UTF-8",
    }
    (mount / "run" / "environment.json").write_text(json.dumps(environment), encoding="utf-8")
    (mount / "run" / "launch.py").write_text(runtime.launcher(str(mount)), encoding="utf-8")
    program = folder / "ansible-playbook"
    argv = shlex.join([sys.executable, "-I", str(mount / "run" / "launch.py")])
    script = f'#!/bin/sh\nexec {argv} "$@"\n'
    program.write_text(script, encoding="utf-8")
    program.chmod(0o700)
    return program


def evaluate_variables(run: Run, root: Path, plan: Plan) -> dict[str, Value]:
    """Return the variables of a plan's roles as Ansible evaluates them for tasks; cached by their inputs."""
    cached = run.workspace.cache("variables") / f"{_evaluation_key(root, plan)}.json"
    values = _read(cached)
    if values is None:
        with tempfile.TemporaryDirectory(dir=run.scratch, prefix="variables-") as folder:
            values = json.loads(_evaluate(run, root, plan, Path(folder)))
            require_unchanged(root, plan.layers)
            write_atomically(cached, json.dumps({"values": values, "sha256": digest_of(values)}))
    return values


def _read(cached: Path) -> dict[str, Value] | None:
    """Return cached variables; None if they are missing or differ from their digest."""
    try:
        found = json.loads(cached.read_bytes())
        values: dict[str, Value] = found["values"]
        return values if digest_of(values) == found["sha256"] else None
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _evaluation_key(root: Path, plan: Plan) -> str:
    """Return the hash of the evaluation's inputs; tasks, templates and files of roles are no inputs."""
    table = role_variables(plan, plan.layers, mirrors={})
    runner = tree_digest(root / "ansible" / name for name in _RUNNER)
    roles = {
        name: tree_digest(role_folder(root, name) / part for part in _ROLE_PARTS)
        for name in table["image_components"]
    }
    return digest_of([table, runner, roles])


def _evaluate(run: Run, root: Path, plan: Plan, folder: Path) -> str:
    result, variables = folder / "result.json", folder / "variables.json"
    table = role_variables(plan, plan.layers, mirrors={}) | {"image_expected": str(result)}
    variables.write_text(to_variables(table), encoding="utf-8")
    program = make_program(run, root, folder)
    argv = [str(program), "-i", "localhost,", "-c", "local", "-e", f"@{variables}", "expected.yml"]
    done = process.run(argv, timeout_s=_EVALUATION_S, cancelled=run.cancelled)
    if done.code != 0:
        raise CheckError(
            f"Ansible could not evaluate the variables of '{plan.target.name}'",
            hint="see the output below; defaults and vars of roles must not depend on facts of a machine",
            details=done.details,
        )
    return result.read_text(encoding="utf-8")
