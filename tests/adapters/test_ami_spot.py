"""Builds on spot instances: fallback to on-demand instances, and removal of launch templates and fleets."""

import dataclasses
import json
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from builder.adapters.ami import inventory, janitor, journal, maker, spot
from builder.adapters.ami.capacity import build_attempts, require_consistent
from builder.adapters.ami.permissions import OLD_SPOT, features, policy
from builder.adapters.aws.account import Account, specifications
from builder.adapters.host.process import Finished
from builder.errors import BuildError, UsageError
from builder.events import Event
from builder.marks import BUILDER_TAG, RUN_TAG
from builder.model import Plan
from builder.rehearsal.iam import ALLOWED, evaluate
from builder.site import AwsSettings
from tests.adapters.test_ami_maker import make, plan
from tests.adapters.test_ami_policy import not_needed
from tests.support.recordings import FOLDER, requests
from tests.support.rehearsal import EAST, REGIONS, Clients
from tests.support.rehearsed_account import AmiAccount

__all__ = ["plan"]  # a fixture
SETTINGS = AwsSettings(spot=True, instance_types=("m7i.2xlarge", "m7i.4xlarge"))


@dataclasses.dataclass
class Plugin:
    """Double of Packer that makes the calls of its plugin for one instance, and ends as `end` says.

    Version 1.6 tags neither the instance nor the fleet in its requests.
    """

    aws: Clients
    image: str
    end: str = ""
    version: str = "1.16"
    tried: list[str] = dataclasses.field(default_factory=list)
    table: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __call__(self, template: Path, *, variables: Path) -> "Plugin":
        self.table = json.loads(variables.read_text())
        return self

    def build(self, *, on_line: Callable[[str], object], **_: Any) -> Finished:
        types = self.table.get("spot_types", [])
        self.tried.append(" ".join([*types, "spot"] if types else [self.table["instance_type"], "on demand"]))
        is_done = self._on_spot(types, on_line) if types else True
        if is_done:
            built = {"artifact_id": f"{EAST}:{self.image}", "custom_data": {"run": self.table["run"]}}
            Path(self.table["manifest"]).write_text(json.dumps({"builds": [built]}))
        return Finished(code=0 if is_done else 1, output="", command="packer build")

    def _on_spot(self, types: Sequence[str], on_line: Callable[[str], object]) -> bool:
        name = f"packer-fleet-launch-template-{uuid.uuid4().hex[:7]}"
        on_line("1,,ui,say,==> amazon-ebs.image: Launching a spot AWS instance...")
        self._create_template(name)
        answer = self._create_fleet(name, types)
        if answer["Errors"]:
            words = answer["Errors"][0]["ErrorMessage"]
            on_line(
                f"1,x,error,Error waiting for fleet request ({answer['FleetId']}) to become ready:{words}"
            )
            self.aws.ec2.delete_launch_template(LaunchTemplateName=name)
            return False
        (instance,) = answer["Instances"][0]["InstanceIds"]
        if self.end == "crash":
            return False
        on_line(f"1,,ui,message,    amazon-ebs.image: Instance ID: {instance}")
        if self.end == "failure":
            on_line("1,,ui,error,==> amazon-ebs.image: Script exited with non-zero exit status: 1")
            return False
        self.aws.ec2.terminate_instances(InstanceIds=[instance])
        self.aws.ec2.delete_launch_template(LaunchTemplateName=name)
        return self.end != "reclaimed"

    def _create_template(self, name: str) -> None:
        data: dict[str, Any] = {
            "ImageId": self.table["source_ami"],
            "KeyName": self.table["ssh"]["keypair"],
            "SecurityGroupIds": [self.table["network"]["security_group"]],
            "InstanceMarketOptions": {"MarketType": "spot"},
        }
        if self.version != "1.6":
            kinds = ["instance", "network-interface", "volume"]
            data["TagSpecifications"] = specifications(self.table["tags"], kinds)
            data["MetadataOptions"] = {"HttpTokens": "required"}
        self.aws.ec2.create_launch_template(LaunchTemplateName=name, LaunchTemplateData=data)

    def _create_fleet(self, name: str, types: Sequence[str]) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.aws.ec2.create_fleet(
            Type="instant",
            TagSpecifications=specifications(self.table["tags"], ["fleet"]) if self.version != "1.6" else [],
            LaunchTemplateConfigs=[
                {
                    "LaunchTemplateSpecification": {"LaunchTemplateName": name, "Version": "1"},
                    "Overrides": [{"InstanceType": each} for each in types],
                }
            ],
            TargetCapacitySpecification={"TotalTargetCapacity": 1, "DefaultTargetCapacityType": "spot"},
        )
        return found


