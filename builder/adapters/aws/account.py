"""Client of one AWS account, real or rehearsed: boto3 clients by region, translation of AWS errors.

The caller passes environment variables that select the account; this module does not know whether the
account is real.
"""

import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from builder.adapters.host.network import DIRECT, Network, is_local_url
from builder.errors import BuildError, FactoryError, MissingError
from builder.wait import Backoff

_RESUME = "re-run the command; it resumes"
_CREDENTIALS = f"aws configure, aws sso login or export AWS_PROFILE=…; then {_RESUME}"
_CERTIFICATES = "set mirror.ca_bundle in site.toml to the CA that signed the certificate"
_UNREACHABLE = "check that the endpoint is reachable; see mirror.proxy and mirror.no_proxy in site.toml"
_APPEAR_S = 60.0
_DENIED = ("UnauthorizedOperation", "AccessDenied", "AccessDeniedException")
RETRIES = {"mode": "standard", "total_max_attempts": 8}
_PATIENT = {"retries": RETRIES, "connect_timeout": 10, "read_timeout": 60}
# Retries and timeouts of read-only commands, which go on without AWS if it does not answer.
_IMPATIENT = {
    "retries": {"mode": "standard", "total_max_attempts": 2},
    "connect_timeout": 3,
    "read_timeout": 10,
}
# AWS throttles faster polling; rehearsals on this host do not.
_POLLING, _LOCAL_POLLING = Backoff(2.0, 15.0), Backoff(0.2, 0.2)
# AWS error codes, the error to raise for them, and its hint.
_MEANINGS: tuple[tuple[tuple[str, ...], type[FactoryError], str], ...] = (
    (
        (
            *("AuthFailure", "ExpiredToken", "RequestExpired", "InvalidClientTokenId"),
            *("UnrecognizedClientException", "SignatureDoesNotMatch", "InvalidSignatureException"),
        ),
        MissingError,
        _CREDENTIALS,
    ),
    (
        _DENIED,
        MissingError,
        "builder iam TARGET prints the required policy",
    ),
    (
        ("VcpuLimitExceeded", "InstanceLimitExceeded", "ResourceLimitExceeded"),
        MissingError,
        "request a higher quota, or set another instance type in build_on of the target",
    ),
    (
        ("InsufficientInstanceCapacity",),
        MissingError,
        "try again later or in another subnet, or set another instance type in build_on of the target",
    ),
    (("ValidationError",), BuildError, "correct the value that the message names"),
    (("InvalidAMIID.NotFound", "InvalidAMIID.Unavailable"), BuildError, "builder lock --update SYSTEM"),
)

Resource = Mapping[str, Any]


