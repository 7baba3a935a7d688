"""Instances of a rehearsal: SSH, disks, image copies, metadata service, container registry."""

import base64
import io
import json
import re
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from botocore.exceptions import ClientError

from builder.adapters.ami.checker import ssh_config
from builder.adapters.aws.sshkeys import host_key
from builder.adapters.engine.client import Engine
from builder.marks import REHEARSAL_LABEL
from builder.rehearsal.ec2 import engine_hosts
from builder.rehearsal.ec2.engine_hosts import EngineHosts
from builder.rehearsal.ec2.hosts import Launch
from builder.rehearsal.ec2.machine import MACHINES
from builder.wait import until
from tests.support.rehearsal import DEBIAN, WEST, Clients, Key
from tests.support.rehearsed import Program

pytestmark = [pytest.mark.engine, pytest.mark.e2e]

ASK = """
import sys, urllib.error, urllib.request as web
base = "http://169.254.169.254/latest/"
def ask(path, method="GET", **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return web.urlopen(web.Request(base + path, method=method, headers=headers), timeout=5).read().decode()
try:
    print(ask("meta-data/instance-id"))
except urllib.error.HTTPError as error:
    print(error.code)
token = ask("api/token", "PUT", X_aws_ec2_metadata_token_ttl_seconds="60")
for path in sys.argv[1:]:
    print(ask(path, X_aws_ec2_metadata_token=token))
"""


@pytest.fixture(scope="module")
def key(aws: Clients, tmp_path_factory: pytest.TempPathFactory) -> Key:
    pair = Key.create(tmp_path_factory.mktemp("keys"))
    for region in ("us-east-1", WEST):
        aws("ec2", region).import_key_pair(KeyName="test", PublicKeyMaterial=pair.public)
    return pair


@pytest.fixture(scope="module")
def machine(aws: Clients, key: Key) -> Iterator[dict[str, Any]]:
    """Instance that tests share and must not change."""
    user_data = "#!/bin/sh\necho user-data output\nhostname > /var/lib/user-data-ran\n"
    options = {"HttpTokens": "required", "HttpEndpoint": "enabled"}
    instance = aws.run(KeyName="test", UserData=user_data, MetadataOptions=options)
    yield instance
    aws.ec2.terminate_instances(InstanceIds=[instance["InstanceId"]])


def test_checks_log_in_only_to_the_pinned_host_key(aws: Clients, key: Key, tmp_path: Path) -> None:
    pinned = host_key(tmp_path, "image")
    config = tmp_path / "ssh_config"
    config.write_text(ssh_config(user="admin", port=22, key=key.file, host=pinned, sockets=tmp_path))

    def login(instance: dict[str, Any]) -> subprocess.CompletedProcess[str]:
        # No control socket: its path has a length limit, which a temporary folder may exceed.
        unshared = ["-o", "ControlMaster=no", "-o", "ControlPath=none"]
        argv = ["ssh", "-F", str(config), *unshared, instance["PublicIpAddress"], "true"]
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)

    ours, other = (aws.run(KeyName="test", UserData=data) for data in (pinned.user_data, ""))
    try:
        assert until(lambda: login(ours).returncode == 0, timeout_s=60, every_s=0.2), login(ours).stderr
        refused = login(other)
        assert refused.returncode == 255
        assert "Host key verification failed" in refused.stderr
        keys = key.ssh(ours["PublicIpAddress"], "ls /etc/ssh/ssh_host_*").split()
        assert keys == ["/etc/ssh/ssh_host_ed25519_key", "/etc/ssh/ssh_host_ed25519_key.pub"]
    finally:
        aws.ec2.terminate_instances(InstanceIds=[ours["InstanceId"], other["InstanceId"]])


def succeeds(address: str, key: Key, command: str) -> bool:
    return key.try_ssh(address, command).returncode == 0


def test_an_instance_boots_and_accepts_only_its_user_and_key(
    machine: dict[str, Any], key: Key, tmp_path: Path
) -> None:
    address = machine["PublicIpAddress"]
    assert key.ssh(address, "sudo id -un; whoami; hostname").split() == [
        "root",
        "admin",
        f"ip-{machine['PrivateIpAddress'].replace('.', '-')}",
    ]
    assert until(lambda: succeeds(address, key, "systemctl is-system-running"), timeout_s=30, every_s=0.1)
    assert key.try_ssh(address, "true", user="root").returncode == 255, "wrong user"
    assert Key.create(tmp_path).try_ssh(address, "true").returncode == 255, "wrong key"


