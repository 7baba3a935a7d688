"""Validate the cluster of architectures/parallelcluster with ParallelCluster's schema and validators.

ParallelCluster needs other package versions than the builder, so it has its own virtual environment in out/.
"""

import copy
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml

from builder import catalog
from builder.adapters.aws.account import as_tags

pytestmark = pytest.mark.launch

Document = dict[str, Any]
BOUND_S = 900
AMI = "pcluster-3.16"  # the system of the AMI whose cluster architectures/parallelcluster describes
OWN = {"version": "3.16.1"}  # of pcluster in parallelcluster.txt; the Python index has no version 3.16.3
REGION = "us-east-1"
FILE_SYSTEM = "fs-0123456789abcdef0"
# What pip prints if it cannot connect to the index. Errors of hashes and versions have other texts.
UNREACHABLE = "connection broken by|Failed to establish a new connection|Temporary failure in name resolution"
# Prints a JSON list with the problems of each document on stdin, "" for a document without problems.
SCHEMA = """\
import json, sys
from marshmallow import ValidationError
from pcluster.schemas.cluster_schema import ClusterSchema

def problem(document):
    try:
        ClusterSchema(cluster_name="train").load(document)
    except ValidationError as error:
        return str(error.messages)
    return ""

print(json.dumps([problem(document) for document in json.load(sys.stdin)]))
"""
# Suppressed validators: moto lacks RunInstances with DryRun and network interfaces of file systems.
WITHOUT = (
    "type:HeadNodeLaunchTemplateValidator",
    "type:ComputeResourceLaunchTemplateValidator",
    "type:ExistingFsxNetworkingValidator",
)


@dataclass
class Pcluster:
    """Runs programs of ParallelCluster's virtual environment with the given environment variables."""

    folder: Path
    variables: Mapping[str, str]

    def call(self, *words: str | Path, text: str = "") -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [str(self.folder / "bin" / words[0]), *map(str, words[1:])],
            input=text,
            env={"PATH": f"{self.folder}/bin:{os.environ['PATH']}", **self.variables},
            capture_output=True,
            text=True,
            timeout=BOUND_S,
            check=False,
        )

    def problems(self, documents: list[Document]) -> list[str]:
        done = self.call("python", "-c", SCHEMA, text=json.dumps(documents))
        assert done.returncode == 0, done.stderr
        return list(json.loads(done.stdout))


@pytest.fixture(scope="module")
def pcluster(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Pcluster:
    folder, lock = root / "out/parallelcluster", root / "tests/launch/parallelcluster.txt"
    stamp = folder / "installed.txt"
    if not stamp.exists() or stamp.read_text() != lock.read_text():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True, timeout=BOUND_S)
        pip = [folder / "bin/python", "-m", "pip", "install", "--no-deps", "--require-hashes", "-r", lock]
        done = subprocess.run(pip, capture_output=True, text=True, timeout=BOUND_S, check=False)
        if done.returncode and re.search(UNREACHABLE, done.stdout + done.stderr):
            pytest.skip("capability absent: the package index cannot be reached")
        assert done.returncode == 0, done.stderr
        stamp.write_text(lock.read_text())
    variables = {
        "HOME": str(tmp_path_factory.mktemp("home")),
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
    }
    return Pcluster(folder, variables)


def document(root: Path, **values: str) -> Document:
    """Return the ParallelCluster configuration with its placeholders replaced by values."""
    text = (root / "architectures/parallelcluster/cluster.yaml").read_text(encoding="utf-8")
    known = {
        "Region": REGION,
        "ImageId": "ami-0123456789abcdef0",
        "PrivateSubnet": "subnet-0123456789abcdef0",
        "SecurityGroup": "sg-0123456789abcdef0",
        "FileSystem": FILE_SYSTEM,
    }
    for name, value in {**known, **values}.items():
        text = text.replace(f"${{{name}}}", value)
    assert "${" not in text
    return dict(yaml.safe_load(text))


QUEUE = "Scheduling/SlurmQueues/0"
CHANGES: list[tuple[str, Any, str]] = [
    ("Image/Os", "ubuntu1604", "'Os'"),
    ("Image/CustomAmi", "image-1", "'CustomAmi'"),
    ("Imds/ImdsSupport", "v3.0", "'ImdsSupport'"),
    ("HeadNode/InstanceTyp", "m7i.4xlarge", "'InstanceTyp'"),
    ("HeadNode/LocalStorage/RootVolume/VolumeType", "gp9", "'VolumeType'"),
    ("Scheduling/Scheduler", "slrm", "'Scheduler'"),
    (f"{QUEUE}/CapacityType", "RESERVED", "'CapacityType'"),
    (f"{QUEUE}/ComputeResources/0/MaxCount", "four", "'MaxCount'"),
    (f"{QUEUE}/ComputeResources/0/Efa/Enable", True, "'Enable'"),
    (f"{QUEUE}/Networking/SubnetIds/0", "net-1", "'SubnetIds'"),
    ("SharedStorage/0/StorageType", "Lustre", "'StorageType'"),
    ("SharedStorage/0/FsxLustreSettings/FileSystemId", "fs-1", "'FileSystemId'"),
]


