"""Asks the registry of a published image whether it still has the image."""

import sys
import threading

from builder.adapters.aws import ecr
from builder.adapters.host.network import DIRECT
from builder.adapters.registry import local
from builder.adapters.registry.api import Login, find_credentials
from builder.adapters.registry.client import Registry
from builder.app.account import SiteAccount
from builder.app.context import Context
from builder.app.launching import is_local
from builder.app.mirrors import site_network
from builder.errors import FactoryError, Interrupted, MissingError
from builder.launch.job import Image
from builder.lock import ACCOUNT
from builder.site import ECR, is_ecr_host

_SILENCE_S = 5.0
_PATIENCE_S = 15.0  # for the whole question, with its retries


def require_in_registry(context: Context, image: Image) -> None:
    """Raise MissingError if the site's registry lacks the image; images in other registries pass."""
    host = image.repository.partition("/")[0]
    push = context.site.registry.push.partition("/")[0]
    is_of_site = host == push or (push == ECR and context.site_name == ACCOUNT and is_ecr_host(host))
    if (is_of_site or host == local.of(context.workspace).find()) and is_in_registry(context, image) is False:
        raise MissingError(
            f"the registry has no image {image.name}, so no node can pull it", hint=publishing_command(image)
        )


def publishing_command(image: Image) -> str:
    return f"builder build {image.target} --flavour {image.flavour} --publish"


def is_in_registry(context: Context, image: Image) -> bool | None:
    """Return True if the image is in its registry; if the query fails, print a note and return None."""
    host, _, repository = image.repository.partition("/")
    network = DIRECT if is_local(image.name) else site_network(context)
    late = threading.Event()
    timer = threading.Timer(_PATIENCE_S, late.set)
    timer.daemon = True
    timer.start()
    try:
        login = _login(context, host)
        with Registry(
            host, credentials=login, network=network, cancelled=late, silence_s=_SILENCE_S
        ) as registry:
            return registry.find_manifest(repository, f"sha256:{image.digest}") is not None
    except FactoryError as error:
        reason = f"no answer within {_PATIENCE_S:g} s" if isinstance(error, Interrupted) else error.message
    finally:
        timer.cancel()
    print(f"note: {host} did not say whether it has the image: {reason}", file=sys.stderr)
    return None


def _login(context: Context, host: str) -> Login | None:
    here = local.of(context.workspace)
    if host == here.find():
        return here.credentials
    if context.site_name == ACCOUNT and context.site.registry.push.partition("/")[0] == ECR:
        login = ecr.EcrLogin(SiteAccount(context, is_patient=False).account)
        if login.host == host:
            return login
    return find_credentials(host)
