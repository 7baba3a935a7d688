"""Send one request over an engine's Unix socket with the fewest imports, for builds with nothing to do.

Importing the SDK would more than double the time of such a build; importing http.client would add a third.
"""

import socket

_TIMEOUT_S = 60


def get(path: str, target: str) -> tuple[int, bytes]:
    """Return status and body of an engine's response; raise OSError if there is none."""
    return _request("GET", path, target)


def post(path: str, target: str) -> tuple[int, bytes]:
    """Send a POST request without a body; return status and body, or raise OSError as `get` does."""
    return _request("POST", path, target)


def _request(method: str, path: str, target: str) -> tuple[int, bytes]:
    """Send a request and return status and body of the response.

    Requests are HTTP/1.0: the engine ends a response by closing the connection, so no length is parsed.
    """
    with socket.socket(socket.AF_UNIX) as connection, connection.makefile("rb") as answer:
        connection.settimeout(_TIMEOUT_S)
        connection.connect(path)
        connection.sendall(f"{method} {target} HTTP/1.0\r\nHost: engine\r\n\r\n".encode())
        words = answer.readline().split()
        if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
            raise ConnectionError("connection closed without an answer")
        while answer.readline().strip():
            pass
        return int(words[1]), answer.read()
