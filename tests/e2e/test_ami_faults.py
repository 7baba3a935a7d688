"""Faults during an AMI build: one error message, the right exit code, nothing left in the account."""

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
    "failing CreateImage": (
        Disturbance(action="CreateImage", status=400, code="ResourceLimitExceeded", count=0),
        4,
        "Packer did not create an image",
    ),
    "server errors of CreateImage": (
        Disturbance(action="CreateImage", status=500, code="InternalError", count=0),
        4,
        "Packer did not create an image",
    ),
    "deleted source image": (
        Disturbance(
            action="DescribeImages",
            replace=("(?s)<imagesSet>.*</imagesSet>", "<imagesSet/>"),
            count=0,
        ),
        7,
        "no longer exists in us-east-1",
    ),
    "pending image": (
        Disturbance(
            action="DescribeImages",
            replace=("<imageState>available", "<imageState>pending"),
            count=0,
        ),
        4,
        "wait_minutes",
    ),
    "unreachable instance": (
        Disturbance(
            action="DescribeInstances",
            replace=(r"127(\.\d+){3}", "127.255.255.254"),
            count=0,
        ),
        4,
        "can reach the instance",
    ),
}


# Faults that last until a timeout or that Packer retries. test_ami_maker tests their hints without the wait.
SLOW = {"pending image", "server errors of CreateImage", "unreachable instance"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.boundaries] * (name in SLOW)) for name in FAULTS]
)
def test_a_fault_prints_one_error_and_leaves_no_resources(
    ami_factory: AmiFactory, tmp_path: Path, name: str
) -> None:
    disturbance, code, message = FAULTS[name]
    ami_factory.rehearsal.disturb(disturbance)
    done = ami_factory.build(**site(tmp_path, "[aws]\nwait_minutes = 1\n"))
    ami_factory.rehearsal.clear_disturbances()
    assert_one_error(done, code, message)
    assert ami_factory.left() == []


def assert_one_error(done: Build, code: int, message: str) -> None:
    assert done.code == code, done.stderr
    assert message in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("error: ")]) == 1
    assert "hint: " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.boundaries  # test_ami_maker tests the hint without a build
def test_error_names_a_wrong_login_user(ami_factory: AmiFactory) -> None:
    ami_factory.factory.repository.replace(
        "catalog/systems/debian-12.toml", 'user = "admin"', 'user = "wrong"'
    )
    assert_one_error(ami_factory.build(), 4, "check that 'wrong' is the login user of debian-12")
    assert ami_factory.left() == []


OLD = "#!/bin/sh\necho Packer v1.5.0\n"
BARE = '#!/bin/sh\ntest "$1" = version && echo Packer v1.11.2\n'


@pytest.mark.parametrize(
    ("packer", "code", "message"),
    [
        ("", 3, "is not installed"),
        (OLD, 3, "Packer 1.5.0 is too old"),
        (BARE, 7, "is not locked"),
    ],
    ids=["missing", "too old", "without plugins"],
)
def test_refuses_to_start_without_a_usable_packer(
    ami_factory: AmiFactory, tmp_path: Path, packer: str, code: int, message: str
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
    assert_one_error(ami_factory.build(PATH=str(programs)), code, message)
    assert [call for call in ami_factory.calls(number) if call.mutating] == []


def test_refuses_to_build_an_ami_that_cannot_be_shared(ami_factory: AmiFactory, tmp_path: Path) -> None:
    variables = site(tmp_path, '[aws]\nencrypt = true\nshare_accounts = ["210987654321"]\n')
    number = ami_factory.calls()[-1].number
    assert_one_error(
        ami_factory.build("--publish", **variables),
        6,
        "target 'machine' is encrypted with an AWS managed key",
    )
    assert [call for call in ami_factory.calls(number) if call.mutating] == []


@pytest.mark.boundaries  # test_ami_publisher tests copies without a build
def test_a_second_publication_repeats_only_the_failed_region_copy(
    ami_factory: AmiFactory, tmp_path: Path
) -> None:
    variables = site(tmp_path, f"[aws]\ncopy_regions = {list(REGIONS[1:])}\n")
    ami_factory.rehearsal.disturb(
        Disturbance(action="CopyImage", region="eu-west-1", status=500, code="InternalError", count=0)
    )
    done = ami_factory.build("--publish", **variables)
    ami_factory.rehearsal.clear_disturbances()
    assert_one_error(done, 6, "eu-west-1")
    assert [
        name for names in ami_factory.account().values() for name in names if name.startswith("/image")
    ] == []
    number = ami_factory.calls()[-1].number
    ami = ami_of(ami_factory.build("--publish", **variables))
    creating = [
        (call.action, call.region)
        for call in ami_factory.calls(number)
        if call.action.startswith(("Copy", "Cre"))
    ]
    assert creating == [("CopyImage", "eu-west-1")]
    for region in REGIONS:
        names = [name for name in ami_factory.account()[region] if name.startswith("/image")]
        assert len(names) == 2
    ami_factory.retire(ami)
    assert ami_factory.left() == []


@pytest.mark.boundaries  # test_ami_publisher proves the retries of the builder's own calls without a build
def test_a_build_retries_transient_aws_errors(ami_factory: AmiFactory) -> None:
    """The build succeeds despite throttling, server errors and a lost response of AWS APIs."""
    disturbances = (
        Disturbance(action="RunInstances", status=503, code="RequestLimitExceeded", count=2),
        Disturbance(action="Describe*", status=500, code="InternalError", count=2),
        Disturbance(action="ImportKeyPair", drop="after"),
    )
    number = ami_factory.calls()[-1].number
    ami_factory.rehearsal.disturb(*disturbances)
    ami = ami_of(ami_factory.build())
    ami_factory.rehearsal.clear_disturbances()
    actions = [call.action for call in ami_factory.calls(number)]
    assert actions.count("RunInstances") == 2 + 2
    assert actions.count("ImportKeyPair") >= 2
    ami_factory.retire(ami)
    assert ami_factory.left() == []
