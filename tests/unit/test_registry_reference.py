"""Image names, stored logins and manifests: parts of the registry client that need no registry."""

import base64
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.adapters.registry.api import Credentials, find_credentials
from builder.adapters.registry.blobs import LayerBlob, sha256
from builder.adapters.registry.client import Reference, manifest
from builder.errors import MissingError, UsageError

DIGEST = sha256(b"")
hosts = st.one_of(
    st.just("localhost"),
    st.from_regex(r"[a-z0-9]{1,8}(\.[a-z0-9]{1,8}){1,3}(:[1-9][0-9]{0,4})?", fullmatch=True),
    st.from_regex(r"[a-z0-9]{1,8}:[1-9][0-9]{0,4}", fullmatch=True),
    st.just("[::1]:5000"),
)
repositories = st.from_regex(
    r"[a-z0-9]{1,5}(([.]|_|__|--?)[a-z0-9]{1,5}){0,2}(/[a-z0-9]{1,9}){0,3}", fullmatch=True
)
references = st.builds(
    Reference,
    host=hosts,
    repository=st.from_regex(
        r"[a-z0-9]{1,5}(([.]|_|__|--?)[a-z0-9]{1,5}){0,2}(/[a-z0-9]{1,9}){0,3}", fullmatch=True
    ),
    tag=st.one_of(st.just(""), st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", fullmatch=True)),
    digest=st.sampled_from(["", DIGEST]),
)


@given(references)
def test_parsing_inverts_the_formatting_of_image_names(reference: Reference) -> None:
    assert Reference.parse(str(reference)) == reference


@pytest.mark.parametrize(
    "text",
    [
        "app:1.0",
        "team/app:1.0",
        "localhost:5000/App",
        "localhost:5000/../etc",
        "localhost:5000/app:",
        "localhost:5000/app@sha256:12",
        "localhost:5000/app:1 ",
        "https://localhost:5000/app",
        "localhost:5000/",
        "",
    ],
)
def test_refuses_an_invalid_image_name_and_shows_the_expected_form(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        Reference.parse(text)
    assert "HOST[:PORT]/REPOSITORY" in caught.value.hint


def write_logins(folder: Path, entry: str, secret: str) -> Path:
    config = folder / "config.json"
    auth = base64.b64encode(secret.encode()).decode()
    config.write_text(json.dumps({"auths": {entry: {"auth": auth}}}))
    return config


@pytest.mark.parametrize("entry", ["r.example:5000", "https://r.example:5000", "https://r.example:5000/v1/"])
def test_finds_a_stored_login(tmp_path: Path, entry: str) -> None:
    config = write_logins(tmp_path, entry, "me:pass:word")
    assert find_credentials("r.example:5000", config=config) == Credentials(
        username="me", password="pass:word"
    )
    assert find_credentials("other.example", config=config) is None


def test_reads_logins_from_docker_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_logins(tmp_path, "r.example", "me:secret")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    assert find_credentials("r.example") is not None


def test_finds_no_login_without_a_file_and_reports_a_damaged_file(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    assert find_credentials("r.example", config=config) is None
    config.write_text("{")
    with pytest.raises(MissingError, match="cannot read the stored logins"):
        find_credentials("r.example", config=config)


def test_repr_of_a_registry_login_hides_the_password() -> None:
    assert "secret" not in repr(Credentials(username="me", password="secret"))


def test_image_manifest_is_deterministic(tmp_path: Path) -> None:
    layer = LayerBlob(diff_id=sha256(b"tar"), digest=sha256(b"gz"), size_bytes=2, path=tmp_path)
    document = json.loads(manifest(b"{}", [layer, layer]))
    assert document["config"] == {
        "mediaType": "application/vnd.oci.image.config.v1+json",
        "digest": sha256(b"{}"),
        "size": 2,
    }
    assert [part["digest"] for part in document["layers"]] == [layer.digest, layer.digest]
    assert manifest(b"{}", [layer]) == manifest(b"{}", [layer])


@pytest.mark.parametrize("config", [b"", b"[]", b"{}", b'{"config": null}', b'{"config": {"Labels": null}}'])
def test_image_manifest_has_annotations_only_from_oci_labels(config: bytes) -> None:
    assert "annotations" not in json.loads(manifest(config, []))
    title = {"org.opencontainers.image.title": "hello"}
    labelled = json.dumps({"config": {"Labels": {"factory.key": "k", **title}}})
    assert json.loads(manifest(labelled.encode(), []))["annotations"] == title
