"""The image of a machine as a cloud starts it: systemd, sshd, a login user, no identity yet.

Made from the same archive and in the same way as the base of containers, kept in the engine under the hash
of what it is made of. Knows nothing of EC2; whoever starts it brings labels, network and keys.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from builder.adapters.container.bootstrap import make_root
from builder.adapters.engine.client import Bind, Engine
from builder.adapters.host import process
from builder.adapters.host.workspace import Run
from builder.adapters.upstream.mirror import Mirror
from builder.errors import BuildError
from builder.model import System
from builder.sources import digest_of

MACHINES = "factory-machines"  # repository of all machine images in the engine; the tag is the key
INIT = "/lib/systemd/systemd"

_FORMAT = 1
# What an image of the distribution for a cloud has beyond the base of a container.
_PACKAGES = (
    *("dbus", "init", "iproute2", "kmod", "libnss-systemd", "libpam-systemd", "netbase", "openssh-server"),
    *("procps", "sudo", "systemd", "systemd-sysv", "tzdata", "udev"),
)
# Host keys come into being at the first boot, by cloud-init on a real machine and by this unit here.
_SETTLE = """\
chroot "$1" useradd --create-home --uid 1000 --user-group --shell /bin/bash '{user}'
echo '{user} ALL=(ALL) NOPASSWD:ALL' > "$1/etc/sudoers.d/90-cloud-init-users"
chmod 0440 "$1/etc/sudoers.d/90-cloud-init-users"
rm -f "$1"/etc/ssh/ssh_host_* "$1/var/lib/dbus/machine-id" "$1/var/lib/systemd/random-seed"
cat > "$1/etc/systemd/system/first-boot.service" <<'UNIT'
[Unit]
Description=Keys of this machine for SSH
Before=ssh.service
ConditionPathExists=!/etc/ssh/ssh_host_ed25519_key

[Service]
Type=oneshot
ExecStart=/usr/bin/ssh-keygen -A
RemainAfterExit=yes

[Install]
WantedBy=multi-user.target
UNIT
chroot "$1" systemctl --quiet enable first-boot.service
chroot "$1" systemctl --quiet set-default multi-user.target
"""


def ensure(engine: Engine, run: Run, system: System, mirror: Mirror, say: process.OnLine) -> str:
    """The reference of the system's machine image; made if the engine has none."""
    if system.bootstrap is None:
        raise BuildError(
            f"system '{system.name}' has no archive to make a machine from", hint="use debian-12"
        )
    key = key_of(system)
    reference = f"{MACHINES}:{key}"
    with run.locked(f"machine-{key}"):
        if engine.inspect_image(reference) is None:
            recipe = dataclasses.replace(system.bootstrap, packages=_packages(system))
            script = _SETTLE.format(user=login_user(system))
            machine = dataclasses.replace(system, name=f"{system.name}-machine", bootstrap=recipe)
            tar = make_root(run, machine, mirror, say=say, customize=(script,))
            engine.import_image(tar, repository=MACHINES, tag=key, changes=[f'CMD ["{INIT}"]'])
            tar.unlink()
    return reference


def login_user(system: System) -> str:
    """The user that the publisher of the system's images has created for SSH."""
    if system.ami is None:
        hint = f"catalog/systems/{system.name}.toml: [ami] user"
        raise BuildError(f"system '{system.name}' names no user for SSH", hint=hint)
    return system.ami.user


def key_of(system: System) -> str:
    """Names the image by all that it is made of, but for the state of the archive."""
    assert system.bootstrap is not None
    inputs = [_FORMAT, dataclasses.asdict(system.bootstrap), _packages(system), _SETTLE, login_user(system)]
    return digest_of(inputs)[:16]


def _packages(system: System) -> tuple[str, ...]:
    assert system.bootstrap is not None
    return tuple(sorted({*system.bootstrap.packages, *_PACKAGES}))


def create(
    engine: Engine,
    image: str,
    *,
    labels: Mapping[str, str],
    network: str = "bridge",
    mounts: Sequence[Bind] = (),
    tmpfs: Mapping[str, str] | None = None,
    arguments: Sequence[str] = (),
    **more: Any,
) -> str:
    """A machine that is not started yet; `arguments` are its kernel's, as far as systemd reads them.

    It has no privilege that any other container has not: systemd needs to see the host's control groups,
    and nothing more.
    """
    return engine.create(
        image,
        command=(INIT, *arguments),
        network=network,
        labels=labels,
        mounts=[Bind(source="/sys/fs/cgroup", target="/sys/fs/cgroup"), *mounts],
        tmpfs={"/run": "mode=0755", "/run/lock": "mode=1777", **(tmpfs or {})},
        cgroupns="host",
        stop_signal="SIGRTMIN+3",
        **more,
    )
