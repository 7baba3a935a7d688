"""Ask IAM which actions of a policy document the caller lacks; changes nothing."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from builder.adapters.aws.account import Account

_ROLE = re.compile(r"arn:[\w-]+:sts::\d+:assumed-role/(?P<name>[^/]+)/.*")


def lacking(account: Account, caller: str, document: Mapping[str, Any]) -> list[str]:
    """Return the actions of a policy document that IAM would deny the caller, each with a resource.

    Every statement is simulated with a resource and condition values that fit it. The simulation knows the
    caller's policies and permission boundary, not service control policies.
    """
    iam, found = account.client("iam"), dict[str, None]()
    source = source_of(iam, caller)
    for statement in document["Statement"]:
        for resource in _list(statement["Resource"]):
            answer = iam.simulate_principal_policy(
                PolicySourceArn=source,
                ActionNames=_list(statement["Action"]),
                ResourceArns=[sample(resource, account.region, caller)],
                ContextEntries=list(_context(statement.get("Condition", {}))),
            )
            for result in answer["EvaluationResults"]:
                if result["EvalDecision"] != "allowed":
                    found[f"{result['EvalActionName']} on {resource}"] = None
    return list(found)


def source_of(iam: Any, caller: str) -> str:
    """Return the ARN whose policies IAM simulates; for a role session, the ARN of its role.

    The ARN of a session omits the path of its role; roles of IAM Identity Center have a path.
    """
    match = _ROLE.fullmatch(caller)
    return str(iam.get_role(RoleName=match["name"])["Role"]["Arn"]) if match else caller


def sample(resource: str, region: str, caller: str) -> str:
    """Return the ARN of one resource that a pattern of a policy matches."""
    if resource == "*":
        return resource
    parts = resource.split(":", 5)
    parts[3] = parts[3].replace("*", region)
    parts[4] = parts[4].replace("*", caller.split(":")[4])
    parts[5] = re.sub(r"\$\{[^}]*\}", "example", parts[5]).replace("*", "example")
    return ":".join(parts)


def _context(condition: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield condition keys with values that meet the condition."""
    for keys in condition.values():
        for key, values in keys.items():
            value = _list(values)[0].replace("*", "example")
            yield {"ContextKeyName": key, "ContextKeyValues": [value], "ContextKeyType": "string"}


def _list(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]
