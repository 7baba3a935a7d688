"""Decide whether a rehearsed account authorizes a call: denied regions, and the caller's IAM policy."""

from collections.abc import Callable

from builder.rehearsal.authorization import Tags, requests_of
from builder.rehearsal.calls import Call
from builder.rehearsal.iam import ALLOWED, DENIED, Request, evaluate
from builder.rehearsal.rules import Rules

# Services with one endpoint for all regions, which policies that deny regions must exempt.
_GLOBAL = ("iam", "sts")
_CODES = {"ec2": "UnauthorizedOperation", "iam": "AccessDenied", "sts": "AccessDenied"}
_CALLER = "arn:aws:iam::123456789012:user/rehearsal"


def refusal(call: Call, rules: Rules, tags_of: Callable[[str], Tags]) -> tuple[str, str] | None:
    """Return AWS's error code and message for a call that is not authorized; None for all other calls.

    `tags_of` returns the tags of an existing resource by id.
    """
    if call.region in rules.denied_regions and call.service not in _GLOBAL:
        request = Request(action=f"{call.service}:{call.action}")
        return _denied(call, request, "with an explicit deny in a service control policy")
    if rules.policy is None:
        return None
    for request in requests_of(call, tags_of):
        outcome = evaluate([rules.policy], request)
        if outcome == DENIED:
            return _denied(call, request, "with an explicit deny in an identity-based policy")
        if outcome != ALLOWED:
            return _denied(
                call, request, f"because no identity-based policy allows the {request.action} action"
            )
    return None


def _denied(call: Call, request: Request, reason: str) -> tuple[str, str]:
    message = (
        f"User: {_CALLER} is not authorized to perform: {request.action} on resource: {request.resource}"
        f" {reason}"
    )
    prefix = "You are not authorized to perform this operation. " if call.service == "ec2" else ""
    return _CODES.get(call.service, "AccessDeniedException"), prefix + message
