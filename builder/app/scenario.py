"""The container of a molecule scenario: a background process keeps it from `create` to `destroy`."""

import json
import os
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from builder.adapters.ansible.apply import module_variables, modules_folder
from builder.adapters.ansible.ssh import SshAccess
from builder.adapters.engine.client import Engine
from builder.adapters.host.process import start_detached
from builder.adapters.host.workspace import Run, write_atomically
from builder.app import role
from builder.app.context import Context
from builder.app.role_machine import ApplyingMachine, RoleMachine, open_machine
from builder.app.role_plan import RoleRequest, role_plan
from builder.errors import BuildError, UsageError
from builder.model import Check, Plan
from builder.rehearsal.ec2.machine import login_user
from builder.wait import until

_START_S = 900.0
_STOP_S = 120.0
# The background process ends by itself after this time, in case molecule was killed.
_LIFE_S = 7200.0
# Prefixes of environment variables meant for Ansible itself, which molecule runs on the host; tasks on the
# machine do not get these variables.
_CONTROLLER = ("ANSIBLE_", "HOME")
# Option by which `stop` recognizes the background process, so that it kills no process with a reused PID.
_MARK = "--hold"


def platform_of(file: Path) -> dict[str, Any]:
    """Return the only platform of a molecule.yml."""
    try:
        (platform,) = yaml.safe_load(file.read_text(encoding="utf-8"))["platforms"]
    except (OSError, KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        raise UsageError(
            f"{file}: must name exactly one platform: {error}", hint="ls ansible/molecule/*/molecule.yml"
        ) from error
    return dict(platform)


def scenarios(root: Path) -> dict[str, dict[str, Any]]:
    """Return the platform of every scenario, by the scenario's name."""
    files = sorted((root / "ansible" / "molecule").glob("*/molecule.yml"))
    return {file.parent.name: platform_of(file) for file in files}


def request_of(platform: Mapping[str, Any]) -> RoleRequest:
    return RoleRequest(
        components=platform["components"],
        kind=platform.get("kind", "ami"),
        system=platform.get("system", ""),
        stack=platform.get("stack", ""),
        pins=platform.get("pins", {}),
        variables=platform.get("variables", {}),
    )


def start(folder: Path, platform: Path, root: Path) -> None:
    """Start the background process that runs the scenario's container, and wait until SSH login works."""
    stop(folder)
    state, log = folder / "state.json", folder / "keeper.log"
    state.unlink(missing_ok=True)
    argv = [sys.executable, "-m", "builder.cli.main", "role", "--root", str(root)]
    keeper = start_detached([*argv, "--platform", str(platform), _MARK, str(folder)], log=log)
    until(lambda: state.exists() or not keeper.runs(), timeout_s=_START_S, every_s=0.2)
    if not state.exists():
        text = log.read_text(encoding="utf-8")
        raise BuildError(f"the machine of {platform} did not start", hint=f"cat {log}", details=text[-4000:])


def hold(context: Context, folder: Path, file: Path) -> None:
    """Run the container of a scenario until a signal arrives, at most two hours."""
    (folder / "keeper.pid").write_text(str(os.getpid()), encoding="utf-8")
    platform = platform_of(file)
    plan, ssh = role_plan(context, request_of(platform)), SshAccess(folder=folder)
    image = str(platform.get("image") or "")
    with (
        role.open_session(context, plan, "molecule") as work,
        open_machine(
            work.run,
            context.root,
            plan,
            work.mirror(plan),
            work.events,
            image=image,
            ssh=ssh,
        ) as machine,
    ):
        write_variables(machine, work.run, plan, folder)
        instance = {
            "instance": platform["name"],
            "address": "127.0.0.1",
            "port": ssh.port,
            "user": platform.get("user") or login_user(plan.system),
            "identity_file": str(ssh.key),
        }
        write_atomically(folder / "instance_config.yml", yaml.safe_dump([instance]))
        write_atomically(folder / "state.json", json.dumps({"container": machine.container}))
        threading.Event().wait(_LIFE_S)


def write_variables(machine: ApplyingMachine, run: Run, plan: Plan, folder: Path) -> None:
    """Write the Ansible variables and the environment, the same as in a build, for molecule's play."""
    settings = machine.applier.settings
    machine.applier.write_settings(plan)
    variables = json.loads((settings / "variables.json").read_text(encoding="utf-8"))
    environment = json.loads((settings / "environment.json").read_text(encoding="utf-8"))
    # Ansible runs on the host, so the folders of kernel modules are paths on the host.
    variables |= module_variables(modules_folder(run))
    variables["factory_environment"] = {
        name: value for name, value in environment.items() if not name.startswith(_CONTROLLER)
    }
    write_atomically(folder / "variables.json", json.dumps(variables))


def verify(context: Context, folder: Path, file: Path) -> tuple[Check, ...]:
    """Run the checks of a scenario's components on its machine; raise CheckError if any fails."""
    platform = platform_of(file)
    plan = role_plan(context, request_of(platform))
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    with role.open_session(context, plan, "verify") as work:
        machine = RoleMachine(
            run=work.run, root=context.root, events=work.events, engine=Engine(), container=state["container"]
        )
        return role.run_checks(machine, plan, platform.get("checked", ()))


def stop(folder: Path) -> None:
    """Stop the background process, which then removes the scenario's container and folders."""
    pid_file = folder / "keeper.pid"
    if not pid_file.exists():
        return
    keeper = Path("/proc", pid_file.read_text(encoding="utf-8"))

    def is_running() -> bool:
        try:
            return _MARK.encode() in (keeper / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            return False

    if is_running():
        os.kill(int(keeper.name), signal.SIGTERM)
        if not until(lambda: not is_running(), timeout_s=_STOP_S, every_s=0.2):
            raise BuildError(
                f"process {keeper.name} did not end within {_STOP_S:.0f} s",
                hint=f"cat {folder / 'keeper.log'}",
            )
    pid_file.unlink()