class Account:
    """AWS account with one client per service and region, shared by all threads.

    Calls use the proxy of `network` for their endpoint, and trust its CAs in addition to the default ones.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        *,
        region: str,
        network: Network = DIRECT,
        appear_s: float | None = None,
        is_patient: bool = True,
    ) -> None:
        self.environment = environment
        self.region = region
        # Seconds within which EC2 may not list a new resource yet.
        self.appear_s = appear_s if appear_s is not None else 0.0 if self.is_on_this_machine else _APPEAR_S
        self._network = network
        self._limits = _PATIENT if is_patient else _IMPATIENT
        self._opening = threading.Lock()
        self._clients: dict[tuple[str, str], Any] = {}
        self._session: Any = None
        self._has_credentials = False

    @property
    def endpoint(self) -> str:
        """URL of a rehearsal that serves all AWS APIs; "" for AWS itself."""
        return self.environment.get("AWS_ENDPOINT_URL", "")

    @property
    def is_on_this_machine(self) -> bool:
        return is_local_url(self.endpoint)

    @property
    def polling(self) -> Backoff:
        """Backoff between polls of this account."""
        return _LOCAL_POLLING if self.is_on_this_machine else _POLLING

    def client(self, service: str, region: str = "") -> Any:
        """Return a boto3 client; wrap its calls in `calling_aws`, which translates errors."""
        key = (service, region or self.region)
        with self._opening:
            if key not in self._clients:
                self._clients[key] = self._open(*key)
            return self._clients[key]

    def _open(self, service: str, region: str) -> Any:
        from botocore.config import Config

        session = self._ensure_session()
        endpoint = {"region_name": region, "endpoint_url": self.endpoint or None}
        # Set `proxies` even if empty: otherwise botocore uses the proxies of this process's environment.
        client = session.client(service, config=Config(proxies={}), **endpoint)
        proxies = self._proxies(client.meta.endpoint_url)
        return session.client(service, config=Config(proxies=proxies), **endpoint) if proxies else client

    def _ensure_session(self) -> Any:
        import boto3
        import botocore.session
        from botocore.config import Config

        if self._session is None:
            # The default config also applies to botocore's own clients, which fetch credentials (SSO, roles).
            core = botocore.session.Session()
            login = self._proxies(f"https://sts.{self.region}.amazonaws.com")
            core.set_default_client_config(Config(**self._limits, proxies=login))
            if self._network.ca_bundle:
                core.set_config_variable("ca_bundle", self._trusted.name)
            session = boto3.Session(botocore_session=core, **self._identity())
            # Look up credentials only once: outside EC2, the metadata request takes seconds to fail.
            self._has_credentials = session.get_credentials() is not None
            self._session = session
        if not self._has_credentials:
            raise MissingError("no AWS credentials found", hint=_CREDENTIALS)
        return self._session

    def _proxies(self, url: str) -> dict[str, str]:
        proxy = self._network.proxy_for(url)
        return {"http": proxy, "https": proxy} if proxy else {}

    @cached_property
    def _trusted(self) -> IO[bytes]:
        """File with the default CAs and the site's CAs: AWS clients accept only one CA file."""
        import botocore.session
        from botocore.httpsession import get_cert_path

        session = botocore.session.Session(profile=self.environment.get("AWS_PROFILE") or None)
        named = session.get_config_variable("ca_bundle") or self.environment.get("REQUESTS_CA_BUNDLE")
        default = named or get_cert_path(verify=True)
        file = tempfile.NamedTemporaryFile(prefix="factory-", suffix=".pem")  # noqa: SIM115 (deleted with the account)
        for path in filter(None, (Path(default), self._network.ca_bundle)):
            file.write(path.read_bytes() + b"\n")
        file.flush()
        return file

    @property
    def tool_environment(self) -> dict[str, str]:
        """Environment of programs that call AWS themselves: credentials, proxies and CAs."""
        proxies = {
            key: value for name, value in self._network.proxies.items() for key in (name, name.upper())
        }
        trusted = {"AWS_CA_BUNDLE": self._trusted.name} if self._network.ca_bundle else {}
        return {**self.environment, **proxies, **trusted}

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

    def account_id(self) -> str:
        with calling_aws("reading the account id"):
            return str(self.client("sts").get_caller_identity()["Account"])

    def images(self, tags: Mapping[str, str], *, region: str = "") -> list[Resource]:
        """Return the account's own images that have all these tags, newest first."""
        return self._images({f"tag:{name}": value for name, value in tags.items()}, region)

    def images_with_tag(self, tag: str, *, region: str = "") -> list[Resource]:
        """Return the account's own images that have a tag with any value, newest first."""
        return self._images({"tag-key": tag}, region)

    def _images(self, filters: Mapping[str, str], region: str) -> list[Resource]:
        table = [{"Name": name, "Values": [value]} for name, value in filters.items()]
        with calling_aws("listing images"):
            pages = self.client("ec2", region).get_paginator("describe_images")
            found = [
                image
                for page in pages.paginate(Owners=["self"], Filters=table, IncludeDeprecated=True)
                for image in page["Images"]
            ]
        return sorted(found, key=lambda image: (image["CreationDate"], image["ImageId"]), reverse=True)

    def image(self, ami: str, *, region: str = "") -> Resource | None:
        from botocore.exceptions import ClientError

        with calling_aws(f"describing {ami}"):
            try:
                found = self.client("ec2", region).describe_images(ImageIds=[ami], IncludeDeprecated=True)
            except ClientError as error:
                if code_of(error) in ("InvalidAMIID.NotFound", "InvalidAMIID.Unavailable"):
                    return None
                raise
        return next(iter(found["Images"]), None)


def is_denied(error: Exception) -> bool:
    """True if AWS did not authorize a call, or for the FactoryError that reports this."""
    return any(code_of(each) in _DENIED for each in (error, error.__cause__) if isinstance(each, Exception))


def code_of(error: Exception) -> str:
    """Return AWS's error code; "" if there was no response."""
    response = getattr(error, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


@contextmanager
def calling_aws(action: str, *, otherwise: type[FactoryError] = BuildError) -> Iterator[None]:
    """Translate boto3 errors into FactoryErrors, with the action, AWS's code and message, and a hint.

    `otherwise` is the error class for AWS error codes that are not in _MEANINGS.
    """
    from botocore.exceptions import BotoCoreError, ClientError, SSLError
    from botocore.parsers import ResponseParserError

    try:
        yield
    except ClientError as error:
        code = code_of(error)
        message = f"{action}: {code}: {error.response.get('Error', {}).get('Message', '')}".rstrip(": ")
        for codes, kind, hint in _MEANINGS:
            if code in codes:
                raise kind(message, hint=hint) from error
        raise otherwise(message, hint=_RESUME) from error
    except BotoCoreError as error:
        is_login = any(word in type(error).__name__ for word in ("Credential", "Token"))
        hint = _CREDENTIALS if is_login else _CERTIFICATES if isinstance(error, SSLError) else _UNREACHABLE
        raise MissingError(f"{action}: {error}", hint=hint) from error
    except ResponseParserError as error:
        message = f"{action}: the response is not from AWS: {str(error).splitlines()[0]}"
        raise MissingError(message, hint=_UNREACHABLE) from error


@contextmanager
def ignoring(*codes: str) -> Iterator[None]:
    """Ignore AWS errors with one of these codes."""
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
    """Return TagSpecifications for a create call, so that no resource is ever without its run's tags."""
    return [{"ResourceType": kind, "Tags": as_tags(tags)} for kind in kinds]
