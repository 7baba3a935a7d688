"""Evaluate CloudFormation templates with parameters, and check them against the project's resource rules."""

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from builder.app.architectures import parse

Table = dict[str, Any]


@cache
def _parsed(path: Path) -> Table:
    return parse(path.read_text(encoding="utf-8"))


class Template:
    """CloudFormation template with parameter values; references to resources and imports are not resolved."""

    def __init__(self, path: Path, **parameters: str) -> None:
        self.table = _parsed(path)
        declared = self.table.get("Parameters", {})
        defaults = {key: str(entry["Default"]) for key, entry in declared.items() if "Default" in entry}
        self.parameters = defaults | parameters

    def holds(self, condition: str) -> bool:
        return bool(self._truth(self.table["Conditions"][condition]))

    def _truth(self, value: Any) -> bool:
        ((name, arguments),) = value.items()
        if name == "Condition":
            return self.holds(arguments)
        if name == "Fn::Equals":
            first, second = (str(self.value(argument)) for argument in arguments)
            return first == second
        truths = [self._truth(argument) for argument in arguments]
        return {"Fn::Or": any, "Fn::And": all, "Fn::Not": lambda found: not found[0]}[name](truths)  # type: ignore[operator, no-any-return]

    def value(self, value: Any) -> Any:
        """Return a value with parameters, mappings and Fn::If resolved; AWS::NoValue is left out of lists."""
        if isinstance(value, list):
            found = [self.value(entry) for entry in value]
            return [entry for entry in found if entry != {"Ref": "AWS::NoValue"}]
        if not isinstance(value, dict):
            return value
        if set(value) == {"Ref"} and value["Ref"] in self.parameters:
            return self.parameters[value["Ref"]]
        if set(value) == {"Fn::If"}:
            condition, yes, no = value["Fn::If"]
            return self.value(yes if self.holds(condition) else no)
        if set(value) == {"Fn::FindInMap"}:
            name, first, second = (self.value(entry) for entry in value["Fn::FindInMap"])
            return self.table["Mappings"][name][first][second]
        return {key: self.value(entry) for key, entry in value.items()}

    def resources(self, kind: str = "") -> dict[str, Table]:
        """Return the properties of the resources whose condition is true, by resource name."""
        return {
            name: self.value(entry.get("Properties", {}))
            for name, entry in self.table["Resources"].items()
            if kind in ("", entry["Type"]) and ("Condition" not in entry or self.holds(entry["Condition"]))
        }

    def exports(self) -> set[str]:
        outputs = self.table.get("Outputs", {}).values()
        return {entry["Export"]["Name"]["Fn::Sub"] for entry in outputs if "Export" in entry}

    def imports(self) -> set[str]:
        return {entry["Fn::Sub"] for key, entry in walk(self.table) if key == "Fn::ImportValue"}


def walk(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield every key of nested tables with its value."""
    if isinstance(value, list):
        for entry in value:
            yield from walk(entry)
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            yield key, entry
            yield from walk(entry)


def violations(table: Table) -> list[str]:
    """Return `resource: problem` for each violation of the project's resource rules in a template."""
    return [
        f"{name}: {problem}"
        for name, entry in table["Resources"].items()
        for problem in _POLICIES.get(entry["Type"], lambda _: [])(entry)
    ]


def _bucket(entry: Table) -> list[str]:
    own = entry.get("Properties", {})
    block = own.get("PublicAccessBlockConfiguration", {})
    flags = ("BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets")
    found = [f"{flag} is not true" for flag in flags if block.get(flag) is not True]
    found += [] if "BucketEncryption" in own else ["is not encrypted"]
    return found + _kept(entry)


def _kept(entry: Table) -> list[str]:
    return [
        f"{key} is not Retain"
        for key in ("DeletionPolicy", "UpdateReplacePolicy")
        if entry.get(key) != "Retain"
    ]


def _open_to_all(rule: Table) -> list[str]:
    return (
        ["allows traffic from 0.0.0.0/0"] if "0.0.0.0/0" in (rule.get("CidrIp"), rule.get("CidrIpv6")) else []
    )


def _ingress(entry: Table) -> list[str]:
    return _open_to_all(entry.get("Properties", {}))


def _group(entry: Table) -> list[str]:
    rules = entry.get("Properties", {}).get("SecurityGroupIngress", [])
    return [problem for rule in rules for problem in _open_to_all(rule)]


def _launch_template(entry: Table) -> list[str]:
    own = entry["Properties"]["LaunchTemplateData"]
    tokens = own.get("MetadataOptions", {}).get("HttpTokens")
    found = [] if tokens == "required" else ["does not require metadata tokens"]
    disks = [disk.get("Ebs", {}) for disk in own.get("BlockDeviceMappings", [])]
    return found + (["has a volume without encryption"] if any(not d.get("Encrypted") for d in disks) else [])


_POLICIES = {
    "AWS::S3::Bucket": _bucket,
    "AWS::Logs::LogGroup": _kept,
    "AWS::EC2::SecurityGroup": _group,
    "AWS::EC2::SecurityGroupIngress": _ingress,
    "AWS::EC2::LaunchTemplate": _launch_template,
}
