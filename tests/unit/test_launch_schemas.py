"""Launch files are valid by the schemas of their services, which refuse files with wrong changes."""

import copy
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes_validate import ValidationError, validate

from builder.app.architectures import parse
from builder.app.context import Context
from builder.launch.files import KUBERNETES
from builder.launch.job import Wish
from builder.launch.kubernetes import KINDS
from tests.support.launch_schemas import KUBERNETES as KUBERNETES_VERSION
from tests.support.launch_schemas import aws_problems, eksctl_problems, kubernetes_problems
from tests.support.launching import FLAVOURS, create_site, make_file

Document = dict[str, Any]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Context:
    return create_site(tmp_path_factory.mktemp("launch"), root)


def _document(
    site: Context,
    service: str,
    kind: str = "",
    *,
    target: str = "trainer",
    flavour: str = "p5",
    nodes: int = 2,
) -> Document:
    content = make_file(site, target, flavour, service, Wish(nodes=nodes, kind=kind))[1].content
    assert isinstance(content, dict)
    return content


@pytest.mark.parametrize("flavour", ["p5", "p6-b300", "trn2", "g5"])
@pytest.mark.parametrize("service", KUBERNETES)
def test_kubernetes_objects_are_valid(site: Context, flavour: str, service: str) -> None:
    kinds = [("trainer", kind) for kind in KINDS["torchrun"]]
    others = [("collectives", "mpijob"), ("rayed", "raycluster"), ("joined", "jobset")]
    for target, kind in (*kinds, *others):
        document = _document(site, service, kind, target=target, flavour=flavour)
        assert list(kubernetes_problems(document)) == []
        assert _resources(document) == _expected(site, flavour)


def _expected(site: Context, flavour: str) -> set[str]:
    """Return the Kubernetes resource names that nodes offer; schemas accept any resource name."""
    instance = site.catalog.instances[FLAVOURS[flavour][1]]
    names = {"nvidia": "nvidia.com/gpu", "neuron": "aws.amazon.com/neuron", "none": "cpu"}
    fabric = {"vpc.amazonaws.com/efa", "hugepages-2Mi"} if instance.efa else set()
    return {"memory", names[instance.accel], *fabric}


def _resources(value: Any) -> set[str]:
    found: set[str] = set()
    for key, entry in _items(value):
        if key == "limits":
            found |= set(entry)
    return found


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, list):
        for entry in value:
            yield from _items(entry)
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield key, entry
            yield from _items(entry)


def _set(path: str, value: Any) -> Callable[[Document], None]:
    """Return a function that sets the value at a slash-separated path; "DELETE" removes the value."""

    def change(document: Document) -> None:
        *parents, last = [int(word) if word.isdigit() else word for word in path.split("/")]
        inner: Any = document
        for word in parents:
            inner = inner[word]
        if value == "DELETE":
            del inner[last]
        else:
            inner[last] = value

    return change


HEAD = "spec/headGroupSpec/template/spec"
POD = "spec/pytorchReplicaSpecs/Worker/template/spec"


@pytest.mark.parametrize(
    ("kind", "change", "place"),
    [
        ("pytorchjob", _set("spec/elasticPolicy/maxRestart", 3), "$.spec.elasticPolicy"),
        ("pytorchjob", _set("spec/nprocPerNode", 8), "$.spec.nprocPerNode"),
        ("pytorchjob", _set("spec/pytorchReplicaSpecs/Worker/replicas", "2"), "Worker.replicas"),
        ("pytorchjob", _set(f"{POD}/volumes/0/emptyDir/mediun", "Memory"), "Worker.template"),
        ("pytorchjob", _set(f"{POD}/containers/0/name", "DELETE"), "Worker.template"),
        ("pytorchjob", _set("kind", "PyTorchJobs"), "$"),
        ("trainjob", _set("spec/trainer/numProcPerNode", "8"), "$.spec.trainer.numProcPerNode"),
        ("trainjob", _set("spec/runtimeRef", "DELETE"), "$.spec"),
        ("trainjob", _set("metadata/name", "Bad_Name"), "$"),
        (
            "jobset",
            _set("spec/replicatedJobs/0/template/spec/completion", 2),
            "s[0].template.spec",
        ),
        ("jobset", _set("spec/failurePolicy/restartStrategy", "Never"), "failurePolicy.restartStrategy"),
        ("mpijob", _set("spec/slotsPerWorker", "8"), "$.spec.slotsPerWorker"),
        ("raycluster", _set("spec/headGroup", {}), "$.spec"),
        ("raycluster", _set("spec/workerGroupSpecs/0/replicas", "1"), "workerGroupSpecs[0].replicas"),
        ("raycluster", _set("spec/workerGroupSpecs/0/minReplicas", "DELETE"), "workerGroupSpecs[0]"),
        ("raycluster", _set(f"{HEAD}/containers/0/image", 1), "headGroupSpec.template"),
    ],
)
def test_wrong_changes_of_kubernetes_objects_are_refused(
    site: Context, kind: str, change: Callable[[Document], None], place: str
) -> None:
    target = {"mpijob": "collectives", "raycluster": "rayed"}.get(kind, "trainer")
    document = copy.deepcopy(_document(site, "kubernetes", kind, target=target))
    assert list(kubernetes_problems(document)) == []
    change(document)
    problems = list(kubernetes_problems(document))
    assert any(problem.partition(": ")[0].endswith(place) for problem in problems), problems


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("nodes", [1, 2])
def test_batch_definitions_are_valid(site: Context, flavour: str, nodes: int) -> None:
    for target in ("trainer", "joined"):
        document = _document(site, "batch", target=target, flavour=flavour, nodes=nodes)
        assert list(aws_problems("batch", "RegisterJobDefinition", document)) == []


