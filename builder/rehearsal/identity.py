"""Identities and limits of the rehearsal: STS, IAM and Service Quotas, where moto differs from AWS."""

import re
from collections.abc import Mapping
from typing import Any

from moto.core.responses import ActionResult
from moto.iam.exceptions import IAMException
from moto.iam.responses import IamResponse
from moto.servicequotas.models import ServiceQuotasBackend
from moto.sts.models import STSBackend

from builder.rehearsal.ec2.cloud import Cloud
from builder.rehearsal.iam import ALLOWED, DENIED, Request, evaluate

USER = "rehearsal"  # user of the rehearsal's own key
_USER_ID = "AIDAREHEARSALREHEARSA"
_DECISIONS = {ALLOWED: "allowed", DENIED: "explicitDeny"}
_PRINCIPAL = re.compile(r"arn:[\w-]+:iam::\d{12}:(?P<kind>user|group|role)/(?:.+/)?(?P<name>[^/]+)")


class Callers(STSBackend):
    """STS that knows the user of the rehearsal's own key; moto answers with an ARN that AWS never returns."""

    __module__ = "moto.sts.models"  # moto derives the service from it

    def get_caller_identity(self, access_key_id: str, region: str) -> tuple[str, str, str]:
        user_id, arn, account = super().get_caller_identity(access_key_id, region)
        if arn.endswith(":user/moto"):
            return _USER_ID, f"arn:{arn.split(':')[1]}:iam::{account}:user/{USER}", account
        return user_id, arn, account


class IamActions(IamResponse):
    """Handler of a request to IAM."""

    def simulate_principal_policy(self) -> ActionResult:
        """Evaluate the policy of the rehearsal's rules; without a policy, allow everything."""
        self._require_principal(self._get_param("PolicySourceArn", ""))
        context = {
            entry["ContextKeyName"]: entry["ContextKeyValues"][0]
            for entry in self._get_param("ContextEntries", [])
        }
        policy, results = Cloud.rules.policy, list[dict[str, str]]()
        for action in self._get_param("ActionNames", []):
            for resource in self._get_param("ResourceArns", []) or ["*"]:
                request = Request(action=action, resource=resource, context=context)
                outcome = evaluate([policy], request) if policy else ALLOWED
                results.append(
                    {
                        "EvalActionName": action,
                        "EvalResourceName": resource,
                        "EvalDecision": _DECISIONS.get(outcome, "implicitDeny"),
                    }
                )
        return ActionResult({"EvaluationResults": results, "IsTruncated": False})

    def _require_principal(self, arn: str) -> None:
        """Raise IAM's error unless an ARN is exactly that of an existing user, group or role."""
        found = _PRINCIPAL.fullmatch(arn)
        if found is None:
            raise IAMException(
                "InvalidInput", f"Invalid Entity Arn: {arn} does not name a user, group or role"
            )
        kind, name = found["kind"], found["name"]
        if arn.endswith(f":user/{USER}"):
            return
        backend = self.backend
        known: dict[str, Mapping[str, Any]] = {
            "user": backend.users,
            "group": backend.groups,
            "role": backend.roles,
        }
        if not any(each.arn == arn for each in known[kind].values()):
            raise IAMException("NoSuchEntity", f"The {kind} with name {name} cannot be found.")


class Quotas(ServiceQuotasBackend):
    """Quotas of running vCPUs, the same for every family of instance types."""

    __module__ = "moto.servicequotas.models"  # moto derives the service from it

    def get_service_quota(self, service_code: str, quota_code: str) -> dict[str, Any]:
        if service_code != "ec2":
            return super().get_service_quota(service_code, quota_code)
        return {"ServiceCode": service_code, "QuotaCode": quota_code, "Value": float(Cloud.rules.vcpus)}
