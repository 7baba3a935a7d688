"""AMI builds in a rehearsed account with a fake Packer: EC2 errors, and security groups that stay in use."""

import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.adapters.ami import janitor, journal, maker
from builder.adapters.ami.maker import AmiMaker
from builder.adapters.ami.ownership import ownership
from builder.adapters.aws import groups
from builder.adapters.aws.account import as_tags, specifications
from builder.adapters.host.workspace import Run
from builder.adapters.upstream.mirror import Mirror
from builder.app.context import Context
from builder.app.interrupts import interruptible
from builder.errors import BuildError, IntegrityError, Interrupted, MissingError
from builder.events import Event, Stream
from builder.marks import RUN_TAG
from builder.model import Artifact, Plan
from builder.rehearsal.calls import Disturbance
from builder.rehearsal.proxy import Proxy
from builder.site import AwsSettings
from tests.support.rehearsal import ROOT, Clients
from tests.support.rehearsed_account import AmiAccount

BOUND_S = 60.0
# Fake Packer that reports a started instance and runs until it is interrupted.
PACKER = """#!/bin/sh
end() {{
  echo interrupted > {folder}/interrupted
  echo '1,,ui,say,==> amazon-ebs.image: Terminating the source AWS instance...'
  exit 1
}}
trap end INT
echo '1,,ui,say,==> amazon-ebs.image: Launching a source AWS instance...'
echo '1,,ui,message,    amazon-ebs.image: Instance ID: {instance}'
echo '1,,ui,say,==> amazon-ebs.image: Waiting for instance ({instance}) to become ready...'
echo '1,,ui,say,==> amazon-ebs.image: Waiting for SSH to become available...'
while :; do sleep 0.05; done
"""

# Fake Packer that fails and leaves its instance, as with -on-error=abort.
ABORTED = """#!/bin/sh
echo "$@" > {folder}/arguments
echo '1,,ui,say,==> amazon-ebs.image: Waiting for instance ({instance}) to become ready...'
echo '1,,ui,error,==> amazon-ebs.image: Script exited with non-zero exit status: 1'
exit 1
"""

# Fake Packer that writes a manifest with one image.
FINISHED = """#!{python}
import json, sys
(words,) = [word for word in sys.argv if word.startswith("-var-file=")]
table = json.load(open(words.removeprefix("-var-file=")))
build = {{"artifact_id": table["region"] + ":{image}", "custom_data": {{"run": table["run"]}}}}
json.dump({{"builds": [build]}}, open(table["manifest"], "w"))
"""


@pytest.fixture
def instance(aws: Clients, packer: Path, tmp_path: Path) -> str:
    """An instance that the fake Packer reports as started."""
    started = str(aws.run()["InstanceId"])
    packer.write_text(PACKER.format(folder=tmp_path, instance=started))
    return started


@pytest.fixture
def plan() -> Plan:
    return Context(ROOT, site_name="aws").plan("ami-cpu")


def make(
    ami_account: AmiAccount,
    run: Run,
    plan: Plan,
    on_event: Callable[[Event], None],
    root: Path = ROOT,
    plugins: Path | None = None,
    *,
    settings: AwsSettings | None = None,
    keep_failed: bool = False,
) -> Artifact:
    source = ami_account.aws.describe(ami_account.aws.debian())
    maker = AmiMaker(
        account=ami_account.account,
        settings=settings or AwsSettings(),
        run=run,
        root=root,
        events=Stream(on_event),
        commit="",
        mirror=lambda _: Mirror(),
        source=lambda _: source,
        plugins=plugins,
        keep_failed=keep_failed,
    )
    # Child processes of a background job ignore SIGINT; `interruptible` restores the default handler.
    with interruptible():
        return maker.make(plan)


def own(ami_account: AmiAccount, run: Run, instance: str) -> None:
    """Tag an instance as the Packer template does."""
    tags = maker.tags(Context(ROOT, site_name="aws").plan("ami-cpu"), run, "")
    ami_account.aws.ec2.create_tags(Resources=[instance], Tags=as_tags(tags))


def left(aws: Clients, run: str) -> list[str]:
    """Return the key pairs and security groups of a run."""
    filters = [{"Name": f"tag:{RUN_TAG}", "Values": [run]}]
    return [
        *(key["KeyName"] for key in aws.ec2.describe_key_pairs(Filters=filters)["KeyPairs"]),
        *(group["GroupId"] for group in aws.ec2.describe_security_groups(Filters=filters)["SecurityGroups"]),
    ]


