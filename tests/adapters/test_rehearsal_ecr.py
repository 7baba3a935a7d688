"""The rehearsal's ECR: control plane and registry have the same state."""

import base64
import hashlib
import http.client
import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from builder.adapters.aws.account import Account
from builder.adapters.aws.ecr import EcrLogin
from builder.adapters.host.network import DIRECT
from builder.adapters.registry.api import Credentials
from builder.adapters.registry.client import Registry as RegistryClient
from tests.adapters.test_rehearsal_images import refused
from tests.support.rehearsal import WEST, Clients
from tests.support.rehearsed_account import environment

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


class Registry:
    """Client of the registry's data plane, with a token from the control plane."""

    def __init__(self, aws: Clients, name: str, region: str = "us-east-1", **settings: Any) -> None:
        self.ecr, self.name = aws("ecr", region), name
        self.uri = self.ecr.create_repository(repositoryName=name, **settings)["repository"]["repositoryUri"]
        self.host = self.uri.split("/")[0]
        self.token = self.ecr.get_authorization_token()["authorizationData"][0]["authorizationToken"]

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        fields.setdefault("Authorization", f"Basic {self.token}")
        connection = http.client.HTTPConnection(self.host, timeout=20)
        try:
            connection.request(method, path, body=body, headers=fields)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def blob(self, content: bytes) -> dict[str, Any]:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        assert self.ask("POST", f"/v2/{self.name}/blobs/uploads/?digest={digest}", content)[0] == 201
        return {"digest": digest, "size": len(content), "mediaType": "application/octet-stream"}

    def manifest(self, layer: bytes) -> bytes:
        parts = {"config": self.blob(b"{}"), "layers": [self.blob(layer)]}
        return json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, **parts}).encode()

    def push(self, tag: str, manifest: bytes) -> tuple[int, str]:
        status, body = self.ask("PUT", f"/v2/{self.name}/manifests/{tag}", manifest, Content_Type=MANIFEST)
        return status, "" if status < 400 else json.loads(body)["errors"][0]["code"]

    def pull(self, reference: str) -> bytes | None:
        status, content = self.ask("GET", f"/v2/{self.name}/manifests/{reference}")
        return content if status == 200 else None

    def images(self) -> dict[str, list[str]]:
        found = self.ecr.describe_images(repositoryName=self.name)["imageDetails"]
        return {image["imageDigest"]: sorted(image.get("imageTags", [])) for image in found}


def digest_of(manifest: bytes) -> str:
    return f"sha256:{hashlib.sha256(manifest).hexdigest()}"


def test_describe_images_lists_pushed_images(aws: Clients) -> None:
    registry = Registry(aws, "team/pushed")
    manifest = registry.manifest(b"layer" * 100)
    assert registry.push("1", manifest) == (201, "")
    assert registry.push("2", manifest) == (201, "")
    assert registry.images() == {digest_of(manifest): ["1", "2"]}
    (found,) = registry.ecr.describe_images(repositoryName=registry.name)["imageDetails"]
    assert found["imageSizeInBytes"] == 500
    assert found["imageManifestMediaType"] == MANIFEST
    moved = registry.manifest(b"other")
    assert registry.push("2", moved) == (201, "")
    assert registry.images() == {digest_of(manifest): ["1"], digest_of(moved): ["2"]}


def test_registries_are_on_loopback_and_separate_for_each_region(aws: Clients) -> None:
    registry = Registry(aws, "team/here")
    assert registry.uri.startswith("127.0.0.1:")
    (data,) = registry.ecr.get_authorization_token()["authorizationData"]
    assert data["proxyEndpoint"] == f"http://{registry.host}"
    assert base64.b64decode(data["authorizationToken"]).startswith(b"AWS:")
    assert data["expiresAt"] > datetime.now(UTC) + timedelta(hours=11)
    other = Registry(aws, "team/here", WEST)
    assert other.host != registry.host, "each region has its own registry"
    assert other.ask("GET", "/v2/", Authorization=f"Basic {registry.token}")[0] == 401


def test_a_wrong_token_is_refused(aws: Clients) -> None:
    registry = Registry(aws, "team/closed")
    assert registry.ask("GET", "/v2/", Authorization="Basic bm86cGFzcw==")[0] == 401
    assert registry.ask("GET", "/v2/")[0] == 200


def test_a_push_does_not_create_a_repository(aws: Clients) -> None:
    registry = Registry(aws, "team/known")
    status, body = registry.ask("POST", "/v2/team/unknown/blobs/uploads/")
    error = json.loads(body)["errors"][0]
    assert (status, error["code"]) == (404, "NAME_UNKNOWN")
    assert "'team/unknown' does not exist in the registry with id '123456789012'" in error["message"]


