"""Stand-in of AWS's program session-manager-plugin, for rehearsals: it connects to the instance directly.

Arguments and output are those of session.go in github.com/aws/session-manager-plugin: response of
StartSession, region, operation, profile, parameters of StartSession, endpoint. The real plugin learns the
type of a session from the SSM Agent; this stand-in reads the name of the SSM document.
"""

import json
import os
import socket
import sys
import threading
from urllib.parse import urlsplit

VERSION = "1.2.764.0"


def main(argv: list[str]) -> int:
    """Run the plugin; like the real plugin, return exit code 0 even after an error."""
    if len(argv) == 1:
        print(
            "\nThe Session Manager plugin was installed successfully. Use the AWS CLI to start a session.\n"
        )
    elif argv[1:] == ["--version"]:
        print(VERSION)
    elif len(argv) < 4:
        print(
            f"\nUnknown operation {argv[1]}. \nUse session-manager-plugin --version to check the version.\n"
        )
    elif argv[3] != "StartSession":
        print("Invalid Operation", end="")
    else:
        _start(_response(argv[1]), json.loads(argv[5]))
    return 0


def _response(text: str) -> dict[str, str]:
    """Return the response of StartSession, which newer versions of the AWS CLI pass in a variable."""
    if text.startswith("AWS_SSM_START_SESSION_RESPONSE"):
        text = os.environ.pop(text)
    found: dict[str, str] = json.loads(text)
    return found


def _start(session: dict[str, str], request: dict[str, object]) -> None:
    print(f"\nStarting session with SessionId: {session['SessionId']}", flush=True)
    parameters = request["Parameters"]
    assert isinstance(parameters, dict)
    instance = (str(urlsplit(session["StreamUrl"]).hostname), int(parameters["portNumber"][0]))
    if request["DocumentName"] == "AWS-StartSSHSession":
        _connect(instance, 0, 1)
        return
    with socket.create_server(("127.0.0.1", int(parameters["localPortNumber"][0]))) as server:
        port = server.getsockname()[1]
        print(f"Port {port} opened for sessionId {session['SessionId']}.", flush=True)
        print("Waiting for connections...", flush=True)
        while True:
            client, _ = server.accept()
            print("\nConnection accepted for session", f"[{session['SessionId']}]", flush=True)
            with client:
                _connect(instance, client.fileno(), client.fileno())


def _connect(instance: tuple[str, int], source: int, sink: int) -> None:
    """Copy bytes between two descriptors and the instance until both directions have ended."""
    with socket.create_connection(instance, timeout=30) as far:
        far.settimeout(None)

        def up() -> None:
            while data := os.read(source, 65536):
                far.sendall(data)
            far.shutdown(socket.SHUT_WR)

        threading.Thread(target=up, daemon=True).start()
        while data := far.recv(65536):
            os.write(sink, data)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
