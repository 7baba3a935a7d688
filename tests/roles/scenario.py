"""A molecule scenario: one process keeps the machine and the vendors from `create` to `destroy`.

`python -m tests.roles.scenario start|verify|stop FOLDER`; FOLDER is molecule's own for the scenario.
"""

import json
import os
import pickle
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from builder.adapters.engine.client import Engine
from builder.adapters.host.process import start_detached
from builder.adapters.host.workspace import write_atomically
from builder.adapters.upstream.mirror import Mirror
from builder.app.interrupts import interruptible
from builder.errors import BuildError, FactoryError, Interrupted
from builder.rehearsal.ec2.machine import LOGIN_USERS
from builder.wait import until
from tests.roles import plans
from tests.roles.bench import Bench, open_bench, open_scratch, open_site
from tests.roles.door import Door
from tests.roles.plans import ROOT, Wanted
from tests.roles.report import show_checks

MOLECULE = ROOT / "ansible" / "molecule"
_START_S = 900.0
_STOP_S = 120.0
# Nobody needs a machine for longer; one whose molecule was killed ends by itself.
_LIFE_S = 7200.0
# What the play of a build has because it runs inside; over SSH these are the controller's own.
_CONTROLLER = ("ANSIBLE_", "HOME")


def platform_of(scenario: str) -> dict[str, Any]:
    """The one machine of a scenario, as its molecule.yml says it."""
    table = yaml.safe_load((MOLECULE / scenario / "molecule.yml").read_text(encoding="utf-8"))
    (platform,) = table["platforms"]
    return dict(platform)


def scenarios() -> dict[str, dict[str, Any]]:
    """name → machine, of all scenarios."""
    return {
        path.parent.name: platform_of(path.parent.name) for path in sorted(MOLECULE.glob("*/molecule.yml"))
    }


def wanted_by(platform: Mapping[str, Any]) -> Wanted:
    pins = plans.standin_pins() if platform.get("standins") else {}
    return Wanted(
        components=platform["components"],
        kind=platform.get("kind", "ami"),
        system=platform.get("system", "debian-12"),
        pins=pins | platform.get("pins", {}),
        variables=platform.get("variables", {}),
    )


def start(folder: Path, scenario: str) -> None:
    """Starts the keeper and waits until the machine can be logged in to."""
    stop(folder)
    state = folder / "state.json"
    state.unlink(missing_ok=True)
    argv = [sys.executable, "-m", "tests.roles.scenario", "keep", str(folder), scenario]
    lives = start_detached(argv, log=folder / "keeper.log")
    until(lambda: state.exists() or not lives(), timeout_s=_START_S, every_s=0.1)
    if not state.exists():
        log = (folder / "keeper.log").read_text(encoding="utf-8")
        raise BuildError(f"scenario '{scenario}' did not start", details=log[-4000:])


def keep(folder: Path, scenario: str) -> None:
    """Keeps everything that a scenario stands on until told to end."""
    (folder / "keeper.pid").write_text(str(os.getpid()), encoding="utf-8")
    platform = platform_of(scenario)
    wanted = wanted_by(platform)
    loaded, target = plans.load(wanted)
    door = Door(folder=folder)
    with (
        interruptible(),
        open_site(
            standins=bool(platform.get("standins")), pins=dict(loaded.stacks[target.default.stack].pins)
        ) as site,
    ):
        plan = plans.make(wanted, site)
        with open_bench(plan, site=site, say=print, label=f"molecule-{scenario}", door=door) as bench:
            write_variables(bench, plan, folder)
            instance = {
                "instance": platform["name"],
                "address": "127.0.0.1",
                "port": door.port,
                "user": LOGIN_USERS[plans.machine_of(plan.system).distribution],
                "identity_file": str(door.key),
            }
            write_atomically(folder / "instance_config.yml", yaml.safe_dump([instance]))
            (folder / "plan.pickle").write_bytes(pickle.dumps(plan))
            state = {"container": bench.container, "checked": platform.get("checked", [])}
            write_atomically(folder / "state.json", json.dumps(state))
            threading.Event().wait(_LIFE_S)


def write_variables(bench: Bench, plan: Any, folder: Path) -> None:
    """The variables of the play, as a build has them, and its environment."""
    settings = bench.settings(plan)
    variables = json.loads((settings / "variables.json").read_text(encoding="utf-8"))
    environment = json.loads((settings / "environment.json").read_text(encoding="utf-8"))
    # Beside Ansible, which is here and not in the machine.
    variables["factory_module_cache"] = str(bench.run.workspace.cache("modules"))
    variables["factory_environment"] = {
        name: value for name, value in environment.items() if not name.startswith(_CONTROLLER)
    }
    write_atomically(folder / "variables.json", json.dumps(variables))


def verify(folder: Path) -> bool:
    """Whether the machine passes the checks of its components."""
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    plan = pickle.loads((folder / "plan.pickle").read_bytes())
    with open_scratch("verify") as run:
        bench = Bench(
            engine=Engine(), run=run, mirror=Mirror(), container=state["container"], site=None, say=print
        )
        return show_checks(bench.check(plan, state["checked"]), print)


def stop(folder: Path) -> None:
    """Ends the keeper, which clears up after itself."""
    pid_file = folder / "keeper.pid"
    if not pid_file.exists():
        return
    keeper = Path("/proc", pid_file.read_text(encoding="utf-8"))

    def lives() -> bool:
        try:
            return b"tests.roles.scenario" in (keeper / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            return False

    if lives():
        os.kill(int(keeper.name), signal.SIGTERM)
        if not until(lambda: not lives(), timeout_s=_STOP_S, every_s=0.1):
            raise BuildError(f"process {keeper.name} does not end", hint=f"see {folder / 'keeper.log'}")
    pid_file.unlink()


def main(argv: Sequence[str]) -> int:
    verb, folder = argv[0], Path(argv[1])
    if verb == "verify":
        return 0 if verify(folder) else 1
    if verb == "stop":
        stop(folder)
    else:
        {"start": start, "keep": keep}[verb](folder, argv[2])
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Interrupted:
        sys.exit(0)
    except FactoryError as error:
        sys.exit(f"error: {error.message}\n{error.details}\nhint: {error.hint}")
