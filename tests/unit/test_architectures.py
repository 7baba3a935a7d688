"""CloudFormation templates of `architectures/`: cfn-lint, the project's rules, network cards, exports."""

import copy
import ipaddress
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from builder import catalog
from builder.adapters.ami.publisher import Names
from builder.app.architectures import IMAGE_PARAMETER, load, names, parse, values_of
from builder.cli.main import main
from builder.errors import UsageError
from builder.marks import KEY_TAG, STACK_TAG, SYSTEM_TAG, TARGET_TAG
from builder.site import AwsSettings
from tests.support.cloudformation import Template, violations
from tests.support.launch_schemas import aws_problems

Table = dict[str, Any]


def template(root: Path, name: str, **parameters: str) -> Template:
    return Template(root / "architectures" / name / "template.yaml", **parameters)


def test_cfn_lint_finds_nothing(root: Path) -> None:
    """cfn-lint, which takes 5 s, is the only check of the resource properties of eks, hyperpod and pcs."""
    from cfnlint.api import lint_file

    found = [
        match for name in names(root) for match in lint_file(root / "architectures" / name / "template.yaml")
    ]
    assert [f"{match.filename}:{match.linenumber}: {match.rule.id} {match.message}" for match in found] == []


def test_templates_obey_the_resource_rules(root: Path) -> None:
    assert names(root)
    assert {name: violations(template(root, name).table) for name in names(root)} == {
        name: [] for name in names(root)
    }


def _own(name: str, resource: str, *keys: str, value: Any = None) -> tuple[str, str, Callable[[Table], None]]:
    """Return a template, a resource, and a function that sets or (without a value) removes a key of it."""

    def change(table: Table) -> None:
        inner = table["Resources"][resource]
        for key in keys[:-1]:
            inner = inner[key]
        if value is None:
            del inner[keys[-1]]
        else:
            inner[keys[-1]] = value

    return name, resource, change


DATA = ("Properties", "LaunchTemplateData")


@pytest.mark.parametrize(
    ("name", "resource", "change"),
    [
        _own("bucket", "Bucket", "DeletionPolicy"),
        _own("bucket", "Bucket", "Properties", "BucketEncryption"),
        _own(
            "bucket", "Bucket", "Properties", "PublicAccessBlockConfiguration", "BlockPublicAcls", value=False
        ),
        _own("vpc", "GroupIngress", "Properties", "CidrIp", value="0.0.0.0/0"),
        _own("vpc", "Group", "Properties", "SecurityGroupIngress", value=[{"CidrIp": "0.0.0.0/0"}]),
        _own("batch", "LaunchTemplate", *DATA, "MetadataOptions"),
        _own("batch", "LaunchTemplate", *DATA, "MetadataOptions", "HttpTokens", value="optional"),
        _own("batch", "LaunchTemplate", *DATA, "BlockDeviceMappings", value=[{"Ebs": {"VolumeSize": 1}}]),
        _own("batch", "Logs", "UpdateReplacePolicy"),
    ],
)
def test_resource_rules_find_a_wrong_resource(
    root: Path, name: str, resource: str, change: Callable[[Table], None]
) -> None:
    table = copy.deepcopy(template(root, name).table)
    change(table)
    (found,) = violations(table)
    assert found.startswith(f"{resource}: ")


@pytest.mark.parametrize("architecture", ["batch", "eks", "pcs"])
def test_launch_templates_have_an_interface_on_every_network_card(root: Path, architecture: str) -> None:
    found = catalog.load(root).instances
    types = template(root, architecture).table["Parameters"]["InstanceType"]["AllowedValues"]
    assert {"p4d.24xlarge", "p5.48xlarge", "p6-b200.48xlarge", "p6-b300.48xlarge"} <= set(types)
    for name in types:
        own = template(root, architecture, InstanceType=name).resources()["LaunchTemplate"]
        cards = own["LaunchTemplateData"]["NetworkInterfaces"]
        instance = found[name]
        assert [card["NetworkCardIndex"] for card in cards] == list(range(instance.cards or 0)), name
        efa = [card for card in cards if card["InterfaceType"] in ("efa", "efa-only")]
        assert len(efa) == instance.efa, name
        assert efa[0]["NetworkCardIndex"] == instance.efa_from
        assert [card["DeviceIndex"] for card in cards] == [0] + [1] * (len(cards) - 1)