def test_user_data_runs_at_first_boot(machine: dict[str, Any], key: Key) -> None:
    address = machine["PublicIpAddress"]
    assert until(
        lambda: succeeds(address, key, "test -e /var/lib/cloud/instance/boot-finished"),
        timeout_s=30,
        every_s=0.1,
    )
    assert key.ssh(address, "cat /var/lib/user-data-ran").strip() == key.ssh(address, "hostname").strip()
    assert "user-data output" in key.ssh(address, "cat /var/log/cloud-init-output.log")


def test_the_metadata_service_requires_a_token(machine: dict[str, Any], key: Key) -> None:
    address = machine["PublicIpAddress"]
    script = base64.b64encode(ASK.encode()).decode()
    paths = "meta-data/instance-id meta-data/local-ipv4 meta-data/placement/region meta-data/public-keys/"
    answers = key.ssh(address, f"echo {script} | base64 -d | python3 - {paths}").splitlines()
    assert answers == ["401", machine["InstanceId"], machine["PrivateIpAddress"], "us-east-1", "0=test"]


def test_the_host_has_no_route_to_the_metadata_service(machine: dict[str, Any], key: Key) -> None:
    addresses = subprocess.run(["ip", "-o", "addr"], capture_output=True, text=True, check=False).stdout
    routes = Path("/proc/net/route").read_text()
    assert "169.254.169.254" not in addresses
    assert "FEA9FEA9" not in routes


def test_an_instance_reaches_no_link_local_service_of_the_host(machine: dict[str, Any], key: Key) -> None:
    """169.254.170.2, where AWS serves credentials to containers, is routed to the instance itself."""
    code = (
        "import socket; route = socket.socket(socket.AF_INET, socket.SOCK_DGRAM);"
        " route.connect(('169.254.170.2', 80)); print(route.getsockname()[0])"
    )
    assert key.ssh(machine["PublicIpAddress"], f'python3 -c "{code}"').startswith("169.254.")


def test_instances_use_loopback_addresses_only(aws: Clients, machine: dict[str, Any]) -> None:
    described = json.dumps([aws.ec2.describe_instances(), aws.ec2.describe_network_interfaces()], default=str)
    found = set(re.findall(r"\d{1,3}(?:\.\d{1,3}){3}", described))
    assert found
    assert [address for address in found if not address.startswith("127.")] == []
    ports = [
        port
        for container in Engine().containers(f"{REHEARSAL_LABEL}.instance={machine['InstanceId']}")
        for port in container["Ports"]
    ]
    assert [port["IP"] for port in ports if "IP" in port] == [machine["PublicIpAddress"]]


def test_an_ami_and_its_copy_in_another_region_boot(aws: Clients, key: Key) -> None:
    original = aws.run(KeyName="test")
    mark = uuid.uuid4().hex
    key.ssh(original["PublicIpAddress"], f"echo {mark} | sudo tee /etc/mark; sudo rm /etc/ssh/ssh_host_*")
    aws.ec2.stop_instances(InstanceIds=[original["InstanceId"]])
    aws.ec2.get_waiter("instance_stopped").wait(InstanceIds=[original["InstanceId"]])
    assert key.try_ssh(original["PublicIpAddress"], "true").returncode == 255
    image = aws.ready_image(original["InstanceId"], Name=f"mark-{mark}")
    aws.ec2.terminate_instances(InstanceIds=[original["InstanceId"]])
    request = {"SourceImageId": image, "SourceRegion": "us-east-1", "Name": f"mark-{mark}"}
    copy = aws("ec2", WEST).copy_image(**request)["ImageId"]
    clones = [aws.run(image, KeyName="test"), aws.run(copy, WEST, KeyName="test")]
    addresses = [clone["PublicIpAddress"] for clone in clones]
    assert [key.ssh(address, "cat /etc/mark").strip() for address in addresses] == [mark, mark]
    hosts = {key.ssh(address, "cat /etc/ssh/ssh_host_ed25519_key.pub") for address in addresses}
    assert len(hosts) == 2, "host keys are generated at the first boot"
    keys = key.ssh(addresses[0], "cat ~/.ssh/authorized_keys").splitlines()
    assert keys == [key.public.decode().strip()]
    aws.ec2.terminate_instances(InstanceIds=[clones[0]["InstanceId"]])
    aws("ec2", WEST).terminate_instances(InstanceIds=[clones[1]["InstanceId"]])


