"""Run instances as containers with systemd and an address of their own, and keep snapshots as images.

Each instance is a pair of containers. The network container holds the address and the metadata service,
because both survive a stop of the instance; the machine container joins its network. Runs in the broker, not
in moto's process; all state is in the engine's names and labels.
"""

import io
import json
import socket
import tarfile
import threading
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from builder.adapters.engine.client import Engine
from builder.errors import BuildError, UsageError
from builder.marks import REHEARSAL_LABEL
from builder.rehearsal.addresses import Addresses
from builder.rehearsal.ec2 import cgroups, imds, machine
from builder.rehearsal.ec2.hosts import Launch
from builder.wait import until

_REPOSITORY = "factory-rehearsal"
_BOOT_S, _STOP_S = 25.0, 25  # together less than the clients' timeout of 60 s
_LOGIN_UID = 1000


class EngineHosts:
    """Backend that runs instances in the local engine; `session` marks the objects of one rehearsal.

    It changes only objects of its session. `machines` are the images allowed as a snapshot's first content.
    """

    def __init__(self, *, engine: Engine, session: str, ssh_port: int, machines: Collection[str]) -> None:
        self.ssh_port = ssh_port
        self._engine = engine
        self._session = session
        self._machines = machines
        self._addresses = Addresses(ssh_port)
        self._locks: dict[str, threading.Lock] = {}

    def _lock_of(self, instance: str) -> threading.Lock:
        return self._locks.setdefault(instance, threading.Lock())

    def take_address(self) -> str:
        """Take an address that no machine of any rehearsal has, running or stopped."""
        containers = self._engine.containers(REHEARSAL_LABEL)
        return self._addresses.take(
            {container["Labels"][f"{REHEARSAL_LABEL}.address"] for container in containers}
        )

    def release_address(self, address: str) -> None:
        self._addresses.release(address)

    # Disks.

    def _reference(self, snapshot: str) -> str:
        return f"{_REPOSITORY}/{self._session}:{snapshot}"

    def tag_snapshot(self, snapshot: str, image: str) -> None:
        """Tag a machine image as the content of a snapshot."""
        if image not in self._machines:
            raise UsageError(f"{image} is not a machine image of this rehearsal")
        self._tag(snapshot, image)

    def _tag(self, snapshot: str, image: str) -> None:
        self._engine.tag(image, f"{_REPOSITORY}/{self._session}", snapshot)

    def can_start(self, snapshot: str) -> bool:
        return self._engine.inspect_image(self._reference(snapshot)) is not None

    def copy(self, source: str, snapshot: str) -> None:
        if found := self._engine.inspect_image(self._reference(source)):
            self._tag(snapshot, str(found["Id"]))

    def delete_snapshot(self, snapshot: str) -> None:
        self._engine.remove_image(self._reference(snapshot))

    def capture(self, instance: str, snapshot: str) -> None:
        with self._lock_of(instance):
            self._engine.commit(
                self._machine(instance), repository=f"{_REPOSITORY}/{self._session}", tag=snapshot
            )

    # Instances.

    def launch(self, launch: Launch) -> None:
        if launch.address and not self._addresses.holds(launch.address):
            raise UsageError(f"{launch.address} is not an address of this rehearsal")
        with self._lock_of(launch.instance):
            if self._find(launch.instance, "network"):
                raise UsageError(f"{launch.instance} exists already")
            try:
                self._make_network(launch)
                self._make_machine(launch)
                self._wait_for_ssh(launch.instance, launch.address)
                if launch.script:
                    self._run_detached(launch)
            except BaseException:
                self._remove_pair(launch.instance)
                raise

    def _labels(self, launch: Launch) -> dict[str, str]:
        return {
            REHEARSAL_LABEL: self._session,
            f"{REHEARSAL_LABEL}.instance": launch.instance,
            f"{REHEARSAL_LABEL}.address": launch.address,
        }

    def _make_network(self, launch: Launch) -> None:
        script = Path(imds.__file__).read_bytes()
        created = self._engine.create(
            next(iter(self._machines)),
            command=("python3", "-I", "/imds.py", "/imds.json"),
            network="bridge" if launch.address or launch.reaches_internet else "none",
            labels=self._labels(launch) | {f"{REHEARSAL_LABEL}.part": "network"},
            name=self._name(launch.instance, "network"),
            hostname=launch.hostname,
            ports={"22/tcp": (launch.address, self.ssh_port)} if launch.address else {},
            # NET_ADMIN lets the container add the metadata service's link-local address to its own network.
            cap_add=["NET_ADMIN"],
            **cgroups.keeper_options(self._engine),
            stop_signal="SIGKILL",  # process 1 ignores other signals, and there is nothing to clean up
        )
        metadata = json.dumps(launch.metadata).encode()
        self._engine.put(created, "/", _packed({"imds.py": script, "imds.json": metadata}))
        self._engine.start(created)

    def _make_machine(self, launch: Launch) -> None:
        network = self._name(launch.instance, "network")
        created = machine.create(
            self._engine,
            self._reference(launch.snapshot),
            labels=self._labels(launch) | {f"{REHEARSAL_LABEL}.part": "machine"},
            keeper=network,
            network=f"container:{network}",
            name=self._name(launch.instance, "machine"),
            # A reboot inside the machine ends the container; the restart policy starts it again.
            restart_policy={"Name": "always"},
        )
        if launch.public_key:
            _authorize(self._engine, created, launch.public_key)
        self._engine.start(created)

    def _run_detached(self, launch: Launch) -> None:
        self._engine.execute_detached(self._machine(launch.instance), ["/bin/sh", "-c", launch.script])

    def stop(self, instance: str) -> None:
        with self._lock_of(instance):
            self._engine.stop(self._machine(instance), grace_s=_STOP_S)

    def start(self, instance: str, address: str) -> None:
        with self._lock_of(instance):
            self._engine.start(self._machine(instance))
            self._wait_for_ssh(instance, address)

    def reboot(self, instance: str, address: str) -> None:
        self.stop(instance)
        self.start(instance, address)

    def remove(self, instance: str) -> None:
        with self._lock_of(instance):  # wait for a capture in progress
            self._remove_pair(instance)

    def _remove_pair(self, instance: str) -> None:
        for part in ("machine", "network"):
            if found := self._find(instance, part):
                self._engine.remove_container(found["Id"])

    def update_metadata(self, instance: str, metadata: Mapping[str, Any]) -> None:
        network = self._own(instance, "network")
        self._engine.put(network, "/", _packed({"imds.json": json.dumps(metadata).encode()}))

    def sweep(self) -> int:
        """Remove all containers and images of this rehearsal; return their number."""
        return sweep(self._engine, self._session)

    def _name(self, instance: str, part: str) -> str:
        return f"factory-{self._session}-{instance}-{part}"

    def _find(self, instance: str, part: str) -> dict[str, Any] | None:
        """Return the engine's record of an instance's container; refuse a container of another owner."""
        name = self._name(instance, part)
        found = self._engine.inspect_container(name)
        if found and (found["Config"]["Labels"] or {}).get(REHEARSAL_LABEL) != self._session:
            raise UsageError(f"container {name} does not belong to this rehearsal")
        return found

    def _own(self, instance: str, part: str) -> str:
        """Return the id of an instance's container."""
        if found := self._find(instance, part):
            return str(found["Id"])
        raise BuildError(f"{instance} has no container '{part}'", hint="builder rehearse status")

    def _machine(self, instance: str) -> str:
        return self._own(instance, "machine")

    def _wait_for_ssh(self, instance: str, address: str) -> None:
        """Wait until SSH answers or the timeout is over; raise BuildError if the machine has ended.

        A timeout is no error: clients of EC2 wait for SSH themselves. Does not wait without an address.
        """

        def has_ended_or_answers() -> bool:
            return not self._is_up(instance) or _has_banner(address, self.ssh_port)

        if address:
            until(has_ended_or_answers, timeout_s=_BOOT_S, every_s=0.1)
        if not self._is_up(instance):
            output = self._engine.output(self._machine(instance), lines=20)
            raise BuildError(f"{instance} ended during boot", hint="builder doctor", details=output)

    def _is_up(self, instance: str) -> bool:
        found = self._find(instance, "machine")
        # The restart policy restarts a machine that ends during boot.
        return bool(found and found["State"]["Running"] and not found["State"]["Restarting"])