def test_a_capacity_reservation_replaces_the_placement_group(root: Path) -> None:
    for reservation, key in (("", "Placement"), ("cr-0123456789abcdef0", "CapacityReservationSpecification")):
        found = template(root, "batch", CapacityReservation=reservation)
        (own,) = found.resources("AWS::EC2::LaunchTemplate").values()
        data = {name for name, value in own["LaunchTemplateData"].items() if value != {"Ref": "AWS::NoValue"}}
        assert data & {"Placement", "CapacityReservationSpecification"} == {key}


@pytest.mark.parametrize("count", range(1, 7))
def test_vpc_template_has_two_subnets_in_each_zone(root: Path, count: int) -> None:
    found = template(root, "vpc", ZoneCount=str(count), Zones="a,b,c,d,e,f")
    subnets = found.resources("AWS::EC2::Subnet")
    assert len(subnets) == 2 * count
    networks = [ipaddress.ip_network(own["CidrBlock"]) for own in subnets.values()]
    assert all(network.subnet_of(ipaddress.ip_network("10.0.0.0/16")) for network in networks)
    assert not any(a.overlaps(b) for i, a in enumerate(networks) for b in networks[:i])
    joined = found.value(found.table["Outputs"]["PrivateSubnets"]["Value"])["Fn::Join"][1]
    assert len(joined) == count


def test_all_imported_values_are_exported_by_the_vpc_template(root: Path) -> None:
    exports = {name.replace("AWS::StackName", "VpcStack") for name in template(root, "vpc").exports()}
    for name in names(root):
        assert template(root, name).imports() <= exports, name


def test_default_image_is_an_ssm_parameter_that_publishing_writes(root: Path) -> None:
    written = set()
    for target in catalog.load(root).targets.values():
        for flavour in target.flavours.values():
            tags = {TARGET_TAG: target.name, SYSTEM_TAG: flavour.system, STACK_TAG: "", KEY_TAG: ""}
            written.add(Names.of(AwsSettings().parameters, tags, "x86_64").moving)
    for name in names(root):
        default = load(root, name).parameters.get(IMAGE_PARAMETER)
        assert default is None or default in written, name


def test_image_of_the_parallelcluster_has_the_tags_that_pcluster_compares(root: Path) -> None:
    systems = catalog.load(root).systems
    amis = {name: system.ami for name, system in systems.items() if name.startswith("pcluster-")}
    assert len(amis) > 1
    for name, ami in amis.items():
        assert ami is not None
        own = {key.removeprefix("parallelcluster:"): value for key, value in ami.tags.items()}
        assert own["build_status"] == "available"
        assert f"aws-parallelcluster-{own['version']}-{systems[name].distribution}" in ami.name
        assert own["os"] == systems[name].distribution + systems[name].release.replace(".", "")
    default = load(root, "parallelcluster").parameters[IMAGE_PARAMETER]
    (image,) = [name for name in amis if f"/{name}/" in default]
    cluster = yaml.safe_load((root / "architectures/parallelcluster/cluster.yaml").read_text())
    assert cluster["Image"]["Os"] == amis[image].tags["parallelcluster:os"]


def test_hyperpod_has_a_controller_only_with_slurm(root: Path) -> None:
    cluster = "arn:aws:eks:us-east-1:123456789012:cluster/train"
    for arn, names_of_groups in (("", ["workers", "controller"]), (cluster, ["workers"])):
        own = template(root, "hyperpod", EksCluster=arn).resources()["Cluster"]
        assert [group["InstanceGroupName"] for group in own["InstanceGroups"]] == names_of_groups
        assert (own["Orchestrator"] == {"Eks": {"ClusterArn": cluster}}) == bool(arn)


def test_readme_of_each_architecture_names_every_output(root: Path) -> None:
    for name in names(root):
        text = (root / "architectures" / name / "README.md").read_text(encoding="utf-8")
        assert [key for key in template(root, name).table["Outputs"] if f"`{key}`" not in text] == []


def test_placeholders_of_the_parallelcluster_file_are_stack_outputs(root: Path) -> None:
    text = (root / "architectures/parallelcluster/cluster.yaml").read_text(encoding="utf-8")
    own, network = (set(template(root, name).table["Outputs"]) for name in ("parallelcluster", "vpc"))
    found = set(re.findall(r"\$\{(\w+)\}", text))
    assert own <= found <= own | network
    (resource,) = yaml.safe_load(text)["Scheduling"]["SlurmQueues"][0]["ComputeResources"]
    assert resource["Efa"]["Enabled"] == bool(catalog.load(root).instances[resource["InstanceType"]].efa)


