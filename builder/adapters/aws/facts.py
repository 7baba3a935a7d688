"""Read the facts of an account that decide whether a build in the account can succeed; change nothing.

A fact is None if the IAM identity may not read it; the calling module decides what each fact means.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from builder.adapters.aws import simulation
from builder.adapters.aws.account import Account, Resource, calling_aws, is_denied
from builder.errors import FactoryError

T = TypeVar("T")
_EVERYWHERE = "0.0.0.0/0"
# Quotas of running vCPUs by the first letters of the instance type; all other types count as standard.
_STANDARD_QUOTA = "L-1216C47A"
_QUOTAS = {
    "dl": "L-6E869C2A",
    "g": "L-DB2E81BA",
    "inf": "L-1945791B",
    "p": "L-417A185B",
    "trn": "L-2C3B7624",
    "vt": "L-DB2E81BA",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Subnet:
    id: str
    network: str  # VPC
    assigns_public: bool
    route: str | None  # id of the gateway of the default route, such as igw-… or nat-…; "" for none


class Facts:
    """Facts of an account in its region; thread-safe."""

    def __init__(self, account: Account) -> None:
        self._account = account

    def caller(self) -> str:
        """Return the ARN of the credentials' user or role."""
        with calling_aws("reading the caller's identity"):
            return str(self._account.client("sts").get_caller_identity()["Arn"])

    def subnet(self, name: str) -> Subnet | None:
        """Return a subnet, or the first default subnet of the region; None if there is no default subnet."""
        wanted = (
            {"SubnetIds": [name]} if name else {"Filters": [{"Name": "default-for-az", "Values": ["true"]}]}
        )
        with calling_aws("describing the subnet of build instances"):
            found = self._ec2.describe_subnets(**wanted)["Subnets"]
        if not found:
            return None
        first = min(found, key=lambda subnet: str(subnet["AvailabilityZone"]))
        return Subnet(
            id=str(first["SubnetId"]),
            network=str(first["VpcId"]),
            assigns_public=bool(first["MapPublicIpOnLaunch"]),
            route=self._default_route(first),
        )

    def _default_route(self, subnet: Resource) -> str | None:
        own = [{"Name": "association.subnet-id", "Values": [subnet["SubnetId"]]}]
        main = [
            {"Name": "vpc-id", "Values": [subnet["VpcId"]]},
            {"Name": "association.main", "Values": ["true"]},
        ]

        def read() -> list[Resource]:
            describe = self._ec2.describe_route_tables
            tables = describe(Filters=own)["RouteTables"] or describe(Filters=main)["RouteTables"]
            return [route for table in tables for route in table["Routes"]]

        routes = self._read(f"describing the routes of {subnet['SubnetId']}", read)
        if routes is None:
            return None
        for route in routes:
            if route.get("DestinationCidrBlock") == _EVERYWHERE and route.get("State") != "blackhole":
                names = ("GatewayId", "NatGatewayId", "TransitGatewayId", "NetworkInterfaceId", "InstanceId")
                return next((str(route[key]) for key in names if route.get(key)), "")
        return ""

    def enforces_tokens(self) -> bool | None:
        """True if the account refuses instances that do not require metadata tokens (IMDSv2)."""
        answer = self._read(
            "reading the metadata defaults", lambda: self._ec2.get_instance_metadata_defaults()
        )
        return answer and answer.get("AccountLevel", {}).get("HttpTokensEnforced") == "enabled"

    def default_key(self) -> str | None:
        """Return the KMS key with which the account encrypts volumes by default; "" if it does not."""

        def read() -> str:
            if not self._ec2.get_ebs_encryption_by_default()["EbsEncryptionByDefault"]:
                return ""
            return str(self._ec2.get_ebs_default_kms_key_id()["KmsKeyId"])

        return self._read("reading the default encryption", read)

    def vcpus(self, types: Iterable[str]) -> Mapping[str, int] | None:
        """Return the vCPUs of instance types that the region offers."""

        def read() -> Mapping[str, int]:
            filters = [{"Name": "instance-type", "Values": sorted(types)}]
            found = self._ec2.describe_instance_types(Filters=filters)["InstanceTypes"]
            return {each["InstanceType"]: int(each["VCpuInfo"]["DefaultVCpus"]) for each in found}

        return self._read("describing instance types", read)

    def vcpu_quota(self, instance_type: str) -> float | None:
        """Return the quota of running vCPUs that applies to an instance type."""
        letters = re.match(r"[a-z]*", instance_type)
        code = _QUOTAS.get(letters[0] if letters else "", _STANDARD_QUOTA)

        def read() -> float:
            client = self._account.client("service-quotas")
            return float(client.get_service_quota(ServiceCode="ec2", QuotaCode=code)["Quota"]["Value"])

        return self._read(f"reading the quota {code}", read)

    def parameter(self, name: str) -> str | None:
        """Return the value of a public SSM parameter."""
        client = self._account.client("ssm")
        return self._read(
            f"reading {name}", lambda: str(client.get_parameter(Name=name)["Parameter"]["Value"])
        )

    def lacking(self, caller: str, document: Mapping[str, Any]) -> list[str] | None:
        """Return the actions of a policy document that the caller lacks, as IAM simulates them."""
        return self._read(
            "simulating the caller's policy", lambda: simulation.lacking(self._account, caller, document)
        )

    @property
    def _ec2(self) -> Any:
        return self._account.client("ec2")

    def _read(self, action: str, read: Callable[[], T]) -> T | None:
        """Return the result of an AWS call; None if AWS denies the call."""
        try:
            with calling_aws(action):
                return read()
        except FactoryError as error:
            if is_denied(error):
                return None
            raise
