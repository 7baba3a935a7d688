"""An AMI from its target to its receipt, in a rehearsal: Packer, SSH, Ansible, a boot, checks."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import certifi
import pytest

from tests.support.ami_factory import AmiFactory, ami_of, site
from tests.support.rehearsal import EAST, Key
from tests.support.repository import AMI

pytestmark = [pytest.mark.engine, pytest.mark.e2e]

# What must not be found in an image, whatever it was given by; as a pattern it does not match itself.
CANARY, CANARIES = "canary-4f1c9d", "canary-[4]f1c9d"


def test_an_image_is_made_once_and_boots_without_a_trace_of_its_making(
    ami_factory: AmiFactory, tmp_path: Path
) -> None:
    planted = plant(tmp_path)
    for words in (
        ["init", "-q"],
        ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "t", "--allow-empty"],
    ):
        subprocess.run(["git", "-C", str(ami_factory.factory.repository.root), *words], check=True)
    done = ami_factory.factory.call("build", "--target", "machine", **planted)
    assert done.code == 0, done.stderr
    ami = done.stdout.strip()
    assert re.fullmatch(r"ami-[0-9a-f]{8,17}", ami)
    assert "rehearsal on this machine, no AWS account is touched" in done.stderr.splitlines()[0]
    image = ami_factory.aws.describe(ami)
    tags = {tag["Key"]: tag["Value"] for tag in image["Tags"]}
    assert tags["factory:target"] == "machine"
    assert image["Public"] is False
    (receipt,) = (ami_factory.factory.out / "receipts" / "machine").glob("*.json")
    assert tags["factory:commit"] == json.loads(receipt.read_text())["commit"]
    assert tags["factory:commit"].endswith("+"), "files of the checkout are not committed"
    # All that was made for the making is gone, and a second build changes nothing.
    left = set(ami_factory.account()[EAST]) - set(ami_factory.before[EAST])
    snapshots = {one["Ebs"]["SnapshotId"] for one in image["BlockDeviceMappings"]}
    assert left == {ami, *snapshots}
    number, runs = ami_factory.calls()[-1].number, ami_factory.factory.run_names()
    again = ami_factory.factory.call("build", "--target", "machine", **planted)
    assert again.stdout.strip() == ami
    assert [call for call in ami_factory.calls(number) if call.mutating] == []
    assert ami_factory.factory.run_names() == runs
    look_at_the_disk(ami_factory, ami)
    look_at_two_clones(ami_factory, ami, tmp_path)


def plant(folder: Path) -> dict[str, str]:
    """A canary in everything that a site gives a build: environment, credentials, indexes, certificates."""
    bundle = folder / "bundle.pem"
    shutil.copy(certifi.where(), bundle)
    with bundle.open("a", encoding="utf-8") as file:
        file.write(f"# {CANARY}\n")
    own = site(
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
        **own,
        "FACTORY_CANARY": CANARY,
        "AWS_SESSION_TOKEN": CANARY,
        "GIT_AUTHOR_NAME": CANARY,
        "PACKER_LOG_CANARY": CANARY,
    }


def look_at_the_disk(ami_factory: AmiFactory, ami: str) -> None:
    """The image as it was captured, before anything of it ever ran again."""
    disk = ami_factory.disk(ami)

    def on(command: str) -> str:
        return ami_factory.factory.in_image(disk, "sh", "-ceu", command).strip()

    assert on("cat /etc/machine-id") in ("", "uninitialized")
    assert on("find /etc/ssh -name 'ssh_host_*'") == ""
    assert on("find / -xdev -name authorized_keys -size +0") == ""
    assert on("find /root /home -name '.*history'") == ""
    assert on("find /root /home /tmp /var/tmp /var/cache -name '.ansible*' -o -name 'factory-*'") == ""
    # grep ends with 1 where nothing is found, and with 2 where it could not look.
    search = (
        f"grep -rlaE --exclude-dir=proc --exclude-dir=sys --exclude-dir=dev '{CANARIES}' / || test $? = 1"
    )
    assert on(search) == ""
    assert on("grep -rla 'PRIVATE [K]EY' /root /home /etc /var /tmp || test $? = 1") == ""
    assert on("cat /etc/fabric-settled") == "settled"


def look_at_two_clones(ami_factory: AmiFactory, ami: str, tmp_path: Path) -> None:
    """Machines of one image: each with host keys of its own, and with the key of whoever started it alone."""
    key = Key.create(tmp_path)
    ami_factory.aws.ec2.import_key_pair(KeyName="clones", PublicKeyMaterial=key.public)
    clones = [ami_factory.aws.run(ami, KeyName="clones") for _ in range(2)]
    try:
        seen = []
        for clone in clones:
            address, port = clone["PublicIpAddress"], ami_factory.rehearsal.ssh_port
            seen.append(key.ssh(address, "cat /etc/ssh/ssh_host_ed25519_key.pub", port=port).split()[1])
            (kept,) = key.ssh(address, "cat /home/admin/.ssh/authorized_keys", port=port).splitlines()
            assert kept.split()[1] == key.public.decode().split()[1]
        assert len(set(seen)) == 2
    finally:
        ami_factory.aws.ec2.terminate_instances(InstanceIds=[one["InstanceId"] for one in clones])
        ami_factory.aws.ec2.delete_key_pair(KeyName="clones")


def test_a_role_that_fails_makes_no_image_and_is_named(ami_factory: AmiFactory) -> None:
    ami_factory.factory.repository.write(
        "ansible/roles/fabric/tasks/main.yml",
        '- name: Stop here\n  ansible.builtin.fail:\n    msg: "no such fabric"\n',
    )
    done = ami_factory.build()
    assert done.code == 4
    assert "role 'fabric'" in done.stderr
    assert "no such fabric" in done.stderr
    assert ami_factory.left() == []


def test_an_image_that_fails_its_checks_is_not_a_result_and_is_not_made_again(
    ami_factory: AmiFactory,
) -> None:
    ami_factory.factory.repository.write(
        "ansible/roles/base/tests/test_base.py", "def test_greeting(host):\n    assert False, 'never'\n"
    )
    done = ami_factory.build("--publish")
    assert done.code == 5
    made = ami_factory.aws.ec2.describe_images(Owners=["self"])["Images"]
    ami_factory.factory.repository.write(
        "ansible/roles/base/tests/test_base.py",
        "def test_greeting(host):\n    assert host.file('/etc/greeting').exists\n",
    )
    again = ami_factory.build()
    assert ami_of(again) in {one["ImageId"] for one in made}
    parameters = ami_factory.aws("ssm").describe_parameters()["Parameters"]
    assert [one for one in parameters if "machine" in one["Name"]] == []


EVERYTHING = """
[aws]
copy_regions = ["us-west-2"]
share_accounts = ["210987654321"]
deprecate_after_days = 30
"""


SEALED = """
summary = "for a service that takes no encrypted image"
kind = "ami"
components = ["base"]
[flavours.debian-12]
summary = "the default"
system = "debian-12"
stack = "plain-1"
"""


@pytest.mark.parametrize(
    ("target", "settings", "words"),
    [
        ("machine", "", []),
        ("bare", "[aws]\nencrypt = true\n", ["--publish"]),
        ("sealed", EVERYTHING, ["--publish"]),
    ],
    ids=["build", "publication, encrypted", "copies, shares, deprecation"],
)
def test_what_is_planned_is_what_is_called(
    ami_factory: AmiFactory, tmp_path: Path, target: str, settings: str, words: list[str]
) -> None:
    """No call that changes something is made and was not announced, and none is announced in vain."""
    prepare_other_targets(ami_factory)
    own = site(tmp_path, settings)
    shown = ami_factory.factory.call("plan", "--target", target, "--json", *words, **own)
    assert shown.code == 0, shown.stderr
    (planned,) = json.loads(shown.stdout)
    number = ami_factory.calls()[-1].number
    done = ami_factory.factory.call("build", "--target", target, *words, **own)
    assert done.code == 0, done.stderr
    called = {(call.service, call.action) for call in ami_factory.calls(number) if call.mutating}
    assert called == {(one["service"], one["call"]) for one in planned["changing_calls"]}


def prepare_other_targets(ami_factory: AmiFactory) -> None:
    repository = ami_factory.factory.repository
    repository.write("catalog/targets/sealed.toml", SEALED + AMI + "encryptable = false\n")
    repository.write("catalog/targets/bare.toml", SEALED.replace("takes no", "takes an") + AMI)
    repository.relock()


def test_a_container_goes_to_the_registry_of_the_account(ami_factory: AmiFactory, tmp_path: Path) -> None:
    """ECR takes nothing for a repository that is not there, and nothing without a token."""
    own = site(tmp_path, '[registry]\npush = "ecr/training"\n')
    done = ami_factory.factory.call("build", "--target", "hello", "--publish", **own)
    assert done.code == 0, done.stderr
    name, _, digest = done.stdout.strip().partition("@")
    assert name == f"{ami_factory.rehearsal.registries[EAST]}/training/hello"
    found = ami_factory.aws("ecr").describe_images(repositoryName="training/hello")["imageDetails"]
    assert {one["imageDigest"] for one in found} == {digest}
    number = ami_factory.calls()[-1].number
    assert ami_factory.factory.call("build", "--target", "hello", "--publish", **own).stdout == done.stdout
    assert [call for call in ami_factory.calls(number) if call.mutating] == []
    ami_factory.aws("ecr").delete_repository(repositoryName="training/hello", force=True)