def test_short_forms_of_cloudformation_functions_are_parsed() -> None:
    text = "A: !Ref B\nC: !Sub ${X}/y\nD: !If [E, !GetAtt F.Arn, {G: 1}]\nH: !Condition I\n"
    assert parse(text) == {
        "A": {"Ref": "B"},
        "C": {"Fn::Sub": "${X}/y"},
        "D": {"Fn::If": ["E", {"Fn::GetAtt": "F.Arn"}, {"G": 1}]},
        "H": {"Condition": "I"},
    }


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("vcp", [], "no architecture 'vcp' (did you mean 'vpc'?)"),
        ("vpc", [], "architecture 'vpc' needs Zones=VALUE"),
        ("vpc", ["Zones"], "'Zones' is not KEY=VALUE"),
        ("vpc", ["Zone=a"], "architecture 'vpc' has no parameter 'Zone' (did you mean 'Zones'?)"),
        ("vpc", ["Zones=a", "Zones=b"], "the parameter Zones is given twice"),
        ("vpc", ["Zones=a\n"], "Zones=a\\n: must be one line of printable text"),
        ("vpc", ["Zones=a", "ZoneCount=7"], "ZoneCount=7: must be 1, 2, 3, 4, 5 or 6"),
        ("bucket", ["NoncurrentDays=0"], "must be a number from 1 to 3650"),
        ("bucket", ["NoncurrentDays=\u0664"], "must be a number from 1 to 3650"),
        ("batch", ["InstanceType=p9"], "InstanceType=p9: must be p4d.24xlarge, "),
        ("batch", ["CapacityReservation=x"], "must match (cr-"),
    ],
)
def test_wrong_names_and_parameters_are_refused(
    root: Path, name: str, given: list[str], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        values_of(load(root, name), given)
    assert message in caught.value.message
    assert caught.value.hint


def test_deploy_parameters_name_the_published_ami(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("catalog", "ansible", "containers", "architectures"):
        (tmp_path / name).symlink_to(root / name)
    monkeypatch.setenv("BUILDER_HOME", str(tmp_path / "home"))
    words = ["deploy", "parameters", "batch", "ami-batch-gpu", "--root", str(tmp_path)]
    assert main(words) == 3
    assert "no receipt of a published AMI of target 'ami-batch-gpu'" in capsys.readouterr().err
    receipt = {
        "format": 1,
        "plan": {"flavour": {"name": "amazon-2023"}, "arch": "x86_64"},
        "artifact": {"reference": "ami-0123456789abcdef0"},
        "publications": [{"name": "ami-0123456789abcdef0 in us-east-1"}],
    }
    path = tmp_path / "out/receipts/ami-batch-gpu/key.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(receipt))
    assert main(words) == 0
    value = "/image-factory/ami-batch-gpu/amazon-2023/latest/image_id"
    assert json.loads(capsys.readouterr().out) == [{"ParameterKey": "ImageId", "ParameterValue": value}]
    assert main(["deploy", "parameters", "bucket", "ami-batch-gpu", "--root", str(tmp_path)]) == 2


# (Template, resource) → AWS service, API operation with this input, and input names that differ.
OPERATIONS = {
    ("hyperpod", "Cluster"): ("sagemaker", "CreateCluster", {}),
    ("pcs", "Cluster"): ("pcs", "CreateCluster", {"name": "clusterName"}),
    ("pcs", "Nodes"): (
        "pcs",
        "CreateComputeNodeGroup",
        {"clusterId": "clusterIdentifier", "name": "computeNodeGroupName", "templateId": "id"},
    ),
    ("pcs", "Queue"): ("pcs", "CreateQueue", {"clusterId": "clusterIdentifier", "name": "queueName"}),
    ("eks", "Nodes"): ("eks", "CreateNodegroup", {}),
    ("eks", "SystemGroup"): ("eks", "CreateNodegroup", {}),
}
REFERENCES = {
    "ClusterId": "pcs_0123456789",
    "ComputeNodeGroupId": "pcs_0123456789",
    "ClusterName": "train",
    "ExecutionRole": "arn:aws:iam::123456789012:role/train",
    "NodeRole": "arn:aws:iam::123456789012:role/train",
    "IamInstanceProfileArn": "arn:aws:iam::123456789012:instance-profile/aws-pcs/train",
    "SecurityGroupIds": "sg-0123456789abcdef0",
    "SubnetIds": "subnet-0123456789abcdef0",
    "Subnets": "subnet-0123456789abcdef0",
    "TemplateId": "lt-0123456789abcdef0",
    "Id": "lt-0123456789abcdef0",
    "Version": "1",
    "SourceS3Uri": "s3://sagemaker-train/lifecycle",
}


def _input(root: Path, name: str, resource: str) -> tuple[str, str, Table]:
    """Return AWS service, operation and input of a resource, with sample values for references."""
    service, operation, others = OPERATIONS[name, resource]
    given = {"ImageId": "ami-0123456789abcdef0", "LifecycleBucket": "sagemaker-train"}
    properties = template(root, name, **given).resources()[resource]
    generated = {
        "hyperpod": {"ClusterName": "train"},
        "pcs": {"Name": "train"},
        "eks": {"NodegroupName": "train"},
    }

    def converted(value: Any, key: str) -> Any:
        if isinstance(value, list):
            return [converted(entry, key) for entry in value]
        if not isinstance(value, dict):
            is_number = key.endswith(("Count", "Size")) and key != "Size"
            return int(value) if is_number else value == "true" if value in ("true", "false") else value
        if len(value) == 1 and next(iter(value)).startswith(("Fn::", "Ref")):
            found = REFERENCES[key]
            return [found] if "Fn::Split" in value else found
        return {named(inner): converted(entry, inner) for inner, entry in value.items() if entry != NOTHING}

    def named(key: str) -> str:
        lowered = key if service == "sagemaker" else key[0].lower() + key[1:]
        return others.get(lowered, lowered)

    return service, operation, converted({**generated[name], **properties}, "")


NOTHING = {"Ref": "AWS::NoValue"}


@pytest.mark.parametrize(("name", "resource"), OPERATIONS)
def test_resources_are_valid_inputs_of_their_api_operation(root: Path, name: str, resource: str) -> None:
    assert list(aws_problems(*_input(root, name, resource))) == []


@pytest.mark.parametrize(
    ("name", "resource", "path", "value", "problem"),
    [
        (
            "hyperpod",
            "Cluster",
            "InstanceGroups/0/ImageId",
            "nonsense",
            "$.InstanceGroups[0].ImageId: 'nonsense'",
        ),
        (
            "hyperpod",
            "Cluster",
            "InstanceGroups/0/InstanceType",
            "p5.48xlarge",
            "'p5.48xlarge' is not one of",
        ),
        (
            "hyperpod",
            "Cluster",
            "InstanceGroups/0/InstanceCounts",
            1,
            'parameter in InstanceGroups[0]: "Inst',
        ),
        ("hyperpod", "Cluster", "NodeRecovery", "Manual", "$.NodeRecovery: 'Manual' is not one of"),
        ("pcs", "Cluster", "size", "HUGE", "$.size: 'HUGE' is not one of"),
        ("pcs", "Nodes", "amiId", "image", "$.amiId: 'image' does not match"),
        (
            "pcs",
            "Nodes",
            "scalingConfiguration/maxInstanceCount",
            "4",
            "scalingConfiguration.maxInstanceCount",
        ),
        ("eks", "Nodes", "amiType", "AL2", "$.amiType: 'AL2' is not one of"),
        ("eks", "Nodes", "capacityType", "BLOCK", "$.capacityType: 'BLOCK' is not one of"),
        ("eks", "SystemGroup", "scalingConfig/min", 1, 'Unknown parameter in scalingConfig: "min"'),
    ],
)
def test_invalid_inputs_of_api_operations_are_refused(
    root: Path, name: str, resource: str, path: str, value: Any, problem: str
) -> None:
    service, operation, found = _input(root, name, resource)
    inner: Any = found
    *parents, last = [int(word) if word.isdigit() else word for word in path.split("/")]
    for word in parents:
        inner = inner[word]
    inner[last] = value
    problems = list(aws_problems(service, operation, found))
    assert any(problem in text for text in problems), problems