def test_an_immutable_tag_cannot_be_overwritten(aws: Clients) -> None:
    registry = Registry(aws, "team/immutable", imageTagMutability="IMMUTABLE")
    first, second = registry.manifest(b"one"), registry.manifest(b"two")
    assert registry.push("1", first) == (201, "")
    assert registry.push("1", first) == (201, ""), "pushing the same manifest again is allowed"
    assert registry.push("1", second) == (400, "TAG_INVALID")
    assert registry.images() == {digest_of(first): ["1"]}
    registry.ecr.put_image_tag_mutability(repositoryName=registry.name, imageTagMutability="MUTABLE")
    assert registry.push("1", second) == (201, "")


def test_a_tag_set_by_put_image_can_be_pulled(aws: Clients) -> None:
    registry = Registry(aws, "team/retagged")
    manifest = registry.manifest(b"layer")
    registry.push("1", manifest)
    (image,) = registry.ecr.batch_get_image(repositoryName=registry.name, imageIds=[{"imageTag": "1"}])[
        "images"
    ]
    registry.ecr.put_image(
        repositoryName=registry.name, imageTag="latest", imageManifest=image["imageManifest"]
    )
    assert registry.pull("latest") == manifest
    again = {"repositoryName": registry.name, "imageTag": "latest", "imageManifest": image["imageManifest"]}
    assert refused(registry.ecr.put_image, **again) == "ImageAlreadyExistsException"
    missing = json.dumps({**json.loads(manifest), "layers": [{"digest": f"sha256:{'0' * 64}", "size": 1}]})
    again = {"repositoryName": registry.name, "imageTag": "x", "imageManifest": missing}
    assert refused(registry.ecr.put_image, **again) == "InvalidParameterException"


def test_deleted_tags_and_repositories_cannot_be_pulled(aws: Clients) -> None:
    registry = Registry(aws, "team/deleted")
    manifest = registry.manifest(b"layer")
    for tag in ("1", "2"):
        registry.push(tag, manifest)
    registry.ecr.batch_delete_image(repositoryName=registry.name, imageIds=[{"imageTag": "1"}])
    assert registry.pull("1") is None
    assert registry.pull("2") == manifest
    assert (
        refused(registry.ecr.delete_repository, repositoryName=registry.name) == "RepositoryNotEmptyException"
    )
    registry.ecr.delete_repository(repositoryName=registry.name, force=True)
    assert registry.pull("2") is None
    assert registry.push("3", manifest) == (404, "NAME_UNKNOWN")
    with pytest.raises(registry.ecr.exceptions.RepositoryNotFoundException):
        registry.images()


def test_batch_check_layer_availability_finds_uploaded_layers(aws: Clients) -> None:
    registry = Registry(aws, "team/layers")
    uploaded, missing = registry.blob(b"a layer")["digest"], f"sha256:{'0' * 64}"
    answer = registry.ecr.batch_check_layer_availability(
        repositoryName=registry.name, layerDigests=[uploaded, missing]
    )
    assert [(layer["layerDigest"], layer["layerSize"]) for layer in answer["layers"]] == [(uploaded, 7)]
    assert [layer["layerDigest"] for layer in answer["failures"]] == [missing]


def test_ecr_does_not_mount_layers_of_other_repositories(aws: Clients) -> None:
    source, target = Registry(aws, "team/source"), Registry(aws, "team/target")
    digest = source.blob(b"shared")["digest"]
    mount = f"/v2/{target.name}/blobs/uploads/?mount={digest}&from={source.name}"
    assert target.ask("POST", mount)[0] == 202


@pytest.fixture
def account(aws: Clients) -> Account:
    return Account(environment(aws.endpoint), region="us-east-1")


def test_login_is_reused_while_it_is_valid(account: Account) -> None:
    login = EcrLogin(account)
    first = login._ensure()
    assert login.basic == first.basic
    assert login._ensure() is first
    assert login.username == "AWS"


def test_registry_client_renews_a_login_before_it_expires(
    account: Account, aws: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stored password is refused by the registry, as after the 12 hours of a login."""
    login = EcrLogin(account)
    found = Registry(aws, "team/renewed")
    manifest = found.manifest(b"layer")
    assert found.push("1", manifest) == (201, "")
    client = RegistryClient(login.host, credentials=login, network=DIRECT)
    assert client.find_manifest("team/renewed", "1") == digest_of(manifest)
    valid = login.basic
    monkeypatch.setattr(login, "_current", Credentials(username="AWS", password="expired"))
    monkeypatch.setattr(login, "_expires_s", time.time() + 60)
    assert client.find_manifest("team/renewed", "1") == digest_of(manifest)
    assert login.basic == valid
