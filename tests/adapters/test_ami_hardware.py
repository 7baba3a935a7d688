"""Check instances ([checks] in site.toml): type, capabilities, EFA cards, capacity blocks, pairs for NCCL."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from builder.adapters.ami import checker
from builder.adapters.ami.checker import MachineChecker
from builder.adapters.ami.hardware import Hardware, connect, of_site
from builder.adapters.ami.permissions import features, policy
from builder.adapters.aws.account import Account
from builder.app.context import Context
from builder.errors import BuildError, CheckError, UsageError
from builder.events import Stream
from builder.model import Artifact, Plan
from builder.rehearsal.authorization import requests_of
from builder.rehearsal.iam import ALLOWED, evaluate
from builder.rehearsal.proxy import Proxy
from builder.site import AwsSettings, CheckSettings
from tests.support.rehearsal import ROOT
from tests.support.rehearsed_account import AmiAccount

BLOCK, RESERVATION = "cr-0aaaaaaaaaaaaaaaa", "cr-0bbbbbbbbbbbbbbbb"
INSIDE = AwsSettings(ssh_interface="private_ip")


@pytest.fixture(scope="module")
def context() -> Context:
    return Context(ROOT, site_name="aws")


@pytest.fixture(scope="module")
def plan(context: Context) -> Plan:
    """A plan with the NCCL benchmarks."""
    found = context.plan("ami-cpu")
    return dataclasses.replace(found, components=(*found.components, "nccl_tests"))


def wanted(context: Context, instance: str, capacity: str = "") -> Hardware:
    found = of_site(CheckSettings(instance=instance, capacity=capacity), INSIDE, context.catalog.instances)
    assert found is not None
    return found


def present(hardware: Hardware, settings: AwsSettings) -> list[str]:
    return [name for name, is_present in hardware.capabilities(settings).items() if is_present]


@pytest.mark.parametrize(
    ("instance", "expected"),
    [
        ("p5.48xlarge", ["kernel", "gpu", "nvswitch", "efa-device"]),
        ("g6.xlarge", ["kernel", "gpu"]),
        ("trn2.48xlarge", ["kernel", "neuron-device", "efa-device"]),
        ("c7i.large", ["kernel"]),
    ],
)
def test_capabilities_depend_on_instance_type(context: Context, instance: str, expected: list[str]) -> None:
    assert present(wanted(context, instance), INSIDE) == expected


def test_site_file_without_checks_instance_selects_no_hardware(context: Context) -> None:
    assert of_site(CheckSettings(), AwsSettings(), context.catalog.instances) is None


def kinds(hardware: Hardware, settings: AwsSettings) -> list[tuple[int, int, str]]:
    cards = hardware.network(settings, "sg-1")["NetworkInterfaces"]
    return [(card["NetworkCardIndex"], card["DeviceIndex"], card["InterfaceType"]) for card in cards]


def test_all_network_cards_are_used_unless_the_instance_needs_a_public_address(context: Context) -> None:
    """EC2 gives no public address to an instance with several interfaces."""
    p5 = wanted(context, "p5.48xlarge")
    assert kinds(p5, INSIDE) == [(0, 0, "efa"), *((card, 1, "efa-only") for card in range(1, 32))]
    assert kinds(p5, AwsSettings()) == [(0, 0, "efa")]
    public = AwsSettings(public_address=True, subnet="subnet-1")
    (card,) = p5.network(public, "sg-1")["NetworkInterfaces"]
    assert (card["AssociatePublicIpAddress"], card["SubnetId"]) == (True, "subnet-1")
    assert "AssociatePublicIpAddress" not in p5.network(AwsSettings(), "sg-1")["NetworkInterfaces"][0]
    assert wanted(context, "g6.xlarge").network(AwsSettings(), "sg-1") == {"SecurityGroupIds": ["sg-1"]}


def test_a_first_network_card_without_efa_has_an_ordinary_interface(context: Context) -> None:
    late = next(each for each in context.catalog.instances.values() if each.efa_from and each.efa)
    hardware = wanted(context, late.name)
    assert kinds(hardware, INSIDE)[:2] == [(0, 0, "interface"), (late.efa_from, 1, "efa-only")]
    assert "efa-device" not in present(hardware, AwsSettings()), "one public interface carries no EFA"


def test_check_instance_of_another_architecture_is_refused(context: Context, plan: Plan) -> None:
    with pytest.raises(UsageError, match=r"checks.instance is p6e-gb200.36xlarge, an instance for arm64"):
        wanted(context, "p6e-gb200.36xlarge").require_fits(plan)
    wanted(context, "p5.48xlarge").require_fits(plan)


@dataclasses.dataclass
class Checked:
    capabilities: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    commands: list[str] = dataclasses.field(default_factory=list)


def check(
    ami_account: AmiAccount,
    plan: Plan,
    hardware: Hardware,
    monkeypatch: pytest.MonkeyPatch,
) -> Checked:
    """Run the checks as in an account, with doubles of SSH and of the checks themselves."""
    found = Checked()

    def run_checks(*_: Any, capabilities: Mapping[str, Any], **__: Any) -> tuple[()]:
        found.capabilities = capabilities
        return ()

    def on(self: MachineChecker, address: str, config: Path) -> Any:
        def run(command: str) -> str:
            found.commands.append(command)
            return "ssh-ed25519 AAAAPEER x@y\n"

        return run

    monkeypatch.setattr(checker, "run_checks", run_checks)
    monkeypatch.setattr(checker, "require_same_checks", lambda *_: None)
    monkeypatch.setattr(MachineChecker, "_wait_for_login", lambda *_: None)
    monkeypatch.setattr(MachineChecker, "_on", on)
    monkeypatch.setattr(Account, "is_on_this_machine", property(lambda _: False))
    monkeypatch.setattr(Account, "polling", property(lambda _: 0.02))
    with ami_account.run() as run:
        MachineChecker(
            account=ami_account.account,
            settings=AwsSettings(source_cidrs=("203.0.113.0/24",)),
            run=run,
            root=ROOT,
            events=Stream(),
            tags=lambda _: ami_account.tags(run=run.name),
            environment={},
            hardware=hardware,
        ).check(
            plan,
            Artifact(kind="ami", target="t", reference=ami_account.aws.debian(), key=plan.key),
        )
    return found


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    from builder.rehearsal.ec2.cloud import Cloud

    rules = dataclasses.replace(Cloud.rules, capacity_blocks=(BLOCK,), reservations=(RESERVATION,))
    monkeypatch.setattr(Cloud, "rules", rules)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("capacity", [BLOCK, RESERVATION])
def test_two_instances_in_a_capacity_reservation_are_connected_and_terminated(
    ami_account: AmiAccount,
    context: Context,
    plan: Plan,
    proxy: Proxy,
    monkeypatch: pytest.MonkeyPatch,
    capacity: str,
) -> None:
    hardware = wanted(context, "p5.48xlarge", capacity)
    found = check(ami_account, plan, hardware, monkeypatch)
    (started,) = [call for call in proxy.calls if call.action == "RunInstances"]
    assert (started.parameters["MinCount"], started.parameters["InstanceType"]) == ("2", "p5.48xlarge")
    named = "CapacityReservationSpecification.CapacityReservationTarget.CapacityReservationId"
    assert started.parameters[named] == capacity
    market = started.parameters.get("InstanceMarketOptions.MarketType")
    assert market == ("capacity-block" if capacity == BLOCK else None)
    assert started.parameters["Placement.AvailabilityZone"] == "us-east-1a"
    assert started.parameters["NetworkInterface.1.InterfaceType"] == "efa"
    allowed = [call.action for call in proxy.calls if call.action.startswith("AuthorizeSecurityGroup")]
    assert allowed == ["AuthorizeSecurityGroupIngress"] * 2 + ["AuthorizeSecurityGroupEgress"]
    assert {name for name, value in found.capabilities.items() if value is True} == {
        "kernel",
        "gpu",
        "nvswitch",
        "efa-device",
    }
    user, _, address = str(found.capabilities["peer"]).partition("@")
    assert plan.system.ami is not None
    assert user == plan.system.ami.user
    first, second = found.commands
    assert f"{address} ssh-ed25519 " in first, "the host key of the second machine is pinned"
    assert second == "echo 'ssh-ed25519 AAAAPEER' >> ~/.ssh/authorized_keys"
    filters = [{"Name": "key-name", "Values": [started.parameters["KeyName"]]}]
    ended = ami_account.aws.ec2.describe_instances(Filters=filters)["Reservations"]
    states = [each["State"]["Name"] for group in ended for each in group["Instances"]]
    assert states == ["terminated"] * 2


def test_error_names_a_capacity_reservation_that_does_not_exist(
    ami_account: AmiAccount, context: Context, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BuildError, match=f"describing {BLOCK}: InvalidCapacityReservationId.NotFound"):
        check(ami_account, plan, wanted(context, "p5.48xlarge", BLOCK), monkeypatch)


def test_image_without_nccl_tests_is_checked_on_one_instance(
    ami_account: AmiAccount, context: Context, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = check(ami_account, context.plan("ami-cpu"), wanted(context, "g6.xlarge"), monkeypatch)
    (started,) = [call for call in proxy.calls if call.action == "RunInstances"]
    assert started.parameters["MinCount"] == "1"
    assert "peer" not in found.capabilities
    assert found.commands == []


@pytest.mark.usefixtures("blocks")
def test_iam_policy_allows_the_calls_for_check_instances_in_a_capacity_block(
    ami_account: AmiAccount,
    context: Context,
    plan: Plan,
    proxy: Proxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checks = CheckSettings(instance="p5.48xlarge", capacity=BLOCK)
    document = policy(features(AwsSettings(), checks, encryptable=True), AwsSettings())
    check(ami_account, plan, wanted(context, "p5.48xlarge", BLOCK), monkeypatch)

    def tags(name: str) -> Mapping[str, str]:
        return ami_account.tags()

    made = [each for call in proxy.calls for each in requests_of(call, tags)]
    assert [each for each in made if evaluate([document], each) != ALLOWED] == []
    plain = policy(features(AwsSettings(), encryptable=True), AwsSettings())
    refused = {each.action for each in made if evaluate([plain], each) != ALLOWED}
    assert refused == {
        "ec2:AuthorizeSecurityGroupEgress",
        "ec2:DescribeCapacityReservations",
        "ec2:RunInstances",
    }


def test_invalid_ssh_key_from_a_check_instance_is_refused(tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    known.write_text("image ssh-ed25519 AAAA image\n")
    commands: list[str] = []
    with pytest.raises(CheckError, match="made no key for SSH"):
        connect(lambda _: "$(reboot)", commands.append, address="10.0.0.2", host_key=known)  # type: ignore[arg-type]
    assert commands == []


def test_site_file_sets_check_instance_and_capacity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from builder import site

    file = tmp_path / "site.toml"
    monkeypatch.setenv("BUILDER_SITE_FILE", str(file))
    file.write_text(f'[checks]\ninstance = "p5.48xlarge"\ncapacity = "{BLOCK}"\n')
    assert site.load(ROOT).checks == CheckSettings(instance="p5.48xlarge", capacity=BLOCK)
    file.write_text('[checks]\ninstance = "p5"\n')
    with pytest.raises(UsageError, match=r"checks\.instance: must be an instance type"):
        site.load(ROOT)
