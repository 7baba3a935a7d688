"""ECR, the container registry of an AWS account: host name, login and creation of repositories."""

import base64
import threading
import time
from urllib.parse import urlsplit

from builder.adapters.aws.account import Account, calling_aws, ignoring
from builder.adapters.registry.api import Credentials

# A login that expires within this time is replaced, because a push may take so long.
_MARGIN_S = 3600.0


class EcrLogin:
    """Login to the account's registry in its region, replaced before it expires; thread-safe."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._lock = threading.Lock()
        self._expires_s = 0.0
        self._current = Credentials(username="", password="")
        self._host = ""

    @property
    def host(self) -> str:
        self._ensure()
        return self._host

    @property
    def username(self) -> str:
        return self._ensure().username

    @property
    def basic(self) -> str:
        return self._ensure().basic

    def _ensure(self) -> Credentials:
        """Return credentials that are valid for the next hour."""
        with self._lock:
            if time.time() > self._expires_s - _MARGIN_S:
                self._renew()
            return self._current

    def _renew(self) -> None:
        with calling_aws("logging in to ECR"):
            answer = self._account.client("ecr").get_authorization_token()["authorizationData"][0]
        username, _, password = base64.b64decode(answer["authorizationToken"]).decode().partition(":")
        self._current = Credentials(username=username, password=password)
        self._expires_s = answer["expiresAt"].timestamp()
        self._host = urlsplit(answer["proxyEndpoint"]).netloc


def ensure_repository(account: Account, name: str) -> None:
    """Create a repository if it is missing, because ECR does not create repositories on push."""
    with calling_aws(f"creating the repository {name}"), ignoring("RepositoryAlreadyExistsException"):
        account.client("ecr").create_repository(
            repositoryName=name, imageScanningConfiguration={"scanOnPush": True}
        )
