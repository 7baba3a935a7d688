"""Convert recorded API calls of Packer into the authorization requests that AWS evaluates."""

import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from builder.marks import RUN_TAG
from builder.rehearsal.authorization import requests_of
from builder.rehearsal.calls import READING, Call
from builder.rehearsal.iam import Request
from tests.support.rehearsal import ROOT

FOLDER = ROOT / "tests" / "data" / "packer-calls"
# Tags of the key pair and the security group that the builder creates before it starts Packer.
_OWN = {RUN_TAG: "a-run"}
_TEMPLATE = "LaunchTemplateData."
_KINDS = {"instance": "i", "image": "ami", "snapshot": "snap", "volume": "vol"}


def calls(path: Path) -> Iterator[Call]:
    for line in path.read_text(encoding="utf-8").splitlines():
        table = json.loads(line)
        yield Call(**table, mutating=not table["action"].startswith(READING))


def requests(path: Path) -> Iterator[Request]:
    """Yield the authorization requests of a recording, each with the tags that earlier calls set."""
    tags: dict[str, Mapping[str, str]] = {}
    source = ""
    for call in calls(path):
        if call.action in ("RunInstances", "CreateLaunchTemplate"):
            source = call.parameters.get("ImageId") or call.parameters[f"{_TEMPLATE}ImageId"]
        yield from requests_of(call, partial(_tags_of, dict(tags), source))
        tags |= _given(call)


def _tags_of(tags: Mapping[str, Mapping[str, str]], source: str, name: str) -> Mapping[str, str]:
    """Return the tags of a resource, found by the prefix of its id; none for the vendor's source AMI."""
    kind = name.partition("-")[0]
    if kind not in _KINDS.values():
        return _OWN
    return {} if name == source else tags.get(kind, {})


def _given(call: Call) -> dict[str, Mapping[str, str]]:
    """Return the tags that a call adds to resources; keys are prefixes of resource ids, such as "ami"."""
    found: dict[str, dict[str, str]] = {}
    # An instance that a fleet starts gets the tags of the launch template.
    parameters = {name.removeprefix(_TEMPLATE): value for name, value in call.parameters.items()}
    for name, key in parameters.items():
        value = parameters.get(f"{name.removesuffix('Key')}Value", "")
        if name.startswith("TagSpecification.") and name.endswith(".Key"):
            kind = parameters[f"TagSpecification.{name.split('.')[1]}.ResourceType"]
            found.setdefault(_KINDS.get(kind, kind), {})[key] = value
        elif call.action == "CreateTags" and name.startswith("Tag.") and name.endswith(".Key"):
            for resource, identifier in parameters.items():
                if resource.startswith("ResourceId."):
                    found.setdefault(identifier.partition("-")[0], {})[key] = value
    return dict(found)
