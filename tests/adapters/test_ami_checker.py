"""Checks of an AMI in a rehearsed account, on an instance that fails to start or stays pending."""

import base64
import subprocess
from pathlib import Path

import pytest
import yaml

from builder.adapters.ami import checker, janitor, journal
from builder.adapters.ami.capacity import launch_reservation
from builder.adapters.ami.checker import MachineChecker
from builder.adapters.ami.maker import modules_folder
from builder.adapters.ansible import kernel_modules
from builder.adapters.host.workspace import Run
from builder.app.context import Context
from builder.errors import CheckError, Interrupted, MissingError
from builder.events import Stream
from builder.model import Artifact, Check, Report
from builder.rehearsal.calls import Call, Disturbance
from builder.rehearsal.proxy import Proxy
from builder.site import AwsSettings
from tests.support.rehearsal import ROOT
from tests.support.rehearsed_account import AmiAccount

ARCHIVE = "nvidia-1.0-6.1.0-1-amd64-x86_64-0123456789abcdef.dkms.tar.gz"
RUNNING = r"<code>16</code>\s*<name>running</name>"


def check(
    ami_account: AmiAccount, run: Run, settings: AwsSettings | None = None, *, keep_failed: bool = False
) -> Report:
    plan = Context(ROOT, site_name="aws").plan("ami-cpu")
    return MachineChecker(
        account=ami_account.account,
        settings=settings or AwsSettings(),
        run=run,
        root=ROOT,
        events=Stream(),
        tags=lambda _: ami_account.tags(run=run.name),
        environment={},
        keep_failed=keep_failed,
    ).check(
        plan,
        Artifact(kind="ami", target=ami_account.target, reference=ami_account.aws.debian(), key=plan.key),
    )


def states(ami_account: AmiAccount) -> set[str]:
    """Return the states of the instances that the checks started."""
    (started,) = [call for call in ami_account.proxy.calls if call.action == "RunInstances"]
    filters = [{"Name": "tag:Name", "Values": [started.parameters["KeyName"]]}]
    found = ami_account.aws.ec2.describe_instances(Filters=filters)["Reservations"]
    return {instance["State"]["Name"] for reservation in found for instance in reservation["Instances"]}


def test_instance_that_does_not_start_fails_the_checks(ami_account: AmiAccount, proxy: Proxy) -> None:
    stopped = "<code>48</code><name>terminated</name>"
    proxy.disturb(Disturbance(action="DescribeInstances", count=0, replace=(RUNNING, stopped)))
    with ami_account.run() as run, pytest.raises(CheckError, match=r"i-\w+ is terminated instead of running"):
        check(ami_account, run)
    assert states(ami_account) == {"terminated"}


def test_instance_that_stays_pending_fails_the_checks(
    ami_account: AmiAccount, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checker, "_START_S", 0.5)
    pending = "<code>0</code><name>pending</name>"
    proxy.disturb(Disturbance(action="DescribeInstances", count=0, replace=(RUNNING, pending)))
    with ami_account.run() as run, pytest.raises(CheckError, match=r"i-\w+ is pending instead of running"):
        check(ami_account, run)
    assert states(ami_account) == {"terminated"}


def test_wait_for_an_instance_can_be_cancelled(ami_account: AmiAccount, proxy: Proxy) -> None:
    pending = "<code>0</code><name>pending</name>"
    with ami_account.run() as run:

        def cancel(_: Call) -> None:
            run.cancelled.set()

        proxy.disturb(
            Disturbance(
                action="DescribeInstances", kill="before", callback=cancel, replace=(RUNNING, pending)
            )
        )
        proxy.disturb(Disturbance(action="DescribeInstances", count=0, replace=(RUNNING, pending)))
        with pytest.raises(Interrupted):
            check(ami_account, run)
    assert states(ami_account) == {"terminated"}
    polls = [call for call in proxy.calls if call.action == "DescribeInstances"]
    assert len(polls) == 1, "no poll after the cancellation"


@pytest.mark.parametrize("public", [True, False])
def test_check_instance_has_a_public_address_if_the_site_says_so(
    ami_account: AmiAccount, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, public: bool
) -> None:
    subnet = ami_account.aws.ec2.describe_subnets()["Subnets"][0]["SubnetId"]
    monkeypatch.setattr(checker, "run_checks", lambda *_, **__: ())
    monkeypatch.setattr(MachineChecker, "_wait_for_login", lambda *_: None)
    with ami_account.run() as run:
        check(ami_account, run, AwsSettings(subnet=subnet, public_address=public))
    (started,) = [call for call in proxy.calls if call.action == "RunInstances"]
    assert started.parameters["NetworkInterface.1.AssociatePublicIpAddress"] == str(public).lower()
    assert started.parameters["NetworkInterface.1.SubnetId"] == subnet
    assert started.parameters["NetworkInterface.1.SecurityGroupId.1"].startswith("sg-")


