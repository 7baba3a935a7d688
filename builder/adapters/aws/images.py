"""Images of other accounts, as the lock records them: by owner and name, or by public parameter."""

from collections.abc import Mapping
from typing import Any

from builder.adapters.aws.account import Account, Resource, calling_aws
from builder.errors import MissingError

_HINT = "aws sts get-caller-identity shows who asks; [ami] of the system says for what"

Values = Mapping[str, str | int]


class PublishedImages:
    """Machine images by region; threads may share it."""

    def __init__(self, account: Account) -> None:
        self._account = account

    def newest(self, *, region: str, arch: str, owner: str, name: str) -> Values:
        """The newest image of an owner whose name matches a pattern."""
        filters = {"name": name, "architecture": arch, "state": "available"}
        found = self._describe(region, filters, Owners=[owner])
        if not found:
            raise MissingError(f"{region}: no image {name} of {owner} for {arch}", hint=_HINT)
        return _values(max(found, key=lambda image: (image["CreationDate"], image["ImageId"])))

    def of_parameter(self, *, region: str, parameter: str) -> Values:
        """The image that a public parameter names."""
        with calling_aws(f"AWS {region}", otherwise=MissingError):
            answer = self._account.client("ssm", region).get_parameter(Name=parameter)
        image = str(answer["Parameter"]["Value"])
        found = self.find(region=region, image=image)
        if found is None:
            raise MissingError(f"{region}: {parameter} names {image}, which is not there", hint=_HINT)
        return found

    def find(self, *, region: str, image: str) -> Values | None:
        """An image by its id, deprecated or not."""
        found = self._describe(region, {"image-id": image}, IncludeDeprecated=True)
        return _values(found[0]) if found else None

    def _describe(self, region: str, filters: Mapping[str, str], **more: Any) -> list[Resource]:
        asked = [{"Name": key, "Values": [value]} for key, value in filters.items()]
        with calling_aws(f"AWS {region}", otherwise=MissingError):
            pages = self._account.client("ec2", region).get_paginator("describe_images")
            return [image for page in pages.paginate(Filters=asked, **more) for image in page["Images"]]


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