def test_error_of_ec2_interrupts_packer_and_is_raised(
    ami_account: AmiAccount, aws: Clients, proxy: Proxy, plan: Plan, instance: str, tmp_path: Path
) -> None:
    proxy.disturb(Disturbance(action="ModifyInstanceMetadataOptions", code="UnauthorizedOperation", count=0))
    events: list[Event] = []
    started = time.monotonic()
    with ami_account.run() as run:
        own(ami_account, run, instance)
        with pytest.raises(MissingError, match=f"requiring metadata tokens on {instance}: Unauthorized"):
            make(ami_account, run, plan, events.append)
    assert time.monotonic() - started < BOUND_S
    assert (tmp_path / "interrupted").exists(), "Packer cleans up"
    assert left(aws, run.name) == []
    (end,) = [event for event in events if event.name == "step.end"]
    assert end.fields["outcome"] == "failed"
    assert "requiring metadata tokens" in end.text


def test_requires_imdsv2_tokens_as_soon_as_packer_names_the_instance(
    ami_account: AmiAccount, aws: Clients, plan: Plan, instance: str, tmp_path: Path
) -> None:
    events: list[Event] = []
    with ami_account.run() as run:

        def on_event(event: Event) -> None:
            events.append(event)
            if "Waiting for SSH" in event.text:
                run.cancelled.set()

        own(ami_account, run, instance)
        with pytest.raises(Interrupted):
            make(ami_account, run, plan, on_event)
    (call,) = [call for call in ami_account.proxy.calls if call.action == "ModifyInstanceMetadataOptions"]
    assert call.parameters["InstanceId"] == instance
    assert call.parameters["HttpTokens"] == "required"
    assert call.parameters["HttpPutResponseHopLimit"] == "1", "containers on the instance get no credentials"
    assert [event.text for event in events if event.name == "step.task"] == [
        "Launching a source AWS instance...",
        f"Waiting for instance ({instance}) to become ready...",
        "Waiting for SSH to become available...",
        "Terminating the source AWS instance...",
    ]


def test_waits_until_the_instance_runs_before_it_requires_tokens(
    ami_account: AmiAccount, aws: Clients, plan: Plan, packer: Path, tmp_path: Path
) -> None:
    """Packer names the instance while it is pending; EC2 then refuses to change its metadata options."""
    image = ami_account.image(key=plan.key + "-not-found-beforehand")
    with ami_account.run() as run:
        answer = aws.ec2.run_instances(
            ImageId=aws.debian(),
            InstanceType="m5.large",
            MinCount=1,
            MaxCount=1,
            TagSpecifications=specifications(ownership(run.workspace, run.name).tags, ["instance"]),
        )
        (started,) = (each["InstanceId"] for each in answer["Instances"])
        text = f"Waiting for instance ({started}) to become ready..."
        line = f"print('1,,ui,say,==> amazon-ebs.image: {text}')\n"
        packer.write_text(FINISHED.format(python=sys.executable, image=image) + line)
        assert make(ami_account, run, plan, lambda _: None).reference == image
    (call,) = [call for call in ami_account.proxy.calls if call.action == "ModifyInstanceMetadataOptions"]
    assert (call.parameters["InstanceId"], call.status) == (started, 200)


def test_instance_without_tags_of_the_run_is_not_changed(
    ami_account: AmiAccount, plan: Plan, instance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maker, "_START_S", 0.5)
    with ami_account.run() as other, ami_account.run() as run:
        own(ami_account, other, instance)
        with pytest.raises(BuildError, match=f"{instance} .* is not running with the tags of this run"):
            make(ami_account, run, plan, lambda _: None)
    assert "ModifyInstanceMetadataOptions" not in [call.action for call in ami_account.proxy.calls]


def test_a_security_group_in_use_is_reported_without_failing_the_build(
    ami_account: AmiAccount, proxy: Proxy, plan: Plan, packer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "_RELEASE_S", 0.3)
    image = ami_account.image(key=plan.key + "-not-found-beforehand")
    packer.write_text(FINISHED.format(python=sys.executable, image=image))
    proxy.disturb(Disturbance(action="DeleteSecurityGroup", code="DependencyViolation", count=0))
    events: list[Event] = []
    with ami_account.run() as run:
        assert make(ami_account, run, plan, events.append).reference == image
    (group,) = left(ami_account.aws, run.name)
    (note,) = [event for event in events if event.name == "note"]
    assert f"security group {group} in us-east-1 was not deleted" in note.text
    assert "builder clean" in note.text
    assert [entry.kind for entry in journal.read(ami_account.workspace, run.name) if not entry.id] == [
        "security-group"
    ]
    proxy.clear_disturbances()
    assert group in janitor.sweep(ami_account.workspace, ami_account.account, run.name, keep_complete=True)
    assert left(ami_account.aws, run.name) == []


