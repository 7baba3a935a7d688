"""AWS RAM of the rehearsal: shares of SSM parameters, a resource type that moto does not know.

A shared parameter is found by its full ARN in the accounts that a share names.
"""

import json
import re
from typing import Any

from moto.core.exceptions import JsonRESTError
from moto.ram.exceptions import MalformedArnException, UnknownResourceException
from moto.ram.models import ResourceShare, ram_backends
from moto.ram.responses import ResourceAccessManagerResponse
from moto.ram.urls import url_paths
from moto.ssm.models import Parameter, ssm_backends

_PARAMETER = re.compile(
    r"arn:[\w-]+:ssm:(?P<region>[a-z0-9-]+):(?P<account>\d{12}):parameter(?P<name>/[^:]+)(:.+)?"
)


class ShareActions(ResourceAccessManagerResponse):
    """Handler of a request to RAM."""

    def create_resource_share(self) -> str:
        _require_advanced(self.request_params.get("resourceArns", []))
        answer = json.loads(super().create_resource_share())
        share = self._share(answer["resourceShare"]["resourceShareArn"])
        share.tags = {tag["key"]: tag["value"] for tag in self.request_params.get("tags", [])}
        return json.dumps(answer)

    def associate_resource_share(self) -> str:
        asked = self.request_params
        share, resources = self._share(asked["resourceShareArn"]), asked.get("resourceArns", [])
        _require_advanced(resources)
        share.add_resources([arn for arn in resources if arn not in share.resource_arns])
        share.add_principals([each for each in asked.get("principals", []) if each not in share.principals])
        return json.dumps({"resourceShareAssociations": []})

    def get_resource_shares(self) -> str:
        answer = json.loads(super().get_resource_shares())
        asked = self.request_params
        wanted = {"name": asked.get("name"), "status": asked.get("resourceShareStatus")}
        keys = {tag["tagKey"] for tag in asked.get("tagFilters", [])}
        found = [
            share
            for share in answer["resourceShares"]
            if all(value in (None, share[key]) for key, value in wanted.items())
            and keys <= tags_of(share["resourceShareArn"]).keys()
        ]
        return json.dumps({"resourceShares": found})

    def _share(self, arn: str) -> Any:
        for share in self.ram_backend.resource_shares:
            if share.arn == arn:
                return share
        raise UnknownResourceException(f"ResourceShare {arn} could not be found.")


def tags_of(arn: str) -> dict[str, str]:
    """Return the tags of a resource share; empty if there is none."""
    for shares in _all_shares():
        if shares.arn == arn:
            return dict(getattr(shares, "tags", {}))
    return {}


def shared_parameter(arn: str, account: str) -> Parameter | None:
    """Return the parameter of another account that a resource share lets an account read.

    Raise AWS's error if no resource share allows the access.
    """
    found = _PARAMETER.fullmatch(arn)
    if found is None or found["account"] == account:
        return None
    plain = arn.removesuffix(found[4] or "")
    if not any(
        share.status == "ACTIVE" and account in share.principals and plain in share.resource_arns
        for share in _all_shares()
    ):
        message = f"no resource-based policy allows the ssm:GetParameter action on resource: {plain}"
        raise JsonRESTError("AccessDeniedException", message)
    return ssm_backends[found["account"]][found["region"]].get_parameter(f"{found['name']}{found[4] or ''}")


def _all_shares() -> list[ResourceShare]:
    return [
        share
        for regions in list(ram_backends.values())
        for backend in list(regions.values())
        for share in list(backend.resource_shares)
    ]


def _require_advanced(resources: list[str]) -> None:
    """Raise RAM's error for resources that are not existing SSM parameters of the advanced tier."""
    for arn in resources:
        found = _PARAMETER.fullmatch(arn)
        parameter = found and ssm_backends[found["account"]][found["region"]].get_parameter(found["name"])
        if parameter is None or parameter.tier != "Advanced":
            raise MalformedArnException(f"{arn} is not a parameter of the advanced tier")


# Replacements for attributes of moto while a rehearsal is served.
SHARE_PATHS = (*url_paths, "{0}/associateresourceshare$")
SHAREABLE = (*ResourceShare.SHAREABLE_RESOURCES, "parameter")
