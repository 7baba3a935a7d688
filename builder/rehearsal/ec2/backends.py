"""Serve moto on loopback, with the rehearsal's classes in place of moto's."""

import os
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import moto.ec2.urls
import moto.ecr.urls
import moto.iam.urls
import moto.ram.urls
import moto.ssm.urls
from moto.core.base_backend import BackendDict
from moto.core.responses import BaseResponse
from moto.core.utils import utcnow
from moto.ec2.models import ec2_backends
from moto.ec2.models.instances import Instance
from moto.ecr.models import ecr_backends
from moto.iam.models import iam_backends
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from moto.ram.models import ResourceShare
from moto.servicequotas.models import servicequotas_backends
from moto.ssm.models import ssm_backends
from moto.sts.models import sts_backends
from moto.utilities.docker_utilities import DockerModel
from werkzeug.serving import make_server

from builder.errors import UsageError
from builder.rehearsal.calls import Call
from builder.rehearsal.door import guarded
from builder.rehearsal.ec2.actions import Actions
from builder.rehearsal.ec2.cloud import Cloud
from builder.rehearsal.ec2.hosts import Hosts
from builder.rehearsal.ec2.parameters import Parameters
from builder.rehearsal.ec2.seeds import Account
from builder.rehearsal.ec2.sessions import SessionActions
from builder.rehearsal.enforcement import refusal
from builder.rehearsal.gate import SERVICES, Gate, Key
from builder.rehearsal.identity import Callers, IamActions, Quotas
from builder.rehearsal.registry.ecr import EcrActions, Registries, RehearsedEcr
from builder.rehearsal.rules import NEW_ACCOUNT, Rules
from builder.rehearsal.sharing import SHARE_PATHS, SHAREABLE, ShareActions
from builder.rehearsal.sharing import tags_of as tags_of_share


@dataclass(frozen=True, kw_only=True)
class Served:
    endpoint: str
    registries: Registries
    gate: Gate


# Attributes of moto that are replaced while a rehearsal is served. They are private to moto;
# the rehearsal's contract test checks their signatures.
REPLACED: tuple[tuple[Any, str, Any], ...] = (
    (ec2_backends, "backend", Cloud),
    (ecr_backends, "backend", RehearsedEcr),
    (ssm_backends, "backend", Parameters),
    (moto.ec2.urls, "url_paths", {"{0}/": Actions.dispatch}),
    (moto.ecr.urls, "url_paths", {"{0}/$": EcrActions.dispatch}),
    (moto.iam.urls, "url_paths", {"{0}/$": IamActions.dispatch}),
    (moto.ram.urls, "url_paths", dict.fromkeys(SHARE_PATHS, ShareActions.dispatch)),
    (ResourceShare, "SHAREABLE_RESOURCES", SHAREABLE),
    (moto.ssm.urls, "url_paths", {"{0}/$": SessionActions.dispatch}),
    (servicequotas_backends, "backend", Quotas),
    (sts_backends, "backend", Callers),
    # moto would take every caller for one of the account that MOTO_ACCOUNT_ID names.
    (BaseResponse, "get_current_account", lambda request: account_of(request.get_access_key())),
    # Instances have an empty public DNS name, as in a VPC without DNS host names: AWS names do not resolve to
    # addresses of this host. Prometheus crashes if the name is missing.
    (Instance, "public_dns_name", property(lambda _: "")),
    # moto would start containers for Batch jobs and Lambda functions, also for calls of other services.
    (DockerModel, "docker_client", property(lambda _: _refuse_container())),
)
_WORKERS = 8


@contextmanager
def serve(
    account: Account,
    hosts: Hosts,
    machines: Mapping[str, str],
    *,
    folder: Path,
    key: Key,
    services: Collection[str] = SERVICES,
    rules: Rules = NEW_ACCOUNT,
) -> Iterator[Served]:
    """Serve a rehearsed account, at most one per process; `machines` maps systems to machine images."""
    settings = {
        "MOTO_ACCOUNT_ID": account.id,
        "MOTO_EC2_LOAD_DEFAULT_AMIS": "false",  # 1,300 images per region
    }
    with ExitStack() as stack:
        stack.enter_context(_environment(settings))
        for owner, name, value in (*REPLACED, *_further(services)):
            stack.enter_context(_replaced(owner, name, value))
        stack.callback(_clear_backends)
        Cloud.account = Parameters.account = account
        Cloud.instances_backend, Cloud.machines, Cloud.rules = hosts, machines, rules
        Cloud.workers = stack.enter_context(ThreadPoolExecutor(_WORKERS, thread_name_prefix="disk"))
        registries = RehearsedEcr.registries = stack.enter_context(Registries(folder, account.id))
        for region in account.regions:
            registries.open(region)
        gate = Gate(key=key, services=services, find_key=find_key)
        endpoint = stack.enter_context(_listening(gate))
        yield Served(endpoint=endpoint, registries=registries, gate=gate)