def test_a_security_group_in_use_does_not_hide_a_build_error(
    ami_account: AmiAccount, proxy: Proxy, plan: Plan, instance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "_RELEASE_S", 0.3)
    proxy.disturb(
        Disturbance(action="ModifyInstanceMetadataOptions", code="UnauthorizedOperation", count=0),
        Disturbance(action="DeleteSecurityGroup", code="DependencyViolation", count=0),
    )
    events: list[Event] = []
    with ami_account.run() as run:
        own(ami_account, run, instance)
        with pytest.raises(MissingError, match="requiring metadata tokens"):
            make(ami_account, run, plan, events.append)
    assert [event.text for event in events if event.name == "note" and "was not deleted" in event.text]
    proxy.clear_disturbances()
    janitor.sweep(ami_account.workspace, ami_account.account, run.name, keep_complete=True)
    assert left(ami_account.aws, run.name) == []


def test_packer_searches_only_the_folder_of_the_locked_plugins(
    ami_account: AmiAccount, plan: Plan, packer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PACKER_PLUGIN_PATH", "/elsewhere")
    image = ami_account.image(key=plan.key + "-not-found-beforehand")
    record = f"import os; open({str(tmp_path / 'path')!r}, 'w').write(os.environ['PACKER_PLUGIN_PATH'])\n"
    packer.write_text(FINISHED.format(python=sys.executable, image=image) + record)
    with ami_account.run() as run:
        make(ami_account, run, plan, lambda _: None, plugins=tmp_path / "plugins")
    assert (tmp_path / "path").read_text() == str(tmp_path / "plugins")


def test_default_site_settings_leave_the_public_address_to_the_subnet(
    ami_account: AmiAccount, packer: Path, plan: Plan, tmp_path: Path
) -> None:
    image = ami_account.image(key=plan.key + "-not-found-beforehand")
    record = f"json.dump(table['network'], open({str(tmp_path / 'network')!r}, 'w'))\n"
    packer.write_text(FINISHED.format(python=sys.executable, image=image) + record)
    with ami_account.run() as run:
        make(ami_account, run, plan, lambda _: None)
    assert json.loads((tmp_path / "network").read_text())["public_address"] is None


@pytest.mark.parametrize("has_plugins", [True, False])
def test_current_packer_requires_tokens_in_the_launch_request(
    ami_account: AmiAccount, packer: Path, plan: Plan, tmp_path: Path, has_plugins: bool
) -> None:
    """Accounts that enforce IMDSv2 refuse other launches; Packer 1.6 has no block metadata_options."""
    image = ami_account.image(key=plan.key + "-not-found-beforehand")
    copy = f"import shutil; shutil.copytree(sys.argv[-1], {str(tmp_path / 'copy')!r})\n"
    started = "print('1,,ui,message,    amazon-ebs.image: Instance ID: i-0123456789abcdef0')\n"
    packer.write_text(FINISHED.format(python=sys.executable, image=image) + copy + started * has_plugins)
    with ami_account.run() as run:
        make(ami_account, run, plan, lambda _: None, plugins=tmp_path / "plugins" if has_plugins else None)
    files = {path.name: path.read_text() for path in (tmp_path / "copy").glob("*.pkr.hcl")}
    assert files.keys() == {"build.pkr.hcl", "source.pkr.hcl", "variables.pkr.hcl"}
    for line in ("metadata_options {", 'http_tokens                 = "required"', "_hop_limit = 1"):
        assert (line in files["source.pkr.hcl"]) is has_plugins
    changed = [call for call in ami_account.proxy.calls if call.action == "ModifyInstanceMetadataOptions"]
    assert changed == []


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        ("Timeout waiting for SSH.", "can reach the instance"),
        (
            "Packer experienced an authentication error when trying to connect via SSH.",
            "is the login user of",
        ),
        ("Error waiting for AMI: timeout", "raise [aws] wait_minutes"),
        ("Error creating AMI: InternalError", "builder doctor"),
    ],
)
def test_a_packer_error_is_raised_with_a_matching_hint(
    ami_account: AmiAccount, packer: Path, plan: Plan, error: str, hint: str
) -> None:
    packer.write_text(f"#!/bin/sh\ncat << 'E'\n1,amazon-ebs.image,error,{error}\nE\nexit 1\n")
    with ami_account.run() as run, pytest.raises(BuildError) as caught:
        make(ami_account, run, plan, lambda _: None)
    assert error in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    "edited", ["roles/base/tasks/main.yml", "tasks/component.yml", "plugins/modules/dkms.py"]
)
def test_image_is_deleted_if_an_input_was_edited_during_the_build(
    ami_account: AmiAccount, plan: Plan, packer: Path, tmp_path: Path, edited: str
) -> None:
    root = tmp_path / "checkout"
    shutil.copytree(ROOT / "ansible", root / "ansible", ignore=shutil.ignore_patterns("__pycache__"))
    with ami_account.run() as run:
        image = ami_account.image(key=plan.key + "-not-found-beforehand", run=run.name)
        edit = f"open({str(root / 'ansible' / edited)!r}, 'a').write('# edited')"
        packer.write_text(FINISHED.format(python=sys.executable, image=image) + f"{edit}\n")
        with pytest.raises(IntegrityError, match="was edited during the build"):
            make(ami_account, run, plan, lambda _: None, root)
    assert image in janitor.sweep(ami_account.workspace, ami_account.account, run.name, keep_complete=True)


