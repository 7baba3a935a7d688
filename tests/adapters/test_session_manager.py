"""Session Manager in a rehearsal: StartSession, then the stand-in of session-manager-plugin."""

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from builder.adapters.ami.access import session_proxy
from builder.site import AwsSettings
from tests.support.rehearsal import EAST, ROOT, Clients

PROGRAM = [sys.executable, str(ROOT / "tests" / "support" / "session_manager_plugin.py")]
BOUND_S = 30.0


@pytest.fixture
def instance(aws: Clients) -> Iterator[dict[str, Any]]:
    """A running instance with a profile."""
    aws("iam").create_instance_profile(InstanceProfileName="sessions")
    found = aws.run(IamInstanceProfile={"Name": "sessions"})
    yield found
    aws.ec2.terminate_instances(InstanceIds=[found["InstanceId"]])
    aws("iam").delete_instance_profile(InstanceProfileName="sessions")


@pytest.fixture
def port(instance: dict[str, Any]) -> Iterator[int]:
    """Port of the instance at which a program returns each line in upper case."""
    with socket.create_server((instance["PublicIpAddress"], 0)) as server:

        def serve() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                with client:
                    client.sendall(client.recv(100).upper())

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def start(aws: Clients, target: str, document: str, **parameters: list[str]) -> list[str]:
    """Call StartSession; return the arguments that Packer's plugin and the AWS CLI give the program."""
    request = {"Target": target, "DocumentName": document, "Parameters": parameters}
    answer = aws("ssm").start_session(**request)
    response = {name: answer[name] for name in ("SessionId", "TokenValue", "StreamUrl")}
    return [json.dumps(response), EAST, "StartSession", "", json.dumps(request), aws.endpoint]


def test_ssh_of_the_checks_is_carried_by_standard_input_and_output(
    aws: Clients, instance: dict[str, Any], port: int
) -> None:
    words = start(aws, instance["InstanceId"], "AWS-StartSSHSession", portNumber=[str(port)])
    done = subprocess.run(
        [*PROGRAM, *words], input=b"hello\n", capture_output=True, timeout=BOUND_S, check=True
    )
    assert done.stdout.endswith(b"HELLO\n")
    assert b"Starting session with SessionId: " in done.stdout


def test_the_proxy_command_asks_for_the_session_that_carries_ssh() -> None:
    words = session_proxy(EAST, AwsSettings(ssh_interface="session_manager")).split()
    assert words[words.index("--document-name") + 1] == "AWS-StartSSHSession"
    assert words[words.index("--parameters") + 1] == "portNumber=%p"
    assert words[words.index("--target") + 1] == "%h"


def test_the_tunnel_of_packer_is_a_local_port(aws: Clients, instance: dict[str, Any], port: int) -> None:
    numbers = {"portNumber": [str(port)], "localPortNumber": ["0"]}
    words = start(aws, instance["InstanceId"], "AWS-StartPortForwardingSession", **numbers)
    with subprocess.Popen([*PROGRAM, *words], stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        opened = next(line for line in program.stdout if line.startswith("Port "))
        with socket.create_connection(("127.0.0.1", int(opened.split()[1])), timeout=BOUND_S) as client:
            client.sendall(b"hello")
            assert client.recv(100) == b"HELLO"
        program.kill()


def test_a_session_needs_a_profile_and_ends_with_the_instance(aws: Clients) -> None:
    plain = aws.run()["InstanceId"]
    with pytest.raises(ClientError, match="TargetNotConnected"):
        start(aws, plain, "AWS-StartSSHSession", portNumber=["22"])
    aws.ec2.terminate_instances(InstanceIds=[plain])
    with pytest.raises(ClientError, match="TargetNotConnected"):
        start(aws, plain, "AWS-StartSSHSession", portNumber=["22"])


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ([], "The Session Manager plugin was installed successfully."),
        (["--version"], "1.2."),
        (["sessions"], "Unknown operation sessions."),
        (["{}", EAST, "Stop", "", "{}", ""], "Invalid Operation"),
    ],
)
def test_other_arguments_are_answered_as_by_session_manager_plugin(words: list[str], answer: str) -> None:
    done = subprocess.run([*PROGRAM, *words], capture_output=True, text=True, timeout=BOUND_S, check=True)
    assert answer in done.stdout
