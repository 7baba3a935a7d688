"""SSH access to a machine in a container: a port on loopback, and keys that are not in its image."""

import socket
from dataclasses import dataclass, field
from pathlib import Path

from builder.adapters.ansible.runtime import MOUNT
from builder.adapters.engine.client import Bind
from builder.adapters.host import process
from builder.errors import MissingError

# sshd reads this file before the files of roles; the first value wins. The keys are outside the image because
# the role `cleanup` deletes those in the image, and the machine must stay reachable.
_CONFIGURATION = """\
HostKey {mount}/run/host_key
AuthorizedKeysFile {mount}/run/authorized_keys
StrictModes no
"""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True, kw_only=True)
class SshAccess:
    """Port and private key of one machine; `folder` contains the key."""

    folder: Path
    port: int = field(default_factory=_free_port)

    @property
    def ports(self) -> dict[int | str, tuple[str, int]]:
        """The port of sshd that the machine's network publishes on this host."""
        return {"22/tcp": ("127.0.0.1", self.port)}

    @property
    def key(self) -> Path:
        return self.folder / "id_ed25519"

    def prepare(self, settings: Path) -> Bind:
        """Write keys and sshd configuration into `settings`; return the mount of the configuration."""
        for path in (self.key, settings / "host_key"):
            path.unlink(missing_ok=True)
            argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)]
            done = process.run(argv, timeout_s=60)
            if done.code != 0:
                raise MissingError(f"ssh-keygen failed: {done.tail}", hint="apt-get install openssh-client")
        public = self.key.with_suffix(".pub").read_text(encoding="utf-8")
        (settings / "authorized_keys").write_text(public, encoding="utf-8")
        text = _CONFIGURATION.format(mount=MOUNT)
        (settings / "sshd.conf").write_text(text, encoding="utf-8")
        return Bind(source=str(settings / "sshd.conf"), target="/etc/ssh/sshd_config.d/00-scenario.conf")