@dataclasses.dataclass
class Build:
    """A run with its double of Packer and the notes that the build printed."""

    run: str
    plugin: Plugin
    notes: list[str] = dataclasses.field(default_factory=list)


def build(ami_account: AmiAccount, plan: Plan, end: str = "", version: str = "1.16") -> Build:
    """Run a build on a spot instance; raise its error."""
    plugin = Plugin(ami_account.aws, ami_account.image(), end, version)
    with pytest.MonkeyPatch.context() as patch, ami_account.run() as run:
        patch.setattr(maker, "Packer", plugin)
        found = Build(run.name, plugin)

        def note(event: Event) -> None:
            found.notes.append(event.text)

        make(ami_account, run, plan, note, plugins=Path("plugins"), settings=SETTINGS)
    return found


def left(ami_account: AmiAccount) -> list[inventory.Item]:
    """Return the instances, fleets and launch templates of builds that exist."""
    found = inventory.everything(ami_account.account, [EAST], "/image-factory")
    return [item for item in found if item.kind in ("instance", "fleet", "launch template")]


@pytest.fixture(autouse=True)
def empty(ami_account: AmiAccount, packer: Path) -> Iterator[None]:
    assert packer.exists(), "the runtime of Ansible is a fake as well"
    yield
    inventory.delete(ami_account.account, left(ami_account), lambda _: None)


ON_SPOT, ON_DEMAND = "m7i.2xlarge m7i.4xlarge spot", "m7i.2xlarge on demand"


def test_spot_build_offers_all_instance_types_and_leaves_no_resources(
    ami_account: AmiAccount, plan: Plan
) -> None:
    done = build(ami_account, plan)
    assert done.plugin.tried == [ON_SPOT]
    assert left(ami_account) == []
    entries = journal.read(ami_account.workspace, done.run)
    assert [entry.kind for entry in entries] == ["image"], "no entry of a launch template is open"


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ("no capacity", "There is no Spot capacity available"),
        ("crash", "Packer gave no reason"),
        ("reclaimed", "EC2 reclaimed i-"),
    ],
)
def test_builds_on_demand_where_spot_fails(
    ami_account: AmiAccount,
    plan: Plan,
    packer: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    end: str,
    words: str,
) -> None:
    from moto.ec2.models.instances import Instance, StateReason

    from builder.rehearsal.ec2.cloud import Cloud

    monkeypatch.setattr(Cloud, "rules", dataclasses.replace(Cloud.rules, has_spot=end != "no capacity"))
    terminate = Instance.terminate

    def reclaim(instance: Instance, *more: Any, **others: Any) -> Any:
        found = terminate(instance, *more, **others)
        instance.state_reason = StateReason("reclaimed", "Server.SpotInstanceTermination")
        return found

    if end == "reclaimed":
        monkeypatch.setattr(Instance, "terminate", reclaim)
    done = build(ami_account, plan, end)
    assert done.plugin.tried == [ON_SPOT, ON_DEMAND]
    (note,) = [
        note for note in done.notes if note.startswith("not built on a spot instance of m7i.2xlarge or")
    ]
    assert words in note
    assert left(ami_account) == []


def test_failure_on_a_spot_instance_is_not_repeated_on_demand(ami_account: AmiAccount, plan: Plan) -> None:
    with pytest.raises(BuildError, match="Script exited with non-zero"):
        build(ami_account, plan, "failure")


@pytest.mark.parametrize("version", ["1.6", "1.16"])
def test_end_of_a_failed_run_removes_what_packer_left(
    ami_account: AmiAccount, plan: Plan, aws: Clients, version: str
) -> None:
    """Packer 1.6 tags nothing in its requests: the key pair shows which run made instance and template."""
    foreign = aws.run()["InstanceId"]
    other = f"packer-fleet-launch-template-{ami_account.target}"
    aws.ec2.create_launch_template(LaunchTemplateName=other, LaunchTemplateData={"KeyName": "prod"})
    with pytest.raises(BuildError):
        build(ami_account, plan, "failure", version)
    (run,) = {path.stem for path in (ami_account.workspace.home / "journal").glob("*.ndjson")}
    removed = janitor.sweep(ami_account.workspace, ami_account.account, run, keep_complete=True)
    kinds = {name.partition("-")[0] for name in removed}
    assert {"i", "lt"} | ({"fleet"} if version != "1.6" else set()) <= kinds
    assert foreign not in removed
    templates = aws.ec2.describe_launch_templates()["LaunchTemplates"]
    assert [each["LaunchTemplateName"] for each in templates] == [other]
    states = aws.ec2.describe_instances()["Reservations"]
    alive = [each for group in states for each in group["Instances"] if each["State"]["Name"] != "terminated"]
    assert [each["InstanceId"] for each in alive] == [foreign]
    aws.ec2.terminate_instances(InstanceIds=[foreign])
    aws.ec2.delete_launch_template(LaunchTemplateName=other)


