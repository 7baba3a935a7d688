"""The way into a machine by SSH: a port on loopback, keys that are neither the image's nor a role's work."""

import socket
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from builder.adapters.ansible.playbook import MOUNT
from builder.adapters.engine.client import Bind

# Before the files of roles, and first wins. The keys lie outside the image: the role `cleanup` removes the
# image's own, and the machine has to be reached again after that.
_CONFIGURATION = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {mount}/run/host_key
AuthorizedKeysFile {mount}/run/authorized_keys
StrictModes no
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(kw_only=True)
class Door:
    """Where to knock; `folder` is the caller's, for the key."""

    folder: Path
    port: int = field(default_factory=free_port)

    @property
    def key(self) -> Path:
        return self.folder / "id_ed25519"

    def make(self, settings: Path) -> None:
        """Writes the machine's side into the folder of settings that it sees."""
        for path in (self.key, settings / "host_key"):
            path.unlink(missing_ok=True)
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)]
            subprocess.run(command, check=True, capture_output=True)
        public = self.key.with_suffix(".pub").read_text(encoding="utf-8")
        (settings / "authorized_keys").write_text(public, encoding="utf-8")
        text = _CONFIGURATION.format(port=self.port, mount=MOUNT)
        (settings / "sshd.conf").write_text(text, encoding="utf-8")

    def mount(self, settings: Path) -> Bind:
        return Bind(source=str(settings / "sshd.conf"), target="/etc/ssh/sshd_config.d/00-scenario.conf")
