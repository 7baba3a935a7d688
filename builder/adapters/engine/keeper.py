"""Keep the network of a build container: take its link-local addresses, and forward to servers of the site.

Runs as a script in a container whose network the build container joins, so it must not import modules of the
factory. The arguments name the servers; the builder listens on the socket and connects to them.

    python3 -I -c SCRIPT SOCKET ADDRESS PORT NAME…
"""

import fcntl
import socket
import struct
import sys
import threading
from contextlib import suppress

READY = "ready"
_SET_ADDRESS, _SET_MASK = 0x8916, 0x891C  # SIOCSIFADDR, SIOCSIFNETMASK
_CHUNK = 1 << 16


def take_link_local() -> None:
    """Assign 169.254.0.0/16 to this network, so that no such address of the host's network is reachable."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for request, address in ((_SET_ADDRESS, "169.254.0.1"), (_SET_MASK, "255.255.0.0")):
            fields = struct.pack("16sHH4s8x", b"lo:local", socket.AF_INET, 0, socket.inet_aton(address))
            fcntl.ioctl(any_socket, request, fields)


def relay(first: socket.socket, second: socket.socket) -> None:
    """Copy bytes in both directions until both sides have ended."""
    back = threading.Thread(target=_copy, args=(second, first), daemon=True)
    back.start()
    _copy(first, second)
    back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(_CHUNK):
            target.sendall(data)
    except OSError:  # one side was reset: the other direction has no reader either
        with suppress(OSError):
            source.shutdown(socket.SHUT_RDWR)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def _forward(client: socket.socket, path: str, name: str) -> None:
    with client, socket.socket(socket.AF_UNIX) as builder:
        builder.connect(path)
        builder.sendall(f"{name}\n".encode())
        relay(client, builder)


def _serve(listener: socket.socket, path: str, name: str) -> None:
    while True:
        client, _ = listener.accept()
        threading.Thread(target=_forward, args=(client, path, name), daemon=True).start()


def main(arguments: list[str]) -> None:
    path, *words = arguments
    take_link_local()
    for address, port, name in zip(words[::3], words[1::3], words[2::3], strict=True):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listener = socket.create_server((address, int(port)), family=family, backlog=128)
        threading.Thread(target=_serve, args=(listener, path, name), daemon=True).start()
    print(READY, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main(sys.argv[1:])
