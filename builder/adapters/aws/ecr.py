"""The container registry of an account, ECR: where it is, who we are to it, repositories that it lacks."""

import base64
from urllib.parse import urlsplit

from builder.adapters.aws.account import Account, calling_aws, ignoring
from builder.adapters.registry.api import Credentials


def log_in(account: Account) -> tuple[str, Credentials]:
    """The registry's host in the account's region, and a token for half a day."""
    with calling_aws("logging in to ECR"):
        answer = account.client("ecr").get_authorization_token()["authorizationData"][0]
    username, _, password = base64.b64decode(answer["authorizationToken"]).decode().partition(":")
    return urlsplit(answer["proxyEndpoint"]).netloc, Credentials(username=username, password=password)


def ensure_repository(account: Account, name: str) -> None:
    """ECR takes no image for a repository that nobody has made."""
    with calling_aws(f"making the repository {name}"), ignoring("RepositoryAlreadyExistsException"):
        account.client("ecr").create_repository(
            repositoryName=name, imageScanningConfiguration={"scanOnPush": True}
        )
