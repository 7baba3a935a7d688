"""Build machine images, which resemble a distribution's cloud image, and create containers from them.

A machine image has systemd, sshd and a login user, but no host keys or machine id. It is bootstrapped like
the base image of containers and cached in the engine under the hash of its inputs. Knows nothing about EC2.
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
from builder.model import Bootstrap, System
from builder.rehearsal.ec2 import cgroups
from builder.sources import digest_of

MACHINES = "factory-machines"  # repository of all machine images in the engine; the tag is the key
INIT = "/lib/systemd/systemd"

_FORMAT = 1
# Packages that a distribution's cloud image has in addition to the base of a container.
_PACKAGES = (
    *("dbus", "init", "iproute2", "kmod", "libnss-systemd", "libpam-systemd", "netbase", "openssh-server"),
    *("procps", "sudo", "systemd", "systemd-sysv", "tzdata", "udev"),
)
# The unit creates the host keys at the first boot, as cloud-init does on a real machine.
_CONFIGURE = """\
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
# Debian 13 mounts a tmpfs on /tmp, which a container is not allowed to do.
chroot "$1" systemctl --quiet mask tmp.mount
chroot "$1" systemctl --quiet set-default multi-user.target
"""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Extra:
    """Packages and settings of a machine image that a distribution's cloud image lacks."""

    packages: tuple[str, ...] = ()
    script: str = ""  # shell code that runs last, with the root of the image in $1


def ensure(
    engine: Engine,
    run: Run,
    system: System,
    mirror: Mirror,
    say: process.OnLine,
    extra: Extra | None = None,
) -> str:
    """Return the reference of the system's machine image; build the image if the engine has none."""
    if system.bootstrap is None:
        raise BuildError(
            f"system '{system.name}' cannot be bootstrapped, so it has no machine image",
            hint="use debian-12",
        )
    key = key_of(system, extra)
    reference = f"{MACHINES}:{key}"
    with run.locked(f"machine-{key}"):
        if engine.inspect_image(reference) is None:
            recipe = _recipe(system.bootstrap, extra)
            script = _CONFIGURE.format(user=login_user(system)) + (extra.script if extra else "")
            machine = dataclasses.replace(system, name=f"{system.name}-machine", bootstrap=recipe)
            tar = make_root(run, machine, mirror, say=say, customize=(script,))
            engine.import_image(tar, repository=MACHINES, tag=key, changes=[f'CMD ["{INIT}"]'])
            tar.unlink()
    return reference


def login_user(system: System) -> str:
    """Return the login user for SSH in the images that the system's vendor publishes."""
    if system.ami is None:
        hint = f"set user under [ami] in catalog/systems/{system.name}.toml"
        raise BuildError(f"system '{system.name}' has no login user for SSH", hint=hint)
    return system.ami.user


def key_of(system: System, extra: Extra | None = None) -> str:
    """Return the hash of the image's inputs, except for the state of the package archive."""
    assert system.bootstrap is not None
    inputs = [
        _FORMAT,
        dataclasses.asdict(_recipe(system.bootstrap)),
        _CONFIGURE,
        login_user(system),
        *([dataclasses.asdict(extra)] if extra else []),
    ]
    return digest_of(inputs)[:16]


def _recipe(base: Bootstrap, extra: Extra | None = None) -> Bootstrap:
    """Return the recipe of a machine, whose package sources have only `main`, as in Debian's cloud images."""
    packages = {*base.packages, *_PACKAGES, *(extra.packages if extra else ())}
    return dataclasses.replace(base, areas=("main",), packages=tuple(sorted(packages)))


def create(
    engine: Engine,
    image: str,
    *,
    keeper: str,
    labels: Mapping[str, str],
    network: str,
    mounts: Sequence[Bind] = (),
    tmpfs: Mapping[str, str] | None = None,
    **more: Any,
) -> str:
    """Create the container of a machine and return its id.

    It is not privileged, but can write to the control group that it shares with the container `keeper`.
    """
    groups = cgroups.machine_options(engine, keeper)
    return engine.create(
        image,
        command=(INIT,),
        network=network,
        labels=labels,
        mounts=[*groups.pop("mounts"), *mounts],
        tmpfs={"/run": "mode=0755", "/run/lock": "mode=1777", **groups.pop("tmpfs"), **(tmpfs or {})},
        stop_signal="SIGRTMIN+3",
        **groups,
        **more,
    )
