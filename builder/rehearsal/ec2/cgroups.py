"""Control groups of a machine: a subtree that it may write to, and a read-only view of everything else.

systemd needs a writable subtree of its own. The subtree has to exist before the machine starts, so another
container, the keeper, runs in it and keeps it until the machine is removed.
"""

import secrets
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from builder.adapters.engine.client import Bind, Engine
from builder.errors import BuildError

_ROOT = Path("/sys/fs/cgroup")
_NAMED = "systemd"  # cgroup v1 hierarchy that systemd writes to; it has no controllers
# Where cgroup v1 and v2 are mounted, systemd learns from v2 that all processes of a service have ended.
# Without v2, a shutdown waits for each service until its timeout.
_TRACKING = (_NAMED, "unified")


def keeper_options(engine: Engine) -> dict[str, Any]:
    """Return the options of the keeper's host config.

    With cgroup v1, the driver `cgroupfs` nests a machine in the keeper's own control group, which the engine
    removes with the keeper. Otherwise the two containers share a parent group: cgroup v2 allows no processes
    beside child groups, and the driver `systemd` names the groups of containers itself.
    """
    info = engine.info()
    name = f"factory_{secrets.token_hex(6)}"
    if info["CgroupDriver"] == "systemd":
        return {"cgroup_parent": f"{name}.slice"}
    return {"cgroup_parent": f"/{name}"} if str(info.get("CgroupVersion")) == "2" else {}


def machine_options(engine: Engine, keeper: str, root: Path = _ROOT) -> dict[str, Any]:
    """Return mounts, tmpfs and host config for a machine in the control group of its running keeper."""
    found = engine.inspect_container(keeper) or {}
    parent = str(found["HostConfig"].get("CgroupParent") or "") or _own_group(int(found["State"]["Pid"]))
    return {"cgroup_parent": parent, "cgroupns": "host", **_mounts(f"/{parent.lstrip('/')}", root)}


def _own_group(pid: int) -> str:
    for line in Path(f"/proc/{pid}/cgroup").read_text(encoding="ascii").splitlines():
        _, hierarchy, path = line.split(":", 2)
        if hierarchy == f"name={_NAMED}" and path != "/" and ".." not in PurePosixPath(path).parts:
            return path
    raise BuildError(f"process {pid} has no control group of systemd", hint="builder doctor")


def _mounts(parent: str, root: Path) -> Mapping[str, Any]:
    """Return mounts of all cgroup hierarchies, read-only except for the group `parent`.

    A read-only mount of the whole tree would leave the mounts of the controllers below it writable.
    """
    if (root / "cgroup.controllers").exists():
        binds = [Bind(source=str(root), target=str(_ROOT))]
        return {"mounts": [*binds, _writable(root, parent, _ROOT)], "tmpfs": {}}
    names = sorted(path.name for path in root.iterdir() if path.is_dir())
    binds = [Bind(source=str(root / name), target=str(_ROOT / name)) for name in names]
    own = [_writable(root / name, parent, _ROOT / name) for name in _TRACKING if name in names]
    return {"mounts": [*binds, *own], "tmpfs": {str(_ROOT): "mode=0755,size=64k"}}


def _writable(hierarchy: Path, parent: str, target: Path) -> Bind:
    return Bind(source=f"{hierarchy}{parent}", target=f"{target}{parent}", writable=True)
