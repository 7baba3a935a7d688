"""An AMI from its target to its receipt, in a rehearsal: Packer, SSH, Ansible, a boot, checks."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import certifi
import pytest

from tests.e2e.shop import Shop, ami_of, site
from tests.support.rehearsal import EAST, Key
from tests.support.repository import AMI

pytestmark = [pytest.mark.engine, pytest.mark.e2e]

# What must not be found in an image, whatever it was given by; as a pattern it does not match itself.
CANARY, CANARIES = "canary-4f1c9d", "canary-[4]f1c9d"


def test_an_image_is_made_once_and_boots_without_a_trace_of_its_making(shop: Shop, tmp_path: Path) -> None:
    planted = plant(tmp_path)
    for words in (
        ["init", "-q"],
        ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "t", "--allow-empty"],
    ):
        subprocess.run(["git", "-C", str(shop.factory.repository.root), *words], check=True)
    done = shop.factory.call("build", "--target", "machine", **planted)
    assert done.code == 0, done.stderr
    ami = done.stdout.strip()
    assert re.fullmatch(r"ami-[0-9a-f]{8,17}", ami)
    assert "rehearsal on this machine, no AWS account is touched" in done.stderr.splitlines()[0]
    image = shop.aws.describe(ami)
    tags = {tag["Key"]: tag["Value"] for tag in image["Tags"]}
    assert tags["factory:target"] == "machine"
    assert image["Public"] is False
    (receipt,) = (shop.factory.out / "receipts" / "machine").glob("*.json")
    assert tags["factory:commit"] == json.loads(receipt.read_text())["commit"]
    assert tags["factory:commit"].endswith("+"), "files of the checkout are not committed"
    # All that was made for the making is gone, and a second build changes nothing.
    left = set(shop.account()[EAST]) - set(shop.before[EAST])
    snapshots = {one["Ebs"]["SnapshotId"] for one in image["BlockDeviceMappings"]}
    assert left == {ami, *snapshots}
    number, runs = shop.calls()[-1].number, shop.factory.run_names()
    again = shop.factory.call("build", "--target", "machine", **planted)
    assert again.stdout.strip() == ami
    assert [call for call in shop.calls(number) if call.mutating] == []
    assert shop.factory.run_names() == runs
    look_at_the_disk(shop, ami)
    look_at_two_clones(shop, ami, tmp_path)


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


def look_at_the_disk(shop: Shop, ami: str) -> None:
    """The image as it was captured, before anything of it ever ran again."""
    disk = shop.disk(ami)

    def on(command: str) -> str:
        return shop.factory.in_image(disk, "sh", "-ceu", command).strip()

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


def look_at_two_clones(shop: Shop, ami: str, tmp_path: Path) -> None:
    """Machines of one image: each with host keys of its own, and with the key of whoever started it alone."""
    key = Key.create(tmp_path)
    shop.aws.ec2.import_key_pair(KeyName="clones", PublicKeyMaterial=key.public)
    clones = [shop.aws.run(ami, KeyName="clones") for _ in range(2)]
    try:
        seen = []
        for clone in clones:
            address, port = clone["PublicIpAddress"], shop.rehearsal.ssh_port
            seen.append(key.ssh(address, "cat /etc/ssh/ssh_host_ed25519_key.pub", port=port).split()[1])
            (kept,) = key.ssh(address, "cat /home/admin/.ssh/authorized_keys", port=port).splitlines()
            assert kept.split()[1] == key.public.decode().split()[1]
        assert len(set(seen)) == 2
    finally:
        shop.aws.ec2.terminate_instances(InstanceIds=[one["InstanceId"] for one in clones])
        shop.aws.ec2.delete_key_pair(KeyName="clones")


def test_a_role_that_fails_makes_no_image_and_is_named(shop: Shop) -> None:
    shop.factory.repository.write(
        "ansible/roles/fabric/tasks/main.yml",
        '- name: Stop here\n  ansible.builtin.fail:\n    msg: "no such fabric"\n',
    )
    done = shop.build()
    assert done.code == 4
    assert "role 'fabric'" in done.stderr
    assert "no such fabric" in done.stderr
    assert shop.left() == []


def test_an_image_that_fails_its_checks_is_not_a_result_and_is_not_made_again(shop: Shop) -> None:
    shop.factory.repository.write(
        "ansible/roles/base/tests/test_base.py", "def test_greeting(host):\n    assert False, 'never'\n"
    )
    done = shop.build("--publish")
    assert done.code == 5
    made = shop.aws.ec2.describe_images(Owners=["self"])["Images"]
    shop.factory.repository.write(
        "ansible/roles/base/tests/test_base.py",
        "def test_greeting(host):\n    assert host.file('/etc/greeting').exists\n",
    )
    again = shop.build()
    assert ami_of(again) in {one["ImageId"] for one in made}
    parameters = shop.aws("ssm").describe_parameters()["Parameters"]
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
    shop: Shop, tmp_path: Path, target: str, settings: str, words: list[str]
) -> None:
    """No call that changes something is made and was not announced, and none is announced in vain."""
    prepare_other_targets(shop)
    own = site(tmp_path, settings)
    shown = shop.factory.call("plan", "--target", target, "--json", *words, **own)
    assert shown.code == 0, shown.stderr
    (planned,) = json.loads(shown.stdout)
    number = shop.calls()[-1].number
    done = shop.factory.call("build", "--target", target, *words, **own)
    assert done.code == 0, done.stderr
    called = {(call.service, call.action) for call in shop.calls(number) if call.mutating}
    assert called == {(one["service"], one["call"]) for one in planned["changing_calls"]}


def prepare_other_targets(shop: Shop) -> None:
    repository = shop.factory.repository
    repository.write("catalog/targets/sealed.toml", SEALED + AMI + "encryptable = false\n")
    repository.write("catalog/targets/bare.toml", SEALED.replace("takes no", "takes an") + AMI)
    repository.relock()


def test_a_container_goes_to_the_registry_of_the_account(shop: Shop, tmp_path: Path) -> None:
    """ECR takes nothing for a repository that is not there, and nothing without a token."""
    own = site(tmp_path, '[registry]\npush = "ecr/training"\n')
    done = shop.factory.call("build", "--target", "hello", "--publish", **own)
    assert done.code == 0, done.stderr
    name, _, digest = done.stdout.strip().partition("@")
    assert name == f"{shop.rehearsal.registries[EAST]}/training/hello"
    found = shop.aws("ecr").describe_images(repositoryName="training/hello")["imageDetails"]
    assert {one["imageDigest"] for one in found} == {digest}
    number = shop.calls()[-1].number
    assert shop.factory.call("build", "--target", "hello", "--publish", **own).stdout == done.stdout
    assert [call for call in shop.calls(number) if call.mutating] == []
    shop.aws("ecr").delete_repository(repositoryName="training/hello", force=True)
