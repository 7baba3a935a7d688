"""`builder clean`: the items that it lists, keeps and removes, and their sizes."""

import dataclasses
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from builder.adapters.engine.client import LAYERS, LEFTOVERS, Image, built_by
from builder.adapters.host.workspace import Workspace, find_workspace, open_run
from builder.adapters.registry import local
from builder.adapters.registry.blobs import BlobStore, LayerBlob, sha256
from builder.app.context import Context
from builder.cli import clean
from builder.cli.main import main
from builder.errors import FactoryError
from builder.marks import CHECKOUT_LABEL, CLUSTER_LABEL, PARENT_LABEL, RUN_LABEL
from builder.rehearsal.cluster import Shape
from tests.support.repository import Repository

DAY_S = 86400.0


class FakeEngine:
    """Fake engine with the given layers (by key) and the diff IDs of each image (by image ID)."""

    url = "unix:///nowhere.sock"

    def __init__(self, layers: Mapping[str, Image], diff_ids: Mapping[str, list[str]]) -> None:
        self._layers = dict(layers)
        self._diff_ids = diff_ids
        self.removed: list[str] = []
        self.kept: list[dict[str, Any]] = []  # records of containers

    def layers(self) -> Mapping[str, Image]:
        return self._layers

    def images(self) -> list[Image]:
        return list(self._layers.values())

    def containers(self, label: str) -> list[dict[str, Any]]:
        name, _, value = label.partition("=")
        return [
            found for found in self.kept if name in found["Labels"] and value in ("", found["Labels"][name])
        ]

    def remove_container(self, container: str) -> None:
        self.removed.append(container)

    def inspect_image(self, reference: str) -> dict[str, Any]:
        return {"RootFS": {"Layers": self._diff_ids.get(reference, [])}}

    def remove_image(self, reference: str) -> None:
        self.removed.append(reference)


