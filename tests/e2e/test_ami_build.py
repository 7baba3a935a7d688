"""Build AMIs in a rehearsal with the real Packer, SSH, Ansible, boot and checks."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import certifi
import pytest

from tests.support.ami_factory import AmiFactory, site
from tests.support.output import result_of
from tests.support.rehearsal import EAST, Key
from tests.support.repository import AMI

pytestmark = [pytest.mark.engine, pytest.mark.e2e]

# No file of an image may contain CANARY. The pattern CANARIES matches CANARY but not itself.
CANARY, CANARIES = "canary-4f1c9d", "canary-[4]f1c9d"


def test_ami_is_built_once_published_after_its_checks_and_contains_no_trace_of_the_build(
    ami_factory: AmiFactory, tmp_path: Path
) -> None:
    canaries = environment_with_canaries(tmp_path)
    for arguments in (
        ["init", "-q"],
        ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "t", "--allow-empty"],
    ):
        subprocess.run(["git", "-C", str(ami_factory.factory.repository.root), *arguments], check=True)
    unchecked = build_with_failing_checks(ami_factory, canaries)
    done = ami_factory.factory.call("build", "--target", "machine", **canaries)
    assert done.code == 0, done.stderr
    ami = done.stdout.strip()
    assert re.fullmatch(r"ami-[0-9a-f]{8,17}", ami)
    assert ami in unchecked, "an AMI that fails its checks is not built again"
    assert "rehearsal on this machine, no AWS account is touched" in done.stderr.splitlines()[0]
    image = ami_factory.aws.describe(ami)
    tags = {tag["Key"]: tag["Value"] for tag in image["Tags"]}
    assert tags["factory:target"] == "machine"
    assert image["Public"] is False
    (receipt,) = (ami_factory.factory.out / "receipts" / "machine").glob("*.json")
    assert tags["factory:commit"] == json.loads(receipt.read_text())["commit"]
    assert tags["factory:commit"].endswith("+"), "files of the checkout are not committed"
    # Temporary resources are deleted, and a second build changes nothing in the account.
    left = set(ami_factory.account()[EAST]) - set(ami_factory.before[EAST])
    snapshots = {mapping["Ebs"]["SnapshotId"] for mapping in image["BlockDeviceMappings"]}
    assert left == {ami, *snapshots}
    number, runs = ami_factory.calls()[-1].number, ami_factory.factory.run_names()
    again = ami_factory.factory.call("build", "--target", "machine", **canaries)
    assert again.stdout.strip() == ami
    assert [call for call in ami_factory.calls(number) if call.mutating] == []
    assert ami_factory.factory.run_names() == runs
    check_disk(ami_factory, ami)
    check_two_instances(ami_factory, ami, tmp_path)


def build_with_failing_checks(ami_factory: AmiFactory, environment: dict[str, str]) -> list[str]:
    """Build with a failing check and repair the check; return the ids of new resources in the account."""
    check = "ansible/roles/base/tests/test_base.py"
    before = (ami_factory.factory.repository.root / check).read_text()
    ami_factory.factory.repository.write(check, "def test_greeting(host):\n    assert False, 'never'\n")
    done = ami_factory.build("--publish", **environment)
    assert done.code == 5
    parameters = ami_factory.aws("ssm").describe_parameters()["Parameters"]
    assert [parameter for parameter in parameters if "machine" in parameter["Name"]] == []
    ami_factory.factory.repository.write(check, before)
    return sorted(set(ami_factory.account()[EAST]) - set(ami_factory.before[EAST]))


def environment_with_canaries(folder: Path) -> dict[str, str]:
    """Return an environment for a build; CANARY is in its values and in the site file that it selects."""
    bundle = folder / "bundle.pem"
    shutil.copy(certifi.where(), bundle)
    with bundle.open("a", encoding="utf-8") as file:
        file.write(f"# {CANARY}\n")
    variables = site(
        folder,
        f"""
        [aws]
        parameters = "/{CANARY}"
        [mirror]
        pip_index = "http://{CANARY}:{CANARY}@127.0.0.1:9/simple"
        pip_extra_indexes = ["http://{CANARY}@127.0.0.1:9/more"]
        pip_find_links = ["http://{CANARY}@127.0.0.1:9/links"]
        ca_bundle = "{bundle}"
        proxy = "http://{CANARY}:{CANARY}@127.0.0.1:9"
        no_proxy = "127.0.0.1,{CANARY}"
        [mirror.prefixes]
        "https://vendor.example/" = "http://{CANARY}@127.0.0.1:9/vendor/"
        """,
    )
    return {
        **variables,
        "FACTORY_CANARY": CANARY,
        "AWS_SESSION_TOKEN": CANARY,
        "GIT_AUTHOR_NAME": CANARY,
        "PACKER_LOG_CANARY": CANARY,
    }


def check_disk(ami_factory: AmiFactory, ami: str) -> None:
    """Check that the disk of an AMI has no keys, secrets or temporary files before the first boot."""
    disk = ami_factory.disk(ami)

    def on(command: str) -> str:
        return ami_factory.factory.in_image(disk, "sh", "-ceu", command).strip()

    assert on("cat /etc/machine-id") in ("", "uninitialized")
    assert on("find /etc/ssh -name 'ssh_host_*'") == ""
    assert on("find / -xdev -name authorized_keys -size +0") == ""
    assert on("find /root /home -name '.*history'") == ""
    assert on("find /root /home /tmp /var/tmp /var/cache -name '.ansible*' -o -name 'factory-*'") == ""
    # grep exits with 1 if nothing matches and with 2 on an error.
    search = (
        f"grep -rlaE --exclude-dir=proc --exclude-dir=sys --exclude-dir=dev '{CANARIES}' / || test $? = 1"
    )
    assert on(search) == ""
    assert on("grep -rla 'PRIVATE [K]EY' /root /home /etc /var /tmp || test $? = 1") == ""
    assert on("cat /etc/fabric-handled") == "handled"


def check_two_instances(ami_factory: AmiFactory, ami: str, tmp_path: Path) -> None:
    """Check that each instance has its own host keys and accepts only the key pair it was started with."""
    key = Key.create(tmp_path)
    ami_factory.aws.ec2.import_key_pair(KeyName="clones", PublicKeyMaterial=key.public)
    clones = [ami_factory.aws.run(ami, KeyName="clones") for _ in range(2)]
    try:
        host_keys = []
        for clone in clones:
            address, port = clone["PublicIpAddress"], ami_factory.rehearsal.ssh_port
            host_keys.append(key.ssh(address, "cat /etc/ssh/ssh_host_ed25519_key.pub", port=port).split()[1])
            (authorized,) = key.ssh(address, "cat /home/admin/.ssh/authorized_keys", port=port).splitlines()
            assert authorized.split()[1] == key.public.decode().split()[1]
        assert len(set(host_keys)) == 2
    finally:
        ami_factory.aws.ec2.terminate_instances(InstanceIds=[clone["InstanceId"] for clone in clones])
        ami_factory.aws.ec2.delete_key_pair(KeyName="clones")


def test_error_names_a_failing_role_and_keep_failed_keeps_the_instance(ami_factory: AmiFactory) -> None:
    ami_factory.factory.repository.write(
        "ansible/roles/fabric/tasks/main.yml",
        '- name: Stop here\n  ansible.builtin.fail:\n    msg: "no such fabric"\n',
    )
    done = ami_factory.build("--keep-failed")
    assert done.code == 4
    assert "role 'fabric'" in done.stderr
    assert "no such fabric" in done.stderr
    hints = dict(re.findall(r"(look inside|remove it): (.+)", done.stderr))
    login, removal = (shlex.split(hints[name]) for name in ("look inside", "remove it"))
    instance, run = login[-1], removal[2]
    seen = subprocess.run([*login, "cat /etc/greeting"], capture_output=True, text=True, timeout=60)
    assert seen.stdout.strip() == ami_factory.factory.greeting, seen.stderr
    assert {name.split()[1][:2] for name in ami_factory.left()} >= {"i-", "sg"}
    assert f"{instance} kept by --keep-failed" in ami_factory.factory.call("clean").stdout
    assert ami_factory.factory.call(*removal[1:]).code == 0
    assert ami_factory.left() == []
    assert not list(ami_factory.factory.home.glob(f"journal/{run}*"))


EVERYTHING = """
[aws]
copy_regions = ["us-west-2"]
share_accounts = ["210987654321"]
deprecate_after_days = 30
"""


SEALED = """
summary = "for a service that accepts no encrypted AMI"
kind = "ami"
components = ["base"]
[flavours.debian-12]
summary = "the default"
system = "debian-12"
stack = "plain-1"
"""


@pytest.mark.parametrize(
    ("target", "settings", "arguments"),
    [
        pytest.param("machine", "", [], marks=pytest.mark.boundaries),
        pytest.param("bare", "[aws]\nencrypt = true\n", ["--publish"], marks=pytest.mark.boundaries),
        ("sealed", EVERYTHING, ["--publish"]),
    ],
    ids=["build", "publication, encrypted", "copies, shares, deprecation"],
)
def test_an_ami_build_makes_exactly_the_planned_api_calls(
    ami_factory: AmiFactory, tmp_path: Path, target: str, settings: str, arguments: list[str]
) -> None:
    """`plan --json` lists exactly the mutating API calls that the account receives during the build."""
    prepare_other_targets(ami_factory)
    variables = site(tmp_path, settings)
    shown = ami_factory.factory.call("plan", "--target", target, "--json", *arguments, **variables)
    assert shown.code == 0, shown.stderr
    (planned,) = result_of(shown.stdout)
    number = ami_factory.calls()[-1].number
    done = ami_factory.factory.call("build", "--target", target, *arguments, **variables)
    assert done.code == 0, done.stderr
    called = {(call.service, call.action) for call in ami_factory.calls(number) if call.mutating}
    assert called == {(call["service"], call["call"]) for call in planned["changing_calls"]}


def prepare_other_targets(ami_factory: AmiFactory) -> None:
    repository = ami_factory.factory.repository
    repository.write("catalog/targets/sealed.toml", SEALED + AMI + "encryptable = false\n")
    repository.write("catalog/targets/bare.toml", SEALED.replace("accepts no", "accepts an") + AMI)
    repository.relock()


def test_a_container_is_pushed_to_ecr_once(ami_factory: AmiFactory, tmp_path: Path) -> None:
    """ECR rejects a push without a token or to a missing repository; the builder provides both."""
    variables = site(tmp_path, '[registry]\npush = "ecr/training"\n')
    done = ami_factory.factory.call("build", "--target", "hello", "--publish", **variables)
    assert done.code == 0, done.stderr
    name, _, digest = done.stdout.strip().partition("@")
    assert name == f"{ami_factory.rehearsal.registries[EAST]}/training/hello"
    found = ami_factory.aws("ecr").describe_images(repositoryName="training/hello")["imageDetails"]
    assert {image["imageDigest"] for image in found} == {digest}
    number = ami_factory.calls()[-1].number
    assert (
        ami_factory.factory.call("build", "--target", "hello", "--publish", **variables).stdout == done.stdout
    )
    assert [call for call in ami_factory.calls(number) if call.mutating] == []
    ami_factory.aws("ecr").delete_repository(repositoryName="training/hello", force=True)
