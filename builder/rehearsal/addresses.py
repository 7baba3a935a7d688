"""Addresses of the rehearsal: all of them in 127.0.0.0/8, each held by one process of this machine at a time.

Whatever does not lie in 127.0.0.0/8 is refused here, so that a mistake ends at this machine and not at
somebody's host.
"""

import errno
import ipaddress
import socket
import threading
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from builder.errors import MissingError, UsageError

# Nothing listens here; what has no address of its own yet shows this one.
NOWHERE = "127.255.255.254"
SSH_PORTS = (22, 2222)
_LOOPBACK = ipaddress.ip_network("127.0.0.0/8")
_FIRST, _LAST = ipaddress.ip_address("127.0.2.2"), ipaddress.ip_address("127.0.250.254")
_LISTEN = "0A"
_MARK_PORT = 47022


def require_loopback(place: str) -> str:
    """The address or URL itself; an error if it is anything but this machine."""
    host = urlsplit(place).hostname if "//" in place else place
    with suppress(ValueError):
        if ipaddress.ip_address(host or "") in _LOOPBACK:
            return place
    raise UsageError(
        f"{place} is no address in 127.0.0.0/8: a rehearsal stays on this machine",
        hint="unset AWS_ENDPOINT_URL, then: builder rehearse up",
    )


def listeners(
    tables: tuple[Path, ...] = (Path("/proc/net/tcp"), Path("/proc/net/tcp6")),
) -> set[tuple[str, int]]:
    """(address, port) of all that listens here; "" is the address of who listens on all of them.

    The kernel's own table is asked: binding a port below 1024 to see if it is free takes a right that
    who starts a rehearsal may not have.
    """
    found = set()
    for table in tables:
        with suppress(FileNotFoundError):
            for line in table.read_text(encoding="ascii").splitlines()[1:]:
                _, local, _, state, *_ = line.split()
                if state == _LISTEN:
                    address, port = local.split(":")
                    found.add((_readable(address), int(port, 16)))
    return found


def _readable(word: str) -> str:
    if len(word) != 8:  # IPv6: only who listens on everything takes IPv4's ports too
        return "" if set(word) == {"0"} else f"ipv6:{word}"
    return str(ipaddress.ip_address(int.from_bytes(bytes.fromhex(word), "little"))) if int(word, 16) else ""


def find_ssh_port() -> int:
    """The port that machines answer on: 22, unless a daemon of this host holds it on every address."""
    taken = {port for address, port in listeners() if not address}
    for port in SSH_PORTS:
        if port not in taken:
            return port
    raise MissingError(
        f"ports {' and '.join(map(str, SSH_PORTS))} are held on all addresses of this machine",
        hint="ss -ltnp shows by whom; give one of them an address of its own (ListenAddress)",
    )


class Addresses:
    """Hands out addresses that no other rehearsal of this machine has.

    A bound socket marks an address as taken: the kernel gives it to one process only, whoever that is and
    wherever its files are, and takes it back when the process is gone.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self._held: dict[str, socket.socket] = {}
        self._lock = threading.Lock()

    def take(self, excluded: Collection[str] = ()) -> str:
        """An address outside `excluded` that no process of this machine holds."""
        with self._lock:
            busy = listeners()
            for address in self._candidates():
                if address not in excluded and (address, self.port) not in busy and self._hold(address):
                    return address
        raise MissingError("all addresses of the rehearsal are taken", hint="builder rehearse status")

    def release(self, address: str) -> None:
        with self._lock:
            if held := self._held.pop(address, None):
                held.close()

    def _candidates(self) -> Iterator[str]:
        for number in range(int(_FIRST), int(_LAST) + 1):
            if number & 0xFF not in (0, 255):
                yield require_loopback(str(ipaddress.ip_address(number)))

    def _hold(self, address: str) -> bool:
        mark = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            mark.bind((address, _MARK_PORT))
        except OSError as error:
            mark.close()
            if error.errno != errno.EADDRINUSE:
                raise MissingError(
                    f"{address} cannot be used here: {error.strerror}", hint="rehearsals need Linux"
                ) from error
            return False
        self._held[address] = mark
        return True
