"""User data scripts and the metadata service of an instance, without an instance."""

import base64
import gzip
import http.client
import json
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from builder.rehearsal.ec2.imds import Metadata
from builder.rehearsal.ec2.userdata import Unsupported, to_script

# User data.


def effects(user_data: str | bytes, folder: Path) -> Path:
    """Run the script that is made from user data, with `folder` as the root of its paths."""
    data = user_data if isinstance(user_data, bytes) else textwrap.dedent(user_data).encode()
    script = to_script(data)
    for path in ("/var/lib/cloud/instance", "/var/log", "/etc", "/opt"):
        script = script.replace(path, f"{folder}{path}")
        (folder / path.lstrip("/")).mkdir(parents=True, exist_ok=True)
    script = script.replace("chown root:root", ":")
    subprocess.run(["/bin/sh", "-c", script], check=False, timeout=30)
    assert (folder / "var/lib/cloud/instance/boot-finished").exists()
    return folder


def test_a_shell_script_runs_and_its_output_is_logged(tmp_path: Path) -> None:
    effects(f"#!/bin/sh\necho printed\nprintf ran > {tmp_path}/done\n".encode(), tmp_path)
    assert (tmp_path / "done").read_text() == "ran"
    assert "printed" in (tmp_path / "var/log/cloud-init-output.log").read_text()


def test_a_python_script_runs(tmp_path: Path) -> None:
    effects(f"#!{sys.executable}\nopen({str(tmp_path / 'done')!r}, 'w').write('python')\n".encode(), tmp_path)
    assert (tmp_path / "done").read_text() == "python"


def test_a_cloud_config_writes_files_before_it_runs_commands(tmp_path: Path) -> None:
    config = """\
        #cloud-config
        hostname: node-1
        users: [default]
        runcmd:
          - [sh, -c, "cat /opt/b/file > /opt/copied"]
          - exit 3
        write_files:
          - {path: /opt/b/file, content: "a 'quoted' $text\\n", permissions: "0640"}
          - {path: /opt/binary, content: AAH/, encoding: b64}
    """
    root = effects(config, tmp_path)
    assert (root / "opt/b/file").read_text() == "a 'quoted' $text\n"
    assert (root / "opt/b/file").stat().st_mode & 0o777 == 0o640
    assert (root / "opt/binary").read_bytes() == b"\0\1\xff"
    assert (root / "opt/copied").read_text() == "a 'quoted' $text\n", "files are there before commands run"
    assert (root / "etc/hostname").read_text() == "node-1\n"


def test_runs_all_parts_of_compressed_multipart_user_data(tmp_path: Path) -> None:
    message = (
        "MIME-Version: 1.0\n"
        'Content-Type: multipart/mixed; boundary="//"\n\n'
        '--//\nContent-Type: text/x-shellscript; charset="us-ascii"\n\n'
        f"#!/bin/sh\nprintf one > {tmp_path}/one\n"
        '--//\nContent-Type: text/cloud-config; charset="us-ascii"\n\n'
        f'#cloud-config\nruncmd: ["printf two > {tmp_path}/two"]\n'
        "--//--\n"
    )
    effects(gzip.compress(message.encode()), tmp_path)
    assert ((tmp_path / "one").read_text(), (tmp_path / "two").read_text()) == ("one", "two")


def test_creates_users_and_authorizes_keys() -> None:
    script = to_script(
        b"#cloud-config\nssh_authorized_keys: [key-1]\n"
        b"users: [{name: ml, groups: [docker, video], sudo: 'ALL=(ALL) NOPASSWD:ALL',"
        b" ssh_authorized_keys: [key-2]}]\n"
    )
    assert "useradd --create-home --shell /bin/bash --groups docker,video ml" in script
    assert base64.b64encode(b"ml ALL=(ALL) NOPASSWD:ALL\n").decode() in script
    assert script.index("key-2") > script.index("useradd")
    assert "$(id -nu 1000)" in script


def test_cloud_config_replaces_the_ssh_host_keys() -> None:
    script = to_script(b"#cloud-config\nssh_keys: {ed25519_private: a, ed25519_public: b}\n")
    order = [script.index(text) for text in ("rm -f", "ssh_host_ed25519_key.pub", "try-restart ssh.service")]
    assert order == sorted(order)
    assert "chmod 0600 /etc/ssh/ssh_host_ed25519_key;" in script