def test_clean_everything_lists_fleets_and_templates_of_builds(ami_account: AmiAccount, plan: Plan) -> None:
    with pytest.raises(BuildError):
        build(ami_account, plan, "failure")
    assert {item.kind for item in left(ami_account)} == {"instance", "fleet", "launch template"}
    inventory.delete(ami_account.account, left(ami_account), lambda _: None)
    assert left(ami_account) == []
    assert [inventory.everything(ami_account.account, [region], "/x") for region in REGIONS[1:]] == [[], []]


def test_spot_attempts_in_each_subnet_precede_on_demand_attempts() -> None:
    settings = dataclasses.replace(SETTINGS, subnet="subnet-a", subnets=("subnet-b",))
    words = [str(attempt) for attempt in build_attempts(settings, "m7i.large")]
    both = "a spot instance of m7i.2xlarge or m7i.4xlarge in"
    assert words[:3] == [f"{both} subnet-a", f"{both} subnet-b", "m7i.2xlarge in subnet-a"]
    assert len(words) == 6
    assert not any(attempt.spot_types for attempt in build_attempts(AwsSettings(), "m7i.large"))


@pytest.mark.parametrize("capacity", ["open", "cr-0123456789abcdef0"])
def test_spot_and_a_capacity_reservation_exclude_each_other(capacity: str) -> None:
    with pytest.raises(UsageError, match=f'aws.capacity is "{capacity}"'):
        require_consistent(AwsSettings(spot=True, capacity=capacity))


def test_policy_of_a_site_with_spot_allows_the_recorded_calls_and_no_others() -> None:
    document = policy(features(AwsSettings(spot=True), encryptable=True), AwsSettings(spot=True))
    path = FOLDER / "1.16.0-spot.ndjson"
    made = list(requests(path))
    assert [each for each in made if evaluate([document], each) != ALLOWED] == []
    plain = policy(features(AwsSettings(), encryptable=True), AwsSettings())
    assert any(evaluate([plain], each) != ALLOWED for each in made)
    unused = not_needed(document, made)
    assert not unused & {
        "ec2:CreateLaunchTemplate",
        "ec2:DeleteLaunchTemplate",
        "ec2:CreateFleet",
        "iam:CreateServiceLinkedRole",
        "ec2:RunInstances",
    }
    assert "SpotUntagged" not in str(document)
    assert "SpotUntagged" in str(policy({OLD_SPOT}, AwsSettings()))


def test_fleets_are_found_by_all_their_tags(ami_account: AmiAccount) -> None:
    assert spot.fleets(ami_account.account, EAST, {RUN_TAG: "none", BUILDER_TAG: "*"}) == []


def test_fleet_of_another_target_of_the_run_stays(
    ami_account: AmiAccount, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, str]] = []
    monkeypatch.setattr(spot, "delete_all", lambda _, __, ___, tags: asked.append(dict(tags)))
    build(ami_account, plan)
    assert len(asked) == 1
    assert asked[0]["Name"].startswith(plan.target.name)


def test_fleet_that_ec2_does_not_delete_is_an_error(
    ami_account: AmiAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    def client(_: str, __: str = "") -> SimpleNamespace:
        failed = {"FleetId": "fleet-1", "Error": {"Code": code, "Message": "not now"}}
        return SimpleNamespace(delete_fleets=lambda **_: {"UnsuccessfulFleetDeletions": [failed]})

    account = SimpleNamespace(client=client)
    code = "unexpectedError"
    with pytest.raises(BuildError, match="deleting fleet-1: unexpectedError: not now"):
        spot.delete_fleet(cast("Account", account), EAST, "fleet-1")
    code = "fleetIdDoesNotExist"
    spot.delete_fleet(cast("Account", account), EAST, "fleet-1")
