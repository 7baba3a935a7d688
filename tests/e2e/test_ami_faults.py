"""What goes wrong while an AMI is made: one message, the right code, nothing left, the next build goes on."""

import os
from pathlib import Path

import pytest

from builder.rehearsal.calls import Disturbance
from tests.support.ami_factory import AmiFactory, ami_of, site
from tests.support.factory import Build
from tests.support.rehearsal import REGIONS

pytestmark = [pytest.mark.engine, pytest.mark.e2e]

FAULTS: dict[str, tuple[Disturbance, int, str]] = {
    "quota": (
        Disturbance(action="RunInstances", status=400, code="VcpuLimitExceeded", count=0),
        4,
        "VcpuLimitExceeded",
    ),
    "expired credentials": (
        Disturbance(action="ImportKeyPair", status=400, code="ExpiredToken", count=0),
        3,
        "ExpiredToken",
    ),
    "image that never comes": (
        Disturbance(action="CreateImage", status=500, code="InternalError", count=0),
        4,
        "Packer made no image",
    ),
    "source image that is gone": (
        Disturbance(
            action="DescribeImages",
            replace=("(?s)<imagesSet>.*</imagesSet>", "<imagesSet/>"),
            count=0,
        ),
        7,
        "is gone from us-east-1",
    ),
    "image that stays pending": (
        Disturbance(
            action="DescribeImages",
            replace=("<imageState>available", "<imageState>pending"),
            count=0,
        ),
        4,
        "wait_minutes",
    ),
    "machine that nobody can reach": (
        Disturbance(
            action="DescribeInstances",
            replace=(r"127(\.\d+){3}", "127.255.255.254"),
            count=0,
        ),
        4,
        "can this machine reach the instance?",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_ends_with_one_message_and_nothing_left(
    ami_factory: AmiFactory, tmp_path: Path, name: str
) -> None:
    disturbance, code, words = FAULTS[name]
    ami_factory.rehearsal.disturb(disturbance)
    done = ami_factory.build(**site(tmp_path, "[aws]\nwait_minutes = 1\n"))
    ami_factory.rehearsal.calm()
    said_once(done, code, words)
    assert ami_factory.left() == []


def said_once(done: Build, code: int, words: str) -> None:
    assert done.code == code, done.stderr
    assert words in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("error: ")]) == 1
    assert "hint: " in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_user_is_named(ami_factory: AmiFactory) -> None:
    ami_factory.factory.repository.replace(
        "catalog/systems/debian-12.toml", 'user = "admin"', 'user = "nobody1"'
    )
    said_once(ami_factory.build(), 4, "is 'nobody1' the user of debian-12")
    assert ami_factory.left() == []


OLD = "#!/bin/sh\necho Packer v1.5.0\n"
BARE = '#!/bin/sh\ncase "$1" in version) echo Packer v1.11.2 ;; init) exit 1 ;; esac\n'


@pytest.mark.parametrize(
    ("packer", "words"),
    [
        ("", "is not installed"),
        (OLD, "Packer 1.5.0 is too old"),
        (BARE, "packer init could not install its plugins"),
    ],
    ids=["missing", "too old", "without plugins"],
)
def test_without_a_packer_that_will_do_nothing_is_started(
    ami_factory: AmiFactory, tmp_path: Path, packer: str, words: str
) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    for folder in os.environ["PATH"].split(os.pathsep):
        for program in Path(folder).glob("*"):
            if program.name != "packer" and not (programs / program.name).exists():
                (programs / program.name).symlink_to(program)
    if packer:
        (programs / "packer").write_text(packer, encoding="utf-8")
        (programs / "packer").chmod(0o755)
    number = ami_factory.calls()[-1].number
    said_once(ami_factory.build(PATH=str(programs)), 3, words)
    assert [call for call in ami_factory.calls(number) if call.mutating] == []


def test_what_could_not_be_published_is_not_made(ami_factory: AmiFactory, tmp_path: Path) -> None:
    own = site(tmp_path, '[aws]\nencrypt = true\nshare_accounts = ["210987654321"]\n')
    number = ami_factory.calls()[-1].number
    said_once(ami_factory.build("--publish", **own), 6, "target 'machine' is encrypted with AWS's own key")
    assert [call for call in ami_factory.calls(number) if call.mutating] == []


def test_a_region_that_fails_its_copy_is_the_only_thing_done_again(
    ami_factory: AmiFactory, tmp_path: Path
) -> None:
    own = site(tmp_path, f"[aws]\ncopy_regions = {list(REGIONS[1:])}\n")
    ami_factory.rehearsal.disturb(
        Disturbance(action="CopyImage", region="eu-west-1", status=500, code="InternalError", count=0)
    )
    done = ami_factory.build("--publish", **own)
    ami_factory.rehearsal.calm()
    said_once(done, 6, "eu-west-1")
    assert [
        one for region in ami_factory.account().values() for one in region if one.startswith("/image")
    ] == []
    number = ami_factory.calls()[-1].number
    ami = ami_of(ami_factory.build("--publish", **own))
    made = [
        (call.action, call.region)
        for call in ami_factory.calls(number)
        if call.action.startswith(("Copy", "Cre"))
    ]
    assert made == [("CopyImage", "eu-west-1")]
    for region in REGIONS:
        names = [one for one in ami_factory.account()[region] if one.startswith("/image")]
        assert len(names) == 2
    ami_factory.retire(ami)
    assert ami_factory.left() == []


@pytest.mark.parametrize(
    "disturbance",
    [
        Disturbance(action="RunInstances", status=503, code="RequestLimitExceeded", count=2),
        Disturbance(action="Describe*", status=500, code="InternalError", count=2),
        Disturbance(action="ImportKeyPair", drop="after"),
    ],
    ids=["throttled", "errors of the service", "an answer that is lost"],
)
def test_what_passes_by_itself_is_ridden_out(ami_factory: AmiFactory, disturbance: Disturbance) -> None:
    ami_factory.rehearsal.disturb(disturbance)
    ami = ami_of(ami_factory.build())
    ami_factory.rehearsal.calm()
    ami_factory.retire(ami)
    assert ami_factory.left() == []
