"""Allocate addresses in 127.0.0.0/8 for the rehearsal, each to one process of this machine at a time.

Refuses all addresses outside 127.0.0.0/8, so that a mistake cannot reach a foreign host.
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

# The address of network interfaces that have no address of their own yet; no process listens on it.
UNASSIGNED = "127.255.255.254"
SSH_PORTS = (22, 2222)
_LOOPBACK = ipaddress.ip_network("127.0.0.0/8")
_FIRST, _LAST = ipaddress.ip_address("127.0.2.2"), ipaddress.ip_address("127.0.250.254")
_LISTEN = "0A"
_MARK_PORT = 47022


def require_loopback(address: str) -> str:
    """Return the address or URL; raise UsageError if it is not in 127.0.0.0/8."""
    host = urlsplit(address).hostname if "//" in address else address
    with suppress(ValueError):
        if ipaddress.ip_address(host or "") in _LOOPBACK:
            return address
    raise UsageError(
        f"{address} is not in 127.0.0.0/8: a rehearsal stays on this machine",
        hint="unset AWS_ENDPOINT_URL, then: builder rehearse up",
    )


def listeners(
    tables: tuple[Path, ...] = (Path("/proc/net/tcp"), Path("/proc/net/tcp6")),
) -> set[tuple[str, int]]:
    """Return (address, port) of all listening sockets of this machine; "" stands for all addresses.

    Reads the kernel's table, because binding a port below 1024 to test it needs a privilege.
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
    if len(word) != 8:  # IPv6: a socket on all addresses takes the IPv4 port too
        return "" if set(word) == {"0"} else f"ipv6:{word}"
    return str(ipaddress.ip_address(int.from_bytes(bytes.fromhex(word), "little"))) if int(word, 16) else ""


def find_ssh_port() -> int:
    """Return the SSH port for machines: 22, or 2222 if a daemon of this host holds 22 on all addresses."""
    taken = {port for address, port in listeners() if not address}
    for port in SSH_PORTS:
        if port not in taken:
            return port
    raise MissingError(
        f"ports {' and '.join(map(str, SSH_PORTS))} are in use on all addresses of this machine",
        hint="find the daemons with: ss -ltnp; bind one of them to a single address (ListenAddress)",
    )


class Addresses:
    """Allocator of addresses that no other rehearsal of this machine has.

    A bound socket marks an address as taken: the kernel gives it to a single process and releases it when the
    process ends.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self._held: dict[str, socket.socket] = {}
        self._lock = threading.Lock()

    def take(self, excluded: Collection[str] = ()) -> str:
        """Take an address outside `excluded` that no process of this machine holds."""
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

    def holds(self, address: str) -> bool:
        return address in self._held

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
                    f"cannot bind {address}: {error.strerror}", hint="rehearsals need Linux"
                ) from error
            return False
        self._held[address] = mark
        return True
