"""Lookup of base AMIs for the lock: by owner and name, or by public SSM parameter."""

from collections.abc import Mapping
from typing import Any

from builder.adapters.aws.account import Account, Resource, calling_aws
from builder.errors import MissingError

_HINT = "check the caller (aws sts get-caller-identity) and [ami] in catalog/systems"

Values = Mapping[str, str | int]


class PublishedImages:
    """Finds published AMIs by region; thread-safe."""

    def __init__(self, account: Account) -> None:
        self._account = account

    def newest(self, *, region: str, arch: str, owner: str, name: str) -> Values:
        """Return the newest image of an owner whose name matches a pattern."""
        filters = {"name": name, "architecture": arch, "state": "available"}
        found = self._describe(region, filters, Owners=[owner])
        if not found:
            raise MissingError(f"{region}: no image {name} of {owner} for {arch}", hint=_HINT)
        return _values(max(found, key=lambda image: (image["CreationDate"], image["ImageId"])))

    def of_parameter(self, *, region: str, parameter: str) -> Values:
        """Return the image that a public SSM parameter points to."""
        with calling_aws(f"AWS {region}", otherwise=MissingError):
            answer = self._account.client("ssm", region).get_parameter(Name=parameter)
        image = str(answer["Parameter"]["Value"])
        found = self.find(region=region, image=image)
        if found is None:
            raise MissingError(f"{region}: {parameter} points to {image}, which does not exist", hint=_HINT)
        return found

    def find(self, *, region: str, image: str) -> Values | None:
        """Return an image by its id, even if it is deprecated; None if it does not exist."""
        found = self._describe(region, {"image-id": image}, IncludeDeprecated=True)
        return _values(found[0]) if found else None

    def deprecation(self, *, region: str, image: str) -> str:
        """Return the time from which an image is deprecated; "" if its owner has set none."""
        found = self._describe(region, {"image-id": image}, IncludeDeprecated=True)
        return str(found[0].get("DeprecationTime", "")) if found else ""

    def _describe(self, region: str, filters: Mapping[str, str], **more: Any) -> list[Resource]:
        table = [{"Name": key, "Values": [value]} for key, value in filters.items()]
        with calling_aws(f"AWS {region}", otherwise=MissingError):
            pages = self._account.client("ec2", region).get_paginator("describe_images")
            return [image for page in pages.paginate(Filters=table, **more) for image in page["Images"]]


def _values(image: Resource) -> Values:
    device = image.get("RootDeviceName", "")
    volumes = {
        mapping.get("DeviceName"): mapping.get("Ebs", {}) for mapping in image.get("BlockDeviceMappings", ())
    }
    return {
        "id": image["ImageId"],
        "name": image.get("Name", ""),
        "owner": image.get("OwnerId", ""),
        "created": image["CreationDate"],
        "device": device,
        "size_gib": int(volumes.get(device, {}).get("VolumeSize", 0)),
    }