@pytest.mark.parametrize(("outcome", "cached"), [("passed", [ARCHIVE, f"{ARCHIVE}.sha256"]), ("failed", [])])
def test_kernel_modules_are_cached_only_if_the_checks_pass(
    ami_account: AmiAccount, monkeypatch: pytest.MonkeyPatch, outcome: str, cached: list[str]
) -> None:
    result = Check(name="a", component="a", outcome=outcome, seconds=0.0)
    monkeypatch.setattr(checker, "run_checks", lambda *_, **__: (result,))
    monkeypatch.setattr(MachineChecker, "_wait_for_login", lambda *_: None)
    with ami_account.run() as run:
        made = kernel_modules.made(modules_folder(run, Context(ROOT, site_name="aws").plan("ami-cpu")))
        made.mkdir(parents=True)
        (made / ARCHIVE).write_text("modules")
        check(ami_account, run)
        assert sorted(path.name for path in run.workspace.cache("modules").iterdir()) == cached


@pytest.mark.parametrize("failure", ["a failed check", "no login", "interrupt"])
def test_instance_of_failed_checks_is_kept_until_it_is_removed(
    ami_account: AmiAccount, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    result = Check(name="a", component="a", outcome="failed", seconds=0.0)
    workspace, account = ami_account.workspace, ami_account.account
    with ami_account.run() as run:

        def wait(*_: object) -> None:
            if failure == "no login":
                raise CheckError("SSH login failed", hint="check subnet")
            if failure == "interrupt":
                run.cancelled.set()

        monkeypatch.setattr(checker, "run_checks", lambda *_, **__: (result,))
        monkeypatch.setattr(MachineChecker, "_wait_for_login", wait)
        if failure == "no login":
            with pytest.raises(CheckError) as caught:
                check(ami_account, run, keep_failed=True)
            lines = caught.value.hint.splitlines()[1:]
        else:
            lines = list(check(ami_account, run, keep_failed=True).kept)
        removed = janitor.sweep(workspace, account, run.name, keep_complete=True)
    if failure == "interrupt":
        assert (lines, states(ami_account)) == ([], {"terminated"})
        return
    assert removed == [], "at the end of the run"
    enter, remove = lines
    (config,) = journal.held_folder(workspace, run.name).glob("i-*.ssh")
    assert enter == f"look inside: ssh -F {config} {config.stem}"
    assert config.with_suffix(".key").stat().st_mode & 0o777 == 0o600
    assert remove == f"remove it: builder clean {run.name} --yes"
    assert states(ami_account) == {"running"}
    removed = janitor.sweep(workspace, account, run.name, keep_complete=False)
    assert {config.stem, f"ami-cpu-{run.name}-check"} <= set(removed)
    assert (states(ami_account), journal.runs(workspace)) == ({"terminated"}, [])


def test_check_instance_gets_the_host_key_that_the_ssh_login_requires(
    ami_account: AmiAccount, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs: list[str] = []

    def wait(_: MachineChecker, address: str, config: Path) -> None:
        argv = ["ssh", "-G", "-F", str(config), address]
        options = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.splitlines()
        assert "stricthostkeychecking true" in options
        assert "hostkeyalias image" in options
        (known,) = [line.removeprefix("userknownhostsfile ") for line in options if "userknown" in line]
        configs.append(Path(known).read_text())

    monkeypatch.setattr(checker, "run_checks", lambda *_, **__: ())
    monkeypatch.setattr(MachineChecker, "_wait_for_login", wait)
    with ami_account.run() as run:
        check(ami_account, run)
    (started,) = [call for call in proxy.calls if call.action == "RunInstances"]
    config = yaml.safe_load(base64.b64decode(started.parameters["UserData"]))
    assert configs == [f"image {config['ssh_keys']['ed25519_public']}\n"]
    assert config["ssh_keys"]["ed25519_private"].startswith("-----BEGIN OPENSSH PRIVATE KEY-----")


def test_checks_start_on_an_instance_type_with_capacity(ami_account: AmiAccount, proxy: Proxy) -> None:
    """If EC2 lacks capacity, the next instance type is tried; another error ends the attempts."""
    settings = AwsSettings(instance_types=("m5.large", "m5.xlarge"))
    proxy.disturb(Disturbance(action="RunInstances", code="InsufficientInstanceCapacity", count=1))
    stopped = "<code>48</code><name>terminated</name>"
    proxy.disturb(Disturbance(action="DescribeInstances", count=0, replace=(RUNNING, stopped)))
    with ami_account.run() as run, pytest.raises(CheckError, match="is terminated"):
        check(ami_account, run, settings)
    tried = [call.parameters for call in proxy.calls if call.action == "RunInstances"]
    assert [each["InstanceType"] for each in tried] == ["m5.large", "m5.xlarge"]
    assert len({each["ClientToken"] for each in tried}) == 2
    assert tried[0]["CapacityReservationSpecification.CapacityReservationPreference"] == "none"
    proxy.clear_disturbances()
    proxy.disturb(Disturbance(action="RunInstances", code="VcpuLimitExceeded", count=1))
    before = len(tried)
    with ami_account.run() as run, pytest.raises(MissingError, match="VcpuLimitExceeded"):
        check(ami_account, run, settings)
    assert len([call for call in proxy.calls if call.action == "RunInstances"]) == before + 1


@pytest.mark.parametrize(
    ("capacity", "expected"),
    [
        ("open", {"CapacityReservationPreference": "open"}),
        (
            "cr-0123456789abcdef0",
            {"CapacityReservationTarget": {"CapacityReservationId": "cr-0123456789abcdef0"}},
        ),
    ],
)
def test_capacity_reservation_of_the_site_is_used(capacity: str, expected: dict[str, object]) -> None:
    found = launch_reservation(capacity)
    assert found == {"CapacityReservationSpecification": expected}