def instances(aws: Clients, run: Run) -> list[str]:
    """Return the instances of a run that are not terminated."""
    alive = [{"Name": "instance-state-name", "Values": ["pending", "running", "stopping", "stopped"]}]
    filters = [{"Name": f"tag:{RUN_TAG}", "Values": [run.name]}, *alive]
    found = aws.ec2.describe_instances(Filters=filters)["Reservations"]
    return [instance["InstanceId"] for reservation in found for instance in reservation["Instances"]]


@pytest.mark.parametrize("settings", [AwsSettings(), AwsSettings(ssh_interface="session_manager")])
def test_the_instance_and_key_pair_of_a_failed_build_are_kept_until_removed(
    ami_account: AmiAccount,
    aws: Clients,
    proxy: Proxy,
    plan: Plan,
    packer: Path,
    instance: str,
    tmp_path: Path,
    settings: AwsSettings,
) -> None:
    packer.write_text(ABORTED.format(folder=tmp_path, instance=instance))
    workspace, account = ami_account.workspace, ami_account.account
    with ami_account.run() as run:
        own(ami_account, run, instance)
        with pytest.raises(BuildError, match="Script exited") as caught:
            make(ami_account, run, plan, lambda _: None, settings=settings, keep_failed=True)
        assert janitor.sweep(workspace, account, run.name, keep_complete=True) == [], "the end of the run"
    assert "-on-error=abort" in (tmp_path / "arguments").read_text()
    folder = journal.held_folder(workspace, run.name)
    lines = caught.value.hint.splitlines()
    assert f"look inside: ssh -F {folder / instance}.ssh {instance}" in lines
    assert lines[-1] == f"remove it: builder clean {run.name} --yes"
    through = f"or: aws ssm start-session --region us-east-1 --target {instance}"
    assert (through in lines) == (settings.ssh_interface == "session_manager")
    text = (folder / f"{instance}.ssh").read_text()
    assert ("ProxyCommand aws ssm start-session" in text) == (through in lines)
    assert f"Host {instance}\n" in text
    assert (folder / f"{instance}.key").stat().st_mode & 0o777 == 0o600
    assert instances(aws, run) == [instance]
    key, group = left(aws, run.name)
    before = len(proxy.calls)
    assert janitor.sweep(workspace, account, run.name, keep_complete=True) == [], "before the next build"
    assert proxy.calls[before:] == [], "builds look for leftovers of a run only once"
    removed = janitor.sweep(workspace, account, run.name, keep_complete=False)
    assert {instance, key, group} <= set(removed)
    assert (instances(aws, run), left(aws, run.name)) == ([], [])
    assert (journal.runs(workspace), folder.exists()) == ([], False)


