"""Commands that log in to the registries of base images. Pure; recognizes registries by their host name."""

import re

_ECR = re.compile(r"\d{12}\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(?:\.cn)?")
_NGC = "nvcr.io"


def login_command(image: str) -> str:
    """Return the command that logs in to the registry of an image; "" if the registry is open to all."""
    host = image.partition("/")[0]
    if found := _ECR.fullmatch(host):
        password = f"aws ecr get-login-password --region {found['region']}"
        return f"{password} | docker login --username AWS --password-stdin {host}"
    # The user name of NGC is the literal $oauthtoken; the password is an NGC API key.
    return f"docker login --username '$oauthtoken' {host}" if host == _NGC else ""