def test_authorized_keys_in_an_ami_stay_valid(aws: Clients, key: Key, tmp_path: Path) -> None:
    """As on EC2, the key pair is added to the AMI's authorized_keys, so keys left by a build stay visible."""
    first = aws.run(KeyName="test")
    image = aws.ready_image(first["InstanceId"], NoReboot=True)
    other = Key.create(tmp_path)
    name = f"other-{uuid.uuid4().hex[:6]}"
    aws.ec2.import_key_pair(KeyName=name, PublicKeyMaterial=other.public)
    second = aws.run(image, KeyName=name)
    keys = other.ssh(second["PublicIpAddress"], "cat ~/.ssh/authorized_keys").splitlines()
    assert keys == [key.public.decode().strip(), other.public.decode().strip()]
    aws.ec2.terminate_instances(InstanceIds=[first["InstanceId"], second["InstanceId"]])


def test_stop_start_and_reboot_keep_the_disk(aws: Clients, key: Key) -> None:
    made = aws.run(KeyName="test")
    instance, address = made["InstanceId"], made["PublicIpAddress"]
    key.ssh(address, "sudo touch /etc/stays")

    def booted() -> str:
        return key.try_ssh(address, "test -e /etc/stays && stat -c %Y.%y /proc/1").stdout

    times = [booted()]
    key.try_ssh(address, "sudo systemctl reboot")
    assert until(lambda: booted() not in ("", times[0]), timeout_s=60, every_s=0.1), "a reboot from inside"
    times.append(booted())
    aws.ec2.reboot_instances(InstanceIds=[instance])
    times.append(booted())
    aws.ec2.stop_instances(InstanceIds=[instance])
    aws.ec2.start_instances(InstanceIds=[instance])
    times.append(booted())
    assert all(times)
    assert len(set(times)) == 4
    aws.ec2.terminate_instances(InstanceIds=[instance])
    assert Engine().containers(f"{REHEARSAL_LABEL}.instance={instance}") == []


def test_create_image_restarts_a_running_instance(aws: Clients, key: Key) -> None:
    made = aws.run(KeyName="test")
    key.ssh(made["PublicIpAddress"], "sudo touch /etc/written")
    image = aws.ready_image(made["InstanceId"])
    assert aws.describe(image)["State"] == "available"
    key.ssh(made["PublicIpAddress"], "test -e /etc/written")
    aws.ec2.terminate_instances(InstanceIds=[made["InstanceId"]])