@pytest.mark.parametrize("end", ["interrupt", "stopped instance", "no instance", "no rights"])
def test_a_failure_without_a_running_instance_leaves_no_resources(
    ami_account: AmiAccount,
    aws: Clients,
    proxy: Proxy,
    plan: Plan,
    packer: Path,
    instance: str,
    tmp_path: Path,
    end: str,
) -> None:
    if end == "stopped instance":
        aws.ec2.stop_instances(InstanceIds=[instance])
    if end == "no rights":
        refused = Disturbance(action="DescribeInstances", code="UnauthorizedOperation", count=0)
        proxy.disturb(refused)
    if end != "interrupt":
        packer.write_text(ABORTED.format(folder=tmp_path, instance=instance))
    with ami_account.run() as run:

        def on_event(event: Event) -> None:
            if "Waiting for SSH" in event.text:
                run.cancelled.set()

        if end != "no instance":
            own(ami_account, run, instance)
        with pytest.raises(Interrupted if end == "interrupt" else BuildError) as caught:
            make(ami_account, run, plan, on_event, plugins=tmp_path / "plugins", keep_failed=True)
    assert "look inside" not in caught.value.hint
    assert ("the instance was not kept: " in caught.value.hint) == (end == "no rights")
    proxy.clear_disturbances()
    janitor.sweep(ami_account.workspace, ami_account.account, run.name, keep_complete=True)
    assert (instances(aws, run), left(aws, run.name)) == ([], [])


# Fake Packer for which EC2 has no capacity until it tries the type m7i.8xlarge.
SCARCE = """#!{python}
import json, sys
(words,) = [word for word in sys.argv if word.startswith("-var-file=")]
table = json.load(open(words.removeprefix("-var-file=")))
with open("{folder}/tried", "a") as file:
    print(table["instance_type"], table["network"]["subnet"], file=file)
if table["instance_type"] != "m7i.8xlarge":
    print("1,amazon-ebs.image,error,Error launching source instance: {code}: We have no m7i.4xlarge")
    sys.exit(1)
build = {{"artifact_id": table["region"] + ":{image}", "custom_data": {{"run": table["run"]}}}}
json.dump({{"builds": [build]}}, open(table["manifest"], "w"))
"""
FIRST, SECOND = "subnet-0aaaaaaaaaaaaaaaa", "subnet-0bbbbbbbbbbbbbbbb"


def make_scarce(
    ami_account: AmiAccount, plan: Plan, packer: Path, folder: Path, code: str, *types: str
) -> tuple[Artifact, list[str]]:
    words = {"python": sys.executable, "folder": folder, "code": code, "image": ami_account.image()}
    packer.write_text(SCARCE.format(**words))
    settings = AwsSettings(subnet=FIRST, subnets=(SECOND,), instance_types=types, security_group="sg-0a")
    notes: list[str] = []
    with ami_account.run() as run:
        artifact = make(ami_account, run, plan, lambda event: notes.append(event.text), settings=settings)
    return artifact, [note for note in notes if "no capacity" in note]


def test_tries_the_next_subnet_and_type_if_capacity_is_lacking(
    ami_account: AmiAccount, plan: Plan, packer: Path, tmp_path: Path
) -> None:
    _, notes = make_scarce(
        ami_account, plan, packer, tmp_path, "InsufficientInstanceCapacity", "m7i.4xlarge", "m7i.8xlarge"
    )
    tried = (tmp_path / "tried").read_text().splitlines()
    assert tried == [f"m7i.4xlarge {FIRST}", f"m7i.4xlarge {SECOND}", f"m7i.8xlarge {FIRST}"]
    assert notes == [f"EC2 has no capacity for m7i.4xlarge in {subnet}" for subnet in (FIRST, SECOND)]


def test_error_without_any_capacity_names_the_tried_types_and_subnets(
    ami_account: AmiAccount, plan: Plan, packer: Path, tmp_path: Path
) -> None:
    with pytest.raises(MissingError, match=f"m7i.4xlarge in {FIRST}, m7i.4xlarge in {SECOND}: ") as caught:
        make_scarce(ami_account, plan, packer, tmp_path, "InsufficientInstanceCapacity", "m7i.4xlarge")
    assert "instance_types" in caught.value.hint


def test_an_error_other_than_lacking_capacity_is_not_retried(
    ami_account: AmiAccount, plan: Plan, packer: Path, tmp_path: Path
) -> None:
    with pytest.raises(BuildError, match="VcpuLimitExceeded"):
        make_scarce(ami_account, plan, packer, tmp_path, "VcpuLimitExceeded", "m7i.4xlarge", "m7i.8xlarge")
    assert len((tmp_path / "tried").read_text().splitlines()) == 1
