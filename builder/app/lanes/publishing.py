"""Opens the publisher that pushes containers to the site's registry, to ECR or to the local registry."""

import threading
from functools import partial

from builder.adapters.aws import ecr
from builder.adapters.engine.client import Engine
from builder.adapters.host.network import DIRECT
from builder.adapters.registry import local
from builder.adapters.registry.publisher import RegistryPublisher
from builder.app.account import SiteAccount
from builder.app.context import Context
from builder.app.mirrors import site_network
from builder.ports import Publisher
from builder.site import ECR


def open_publisher(
    context: Context, engine: Engine, cancelled: threading.Event, *, force: bool = False
) -> Publisher:
    # Default: the registry on this machine, started if it does not run.
    named = context.site.registry.push
    destination = named or local.ensure_up(context.workspace)
    host, _, path = destination.partition("/")
    publisher = partial(
        RegistryPublisher,
        engine=engine,
        blobs=context.blobs,
        network=site_network(context) if named else DIRECT,
        siblings=tuple(context.catalog.targets),
        cancelled=cancelled,
        force=force,
    )
    if host != ECR:
        credentials = None if named else local.of(context.workspace).credentials
        return publisher(repository_prefix=destination, credentials=credentials)
    account = SiteAccount(context).account
    login = ecr.EcrLogin(account)
    host = login.host
    return publisher(
        repository_prefix=f"{host}/{path}" if path else host,
        credentials=login,
        ensure=partial(ecr.ensure_repository, account),
    )
