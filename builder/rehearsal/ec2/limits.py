"""Limits of names, descriptions and tags in requests, which moto does not check.

The limits are those of the API references of EC2 and Systems Manager. Must not know the state of an account.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# Names and descriptions of security groups, and descriptions of their rules, which may be empty.
_GROUP_TEXT = re.compile(r"[a-zA-Z0-9 ._\-:/()#,@\[\]+=&;{}!$*]{1,255}")
_TEMPLATE_NAME = re.compile(r"[a-zA-Z0-9().\-/_]{3,128}")
_KEY_NAME = re.compile(r"[ -~]{1,255}")
_PARAMETER_NAME = re.compile(r"[a-zA-Z0-9_.\-/]+")
_LONGEST_KEY, _LONGEST_VALUE = 128, 256
# Types of resources whose tags an action accepts in TagSpecification.
_TAGGED = {
    "CreateSecurityGroup": {"security-group"},
    "ImportKeyPair": {"key-pair"},
    "CreateLaunchTemplate": {"launch-template"},
    "CreateImage": {"image", "snapshot"},
    "CopyImage": {"image", "snapshot"},
}
# Error code and message of an API.
Refusal = tuple[str, str]


def tag_problem(tags: Iterable[Mapping[str, Any]]) -> str:
    """Return why AWS refuses the tags of a request; "" if it accepts them."""
    found = [(str(tag.get("Key", "")), str(tag.get("Value", ""))) for tag in tags]
    keys = [key for key, _ in found]
    for key, value in found:
        if key.lower().startswith("aws:"):
            return f"Tag keys starting with 'aws:' are reserved for internal use: {key}"
        if not 1 <= len(key) <= _LONGEST_KEY:
            return f"Tag key exceeds the maximum length of {_LONGEST_KEY} characters"
        if len(value) > _LONGEST_VALUE:
            return f"Tag value exceeds the maximum length of {_LONGEST_VALUE} characters"
        if keys.count(key) > 1:
            return f"Duplicate tag key '{key}' specified."
    return ""


def ec2_refusal(action: str, parameters: Mapping[str, Any]) -> Refusal | None:
    """Return the error with which EC2 refuses a request; None if its names, texts and tags are valid."""
    for specification in parameters.get("TagSpecifications") or ():
        kind = str(specification.get("ResourceType", ""))
        if kind not in _TAGGED.get(action, {kind}):
            return (
                "InvalidParameterValue",
                f"'{kind}' is not a valid taggable resource type for this operation.",
            )
        if problem := tag_problem(specification.get("Tags") or ()):
            return "InvalidParameterValue", problem
    if action == "CreateTags" and (problem := tag_problem(parameters.get("Tags") or ())):
        return "InvalidParameterValue", problem
    return _text_refusal(action, parameters) or _range_refusal(action, parameters.get("IpPermissions") or ())


def _text_refusal(action: str, parameters: Mapping[str, Any]) -> Refusal | None:
    if action == "CreateSecurityGroup":
        name = str(parameters.get("GroupName", ""))
        if name.startswith("sg-") or not _GROUP_TEXT.fullmatch(name):
            return "InvalidParameterValue", f"Invalid security group name: {name}"
        if not _GROUP_TEXT.fullmatch(str(parameters.get("Description", ""))):
            return "InvalidParameterValue", "Invalid security group description."
    if action == "CreateLaunchTemplate":
        name = str(parameters.get("LaunchTemplateName", ""))
        if not _TEMPLATE_NAME.fullmatch(name):
            return "InvalidLaunchTemplateName.MalformedException", f"Invalid launch template name: {name}"
    if action == "ImportKeyPair" and not _KEY_NAME.fullmatch(str(parameters.get("KeyName", ""))):
        return "InvalidParameterValue", "Invalid key pair name."
    if action in ("CreateImage", "CopyImage") and len(str(parameters.get("Description", ""))) > 255:
        return "InvalidParameterValue", "Character limit exceeded for Description."
    return None


def _range_refusal(action: str, permissions: Sequence[Mapping[str, Any]]) -> Refusal | None:
    if action != "AuthorizeSecurityGroupIngress":
        return None
    for permission in permissions:
        ports = [int(permission.get(name, -1)) for name in ("FromPort", "ToPort")]
        if not all(-1 <= port <= 65535 for port in ports):
            return "InvalidParameterValue", f"Invalid value '{max(ports)}' for portRange."
        for network in permission.get("IpRanges") or ():
            text = str(network.get("Description", ""))
            if text and not _GROUP_TEXT.fullmatch(text):
                return "InvalidParameterValue", "Invalid rule description."
    return None


def parameter_problem(name: str, value: str, description: str, tags: Iterable[Mapping[str, Any]]) -> str:
    """Return why Systems Manager refuses to write a parameter of the standard tier; "" if it accepts it."""
    if not _PARAMETER_NAME.fullmatch(name):
        return "Parameter name must only use the characters a-zA-Z0-9_.- and /"
    if "/" in name and not name.startswith("/"):
        return "Parameter name must be a fully qualified name."
    if name.count("/") > 15:
        return "A parameter name can have at most fifteen levels."
    if len(name) > 1011:
        return "Parameter name exceeds the maximum length of 1011 characters."
    if len(value) > 4096:
        return "Standard tier parameters support a maximum parameter value of 4096 characters."
    if len(description or "") > 1024:
        return "Member must have length less than or equal to 1024: description"
    return tag_problem(tags or ())
