"""IAM and Service Quotas of the rehearsal, where moto lacks actions that read an account's limits."""

from typing import Any

from moto.core.responses import ActionResult
from moto.iam.responses import IamResponse
from moto.servicequotas.models import ServiceQuotasBackend

from builder.rehearsal.ec2.cloud import Cloud
from builder.rehearsal.iam import ALLOWED, DENIED, Request, evaluate

_DECISIONS = {ALLOWED: "allowed", DENIED: "explicitDeny"}


class IamActions(IamResponse):
    """Handler of a request to IAM."""

    def simulate_principal_policy(self) -> ActionResult:
        """Evaluate the policy of the rehearsal's rules; without one everything is allowed."""
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


class Quotas(ServiceQuotasBackend):
    """Quotas of running vCPUs, the same for every family of instance types."""

    __module__ = "moto.servicequotas.models"  # moto derives the service from it

    def get_service_quota(self, service_code: str, quota_code: str) -> dict[str, Any]:
        if service_code != "ec2":
            return super().get_service_quota(service_code, quota_code)
        return {"ServiceCode": service_code, "QuotaCode": quota_code, "Value": float(Cloud.rules.vcpus)}