def changed(table: Document, path: str, value: Any) -> Document:
    """Return a copy of the configuration with the value at a slash-separated path replaced."""
    found = copy.deepcopy(table)
    inner: Any = found
    *parents, last = [int(word) if word.isdigit() else word for word in path.split("/")]
    for word in parents:
        inner = inner[word]
    inner[last] = value
    return found


def test_vendor_schema_accepts_the_cluster_and_refuses_wrong_values(root: Path, pcluster: Pcluster) -> None:
    own = document(root)
    first, *others = pcluster.problems([own, *(changed(own, path, value) for path, value, _ in CHANGES)])
    assert first == ""
    assert [change for change, found in zip(CHANGES, others, strict=True) if change[2] not in found] == []


@dataclass
class Account:
    """AWS account in moto with a network, a file system and machine images."""

    url: str
    subnet: str
    group: str
    make_image: Callable[[Mapping[str, str]], str]


@pytest.fixture(scope="module")
def account() -> Iterator[Account]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOTO_IAM_LOAD_MANAGED_POLICIES", "true")
        from moto.fsx.models import fsx_backends
        from moto.server import ThreadedMotoServer

        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        try:
            host, port = server.get_host_and_port()
            url = f"http://{host}:{port}"
            keys = {"aws_access_key_id": "x", "aws_secret_access_key": "x"}
            ec2 = boto3.client("ec2", endpoint_url=url, region_name=REGION, **keys)
            fsx = boto3.client("fsx", endpoint_url=url, region_name=REGION, **keys)
            network = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
            for name in ("EnableDnsHostnames", "EnableDnsSupport"):
                ec2.modify_vpc_attribute(VpcId=network, **{name: {"Value": True}})
            zone = f"{REGION}a"
            subnet = ec2.create_subnet(VpcId=network, CidrBlock="10.0.0.0/24", AvailabilityZone=zone)[
                "Subnet"
            ]
            group = ec2.create_security_group(GroupName="nodes", Description="nodes", VpcId=network)[
                "GroupId"
            ]
            made = fsx.create_file_system(
                FileSystemType="LUSTRE",
                StorageCapacity=1200,
                SubnetIds=[subnet["SubnetId"]],
                FileSystemTypeVersion="2.15",
                LustreConfiguration={"DeploymentType": "PERSISTENT_2", "PerUnitStorageThroughput": 250},
            )["FileSystem"]["FileSystemId"]
            # File system ids of moto are shorter than real FSx ids.
            systems = fsx_backends["123456789012"][REGION].file_systems
            systems[FILE_SYSTEM] = systems.pop(made)
            systems[FILE_SYSTEM].file_system_id = FILE_SYSTEM

            def make_image(tags: Mapping[str, str]) -> str:
                (started,) = ec2.run_instances(ImageId="ami-12345678", MinCount=1, MaxCount=1)["Instances"]
                name = f"image-of-{started['InstanceId']}"
                image = str(ec2.create_image(InstanceId=started["InstanceId"], Name=name)["ImageId"])
                ec2.create_tags(Resources=[image], Tags=as_tags(tags))
                return image

            yield Account(url, subnet["SubnetId"], group, make_image)
        finally:
            server.stop()


@pytest.mark.parametrize(
    ("tags", "head", "problem"),
    [
        (OWN, "m7i.4xlarge", ""),
        ({}, "m7i.4xlarge", "was created with pcluster {version}, but is trying to be used with pcluster"),
        (OWN | {"os": "ubuntu2204"}, "m7i.4xlarge", "not compatible with cluster OS ubuntu2404"),
        (OWN, "c7g.4xlarge", "arm64"),
    ],
)
def test_vendor_validators_find_an_image_that_does_not_fit_the_cluster(
    root: Path,
    pcluster: Pcluster,
    account: Account,
    tmp_path: Path,
    tags: dict[str, str],
    head: str,
    problem: str,
) -> None:
    published = catalog.load(root).systems[AMI].ami
    assert published is not None
    changes = {f"parallelcluster:{name}": value for name, value in tags.items()}
    image = account.make_image({**published.tags, **changes})
    problem = problem.format(version=published.tags["parallelcluster:version"])
    table = document(root, ImageId=image, PrivateSubnet=account.subnet, SecurityGroup=account.group)
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(changed(table, "HeadNode/InstanceType", head)))
    words = ("--cluster-name", "train", "--cluster-configuration", path, "--dryrun", "true")
    given = Pcluster(pcluster.folder, {**pcluster.variables, "AWS_ENDPOINT_URL": account.url})
    done = given.call("pcluster", "create-cluster", *words, "--suppress-validators", *WITHOUT)
    result = json.loads(done.stdout)
    failures = result.get("configurationValidationErrors", []) + result.get("validationMessages", [])
    errors = [found for found in failures if found["level"] == "ERROR"]
    if problem:
        assert any(problem in found["message"] for found in errors), done.stdout
    else:
        assert (errors, "DryRun" in result["message"]) == ([], True), done.stdout
        assert not any("AMI" in found["type"] for found in failures), done.stdout