@pytest.mark.parametrize(
    ("user_data", "reason"),
    [
        (b"#cloud-config\npackages: [vim]\n", "unsupported keys packages"),
        (b"#cloud-config\nusers: [{name: a, uid: 5}]\n", "unsupported keys uid"),
        (b"#cloud-config\n- a\n", "not a mapping"),
        (b"#cloud-config\nssh_keys: {../x_private: a}\n", "unsupported keys"),
        (b"#cloud-config\nruncmd: reboot\n", "not a list"),
        (b"#cloud-config\n{\n", "not YAML"),
        (b"## template: jinja\n#cloud-config\n", "begins with"),
        (b"\xff\xfe", "not text"),
        (b"\x1f\x8bbroken", "not text"),
    ],
)
def test_refuses_unsupported_user_data(user_data: bytes, reason: str) -> None:
    with pytest.raises(Unsupported, match=reason):
        to_script(user_data)


def test_empty_user_data_gives_an_empty_script() -> None:
    assert to_script(b"") == to_script(b"\n") == ""


# Tests of the metadata service.

DOCUMENT = {
    "options": {"HttpTokens": "required", "HttpEndpoint": "enabled"},
    "user_data": base64.b64encode(b"#!/bin/sh\n").decode(),
    "paths": {
        "meta-data": {
            "instance-id": "i-1",
            "placement": {"region": "us-east-1"},
            "public-keys": {"": "0=mine", "0": {"openssh-key": "ssh-ed25519 AAAA"}},
        }
    },
}


class Service:
    def __init__(self, port: int) -> None:
        self.port = port

    def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, headers=named)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def token(self, seconds: str = "60", **more: str) -> tuple[int, str]:
        headers = {"X_aws_ec2_metadata_token_ttl_seconds": seconds, **more}
        return self.ask("/latest/api/token", "PUT", **headers)

    def read(self, path: str) -> str:
        status, body = self.ask(path, X_aws_ec2_metadata_token=self.token()[1])
        assert status == 200, body
        return body


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "metadata.json"
    path.write_text(json.dumps(DOCUMENT))
    return path


@pytest.fixture
def service(file: Path) -> Iterator[Service]:
    with Metadata(("127.0.0.1", 0), file) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield Service(server.server_port)
        server.shutdown()
        thread.join()


def test_a_request_without_a_valid_token_is_refused(service: Service) -> None:
    assert service.ask("/latest/meta-data/instance-id")[0] == 401
    assert service.ask("/latest/meta-data/instance-id", X_aws_ec2_metadata_token="guessed")[0] == 401
    assert service.read("/latest/meta-data/instance-id") == "i-1"


@pytest.mark.parametrize("seconds", ["", "0", "21601", "-1", "soon"])
def test_refuses_a_token_request_with_an_invalid_lifetime(service: Service, seconds: str) -> None:
    assert service.token(seconds)[0] == 400


def test_a_token_expires(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    from builder.rehearsal.ec2 import imds

    token = service.token("60")[1]
    assert service.ask("/latest/meta-data/", X_aws_ec2_metadata_token=token)[0] == 200
    later = imds.time.monotonic() + 61
    monkeypatch.setattr(imds.time, "monotonic", lambda: later)
    assert service.ask("/latest/meta-data/", X_aws_ec2_metadata_token=token)[0] == 401


def test_a_forwarded_request_gets_no_token(service: Service) -> None:
    assert service.token("60", X_Forwarded_For="10.0.0.1")[0] == 403


def test_metadata_service_lists_folders_and_answers_404_for_unknown_paths(service: Service) -> None:
    assert service.read("/latest/meta-data/").splitlines() == ["instance-id", "placement/", "public-keys/"]
    assert service.read("/2021-07-15/meta-data/placement/region") == "us-east-1"
    assert service.read("/latest/meta-data/public-keys/") == "0=mine"
    assert service.read("/latest/meta-data/public-keys/0/openssh-key") == "ssh-ed25519 AAAA"
    assert service.read("/latest/user-data") == "#!/bin/sh\n"
    token = service.token()[1]
    assert service.ask("/latest/meta-data/nothing", X_aws_ec2_metadata_token=token)[0] == 404
    assert service.ask("/latest/meta-data/instance-id/x", X_aws_ec2_metadata_token=token)[0] == 404


def test_metadata_service_serves_the_current_content_of_its_file(service: Service, file: Path) -> None:
    options: dict[str, Any] = {**DOCUMENT, "options": {"HttpTokens": "optional", "HttpEndpoint": "enabled"}}
    file.write_text(json.dumps(options))
    assert service.ask("/latest/meta-data/instance-id") == (200, "i-1")
    file.write_text('{"half')
    assert service.ask("/latest/meta-data/instance-id") == (200, "i-1"), "keeps the previous content"
    options["options"]["HttpEndpoint"] = "disabled"
    file.write_text(json.dumps(options))
    assert service.ask("/latest/meta-data/instance-id")[0] == 403
