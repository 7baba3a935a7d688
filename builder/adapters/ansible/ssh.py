"""SSH access to a machine in a container: a port on loopback, and keys that lie outside its image."""

import socket
from dataclasses import dataclass, field
from pathlib import Path

from builder.adapters.ansible.runtime import MOUNT
from builder.adapters.engine.client import Bind
from builder.adapters.host import process
from builder.errors import MissingError

# Read before the files of roles, and the first value wins. The keys lie outside the image because the role
# `cleanup` removes the image's own, and the machine has to be reached again after that.
_CONFIGURATION = """\
Port {port}
ListenAddress 127.0.0.1
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
    """The port and the private key of one machine; `folder` keeps the key."""

    folder: Path
    port: int = field(default_factory=_free_port)

    @property
    def key(self) -> Path:
        return self.folder / "id_ed25519"

    def prepare(self, settings: Path) -> Bind:
        """Write keys and configuration into the settings that the machine sees; the mount for its sshd."""
        for path in (self.key, settings / "host_key"):
            path.unlink(missing_ok=True)
            argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)]
            made = process.run(argv, timeout_s=60)
            if made.code != 0:
                raise MissingError(
                    f"ssh-keygen made no key: {made.tail}", hint="apt-get install openssh-client"
                )
        public = self.key.with_suffix(".pub").read_text(encoding="utf-8")
        (settings / "authorized_keys").write_text(public, encoding="utf-8")
        text = _CONFIGURATION.format(port=self.port, mount=MOUNT)
        (settings / "sshd.conf").write_text(text, encoding="utf-8")
        return Bind(source=str(settings / "sshd.conf"), target="/etc/ssh/sshd_config.d/00-scenario.conf")