def sweep(engine: Engine, session: str) -> int:
    """Remove all containers and images of a rehearsal from the engine; return their number."""
    found = engine.containers(f"{REHEARSAL_LABEL}={session}")
    found.sort(
        key=lambda container: str(container["Labels"].get(f"{REHEARSAL_LABEL}.part"))
    )  # machines first
    for container in found:
        engine.remove_container(container["Id"])
    repository = f"{_REPOSITORY}/{session}"
    tagged = engine.images(reference=repository)
    tags = [tag for image in tagged for tag in image.tags if tag.startswith(f"{repository}:")]
    # An interrupted capture leaves an image with the label of its container and without a tag.
    untagged = [image.id for image in engine.labelled(f"{REHEARSAL_LABEL}={session}") if not image.tags]
    for reference in (*tags, *untagged):
        engine.remove_image(reference)
    return len(found) + len(tags)


def _has_banner(address: str, port: int) -> bool:
    with suppress(OSError), socket.create_connection((address, port), timeout=2) as connection:
        connection.settimeout(2)
        return connection.recv(16).startswith(b"SSH-")
    return False


def _packed(files: Mapping[str, bytes]) -> bytes:
    """Return a tar archive of the files."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return content.getvalue()


def _authorize(engine: Engine, container: str, public_key: str) -> None:
    """Add a public key for the login user; keep the keys that are in the image, as EC2 does."""
    uid, gid, home = _login_user(engine.read_file(container, "/etc/passwd").decode())
    path = f"{home}/.ssh/authorized_keys"
    keys = engine.read_file(container, path).decode().splitlines()
    keys += [public_key.strip()] if public_key.strip() not in keys else []
    content, text = io.BytesIO(), "".join(f"{key}\n" for key in keys).encode()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for name, mode, kind in ((f"{home}/.ssh", 0o700, tarfile.DIRTYPE), (path, 0o600, tarfile.REGTYPE)):
            entry = tarfile.TarInfo(name.lstrip("/"))
            entry.mode, entry.type, entry.uid, entry.gid = mode, kind, uid, gid
            entry.size = len(text) if kind == tarfile.REGTYPE else 0
            tar.addfile(entry, io.BytesIO(text))
    engine.put(container, "/", content.getvalue())


def _login_user(passwd: str) -> tuple[int, int, str]:
    for line in passwd.splitlines():
        _, _, uid, gid, _, home, _ = line.split(":")
        if int(uid) == _LOGIN_UID:
            return int(uid), int(gid), home
    raise BuildError(
        f"the image has no login user (uid {_LOGIN_UID})",
        hint="find the role that removes the user from the image",
    )