def test_a_machine_without_sshd_starts(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a timeout, which this test shortens, the wait for SSH ends without an error."""
    assert program
    monkeypatch.setattr(engine_hosts, "_BOOT_S", 1.0)
    engine, session = Engine(), uuid.uuid4().hex[:10]
    (machine, *_) = (tag for image in engine.images(reference=MACHINES) for tag in image.tags)
    masked = f"FROM {machine}\nRUN ln -s /dev/null /etc/systemd/system/ssh.service\n"
    silent = f"factory-test:{session}"
    client = docker.DockerClient(base_url=engine.url)
    client.images.build(fileobj=io.BytesIO(masked.encode()), tag=silent, rm=True)
    hosts = EngineHosts(engine=engine, session=session, ssh_port=22, machines=[silent])
    try:
        hosts.tag_snapshot("snap-1", silent)
        address = hosts.take_address()
        hosts.launch(
            Launch(instance="i-1", snapshot="snap-1", address=address, hostname="silent", metadata={})
        )
        states = [container["State"] for container in engine.containers(f"{REHEARSAL_LABEL}={session}")]
        assert states == ["running", "running"]
    finally:
        hosts.sweep()
        engine.remove_image(silent)


@pytest.mark.boundaries  # waits for SSH until the timeout
def test_an_instance_without_sshd_is_running(aws: Clients, key: Key) -> None:
    """In EC2, the state of an instance does not depend on SSH."""
    made = aws.run(KeyName="test")
    key.ssh(made["PublicIpAddress"], "sudo systemctl mask ssh")
    image = aws.ready_image(made["InstanceId"])
    silent = aws.run(image, KeyName="test")
    assert key.try_ssh(silent["PublicIpAddress"], "true").returncode == 255
    found = aws.ec2.describe_instances(InstanceIds=[silent["InstanceId"]])["Reservations"][0]["Instances"][0]
    assert found["State"]["Name"] == "running"
    aws.ec2.terminate_instances(InstanceIds=[made["InstanceId"], silent["InstanceId"]])


def test_a_boot_failure_is_reported_with_console_output(aws: Clients, key: Key) -> None:
    made = aws.run(KeyName="test")
    broken = "printf '#!/bin/sh\\necho no root today\\nexit 1\\n' | sudo tee /lib/systemd/systemd"
    key.ssh(
        made["PublicIpAddress"],
        f"sudo rm /lib/systemd/systemd; {broken}; sudo chmod 755 /lib/systemd/systemd",
    )
    image = aws.ready_image(made["InstanceId"], NoReboot=True)
    with pytest.raises(ClientError, match=r"InternalFailure.*ended during boot.*no root today"):
        aws.run(image, KeyName="test")
    aws.ec2.terminate_instances(InstanceIds=[made["InstanceId"]])


def test_starts_the_ami_that_an_ssm_parameter_names(aws: Clients, key: Key) -> None:
    made = aws.run(f"resolve:ssm:{DEBIAN}", KeyName="test")
    assert key.ssh(made["PublicIpAddress"], "cat /etc/debian_version").startswith("12.")
    aws.ec2.terminate_instances(InstanceIds=[made["InstanceId"]])


def test_docker_pushes_to_and_pulls_from_ecr(aws: Clients, tmp_path: Path) -> None:
    ecr = aws("ecr")
    uri = ecr.create_repository(repositoryName="team/app", imageTagMutability="IMMUTABLE")["repository"][
        "repositoryUri"
    ]
    data = ecr.get_authorization_token()["authorizationData"][0]
    user, _, password = base64.b64decode(data["authorizationToken"]).decode().partition(":")

    def docker(*arguments: str, **options: Any) -> "subprocess.CompletedProcess[str]":
        argv = ["docker", "--config", str(tmp_path), *arguments]
        return subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False, **options)

    login = docker("login", "--username", user, "--password-stdin", data["proxyEndpoint"], input=password)
    assert login.returncode == 0, login.stderr
    dockerfile = "FROM scratch\nCOPY file /\n"
    digests = []
    try:
        for content in ("one", "two"):
            (tmp_path / "file").write_text(content)
            (tmp_path / "Dockerfile").write_text(dockerfile)
            for name in (f"{uri}:1", f"{uri}-missing:1"):
                assert docker("build", "--quiet", "--tag", name, str(tmp_path)).returncode == 0
            pushed = docker("push", f"{uri}:1")
            digests += re.findall(r"digest: (sha256:\w+)", pushed.stdout)
        assert "cannot be overwritten because the repository is immutable" in pushed.stderr
        missing = docker("push", f"{uri}-missing:1")
        assert "does not exist in the registry" in missing.stderr
        (found,) = ecr.describe_images(repositoryName="team/app")["imageDetails"]
        assert [found["imageDigest"]] == digests
        docker("image", "rm", "--force", f"{uri}:1")
        assert docker("pull", f"{uri}@{digests[0]}").returncode == 0
    finally:
        docker(
            "image",
            "rm",
            "--force",
            f"{uri}:1",
            f"{uri}-missing:1",
            *(f"{uri}@{digest}" for digest in digests),
        )


# Program that tries to create a control group in each cgroup folder and prints the folders that allowed it.
GROUPS = """
import os
for folder, _, _ in os.walk("/sys/fs/cgroup"):
    try:
        os.mkdir(folder + "/probe")
    except OSError:
        continue
    print(folder if os.path.exists(folder + "/probe/cgroup.procs") else "")
    os.rmdir(folder + "/probe")
"""


def test_a_machine_writes_to_its_own_control_groups_only(machine: dict[str, Any], key: Key) -> None:
    found = key.ssh(machine["PublicIpAddress"], f"sudo python3 -c '{GROUPS}'; cat /proc/1/cgroup")
    written = [line for line in found.splitlines() if line.startswith("/")]
    groups = dict(line.split(":", 2)[1:] for line in found.splitlines() if line.count(":") >= 2)
    own = groups.get("name=systemd") or groups[""]
    parent = "/".join(own.removesuffix("/init.scope").split("/")[:-1])
    assert written, "systemd has a subtree of its own"
    assert len(parent) > len("/docker/"), "the subtree belongs to this instance alone"
    assert [path for path in written if parent not in path] == []
