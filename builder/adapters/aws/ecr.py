"""ECR, the container registry of an AWS account: host name, login and creation of repositories."""

import base64
from urllib.parse import urlsplit

from builder.adapters.aws.account import Account, calling_aws, ignoring
from builder.adapters.registry.api import Credentials


def log_in(account: Account) -> tuple[str, Credentials]:
    """Return the registry's host in the account's region, and credentials that are valid for 12 hours."""
    with calling_aws("logging in to ECR"):
        answer = account.client("ecr").get_authorization_token()["authorizationData"][0]
    username, _, password = base64.b64decode(answer["authorizationToken"]).decode().partition(":")
    return urlsplit(answer["proxyEndpoint"]).netloc, Credentials(username=username, password=password)


def ensure_repository(account: Account, name: str) -> None:
    """Create a repository if it is missing, because ECR does not create repositories on push."""
    with calling_aws(f"creating the repository {name}"), ignoring("RepositoryAlreadyExistsException"):
        account.client("ecr").create_repository(
            repositoryName=name, imageScanningConfiguration={"scanOnPush": True}
        )
