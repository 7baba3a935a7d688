"""The rehearsal's registry server: requests that the builder's client never sends, refusals, restarts."""

import http.client
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from builder.adapters.registry.blobs import sha256
from builder.errors import UsageError
from builder.rehearsal.registry.server import LocalRegistry

BOUND_S = 20
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"


class Client:
    """Plain HTTP client that can also send invalid requests."""

    def __init__(self, host: str) -> None:
        self._connection = http.client.HTTPConnection(host, timeout=BOUND_S)

    def ask(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self._connection.request(method, path, body=body, headers=named)
        response = self._connection.getresponse()
        return response.status, response.headers, response.read()

    def code(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, str]:
        status, _, content = self.ask(method, path, body, **headers)
        return status, json.loads(content)["errors"][0]["code"]

    def push_blob(self, repository: str, content: bytes) -> str:
        digest = sha256(content)
        path = f"/v2/{repository}/blobs/uploads/?digest={digest}"
        assert self.ask("POST", path, content)[0] == 201
        return digest

    def push_manifest(self, repository: str, tag: str, content: bytes = b"{}") -> str:
        config = self.push_blob(repository, content)
        document = {"schemaVersion": 2, "config": {"digest": config}, "layers": []}
        body = json.dumps(document).encode()
        assert self.ask("PUT", f"/v2/{repository}/manifests/{tag}", body, Content_Type=MANIFEST)[0] == 201
        return sha256(body)

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[LocalRegistry]:
    with LocalRegistry(tmp_path / "registry") as started:
        yield started


@pytest.fixture
def client(registry: LocalRegistry) -> Iterator[Client]:
    client = Client(registry.host)
    yield client
    client.close()


def test_accepts_a_chunked_upload(client: Client) -> None:
    status, headers, _ = client.ask("POST", "/v2/app/blobs/uploads/")
    location = headers["Location"]
    assert (status, headers["Range"]) == (202, "0-0")
    status, headers, _ = client.ask("PATCH", location, iter((b"one ", b"two ")))
    assert (status, headers["Range"]) == (202, "0-7")
    assert client.code("PATCH", location, b"x", Content_Range="5-5") == (416, "BLOB_UPLOAD_INVALID")
    assert client.ask("PATCH", location, b"three", Content_Range="8-12")[0] == 202
    assert client.ask("GET", location)[1]["Range"] == "0-12"
    digest = sha256(b"one two three!")
    assert client.ask("PUT", f"{location}?digest={digest}", b"!")[0] == 201
    assert client.ask("GET", f"/v2/app/blobs/{digest}")[2] == b"one two three!"
    assert client.code("PUT", f"{location}?digest={digest}") == (404, "BLOB_UPLOAD_UNKNOWN")


def test_discards_an_incomplete_chunk(registry: LocalRegistry, client: Client) -> None:
    location = client.ask("POST", "/v2/app/blobs/uploads/")[1]["Location"]
    client.ask("PATCH", location, b"begin")
    host, port = registry.host.split(":")
    with socket.create_connection((host, int(port)), timeout=BOUND_S) as broken:
        broken.sendall(f"PATCH {location} HTTP/1.1\r\nContent-Length: 100\r\n\r\nhalf".encode())
        broken.shutdown(socket.SHUT_WR)
        assert broken.recv(100) == b""
    assert client.ask("PUT", f"{location}?digest={sha256(b'begin')}")[0] == 201


def test_refuses_an_upload_with_another_digest(client: Client) -> None:
    location = client.ask("POST", "/v2/app/blobs/uploads/")[1]["Location"]
    assert client.code("PUT", f"{location}?digest={sha256(b'a')}", b"b") == (400, "DIGEST_INVALID")
    assert client.ask("HEAD", f"/v2/app/blobs/{sha256(b'b')}")[0] == 404


def test_upload_can_be_cancelled(client: Client) -> None:
    location = client.ask("POST", "/v2/app/blobs/uploads/")[1]["Location"]
    assert client.ask("DELETE", location)[0] == 204
    assert client.code("PATCH", location, b"x") == (404, "BLOB_UPLOAD_UNKNOWN")


@pytest.mark.parametrize(
    ("asked", "status", "content"),
    [
        ("bytes=2-4", 206, b"234"),
        ("bytes=7-", 206, b"789"),
        ("bytes=-3", 206, b"789"),
        ("bytes=5-99", 206, b"56789"),
        ("bytes=0-", 200, b"0123456789"),
        ("lines=1-2", 200, b"0123456789"),
    ],
)
def test_serves_a_byte_range_of_a_blob(client: Client, asked: str, status: int, content: bytes) -> None:
    digest = client.push_blob("app", b"0123456789")
    got = client.ask("GET", f"/v2/app/blobs/{digest}", Range=asked)
    assert (got[0], got[2]) == (status, content)


def test_refuses_a_range_beyond_the_end(client: Client) -> None:
    digest = client.push_blob("app", b"0123456789")
    assert client.code("GET", f"/v2/app/blobs/{digest}", Range="bytes=10-") == (416, "RANGE_INVALID")


def test_blob_is_visible_only_in_its_repository_until_mounted(client: Client) -> None:
    digest = client.push_blob("app", b"x")
    client.push_blob("other", b"y")
    assert client.code("GET", f"/v2/other/blobs/{digest}") == (404, "BLOB_UNKNOWN")
    mount = f"/v2/other/blobs/uploads/?mount={digest}&from="
    assert client.ask("POST", f"{mount}none")[0] == 202
    assert client.ask("POST", f"{mount}app")[0] == 201
    assert client.ask("GET", f"/v2/other/blobs/{digest}")[2] == b"x"


def test_paginates_tag_lists(client: Client) -> None:
    for tag in ("a", "b", "c"):
        client.push_manifest("app", tag)
    client.push_manifest("team/other", "1")
    status, headers, content = client.ask("GET", "/v2/app/tags/list?n=2")
    assert (status, json.loads(content)) == (200, {"name": "app", "tags": ["a", "b"]})
    following = re.match(r"<([^>]+)>; rel=\"next\"", headers["Link"])
    assert following is not None
    _, headers, content = client.ask("GET", following[1])
    assert (json.loads(content)["tags"], headers["Link"]) == (["c"], None)
    assert json.loads(client.ask("GET", "/v2/_catalog")[2]) == {"repositories": ["app", "team/other"]}


def test_deletes_manifests_by_tag_and_by_digest(client: Client) -> None:
    digest = client.push_manifest("app", "a")
    client.push_manifest("app", "b")
    assert client.ask("DELETE", "/v2/app/manifests/a")[0] == 202
    assert client.code("GET", "/v2/app/manifests/a") == (404, "MANIFEST_UNKNOWN")
    assert client.ask("GET", "/v2/app/manifests/b")[0] == 200
    assert client.ask("DELETE", f"/v2/app/manifests/{digest}")[0] == 202
    assert client.code("GET", "/v2/app/manifests/b") == (404, "MANIFEST_UNKNOWN")


def test_refuses_an_index_with_a_missing_manifest(client: Client) -> None:
    digest = client.push_manifest("app", "a")

    def put(named: str) -> int:
        body = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [{"digest": named}]})
        return client.ask("PUT", "/v2/app/manifests/all", body, Content_Type=INDEX)[0]

    assert put(sha256(b"none")) == 404
    assert put(digest) == 201
    assert client.ask("GET", "/v2/app/manifests/all")[1]["Content-Type"] == INDEX


