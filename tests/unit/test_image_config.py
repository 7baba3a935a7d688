"""The configuration of an image depends only on inputs of its layer key, so that rebuilds are identical."""

import hashlib
import json
import tarfile
from pathlib import Path
from typing import IO, Any

import pytest

from builder.adapters.container import images
from builder.adapters.container.images import (
    Contents,
    ImageWriter,
    image_config,
    labels_of,
    reference_time,
    write_archive,
)
from builder.adapters.host.workspace import Workspace, open_run
from tests.support.repository import Repository

RECORD = {
    "Id": "sha256:1",
    "Architecture": "amd64",
    "Os": "linux",
    "Created": "2026-11-20T02:11:10.123456789Z",
    "Container": "c0ffee",
    "DockerVersion": "20.10",
    "ContainerConfig": {"Hostname": "host"},
    "Config": {
        "Hostname": "host",
        "Env": ["PATH=/bin", "A=1", "B=b=c"],
        "Cmd": ["bash"],
        "User": "0",
        "WorkingDir": "",
        "Labels": {"factory.run": "run-1", "factory.key": "old", "vendor": "x"},
    },
}


def config_of(contents: Contents, steps: list[str], record: Any = RECORD) -> dict[str, Any]:
    labels, environment = {"factory.key": "k"}, {"A": "2"}
    text = image_config(
        record, contents, epoch=1_700_000_000, labels=labels, environment=environment, steps=steps
    )
    return dict(json.loads(text))


def test_configuration_holds_only_values_that_the_layer_key_determines() -> None:
    found = config_of(Contents(diff_ids=("sha256:a", "sha256:b")), ["builder: base", "builder: roles"])
    assert found == {
        "architecture": "amd64",
        "os": "linux",
        "created": "2023-11-14T22:13:20Z",
        "config": {
            "Cmd": ["bash"],
            "Env": ["PATH=/bin", "A=2", "B=b=c"],
            "Labels": {"factory.key": "k", "vendor": "x"},
        },
        "history": [
            {"created": "2023-11-14T22:13:20Z", "created_by": "builder: base"},
            {"created": "2023-11-14T22:13:20Z", "created_by": "builder: roles"},
        ],
        "rootfs": {"type": "layers", "diff_ids": ["sha256:a", "sha256:b"]},
    }


def test_configuration_sets_path_if_the_base_image_does_not() -> None:
    record = {**RECORD, "Config": {"Env": None, "Labels": None}}
    (path, own) = config_of(Contents(diff_ids=("a",)), ["base"], record)["config"]["Env"]
    assert path == "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert own == "A=2"


@pytest.mark.parametrize(
    ("contents", "layers", "empty"),
    [
        (Contents(diff_ids=("1", "2", "3", "4")), ["base", "base", "roles", "top"], []),
        (Contents(diff_ids=("1", "2"), is_empty=True), ["base", "roles"], ["top"]),
        (Contents(diff_ids=("1", "2")), ["builder", "builder"], []),
    ],
)
def test_history_has_an_entry_for_each_layer(contents: Contents, layers: list[str], empty: list[str]) -> None:
    found = config_of(contents, ["base", "roles", "top"])["history"]
    assert [entry["created_by"] for entry in found if "empty_layer" not in entry] == layers
    assert [entry["created_by"] for entry in found if entry.get("empty_layer")] == empty


def test_reference_time_comes_from_the_newest_suite_or_the_parent_image(repository: Repository) -> None:
    assert reference_time(repository.plan()) == 1767225600
    assert images.epoch_of(RECORD) == 1795140670
    for text in ("0001-01-01T00:00:00Z", "", "odd"):
        assert images.epoch_of({"Created": text}) == 315532800


def test_a_changed_summary_or_lock_entry_changes_the_key_and_the_labels(repository: Repository) -> None:
    def found() -> tuple[str, dict[str, str]]:
        plan = repository.plan()
        labels = labels_of(plan, plan.layers[-1], 0)
        return plan.key, {
            name: labels[name] for name in ("factory.lock", "org.opencontainers.image.description")
        }

    key, labels = found()
    repository.replace("catalog/targets/hello.toml", "says hello", "says more")
    changed_key, changed_labels = found()
    assert changed_key != key
    assert changed_labels == labels | {"org.opencontainers.image.description": "says more"}


def test_image_archive_lists_all_layers_and_contains_only_the_new_layer(tmp_path: Path) -> None:
    layer = tmp_path / "layer.tar"
    layer.write_bytes(b"layer")
    write_archive(tmp_path / "image.tar", b"{}", Contents(diff_ids=("a", "b"), tar=layer), "name:tag")
    with tarfile.open(tmp_path / "image.tar") as archive:
        assert archive.getnames() == [
            f"{hashlib.sha256(b'{}').hexdigest()}.json",
            "manifest.json",
            "1/layer.tar",
        ]
        manifest = archive.extractfile("manifest.json")
        assert manifest
        (image,) = json.load(manifest)
    assert image["RepoTags"] == ["name:tag"]
    assert image["Layers"] == ["0/layer.tar", "1/layer.tar"]


class Engine:
    """Fake engine with one image that records its method calls."""

    def __init__(self, *, takes_configurations: bool) -> None:
        self.takes_configurations = takes_configurations
        self.calls: list[tuple[str, ...]] = []

    def inspect_image(self, image: str) -> dict[str, Any]:
        return {**RECORD, "Id": image, "RootFS": {"Layers": ["sha256:a"]}}

    def load(self, archive: IO[bytes]) -> None:
        with tarfile.open(fileobj=archive) as tar:
            document = tar.extractfile("manifest.json")
            assert document
            self.calls.append(("load", *json.load(document)[0]["RepoTags"]))

    def tag(self, image: str, repository: str, tag: str) -> None:
        self.calls.append(("tag", image, f"{repository}:{tag}"))

    def remove_image(self, image: str) -> None:
        self.calls.append(("remove", image))


@pytest.mark.parametrize("takes", [True, False])
def test_image_gets_the_tag_with_the_layer_key_last(
    repository: Repository, tmp_path: Path, takes: bool
) -> None:
    engine: Any = Engine(takes_configurations=takes)
    plan = repository.plan()
    key = plan.layers[0].key
    with open_run(Workspace(home=tmp_path / "home", out=tmp_path / "out"), "test") as run:
        ImageWriter(engine, run).write(plan, plan.layers[0], "sha256:1", epoch=1_700_000_000)
        own = f"factory-built-{run.workspace.checkout}:{key}"
    layer = f"factory-layers:{key}"
    if takes:
        assert engine.calls == [("load", own), ("tag", own, layer), ("remove", "sha256:1")]
    else:
        assert engine.calls == [("tag", "sha256:1", own), ("tag", "sha256:1", layer)]