NODE = "nodeProperties/nodeRangeProperties/0/container"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (_set("nodeProperties/numNode", 2), 'Unknown parameter in nodeProperties: "numNode"'),
        (_set("nodeProperties/numNodes", "2"), "Invalid type for parameter nodeProperties.numNodes"),
        (_set("jobDefinitionName", "DELETE"), 'Missing required parameter in input: "jobDefinitionName"'),
        (_set("type", "multi"), "$.type: 'multi' is not one of container, multinode"),
        (_set(f"{NODE}/resourceRequirements/0/type", "CPU"), "resourceRequirements[0].type: 'CPU' is not"),
        (_set(f"{NODE}/linuxParameters/devices/0/permissions", ["R"]), "devices[0].permissions[0]: 'R' is"),
    ],
)
def test_wrong_changes_of_batch_definitions_are_refused(
    site: Context, change: Callable[[Document], None], problem: str
) -> None:
    document = copy.deepcopy(_document(site, "batch"))
    change(document)
    problems = list(aws_problems("batch", "RegisterJobDefinition", document))
    assert any(problem in text for text in problems), problems


def test_daemonset_is_valid_and_requests_no_gpus(site: Context) -> None:
    for flavour in ("p5", "cpu"):
        document = _document(site, "kubernetes", "daemonset", target="single", flavour=flavour, nodes=1)
        validate(document, KUBERNETES_VERSION, strict=True)
        assert _resources(document) == {"memory"}
        variables = [entry for _, entries in _items(document) if _ == "env" for entry in entries]
        visible = {"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}
        assert (visible in variables) == (flavour == "p5")
    with pytest.raises(ValidationError):
        validate({**document, "spec": {"template": {}}}, KUBERNETES_VERSION, strict=True)


KARPENTER = "architectures/eks/karpenter.yaml"


def _karpenter(root: Path) -> list[Document]:
    text = (root / KARPENTER).read_text(encoding="utf-8")
    for name, kind in (("ImageId", "ami"), ("PrivateSubnet", "subnet"), ("SecurityGroup", "sg")):
        text = text.replace(f"${{{name}}}", f"{kind}-0123456789abcdef0")
    return list(yaml.safe_load_all(text))


def test_objects_of_karpenter_are_valid(root: Path) -> None:
    text = (root / KARPENTER).read_text(encoding="utf-8")
    outputs = set()
    for name in ("eks", "vpc"):
        outputs |= set(parse((root / f"architectures/{name}/template.yaml").read_text())["Outputs"])
    assert set(re.findall(r"\$\{(\w+)\}", text)) <= outputs
    assert [list(kubernetes_problems(document)) for document in _karpenter(root)] == [[], []]


@pytest.mark.parametrize(
    ("number", "change", "place"),
    [
        (0, _set("spec/instanceProfile", "x"), "$.spec"),
        (0, _set("spec/amiSelectorTerm", []), "$.spec"),
        (1, _set("spec/template/spec/nodeClassRef/kind", ""), "$.spec.template.spec.nodeClassRef"),
        (1, _set("spec/template/spec/requirements/0/operator", "Is"), "requirements[0].operator"),
        (1, _set("spec/disruption/consolidationPolicy", "WhenIdle"), "$.spec.disruption"),
    ],
)
def test_wrong_changes_of_karpenter_objects_are_refused(
    root: Path, number: int, change: Callable[[Document], None], place: str
) -> None:
    document = _karpenter(root)[number]
    change(document)
    problems = list(kubernetes_problems(document))
    assert any(place in problem.partition(": ")[0] for problem in problems), problems


EKSCTL = "architectures/eks/eksctl.yaml"


def _eksctl(root: Path) -> Document:
    text = (root / EKSCTL).read_text(encoding="utf-8")
    kinds = {"Vpc": "vpc", "ImageId": "ami", "SecurityGroup": "sg", "Region": "us-east-1"}
    return dict(
        yaml.safe_load(re.sub(r"\$\{(\w+)\}", lambda found: f"{kinds.get(found[1], 'subnet')}-1", text))
    )


def test_eksctl_configuration_is_valid_and_agrees_with_the_eks_template(root: Path) -> None:
    document = _eksctl(root)
    assert list(eksctl_problems(document)) == []
    template = parse((root / "architectures/eks/template.yaml").read_text())
    system, train = document["managedNodeGroups"]
    defaults = {name: parameter.get("Default") for name, parameter in template["Parameters"].items()}
    assert document["metadata"]["version"] == defaults["Version"]
    assert (system["instanceType"], train["instanceType"]) == (
        defaults["SystemInstanceType"],
        defaults["InstanceType"],
    )
    assert (train["maxSize"], train["volumeSize"]) == (defaults["MostNodes"], defaults["VolumeSize"])
    given = re.findall(r"\$\{(\w+)\}", (root / EKSCTL).read_text(encoding="utf-8"))
    outputs = set(parse((root / "architectures/vpc/template.yaml").read_text())["Outputs"])
    readme = (root / "architectures/eks/README.md").read_text(encoding="utf-8")
    assert [name for name in given if name not in outputs and f"export {name}=" not in readme] == []


@pytest.mark.parametrize(
    ("path", "value", "place"),
    [
        ("managedNodeGroups/1/efaEnable", True, "$.managedNodeGroups[1]"),
        ("managedNodeGroups/1/amiFamily", "AmazonLinux3", "$.managedNodeGroups[1].amiFamily"),
        ("managedNodeGroups/1/amiFamily", "DELETE", "$.managedNodeGroups[1]"),
        ("managedNodeGroups/1/subnets", ["first", "second"], "$.managedNodeGroups[1].subnets"),
        ("managedNodeGroups/1/volumeType", "gp4", "$.managedNodeGroups[1].volumeType"),
        ("managedNodeGroups/0/minSize", "1", "$.managedNodeGroups[0].minSize"),
        ("managedNodeGroups/0/name", "DELETE", "$.managedNodeGroups[0]"),
        ("metadata/version", 1.33, "$.metadata.version"),
        ("cloudWatch/clusterLogging/enableTypes/0", "apis", "$.cloudWatch.clusterLogging.enableTypes[0]"),
        ("accessConfig/authenticationMode", "IAM", "$.accessConfig.authenticationMode"),
        ("vpc/subnets/private/second", "DELETE", "$.vpc.subnets.private"),
        ("vpc/id", "eks-1", "$.vpc.id"),
        ("kind", "Cluster", "$.kind"),
    ],
)
def test_wrong_changes_of_the_eksctl_configuration_are_refused(
    root: Path, path: str, value: Any, place: str
) -> None:
    document = _eksctl(root)
    _set(path, value)(document)
    assert [problem.partition(": ")[0] for problem in eksctl_problems(document)] == [place]


def test_catalog_marks_the_instance_types_of_hyperpod(site: Context) -> None:
    group = {
        "InstanceGroupName": "workers",
        "InstanceCount": 2,
        "ExecutionRole": "arn:aws:iam::123456789012:role/x",
        "LifeCycleConfig": {"SourceS3Uri": "s3://sagemaker-x/a", "OnCreate": "on_create.sh"},
    }
    for instance in site.catalog.instances.values():
        cluster = {"ClusterName": "c", "InstanceGroups": [group | {"InstanceType": f"ml.{instance.name}"}]}
        problems = list(aws_problems("sagemaker", "CreateCluster", cluster))
        assert (problems == []) == instance.in_hyperpod, problems or instance.name


def test_kubernetes_objects_of_cpu_jobs_request_cpus(site: Context) -> None:
    for kind in KINDS["torchrun"]:
        document = _document(site, "kubernetes", kind, flavour="cpu")
        assert list(kubernetes_problems(document)) == []
        assert _resources(document) == _expected(site, "cpu")
