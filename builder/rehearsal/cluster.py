"""Start, find and stop rehearsed Slurm clusters: a head and nodes with systemd and a shared folder.

Each machine is a pair of containers, like a rehearsed EC2 instance: the first holds the address and the
control group, and the second joins them. No host process manages a cluster: its containers have its label,
and its folder contains its settings.
"""

import hashlib
import io
import json
import os
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from builder.adapters.engine.client import Bind, Engine
from builder.adapters.host.workspace import Workspace, locked, write_atomically
from builder.errors import BuildError, UsageError
from builder.marks import CLUSTER_LABEL
from builder.model import Instance
from builder.rehearsal import slurm
from builder.rehearsal.ec2 import cgroups, machine
from builder.wait import until

_START_S, _ASK_S = 90.0, 60.0
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")
_SHARED_MEMORY = "1g"
_PART = f"{CLUSTER_LABEL}.part"
_HEAD_MACHINE = f"machine-{slurm.HEAD}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """Settings of a cluster; all its machines mount `shared`, a folder of the host."""

    instance: str
    nodes: int
    system: str
    shared: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """A running cluster."""

    name: str
    shape: Shape
    head: str  # container of the head

    def execute(self, engine: Engine, command: Sequence[str], on_line: Callable[[str], None]) -> int:
        """Run a program on the head as the caller's user, in the shared folder; return its exit code."""
        user = f"{os.getuid()}:{os.getgid()}"
        return engine.execute(self.head, command, on_line, user=user, folder=slurm.SHARED)

    def nodes(self, engine: Engine) -> list[dict[str, str]]:
        """Return name, state, processors, memory in MiB and GPUs of each node."""
        lines: list[str] = []
        command = ["sinfo", "--Node", "--noheader", "--format=%N|%T|%c|%m|%G"]
        engine.execute(self.head, command, lines.append, timeout_s=_ASK_S)
        keys = ("name", "state", "vcpus", "memory_mib", "gpus")
        return [dict(zip(keys, line.split("|"), strict=True)) for line in lines if line.count("|") == 4]


def _folder(workspace: Workspace, name: str) -> Path:
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is not a valid name for a cluster",
            hint="use at most 31 lower case letters, digits and dashes",
        )
    return workspace.home / "clusters" / name


def _session(folder: Path) -> str:
    """Return the id that marks the containers of a cluster: a hash of its folder."""
    return hashlib.sha256(str(folder).encode()).hexdigest()[:10]


def names(workspace: Workspace) -> list[str]:
    """Return the names of all clusters with a folder, running or not."""
    return sorted(path.name for path in (workspace.home / "clusters").glob("*") if path.is_dir())


