"""What AWS says of machine images: EC2 by owner and name, Systems Manager by public parameter.

The only module that speaks to AWS; endpoint, credentials and profile come from the usual environment.
boto3 is loaded when something is asked.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from builder.adapters.upstream.mirror import Mirror
from builder.errors import MissingError

_HINT = "aws sts get-caller-identity, then run the command again"
_CREDENTIALS = "aws configure, or: export AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=…"

Values = Mapping[str, str | int]


class Images:
    """Machine images by region; threads may share it."""

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror
        self._opening = threading.Lock()
        self._session: Any = None
        self._is_known = False

    def newest(self, *, region: str, arch: str, owner: str, name: str) -> Values:
        """The newest image of an owner whose name fits a pattern."""
        filters = {"name": name, "architecture": arch, "state": "available"}
        found = self._describe(
            region,
            Owners=[owner],
            Filters=[{"Name": key, "Values": [value]} for key, value in filters.items()],
        )
        if not found:
            raise MissingError(f"{region}: no image {name} of {owner} for {arch}", hint=_HINT)
        return _values(max(found, key=lambda image: (image["CreationDate"], image["ImageId"])))

    def of_parameter(self, *, region: str, parameter: str) -> Values:
        """The image that a public parameter names."""
        with _plain(region):
            answer = self._client("ssm", region).get_parameter(Name=parameter)
        image = str(answer["Parameter"]["Value"])
        found = self.find(region=region, image=image)
        if found is None:
            raise MissingError(f"{region}: {parameter} names {image}, which is not there", hint=_HINT)
        return found

    def find(self, *, region: str, image: str) -> Values | None:
        """An image by its id, deprecated or not."""
        filters = [{"Name": "image-id", "Values": [image]}]
        found = self._describe(region, Filters=filters, IncludeDeprecated=True)
        return _values(found[0]) if found else None

    def _describe(self, region: str, **what: Any) -> list[dict[str, Any]]:
        with _plain(region):
            pages = self._client("ec2", region).get_paginator("describe_images").paginate(**what)
            return [image for page in pages for image in page["Images"]]

    def _client(self, service: str, region: str) -> Any:
        import boto3
        from botocore.config import Config

        with self._opening:  # sessions are not made for several threads; clients are
            if self._session is None:
                self._session = boto3.Session()
                # Asked once: on a machine of no cloud, finding none takes seconds.
                self._is_known = self._session.get_credentials() is not None
            if not self._is_known:
                raise MissingError("no AWS credentials here", hint=_CREDENTIALS)
            proxy = self._mirror.settings.proxy
            return self._session.client(
                service,
                region_name=region,
                verify=str(self._mirror.ca_bundle) if self._mirror.ca_bundle else None,
                config=Config(
                    connect_timeout=10,
                    read_timeout=30,
                    retries={"mode": "standard", "total_max_attempts": 4},
                    proxies={"http": proxy, "https": proxy} if proxy else None,
                ),
            )


@contextmanager
def _plain(region: str) -> Iterator[None]:
    """What boto3 raises, in the factory's words."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        said = error.response.get("Error", {})
        message = f"AWS {region}: {said.get('Code', '')}: {said.get('Message', '')}"
        raise MissingError(message.rstrip(": "), hint=_HINT) from error
    except BotoCoreError as error:
        raise MissingError(f"AWS {region}: {error}", hint=_HINT) from error


def _values(image: Mapping[str, Any]) -> Values:
    """What the lock says of an image, root volume included."""
    device = image.get("RootDeviceName", "")
    mappings = image.get("BlockDeviceMappings", ())
    root: Mapping[str, Any] = next(
        (one.get("Ebs", {}) for one in mappings if one.get("DeviceName") == device), {}
    )
    return {
        "id": image["ImageId"],
        "name": image.get("Name", ""),
        "owner": image.get("OwnerId", ""),
        "created": image["CreationDate"],
        "device": device,
        "size_gib": int(root.get("VolumeSize", 0)),
    }