@pytest.mark.parametrize(
    ("body", "media_type"),
    [
        (b"{", MANIFEST),
        (b"[]", MANIFEST),
        (b'{"config": {"digest": "../../etc/passwd"}, "layers": []}', MANIFEST),
        (b'{"config": {}, "layers": []}', MANIFEST),
        (b'{"mediaType": "other", "config": {}, "layers": []}', MANIFEST),
        (b"{}", "text/plain"),
    ],
)
def test_refuses_an_invalid_manifest(client: Client, body: bytes, media_type: str) -> None:
    client.push_blob("app", b"x")
    status, code = client.code("PUT", "/v2/app/manifests/1", body, Content_Type=media_type)
    assert (status, code in ("MANIFEST_INVALID", "DIGEST_INVALID")) == (400, True)


def test_refuses_a_manifest_above_the_size_limit(client: Client) -> None:
    client.push_blob("app", b"x")
    huge = b" " * (5 << 20)
    assert client.code("PUT", "/v2/app/manifests/1", huge, Content_Type=MANIFEST) == (413, "MANIFEST_INVALID")
    assert client.ask("GET", "/v2/")[0] == 200, "the connection must stay usable after a refusal"


@pytest.mark.parametrize(
    "path",
    [
        "/v2/app/blobs/../../../../etc/passwd",
        "/v2/app/blobs/..%2f..%2f..%2fetc%2fpasswd",
        "/v2/..%2f..%2fetc/manifests/passwd",
        "/v2/app/manifests/%2e%2e",
        "/v2/_blobs/app/manifests/1",
        "/etc/passwd",
    ],
)
def test_refuses_paths_outside_the_folder(client: Client, path: str) -> None:
    client.push_blob("app", b"x")
    status, _, content = client.ask("GET", path)
    assert status in (400, 404)
    assert b"root:" not in content


def test_images_survive_a_restart(tmp_path: Path) -> None:
    with LocalRegistry(tmp_path) as registry:
        client = Client(registry.host)
        digest = client.push_manifest("app", "1")
        client.close()
    with LocalRegistry(tmp_path) as registry:
        client = Client(registry.host)
        assert client.ask("HEAD", "/v2/app/manifests/1")[1]["Docker-Content-Digest"] == digest
        client.close()


@pytest.mark.parametrize("address", ["0.0.0.0", "192.0.2.1"])
def test_listens_on_loopback_only(tmp_path: Path, address: str) -> None:
    with pytest.raises(UsageError, match="does not listen on"):
        LocalRegistry(tmp_path, address=address)


def test_refuses_a_taken_port_without_touching_uploads(registry: LocalRegistry, tmp_path: Path) -> None:
    upload = registry.storage.begin_upload("app")
    with pytest.raises(UsageError, match="cannot listen"):
        LocalRegistry(tmp_path / "registry", port=int(registry.host.split(":")[1]))
    assert registry.storage.upload("app", upload).path.exists()


def test_refusal_of_an_address_outside_loopback_has_a_hint(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"does not listen on 0\.0\.0\.0") as caught:
        LocalRegistry(tmp_path / "registry", address="0.0.0.0")
    assert caught.value.hint