def find(workspace: Workspace, engine: Engine, name: str) -> Cluster | None:
    """Return the cluster `name` if all its machines run, otherwise None."""
    folder = _folder(workspace, name)
    try:
        shape = Shape(**json.loads((folder / "ready.json").read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    running = [
        record
        for record in engine.containers(f"{CLUSTER_LABEL}={_session(folder)}")
        if record["State"] == "running"
    ]
    heads = [record["Id"] for record in running if record["Labels"].get(_PART) == _HEAD_MACHINE]
    if len(running) != 2 * (shape.nodes + 1) or not heads:
        return None
    return Cluster(name=name, shape=shape, head=heads[0])


def up(
    workspace: Workspace,
    engine: Engine,
    name: str,
    shape: Shape,
    *,
    instance: Instance,
    image: str,
    release: int,
) -> Cluster:
    """Return the running cluster `name`, or start it; raise UsageError if it has another shape."""
    folder = _folder(workspace, name)
    with locked(workspace, f"cluster-{name}"):
        if running := find(workspace, engine, name):
            if running.shape != shape:
                raise UsageError(
                    f"the cluster '{name}' runs with other options: {_text(running.shape)}",
                    hint=f"builder rehearse cluster down --name {name}, then run the command again",
                )
            return running
        _remove(engine, folder)
        Path(shape.shared).mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _removed_after_failure(engine, folder):
            head = _Machines(engine, _session(folder), shape, instance, image, release).start()
            write_atomically(folder / "ready.json", json.dumps(asdict(shape)))
        return Cluster(name=name, shape=shape, head=head)


def _text(shape: Shape) -> str:
    options = {"instance": shape.instance, "nodes": shape.nodes, "system": shape.system}
    return " ".join(f"--{key} {value}" for key, value in {**options, "shared": shape.shared}.items())


@contextmanager
def _removed_after_failure(engine: Engine, folder: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        _remove(engine, folder)
        raise


def down(workspace: Workspace, engine: Engine, name: str) -> bool:
    """Remove a cluster's containers and settings, not its shared folder; return False if there was none."""
    folder = _folder(workspace, name)
    with locked(workspace, f"cluster-{name}"):
        existed = folder.exists()
        _remove(engine, folder)
        return existed


def dead(workspace: Workspace, engine: Engine) -> list[str]:
    """Return the names of clusters with a folder whose machines do not all run."""
    return [name for name in names(workspace) if find(workspace, engine, name) is None]


def remove_dead(workspace: Workspace, engine: Engine, name: str) -> None:
    """Remove a cluster unless it runs, for example because another process has started it since."""
    with locked(workspace, f"cluster-{name}"):
        if find(workspace, engine, name) is None:
            _remove(engine, _folder(workspace, name))


def _remove(engine: Engine, folder: Path) -> None:
    found = engine.containers(f"{CLUSTER_LABEL}={_session(folder)}")
    for record in sorted(found, key=lambda record: str(record["Labels"].get(_PART))):
        engine.remove_container(record["Id"])
    shutil.rmtree(folder, ignore_errors=True)


class _Machines:
    """The containers of a cluster that is about to start."""

    def __init__(
        self, engine: Engine, session: str, shape: Shape, instance: Instance, image: str, release: int
    ) -> None:
        self._engine, self._session, self._shape, self._image = engine, session, shape, image
        self._instance, self._release = instance, release
        self._nodes = slurm.node_names(shape.nodes)

    def start(self) -> str:
        """Start all machines, wait until the nodes are idle, and return the head's container."""
        keepers = {name: self._keeper(name) for name in (slurm.HEAD, *self._nodes)}
        self._introduce(keepers)
        key = os.urandom(128)
        machines = {name: self._machine(name, keeper, key) for name, keeper in keepers.items()}
        head = machines[slurm.HEAD]

        def are_idle() -> bool:
            lines: list[str] = []
            command = ["sinfo", "--noheader", "--states=idle", "--format=%D"]
            code = self._engine.execute(head, command, lines.append, timeout_s=_ASK_S)
            return code == 0 and lines == [str(len(self._nodes))]

        if not until(are_idle, timeout_s=_START_S, every_s=0.2):
            raise BuildError(
                f"the nodes of the cluster were not idle within {_START_S:.0f} s",
                hint="builder doctor",
                details="\n".join(self._logs(machines)),
            )
        return head

    def _labels(self, part: str) -> Mapping[str, str]:
        return {CLUSTER_LABEL: self._session, _PART: part}

    def _keeper(self, name: str) -> str:
        """Start the container that holds the address and the control group of a machine."""
        created = self._engine.create(
            self._image,
            command=("sleep", "infinity"),
            network="bridge",
            labels=self._labels(f"network-{name}"),
            name=f"factory-{self._session}-{name}-network",
            hostname=name,
            cap_drop=["ALL"],
            stop_signal="SIGKILL",  # process 1 ignores other signals
            **cgroups.keeper_options(self._engine),
        )
        self._engine.start(created)
        return created

    def _introduce(self, keepers: Mapping[str, str]) -> None:
        """Write all machines' names to each keeper's /etc/hosts, which the keeper's machine shares."""
        addresses = {name: self._address(keeper) for name, keeper in keepers.items()}
        for name, keeper in keepers.items():
            text = "".join(f"{address} {other}\n" for other, address in addresses.items() if other != name)
            command = ["sh", "-c", 'printf %s "$1" >> /etc/hosts', "sh", text]
            self._engine.execute(keeper, command, lambda _: None, timeout_s=_ASK_S)

    def _address(self, keeper: str) -> str:
        found = self._engine.inspect_container(keeper) or {}
        return str(found["NetworkSettings"]["Networks"]["bridge"]["IPAddress"])

    def _machine(self, name: str, keeper: str, key: bytes) -> str:
        created = machine.create(
            self._engine,
            self._image,
            labels=self._labels(f"machine-{name}"),
            keeper=keeper,
            network=f"container:{keeper}",
            mounts=[Bind(source=self._shape.shared, target=slurm.SHARED, writable=True)],
            name=f"factory-{self._session}-{name}-machine",
            shm_size=_SHARED_MEMORY,
        )
        passwd, group = (
            self._engine.read_file(created, path).decode() for path in ("/etc/passwd", "/etc/group")
        )
        passwd, group = slurm.with_user(passwd, group, os.getuid(), os.getgid())
        files = [
            slurm.File(path="etc/passwd", content=passwd),
            slurm.File(path="etc/group", content=group),
            *slurm.machine_files(
                self._instance, self._nodes, is_head=name == slurm.HEAD, release=self._release
            ),
        ]
        self._engine.put(created, "/", _packed(files, key, passwd))
        self._engine.start(created)
        return created

    def _logs(self, machines: Mapping[str, str]) -> Iterator[str]:
        """Yield the last log lines of the services of each machine."""
        for name, container in machines.items():
            command = [
                "journalctl",
                "--no-pager",
                "--lines=5",
                "-u",
                "slurmctld",
                "-u",
                "slurmd",
                "-u",
                "munge",
            ]
            lines: list[str] = []
            self._engine.execute(container, command, lines.append, timeout_s=_ASK_S)
            yield from (f"{name}: {line}" for line in lines)


def _packed(files: Sequence[slurm.File], key: bytes, passwd: str) -> bytes:
    """Return a tar archive of the files and of munge's key, which only the user `munge` may read."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for file in files:
            entry, data = tarfile.TarInfo(file.path), file.content.encode()
            if file.target:
                entry.type, entry.linkname = tarfile.SYMTYPE, file.target
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
        entry = tarfile.TarInfo("etc/munge/munge.key")
        entry.uid, entry.gid = _ids_of("munge", passwd)
        entry.mode, entry.size = 0o400, len(key)
        tar.addfile(entry, io.BytesIO(key))
    return content.getvalue()


def _ids_of(user: str, passwd: str) -> tuple[int, int]:
    for line in passwd.splitlines():
        name, _, uid, gid, *_ = line.split(":")
        if name == user:
            return int(uid), int(gid)
    raise BuildError(
        f"the machine image has no user '{user}'", hint="builder rehearse cluster up --instance TYPE"
    )
