"""One AWS account, or a rehearsal of one: clients by region, and what AWS says in the factory's words.

Which account it is comes from an environment that the caller hands over; nothing here knows if it is real.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from builder.errors import BuildError, FactoryError, MissingError
from builder.wait import Backoff

_CREDENTIALS = "aws sso login, or export AWS_PROFILE=…; then run the command again: it goes on where it was"
RETRIES = {"mode": "standard", "total_max_attempts": 8}
# AWS throttles callers that ask more often; on this machine everything happens at once.
_POLLING, _LOCAL_POLLING = Backoff(2.0, 15.0), Backoff(0.2, 0.2)
# What AWS calls a failure → how the factory ends, and what a person can do about it.
_MEANINGS: tuple[tuple[tuple[str, ...], type[FactoryError], str], ...] = (
    (
        (
            *("AuthFailure", "ExpiredToken", "RequestExpired", "InvalidClientTokenId"),
            "UnrecognizedClientException",
        ),
        MissingError,
        _CREDENTIALS,
    ),
    (
        ("UnauthorizedOperation", "AccessDenied", "AccessDeniedException"),
        MissingError,
        "builder iam TARGET prints the policy that is needed",
    ),
    (
        ("VcpuLimitExceeded", "InstanceLimitExceeded", "ResourceLimitExceeded"),
        MissingError,
        "ask for a higher quota, or name another type in build_on of the target",
    ),
    (
        ("InsufficientInstanceCapacity",),
        MissingError,
        "try again later, or in another subnet, or name another type in build_on of the target",
    ),
    (("InvalidAMIID.NotFound", "InvalidAMIID.Unavailable"), BuildError, "builder lock --update SYSTEM"),
)

Resource = Mapping[str, Any]


class Account:
    """Clients are made once for each service and region; several threads may use them."""

    def __init__(self, environment: Mapping[str, str], *, region: str) -> None:
        self.environment = environment
        self.region = region
        self._opening = threading.Lock()
        self._clients: dict[tuple[str, str], Any] = {}
        self._session: Any = None

    @property
    def is_near(self) -> bool:
        """Whether its instances are on this machine."""
        return "127.0.0.1" in self.environment.get("AWS_ENDPOINT_URL", "")

    @property
    def polling(self) -> Backoff:
        """How often a wait may ask this account."""
        return _LOCAL_POLLING if self.is_near else _POLLING

    def client(self, service: str, region: str = "") -> Any:
        """A client whose calls raise what boto3 raises; wrap them in `asking`."""
        import boto3
        from botocore.config import Config

        place = (service, region or self.region)
        with self._opening:
            if self._session is None:
                self._session = boto3.Session(**self._identity())
            if place not in self._clients:
                self._clients[place] = self._session.client(
                    service,
                    region_name=place[1],
                    endpoint_url=self.environment.get("AWS_ENDPOINT_URL") or None,
                    config=Config(retries=RETRIES, connect_timeout=10, read_timeout=60),
                )
            return self._clients[place]

    def _identity(self) -> dict[str, str]:
        names = {
            "aws_access_key_id": "AWS_ACCESS_KEY_ID",
            "aws_secret_access_key": "AWS_SECRET_ACCESS_KEY",
            "aws_session_token": "AWS_SESSION_TOKEN",
            "profile_name": "AWS_PROFILE",
        }
        found = {key: self.environment[name] for key, name in names.items() if self.environment.get(name)}
        if "aws_access_key_id" in found:
            found.pop("profile_name", None)
        return found

    def number(self) -> str:
        with asking("who am I"):
            return str(self.client("sts").get_caller_identity()["Account"])

    def images(self, tags: Mapping[str, str], *, region: str = "") -> list[Resource]:
        """The account's own images by tags, newest first."""
        return self._images({f"tag:{name}": value for name, value in tags.items()}, region)

    def having(self, tag: str, *, region: str = "") -> list[Resource]:
        """The account's own images that have a tag, whatever it says, newest first."""
        return self._images({"tag-key": tag}, region)

    def _images(self, filters: Mapping[str, str], region: str) -> list[Resource]:
        asked = [{"Name": name, "Values": [value]} for name, value in filters.items()]
        with asking("looking for images"):
            pages = self.client("ec2", region).get_paginator("describe_images")
            found = [
                image
                for page in pages.paginate(Owners=["self"], Filters=asked, IncludeDeprecated=True)
                for image in page["Images"]
            ]
        return sorted(found, key=lambda image: (image["CreationDate"], image["ImageId"]), reverse=True)

    def image(self, ami: str, *, region: str = "") -> Resource | None:
        from botocore.exceptions import ClientError

        with asking(f"looking at {ami}"):
            try:
                found = self.client("ec2", region).describe_images(ImageIds=[ami], IncludeDeprecated=True)
            except ClientError as error:
                if code_of(error) in ("InvalidAMIID.NotFound", "InvalidAMIID.Unavailable"):
                    return None
                raise
        return next(iter(found["Images"]), None)


def code_of(error: Exception) -> str:
    """AWS's own word for what went wrong; "" where the answer never came."""
    response = getattr(error, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


@contextmanager
def asking(what: str) -> Iterator[None]:
    """What boto3 raises, as one of our errors: who or what, AWS's word for it, what to do."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        code = code_of(error)
        said = error.response.get("Error", {}).get("Message", "")
        for codes, kind, hint in _MEANINGS:
            if code in codes:
                raise kind(f"{what}: AWS says {code}: {said}", hint=hint) from error
        raise BuildError(
            f"{what}: AWS says {code}: {said}", hint="run the command again: it goes on where it was"
        ) from error
    except BotoCoreError as error:
        is_login = any(word in type(error).__name__ for word in ("Credential", "Token"))
        hint = _CREDENTIALS if is_login else "is the endpoint reachable?"
        raise MissingError(f"{what}: {error}", hint=hint) from error


@contextmanager
def unless(*codes: str) -> Iterator[None]:
    """Lets an answer of AWS with one of these codes pass."""
    from botocore.exceptions import ClientError

    try:
        yield
    except ClientError as error:
        if code_of(error) not in codes:
            raise


def tags_of(resource: Resource) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in resource.get("Tags", ())}


def as_tags(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Key": name, "Value": value} for name, value in tags.items()]


def specifications(tags: Mapping[str, str], kinds: Sequence[str]) -> list[dict[str, Any]]:
    """Tags that a thing has from its first moment, so that nothing is ever without an owner."""
    return [{"ResourceType": kind, "Tags": as_tags(tags)} for kind in kinds]