@pytest.fixture
def workspace(repository: Repository, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Workspace:
    monkeypatch.setenv("BUILDER_HOME", str(tmp_path / "home"))
    return find_workspace(repository.root)


@pytest.fixture
def call(repository: Repository, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Return a function that runs `builder clean` and returns its exit code, stdout and stderr."""

    def call(*words: str, engine: FakeEngine | None = None) -> tuple[int, str, str]:
        monkeypatch.setattr(clean, "Engine", lambda: engine or FakeEngine({}, {}))
        code = main(["clean", "--root", str(repository.root), *words])
        output = capsys.readouterr()
        return code, output.out, output.err

    return call


def add_runs(workspace: Workspace, *ages_d: float) -> list[Path]:
    """Create the folder of a run for each age in days, with a log of 1000 bytes."""
    folders: list[Path] = []
    for age in ages_d:
        ended = time.time() - age * DAY_S
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(ended))
        folder = workspace.out / "runs" / f"{stamp}-hello-{len(folders):06x}"
        folder.mkdir(parents=True)
        (folder / "log.txt").write_bytes(b"x" * 1000)
        for path in (folder / "log.txt", folder):
            os.utime(path, (ended, ended))
        folders.append(folder)
    return folders


def remaining(runs: list[Path]) -> list[Path]:
    return [run for run in runs if run.exists()]


def add_blob(workspace: Workspace, content: bytes, *, age_d: float = 0) -> LayerBlob:
    blob = BlobStore(workspace.home / "cache" / "blobs").add(sha256(content), io.BytesIO(content))
    used = time.time() - age_d * DAY_S
    os.utime(blob.path, (used, used))
    return blob


def image(number: int, *, labels: Mapping[str, str] | None = None, parent: str = "", size: int = 1) -> Image:
    return Image(
        id=sha256(str(number).encode()),
        size_bytes=size,
        tags=(f"{LAYERS}:{number}",),
        labels=labels or {},
        created=number,
        parent=parent,
    )


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        ((), [0, 1, 2, 3]),
        (("--keep-last", "2"), [0, 1]),
        (("--keep-last", "0"), []),
        (("--older-than", "14d"), [0, 1]),
        (("--older-than", "0d"), []),
        (("--keep-last", "1", "--older-than", "9d"), [0]),
        (("--keep-last", "3", "--older-than", "1d"), [0, 1, 2]),
        (("--all",), []),
        (("--all", "--keep-last", "1"), [0]),
    ],
)
def test_keeps_runs_by_number_and_by_age(
    workspace: Workspace, call: Any, words: tuple[str, ...], kept: list[int]
) -> None:
    runs = add_runs(workspace, 1.5, 10, 20, 40)
    assert call(*words)[0] == 0
    assert remaining(runs) == runs, "without --yes nothing is removed"
    assert call("--yes", *words)[0] == 0
    assert remaining(runs) == [runs[number] for number in kept]


def test_keeps_twenty_runs_by_default(workspace: Workspace, call: Any) -> None:
    runs = add_runs(workspace, *range(1, 23))
    code, out, err = call()
    assert (code, out.count("run log; the newest 20 are kept")) == (0, 2)
    assert "nothing was removed; 2.0 kB would be freed by: builder clean --yes --root" in err
    code, _, err = call("--yes")
    assert err == "\nremoved 2 items, 2.0 kB freed\n"
    assert remaining(runs) == runs[:20]


def test_the_hint_repeats_the_options(workspace: Workspace, call: Any) -> None:
    add_runs(workspace, 1, 2)
    _, _, err = call("--keep-last", "1", "--older-than", "36h")
    assert err.rstrip().endswith("--keep-last 1 --older-than 36h")


def test_during_a_run_clean_keeps_its_folder_and_all_layers_and_caches(
    workspace: Workspace, call: Any
) -> None:
    blob = add_blob(workspace, b"unneeded")
    engine = FakeEngine({"1": image(1, labels={CHECKOUT_LABEL: workspace.checkout})}, {})
    with open_run(workspace, "build") as run:
        code, out, err = call("--yes", "--all", engine=engine)
        assert (code, out) == (0, "")
        assert f"run {run.name} is in progress: layers and caches are kept" in err
        assert run.folder.exists()
        assert blob.path.exists()
        assert engine.removed == []
    assert call("--yes", "--all", engine=engine)[0] == 0
    assert (run.folder.exists(), blob.path.exists()) == (False, False)
    assert engine.removed == [f"{LAYERS}:1"]


def test_removes_compressed_layers_that_no_image_contains(workspace: Workspace, call: Any) -> None:
    kept, gone = add_blob(workspace, b"kept"), add_blob(workspace, b"gone")
    found = image(1)
    engine = FakeEngine({"any": found}, {found.id: [kept.diff_id]})
    _, out, err = call(engine=engine)
    assert "compressed layers (1)" in out
    assert f"{gone.size_bytes} B would be freed" in err
    assert call("--yes", engine=engine)[2] == f"\nremoved 1 item, {gone.size_bytes} B freed\n"
    assert (kept.path.exists(), gone.path.exists()) == (True, False)
    assert call(engine=engine)[2] == "nothing to remove\n"


def test_removes_compressed_layers_by_total_size_and_by_age(workspace: Workspace, call: Any) -> None:
    blobs = [add_blob(workspace, bytes([age]), age_d=age) for age in (1, 20, 30)]
    found = image(1)
    engine = FakeEngine({"any": found}, {found.id: [blob.diff_id for blob in blobs]})
    _, out, _ = call("--max-size", f"{blobs[0].size_bytes}B", engine=engine)
    assert "compressed layers (2)" in out
    assert "above --max-size" in out
    assert call("--max-size", "1G", engine=engine)[2] == "nothing to remove\n"
    empty = FakeEngine({}, {})
    call("--yes", "--older-than", "25d", engine=empty)
    assert [blob.path.exists() for blob in blobs] == [True, True, False]


def test_keeps_compressed_layers_during_a_push(workspace: Workspace, call: Any) -> None:
    blob = add_blob(workspace, b"unneeded")
    with BlobStore(workspace.home / "cache" / "blobs").in_use():
        code, _, err = call("--yes")
    assert (code, blob.path.exists()) == (FactoryError.exit_code, True)
    assert "compressed layers are in use, so none was removed" in err


def test_the_size_of_a_layer_excludes_its_parent_layers(workspace: Workspace, call: Any) -> None:
    labels = {CHECKOUT_LABEL: workspace.checkout}
    base = image(1, labels=labels, size=1_000_000)
    unnamed = Image(id="unnamed", size_bytes=1_100_000, tags=(), labels={}, created=2, parent=base.id)
    top = image(3, labels=labels, size=1_200_000, parent="unnamed")
    engine = FakeEngine({"1": base, "3": top}, {})
    engine.images = lambda: [base, unnamed, top]  # type: ignore[method-assign]
    _, out, err = call(engine=engine)
    assert "1.2 MB would be freed" in err
    assert [line.split()[1] for line in out.splitlines() if line.startswith("layer")] == ["3", "1"]
    assert call("--older-than", "1d", engine=engine)[2].count("freed") == 1, "both layers are from 1970"


def test_removing_layers_below_an_image_with_another_tag_frees_no_space(
    workspace: Workspace, call: Any
) -> None:
    labels = {CHECKOUT_LABEL: workspace.checkout}
    base, top = image(1, labels=labels, size=1_000_000), image(3, labels=labels, size=1_200_000)
    middle = image(2, labels=labels, size=1_100_000, parent=base.id)
    for user, freed in (
        (dataclasses.replace(top, parent=middle.id, tags=(*top.tags, "mine:1")), "0 B"),
        (dataclasses.replace(top, parent=base.id, tags=("mine:1",)), "100 kB"),
        (dataclasses.replace(top, parent=base.id, tags=()), "100 kB"),
    ):
        layers = {"1": base, "2": middle} | ({"3": user} if len(user.tags) > 1 else {})
        engine = FakeEngine(layers, {})
        engine.images = lambda user=user: [base, middle, user]  # type: ignore[method-assign, misc]
        assert f"{freed} would be freed" in call(engine=engine)[2]


def test_removes_replaced_layers_and_containers_kept_after_a_failure(workspace: Workspace, call: Any) -> None:
    labels = {CHECKOUT_LABEL: workspace.checkout}
    replaced = dataclasses.replace(image(7, labels=labels), tags=(f"{LEFTOVERS}:{'7' * 32}",))
    foreign = dataclasses.replace(image(8, labels={}), tags=(f"{LEFTOVERS}:{'8' * 32}",))
    other = dataclasses.replace(image(9), tags=(f"{LEFTOVERS}:{'0' * 12}-9",))
    own = dataclasses.replace(image(6), tags=(f"{LEFTOVERS}:{workspace.checkout}-6",))
    engine = FakeEngine({}, {})
    engine.images = lambda: [replaced, foreign, other, own]  # type: ignore[method-assign]
    start, ended = f"/factory-failed-{workspace.checkout}-", "20260101-000000-hello-aaaaaa"
    engine.kept = [
        {"Id": name * 64, "Names": names, "Labels": labels | {RUN_LABEL: run}}
        for name, names, run in (
            ("a", [f"{start}1"], ended),
            ("b", [f"{start}2"], "in-progress"),
            ("c", ["/mine"], ended),  # a user's container, which inherits the labels of its image
            ("d", None, ended),
        )
    ]
    running = workspace.folder("scratch") / "in-progress"
    running.mkdir()
    out = call(engine=engine)[1]
    assert [line.partition("\t")[0] for line in out.splitlines()[1:]] == [
        f"container {start.removeprefix('/')}1 of run {ended}"
    ]
    running.rmdir()
    engine.kept = [record for record in engine.kept if record["Labels"][RUN_LABEL] != "in-progress"]
    assert call("--yes", engine=engine)[0] == 0
    assert engine.removed == ["a" * 64, f"{LEFTOVERS}:{'7' * 32}", f"{LEFTOVERS}:{workspace.checkout}-6"]


def layer_of(number: int, *checkouts: str, moved: bool = False, parent: str = "", size: int = 1) -> Image:
    """Return a layer with key `number` that the given checkouts have built or pulled."""
    tags = [f"{built_by(checkout)}:{number}" for checkout in checkouts]
    labels = {PARENT_LABEL: parent} if parent else {}
    own = dataclasses.replace(image(number, labels=labels, size=size), created=0)
    return dataclasses.replace(own, tags=(*tags, *(() if moved else own.tags)))


def test_removes_the_layers_that_only_this_checkout_has(workspace: Workspace, call: Any) -> None:
    own, other = workspace.checkout, "0" * 12
    mine, shared, foreign = layer_of(1, own), layer_of(2, own, other), layer_of(3, other)
    moved = layer_of(4, own, moved=True)
    found = {str(number): image for number, image in enumerate((mine, shared, foreign, moved), start=1)}
    engine = FakeEngine(found, {})
    assert call("--yes", engine=engine)[0] == 0
    assert engine.removed == [
        *(f"{LAYERS}:1", f"{built_by(own)}:1", f"{built_by(own)}:2", f"{built_by(own)}:4")
    ]
    engine.removed.clear()
    assert call("--yes", "--all", engine=engine)[0] == 0
    assert {tag for image in found.values() for tag in image.tags} == set(engine.removed)


def test_age_of_a_layer_is_counted_from_its_last_tagging(workspace: Workspace, call: Any) -> None:
    engine = FakeEngine({"1": layer_of(1, workspace.checkout)}, {})
    moments = {"an hour": 3600.0, "two days": 2 * DAY_S}
    for age in moments.values():
        tagged = datetime.fromtimestamp(time.time() - age, UTC).isoformat()
        engine.inspect_image = lambda _, at=tagged: {  # type: ignore[method-assign, misc]
            "RootFS": {"Layers": []},
            "Metadata": {"LastTagTime": at},
        }
        expected = "nothing to remove" if age < DAY_S else "freed"
        assert expected in call("--older-than", "1d", engine=engine)[2]


def test_the_parent_label_of_a_layer_names_its_parent_layer(workspace: Workspace, call: Any) -> None:
    base = layer_of(1, workspace.checkout, size=1_000_000)
    top = layer_of(2, workspace.checkout, parent="1", size=1_200_000)
    engine = FakeEngine({"1": base, "2": top}, {})
    assert "1.2 MB would be freed" in call(engine=engine)[2]
    user = dataclasses.replace(top, tags=("mine:1",))
    engine = FakeEngine({"1": base, "2": user}, {})
    assert "0 B would be freed" in call(engine=engine)[2]


def test_clean_of_a_named_run_removes_only_remains_of_this_run(workspace: Workspace, call: Any) -> None:
    engine = FakeEngine({}, {})
    names = ["20260101-000000-hello-aaaaaa", "20260102-000000-hello-bbbbbb"]
    engine.kept = [
        {"Id": run, "Names": [f"/factory-failed-{workspace.checkout}-{run}"], "Labels": {RUN_LABEL: run}}
        for run in names
    ]
    runs = add_runs(workspace, *range(1, 23))
    code, out, err = call(names[0], engine=engine)
    assert (code, out.count("kept by --keep-failed")) == (0, 1)
    assert f" {names[0]}" in err
    assert call("--yes", names[0], engine=engine)[0] == 0
    assert engine.removed == [names[0]]
    assert remaining(runs) == runs
    engine.kept = []
    assert call(names[0], engine=engine)[2] == "nothing to remove\n"


def test_keeps_the_layers_of_every_flavour(repository: Repository, workspace: Workspace, call: Any) -> None:
    repository.write("catalog/stacks/plain-2.toml", 'summary = "another"\n[pins]\nfabric = "2.0-1"\n')
    text = (repository.root / "catalog/targets/hello.toml").read_text()
    other = '[flavours.other]\nsummary = "other"\nsystem = "tiny-1"\nstack = "plain-2"\n'
    repository.write("catalog/targets/hello.toml", text + other)
    target = repository.load().targets["hello"]
    context = Context(repository.root)
    plans = [context.plan_flavour(target, flavour) for flavour in target.flavours.values()]
    keys = {layer.key for plan in plans for layer in plan.layers}
    assert len(keys) > len(plans[0].layers)
    labels = {CHECKOUT_LABEL: workspace.checkout}
    images = {
        key: dataclasses.replace(image(number, labels=labels), tags=(f"{LAYERS}:{key}",))
        for number, key in enumerate(sorted(keys))
    }
    engine = FakeEngine(images, {})
    assert call(engine=engine)[2] == "nothing to remove\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--older-than", "14"),
            "argument --older-than: '14' is not a duration; write 90m, 36h, 14d",
        ),
        (("--max-size", "20X"), "argument --max-size: '20X' is not a size; write 500M, 20G, 1.5T or 20GiB"),
        (("--keep-last", "few"), "argument --keep-last: 'few' is not a number of runs such as 0, 5 or 20"),
        (("--keep-last", "1.5"), "argument --keep-last: '1.5' is not a number of runs"),
    ],
)
def test_the_error_message_quotes_an_invalid_value(call: Any, words: tuple[str, ...], message: str) -> None:
    code, out, err = call(*words)
    assert (code, out) == (2, "")
    assert message in err
    assert "builder clean --help" in err


def test_removes_the_images_of_the_former_registry_and_stops_its_server(
    workspace: Workspace, call: Any
) -> None:
    folder = local.former_folder(workspace)
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "blob").write_bytes(b"x" * 5000)
    words = ["builder.rehearsal.registry.server", "--folder", str(folder / "data")]
    server = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", *words])
    (folder / "ready.json").write_text(json.dumps({"host": "127.0.0.1:1", "pid": server.pid}))
    try:
        assert "images of the registry that earlier versions" in call()[1]
        assert call("--yes")[0] == 0
        assert server.wait(20) != 0
    finally:
        server.kill()
        server.wait()
    assert not folder.exists()


def test_does_not_stop_another_process_that_got_the_pid_of_the_former_registry(
    workspace: Workspace, call: Any
) -> None:
    folder = local.former_folder(workspace)
    folder.mkdir(parents=True)
    (folder / "ready.json").write_text(json.dumps({"pid": os.getpid()}))
    assert call("--yes")[0] == 0
    assert not folder.exists()
    shutil.rmtree(workspace.home)


def test_rehearsed_cluster_is_removed_unless_all_its_machines_run(workspace: Workspace, call: Any) -> None:
    folder = workspace.home / "clusters" / "mine"
    folder.mkdir(parents=True)
    shape = Shape(instance="m7i.large", nodes=1, system="debian-12", shared=str(folder))
    (folder / "ready.json").write_text(json.dumps(dataclasses.asdict(shape)))
    session = hashlib.sha256(str(folder).encode()).hexdigest()[:10]
    engine = FakeEngine({}, {})
    for part in ("machine-head", "machine-node-1", "network-head", "network-node-1"):
        labels = {CLUSTER_LABEL: session, f"{CLUSTER_LABEL}.part": part}
        engine.kept.append({"Id": part, "State": "running", "Labels": labels})
    assert "cluster" not in call("--yes", engine=engine)[1]
    engine.kept[1]["State"] = "exited"
    assert "cluster mine" in call("--yes", engine=engine)[1]
    assert engine.removed == ["machine-head", "machine-node-1", "network-head", "network-node-1"]
    assert not folder.exists()