def _further(services: Collection[str]) -> tuple[tuple[Any, str, Any], ...]:
    """Return the replacements for services that a rehearsal serves on request."""
    if "cloudformation" not in services:
        return ()
    # This import loads the models of 30 services, which takes seconds.
    from builder.rehearsal import stacks

    return stacks.REPLACED


@contextmanager
def _listening(gate: Gate) -> Iterator[str]:
    """Serve moto behind the gate on a free port; yield the endpoint."""
    app = guarded(DomainDispatcherApplication(create_backend_app), gate)
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=MotoRequestHandler)
    thread = Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()


def find_key(access: str) -> Key | None:
    """Return the key of an IAM user or an unexpired session that this account gave out."""
    for users in list(iam_backends.values()):
        for iam in list(users.values()):
            keys = [key for user in list(iam.users.values()) for key in list(user.access_keys)]
            for key in keys:
                if key.access_key_id == access and key.status == "Active":
                    return Key(access=access, secret=key.secret_access_key)
    for sessions in list(sts_backends.values()):
        for sts in list(sessions.values()):
            role = sts.get_assumed_role_from_access_key(access)
            if role and role.expiration > utcnow():
                return Key(access=access, secret=role.secret_access_key, token=role.session_token)
    return None


def account_of(access: str) -> str:
    """Return the account of an access key; the rehearsed account's own key is not known to moto."""
    for account, partitions in list(iam_backends.items()):
        if any(access in iam.access_keys for iam in list(partitions.values())):
            return str(account)
    return str(Cloud.account.id)


def _refuse_container() -> None:
    raise UsageError(
        "a rehearsal starts no containers for calls of Batch or Lambda", hint="test them in an AWS account"
    )


def _clear_backends() -> None:
    """Delete moto's objects without moto's reset, which would terminate the instances one by one."""
    for service in BackendDict._instances:  # type: ignore[misc]
        service.clear()
    BackendDict._instances.clear()  # type: ignore[misc]


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    is_own = name in vars(owner)  # else a class inherits it
    before = vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before) if is_own else delattr(owner, name)


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.pop(name, None) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            del os.environ[name]
            if value is not None:
                os.environ[name] = value


def _regions() -> Iterator[Cloud]:
    for regions in ec2_backends.values():
        for backend in list(regions.values()):
            assert isinstance(backend, Cloud)
            yield backend


def status() -> dict[str, Any]:
    """Return the instances, images and snapshots of the account, for `builder rehearse status`."""
    rows: dict[str, list[dict[str, str]]] = {"instances": [], "images": [], "snapshots": []}
    for backend in _regions():
        region = backend.region_name
        for instance in backend.all_instances():
            address = str(instance.public_ip or instance.private_ip_address)
            if instance.state != "terminated":
                rows["instances"].append(
                    {"id": instance.id, "region": region, "state": instance.state, "address": address}
                )
        own = [image for image in backend.amis.values() if image.owner_id == backend.account_id]
        rows["images"] += [
            {"id": image.id, "region": region, "state": image.state, "name": str(image.name)} for image in own
        ]
        rows["snapshots"] += [
            {"id": snapshot.id, "region": region, "state": snapshot.status, "name": snapshot.description}
            for snapshot in backend.snapshots.values()
            if snapshot.owner_id == backend.account_id
        ]
    return rows


def rules() -> Rules:
    return Cloud.rules


def set_rules(rules: Rules) -> None:
    """Apply rules to all later calls."""
    Cloud.rules = rules


def authorize(call: Call) -> tuple[str, str] | None:
    """Return AWS's error code and message for a call that the account does not authorize, or None.

    Callers of other accounts have policies of their own, which allow everything.
    """
    if account_of(call.access_key) != Cloud.account.id:
        return None
    return refusal(call, Cloud.rules, lambda name: _tags_of(call.region, name))


def _tags_of(region: str, name: str) -> dict[str, str]:
    """Return the tags of an existing resource, key pair or resource share; empty if there is none."""
    if ":resource-share/" in name:
        return tags_of_share(name)
    backend = ec2_backends[Cloud.account.id][region]
    if pair := backend.key_pairs.get(name):
        found = pair.get_tags()
    else:
        found = backend.describe_tags({"resource-id": [name]})
    return {str(tag["key"]): str(tag["value"]) for tag in found}
